-- End the leases of a worker that is gone, whenever they would end. ARGV: caps, owner, cursor of the walk over all owners' leases.
-- Returns the messages put back, and the cursor to go on from ('0' when the walk is complete).

local owner = ARGV[2]
local walk = redis.call('HSCAN', OWNERS, ARGV[3], 'COUNT', 500)
local lanes = {}
for i = 1, #walk[2], 2 do
  local member = walk[2][i]
  if walk[2][i + 1] == owner then
    if redis.call('ZSCORE', LEASES, member) then
      local lane, id = string.match(member, '^(%S+) (.*)$')
      end_lease(lane, member)
      put_back(lane, id)
      lanes[#lanes + 1] = lane
    else
      redis.call('HDEL', OWNERS, member)  -- settled by a worker that knew of no owners
    end
  end
end
offer_each(lanes)
return {#lanes, walk[1]}

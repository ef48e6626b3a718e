-- End the leases of a worker that is gone, whenever they would end. ARGV: caps, owner, cursor of the walk over all owners' leases.
-- Returns the messages put back, and the cursor to go on from ('0' when the walk is complete).

local owner = ARGV[2]
local walk = redis.call('HSCAN', OWNERS, ARGV[3], 'COUNT', 500)
local found = {}
for i = 1, #walk[2], 2 do
  local member = walk[2][i]
  if walk[2][i + 1] == owner then
    if redis.call('ZSCORE', LEASES, member) then
      local lane, id = string.match(member, '^(%S+) (.*)$')
      local message = redis.call('HGET', messages_key(lane), id)
      found[#found + 1] = {member, lane, id, message and string.sub(message, 1, 16) or ''}
    else
      redis.call('HDEL', OWNERS, member)  -- settled by a worker that knew of no owners
    end
  end
end

table.sort(found, function(one, other) return one[4] > other[4] end)  -- put back in the order of their arrival
local lanes = {}
for _, each in ipairs(found) do
  end_lease(each[2], each[1])
  put_back(each[2], each[3])
  lanes[#lanes + 1] = each[2]
end
offer_each(lanes)
return {#lanes, walk[1]}

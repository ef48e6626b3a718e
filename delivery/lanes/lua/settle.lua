-- Forget finished messages, and let their lanes join the ring. ARGV: cap, then lane, id, end of the lease of each.
-- Returns how many leases were still held.

local lanes, settled = {}, 0
for i = 2, #ARGV, 3 do
  local lane, id = ARGV[i], ARGV[i + 1]
  if drop_lease(lane, id, ARGV[i + 2]) then
    redis.call('HDEL', messages_key(lane), id)
    lanes[#lanes + 1] = lane
    settled = settled + 1
  end
end
offer_each(lanes)
return settled

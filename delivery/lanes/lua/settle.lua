-- Forget finished messages, and let their lanes join the ring. ARGV: caps, then lane, id, end of the lease, seconds that it took
-- ('' if not known), 1 if it failed or else 0, of each. Returns how many leases were still held.

local lanes, settled = {}, 0
for i = 2, #ARGV, 5 do
  local lane, id = ARGV[i], ARGV[i + 1]
  if drop_lease(lane, id, ARGV[i + 2]) then
    redis.call('HDEL', messages_key(lane), id)
    if ARGV[i + 4] == '1' then
      narrow(lane)
    else
      widen(lane)
    end
    if ARGV[i + 3] ~= '' then
      observe(lane, tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]))
    end
    lanes[#lanes + 1] = lane
    settled = settled + 1
  end
end
offer_each(lanes)
return settled

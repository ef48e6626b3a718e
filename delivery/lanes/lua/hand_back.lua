-- Put messages that were not started at the front of their lanes. ARGV: caps, then lane, id, end of the lease of each, in the
-- order in which they were taken. Returns how many leases were still held.

local lanes, returned = {}, 0
for i = #ARGV - 2, 2, -3 do
  local lane, id = ARGV[i], ARGV[i + 1]
  if drop_lease(lane, id, ARGV[i + 2]) then
    put_back(lane, id)
    lanes[#lanes + 1] = lane
    returned = returned + 1
  end
end
offer_each(lanes)
return returned

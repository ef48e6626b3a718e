-- Lease up to ARGV[3] messages for ARGV[2] microseconds: round robin, one per lane per turn.
-- ARGV: cap, lease, most. Returns the end of the leases, then lane, id, body of each message.

local lease, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local ends_at = micros(now + lease)
local taken, count = {ends_at}, 0

if redis.call('EXISTS', ASLEEP) == 1 then
  wake_due(100)
end
local limited = redis.call('EXISTS', LIMITS) == 1
local sleepers = redis.call('EXISTS', ASLEEP) == 1

while count < most do
  local lane = next_in_ring()
  if not lane then
    break
  end
  local waiting, leased = counts(lane)
  local most_leased = limited and cap(lane) or default_cap
  if waiting > 0 and leased < most_leased and not (sleepers and is_asleep(lane)) then
    local id = redis.call('LPOP', waiting_key(lane))
    local message = redis.call('HGET', messages_key(lane), id)
    if message then
      redis.call('ZADD', LEASES, ends_at, lane .. ' ' .. id)
      taken[#taken + 1] = lane
      taken[#taken + 1] = id
      taken[#taken + 1] = string.sub(message, 17)
      count = count + 1
      leased = leased + 1
    end
    if waiting == 1 then
      redis.call('SREM', BUSY, lane)
    elseif leased < most_leased then
      join_ring(lane)
    end
  end
end

if count == most and redis.call('EXISTS', RING) == 1 then
  wake()
end
return taken

-- Keep the lane out of the ring until ARGV[3] (microseconds since the epoch); 0 ends a pause. ARGV: cap, lane, until.

local lane, ends_at = ARGV[2], tonumber(ARGV[3])
if ends_at > now then
  redis.call('ZADD', ASLEEP, ARGV[3], lane)
  leave_ring(lane)
else
  redis.call('ZREM', ASLEEP, lane)
  offer(lane)
end

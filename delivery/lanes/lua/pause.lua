-- Keep the lane out of the ring until ARGV[3] (microseconds since the epoch); 0 ends a pause. ARGV: caps, lane, until.

local lane, ends_at = ARGV[2], tonumber(ARGV[3])
redis.call('ZREM', ASLEEP, lane)  -- first of all: a server that is full lets scripts go on that have begun to write
if ends_at > now then
  redis.call('SADD', PAUSED, lane)
  sleep(lane, ends_at)
  withdraw(lane)
else
  redis.call('SREM', PAUSED, lane)
  offer(lane)
end

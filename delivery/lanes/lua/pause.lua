-- Keep the lane out of the ring for ARGV[3] microseconds from now on; 0 ends a pause. ARGV: caps, lane, length.

local lane, length = ARGV[2], tonumber(ARGV[3])
redis.call('ZREM', ASLEEP, lane)  -- first of all: a server that is full lets scripts go on that have begun to write
if length > 0 then
  redis.call('SADD', PAUSED, lane)
  sleep(lane, now + length)
  withdraw(lane)
else
  redis.call('SREM', PAUSED, lane)
  offer(lane)
end

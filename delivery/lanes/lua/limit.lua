-- Give the lane terms of its own, or none (''). ARGV: caps, lane, the lane's "<in-flight cap> <rate> <burst>" ('-' for none).

local lane, text = ARGV[2], ARGV[3]
if (redis.call('HGET', LIMITS, lane) or '') == text then
  return
end
if text == '' then
  redis.call('HDEL', LIMITS, lane)
else
  redis.call('HSET', LIMITS, lane, text)
end
seen[LIMITS] = nil
if redis.call('SISMEMBER', PAUSED, lane) == 0 then
  redis.call('ZREM', ASLEEP, lane)  -- its next token may now come sooner
end
offer(lane)

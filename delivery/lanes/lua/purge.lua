-- Forget what waits in the lane. What is leased goes on. ARGV: caps, lane. Returns the number of messages forgotten.

local lane = ARGV[2]
local ids = redis.call('LRANGE', waiting_key(lane), 0, -1)
for _, id in ipairs(ids) do
  redis.call('HDEL', messages_key(lane), id)
end
redis.call('DEL', waiting_key(lane))
redis.call('ZREM', BUSY, lane)
withdraw(lane)
offer(lane)
return #ids

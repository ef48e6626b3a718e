-- Give the lane a cap of its own, or none ('' means the default). ARGV: cap, lane, the lane's cap.

local lane = ARGV[2]
if ARGV[3] == '' then
  redis.call('HDEL', LIMITS, lane)
else
  redis.call('HSET', LIMITS, lane, ARGV[3])
end
offer(lane)

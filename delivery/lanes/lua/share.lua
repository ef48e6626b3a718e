-- Let the lane draw on a bucket, or on none (''). What it has leased counts with it. ARGV: caps, lane, bucket.

local lane, bucket = ARGV[2], ARGV[3]
local before = redis.call('HGET', SHARES, lane) or ''
if before == bucket then
  return
end
local _, leased = counts(lane)
withdraw(lane)
if before ~= '' then
  return_shared(before, leased)
  unpark(before)
end
if bucket == '' then
  redis.call('HDEL', SHARES, lane)
else
  redis.call('HSET', SHARES, lane, bucket)
  if leased > 0 then
    redis.call('HINCRBY', SHARED_LEASES, bucket, leased)
  end
end
seen[SHARES] = nil
offer(lane)

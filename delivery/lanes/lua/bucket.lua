-- Give a bucket its terms, or forget it (''). ARGV: caps, bucket, its "<in-flight cap> <rate> <burst>" ('-' for none).

local bucket, text = ARGV[2], ARGV[3]
if (redis.call('HGET', BUCKETS, bucket) or '') == text then
  return
end
if text == '' then
  redis.call('HDEL', BUCKETS, bucket)
else
  redis.call('HSET', BUCKETS, bucket, text)
end
redis.call('ZREM', ASLEEP, '@' .. bucket)
unpark(bucket)

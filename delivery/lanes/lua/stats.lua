-- ARGV: caps, lane. Returns waiting, leased, cap, in the ring or not, end of the pause ('' for none), arrival of the message
-- that waits longest ('' for none), rate, burst, bucket, end of the wait for a token, in trouble or not, workspace.

local lane = ARGV[2]
local waiting, leased = counts(lane)
local first = redis.call('LINDEX', waiting_key(lane), 0)
local message = first and redis.call('HGET', messages_key(lane), first)
local ends_at = is_asleep(lane) and micros(tonumber(redis.call('ZSCORE', ASLEEP, lane))) or ''
local is_paused = redis.call('SISMEMBER', PAUSED, lane) == 1
local most, rate, burst = limits(lane)
return {
  waiting, leased, most, redis.call('HEXISTS', READY, lane),
  is_paused and ends_at or '', message and string.sub(message, 1, 16) or '',
  rate and tostring(rate) or '', burst and tostring(burst) or '', bucket_of(lane) or '',
  is_paused and '' or ends_at, redis.call('ZSCORE', TROUBLED, lane) and 1 or 0,
  redis.call('HGET', WORKSPACES, lane) or '',
}

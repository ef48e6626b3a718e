-- ARGV: cap, lane. Returns waiting, leased, cap, in the ring or not, end of the pause ('' for none), arrival of the message
-- that waits longest ('' for none).

local lane = ARGV[2]
local waiting, leased = counts(lane)
local first = redis.call('LINDEX', waiting_key(lane), 0)
local message = first and redis.call('HGET', messages_key(lane), first)
local ends_at = is_asleep(lane) and micros(tonumber(redis.call('ZSCORE', ASLEEP, lane))) or ''
return {
  waiting, leased, cap(lane), redis.call('ZSCORE', RING, lane) and 1 or 0,
  ends_at, message and string.sub(message, 1, 16) or '',
}

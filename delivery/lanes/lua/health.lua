-- What is known of lanes that are slow or fail, which share a small part of every worker's slots: averages of how long their
-- messages take and of the share that fails, beside the lane. Kept only while they say something: a healthy lane has none.

local WEIGHT = 0.3  -- of the latest message in the averages: one that takes 7 s, or two failures in a row, are enough
-- A lane is slow or failing from above the one until below the other, so that it does not flutter.
local ENTER_SECONDS, LEAVE_SECONDS, ENTER_FAILURES, LEAVE_FAILURES = 2, 1, 0.5, 0.25
local FORGET_SECONDS, FORGET_FAILURES = 0.5, 0.05  -- below these a lane's averages are not worth keeping
local KEEP_SECONDS = 900  -- a lane of which nothing was heard for so long counts as healthy again

local function observe(lane, seconds, failure)
  local key = base .. 'health:' .. lane
  local text = redis.call('GET', key)
  local latency, failures = string.match(text or '0 0', '^(%S+) (%S+)$')
  local was = redis.call('ZSCORE', TROUBLED, lane)
  latency, failures = tonumber(latency), tonumber(failures)
  latency = latency + WEIGHT * (seconds - latency)
  failures = failures + WEIGHT * (failure - failures)
  local is
  if was then
    is = latency > LEAVE_SECONDS or failures > LEAVE_FAILURES
  else
    is = latency > ENTER_SECONDS or failures > ENTER_FAILURES
  end
  if is or latency >= FORGET_SECONDS or failures >= FORGET_FAILURES then
    redis.call('SET', key, string.format('%.17g %.17g', latency, failures), 'EX', KEEP_SECONDS)
  elseif text then
    redis.call('DEL', key)
  end
  if is then
    redis.call('ZADD', TROUBLED, micros(now + KEEP_SECONDS * 1000000), lane)
  elseif was then
    redis.call('ZREM', TROUBLED, lane)
  end
  seen[TROUBLED] = nil
  if is ~= (was and true or false) then
    leave_ring(lane)  -- and is offered to the other one
  end
end

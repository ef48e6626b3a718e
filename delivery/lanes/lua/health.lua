-- What is known of lanes that are slow or fail: delivery/lanes/health.py has the numbers, and says why. Kept only while it says
-- something, and no longer than KEEP_SECONDS after the last message.

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

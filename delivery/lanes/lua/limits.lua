-- Caps and rates, of lanes and of the buckets that several lanes share; and sleep.
-- A rate is kept as the moment at which the bucket of tokens will be full again, which is later for every token spent
-- (the generic cell rate algorithm). A moment that has passed means the same as none, so an idle lane keeps nothing.

-- The terms of a lane or a bucket: "<in-flight cap> <rate> <burst>", '-' where there is none.
local function terms(text)
  local most, rate, burst = string.match(text, '^(%S+) (%S+) (%S+)$')
  return tonumber(most), tonumber(rate), tonumber(burst)
end

local function limits(lane)
  local text = has(LIMITS) and redis.call('HGET', LIMITS, lane)
  if not text then
    return default_cap
  end
  local most, rate, burst = terms(text)
  return most or default_cap, rate, burst
end

-- A lane starts slowly, as TCP does: few of its messages are in flight until some have come back, so that endpoints that hang
-- from the first request on fill few slots. What a lane has reached is forgotten when it is empty, or when a message fails.
local function window(lane)
  return tonumber(has(WINDOWS) and redis.call('HGET', WINDOWS, lane) or first_window)
end

local function has_room(lane, leased, most)
  return leased < most and (leased < first_window or leased < window(lane))
end

local function widen(lane)
  local waiting, leased = counts(lane)
  if waiting > 0 and leased + 1 >= first_window then
    local reached, most = window(lane), limits(lane)
    if leased + 1 >= reached and reached < most then
      redis.call('HSET', WINDOWS, lane, reached + 1)
      seen[WINDOWS] = true
    end
  end
end

local function narrow(lane)
  if has(WINDOWS) then
    redis.call('HDEL', WINDOWS, lane)
  end
end

-- No more is owed than all tokens: neither a clock that was set back nor a slower rate that is over may hold a lane for
-- longer than it takes to fill them.
local function debt(name, rate, burst)
  local ends_at = tonumber(redis.call('ZSCORE', DEBTS, name) or 0)
  local most = now + burst * 1000000 / rate
  if ends_at > most + 1 then
    redis.call('ZADD', DEBTS, micros(most), name)
    return most
  end
  return ends_at
end

-- When there is a token: now or before, if there is one.
local function token_at(name, rate, burst)
  return debt(name, rate, burst) - (burst - 1) * 1000000 / rate
end

local function spend(name, rate, burst)
  redis.call('ZADD', DEBTS, micros(math.max(debt(name, rate, burst), now) + 1000000 / rate), name)
end

-- One token a list at most: whoever pops it takes, and leaves another if work remains. Workers that may run no more lanes in
-- trouble do not wait for theirs.
local function wake(kind)
  local list = kind == 'slow' and base .. 'wake:slow' or base .. 'wake'
  if not is_taking and redis.call('LLEN', list) == 0 then
    redis.call('LPUSH', list, '1')
  end
end

local function is_asleep(lane)
  local ends_at = has(ASLEEP) and redis.call('ZSCORE', ASLEEP, lane)
  return ends_at and tonumber(ends_at) > now
end

-- Workers that wait know when the first sleep ends. If that changes, one of them must look again.
local function sleep(name, ends_at)
  redis.call('ZADD', ASLEEP, micros(math.ceil(ends_at)), name)
  seen[ASLEEP] = true
  if not is_taking and redis.call('ZRANGE', ASLEEP, 0, 0)[1] == name then
    wake('ring')
  end
end

local function bucket_of(lane)
  return has(SHARES) and redis.call('HGET', SHARES, lane)
end

local function parked_key(bucket)
  return base .. 'parked:' .. bucket
end

-- Whether a bucket has nothing to give, and when its next token comes if that is what it waits for.
local function is_spent(bucket)
  local text = redis.call('HGET', BUCKETS, bucket)
  if not text then
    return false
  end
  local most, rate, burst = terms(text)
  if most and tonumber(redis.call('HGET', SHARED_LEASES, bucket) or 0) >= most then
    return true
  end
  local ends_at = rate and token_at('@' .. bucket, rate, burst)
  return ends_at and ends_at > now, ends_at
end

-- A lane whose bucket is spent waits beside the bucket, not in the ring. The bucket sleeps, or wakes when one of its lanes
-- settles.
local function park(lane, bucket, ends_at)
  redis.call('ZADD', parked_key(bucket), 'NX', redis.call('INCR', TURN), lane)
  if ends_at then
    sleep('@' .. bucket, ends_at)
  end
end

local function spend_shared(bucket)
  local text = redis.call('HGET', BUCKETS, bucket)
  local _, rate, burst = terms(text or '- - -')
  if rate then
    spend('@' .. bucket, rate, burst)
  end
  redis.call('HINCRBY', SHARED_LEASES, bucket, 1)
end

local function return_shared(bucket, leased)
  if redis.call('HINCRBY', SHARED_LEASES, bucket, -leased) <= 0 then
    redis.call('HDEL', SHARED_LEASES, bucket)
  end
end

-- Who may run, and what becomes of those who may not.

-- Whether the lane may give out a message now. If not, what hinders it is arranged to offer it again: a settlement, the end
-- of its sleep, or its bucket.
local function may_run(lane, bucket, waiting, leased)
  local most, rate, burst = limits(lane)
  if waiting == 0 or not has_room(lane, leased, most) or is_asleep(lane) then
    return false
  end
  local ends_at = rate and token_at(lane, rate, burst)
  if ends_at and ends_at > now then
    sleep(lane, ends_at)
    return false
  end
  if bucket then
    local spent, token_comes_at = is_spent(bucket)
    if spent then
      park(lane, bucket, token_comes_at)
      return false
    end
  end
  return true
end

-- Let the lane join the ring if it has work, may run, and is not there yet.
local function offer(lane)
  local waiting, leased = counts(lane)
  if waiting == 0 then
    if leased == 0 then
      narrow(lane)
      if has(WORKSPACES) then
        redis.call('HDEL', WORKSPACES, lane)
      end
    end
    return false
  end
  if redis.call('HEXISTS', READY, lane) == 1 then
    return false
  end
  local bucket = bucket_of(lane)
  if bucket and redis.call('ZSCORE', parked_key(bucket), lane) then
    return false
  end
  if not may_run(lane, bucket, waiting, leased) then
    return false
  end
  wake(join_ring(lane))
  return true
end

-- Let the next lane run that waits for the bucket. One at a time: when it has taken, it lets in the next.
local function unpark(bucket)
  local parked = parked_key(bucket)
  while redis.call('EXISTS', parked) == 1 do
    local spent, ends_at = is_spent(bucket)
    if spent then
      if ends_at then
        sleep('@' .. bucket, ends_at)
      end
      return
    end
    if offer(redis.call('ZPOPMIN', parked)[1]) then
      return
    end
  end
end

-- Take the lane out of the ring, or away from its bucket; its place goes to another.
local function withdraw(lane)
  local bucket = bucket_of(lane)
  if bucket then
    redis.call('ZREM', parked_key(bucket), lane)
  end
  if leave_ring(lane) and bucket then
    unpark(bucket)
  end
end

-- End the sleep of lanes and buckets whose time has come.
local function wake_due(most)
  local due = redis.call('ZRANGEBYSCORE', ASLEEP, '-inf', micros(now), 'LIMIT', 0, most)
  for _, name in ipairs(due) do
    redis.call('ZREM', ASLEEP, name)
    if string.sub(name, 1, 1) == '@' then
      unpark(string.sub(name, 2))
    else
      redis.call('SREM', PAUSED, name)
      offer(name)
    end
  end
  return #due
end

-- Milliseconds until the next sleep ends; -1 if nobody sleeps.
local function next_wake()
  local first = redis.call('ZRANGE', ASLEEP, 0, 0, 'WITHSCORES')
  return first[2] and math.max(0, math.ceil((tonumber(first[2]) - now) / 1000)) or -1
end

-- A lease is known by its lane, its message and its end: whoever holds an older one of the same message holds nothing.
local function end_lease(lane, member)
  redis.call('ZREM', LEASES, member)
  if has(SHORTENED) then
    redis.call('HDEL', SHORTENED, member)
  end
  if has(OWNERS) then
    redis.call('HDEL', OWNERS, member)
  end
  local bucket = bucket_of(lane)
  if bucket then
    return_shared(bucket, 1)
  end
end

local function drop_lease(lane, id, ends_at)
  local member = lane .. ' ' .. id
  local score = redis.call('ZSCORE', LEASES, member)
  local known = score and has(SHORTENED) and redis.call('HGET', SHORTENED, member) or score
  if score and tonumber(known) == tonumber(ends_at) then
    end_lease(lane, member)
    return true
  end
  return false
end

-- The message waits again, first in its lane.
local function put_back(lane, id)
  if redis.call('HEXISTS', messages_key(lane), id) == 1 then
    redis.call('LPUSH', waiting_key(lane), id)
    redis.call('ZADD', BUSY, 'NX', micros(now), lane)
  end
end

-- Offer each of the lanes once, in the order of their first mention, and then those that wait for the same buckets.
local function offer_each(lanes)
  local offered = {}
  for _, lane in ipairs(lanes) do
    if not offered[lane] then
      offered[lane] = true
      offer(lane)
    end
  end
  if has(SHARES) then
    for lane in pairs(offered) do
      local bucket = bucket_of(lane)
      if bucket then
        unpark(bucket)
      end
    end
  end
end

-- What every script of a ring starts with. KEYS[1] is the prefix of the ring's keys ("meshes:lanes:{deliver}:"): the braces
-- keep all keys of a ring in one slot. ARGV[1] is the in-flight cap of lanes that have none of their own.
-- Moments and spans are in microseconds, by the clock of the server.

local base = KEYS[1]
local RING, TURN, BUSY = base .. 'ring', base .. 'turn', base .. 'busy'
local LEASES, ASLEEP, LIMITS, WAKE = base .. 'leases', base .. 'asleep', base .. 'limits', base .. 'wake'

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local default_cap = tonumber(ARGV[1])

local function micros(number)
  return string.format('%.0f', number)
end

local function waiting_key(lane)
  return base .. 'waiting:' .. lane
end

local function messages_key(lane)
  return base .. 'messages:' .. lane
end

-- Messages of the lane that wait, and that are leased. The hash holds both kinds, the list only those that wait.
local function counts(lane)
  local waiting = redis.call('LLEN', waiting_key(lane))
  return waiting, redis.call('HLEN', messages_key(lane)) - waiting
end

local function cap(lane)
  return tonumber(redis.call('HGET', LIMITS, lane) or default_cap)
end

local function is_asleep(lane)
  local ends_at = redis.call('ZSCORE', ASLEEP, lane)
  return ends_at and tonumber(ends_at) > now
end

-- One token at most: whoever pops it takes, and leaves another if work remains.
local function wake()
  if redis.call('LLEN', WAKE) == 0 then
    redis.call('LPUSH', WAKE, '1')
  end
end

-- The order of the ring is known to these three alone.
local function join_ring(lane)
  redis.call('ZADD', RING, redis.call('INCR', TURN), lane)
end

local function leave_ring(lane)
  redis.call('ZREM', RING, lane)
end

local function next_in_ring()
  return redis.call('ZPOPMIN', RING)[1]
end

-- Let the lane join the ring if it has work, may run, and is not there yet.
local function offer(lane)
  local waiting, leased = counts(lane)
  if waiting == 0 or leased >= cap(lane) or is_asleep(lane) or redis.call('ZSCORE', RING, lane) then
    return false
  end
  join_ring(lane)
  wake()
  return true
end

-- End the sleep of lanes whose time has come.
local function wake_due(most)
  local due = redis.call('ZRANGEBYSCORE', ASLEEP, '-inf', micros(now), 'LIMIT', 0, most)
  for _, lane in ipairs(due) do
    redis.call('ZREM', ASLEEP, lane)
    offer(lane)
  end
  return #due
end

-- A lease is known by its lane, its message and its end: whoever holds an older one of the same message holds nothing.
local function drop_lease(lane, id, ends_at)
  local member = lane .. ' ' .. id
  local score = redis.call('ZSCORE', LEASES, member)
  if score and tonumber(score) == tonumber(ends_at) then
    redis.call('ZREM', LEASES, member)
    return true
  end
  return false
end

-- The message waits again, first in its lane.
local function put_back(lane, id)
  if redis.call('HEXISTS', messages_key(lane), id) == 1 then
    redis.call('LPUSH', waiting_key(lane), id)
    redis.call('SADD', BUSY, lane)
  end
end

-- Offer each of the lanes once, in the order of their first mention.
local function offer_each(lanes)
  local offered = {}
  for _, lane in ipairs(lanes) do
    if not offered[lane] then
      offered[lane] = true
      offer(lane)
    end
  end
end

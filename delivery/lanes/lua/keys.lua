-- What every script of a ring starts with. KEYS[1] is the prefix of the ring's keys ("meshes:lanes:{deliver}:"): the braces
-- keep all keys of a ring in one slot. ARGV[1], "caps", is
-- "<in-flight cap of lanes that have none of their own> <first window>".
-- Moments and spans are in microseconds, by the clock of the server.

local base = KEYS[1]
local READY, TURN, BUSY, WORKSPACES = base .. 'ready', base .. 'turn', base .. 'busy', base .. 'workspaces'
local LEASES, ASLEEP, PAUSED, LIMITS, DEBTS = base .. 'leases', base .. 'asleep', base .. 'paused', base .. 'limits', base .. 'debts'
local BUCKETS, SHARES, SHARED_LEASES = base .. 'buckets', base .. 'shares', base .. 'shared_leases'
local TROUBLED, SHORTENED, WINDOWS = base .. 'troubled', base .. 'shortened', base .. 'windows'
local OWNERS = base .. 'owners'

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local default_cap, first_window = string.match(ARGV[1], '^(%d+) (%d+)$')
default_cap, first_window = tonumber(default_cap), tonumber(first_window)

-- Set by the script that takes: it looks at the ring and at the sleepers last, and wakes whom it must then.
local is_taking = false

local function micros(number)
  return string.format('%.0f', number)
end

-- Whether the key is there at all: most servers have no lane with a limit, asleep, in a bucket or in trouble.
local seen = {}
local function has(key)
  if seen[key] == nil then
    seen[key] = redis.call('EXISTS', key) == 1
  end
  return seen[key]
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

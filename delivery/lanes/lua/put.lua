-- Append messages to their lanes, each unless its lane has it already (waiting or leased) or is full.
-- ARGV: caps, capacity, then of each message: lane, workspace ('' if not known), id, body.
-- Returns for each: 1 when appended, 0 for a double, -1 when full.

local capacity = tonumber(ARGV[2])
local arrival, since = string.format('%016.0f', now), micros(now)

local function put(lane, workspace, id, body)
  local waiting, leased = counts(lane)
  if waiting >= capacity then
    return -1
  end
  if redis.call('HSETNX', messages_key(lane), id, arrival .. body) == 0 then
    return 0
  end
  redis.call('RPUSH', waiting_key(lane), id)
  if waiting == 0 then
    redis.call('ZADD', BUSY, since, lane)
    if leased == 0 and workspace ~= '' then
      redis.call('HSET', WORKSPACES, lane, workspace)
      seen[WORKSPACES] = true
    end
  end
  offer(lane)
  return 1
end

local answers = {}
for first = 3, #ARGV, 4 do
  answers[#answers + 1] = put(ARGV[first], ARGV[first + 1], ARGV[first + 2], ARGV[first + 3])
end
return answers

-- Append a message to its lane, unless the lane has it already (waiting or leased) or is full.
-- ARGV: cap, capacity, lane, workspace ('' if not known), id, body. Returns 1 when appended, 0 for a double, -1 when full.

local capacity, lane, workspace, id, body = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local waiting, leased = counts(lane)
if waiting >= capacity then
  return -1
end
if redis.call('HSETNX', messages_key(lane), id, string.format('%016.0f', now) .. body) == 0 then
  return 0
end
redis.call('RPUSH', waiting_key(lane), id)
if waiting == 0 then
  redis.call('ZADD', BUSY, micros(now), lane)
  if leased == 0 and workspace ~= '' then
    redis.call('HSET', WORKSPACES, lane, workspace)
    seen[WORKSPACES] = true
  end
end
offer(lane)
return 1

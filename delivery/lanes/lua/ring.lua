-- The order of the ring, which is known to these functions alone. There are two rings: "ring", and "slow" for lanes in trouble.
-- A ring holds workspaces ("@<workspace>"), each with its lanes that are ready beside it ("ring:<workspace>"), so that turns
-- go round the workspaces first; a lane whose workspace is not known stands in the ring itself.
-- `ready` says of each lane where it stands.

local function join_ring(lane)
  local kind = has(TROUBLED) and redis.call('ZSCORE', TROUBLED, lane) and 'slow' or 'ring'
  local workspace = has(WORKSPACES) and redis.call('HGET', WORKSPACES, lane)
  local turn = redis.call('INCR', TURN)
  if workspace then
    redis.call('ZADD', base .. kind .. ':' .. workspace, turn, lane)
    redis.call('ZADD', base .. kind, 'NX', turn, '@' .. workspace)
    redis.call('HSET', READY, lane, kind .. ':' .. workspace)
  else
    redis.call('ZADD', base .. kind, turn, lane)
    redis.call('HSET', READY, lane, kind)
  end
  return kind
end

local function leave_ring(lane)
  local place = redis.call('HGET', READY, lane)
  if not place then
    return false
  end
  redis.call('HDEL', READY, lane)
  redis.call('ZREM', base .. place, lane)
  local kind, workspace = string.match(place, '^(%a+):(.+)$')
  if workspace and redis.call('EXISTS', base .. place) == 0 then
    redis.call('ZREM', base .. kind, '@' .. workspace)
  end
  return true
end

local function next_in_ring(kind)
  local lane
  repeat
    local first = redis.call('ZPOPMIN', base .. kind)[1]
    if not first then
      return nil
    end
    lane = first
    if string.sub(first, 1, 1) == '@' then
      local place = base .. kind .. ':' .. string.sub(first, 2)
      lane = redis.call('ZPOPMIN', place)[1]
      if redis.call('EXISTS', place) == 1 then
        redis.call('ZADD', base .. kind, redis.call('INCR', TURN), first)
      end
    end
  until lane
  redis.call('HDEL', READY, lane)
  return lane
end

-- Whether the lane stands where it is said to stand: a server that evicts keys may have lost a part.
local function is_in_ring(lane)
  local place = redis.call('HGET', READY, lane)
  local kind, workspace = string.match(place or '', '^(%a+):(.+)$')
  return place and redis.call('ZSCORE', base .. place, lane)
    and (not workspace or redis.call('ZSCORE', base .. kind, '@' .. workspace))
end

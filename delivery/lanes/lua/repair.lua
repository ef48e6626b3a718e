-- End what has lapsed. ARGV: caps, most, cursor of the walk over busy lanes, length of a lease. Returns the messages put back, the lanes woken,
-- the lanes that had fallen out of the ring, and the cursor to go on from ('0' when the walk is complete).

local most, cursor, lease = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

-- No lease ends later than one that begins now. If it does, the clock was set back, and a lost worker's would last for long.
local latest = micros(now + lease)
local late = redis.call('ZRANGEBYSCORE', LEASES, '(' .. latest, '+inf', 'WITHSCORES', 'LIMIT', 0, most)
for i = 1, #late, 2 do
  redis.call('HSETNX', SHORTENED, late[i], micros(tonumber(late[i + 1])))
  redis.call('ZADD', LEASES, 'XX', latest, late[i])
end

local lanes = {}
local lapsed = redis.call('ZRANGEBYSCORE', LEASES, '-inf', micros(now), 'LIMIT', 0, most)
for i = #lapsed, 1, -1 do
  local lane, id = string.match(lapsed[i], '^(%S+) (.*)$')
  end_lease(lane, lapsed[i])
  put_back(lane, id)
  lanes[#lanes + 1] = lane
end
offer_each(lanes)

local woken = wake_due(most)
redis.call('ZREMRANGEBYSCORE', DEBTS, '-inf', micros(now))
redis.call('ZREMRANGEBYSCORE', TROUBLED, '-inf', micros(now))

local walk = redis.call('ZSCAN', BUSY, cursor, 'COUNT', 100)
local fallen = 0
for i = 1, #walk[2], 2 do
  local lane = walk[2][i]
  if redis.call('EXISTS', waiting_key(lane)) == 0 then
    redis.call('ZREM', BUSY, lane)
  else
    if not is_in_ring(lane) then
      leave_ring(lane)
    end
    if is_asleep(lane) and redis.call('SISMEMBER', PAUSED, lane) == 0 then
      redis.call('ZREM', ASLEEP, lane)  -- and sleeps on, until its next token: by a clock that was set back, for too long
    end
    if offer(lane) then
      fallen = fallen + 1
    end
    local bucket = bucket_of(lane)
    if bucket then
      unpark(bucket)
    end
  end
end
return {#lapsed, woken, fallen, walk[1]}

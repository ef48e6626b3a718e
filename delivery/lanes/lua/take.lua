-- Lease up to ARGV[3] messages for ARGV[2] microseconds: round robin, one per lane per turn. At most ARGV[4] of them are of
-- lanes in trouble. ARGV: caps, lease, most, most of lanes in trouble, who takes ('' or nothing: nobody who could be missed).
-- Returns the end of the leases, the milliseconds until the next sleep ends (-1: nobody sleeps), then lane, id, body and
-- whether it was in trouble ('1' or '') of each message.

is_taking = true
local lease, most, slow_room, owner = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] or ''
local ends_at = micros(now + lease)
local taken, count = {ends_at, -1}, 0

if has(ASLEEP) then
  wake_due(100)
end

-- Of the two rings, that whose first has waited longer, so that neither starves the other.
local function next_lane()
  if slow_room > 0 and has(base .. 'slow') then
    local slow = redis.call('ZRANGE', base .. 'slow', 0, 0, 'WITHSCORES')
    if slow[1] then
      local ring = redis.call('ZRANGE', base .. 'ring', 0, 0, 'WITHSCORES')
      if not ring[1] or tonumber(slow[2]) < tonumber(ring[2]) then
        return next_in_ring('slow'), true
      end
    end
  end
  return next_in_ring('ring'), false
end

while count < most do
  local lane, is_slow = next_lane()
  if not lane then
    break
  end
  local bucket = bucket_of(lane)
  local waiting, leased = counts(lane)
  if may_run(lane, bucket, waiting, leased) then
    local id = redis.call('LPOP', waiting_key(lane))
    local message = redis.call('HGET', messages_key(lane), id)
    waiting = waiting - 1
    if message then
      redis.call('ZADD', LEASES, ends_at, lane .. ' ' .. id)
      if owner ~= '' then
        redis.call('HSET', OWNERS, lane .. ' ' .. id, owner)
      end
      taken[#taken + 1] = lane
      taken[#taken + 1] = id
      taken[#taken + 1] = string.sub(message, 17)
      taken[#taken + 1] = is_slow and '1' or ''
      count = count + 1
      leased = leased + 1
      slow_room = is_slow and slow_room - 1 or slow_room
      local _, rate, burst = limits(lane)
      if rate then
        spend(lane, rate, burst)
      end
      if bucket then
        spend_shared(bucket)
      end
    end
    if waiting == 0 then
      redis.call('ZREM', BUSY, lane)
    elseif may_run(lane, nil, waiting, leased) then
      join_ring(lane)  -- and parks, if its bucket is spent, when its turn comes: others of the bucket wait for longer
    end
  end
  if bucket then
    unpark(bucket)
  end
end

is_taking = false
if count == most and redis.call('EXISTS', base .. 'ring') == 1 then
  wake('ring')
end
if redis.call('EXISTS', base .. 'slow') == 1 then
  wake('slow')
end
taken[2] = next_wake()
return taken

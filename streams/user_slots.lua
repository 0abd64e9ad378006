-- Reserves the next free slot for each of many requests, under limits of one person and one category each.
--
-- The generic cell rate algorithm: of each bucket only the time is kept at which it would be full again, and a
-- reservation moves it on by one interval. So 20,000 requests of one person get 20,000 slots at the limit's pace, by
-- two numbers. Times are microseconds of the server's clock since 2026: small enough that a double keeps fractions of
-- an interval, for 7 in 60 seconds is 8571428.57 microseconds each. A clock that went back since a bucket was written
-- takes the bucket's time along, else everybody would wait for as long as it went back.
--
-- A missing bucket was idle and is full, unless the server has lost its data since: `born` says since when it has
-- remembered. A limit that was defined before that starts with one second of its rate, and what has come since.
--
-- A repeated batch (a crash, a database that was away) must not take second slots, so each request's own is remembered
-- by its id for a while. Forgotten, a repeat gets a later slot: late, never early.
--
-- KEYS: born (seconds since 1970), then for each request: bucket, memo
-- ARGV: milliseconds to remember, how many limits there are, then for each limit: interval (microseconds), burst, when
--       it was defined (seconds since 1970); then for each request: which limit (from 1), microseconds that others have
--       reserved beyond this server's knowledge
-- Replies for each request: microseconds until its slot, microseconds until its bucket is full again
local EPOCH = 1767225600
-- 300 years: behind them slots have no order, and a reply holds no more than 64 bits.
local FURTHEST = 1e16

local time = redis.call('TIME')
local now = (tonumber(time[1]) - EPOCH) * 1000000 + tonumber(time[2])

redis.call('SET', KEYS[1], time[1] .. string.format('.%06d', tonumber(time[2])), 'NX')
local born = tonumber(redis.call('GET', KEYS[1])) or tonumber(time[1]) + 1

local remember, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local limits, known, reply = {}, {}, {}
for i = 1, count do
  limits[i] = {
    interval = tonumber(ARGV[3 * i]), burst = tonumber(ARGV[3 * i + 1]), defined = tonumber(ARGV[3 * i + 2])
  }
end

local function load(key, limit)
  local full = nil
  local kept = redis.call('GET', key)
  if kept then
    local until_full, written = string.match(kept, '^(%S+) (%S+)$')
    full = tonumber(until_full)
    if full then full = full - math.max(0, tonumber(written) - now) end
  end
  if full == nil then
    full = now
    if limit.defined < born then
      local tokens = (1000000 + math.max(0, now - (born - EPOCH) * 1000000)) / limit.interval
      full = now + math.max(0, limit.burst - tokens) * limit.interval
    end
  end
  return {full = full}
end

for i = 2, #KEYS, 2 do
  local key, memo, at = KEYS[i], KEYS[i + 1], 3 * count + 1 + i
  local limit, ahead = limits[tonumber(ARGV[at])], tonumber(ARGV[at + 1])
  local bucket = known[key] or load(key, limit)
  known[key] = bucket
  local slot = tonumber(redis.call('GET', memo))
  if slot == nil then
    local full = math.max(bucket.full, now, now + ahead) + limit.interval
    bucket.full = math.min(full, now + FURTHEST)
    bucket.changed = true
    slot = math.max(now, bucket.full - limit.burst * limit.interval)
    redis.call('SET', memo, string.format('%.17g', slot), 'PX', remember)
  end
  reply[#reply + 1] = math.ceil(math.max(0, slot - now))
  reply[#reply + 1] = math.ceil(math.max(0, bucket.full - now))
end

for key, bucket in pairs(known) do
  if bucket.changed then
    -- Gone when it is full; a second longer, for clocks.
    local ttl = math.ceil(math.max(0, bucket.full - now) / 1000) + 1000
    redis.call('SET', key, string.format('%.17g %.0f', bucket.full, now), 'PX', ttl)
  end
end
return reply

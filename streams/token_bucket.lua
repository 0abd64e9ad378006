-- Shared token buckets: `take`, `give_back`, `peek` and `hold`, each in one call however many tokens it is about.
--
-- The trap of token buckets is time. Every process has a clock of its own, so a bucket filled by the callers' clocks
-- fills twice where two of them disagree, and stalls for as long as the fastest of them is ahead. Here the server's
-- TIME is the only clock. That one jumps too (NTP, a failover to a replica on another machine), so a bucket that was
-- filled "in the future" is taken to have been filled just now: nothing comes of that moment, and the next one counts
-- from the new time. A jump forward fills the bucket to its burst and no further. Tokens are fractions: at 3 a minute,
-- asked each 20 ms, one call brings a thousandth of a token, and rounding it away would give none for ever. Fractions
-- drift: after 1/3 + 1/3 + 1/3 there are 0.999999 tokens, which must pass for one, or a token comes one round late.
-- So fractions are kept with all their digits (%.17g: Lua's own tostring keeps 14), and a whole token is what misses
-- it by less than DRIFT. What is kept is at most `burst` (millions), so sums err far below DRIFT.
--
-- A missing bucket was idle for as long as it takes to fill, or the server has lost its data. Nobody can tell, so it
-- starts with one second of its rate instead of its burst.
--
-- KEYS: the provider's hold, then a bucket for each limit. A bucket is a hash: tokens, at (microseconds).
-- ARGV: operation, number, then for each limit: permits per second, burst, tokens to leave to higher priorities.
-- Replies: take {granted, microseconds until asking again is worthwhile, 1 when held}
--          peek {microseconds of hold left, then for each limit: millionths of tokens}
local DRIFT = 1e-6
local PORTION = 20000

local operation, number = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function held()
  local left = redis.call('PTTL', KEYS[1])
  if left > 0 then return left * 1000 end
  return 0
end

if operation == 'hold' then
  -- Two answers with Retry-After: the later end counts.
  if number * 1000 > held() then redis.call('SET', KEYS[1], '1', 'PX', number) end
  return 1
end

local buckets = {}
for i = 2, #KEYS do
  local at = 3 * (i - 2) + 3
  local bucket = {key = KEYS[i], rate = tonumber(ARGV[at]), burst = tonumber(ARGV[at + 1]), left = tonumber(ARGV[at + 2])}
  local kept = redis.call('HMGET', bucket.key, 'tokens', 'at')
  local tokens, since = tonumber(kept[1]), tonumber(kept[2])
  bucket.known = tokens ~= nil and since ~= nil
  if not bucket.known then
    tokens, since = bucket.rate, now
  end
  bucket.tokens = math.min(bucket.burst, tokens + math.max(0, now - since) * bucket.rate / 1000000)
  buckets[#buckets + 1] = bucket
end

local function keep(bucket)
  redis.call('HSET', bucket.key, 'tokens', string.format('%.17g', bucket.tokens), 'at', string.format('%.0f', now))
  -- Until it is full, and then some, for a bucket that comes back as missing starts nearly empty.
  redis.call('PEXPIRE', bucket.key, math.ceil(bucket.burst / bucket.rate * 1000) + 3600000)
end

if operation == 'peek' then
  local reply = {held()}
  for _, bucket in ipairs(buckets) do
    reply[#reply + 1] = math.floor(bucket.tokens * 1000000)
  end
  return reply
end

if operation == 'give_back' then
  for _, bucket in ipairs(buckets) do
    if bucket.known then
      bucket.tokens = math.min(bucket.burst, bucket.tokens + number)
      keep(bucket)
    end
  end
  return 1
end

local hold = held()
local granted = number
if hold > 0 then granted = 0 end
for _, bucket in ipairs(buckets) do
  granted = math.max(0, math.min(granted, math.floor(bucket.tokens - bucket.left + DRIFT)))
end
local wait = hold
for _, bucket in ipairs(buckets) do
  bucket.tokens = bucket.tokens - granted
  keep(bucket)
  if granted < number then
    local missing = bucket.left - bucket.tokens
    local first = (missing + 1) / bucket.rate * 1000000
    local all = (missing + number - granted) / bucket.rate * 1000000
    wait = math.max(wait, first, math.min(all, PORTION))
  end
end
return {granted, math.ceil(wait), hold > 0 and 1 or 0}

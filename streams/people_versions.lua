-- The versions of many people, in one round trip. Most never change and have none, so the reply names only those who
-- have: it is short, however many are asked for.
--
-- Versions are random and kept for a while after a change. What is compared is the version together with the epoch: the
-- server's own run, and a random word that is made anew when all keys were flushed. So a server that has lost what it
-- knew, or another one in its place, proves nothing right that was kept before.
--
-- KEYS: epoch, then a hash for each person
-- ARGV: a random word, for an epoch that is missing
-- Replies: epoch, then for each who has changed lately: place (from 0), version ('' while somebody is writing)
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
local word = redis.call('GET', KEYS[1])
if not word then
  redis.call('SET', KEYS[1], ARGV[1])
  word = ARGV[1]
end

local reply = {run .. word}
for place = 2, #KEYS do
  local found = redis.call('HMGET', KEYS[place], 'version', 'writers')
  if found[1] then
    reply[#reply + 1] = place - 2
    reply[#reply + 1] = found[2] and '' or found[1]
  end
end
return reply

-- Gives people new versions, and counts who is writing about them: two writers at a time must not take each other's mark.
--
-- A writer that dies leaves its mark until the key expires. That costs no more than a cache for this person.
--
-- KEYS: a hash for each person
-- ARGV: writers that come (1), go (-1), or neither (0); the new version; milliseconds to keep it
local writers = tonumber(ARGV[1])
for _, key in ipairs(KEYS) do
  redis.call('HSET', key, 'version', ARGV[2])
  if writers ~= 0 and redis.call('HINCRBY', key, 'writers', writers) <= 0 then
    redis.call('HDEL', key, 'writers')
  end
  redis.call('PEXPIRE', key, ARGV[3])
end
return #KEYS

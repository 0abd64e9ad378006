-- A worker says that it lives, and learns how many do; one of them in each round is told to take samples.
--
-- KEYS: live workers (a sorted set by time), born, turn    ARGV: this worker, seconds a sign of life counts,
--       milliseconds of a round
-- Replies: {live workers, 1 when it is this worker's turn}
local time = redis.call('TIME')
local now = tonumber(time[1])
redis.call('SET', KEYS[2], time[1] .. string.format('.%06d', tonumber(time[2])), 'NX')
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('EXPIRE', KEYS[1], 3600)
local turn = redis.call('SET', KEYS[3], ARGV[1], 'NX', 'PX', ARGV[3])
return {redis.call('ZCARD', KEYS[1]), turn and 1 or 0}

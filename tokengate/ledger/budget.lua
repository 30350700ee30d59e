-- Gives a scope a cap of its own, or lets it follow the default again.
--
-- KEYS  1 scope  2 sessions (index by last activity)  3 events
-- ARGV  1 now_ms ('0': the server's clock)  2 the cap (nano-USD; '' for the default)  3 session id ('' for other scopes)
-- Reply the cap before, as it was written ('' if none was)

local now = clock(ARGV[1])
local before = redis.call('HGET', KEYS[1], 'budget') or ''
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], 'budget', 'budget_default')
else
  redis.call('HSET', KEYS[1], 'budget', usd(tonumber(ARGV[2])))
  redis.call('HDEL', KEYS[1], 'budget_default')
end
if redis.call('HSETNX', KEYS[1], 'created_ms', integer(now)) == 1 then
  redis.call('HSET', KEYS[1], 'last_active_ms', integer(now))
  if ARGV[3] ~= '' then redis.call('ZADD', KEYS[2], now, ARGV[3]) end
end
event(KEYS[3], now, 'budget', 'scope', KEYS[1], 'before', before, 'after', ARGV[2] == '' and '' or usd(tonumber(ARGV[2])))
local is = redis.call('HMGET', KEYS[1], 'epoch', 'budget', 'spent')
watch(KEYS[1], KEYS[3], now, tonumber(is[1]) or 0, is[2] or '', nano(is[3] or '0') or 0)
return before

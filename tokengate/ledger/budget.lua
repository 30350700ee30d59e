-- Gives a scope a cap of its own, or lets it follow the default again.
--
-- KEYS  1 scope  2 events
-- ARGV  1 now_ms ('0': the server's clock)  2 the cap (nano-USD; '' for the default)  3 who
-- Reply the cap before, as it was written ('' if none was)

local now = clock(ARGV[1])
local before = redis.call('HGET', KEYS[1], 'budget') or ''
named(KEYS[1], now)
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], 'budget', 'budget_default')
else
  redis.call('HSET', KEYS[1], 'budget', usd(tonumber(ARGV[2])))
  redis.call('HDEL', KEYS[1], 'budget_default')
end
list_anew(KEYS[1])
local after = ARGV[2] == '' and '' or usd(tonumber(ARGV[2]))
event(KEYS[2], now, 'budget', 'scope', KEYS[1], 'by', ARGV[3], 'before', before, 'after', after)
local is = redis.call('HMGET', KEYS[1], 'epoch', 'budget', 'spent')
watch(KEYS[1], KEYS[2], now, tonumber(is[1]) or 0, is[2] or '', nano(is[3] or '0') or 0)
return before

-- Freezes a scope, or lifts its freeze. A freeze that has an end needs nobody to lift it: time alone makes it void.
--
-- KEYS  1 scope  2 events
-- ARGV  1 now_ms ('0': the server's clock)  2 freeze ('1' | '0': lift)  3 for_ms ('': until it is lifted)  4 reason
--       5 by
-- Reply whether it was frozen before (0 | 1)

local now, key = clock(ARGV[1]), KEYS[1]
local was = redis.call('HMGET', key, 'frozen', 'frozen_until_ms')
local until_ms = tonumber(was[2])
local frozen = was[1] == '1' and (not until_ms or now < until_ms)

local function told(is, end_ms)
  if not is then return 'open' end
  return end_ms and 'frozen until ' .. integer(end_ms) or 'frozen'
end

local before = told(frozen, until_ms)
redis.call('HDEL', key, 'frozen', 'frozen_reason', 'frozen_until_ms', 'frozen_at_ms', 'frozen_by')
list_frozen(key, false)
if ARGV[2] == '0' then
  if not frozen then return 0 end
  event(KEYS[2], now, 'unfreeze', 'scope', key, 'by', ARGV[5], 'before', before, 'after', told(false))
  return 1
end
local finish = tonumber(ARGV[3]) and now + tonumber(ARGV[3])
redis.call('HSET', key, 'frozen', '1', 'frozen_reason', ARGV[4], 'frozen_at_ms', integer(now), 'frozen_by', ARGV[5])
if finish then redis.call('HSET', key, 'frozen_until_ms', integer(finish)) end
list_frozen(key, true, finish)
named(key, now)
local after, reason = told(true, finish), ARGV[4]
event(KEYS[2], now, 'freeze', 'scope', key, 'by', ARGV[5], 'before', before, 'after', after, 'reason', reason)
return frozen and 1 or 0

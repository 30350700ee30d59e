-- Freezes a scope, or lifts its freeze. A freeze that has an end needs nobody to lift it: time alone makes it void.
--
-- KEYS  1 scope  2 events
-- ARGV  1 now_ms ('0': the server's clock)  2 freeze ('1' | '0': lift)  3 for_ms ('': until it is lifted)  4 reason
--       5 by
-- Reply whether it was frozen before (0 | 1)

local now, key, by = clock(ARGV[1]), KEYS[1], ARGV[5]
if ARGV[2] == '1' then
  local finish = tonumber(ARGV[3]) and now + tonumber(ARGV[3])
  local frozen = freeze(key, KEYS[2], now, finish, ARGV[4], by)
  named(key, now)
  return frozen and 1 or 0
end
local was = redis.call('HMGET', key, 'frozen', 'frozen_until_ms')
local finish = tonumber(was[2])
redis.call('HDEL', key, 'frozen', 'frozen_reason', 'frozen_until_ms', 'frozen_at_ms', 'frozen_by', 'frozen_rule', 'freezes')
list_frozen(key, false)
forget_history(key)
if was[1] ~= '1' or (finish and now >= finish) then return 0 end
local before, after = finish and 'frozen until ' .. integer(finish) or 'frozen', 'open'
event(KEYS[2], now, 'unfreeze', 'scope', key, 'by', by, 'before', before, 'after', after)
return 1

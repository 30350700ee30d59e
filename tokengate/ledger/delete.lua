-- Forgets a scope. What is still held of it settles nowhere but in the other scopes of its path, and in the reports.
--
-- KEYS  1 scope  2 events
-- ARGV  1 now_ms ('0': the server's clock)  2 who  3 how long a hold may be remembered (ms)
-- Reply what was spent, as it was written; nil if there is no such scope

local now = clock(ARGV[1])
local was = redis.call('HMGET', KEYS[1], 'total_nano', 'epoch', 'spent', 'period_start_ms', 'day', 'day_from_nano')
if redis.call('DEL', KEYS[1]) == 0 then return nil end
redis.call('SET', grave_of(KEYS[1]), integer((tonumber(was[2]) or 0) + 1), 'PX', ARGV[3])
forget_history(KEYS[1])
local tenant, kind, name = parts_of(KEYS[1])
local period = tonumber(was[4]) and ':' .. integer(tonumber(was[4])) or ''
for _, index in ipairs({ '', ':names', ':frozen', ':spent' .. period, ':share' .. period }) do
  redis.call('ZREM', tenant .. kind .. 's' .. index, name)
end
-- What it spent on its last day is nowhere else so exactly.
if tonumber(was[5]) then list_day(KEYS[1], tonumber(was[5]), (tonumber(was[1]) or 0) - (tonumber(was[6]) or 0)) end
local spent = was[3] or usd(0)
event(KEYS[2], now, 'delete', 'scope', KEYS[1], 'by', ARGV[2], 'before', spent)
return spent

-- Starts a new epoch of a scope: nothing spent, nothing held. What is still held settles in the old epoch.
--
-- KEYS  1 scope  2 events
-- ARGV  1 now_ms ('0': the server's clock)  2 who
-- Reply what was spent before, as it was written

local now = clock(ARGV[1])
local was = redis.call('HMGET', KEYS[1], 'epoch', 'spent', 'held', 'budget')
local spent, held = was[2] or usd(0), was[3] or usd(0)
local epoch = (tonumber(was[1]) or first_epoch(KEYS[1])) + 1
redis.call('HSET', KEYS[1], 'epoch', integer(epoch), 'previous_spent', spent, 'previous_held', held, 'spent', usd(0),
  'held', usd(0))
list_anew(KEYS[1])
event(KEYS[2], now, 'reset', 'scope', KEYS[1], 'by', ARGV[2], 'before', spent)
watch(KEYS[1], KEYS[2], now, epoch, was[4] or '', 0)
return spent

-- Words for what freezes; the loader puts this text after scope.lua where it is needed.

-- Freezes a scope until `finish` (nil: until it is lifted), and forgets what it did lately: what led to a freeze is no
-- evidence for the next one. A rule also gives itself, the first and the last request, and how many freezes of rules there
-- have been in a row. Gives whether the scope was frozen before.
local function freeze(key, events, now, finish, reason, by, rule, first, last, freezes)
  local was = redis.call('HMGET', key, 'frozen', 'frozen_until_ms')
  local before_until = tonumber(was[2])
  local frozen = was[1] == '1' and (not before_until or now < before_until)
  local before = frozen and (before_until and 'frozen until ' .. integer(before_until) or 'frozen') or 'open'
  local after = finish and 'frozen until ' .. integer(finish) or 'frozen'
  redis.call('HDEL', key, 'frozen_until_ms', 'frozen_rule', 'freezes')
  redis.call('HSET', key, 'frozen', '1', 'frozen_reason', reason, 'frozen_at_ms', integer(now), 'frozen_by', by)
  if finish then redis.call('HSET', key, 'frozen_until_ms', integer(finish)) end
  list_frozen(key, true, finish)
  forget_history(key)
  if rule then
    redis.call('HSET', key, 'frozen_rule', rule, 'freezes', integer(freezes))
  end
  rule, first, last = rule or '', first or '', last or ''
  event(events, now, 'freeze', 'scope', key, 'by', by, 'before', before, 'after', after, 'reason', reason, 'rule', rule, 'first', first, 'last', last)
  return frozen
end

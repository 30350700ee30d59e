-- Holds an amount against every scope of a call's path, or against none.
--
-- KEYS  1 leases  2 sessions (index by last activity)  then, only where rules look for runaways, what the session did
--       lately  then the scopes, the session first  last: the hold
-- ARGV  1 "floor need want" (nano-USD)  2 now_ms ('0': the server's clock)  3 exact ('1' | '0')  4 model  5 owner
--       6 lease_ms  7 share  8 session id  9 sessions_max
--       10 rates: for every scope "interval_us:tolerance_us:mode" or "-", parted by spaces; '' if no scope has one
--       then, for every scope, its default cap (USD, nine places) and its period's boundaries ("ms,ms,..." or '')
--       last, only where rules look for runaways: the mark of the call (see judge.lua), '' if it has none
--       Only the first argument, the mark and the hold differ between the calls of a session: its caller packs the others once.
-- Reply verdict, grant, now_ms, deciding scope (1 = the session), its cap, spent, held, resets_at_ms (0: never),
--       until_ms (0: for ever), detail, rule  (amounts in nano-USD; a Lua number becomes a 64-bit integer, exact to 2^53)
--   held (detail: why the rules could not look at it, '' mostly) | tight | busy | exceeded | frozen (detail: reason)
--   | invalid (detail: the text) | full
--   limited (until_ms: in how many ms one more may come)
--   rule: which one has frozen the scope; of a call that is held, which one would have refused it, were it
--   enforced ('': none)
--   clock: the boundaries do not reach the server's now; ask again with others

local now = clock(ARGV[2])
local hold, leases, sessions = KEYS[#KEYS], KEYS[1], KEYS[2]
local floor, need, want = string.match(ARGV[1], '(%d+) (%d+) (%d+)')
floor, need, want = tonumber(floor), tonumber(need), tonumber(want)
local exact, share = ARGV[3] == '1', tonumber(ARGV[7])

local total, ended
local function load(index)
  local key = KEYS[KEYS_BEFORE + index]
  local was
  if RULES_ON == 1 and index == 1 then
    was = redis.call('HMGET', key, 'budget', 'budget_default', 'spent', 'held', 'epoch', 'period_start_ms', 'frozen',
      'frozen_until_ms', 'last_active_ms', 'total_nano', 'requests')
    total, ended = was[10], was[11]
  else
    was = redis.call('HMGET', key, 'budget', 'budget_default', 'spent', 'held', 'epoch', 'period_start_ms', 'frozen',
      'frozen_until_ms', 'last_active_ms')
  end
  local scope = {
    key = key, index = index, change = {}, new = not was[9], last_active = tonumber(was[9]) or 0,
    epoch = tonumber(was[5]) or (was[9] and 0 or first_epoch(key)), resets_at = 0,
    spent_text = was[3] or '0', held_text = was[4] or '0', frozen = was[7] == '1', frozen_until = tonumber(was[8]),
  }
  function scope.put(field, value)
    scope.change[#scope.change + 1] = field
    scope.change[#scope.change + 1] = value
  end
  local text, default = was[1], ARGV[9 + 2 * index]
  if not text or (text == was[2] and text ~= default) then
    if text then scope.put('listed_until_nano', 0) end
    text = default
    scope.put('budget', default)
    scope.put('budget_default', default)
  end
  scope.budget, scope.cap = text, nano(text)
  scope.spent, scope.held = nano(scope.spent_text), nano(scope.held_text)
  scope.bad = (not scope.cap and text) or (not scope.spent and scope.spent_text) or (not scope.held and scope.held_text)
  local boundaries = ARGV[10 + 2 * index]
  if boundaries ~= '' then
    local start, finish, previous
    for boundary in string.gmatch(boundaries, '%d+') do
      boundary = tonumber(boundary)
      if previous and previous <= now and now < boundary then start, finish = previous, boundary end
      previous = boundary
    end
    if not start then return nil end
    -- A clock that went back keeps the period it was in: a budget never starts anew twice.
    if start > (tonumber(was[6]) or 0) and not scope.bad then
      if was[6] then
        scope.put('previous_spent', usd(scope.spent))
        scope.put('previous_held', usd(scope.held))
        scope.put('spent', usd(0))
        scope.put('held', usd(0))
        scope.put('listed_until_nano', 0)
        scope.spent, scope.held, scope.epoch = 0, 0, scope.epoch + 1
        watch(key, events_of(KEYS[1]), now, scope.epoch, text, 0)
      end
      scope.put('epoch', integer(scope.epoch))
      scope.put('period_start_ms', integer(start))
      scope.put('resets_at_ms', integer(finish))
    end
    scope.resets_at = finish
  elseif was[6] then
    -- It had periods once: it is listed with those that have none.
    redis.call('HDEL', key, 'period_start_ms', 'resets_at_ms')
  end
  return scope
end

local function answer(verdict, grant, scope, detail, until_ms, rule)
  return { verdict, grant, now, scope.index, scope.cap or 0, scope.spent or 0, scope.held or 0, scope.resets_at,
    until_ms or 0, detail or '', rule or '' }
end

local scopes, tightest, headroom = {}, nil, nil
for index = 1, #KEYS - 1 - KEYS_BEFORE do
  local scope = load(index)
  if not scope then return { 'clock', 0, now } end
  scopes[index] = scope
  local free = not scope.bad and scope.cap - scope.spent - scope.held
  if free and (headroom == nil or free < headroom) then tightest, headroom = scope, free end
end

if redis.call('HGET', hold, 'state') then
  return answer('held', nano(redis.call('HGET', hold, 'grant') or '0'), tightest or scopes[1])
end

local session = scopes[1]
if session.new and redis.call('ZCARD', sessions) >= tonumber(ARGV[9]) then return answer('full', 0, session) end

local function refuse(verdict, scope, detail, until_ms, rule)
  session.put('last_active_ms', integer(now))
  if session.new then
    session.put('created_ms', integer(now))
    session.put('epoch', integer(session.epoch))
    seen(session.key, now, true)
  end
  redis.call('HSET', session.key, unpack(session.change))
  redis.pcall('HINCRBY', session.key, 'blocked', 1)
  if verdict == 'exceeded' then
    watch(scope.key, events_of(leases), now, scope.epoch, scope.budget, scope.spent, true)
  end
  return answer(verdict, 0, scope, detail, until_ms, rule)
end

for _, scope in ipairs(scopes) do
  if scope.frozen and (not scope.frozen_until or now < scope.frozen_until) then
    local why = redis.call('HMGET', scope.key, 'frozen_reason', 'frozen_rule')
    list_frozen(scope.key, true, scope.frozen_until)
    return refuse('frozen', scope, why[1] or '', scope.frozen_until, why[2])
  end
  if scope.bad then return refuse('invalid', scope, scope.bad) end
end

local fair = math.floor(headroom / share)
local grant
if not exact then
  if want > fair then return answer('tight', 0, tightest) end
  grant = want
else
  for _, scope in ipairs(scopes) do
    if scope.cap - scope.spent < floor then return refuse('exceeded', scope) end
  end
  if headroom >= need then
    grant = math.max(need, math.min(want, fair))
  else
    for _, scope in ipairs(scopes) do
      if scope.cap - scope.spent - scope.held < need and scope.held > 0 then return answer('busy', 0, scope) end
    end
    grant = math.min(want, headroom)
  end
end

-- Every budget would admit it; what is refused from here on leaves no trace, so that asking again prolongs nothing.
local shadow, id, fault, taken = nil, nil, nil, {}
if ARGV[10] ~= '' then
  local index = 0
  for rate in string.gmatch(ARGV[10], '%S+') do
    index = index + 1
    local interval, tolerance, mode = string.match(rate, '^(%d+):(%d+):(%a+)$')
    if interval then
      local full_at = tonumber(redis.call('HGET', scopes[index].key, 'rate_full_at_us') or '0') or 0
      local start = math.max(full_at, now * 1000)
      local early = start - now * 1000 - tonumber(tolerance)
      if early <= 0 then
        taken[index] = integer(start + tonumber(interval))
      elseif mode == 'enforce' then
        return refuse('limited', scopes[index], '', math.ceil(early / 1000), 'rate')
      else
        shadow = 'rate'
      end
    end
  end
end

if RULES_ON == 1 then
  -- Whatever somebody has written where the rules keep what they remember, it must not stop the money.
  id = id_of(hold)
  local well, found, rule, reason, first = pcall(judge, KEYS[3], hold, id, now, total, ended, ARGV[4], ARGV[#ARGV])
  if not well then
    forget_recent(KEYS[3])
    fault = type(found) == 'table' and found.err or tostring(found)
  elseif found == 'freeze' then
    local before = redis.call('HMGET', session.key, 'freezes', 'frozen_until_ms')
    local soon = before[2] and now - (tonumber(before[2]) or 0) <= SERIES_MS
    local freezes = soon and tonumber(before[1] or '0') or 0
    local finish = now + math.min(FREEZE_MS_MAX, FREEZE_MS * 2 ^ math.min(freezes, 32))
    freeze(session.key, events_of(leases), now, finish, reason, 'anomaly', rule, first, id, freezes + 1)
    return refuse('frozen', session, reason, finish, rule)
  elseif found then
    shadow = rule
    local events, key = events_of(leases), session.key
    if reason then
      event(events, now, 'shadow', 'scope', key, 'rule', rule, 'reason', reason, 'first', first, 'last', id)
    end
  end
end
for at, full_at in pairs(taken) do scopes[at].put('rate_full_at_us', full_at) end
if session.new and scopes[2] then
  local _, kind, name = parts_of(scopes[2].key)
  if kind == 'agent' then session.put('agent', name) end
end
local path = {}
for _, scope in ipairs(scopes) do
  scope.held = scope.held + grant
  scope.put('held', usd(scope.held))
  if scope.new then
    scope.put('created_ms', integer(now))
    scope.put('epoch', integer(scope.epoch))
  end
  -- To the second is enough for a list by last activity, and spares the index on a busy session.
  if scope.new or now - scope.last_active >= 1000 then
    scope.put('last_active_ms', integer(now))
    seen(scope.key, now, scope.new)
  end
  redis.call('HSET', scope.key, unpack(scope.change))
  path[#path + 1] = scope.key .. ' ' .. integer(scope.epoch)
end
redis.call('HSET', hold, 'state', 'held', 'grant', usd(grant), 'owner', ARGV[5], 'session', ARGV[8],
  'model', ARGV[4], 'at_ms', integer(now), 'path', table.concat(path, ' '))
redis.call('ZADD', leases, integer(now + ARGV[6]), id or id_of(hold))
return answer('held', grant, tightest, fault, nil, shadow)

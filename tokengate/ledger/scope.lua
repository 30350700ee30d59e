-- Shared words; the loader puts this text before every other script, and before it THRESHOLDS: the percentages of a
-- budget that are told of when they are spent, ascending.
--
-- A scope (a session, an agent, a tenant) is one hash. Amounts in it are decimal USD with nine places, so that a person
-- can read and set them; here they are integer nano-USD, which a Lua double holds exactly up to 2^53.
--   budget            the cap; budget_default is the default it was copied from: a budget unlike it was set by somebody
--   spent, held       of this epoch; previous_spent, previous_held: of the one before
--   epoch             counts resets and periods; period_start_ms, resets_at_ms: the period it belongs to
--   assumed, overrun  how much of all spending was assumed, and how much went beyond its hold
--   total_nano        spent over all epochs, integer nano-USD
--   alerted           the highest percentage that was told of, and the epoch and the budget it was told for
--   requests, blocked, created_ms, last_active_ms
--   frozen ('1'), frozen_reason, frozen_at_ms, frozen_by, frozen_until_ms (none: until it is lifted)
--   listed            its place in the lists by spending (see place_of)
--   agent             of its latest calls; MODEL:total_nano: spent on a model over all epochs (sessions only)

local NANO = 1e9
local AMOUNT_MAX = 9007199254740991

local USAGE_TTL_S = 34560000 -- 400 days: the roll-ups of hours, and of days by agent
local SESSIONS_TTL_S = 3024000 -- 35 days: the roll-ups of days by session
local NAMES_MAX = 10000 -- that a day's roll-up tells apart: those that cost most
local FIELDS_MAX = 64 -- of a session: beyond them its models are not told apart

local function nano(text)
  local whole, fraction = string.match(text, '^(%d+)%.?(%d*)$')
  if not whole or #whole > 7 or #fraction > 9 then return nil end
  local amount = tonumber(whole) * NANO
  if fraction ~= '' then amount = amount + tonumber(fraction) * 10 ^ (9 - #fraction) end
  if amount > AMOUNT_MAX then return nil end
  return amount
end

local function usd(amount)
  -- A person may have lowered `spent` by hand: what is corrected afterwards must not become a credit.
  if amount < 0 then amount = 0 end
  -- fmod is exact; Lua's own % divides in doubles, and is one off near a whole dollar in the millions.
  local fraction = math.fmod(amount, NANO)
  return string.format('%.0f.%09.0f', (amount - fraction) / NANO, fraction)
end

local function clock(given_ms)
  if given_ms ~= '0' then return tonumber(given_ms) end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- A hold's key ends in its id, which its caller chose.
local function id_of(hold) return string.match(hold, ':hold:(.+)$') end

-- The events lie beside the leases, under the same hash tag.
local function events_of(leases) return (string.gsub(leases, 'leases$', 'events')) end

local function integer(number) return string.format('%.0f', number) end

local function event(key, now, kind, ...)
  redis.call('XADD', key, 'MAXLEN', '~', '10000', '*', 'at_ms', integer(now), 'kind', kind, ...)
end

local LOWEST = THRESHOLDS[1] and THRESHOLDS[1] * NANO / 100 or math.huge

-- Tells that a share of a budget is spent: each threshold once in an epoch, and anew when the budget was changed; and
-- that none is any more. Being refused for want of money counts as 100 % once half is spent: what is left buys nothing
-- that is asked for.
local function watch(key, events, now, epoch, budget, spent, refused)
  local cap = nano(budget) or 0
  if cap == 0 then return end
  local passed, told, basis = 0, 0, integer(epoch) .. ' ' .. budget
  local alerted = redis.call('HGET', key, 'alerted')
  if alerted then
    local percent, of = string.match(alerted, '^(%d+) (.+)$')
    if of == basis then told = tonumber(percent) end
  end
  for _, percent in ipairs(THRESHOLDS) do
    if spent * 100 >= cap * percent or (refused and percent == 100 and spent * 2 >= cap) then passed = percent end
  end
  if passed > told then
    redis.call('HSET', key, 'alerted', integer(passed) .. ' ' .. basis)
    local resets = redis.call('HGET', key, 'resets_at_ms') or ''
    event(events, now, 'threshold', 'scope', key, 'percent', passed, 'budget', budget, 'spent', usd(spent), 'resets', resets)
  elseif alerted and told == 0 then
    redis.call('HDEL', key, 'alerted')
    event(events, now, 'relief', 'scope', key, 'budget', budget, 'spent', usd(spent))
  end
end

-- Of a scope's key: what the keys of its tenant begin with, its kind, its name.
local function parts_of(key) return string.match(key, '^(.-}:)(%a+):(.+)$') end

-- A scope was active, perhaps for the first time: it is (still) to be found in the lists of its kind.
local function seen(key, now, new)
  local tenant, kind, name = parts_of(key)
  if kind == 'tenant' then return end
  redis.call('ZADD', tenant .. kind .. 's', now, name)
  if new then redis.call('ZADD', tenant .. kind .. 's:names', 0, name) end
end

-- A scope is frozen, until an instant or (nil) until it is lifted; false: it is not.
local function list_frozen(key, frozen, until_ms)
  local tenant, kind, name = parts_of(key)
  local at = tenant .. kind .. 's:frozen'
  if frozen then redis.pcall('ZADD', at, until_ms or '+inf', name) else redis.pcall('ZREM', at, name) end
end

-- The lists by spending are coarse, so that a call seldom moves its session: cents to three digits, whole percents up to
-- 1000. Both in one number.
local function place_of(spent, cap)
  local cents, step, percent = math.floor(spent / 1e7), 1, spent > 0 and 100 or 0
  while cents >= 1000 * step do step = step * 10 end
  if cap > 0 then percent = math.min(math.floor(spent * 100 / cap), 1000) end
  return (cents - math.fmod(cents, step)) * 10000 + percent
end

-- A period has lists of its own, which nobody has to clear when the next one begins.
local function list(key, start, finish, place)
  local tenant, kind, name = parts_of(key)
  if kind == 'tenant' then return end
  for index, score in pairs({ spent = math.floor(place / 10000), share = math.fmod(place, 10000) }) do
    local at = tenant .. kind .. 's:' .. index
    if start then at = at .. ':' .. integer(start) end
    redis.pcall('ZADD', at, score, name)
    if start and finish then redis.pcall('PEXPIRE', at, integer(2 * (finish - start))) end
  end
end

-- Puts a scope where it belongs after a person has changed it.
local function list_anew(key)
  local was = redis.call('HMGET', key, 'spent', 'budget', 'period_start_ms', 'resets_at_ms', 'listed')
  if not was[5] then return end
  local place = place_of(nano(was[1] or '0') or 0, nano(was[2] or '0') or 0)
  redis.call('HSET', key, 'listed', integer(place))
  list(key, tonumber(was[3]), tonumber(was[4]), place)
end

-- What is left of a scope that was deleted, for as long as a hold of it may be remembered: its next epoch. So nothing of
-- before can be posted to what comes under its name later.
local function grave_of(key)
  local tenant, kind, name = parts_of(key)
  return tenant .. 'deleted:' .. kind .. ':' .. name
end

local function first_epoch(key) return tonumber(redis.call('GET', grave_of(key)) or '0') or 0 end

-- A person, or a journal, names a scope that perhaps no call has named yet.
local function named(key, now)
  if redis.call('HSETNX', key, 'created_ms', integer(now)) == 0 then return end
  redis.call('HSET', key, 'last_active_ms', integer(now))
  redis.call('HSETNX', key, 'epoch', integer(first_epoch(key)))
  seen(key, now, true)
end

-- Adds to what an epoch of a scope has spent and frees what it holds. `epoch` is the one that the hold was made in; an
-- epoch before the previous one has no figures left, and only the total keeps what it cost. Says whether it was deleted.
local function post(events, now, key, epoch, spend, free, assumed, overrun)
  local was = redis.call('HMGET', key, 'epoch', 'spent', 'held', 'previous_spent', 'previous_held', 'assumed', 'overrun',
    'budget', 'listed', 'period_start_ms', 'resets_at_ms')
  local current, change = tonumber(was[1]) or 0, {}
  if not was[1] then
    local grave = redis.call('GET', grave_of(key))
    if grave and epoch then return true end
    if grave then current, change = tonumber(grave), { 'epoch', grave } end
  end
  local function put(field, value) change[#change + 1] = field; change[#change + 1] = usd(value) end
  local spent = 0
  if epoch == nil or epoch == current then
    spent = (nano(was[2] or '0') or 0) + spend
    put('spent', spent)
    put('held', (nano(was[3] or '0') or 0) - free)
    local place = place_of(math.max(0, spent), nano(was[8] or '0') or 0)
    if place ~= tonumber(was[9]) and spend ~= 0 then
      change[#change + 1] = 'listed'
      change[#change + 1] = integer(place)
      list(key, tonumber(was[10]), tonumber(was[11]), place)
    end
  elseif epoch == current - 1 then
    put('previous_spent', (nano(was[4] or '0') or 0) + spend)
    put('previous_held', (nano(was[5] or '0') or 0) - free)
  end
  if assumed ~= 0 then put('assumed', (nano(was[6] or '0') or 0) + assumed) end
  if overrun ~= 0 then put('overrun', (nano(was[7] or '0') or 0) + overrun) end
  if #change > 0 then redis.call('HSET', key, unpack(change)) end
  -- pcall, here and wherever a statistic is kept: rubbish that a person has left in one must not stop the money.
  if spend ~= 0 then redis.pcall('HINCRBY', key, 'total_nano', integer(spend)) end
  -- To some nano-USD, which is as cheap as can be.
  if was[8] and spent >= (tonumber(was[8]) or math.huge) * LOWEST then watch(key, events, now, current, was[8], spent) end
  return false
end

-- The path of a hold is written as "key epoch key epoch ..."; keys have no spaces.
local function each_scope(path, act)
  for key, epoch in string.gmatch(path, '(%S+) (%d+)') do act(key, tonumber(epoch)) end
end

-- Notes for reports what a session has spent on a model.
local function note_model(session, model, amount)
  local field = model .. ':total_nano'
  if redis.pcall('HINCRBY', session, field, integer(amount)) ~= amount then return end
  -- It has just come up: only now can there be one too many.
  if redis.call('HLEN', session) > FIELDS_MAX then
    redis.call('HDEL', session, field)
    redis.pcall('HINCRBY', session, 'other:total_nano', integer(amount))
  end
end

-- Notes for reports what a day has cost, by name. When all places are taken, the cheapest makes room.
local function note_day(key, name, amount, ttl_s)
  if tonumber(redis.pcall('ZINCRBY', key, integer(amount), name)) ~= amount then return end
  local names = redis.call('ZCARD', key)
  if names > NAMES_MAX then redis.call('ZPOPMIN', key) end
  if names == 1 then redis.call('EXPIRE', key, ttl_s) end
end

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
--   frozen_rule       which rule has frozen it, and freezes, how often rules have in a row (sessions only)
--   rate_full_at_us   when everything that its rate allows at once may come again
--   listed_until_nano what it may come to have spent before it is moved in the lists by spending
--   agent             of its latest calls; MODEL:total_nano: spent on a model over all epochs; day: the last on which
--                     it spent something, day_from_nano: its total before that (all of them sessions only)

local NANO = 1e9
local AMOUNT_MAX = 9007199254740991

local USAGE_TTL_S = 34560000 -- 400 days: the roll-ups of hours, and of days by agent

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
  return string.format('%d.%09d', (amount - fraction) / NANO, fraction)
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

-- %d takes a fifth of the time of %.0f, and all 64 bits where `long` has them: the store is asked whether it has.
local function integer(number) return string.format('%d', number) end

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

-- What a session did lately (see judge.lua) is forgotten.
local function forget_recent(recent)
  redis.pcall('HDEL', recent, 'history', 'cycle', 'failed', 'tails', 'grown', 'waves', 'shadow', 'mean',
    'spent0', 'spent1', 'spent2', 'spent3')
end

-- It lies beside the session, by whose key it is forgotten here.
local function forget_history(key)
  local tenant, kind, name = parts_of(key)
  if kind == 'session' then forget_recent(tenant .. 'recent:' .. name) end
end

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

-- Words for what moves a scope in the lists by spending; the loader puts this text after scope.lua where it is needed.

local SESSIONS_TTL_S = 3024000 -- 35 days: the roll-ups of days by session
local SESSIONS_MAX = 10000 -- that such a roll-up tells apart: those that cost most
local PERCENT_MAX = 1000
local STEPS = 22 -- of 5% each, from one amount to e times as much

-- Puts a scope into the lists by spending: by cents, and by whole percents of its budget. A period has lists of its own,
-- which nobody has to clear when the next one begins. A call seldom moves its scope: gives what it may come to have spent
-- before it is to be put anew, which is 5% more (and a cent), or the next percent.
local function list(key, spent, cap)
  local tenant, kind, name = parts_of(key)
  local cents, percent = math.floor(spent / 1e7), spent > 0 and 100 or 0
  if cap > 0 then percent = math.min(math.floor(spent * 100 / cap), PERCENT_MAX) end
  if kind ~= 'tenant' then
    local period = redis.call('HMGET', key, 'period_start_ms', 'resets_at_ms')
    local start, finish = tonumber(period[1]), tonumber(period[2])
    for index, score in pairs({ spent = cents, share = percent }) do
      local at = tenant .. kind .. 's:' .. index
      if start then at = at .. ':' .. integer(start) end
      redis.pcall('ZADD', at, score, name)
      if start and finish then redis.pcall('PEXPIRE', at, 2 * (finish - start)) end
    end
  end
  local step = math.exp((math.floor(math.log(cents + 1) * STEPS) + 1) / STEPS) - 1
  local until_nano = math.max(cents + 1, math.ceil(step)) * 1e7
  if cap > 0 and percent < PERCENT_MAX then until_nano = math.min(until_nano, math.ceil(cap * (percent + 1) / 100)) end
  return math.max(until_nano, spent + 1)
end

-- The same after a person has changed it, if it is in them.
local function list_anew(key)
  local was = redis.call('HMGET', key, 'spent', 'budget', 'listed_until_nano')
  if not was[3] then return end
  redis.call('HSET', key, 'listed_until_nano', list(key, nano(was[1] or '0') or 0, nano(was[2] or '0') or 0))
end

-- What a session has spent on a day, for reports. When all places of the day are taken, the cheapest makes room.
local function list_day(key, day, spent)
  local tenant, _, name = parts_of(key)
  local at = tenant .. 'usage:sessions:' .. integer(day)
  if redis.pcall('ZADD', at, spent, name) ~= 1 then return end
  local names = redis.call('ZCARD', at)
  if names > SESSIONS_MAX then redis.call('ZPOPMIN', at) end
  if names == 1 then redis.call('EXPIRE', at, SESSIONS_TTL_S) end
end

-- Words for what charges; the loader puts this text after lists.lua where it is needed.

local DAY_MS = 86400000
local AGENTS_MAX = 1000 -- that the roll-up of a day tells apart
local FIELDS_MAX = 64 -- of a session: beyond them its models are not told apart

-- Adds to what an epoch of a scope has spent and frees what it holds. `epoch` is the one that the hold was made in; an
-- epoch before the previous one has no figures left, and only the total keeps what it cost. A scope that was deleted
-- takes nothing any more. `call` is for the session alone, which keeps statistics: its model, its agent ('' if none) and
-- how many calls it counts as. Whatever is read costs as much as what is done with it: what is seldom needed is read
-- only then, and the lists follow in steps.
local function post(events, now, key, epoch, spend, free, assumed, overrun, call)
  local model = call and call.model .. ':total_nano'
  local was = call
    and redis.call('HMGET', key, 'epoch', 'spent', 'held', 'budget', 'listed_until_nano', 'total_nano', 'requests', 'day', model)
    or redis.call('HMGET', key, 'epoch', 'spent', 'held', 'budget', 'listed_until_nano', 'total_nano')
  local current, change, moved = tonumber(was[1]) or 0, {}, false
  if not was[1] then
    local grave = redis.call('GET', grave_of(key))
    if grave and epoch then return end
    if grave then current, change = tonumber(grave), { 'epoch', grave } end
  end
  local function put(field, before, amount)
    change[#change + 1] = field
    change[#change + 1] = usd((nano(before or '0') or 0) + amount)
  end
  -- Rubbish that a person has left in a statistic must not stop the money; what is beyond a double Redis adds exactly.
  local function add(field, before, amount)
    local sum = (before and tonumber(before) or 0) + amount
    if math.abs(sum) > AMOUNT_MAX then
      redis.pcall('HINCRBY', key, field, integer(amount))
    else
      change[#change + 1] = field
      change[#change + 1] = integer(sum)
    end
    return sum
  end
  local spent, total = 0, 0
  if epoch == nil or epoch == current then
    spent = math.max(0, (nano(was[2] or '0') or 0) + spend)
    change[#change + 1] = 'spent'
    change[#change + 1] = usd(spent)
    put('held', was[3], -free)
    if spend < 0 or (spend > 0 and spent >= (tonumber(was[5]) or 0)) then
      change[#change + 1] = 'listed_until_nano'
      change[#change + 1] = list(key, spent, nano(was[4] or '0') or 0)
      moved = true
    end
  elseif epoch == current - 1 then
    put('previous_spent', redis.call('HGET', key, 'previous_spent'), spend)
    put('previous_held', redis.call('HGET', key, 'previous_held'), -free)
  end
  if assumed ~= 0 then put('assumed', redis.call('HGET', key, 'assumed'), assumed) end
  if overrun ~= 0 then put('overrun', redis.call('HGET', key, 'overrun'), overrun) end
  if spend ~= 0 then total = add('total_nano', was[6], spend) end
  if call and call.count > 0 then
    -- Sessions are not an agent's own; whose they are at the moment is good to know, and seldom changes.
    if add('requests', was[7], call.count) % 16 == 1 and call.agent ~= '' then
      change[#change + 1] = 'agent'
      change[#change + 1] = call.agent
    end
  end
  if call and spend ~= 0 then
    if not was[9] and redis.call('HLEN', key) >= FIELDS_MAX then
      redis.pcall('HINCRBY', key, 'other:total_nano', integer(spend))
    else
      add(model, was[9], spend)
    end
    -- A clock that went back stays in the day that it was in.
    local last, today = tonumber(was[8]), math.floor(now / DAY_MS)
    if not last or today > last then
      if last then list_day(key, last, total - spend - (tonumber(redis.call('HGET', key, 'day_from_nano')) or 0)) end
      list_day(key, today, spend)
      change[#change + 1] = 'day'
      change[#change + 1] = today
      change[#change + 1] = 'day_from_nano'
      change[#change + 1] = total - spend
    elseif moved then
      list_day(key, last, total - (tonumber(redis.call('HGET', key, 'day_from_nano')) or 0))
    end
  end
  if #change > 0 then redis.call('HSET', key, unpack(change)) end
  -- To some nano-USD, which is as cheap as can be.
  if was[4] and spent >= (tonumber(was[4]) or math.huge) * LOWEST then watch(key, events, now, current, was[4], spent) end
end

-- The path of a hold is written as "key epoch key epoch ..."; keys have no spaces.
local function each_scope(path, act)
  for key, epoch in string.gmatch(path, '(%S+) (%d+)') do act(key, tonumber(epoch)) end
end

-- Adds to what an agent has spent on a day, for reports. Agents need no scope of their own for that.
local function note_agent(at, agent, text)
  if agent == '' or redis.pcall('HINCRBY', at, agent, text) ~= tonumber(text) then return end
  -- It has just come up: only now can there be one too many, and only now can it be the first.
  local agents = redis.call('HLEN', at)
  if agents > AGENTS_MAX then redis.call('HDEL', at, agent) end
  if agents == 1 then redis.call('EXPIRE', at, USAGE_TTL_S) end
end

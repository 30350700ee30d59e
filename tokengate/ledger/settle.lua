-- Turns a hold into what the call really cost: once, however often it is said.
--
-- KEYS  1 leases  2 events  3 usage (roll-up of the hour)  4 the roll-up of the day by agent
--       5.. the scopes of the path, the session first  last: the hold
-- ARGV  1 "cost input output" (nano-USD, tokens)  2 now_ms ('0': the server's clock)  3 assumed ('1' | '0')  4 ending
--       5 model  6 record_ttl_ms  7 agent ('' if none)
-- Reply charged (nano-USD), repeated (0 | 1)

local hold, leases, events, usage, session = KEYS[#KEYS], KEYS[1], KEYS[2], KEYS[3], KEYS[5]
local cost, input_tokens, output_tokens = string.match(ARGV[1], '(%d+) (%d+) (%d+)')
local id, assumed, model, agent, now = id_of(hold), ARGV[3] == '1', ARGV[5], ARGV[7], clock(ARGV[2])
cost = tonumber(cost)
local was = redis.call('HMGET', hold, 'state', 'grant', 'path', 'charged')
local state = was[1]
if state == 'settled' then return { nano(was[4]), 1 } end

local before, call = 0, { model = model, agent = agent, count = 1 }
if state == 'held' then
  local grant = nano(was[2])
  local overrun = math.max(0, cost - grant)
  each_scope(was[3], function(key, epoch)
    post(events, now, key, epoch, cost, grant, assumed and cost or 0, overrun, key == session and call)
  end)
  if overrun > 0 then event(events, now, 'overrun', 'hold', id, 'scope', session, 'usd', usd(overrun)) end
elseif state == 'expired' then
  -- It was charged in full when its lease ran out; now the truth is known.
  before = nano(was[4])
  local overrun = math.max(0, cost - before)
  each_scope(was[3], function(key, epoch)
    post(events, now, key, epoch, cost - before, 0, (assumed and cost or 0) - before, overrun, key == session and call)
  end)
  event(events, now, 'late', 'hold', id, 'scope', session, 'usd', usd(cost))
elseif cost > 0 then
  -- The store has lost the hold (a failover before it was replicated): the money is spent all the same.
  for index = 5, #KEYS - 1 do
    post(events, now, KEYS[index], nil, cost, 0, assumed and cost or 0, 0, index == 5 and call)
  end
  event(events, now, 'lost', 'hold', id, 'scope', session, 'usd', usd(cost))
end

redis.call('HSET', hold, 'state', 'settled', 'charged', usd(cost), 'ending', ARGV[4], 'ended_ms', integer(now))
redis.call('PEXPIRE', hold, ARGV[6])
redis.call('ZREM', leases, id)
-- A reservation that never came, and is given up: there was no call.
if not state and cost == 0 then return { 0, 0 } end
local text = integer(cost - before)
redis.pcall('HINCRBY', usage, model .. ':cost_nano', text)
redis.pcall('HINCRBY', usage, model .. ':input_tokens', input_tokens)
redis.pcall('HINCRBY', usage, model .. ':output_tokens', output_tokens)
if redis.pcall('HINCRBY', usage, model .. ':requests', 1) == 1 then redis.call('EXPIRE', usage, USAGE_TTL_S) end
if cost ~= before then note_agent(KEYS[4], agent, text) end
return { cost, 0 }

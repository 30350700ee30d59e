-- Turns a hold into what the call really cost: once, however often it is said.
--
-- KEYS  1 leases  2 events  3 usage (roll-up of the hour)  4 5 the roll-ups of the day by session and by agent
--       6.. the scopes of the path, the session first  last: the hold
-- ARGV  1 "cost input output" (nano-USD, tokens)  2 now_ms ('0': the server's clock)  3 assumed ('1' | '0')  4 ending
--       5 model  6 record_ttl_ms  7 session id  8 agent ('' if none)
-- Reply charged (nano-USD), repeated (0 | 1)

local hold, leases, events, usage, session = KEYS[#KEYS], KEYS[1], KEYS[2], KEYS[3], KEYS[6]
local cost, input_tokens, output_tokens = string.match(ARGV[1], '(%d+) (%d+) (%d+)')
local id, assumed, model, agent, now = id_of(hold), ARGV[3] == '1', ARGV[5], ARGV[8], clock(ARGV[2])
cost = tonumber(cost)
local was = redis.call('HMGET', hold, 'state', 'grant', 'path', 'charged')
local state = was[1]
if state == 'settled' then return { nano(was[4]), 1 } end

local before, deleted = 0, false
if state == 'held' then
  local grant = nano(was[2])
  local overrun = math.max(0, cost - grant)
  each_scope(was[3], function(key, epoch)
    deleted = post(events, now, key, epoch, cost, grant, assumed and cost or 0, overrun) and key == session or deleted
  end)
  if overrun > 0 then event(events, now, 'overrun', 'hold', id, 'scope', session, 'usd', usd(overrun)) end
elseif state == 'expired' then
  -- It was charged in full when its lease ran out; now the truth is known.
  before = nano(was[4])
  local overrun = math.max(0, cost - before)
  each_scope(was[3], function(key, epoch)
    deleted = post(events, now, key, epoch, cost - before, 0, (assumed and cost or 0) - before, overrun) and key == session or deleted
  end)
  event(events, now, 'late', 'hold', id, 'scope', session, 'usd', usd(cost))
elseif cost > 0 then
  -- The store has lost the hold (a failover before it was replicated): the money is spent all the same.
  for index = 6, #KEYS - 1 do post(events, now, KEYS[index], nil, cost, 0, assumed and cost or 0, 0) end
  event(events, now, 'lost', 'hold', id, 'scope', session, 'usd', usd(cost))
end

redis.call('HSET', hold, 'state', 'settled', 'charged', usd(cost), 'ending', ARGV[4])
redis.call('PEXPIRE', hold, ARGV[6])
redis.call('ZREM', leases, id)
-- A reservation that never came, and is given up: there was no call.
if not state and cost == 0 then return { 0, 0 } end
if not deleted then
  local requests = redis.pcall('HINCRBY', session, 'requests', 1)
  -- Sessions are not an agent's own; whose they are at the moment is good to know, and seldom changes.
  if agent ~= '' and type(requests) == 'number' and requests % 16 == 1 then redis.call('HSET', session, 'agent', agent) end
end
redis.pcall('HINCRBY', usage, model .. ':cost_nano', integer(cost - before))
redis.pcall('HINCRBY', usage, model .. ':input_tokens', input_tokens)
redis.pcall('HINCRBY', usage, model .. ':output_tokens', output_tokens)
if redis.pcall('HINCRBY', usage, model .. ':requests', 1) == 1 then redis.call('EXPIRE', usage, USAGE_TTL_S) end
if cost ~= before then
  if not deleted then note_model(session, model, cost - before) end
  note_day(KEYS[4], ARGV[7], cost - before, SESSIONS_TTL_S)
  if agent ~= '' then note_day(KEYS[5], agent, cost - before, USAGE_TTL_S) end
end
return { cost, 0 }

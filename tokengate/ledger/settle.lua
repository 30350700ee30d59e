-- Turns a hold into what the call really cost: once, however often it is said.
--
-- KEYS  1 leases  2 events  3 usage (roll-up of the hour)  4.. the scopes of the path  last: the hold
-- ARGV  1 now_ms ('0': the server's clock)  2 hold id  3 cost (nano-USD)  4 assumed ('1' | '0')  5 ending
--       6 model  7 input tokens  8 output tokens  9 record_ttl_ms  10 usage_ttl_s
-- Reply charged (nano-USD), repeated (0 | 1)

local hold, leases, events, usage, session = KEYS[#KEYS], KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, cost, assumed = ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local now = clock(ARGV[1])
local was = redis.call('HMGET', hold, 'state', 'grant', 'path', 'charged')
local state = was[1]
if state == 'settled' then return { nano(was[4]), 1 } end

local before = 0
if state == 'held' then
  local grant = nano(was[2])
  local overrun = math.max(0, cost - grant)
  each_scope(was[3], function(key, epoch) post(key, epoch, cost, grant, assumed and cost or 0, overrun) end)
  if overrun > 0 then event(events, now, 'overrun', 'hold', id, 'scope', session, 'usd', usd(overrun)) end
elseif state == 'expired' then
  -- It was charged in full when its lease ran out; now the truth is known.
  before = nano(was[4])
  local overrun = math.max(0, cost - before)
  each_scope(was[3], function(key, epoch)
    post(key, epoch, cost - before, 0, (assumed and cost or 0) - before, overrun)
  end)
  event(events, now, 'late', 'hold', id, 'scope', session, 'usd', usd(cost))
else
  -- The store has lost the hold (a failover before it was replicated): the money is spent all the same.
  for index = 4, #KEYS - 1 do post(KEYS[index], nil, cost, 0, assumed and cost or 0, 0) end
  event(events, now, 'lost', 'hold', id, 'scope', session, 'usd', usd(cost))
end

redis.call('HSET', hold, 'state', 'settled', 'charged', usd(cost), 'ending', ARGV[5])
redis.call('PEXPIRE', hold, ARGV[9])
redis.call('ZREM', leases, id)
redis.call('HINCRBY', session, 'requests', 1)
redis.call('HINCRBY', usage, ARGV[6] .. ':cost_nano', integer(cost - before))
redis.call('HINCRBY', usage, ARGV[6] .. ':input_tokens', ARGV[7])
redis.call('HINCRBY', usage, ARGV[6] .. ':output_tokens', ARGV[8])
if redis.call('HINCRBY', usage, ARGV[6] .. ':requests', 1) == 1 then redis.call('EXPIRE', usage, ARGV[10]) end
return { cost, 0 }

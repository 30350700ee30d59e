-- Charges the holds whose lease ran out: in full and flagged, since nobody can say any more what they cost.
--
-- KEYS  1 leases  2 events  3 usage (roll-up of the hour)  4 the roll-up of the day by agent
-- ARGV  1 now_ms ('0': the server's clock)  2 the prefix of hold keys  3 batch  4 record_ttl_ms
-- Reply how many were charged
--
-- The keys of holds and of their scopes are found in the data; they share the hash tag of KEYS, so they live beside them.

local now = clock(ARGV[1])
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', integer(now), 'LIMIT', 0, ARGV[3])
for _, id in ipairs(due) do
  local hold = ARGV[2] .. id
  local was = redis.call('HMGET', hold, 'state', 'grant', 'path', 'session', 'model')
  if was[1] == 'held' then
    local grant = nano(was[2])
    local session
    each_scope(was[3], function(key, epoch)
      local call = not session and { model = was[5], agent = '', count = 0 }
      session = session or key
      post(KEYS[2], now, key, epoch, grant, grant, grant, 0, call)
    end)
    redis.call('HSET', hold, 'state', 'expired', 'charged', usd(grant))
    redis.call('PEXPIRE', hold, ARGV[4])
    redis.pcall('HINCRBY', KEYS[3], was[5] .. ':cost_nano', integer(grant))
    redis.call('EXPIRE', KEYS[3], USAGE_TTL_S)
    note_agent(KEYS[4], redis.call('HGET', session, 'agent') or '', integer(grant))
    event(KEYS[2], now, 'expired', 'hold', id, 'session', was[4], 'usd', usd(grant))
  end
  redis.call('ZREM', KEYS[1], id)
end
return #due

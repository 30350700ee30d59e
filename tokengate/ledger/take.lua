-- Gives the events that nobody has told yet, to one gate at a time and in their order.
--
-- KEYS  1 events  2 reader  3 ends (sorted set: the keys of scopes by the instant at which their freezes end)
-- ARGV  1 now_ms ('0': the server's clock)  2 who asks  3 lease_ms ('0': let go)  4 the id of the last event that it has
--       dealt with ('': none)  5 how many at most  6 quiet_ms ('0': the store was not lost)
--       then pairs to be noted with 4: a scope's key, when its freeze ends ('': it is told of, or there is none)
-- Reply whether it has the lease (1 | 0), whether it may tell that the store is back (1 | 0), then { id, fields } each; and
--       if there is none of these, { '', { key, end_ms } } for each freeze that has ended by itself
--
-- The reader is a hash: told, the id of the last event dealt with; by and until_ms, who has the lease; back_ms and back_by,
-- when and by whom it was last told that the store is back. Whoever has lost the lease cannot move `told` any more. A reader begins with what
-- happens after it was first asked for: what is older is no news.

local now, me, lease, quiet = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[6])
local was = redis.call('HMGET', KEYS[2], 'told', 'by', 'until_ms', 'back_ms', 'back_by')
local reply = { 0, 0 }
if quiet > 0 and (was[5] == me or now - (tonumber(was[4]) or 0) >= quiet) then
  redis.call('HSET', KEYS[2], 'back_ms', integer(now), 'back_by', me)
  reply[2] = 1
end
if was[2] and was[2] ~= me and now < (tonumber(was[3]) or 0) then return reply end
local told = was[1]
if not told then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
  told = last[1] and last[1][1] or '0-0'
end
if was[2] == me then
  if ARGV[4] ~= '' then told = ARGV[4] end
  for index = 7, #ARGV, 2 do
    if ARGV[index + 1] ~= '' then
      redis.call('ZADD', KEYS[3], ARGV[index + 1], ARGV[index])
    else
      redis.call('ZREM', KEYS[3], ARGV[index])
    end
  end
end
redis.call('HSET', KEYS[2], 'told', told, 'by', me, 'until_ms', integer(now + lease))
if lease == 0 then return reply end
reply[1] = 1
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '(' .. told, '+', 'COUNT', ARGV[5])) do reply[#reply + 1] = entry end
if #reply == 2 then
  local ended = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', integer(now), 'WITHSCORES', 'LIMIT', 0, ARGV[5])
  for index = 1, #ended, 2 do reply[#reply + 1] = { '', { ended[index], ended[index + 1] } } end
end
return reply

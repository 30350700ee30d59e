-- Extends the leases of holds that are still held.
--
-- KEYS  1 leases
-- ARGV  1 now_ms ('0': the server's clock)  2 lease_ms  3.. hold ids
-- Reply the ids that have no lease any more (expired, settled or lost)

local expires = clock(ARGV[1]) + tonumber(ARGV[2])
local gone = {}
for index = 3, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[index]) then
    redis.call('ZADD', KEYS[1], 'XX', 'GT', expires, ARGV[index])
  else
    gone[#gone + 1] = ARGV[index]
  end
end
return gone

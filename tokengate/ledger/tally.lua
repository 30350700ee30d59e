-- Adds what a gate has counted to the statistics of an hour: all of it or nothing.
--
-- KEYS  1 stats (of the hour)
-- ARGV  pairs of a field and a whole number
-- Reply how many fields were added to

for index = 1, #ARGV, 2 do redis.pcall('HINCRBY', KEYS[1], ARGV[index], ARGV[index + 1]) end
redis.call('EXPIRE', KEYS[1], USAGE_TTL_S)
return #ARGV / 2

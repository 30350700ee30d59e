-- Posts a line of a journal: what settle.lua does, once for the line, whenever and however often it is said.
-- The loader puts settle.lua before this text, as the function `settle`.
--
-- KEYS  those of settle.lua, then journals
-- ARGV  those of settle.lua, then the journal, the line's number, known ('1': only if the hold is known here)
-- Reply that of settle.lua; repeated is 1 if this line has been posted before, 2 if it was left out by `known`
--
-- `journals` is a hash: for each journal that is not posted in full, the number of the last line that is. Line and
-- charge are noted in one step, so that neither can be lost without the other.

local journals = table.remove(KEYS)
local known, line, journal = table.remove(ARGV), table.remove(ARGV), table.remove(ARGV)

if tonumber(redis.call('HGET', journals, journal) or '0') >= tonumber(line) then return { 0, 1 } end
-- What is not a hash is found out before anything is written.
for index = 5, #KEYS - 1 do redis.call('HGET', KEYS[index], 'epoch') end
local reply = { 0, 2 }
if known == '0' or redis.call('HGET', KEYS[#KEYS], 'state') then reply = settle() end
if reply[1] > 0 then named(KEYS[5], clock(ARGV[2])) end
redis.call('HSET', journals, journal, line)
return reply

-- Words for the few calls that resemble an earlier one, or with which something is full; the loader puts this text before
-- judge.lua. Nothing of it is made for other calls.
--
-- What it needs of the session's history are fields of their own (the packed one is described in judge.lua):
--   a, b, ...  the eight letters of the last calls, each with its ID and, if it was the same as another, after a blank how
--              long it came after the answer to that one (ms)
--   cycle      PERIOD MATCHES PAUSES_MS SINCE_MS SPENT_NANO FIRST
--   failed     MARK TIMES, of the call that failed last
--   tails      MARK COUNTED REPEATS CALL LAST PAUSES_MS FIRST SINCE_MS SPENT_NANO;... of conversations that repeat themselves
--   grown      BYTES SINCE_MS SPENT_NANO FIRST, of a context that has grown by the factor at least once
--   waves      SINCE_MS SPENT_NANO FIRST, of calls that may be multiplying; from the second wave on, WAITS LEAST_MS MOST_MS
--   mean       FROM_MS FROM_NANO, where the mean begins
--   spent0...  STEP NANO FIRST, what had been spent when the last quarters of a minute began; the quarter STEP is in the field
--              of its remainder by SPEND_STEPS

-- How to look closely at one call; what is found is in `findings`: rule, reason, first request, and how strict the rule is.
local function suspect(key, hold, id, now, total, model)
  local look = { findings = {} }

  -- The words are those of tokengate/anomaly/words.py.
  local function dollars(nano)
    if nano > 0 and nano < 1e7 then return string.format('$%.6f', nano / NANO) end
    return string.format('$%.2f', math.max(0, nano) / NANO)
  end
  local function duration(ms)
    local seconds = math.floor(math.max(0, ms) / 1000)
    if seconds < 60 then return string.format('%ds', seconds) end
    if seconds < 3600 then return string.format('%dm%02ds', math.floor(seconds / 60), seconds % 60) end
    return string.format('%dh%02dm', math.floor(seconds / 3600), math.floor(seconds % 3600 / 60))
  end
  local function found(rule, strictness, what, first, cost, since)
    local reason = what .. '; first request ' .. first .. ', last ' .. id
    if cost then reason = reason .. '; spent ' .. dollars(cost) .. ' in ' .. duration(now - since) end
    look.findings[#look.findings + 1] = { rule, reason, first, strictness }
  end

  -- What has become of an earlier call, by its id.
  local function past(name)
    local is = redis.call('HMGET', string.sub(hold, 1, -#id - 1) .. name, 'state', 'ending', 'at_ms', 'ended_ms', 'charged')
    local at, ended = tonumber(is[3] or '0') or 0, tonumber(is[4] or '0') or 0
    local under_way = is[1] == 'held' and now - at <= UNDER_WAY_MS_MAX
    return {
      under_way = under_way, failed = is[1] == 'settled' and is[2] == 'rejected', at = at,
      ended = under_way and now or ended, charged = nano(is[5] or '0') or 0,
    }
  end

  -- A call that is the same as one of the last: how long after the last answer it came (nil: it does not count, as the
  -- earlier one is under way or failed), and whether there is a cycle (0 | 1).
  function look.looping(call, noted, cycle)
    local count, slots, marks, names, pauses = math.min(noted, CALLS_KEPT), {}, {}, {}, {}
    for place = 1, count do slots[place] = string.char(97 + (noted - count + place) % CALLS_KEPT) end
    for place, entry in ipairs(redis.call('HMGET', key, unpack(slots))) do
      local mark, name, pause = string.match(entry or '', '^(........)(%S*) ?(%d*)$')
      marks[place], names[place], pauses[place] = mark, name or '', tonumber(pause) or 0
    end
    local last = count
    while last > 0 and marks[last] ~= call do last = last - 1 end
    -- Only the letters were the same.
    if last == 0 then return 0, 0 end

    local earlier = past(names[last])
    if earlier.under_way then return nil, cycle end
    local was = redis.call('HMGET', key, 'failed', 'cycle')
    local failed, failures = string.match(was[1] or '', '^(%S+) (%d+)$')
    if earlier.failed then
      failures = failed == call and failures + 1 or 1
      redis.call('HSET', key, 'failed', call .. ' ' .. failures)
      if failures % FAILURES_A_REPETITION ~= 0 and now - earlier.ended >= BACK_OFF_MS then
        redis.call('HSET', key, slots[last], call .. id .. ' ' .. integer(pauses[last]))
        return nil, cycle
      end
    elseif failed == call then
      redis.call('HDEL', key, 'failed')
    end

    -- The same one again and again, the latest first.
    local pause = math.max(0, now - earlier.ended)
    local same, sum = {}, pause
    for place = count, count < CALLS_KEPT and 1 or 2, -1 do
      if #same < LOOP_REPEATS - 1 and marks[place] == call then
        same[#same + 1] = names[place]
        if #same < LOOP_REPEATS - 1 then sum = sum + pauses[place] end
      end
    end
    if #same == LOOP_REPEATS - 1 and sum <= LOOP_WINDOW_MS then
      local cost, first = 0, nil
      for _, name in ipairs(same) do
        first = past(name)
        cost = cost + first.charged
      end
      local what = string.format('sent the same request to %s %d times in a row', model, LOOP_REPEATS)
      found('loop', LOOPS, what, same[#same], cost, first.at ~= 0 and first.at or now)
    end

    -- The same few in turn: gone on with, or begun by being the same as one before the last.
    local back = count - last + 1
    local period, matches, paused, since, spent, first
    if cycle == 1 then
      period, matches, paused, since, spent, first = string.match(was[2] or '', '^(%d+) (%d+) (%d+) (%d+) (%-?%d+) (.+)$')
      period = tonumber(period)
      if period and period <= count and marks[count - period + 1] == call then
        matches, paused = matches + 1, paused + math.max(0, now - past(names[count]).ended)
        if paused > LOOP_WINDOW_MS then period = nil end
      else
        period = nil
      end
    end
    if not period and back > 1 and back <= PERIOD_MAX then
      period, matches, paused, first = back, 1, 0, names[last]
      since, spent = integer(earlier.at ~= 0 and earlier.at or now), integer(total - earlier.charged)
    end
    if not period then return pause, 0 end
    local words = { integer(period), integer(matches), integer(paused), since, spent, first }
    redis.call('HSET', key, 'cycle', table.concat(words, ' '))
    local rounds = (matches - 1) / period + 2
    if rounds >= LOOP_REPEATS and rounds == math.floor(rounds) then
      local ending = rounds % 100 > 10 and rounds % 100 < 14 and 'th' or ({ 'st', 'nd', 'rd' })[rounds % 10] or 'th'
      local what = string.format('sent the same %d requests in turn, now for the %d%s time', period, rounds, ending)
      found('loop', LOOPS, what, first, total - spent, since)
    end
    return pause, 1
  end

  -- A request of a conversation that repeats itself.
  function look.circling(mark)
    local call, tail, repeats, what = string.sub(mark, 1, 8), string.match(mark, '^(%S+) (%d+) (.*)$', 17)
    repeats = tonumber(repeats)
    local others, known = {}, nil
    for each in string.gmatch(redis.call('HGET', key, 'tails') or '', '[^;]+') do
      if string.sub(each, 1, #tail + 1) == tail .. ' ' then known = each else others[#others + 1] = each end
    end
    local counted, seen, asked, last, paused, first, since, spent
    if known then
      counted, seen, asked, last, paused, first, since, spent =
        string.match(known, '^%S+ (%d+) (%d+) (%S+) (%S+) (%d+) (%S+) (%d+) (%d+)$')
      seen = tonumber(seen)
      known = seen and repeats * 2 >= seen
    end
    if known then
      local earlier = past(last)
      if earlier.under_way then return end
      local pauses = paused + math.max(0, now - earlier.ended)
      if earlier.failed then
        last = id
      elseif pauses > TOOL_WINDOW_MS then
        known = false
      else
        if repeats > seen or asked == call then counted = counted + 1 end
        seen, asked, last, paused = math.max(repeats, seen), call, id, pauses
      end
    end
    if not known then
      counted, seen, asked, last, paused = TAIL_REPEATS_MIN, repeats, call, id, 0
      first, since, spent = id, integer(now), integer(total)
    end
    others[#others + 1] =
      table.concat({ tail, counted, seen, asked, last, integer(paused), first, since, spent }, ' ')
    redis.call('HSET', key, 'tails', table.concat(others, ';', math.max(1, #others + 1 - TAILS_MAX)))
    if tonumber(counted) < TOOL_LOOP_REPEATS then return end
    local how = { t = 'in a row with the same result', T = 'in turn with the same results', c = 'in one conversation' }
    what = what .. ' ' .. counted .. ' times ' .. (how[string.sub(tail, 1, 1)] or 'in a row')
    found('tool_loop', TOOL_LOOPS, what, first, total - spent, since)
  end

  -- A context that has grown by the factor, for the first time or too often.
  function look.growing(calls, before, bytes)
    if calls == 2 then
      redis.call('HSET', key, 'grown', table.concat({ integer(before), integer(now), integer(total), id }, ' '))
    end
    if calls < GROWTH_CALLS or bytes < GROWTH_BYTES_MIN then return end
    local from, since, spent, first =
      string.match(redis.call('HGET', key, 'grown') or '', '^(%d+) (%d+) (%d+) (.+)$')
    local what = string.format('sent a context that grew %.1f-fold or more with each of %d calls, from %.1f KB to %.1f KB',
      GROWTH_PERCENT / 100, calls - 1, (from or 0) / 1024, bytes / 1024)
    found('growth', GROWTH, what, first or id, total - (spent or total), since or now)
  end

  -- A number of calls is reached at which it is looked whether they multiply: gives whether they may. `wave` is when the one
  -- before was reached; what the first wait was is seen from it and from when the first call came.
  function look.multiplying(calls, wave)
    local waits, least, most = 0, 0, 0
    local function waited(ms)
      if ms < WAVE_MS_MIN then return end
      least = waits > 0 and math.min(least, ms) or ms
      most = math.max(most, ms)
      waits = waits + 1
    end
    local begun, behind = string.match(redis.call('HGET', key, 'waves') or '', '^(%d+ %d+ %S+) ?(.*)$')
    if not begun then return false end
    local since, spent, first = string.match(begun, '^(%d+) (%d+) (%S+)$')
    if calls == WAVES_2 then
      waited(wave - since)
    else
      waits, least, most = string.match(behind, '^(%d+) (%d+) (%d+)$')
      if not waits then return false end
      waits, least, most = tonumber(waits), tonumber(least), tonumber(most)
    end
    waited(now - wave)
    if most > WAVE_LIKE * least then return false end
    redis.call('HSET', key, 'waves', begun .. ' ' .. waits .. ' ' .. integer(least) .. ' ' .. integer(most))
    if calls == WAVES_4 and waits >= WAVES_MIN then
      local what = string.format('made calls that multiply: %d in a few waves, each larger than the one before', calls)
      found('growth', GROWTH, what, first, total - spent, since)
    end
    return true
  end

  -- Spending in a quarter of a minute that begins, or when the last ones cost a lot: gives what was spent when the first of
  -- them began.
  function look.racing(step)
    local was = redis.call('HMGET', key, 'spent0', 'spent1', 'spent2', 'spent3', 'mean')
    local function began(quarter)
      local at, amount, name = string.match(was[quarter % SPEND_STEPS + 1] or '', '^(%d+) (%d+) (.+)$')
      if tonumber(at) == quarter then return tonumber(amount), name end
    end
    local changed = {}
    if not began(step) then
      local entry = integer(step) .. ' ' .. integer(total) .. ' ' .. id
      was[step % SPEND_STEPS + 1] = entry
      changed = { 'spent' .. step % SPEND_STEPS, entry }
    end
    local quarter = step - SPEND_STEPS + 1
    while not began(quarter) do quarter = quarter + 1 end
    local oldest, first = began(quarter)
    local from_ms, from_nano = string.match(was[5] or '', '^(%d+) (%-?%d+)$')
    from_ms, from_nano = tonumber(from_ms), tonumber(from_nano)
    local is_new = not from_ms
    if is_new then from_ms, from_nano = now, total end
    local minute, before_ms, before = total - oldest, quarter * SPEND_STEP_MS - from_ms, oldest - from_nano
    if before_ms > MEAN_OVER_MS then
      -- Older spending counts for less: half the time, and half of what was spent in it.
      from_ms, from_nano, is_new = from_ms + math.floor(before_ms / 2), from_nano + math.floor(before / 2), true
    end
    if is_new then
      changed[#changed + 1] = 'mean'
      changed[#changed + 1] = integer(from_ms) .. ' ' .. integer(from_nano)
    end
    if changed[1] then redis.call('HSET', key, unpack(changed)) end
    if VELOCITY_MAX >= 0 and minute > VELOCITY_MAX then
      local what = 'spent ' .. dollars(minute) .. ' in the last minute, and may spend ' .. dollars(VELOCITY_MAX)
      found('velocity', VELOCITY, what, first)
    elseif VELOCITY_FACTOR > 0 and before_ms >= MEAN_AFTER_MS and minute >= VELOCITY_FLOOR
      and minute * before_ms >= VELOCITY_FACTOR * before * 60000 then
      local mean = dollars(before / (before_ms / 60000)) .. ' a minute in the ' .. duration(before_ms) .. ' before'
      found('velocity', VELOCITY, 'spent ' .. dollars(minute) .. ' in the last minute, after ' .. mean, first)
    end
    return oldest
  end

  return look
end

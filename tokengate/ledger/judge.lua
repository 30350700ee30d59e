-- Words for what looks for runaways; the loader puts this text after suspect.lua where rules do, and writes the rules'
-- thresholds (tokengate/anomaly/constants.py) into it.

-- Takes note of a call that every budget would admit, and says whether it is one too many. The rules are those of
-- tokengate/anomaly, word for word.
--
-- Takes where the session's history is, the hold and the id of the call, now, what the session has spent and how many of its
-- calls have ended, the model, and the call's mark: "call root bytes tail repeats what", the first three of 8, 8 and 10
-- letters, or '' if it has none.
-- Gives nothing; or 'freeze', rule, reason, first request; or 'shadow', rule, and, if that is news, reason, first request.
--
-- The history is a hash beside the session, which ends an hour or so after the last call. What all calls need is one packed
-- field, `history`: nothing is put into words, or taken apart, that need not be. What few calls need are fields of their own,
-- see suspect.lua; so are the last calls, a, b, ..., each with how long it came after the last answer to the same call (ms).
local function judge(key, hold, id, now, total, ended, model, mark)
  total, ended = math.max(0, tonumber(total or '') or 0), tonumber(ended or '') or 0
  local kept, last, noted, cycle, shadow_until, step, from, started, before, calls, peak, wave, waits, least, most, since
  local spent, grown, bytes, first_bytes, grown_since, grown_spent, root, marks, first, grown_first
  local text = redis.call('HGET', key, 'history')
  -- Another number of calls is remembered by a gate with other thresholds.
  if text and string.byte(text) == CALLS_KEPT then
    kept, last, noted, cycle, shadow_until, step, from, started, before, calls, peak, wave, waits, least, most, since, spent,
      grown, bytes, first_bytes, grown_since, grown_spent, root, marks, first, grown_first = struct.unpack(HISTORY_FORMAT, text)
  end
  if not last or now - last > HISTORY_TTL_MS then
    if text then forget_recent(key) end
    last, noted, cycle, shadow_until, step, from, started, before, calls, grown = 0, 0, 0, 0, -1, 0, 0, 0, 0, 0
    wave, root, marks, grown_first = 0, '........', string.rep('.', 8 * CALLS_KEPT), ''
    bytes, first_bytes, grown_since, grown_spent = 0, 0, 0, 0
    peak, waits, least, most, since, spent, first = 0, 0, 0, 0, 0, 0, ''
  end
  local this, look, slot, entry = math.floor(now / SPEND_STEP_MS), nil, nil, nil

  if mark ~= '' then
    local call, asked_root, asked, tail = struct.unpack('c8xc8xc10xc1', mark)
    asked = asked + 0
    -- The same request again, or the same few in turn.
    if LOOPS > 0 then
      local pause = 0
      if string.find(marks, call, 1, true) then
        look = look or suspect(key, hold, id, now, total, model)
        pause, cycle = look.looping(call, marks, noted, cycle)
      else
        cycle = 0
      end
      if pause then
        noted = noted + 1
        slot, entry = string.char(97 + noted % CALLS_KEPT), (pause == 0 and '0 ' or integer(pause) .. ' ') .. id
        marks = string.sub(marks, 9) .. call
      end
    end
    -- A conversation that says the same again and again.
    if TOOL_LOOPS > 0 and tail ~= '-' then
      look = look or suspect(key, hold, id, now, total, model)
      look.circling(mark)
    end
    -- A context that grows by a factor with every call.
    if GROWTH > 0 and (asked ~= bytes or asked_root ~= root) then
      if grown > 0 and asked_root == root and asked * 100 >= bytes * GROWTH_PERCENT then
        grown, bytes = grown + 1, asked
        if grown >= GROWTH_CALLS and bytes >= GROWTH_BYTES_MIN then
          look = look or suspect(key, hold, id, now, total, model)
          look.grew(grown, first_bytes, bytes, grown_first, grown_since, grown_spent)
        end
      else
        grown, root, bytes, first_bytes, grown_first, grown_since, grown_spent = 1, asked_root, asked, asked, id, now, total
      end
    end
  end

  -- Calls that multiply.
  if GROWTH > 0 then
    if started == 0 then before = ended end
    started = started + 1
    local under_way = started - (ended - before)
    local anew = calls == 0 or now - wave > WAVE_MS_MAX or calls >= WAVES_4
    if not anew then
      calls = calls + 1
      if under_way > peak then peak = under_way end
      if calls == WAVES_1 or calls == WAVES_2 or calls == WAVES_3 or calls == WAVES_4 then
        local wait = now - wave
        if wait >= WAVE_MS_MIN then
          least = waits > 0 and math.min(least, wait) or wait
          most = math.max(most, wait)
          waits = waits + 1
        end
        anew = most > WAVE_LIKE * least or peak * WAVE_LIKE < calls
        if not anew then
          wave, peak = now, under_way
          if calls == WAVES_4 and waits >= WAVES_MIN then
            look = look or suspect(key, hold, id, now, total, model)
            look.multiplied(calls, first, since, spent)
          end
        end
      end
    end
    if anew then
      calls, peak, wave, waits, least, most, first, since, spent = 1, under_way, now, 0, 0, 0, id, now, total
    end
  end

  -- Spending.
  if VELOCITY > 0 then
    if this ~= step or total - from > VELOCITY_LOOK then
      look = look or suspect(key, hold, id, now, total, model)
      from = look.racing(this)
    end
  end

  local findings = look and look.findings
  if findings and findings[1] then
    for _, finding in ipairs(findings) do
      if finding[4] == 2 then return 'freeze', finding[1], finding[2], finding[3] end
    end
  end
  local rule, reason, first_id
  if SHADOWS > 0 then
    if now < shadow_until then
      rule = redis.call('HGET', key, 'shadow')
    elseif findings and findings[1] then
      rule, reason, first_id = findings[1][1], findings[1][2], findings[1][3]
      shadow_until = now + FREEZE_MS
      redis.call('HSET', key, 'shadow', rule)
    end
  end
  local line = struct.pack(HISTORY_FORMAT, CALLS_KEPT, now, noted, cycle, shadow_until, this, from, started, before, calls, peak,
    wave, waits, least, most, since, spent, grown, bytes, first_bytes, grown_since, grown_spent, root, marks, first, grown_first)
  if entry then
    redis.call('HSET', key, 'history', line, slot, entry)
  else
    redis.call('HSET', key, 'history', line)
  end
  if this ~= step then
    redis.call('PEXPIRE', key, HISTORY_TTL_MS + SPEND_STEP_MS)
  end
  if rule then return 'shadow', rule, reason, first_id end
end

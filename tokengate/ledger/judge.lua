-- Words for what looks for runaways; the loader puts this text after suspect.lua where rules do, and writes the rules'
-- thresholds (tokengate/anomaly/constants.py) into it.

-- Takes note of a call that every budget would admit, and says whether it is one too many. The rules are those of
-- tokengate/anomaly, word for word.
--
-- Takes where the session's history is, the hold and the id of the call, now, what the session has spent and how many of its
-- calls have ended, the model, and the call's mark: digests of it and of its root, size, and "tail repeats what" if it
-- repeats itself; '' if it has none.
-- Gives nothing; or 'freeze', rule, reason, first request; or 'shadow', rule, and, if that is news, reason, first request.
--
-- The history is a hash beside the session, which ends an hour or so after the last call. What all calls need is one packed
-- field, `history`: nothing is put into words, or taken apart, that need not be. What few calls need are fields of their own,
-- see suspect.lua; so are the last calls, of which the packed field has the first two letters only. No field of an ordinary
-- call has more than 64 bytes, so that Redis keeps them together (hash-max-listpack-value).
local function judge(key, hold, id, now, total, ended, model, mark)
  total, ended = tonumber(total or '') or 0, tonumber(ended or '') or 0
  if total < 0 then total = 0 end
  local kind, noted, cycle, calls, peak, grown, last, from, made, wave, bytes, root, oldest, others
  local text = redis.call('HGET', key, 'history')
  if text then
    kind, noted, cycle, calls, peak, grown, last, from, made, wave, bytes, root, oldest, others =
      struct.unpack(HISTORY_FORMAT, text)
    wave = last - wave
  end
  -- A gate with other thresholds remembers another number of calls.
  if kind ~= HISTORY_KIND or now - last > HISTORY_TTL_MS then
    if text then forget_recent(key) end
    noted, cycle, calls, peak, grown, last, from, made, wave, bytes = 0, 0, 0, 0, 0, -1, 0, ended, 0, 0
    root, oldest, others = '....', '..', string.rep('..', CALLS_KEPT - 1)
  end
  local same_step = last - last % SPEND_STEP_MS == now - now % SPEND_STEP_MS
  -- The letters of the last calls are all but the oldest, and then this one's, without being put together.
  local look, slot, entry, before, latest

  if mark ~= '' then
    local call, asked_root, asked = struct.unpack('<c8c4I4', mark)
    -- The same request again, or the same few in turn.
    if LOOPS > 0 then
      local pause, letters = 0, string.sub(call, 1, 2)
      if oldest == letters or string.find(others, letters, 1, true) then
        look = suspect(key, hold, id, now, total, model)
        pause, cycle = look.looping(call, noted, cycle)
      else
        cycle = 0
      end
      if pause then
        noted = noted + 1
        if noted > 2 * CALLS_KEPT then noted = noted - CALLS_KEPT end
        slot, entry = string.char(97 + noted % CALLS_KEPT), call .. id
        if pause > 0 then entry = entry .. ' ' .. integer(pause) end
        before, latest = others, letters
      end
    end
    -- A conversation that says the same again and again.
    if TOOL_LOOPS > 0 and #mark > 16 then
      look = look or suspect(key, hold, id, now, total, model)
      look.circling(mark)
    end
    -- A context that grows by a factor with every call.
    if GROWTH > 0 and (asked ~= bytes or asked_root ~= root) then
      if grown > 0 and asked_root == root and asked * 100 >= bytes * GROWTH_PERCENT then
        grown = grown + 1
        if grown == 2 or (grown >= GROWTH_CALLS and asked >= GROWTH_BYTES_MIN) then
          look = look or suspect(key, hold, id, now, total, model)
          look.growing(grown, bytes, asked)
        end
      else
        grown, root = 1, asked_root
      end
      bytes = asked
    end
  end

  -- Calls that multiply: `made` are those that have been, and those that had ended before.
  if GROWTH > 0 then
    made = made + 1
    local under_way = made - ended
    if under_way < 0 then under_way = 0 elseif under_way > 255 then under_way = 255 end
    local anew = calls == 0 or now - wave > WAVE_MS_MAX or calls >= WAVES_4
    if not anew then
      calls = calls + 1
      if under_way > peak then peak = under_way end
      if calls == WAVES_1 or calls == WAVES_2 or calls == WAVES_3 or calls == WAVES_4 then
        anew = peak * WAVE_LIKE < calls
        if not anew and calls ~= WAVES_1 then
          look = look or suspect(key, hold, id, now, total, model)
          anew = not look.multiplying(calls, wave)
        end
        wave, peak = now, under_way
      end
    end
    if anew then
      calls, peak, wave = 1, under_way, now
      redis.call('HSET', key, 'waves', integer(now) .. ' ' .. integer(total) .. ' ' .. id)
    end
  end

  -- Spending.
  if VELOCITY > 0 and (not same_step or total - from > VELOCITY_LOOK) then
    look = look or suspect(key, hold, id, now, total, model)
    from = look.racing(math.floor(now / SPEND_STEP_MS))
  end

  local findings = look and look.findings
  if findings and findings[1] then
    for _, finding in ipairs(findings) do
      if finding[4] == 2 then return 'freeze', finding[1], finding[2], finding[3] end
    end
  end
  local rule, reason, first_id
  if SHADOWS > 0 then
    local until_ms
    until_ms, rule = string.match(redis.call('HGET', key, 'shadow') or '', '^(%d+) (.+)$')
    if rule and now >= tonumber(until_ms) then rule = nil end
    if not rule and findings and findings[1] then
      rule, reason, first_id = findings[1][1], findings[1][2], findings[1][3]
      redis.call('HSET', key, 'shadow', integer(now + FREEZE_MS) .. ' ' .. rule)
    end
  end
  if not latest then
    before, latest = string.sub(oldest .. others, 1, -3), string.sub(others, -2)
  end
  local line = struct.pack(HISTORY_WRITTEN, HISTORY_KIND, noted, cycle, calls, peak, grown, now, from, made, now - wave, bytes,
    root, before, latest)
  if entry then
    redis.call('HSET', key, 'history', line, slot, entry)
  else
    redis.call('HSET', key, 'history', line)
  end
  if not same_step then
    redis.call('PEXPIRE', key, HISTORY_TTL_MS + SPEND_STEP_MS)
  end
  if rule then return 'shadow', rule, reason, first_id end
end

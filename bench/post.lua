-- What wrk sends: small chat completions, as an SDK would; each asks for something else, as the same again and again is a loop.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json"
wrk.headers["Authorization"] = "Bearer sk-bench"
wrk.headers["X-Session-ID"] = "bench"

local began = '{"model":"gpt-4o-mini","max_tokens":64,"messages":[{"role":"system","content":"You are brief."},'
  .. '{"role":"user","content":"Say something about gate '
local asked = 0

function request()
  asked = asked + 1
  return wrk.format(nil, nil, nil, string.format('%s%09d."}]}', began, asked))
end

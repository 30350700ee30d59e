-- What wrk sends: one small chat completion, as an SDK would.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json"
wrk.headers["Authorization"] = "Bearer sk-bench"
wrk.headers["X-Session-ID"] = "bench"
wrk.body = '{"model":"gpt-4o-mini","max_tokens":64,"messages":[{"role":"system","content":"You are brief."},'
  .. '{"role":"user","content":"Say something about gates."}]}'

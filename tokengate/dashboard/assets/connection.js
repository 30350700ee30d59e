// The admin API, as this page asks it: with the session's cookie, and never for longer than a reader would wait.

const API = "/api/dashboard";
const TIMEOUT_MS = 8000;

/** The server answered, and said no; `message` is its reason, for people. */
export class Refused extends Error {
  constructor(status, error) {
    super(error.message ?? `The server answered with ${status}.`);
    this.status = status;
    this.code = error.code ?? "";
  }
}

/** The server did not answer, or with something that is not the API. */
export class Unreachable extends Error {}

async function ask(method, path, body) {
  let response;
  let answer;
  try {
    response = await fetch(`${API}${path}`, {
      method,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    answer = response.status === 204 ? {} : await response.json();
  } catch (error) {
    throw new Unreachable(error.name === "TimeoutError" ? `no answer within ${TIMEOUT_MS / 1000} s` : "no connection");
  }
  if (!response.ok) throw new Refused(response.status, answer.error ?? {});
  return answer;
}

function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length === 0 ? "" : `?${new URLSearchParams(given)}`;
}

export const get = (path, parameters = {}) => ask("GET", path + query(parameters));
export const post = (path, body = {}) => ask("POST", path, body);

/** The path of an account: a session, an agent or the tenant. */
export const pathOf = ({ kind, name }) => `/${kind}/${encodeURIComponent(name)}`;

/** An account as this page uses it: amounts as numbers, which show any amount to the nano-dollar. */
export function account(row) {
  const amounts = ["budget", "spent", "held", "remaining", "total", "assumed", "overrun"];
  return { ...row, ...Object.fromEntries(amounts.map((name) => [name, Number(row[`${name}_usd`])])) };
}

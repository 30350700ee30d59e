// The page: asks every ten seconds, shows what has changed, and says so when it cannot.

import { SpendCharts, RANGES, boundaries, showRanks } from "./charts.js";
import { Refused, get, post } from "./connection.js";
import { Details } from "./details.js";
import { attribute, byId, el, mark, say } from "./dom.js";
import { showLatest } from "./events.js";
import { clockTime, compact, span, words } from "./format.js";
import { Frozen } from "./frozen.js";
import { Sessions } from "./sessions.js";
import { showTiles } from "./tiles.js";

const REFRESH_MS = 10_000;
const EVENTS_SHOWN = 15;
const SERIES_SHOWN = 6;

/** What is blocked by, for people; reasons that are not here are shown by their names. */
const REASONS = {
  budget_exceeded: "Budget used up",
  budget_busy: "Budget held by others",
  budget_invalid: "Budget unreadable",
  rate_limited: "Too many requests",
  session_frozen: "Frozen",
  sessions_full: "Too many sessions",
};

class Page {
  constructor() {
    const open = (row) => this.details.open(row);
    const changed = () => this.refresh();
    this.sessions = new Sessions({ open, changed, refetch: () => this.list() });
    this.frozen = new Frozen({ open, changed, all: () => this.#allFrozen() });
    this.details = new Details({ changed });
    this.charts = new SpendCharts();
    this.range = "day";
    this.paused = false;
    this.timer = 0;
    this.round = 0;
    this.good_ms = null;
    this.skew_ms = 0;
    this.failed_ms = null;
    this.problem = "";
    this.#controls();
  }

  async start() {
    this.#setAccess(await this.#patiently(() => get("/access")));
    await this.refresh();
    setInterval(() => this.#showAge(), 1000);
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && !this.paused) this.refresh();
    });
  }

  /** Ask until there is an answer: the first thing to know is who we are. */
  async #patiently(ask) {
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        this.#failed(error);
        await new Promise((resolve) => {
          this.wake = resolve;
          setTimeout(resolve, REFRESH_MS);
        });
      }
    }
  }

  #setAccess({ role, tenant, version }) {
    const readOnly = role !== "admin";
    for (const each of [this.sessions, this.frozen, this.details]) each.readOnly = readOnly;
    byId("readonly").hidden = !readOnly;
    byId("tenant").hidden = false;
    say(byId("tenant"), tenant);
    say(byId("foot"), `TokenGate ${version}. Days are those of UTC.`);
  }

  // --- asking ---

  /** Ask for everything now, and again in a while. */
  async refresh() {
    clearTimeout(this.timer);
    const round = (this.round += 1);
    this.wake?.();
    try {
      const answers = await this.#fetch();
      if (round === this.round) this.#show(answers);
    } catch (error) {
      if (round === this.round) this.#failed(error);
    }
    if (round === this.round && !this.paused) this.timer = setTimeout(() => this.#tick(), REFRESH_MS);
    await this.details.refresh();
  }

  #tick() {
    // Nobody looks: it is asked again when somebody does.
    if (!document.hidden) this.refresh();
  }

  async #fetch() {
    const { range } = this;
    const starts = boundaries(range, Date.now() + this.skew_ms);
    const spend = { by: "model", per: RANGES[range].per, from_ms: starts[0], to_ms: starts.at(-1), series_max: SERIES_SHOWN };
    const [stats, page, spent, events] = await Promise.all([
      get("/stats"),
      get("/sessions", this.sessions.question),
      get("/spend", spend),
      get("/events", { limit: EVENTS_SHOWN }),
    ]);
    const anything = stats.sessions_frozen + stats.agents_frozen > 0;
    const frozen = anything ? await this.frozen.fetch() : [];
    return { stats, page, spent, events, frozen, range };
  }

  /** Ask for the list alone, because another question was asked. */
  async list() {
    const asked = JSON.stringify(this.sessions.question);
    byId("sessions-body").setAttribute("aria-busy", "true");
    try {
      const page = await get("/sessions", this.sessions.question);
      if (asked === JSON.stringify(this.sessions.question)) this.sessions.show(page, page.now_ms);
    } catch (error) {
      this.#failed(error);
    } finally {
      byId("sessions-body").removeAttribute("aria-busy");
    }
  }

  // --- showing ---

  #show({ stats, page, spent, events, frozen, range }) {
    const now = stats.now_ms;
    this.good_ms = Date.now();
    this.skew_ms = now - this.good_ms;
    this.failed_ms = null;
    this.frozen.show(frozen, stats.sessions_frozen + stats.agents_frozen, now);
    showTiles(stats);
    if (range === this.range) this.charts.show(spent, range, now);
    this.#showBlocked(stats.blocked_today);
    this.sessions.show(page, now);
    showLatest(events.events, now, (row) => this.details.open(row));
    byId("main").removeAttribute("aria-busy");
    this.#showAge();
  }

  #showBlocked(blocked) {
    const ranks = Object.entries(blocked)
      .filter(([, number]) => number > 0)
      .sort(([, a], [, b]) => b - a)
      .map(([reason, number]) => ({ name: REASONS[reason] ?? words(reason), size: number, text: compact(number), sub: "", colour: "sb" }));
    showRanks(byId("blocked-chart"), ranks, "Nothing was blocked today. Calls that are refused are counted here by their reason.");
  }

  #failed(error) {
    if (error instanceof Refused && error.status === 401) {
      // The session is over: the same address shows the login, and afterwards this place again.
      location.reload();
      return;
    }
    this.failed_ms ??= Date.now();
    this.problem = error instanceof Refused ? error.message : `The server cannot be reached (${error.message}).`;
    this.#showAge();
  }

  #showAge() {
    const failing = this.failed_ms !== null;
    const state = failing ? "stale" : this.paused ? "paused" : this.good_ms === null ? "loading" : "live";
    mark(byId("live"), "state", state);
    say(byId("live-text"), { stale: "Not up to date", paused: "Paused", loading: "Loading", live: "Live" }[state]);
    attribute(byId("live"), "title", this.good_ms === null ? null : `As of ${clockTime(this.good_ms)}`);
    mark(byId("main"), "old", failing ? "true" : "");
    if (failing) {
      say(byId("stale-title"), this.problem);
      const age = this.good_ms === null ? "" : `Shown is how things stood at ${clockTime(this.good_ms)}. `;
      say(byId("stale-text"), `${age}It is tried again every ${span(REFRESH_MS / 1000)}.`);
    }
    byId("stale").hidden = !failing;
  }

  // --- controls ---

  #controls() {
    byId("refresh").addEventListener("click", () => this.refresh());
    byId("stale-retry").addEventListener("click", () => this.refresh());
    byId("pause").addEventListener("click", () => this.#pause());
    byId("theme").addEventListener("click", nextTheme);
    byId("logout").addEventListener("click", async () => {
      await post("/logout").catch(() => {});
      location.assign(location.pathname);
    });
    byId("range").append(
      ...Object.entries(RANGES).map(([name, { text, said }]) =>
        el("button", { type: "button", data: { value: name }, "aria-label": said, on: { click: () => this.#choose(name) } }, text),
      ),
    );
    this.#markRange();
    say(byId("blocked-range"), "Today");
    showTheme();
  }

  #choose(name) {
    this.range = name;
    this.#markRange();
    this.refresh();
  }

  #markRange() {
    for (const choice of byId("range").children) attribute(choice, "aria-pressed", String(choice.dataset.value === this.range));
  }

  #pause() {
    this.paused = !this.paused;
    attribute(byId("pause"), "aria-pressed", String(this.paused));
    if (this.paused) clearTimeout(this.timer);
    else this.refresh();
    this.#showAge();
  }

  #allFrozen() {
    this.sessions.filter("frozen");
    byId("sessions").scrollIntoView({ block: "start" });
    byId("sessions").focus({ preventScroll: true });
  }
}

const THEMES = { auto: "as the system", light: "light", dark: "dark" };

function showTheme() {
  const text = `Colours: ${THEMES[document.documentElement.dataset.theme]}`;
  attribute(byId("theme"), "aria-label", text);
  attribute(byId("theme"), "title", text);
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const { dataset } = document.documentElement;
  dataset.theme = names[(names.indexOf(dataset.theme) + 1) % names.length];
  try {
    localStorage.setItem("tokengate-theme", dataset.theme);
  } catch {
    // It holds until the page is left.
  }
  showTheme();
}

new Page().start();

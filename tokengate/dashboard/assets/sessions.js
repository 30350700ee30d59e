// The table of sessions, or of agents: asked for page by page, kept row by row.

import { account } from "./connection.js";
import { showActions } from "./dialogs.js";
import { attribute, byId, el, mark, reconcile, say } from "./dom.js";
import { ago, ahead, count, many, percent, usd } from "./format.js";

const PAGE = 25;
const OVER_PERCENT = 80;

const COLUMNS = [
  { sort: "name", text: "Name" },
  { text: "State" },
  { sort: "share", text: "Budget", descending: true },
  { sort: "spent", text: "Spent", descending: true, class: "number" },
  { text: "Remaining", class: "number" },
  { text: "Requests", class: "number" },
  { text: "Blocked", class: "number" },
  { sort: "activity", text: "Last active", descending: true },
  { text: "Actions", unseen: true },
];

const CHOICES = {
  kind: [
    ["session", "Sessions"],
    ["agent", "Agents"],
  ],
  show: [
    ["all", "All"],
    ["frozen", "Frozen"],
    ["over", `Over ${OVER_PERCENT}%`],
  ],
};

const USUAL = { kind: "session", show: "all", sort: "activity", order: "desc", text: "" };

/** How near an account is to its end, which is what its bar and its words are coloured by. */
function tone(row) {
  const share = row.budget > 0 ? (row.spent + row.held) / row.budget : 1;
  return share >= 0.995 ? "danger" : share >= OVER_PERCENT / 100 ? "warn" : "";
}

/** A bar of what is spent and held of a budget, with the same in words. */
export function meter({ brief = false } = {}) {
  const spent = el("span", { class: "spent" });
  const held = el("span", { class: "held" });
  const figure = el("span", { class: "of" });
  const share = el("span", { class: "percent" });
  const bar = el("div", { class: "bar", "aria-hidden": "true" }, held, spent);
  const node = el("div", { class: "meter" }, bar, el("div", { class: "words" }, share, figure));
  node.show = (row) => {
    const part = (amount) => `${row.budget > 0 ? Math.min(100, (100 * amount) / row.budget).toFixed(2) : 100}%`;
    mark(node, "tone", tone(row));
    spent.style.width = part(row.spent);
    held.style.width = part(row.spent + row.held);
    const holding = row.held > 0 ? `${usd(row.held)} held, ` : "";
    say(share, row.budget > 0 ? `${percent(row.spent / row.budget)} of ${usd(row.budget)}` : "No budget");
    say(figure, brief ? holding.replace(", ", "") : `${usd(row.spent)} spent, ${holding}${usd(row.remaining)} left`);
  };
  return node;
}

/** The state of an account in a word, and its colour. */
export function state(row) {
  if (row.frozen) return ["Frozen", "frozen"];
  if (row.fault) return ["Budget unreadable", "danger"];
  if (row.remaining <= 0) return row.held > 0 ? ["Fully held", "warn"] : ["Used up", "danger"];
  return tone(row) === "" ? ["Active", "good"] : ["Nearly used up", tone(row)];
}

export function untilText(row, now) {
  return row.frozen_until_ms === null ? "until it is lifted" : `thaws ${ahead(row.frozen_until_ms, now)}`;
}

export class Sessions {
  /** `open` shows an account's details; `changed` fetches anew after a change, `refetch` after another question. */
  constructor({ open, changed, refetch }) {
    this.open = open;
    this.changed = changed;
    this.refetch = refetch;
    this.readOnly = true;
    this.asked = { ...USUAL };
    this.trail = [];
    this.offset = 0;
    this.next = null;
    this.#read();
    this.#head();
    this.#filters();
    byId("next").addEventListener("click", () => this.#turn(this.next, [...this.trail, this.offset]));
    byId("previous").addEventListener("click", () => this.#turn(this.trail.at(-1) ?? 0, this.trail.slice(0, -1)));
  }

  /** The parameters of the list that is shown. */
  get question() {
    const { kind, show, sort, order, text } = this.asked;
    return {
      kind,
      sort,
      text,
      descending: order === "desc",
      frozen: show === "frozen" ? true : null,
      over_percent: show === "over" ? OVER_PERCENT : null,
      offset: this.offset,
      limit: PAGE,
    };
  }

  show(page, now) {
    this.next = page.next_offset;
    const rows = page.rows.map(account);
    const keyOf = (row) => `${row.kind} ${row.name}`;
    reconcile(byId("sessions-body"), rows, keyOf, () => this.#row(), (node, row) => node.show(row, now));
    this.#pages(page, rows.length);
    this.#empty(rows.length === 0);
  }

  filter(show) {
    this.#ask({ show });
  }

  // --- one row ---

  #row() {
    const name = el("button", { type: "button", class: "session-link", on: { click: () => this.open(node.row) } });
    const agent = el("div", { class: "agent" });
    const badge = el("span", { class: "badge" });
    const bar = meter({ brief: true });
    const number = (key, label) => el("td", { role: "cell", class: `number ${key}`, "data-label": label });
    const cells = {
      spent: number("spent", "Spent"),
      remaining: number("remaining", "Remaining"),
      requests: number("requests", "Requests"),
      blocked: number("blocked", "Blocked"),
    };
    const when = el("time", {});
    const acting = el("div", { class: "row-actions" });
    const node = el(
      "tr",
      { role: "row" },
      el("td", { role: "cell", class: "name" }, name, agent),
      el("td", { role: "cell", class: "state" }, badge),
      el("td", { role: "cell", class: "budget" }, bar),
      ...Object.values(cells),
      el("td", { role: "cell", class: "when" }, when),
      el("td", { role: "cell", class: "actions" }, acting),
    );
    node.show = (row, now) => {
      node.row = row;
      say(name, row.name);
      attribute(name, "title", row.name);
      say(agent, row.agent);
      const [text, colour] = state(row);
      say(badge, text);
      mark(badge, "tone", colour);
      attribute(badge, "title", row.frozen ? `${row.frozen_reason || "No reason given"} (${untilText(row, now)})` : row.fault || null);
      bar.show(row);
      say(cells.spent, usd(row.spent));
      say(cells.remaining, usd(row.remaining));
      // Calls are counted by session alone.
      say(cells.requests, row.kind === "session" ? count(row.requests) : "–");
      say(cells.blocked, row.kind === "session" ? count(row.blocked) : "–");
      say(when, row.last_active_ms === null ? "Never" : ago(row.last_active_ms, now));
      attribute(when, "datetime", row.last_active_ms === null ? null : new Date(row.last_active_ms).toISOString());
      if (!this.readOnly) showActions(acting, row, this.changed);
    };
    return node;
  }

  // --- what is asked for ---

  #head() {
    const line = byId("sessions-head");
    for (const column of COLUMNS) {
      const cell = el("th", { role: "columnheader", scope: "col", class: column.class });
      if (column.sort) cell.append(el("button", { type: "button", on: { click: () => this.#sort(column) } }, column.text));
      else cell.append(el("span", { class: column.unseen ? "unseen" : null }, column.text));
      cell.sort = column.sort;
      line.append(cell);
    }
    const choices = COLUMNS.filter((column) => column.sort);
    byId("sort").append(...choices.map((column) => el("option", { value: column.sort }, column.text)));
    byId("sort").addEventListener("change", (event) => {
      this.#sort(choices.find((column) => column.sort === event.target.value));
    });
  }

  #sort(column) {
    const usual = column.descending ? "desc" : "asc";
    const other = this.asked.order === "asc" ? "desc" : "asc";
    this.#ask({ sort: column.sort, order: this.asked.sort === column.sort ? other : usual });
  }

  #filters() {
    const search = byId("search");
    search.value = this.asked.text;
    let waiting = 0;
    search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.#ask({ text: search.value.trim() }), 200);
    });
    for (const [name, choices] of Object.entries(CHOICES)) {
      const choose = (value) => () => this.#ask({ [name]: value });
      byId(name).append(
        ...choices.map(([value, text]) => el("button", { type: "button", data: { value }, on: { click: choose(value) } }, text)),
      );
    }
    this.#showAsked();
  }

  #showAsked() {
    for (const name of Object.keys(CHOICES)) {
      for (const choice of byId(name).children) {
        attribute(choice, "aria-pressed", String(choice.dataset.value === this.asked[name]));
      }
    }
    const { sort, order } = this.asked;
    for (const cell of byId("sessions-head").children) {
      attribute(cell, "aria-sort", cell.sort === sort ? (order === "asc" ? "ascending" : "descending") : null);
    }
    byId("sort").value = sort;
  }

  #ask(change) {
    Object.assign(this.asked, change);
    this.trail = [];
    this.offset = 0;
    this.#write();
    this.#showAsked();
    this.refetch();
  }

  async #turn(offset, trail) {
    this.offset = offset;
    this.trail = trail;
    await this.refetch();
    byId("sessions").scrollIntoView({ block: "start" });
  }

  /** The question is kept in the address, so that a reload, a login or a colleague comes to the same place. */
  #write() {
    const kept = Object.entries(this.asked).filter(([name, value]) => value !== USUAL[name]);
    history.replaceState(null, "", kept.length === 0 ? location.pathname : `?${new URLSearchParams(kept)}`);
  }

  #read() {
    const kept = new URLSearchParams(location.search);
    const allowed = {
      kind: CHOICES.kind.map(([value]) => value),
      show: CHOICES.show.map(([value]) => value),
      sort: COLUMNS.map((column) => column.sort).filter(Boolean),
      order: ["asc", "desc"],
    };
    this.asked.text = (kept.get("text") ?? "").slice(0, byId("search").maxLength);
    for (const [name, values] of Object.entries(allowed)) {
      if (values.includes(kept.get(name))) this.asked[name] = kept.get(name);
    }
  }

  // --- around the rows ---

  #pages(page, shown) {
    const first = this.offset + 1;
    const more = page.next_offset !== null;
    byId("pages").hidden = this.offset === 0 && !more;
    byId("previous").disabled = this.offset === 0;
    byId("next").disabled = !more;
    // A search's offset counts what was looked at: its pages have no numbers.
    say(byId("page-text"), shown === 0 ? "No more" : page.total === null ? "" : `${count(first)} to ${count(first + shown - 1)}`);
    say(byId("sessions-count"), this.#count(page, shown));
  }

  #count(page, shown) {
    const noun = this.asked.kind;
    if (this.asked.text === "" && this.asked.show === "all") return many(page.total ?? page.of, noun);
    if (page.total !== null) return `${count(page.total)} of ${many(page.of, noun)}`;
    return this.offset === 0 && page.next_offset === null ? `${count(shown)} of ${many(page.of, noun)}` : "";
  }

  #empty(none) {
    byId("sessions-scroll").hidden = none;
    const place = byId("sessions-empty");
    place.hidden = !none;
    if (!none) return;
    const { kind, show, text } = this.asked;
    const why = text !== "" || show !== "all" ? `${kind} ${show}` : kind;
    if (place.dataset.why === why) return;
    place.dataset.why = why;
    place.replaceChildren(...(why !== kind ? this.#nothingFound() : kind === "agent" ? noAgents() : firstCall()));
  }

  #nothingFound() {
    const clear = () => {
      byId("search").value = "";
      this.#ask({ text: "", show: "all" });
      byId("search").focus();
    };
    const frozen = this.asked.show === "frozen" && this.asked.text === "";
    return [
      el("strong", {}, frozen ? "Nothing is frozen" : "Nothing found"),
      el("p", {}, frozen ? "What a rule or a person freezes is listed here, with the reason." : "No name contains that."),
      el("button", { type: "button", class: "button", on: { click: clear } }, "Show all"),
    ];
  }
}

function noAgents() {
  return [
    el("strong", {}, "No agents yet"),
    el("p", {}, "An agent is a workload with a budget over all of its sessions: give its gate the settings AGENT and AGENT_BUDGET."),
  ];
}

function firstCall() {
  const base = `${location.origin}/v1`;
  return [
    el("strong", {}, "No calls yet"),
    el("p", {}, "A session appears here with its first call. Give an OpenAI client the gate's base URL, and name a session:"),
    el(
      "pre",
      { tabindex: "0" },
      [
        `curl ${base}/chat/completions \\`,
        "  -H 'Content-Type: application/json' \\",
        "  -H 'X-Session-ID: my-session' \\",
        `  -d '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}'`,
      ].join("\n"),
    ),
  ];
}

// What is frozen, before everything else: which, why, since when, and the way out.

import { account, get, pathOf } from "./connection.js";
import { showActions } from "./dialogs.js";
import { byId, el, reconcile, say } from "./dom.js";
import { evidenceText } from "./events.js";
import { ago, count } from "./format.js";
import { meter, untilText } from "./sessions.js";

const SHOWN_MAX = 6;

const keyOf = (row) => `${row.kind} ${row.name}`;

export class Frozen {
  /** `open` shows an account's details, `changed` fetches anew after a change, `all` lists all that are frozen. */
  constructor({ open, changed, all }) {
    this.open = open;
    this.changed = changed;
    this.readOnly = true;
    this.why = new Map();
    byId("frozen-more").addEventListener("click", all);
  }

  /** Those to show, agents first: an agent that is frozen holds up all of its sessions. */
  async fetch() {
    const ask = (kind) => get("/sessions", { kind, frozen: true, limit: SHOWN_MAX });
    const [agents, sessions] = await Promise.all([ask("agent"), ask("session")]);
    const rows = [...agents.rows, ...sessions.rows].map(account).slice(0, SHOWN_MAX);
    await Promise.all(rows.map((row) => this.#explain(row)));
    return rows;
  }

  /** Why it is frozen is asked once for each freeze: it does not change. */
  async #explain(row) {
    const freeze = `${row.frozen_until_ms} ${row.frozen_reason}`;
    if (this.why.get(keyOf(row))?.freeze === freeze) return;
    let event = null;
    try {
      const { evidence } = await get(pathOf(row));
      event = evidence.at(-1) ?? null;
    } catch {
      // The card says what the list knows.
    }
    this.why.set(keyOf(row), { freeze, event });
  }

  show(rows, total, now) {
    const section = byId("frozen");
    const held = section.contains(document.activeElement);
    section.hidden = total === 0;
    say(byId("frozen-title"), `${count(total)} frozen`);
    const shown = new Set(rows.map(keyOf));
    for (const key of this.why.keys()) if (!shown.has(key)) this.why.delete(key);
    reconcile(byId("frozen-list"), rows, keyOf, () => this.#card(), (node, row) => node.show(row, now));
    byId("frozen-more").hidden = total <= rows.length;
    say(byId("frozen-more"), `Show all ${count(total)}`);
    if (held && !section.contains(document.activeElement)) (total === 0 ? byId("main") : byId("frozen-title")).focus();
  }

  #card() {
    const name = el("button", { type: "button", class: "session-link", on: { click: () => this.open(node.row) } });
    const heading = el("h3", {}, name);
    const when = el("span", { class: "when" });
    const reason = el("p", { class: "reason" });
    const facts = el("dl", { class: "facts" });
    const bar = meter();
    const acting = el("div", { class: "actions" });
    const node = el("li", { class: "card" }, el("div", { class: "title" }, heading, when), reason, facts, bar, acting);
    node.show = (row, now) => {
      node.row = row;
      const event = this.why.get(keyOf(row))?.event ?? null;
      say(name, row.name);
      const since = row.frozen_at_ms ?? event?.at_ms ?? null;
      say(when, since === null ? untilText(row, now) : `${ago(since, now)}, ${untilText(row, now)}`);
      say(reason, row.frozen_reason || "No reason was given.");
      const known = row.kind === "agent" ? [["Kind", "agent"]] : row.agent ? [["Agent", row.agent]] : [];
      const by = row.frozen_by ? [["By", row.frozen_by]] : [];
      const lines = [...known, ...by, ...(event === null ? [] : evidenceText(event))];
      reconcile(
        facts,
        lines,
        ([label]) => label,
        ([label]) => el("div", {}, el("dt", {}, label), el("dd", {})),
        (line, [, value]) => say(line.lastChild, value),
      );
      bar.show(row);
      if (!this.readOnly) showActions(acting, row, this.changed);
    };
    return node;
  }
}

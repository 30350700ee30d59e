// Everything about one account, in a drawer at the side that stays as it is while it is brought up to date.

import { Refused, account, get, pathOf } from "./connection.js";
import { showActions } from "./dialogs.js";
import { button, el, mark, reconcile, say } from "./dom.js";
import { evidenceText, showEvents } from "./events.js";
import { ago, ahead, count, fullTime, span, usd } from "./format.js";
import { meter, state, untilText } from "./sessions.js";

function facts(row, now) {
  return [
    row.agent && ["Agent", row.agent],
    ["Last call", row.last_active_ms === null ? "never" : `${ago(row.last_active_ms, now)} (${fullTime(row.last_active_ms)})`],
    ["First seen", row.created_ms === null ? "not yet" : fullTime(row.created_ms)],
    row.kind === "session" && ["Calls", `${count(row.requests)} answered, ${count(row.blocked)} blocked`],
    ["Spent in all", usd(row.total)],
    row.assumed > 0 && ["Of it assumed", `${usd(row.assumed)}: no usage was reported for it`],
    row.overrun > 0 && ["Of it overrun", `${usd(row.overrun)}: beyond what was held for it`],
    ["Budget", `${usd(row.budget)}, ${row.budget_is_default ? "the default" : "its own"}`],
    row.resets_at_ms !== null && ["Starts anew", `${ahead(row.resets_at_ms, now)} (${fullTime(row.resets_at_ms)}), every ${row.period}`],
    row.fault && ["Fault", row.fault],
  ].filter(Boolean);
}

function pairs(list, lines) {
  reconcile(
    list,
    lines.flatMap(([label, value]) => [{ key: `${label} dt`, name: "dt", value: label }, { key: `${label} dd`, name: "dd", value }]),
    (part) => part.key,
    (part) => el(part.name),
    (node, part) => say(node, part.value),
  );
}

function part(title, content) {
  const node = el("section", {}, el("h3", {}, title), content);
  node.hidden = true;
  return node;
}

export class Details {
  constructor({ changed }) {
    this.changed = changed;
    this.readOnly = true;
    this.shown = null;
  }

  async open({ kind, name }) {
    this.close();
    this.shown = { kind, name };
    this.#make();
    this.dialog.showModal();
    this.closing.focus();
    await this.refresh();
  }

  close() {
    this.dialog?.close();
  }

  /** Bring it up to date, if it is open. */
  async refresh() {
    const { shown } = this;
    if (shown === null) return;
    try {
      const detail = await get(pathOf(shown));
      if (this.shown === shown) this.#show(detail);
    } catch (error) {
      if (this.shown === shown) say(this.problem, error instanceof Refused ? error.message : "The server cannot be reached; it is tried again.");
    }
  }

  #make() {
    const title = el("h2", { id: "details-title" }, this.shown.name);
    this.badge = el("span", { class: "badge" });
    this.closing = button("Close", () => this.close(), { "aria-label": "Close the details" });
    this.problem = el("p", { class: "problem", role: "alert" });
    this.acting = el("div", { class: "actions" });
    this.why = el("dl", { class: "grid-facts" });
    this.reason = el("p", { class: "quote" });
    this.limits = el("div", { class: "limits" });
    this.facts = el("dl", { class: "grid-facts" });
    this.models = el("dl", { class: "grid-facts" });
    this.holds = el("dl", { class: "grid-facts" });
    this.events = el("ol", { class: "events" });
    this.parts = {
      frozen: part("Why it is frozen", el("div", {}, this.reason, this.why)),
      limits: part("Budgets that its calls must meet", this.limits),
      facts: part("Figures", this.facts),
      holds: part("Calls under way", this.holds),
      models: part("Spent on models", this.models),
      events: part("What happened", this.events),
    };
    this.dialog = el(
      "dialog",
      { class: "drawer", "aria-labelledby": "details-title" },
      el(
        "div",
        { class: "sheet" },
        el("div", { class: "title" }, el("div", {}, title, this.badge), this.closing),
        this.problem,
        this.acting,
        ...Object.values(this.parts),
      ),
    );
    const { dialog } = this;
    dialog.addEventListener("close", () => {
      dialog.remove();
      this.shown = null;
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    document.body.append(dialog);
  }

  #show(detail) {
    const now = detail.now_ms;
    const row = account(detail.account);
    const { parts } = this;
    say(this.problem, "");
    const [text, colour] = state(row);
    say(this.badge, row.kind === "session" ? text : `${row.kind}: ${text.toLowerCase()}`);
    mark(this.badge, "tone", colour);
    if (!this.readOnly) showActions(this.acting, row, this.changed);

    const last = detail.evidence.at(-1) ?? null;
    const since = row.frozen_at_ms ?? last?.at_ms ?? null;
    parts.frozen.hidden = !row.frozen;
    say(this.reason, row.frozen_reason || "No reason was given.");
    const known = [["Until", untilText(row, now)], since !== null && ["Since", fullTime(since)], row.frozen_by && ["By", row.frozen_by]];
    pairs(this.why, [...known.filter(Boolean), ...(last === null ? [] : evidenceText(last))]);

    parts.limits.hidden = false;
    reconcile(
      this.limits,
      detail.path.map(account),
      (limit) => `${limit.kind} ${limit.name}`,
      (limit) => {
        const bar = meter();
        const node = el("div", {}, el("h4", {}, limit.kind === row.kind ? "Its own" : `${limit.kind} ${limit.name}`), bar);
        node.show = bar.show;
        return node;
      },
      (node, limit) => node.show(limit),
    );

    parts.facts.hidden = false;
    pairs(this.facts, facts(row, now));

    parts.holds.hidden = detail.holds.length === 0;
    pairs(this.holds, detail.holds.map((hold) => [hold.id, `${usd(Number(hold.held_usd))} held, ${hold.model}, for ${span((now - hold.since_ms) / 1000)}`]));

    parts.models.hidden = detail.models.length === 0;
    pairs(this.models, detail.models.map((each) => [each.model, usd(Number(each.spent_usd))]));

    parts.events.hidden = detail.events.length === 0;
    showEvents(this.events, detail.events, now);
  }
}

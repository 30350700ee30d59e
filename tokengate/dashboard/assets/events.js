// What happened, in words. Kinds and fields that this page does not know are shown as they are.

import { attribute, byId, el, mark, reconcile, say } from "./dom.js";
import { ago, fullTime, percent, usd, words } from "./format.js";

/** Kinds of events: what they are called, their colour, and what is said of them. */
const KINDS = {
  freeze: { text: "Frozen", tone: "frozen", tell: (f) => [until(f.after), f.reason, ...named(f, ["rule", "first", "last"])] },
  unfreeze: { text: "Unfrozen", tone: "good", tell: (f) => [f.before?.startsWith("frozen until ") ? `it would have ended ${when(f.before)}` : ""] },
  shadow: { text: "Would freeze", tone: "frozen", tell: (f) => [f.reason, ...named(f, ["rule", "first", "last"])] },
  budget: { text: "Budget", tell: (f) => [`${limit(f.before)} → ${limit(f.after)}`] },
  reset: { text: "Reset", tone: "warn", tell: (f) => [`${money(f.before)} → $0.00`] },
  delete: { text: "Deleted", tone: "danger", tell: (f) => [`${money(f.before)} had been spent`] },
  threshold: { text: (f) => (f.percent === "100" ? "Used up" : "Threshold"), tone: alarm, tell: (f) => [share(f), resets(f)] },
  relief: { text: "Relief", tone: "good", tell: (f) => [`below its thresholds: ${money(f.spent)} of ${money(f.budget)}`] },
  overrun: { text: "Overrun", tone: "danger", tell: (f) => [`cost ${money(f.usd)} more than was held`, ...named(f, ["hold"])] },
  expired: { text: "Expired", tone: "warn", tell: (f) => [`${money(f.usd)} charged in full: its gate was gone`, ...named(f, ["hold"])] },
  late: { text: "Settled late", tell: (f) => [`${money(f.usd)} after all`, ...named(f, ["hold"])] },
  lost: { text: "Hold lost", tone: "warn", tell: (f) => [`${money(f.usd)} charged all the same`, ...named(f, ["hold"])] },
};

/** What fields are called, where their names do not say it. */
const LABELS = { hold: "call", first: "first call", last: "last call", usd: "amount" };

/** Fields of a freeze that stand elsewhere beside it: who, why, and until when. */
const TOLD_ELSEWHERE = new Set(["reason", "before", "after"]);

const either = (it, fields) => (typeof it === "function" ? it(fields) : it);
const money = (text) => (/^-?\d+(\.\d+)?$/.test(text ?? "") ? usd(Number(text)) : (text ?? ""));
const limit = (text) => (text ? money(text) : "the default");
const when = (state) => fullTime(Number(state.split(" ").at(-1)));
const until = (state) => (state?.startsWith("frozen until ") ? `until ${when(state)}` : "");
const named = (fields, names) => names.filter((name) => fields[name]).map((name) => `${LABELS[name] ?? words(name).toLowerCase()} ${fields[name]}`);
const resets = ({ resets: at }) => (at ? `starts anew ${fullTime(Number(at))}` : "");

function alarm({ percent: passed }) {
  if (passed === "100") return "danger";
  return Number(passed) >= 80 ? "warn" : "";
}

function share({ percent: passed, spent, budget }) {
  if (passed === "100") return `${money(spent)} of ${money(budget)} spent, and a call was refused`;
  return `${percent(Number(passed) / 100)} passed: ${money(spent)} of ${money(budget)} spent`;
}

/** Why somebody was frozen, as labels and values: what the rule saw. */
export function evidenceText({ fields }) {
  return Object.entries(fields)
    .filter(([name, text]) => text !== "" && !TOLD_ELSEWHERE.has(name))
    .map(([name, text]) => [words(LABELS[name] ?? name), text]);
}

function told({ kind, fields }) {
  const known = Object.hasOwn(KINDS, kind) ? KINDS[kind].tell(fields) : named(fields, Object.keys(fields));
  return known.filter(Boolean).join(" · ");
}

function line(open) {
  const time = el("time", {});
  const kind = el("span", { class: "badge" });
  const name = open === null ? null : el("button", { type: "button", class: "session-link" });
  const text = el("span", {});
  const by = el("span", { class: "by" });
  const node = el("li", {}, time, ...(open === null ? [] : [kind]), el("span", { class: "what" }, open === null ? kind : name, " ", text), by);
  if (name !== null) name.addEventListener("click", () => open({ kind: node.event.scope_kind, name: node.event.scope_name }));
  node.show = (event, now) => {
    node.event = event;
    const known = Object.hasOwn(KINDS, event.kind) ? KINDS[event.kind] : {};
    say(time, ago(event.at_ms, now));
    attribute(time, "title", fullTime(event.at_ms));
    attribute(time, "datetime", new Date(event.at_ms).toISOString());
    say(kind, either(known.text, event.fields) ?? words(event.kind));
    mark(kind, "tone", either(known.tone, event.fields));
    if (name !== null) {
      say(name, event.scope_kind === "session" ? event.scope_name : `${event.scope_kind} ${event.scope_name}`);
      name.hidden = event.scope_kind === "";
    }
    say(text, told(event));
    say(by, event.by ? `by ${event.by}` : "");
  };
  return node;
}

/** Keep `list` to the events given, the latest first; `open`, if there is one, shows whom an event is about. */
export function showEvents(list, events, now, open = null) {
  reconcile(list, [...events].reverse(), (event) => event.id, () => line(open), (node, event) => node.show(event, now));
}

export function showLatest(events, now, open) {
  showEvents(byId("events"), events, now, open);
  const empty = byId("events-empty");
  empty.hidden = events.length > 0;
  if (!empty.hidden && empty.childElementCount === 0) {
    empty.append(
      el("strong", {}, "Nothing has happened yet"),
      el("p", {}, "Budgets that are set or used up, freezes, resets and calls that cost more than was held for them are listed here, with who did it."),
    );
  }
}

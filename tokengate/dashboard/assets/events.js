// What happened, in words. Kinds and fields that this page does not know are shown as they are.

import { attribute, byId, el, mark, reconcile, say } from "./dom.js";
import { ago, fullTime, usd, words } from "./format.js";

const TONES = { freeze: "frozen", overrun: "danger", expired: "warn", lost: "warn", reset: "warn", unfreeze: "good", thaw: "good" };

/** What the fields of events are called, where their names do not say it. */
const LABELS = { usd: "amount", hold: "call", for_ms: "for", until_ms: "until" };

const TOLD_ELSEWHERE = new Set(["reason"]);

const AMOUNTS = new Set(["usd", "before", "after"]);

function value(name, text) {
  if (AMOUNTS.has(name) && /^-?\d+(\.\d+)?$/.test(text)) return usd(Number(text));
  if (name.endsWith("_ms") && /^\d{12,14}$/.test(text)) return fullTime(Number(text));
  return text;
}

/** The fields of an event as labels and values. */
export function evidenceText(event) {
  return Object.entries(event.fields)
    .filter(([name, text]) => text !== "" && !TOLD_ELSEWHERE.has(name))
    .map(([name, text]) => [words(LABELS[name] ?? name), value(name, text)]);
}

function told({ kind, fields }) {
  if (kind === "budget") return `${value("before", fields.before ?? "?")} → ${value("after", fields.after ?? "?")}`;
  if (kind === "reset") return `${value("before", fields.before ?? "?")} → $0.00`;
  const reason = fields.reason ? [fields.reason] : [];
  return [...reason, ...evidenceText({ fields }).map(([label, text]) => `${label.toLowerCase()} ${text}`)].join(" · ");
}

function line(open) {
  const when = el("time", {});
  const kind = el("span", { class: "badge" });
  const name = open === null ? null : el("button", { type: "button", class: "session-link" });
  const text = el("span", {});
  const by = el("span", { class: "by" });
  const node = el("li", {}, when, ...(open === null ? [] : [kind]), el("span", { class: "what" }, open === null ? kind : name, " ", text), by);
  if (name !== null) name.addEventListener("click", () => open({ kind: node.event.scope_kind, name: node.event.scope_name }));
  node.show = (event, now) => {
    node.event = event;
    say(when, ago(event.at_ms, now));
    attribute(when, "title", fullTime(event.at_ms));
    attribute(when, "datetime", new Date(event.at_ms).toISOString());
    say(kind, words(event.kind));
    mark(kind, "tone", TONES[event.kind] ?? "");
    if (name !== null) {
      say(name, event.scope_name || (event.scope_kind && `the ${event.scope_kind}`));
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
      el("p", {}, "Budgets that are set, freezes, resets and calls that cost more than was held for them are listed here, with who did it."),
    );
  }
}

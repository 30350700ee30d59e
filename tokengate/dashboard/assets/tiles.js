// The figures at the top: the whole tenant at a glance.

import { byId, el, mark, reconcile, say } from "./dom.js";
import { bytes, compact, count, many, ms, percent, usdShort } from "./format.js";

const n = Number;

function sum(counts) {
  return Object.values(counts).reduce((total, each) => total + each, 0);
}

function store({ version, memory_bytes, memory_bytes_max, evicts }) {
  const used = memory_bytes === null ? "" : memory_bytes_max === null ? `${bytes(memory_bytes)} used` : `${bytes(memory_bytes)} of ${bytes(memory_bytes_max)}`;
  if (evicts) return { value: "Evicts", note: "maxmemory-policy is not noeviction: budgets may be lost", tone: "danger" };
  const short = memory_bytes_max !== null && memory_bytes > 0.9 * memory_bytes_max;
  return { value: short ? "Nearly full" : "OK", note: [version, used].filter(Boolean).join(", "), tone: short ? "warn" : "good" };
}

/** What the gates add to a call: bounds of buckets, so that it is never more than is said. */
function overhead({ overhead_p50_us: half, overhead_p99_us: most }) {
  if (half === null) return { value: "–", note: "no calls today" };
  return { value: `≤ ${ms(half / 1000)}`, note: `99% of calls ≤ ${ms(most / 1000)}` };
}

function firstFigures(stats) {
  const blocked = sum(stats.blocked_today);
  const asked = stats.requests_today + blocked;
  const tokens = `${compact(stats.input_tokens_today)} tokens in, ${compact(stats.output_tokens_today)} out`;
  return [
    { name: "Spent today", value: usdShort(n(stats.spent_today_usd)), note: `${usdShort(n(stats.spent_yesterday_usd))} yesterday` },
    { name: "Rate", value: `${usdShort(n(stats.spent_hour_usd))}/h`, note: `makes ${usdShort(n(stats.projected_today_usd))} today` },
    { name: "This month", value: usdShort(n(stats.spent_month_usd)), note: `${usdShort(n(stats.projected_month_usd))} projected` },
    { name: "Requests today", value: compact(stats.requests_today), note: tokens },
    {
      name: "Blocked today",
      value: compact(blocked),
      note: asked === 0 ? "no calls yet" : `${percent(blocked / asked)} of ${compact(asked)} calls`,
      tone: blocked > 0 ? "warn" : "",
    },
  ];
}

function furtherFigures(stats) {
  const frozen = stats.sessions_frozen + stats.agents_frozen;
  const tenant = stats.tenant_account;
  const share = tenant === null || n(tenant.budget_usd) === 0 ? 0 : n(tenant.spent_usd) / n(tenant.budget_usd);
  const held = stats.held_usd === null ? "–" : usdShort(n(stats.held_usd));
  return [
    tenant && {
      name: "Tenant budget",
      value: percent(share),
      note: `${usdShort(n(tenant.remaining_usd))} left of ${usdShort(n(tenant.budget_usd))}`,
      tone: share >= 0.995 ? "danger" : share >= 0.8 ? "warn" : "",
    },
    { name: "Saved today", value: usdShort(n(stats.saved_today_usd)), note: "by blocked calls" },
    { name: "Held now", value: held, note: stats.in_flight === 0 ? "no calls under way" : `${many(stats.in_flight, "call")} under way` },
    { name: "Sessions", value: compact(stats.sessions), note: frozen === 0 ? "none frozen" : `${count(frozen)} frozen` },
    { name: "Store", ...store(stats.store) },
    { name: "Overhead", ...overhead(stats) },
  ].filter(Boolean);
}

function show(place, tiles) {
  reconcile(
    place,
    tiles,
    (tile) => tile.name,
    (tile) => el("div", { class: "tile" }, el("dt", {}, tile.name), el("dd", { class: "value" }), el("dd", { class: "note" })),
    (node, tile) => {
      mark(node, "tone", tile.tone ?? "");
      say(node.children[1], tile.value);
      say(node.children[2], tile.note);
    },
  );
}

export function showTiles(stats) {
  show(byId("tiles"), firstFigures(stats));
  show(byId("strip"), furtherFigures(stats));
}

// Charts of our own: columns over time, stacked by model, and ranks. Each says the same in words and in a table.

import { byId, el, reconcile, say, svg } from "./dom.js";
import { compact, dayTime, hourTime, monthTime, usd, usdShort } from "./format.js";

const SERIES_MAX = 6;
const OTHERS = "";
const OTHERS_CLASS = "s7";
const HEIGHT = 220;
const EDGE = { left: 52, right: 4, top: 8, bottom: 22 };
const LABEL_WIDTH = 64;

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

export const RANGES = {
  day: { text: "24 h", said: "the last 24 hours", per: "hour", columns: 24 },
  week: { text: "7 d", said: "the last 7 days", per: "hour", columns: 7 * 24 },
  month: { text: "30 d", said: "the last 30 days", per: "day", columns: 30 },
  year: { text: "12 mo", said: "the last 12 months", per: "month", columns: 12 },
};

/** The instants at which the columns of a range begin, and the end of the last. */
export function boundaries(range, now) {
  const { per, columns } = RANGES[range];
  if (per === "month") {
    const today = new Date(now);
    return Array.from({ length: columns + 1 }, (_, i) => Date.UTC(today.getUTCFullYear(), today.getUTCMonth() - columns + 1 + i, 1));
  }
  const step = per === "hour" ? HOUR_MS : DAY_MS;
  const end = (Math.floor(now / step) + 1) * step;
  return Array.from({ length: columns + 1 }, (_, i) => end - (columns - i) * step);
}

/** Which colour a model has: the same for as long as it is shown, whatever its rank becomes. */
class Colours {
  #of = new Map();

  assign(names) {
    for (const name of this.#of.keys()) if (!names.includes(name)) this.#of.delete(name);
    const taken = new Set(this.#of.values());
    const free = Array.from({ length: SERIES_MAX }, (_, i) => `s${i + 1}`).filter((each) => !taken.has(each));
    for (const name of names) if (!this.#of.has(name)) this.#of.set(name, free.shift() ?? OTHERS_CLASS);
  }

  of(name) {
    return name === OTHERS ? OTHERS_CLASS : (this.#of.get(name) ?? OTHERS_CLASS);
  }
}

const called = (name) => (name === OTHERS ? "All others" : name);

/** A round number that is no less than `top`, and how to divide it. */
function scale(top) {
  if (top <= 0) return { top: 1, step: 0.5 };
  const rough = top / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough);
  return { top: Math.ceil(top / step - 1e-9) * step, step };
}

function axisText(amount, step) {
  if (amount === 0) return "$0";
  if (amount >= 10_000) return `$${compact(amount)}`;
  // As many decimals as tell the steps apart; cents are two.
  const digits = step >= 1 ? 0 : Math.min(6, Math.max(2, Math.ceil(1 - Math.log10(step))));
  return `$${amount.toFixed(digits)}`;
}

export class SpendCharts {
  constructor() {
    this.colours = new Colours();
    this.place = byId("spend-chart");
    this.picture = el("div", { class: "chart" });
    this.legend = el("ul", { class: "legend" });
    this.caption = el("p", { class: "unseen" });
    this.table = el("table", {});
    this.figures = el("details", { class: "figures" }, el("summary", {}, "Show the figures"), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Spend, in figures" }, this.table));
    this.empty = el("div", { class: "empty small" });
    this.place.append(this.picture, this.caption, this.legend, this.figures, this.empty);
    this.drawn = "";
    new ResizeObserver(() => this.#draw()).observe(this.place);
  }

  show(spend, range, now) {
    const starts = boundaries(range, now);
    const columns = starts.slice(0, -1).map((start, i) => ({ start, end: starts[i + 1], amounts: new Map(), total: 0 }));
    const models = new Map();
    for (const point of spend.points) {
      const amount = Number(point.spent_usd);
      const column = columns.findLast((each) => each.start <= point.start_ms);
      if (column === undefined) continue;
      column.amounts.set(point.name, (column.amounts.get(point.name) ?? 0) + amount);
      column.total += amount;
      const model = models.get(point.name) ?? { name: point.name, amount: 0, requests: 0 };
      models.set(point.name, { ...model, amount: model.amount + amount, requests: model.requests + (point.requests ?? 0) });
    }
    this.models = [...models.values()].sort((a, b) => (a.name === OTHERS) - (b.name === OTHERS) || b.amount - a.amount);
    this.colours.assign(this.models.map((model) => model.name).filter((name) => name !== OTHERS));
    this.columns = columns;
    this.range = range;
    this.total = this.models.reduce((sum, model) => sum + model.amount, 0);
    this.#draw();
    this.#ranks();
  }

  #draw() {
    if (this.columns === undefined) return;
    const none = this.total <= 0;
    for (const each of [this.picture, this.legend, this.figures]) each.hidden = none;
    this.empty.hidden = !none;
    const { said } = RANGES[this.range];
    if (none) {
      say(this.empty, `Nothing was spent in ${said}. Calls are shown here as soon as they have ended.`);
      say(this.caption, "");
      this.drawn = "";
      return;
    }
    const width = Math.max(280, Math.floor(this.place.clientWidth));
    // What is drawn already is left alone: no flicker, and no work.
    const key = JSON.stringify([width, this.range, this.columns.map((column) => [column.start, ...column.amounts])]);
    if (key === this.drawn) return;
    this.drawn = key;
    say(this.caption, `Spent in ${said}: ${usd(this.total)}. ${this.models.map((model) => `${called(model.name)}: ${usd(model.amount)}`).join(", ")}.`);
    this.picture.replaceChildren(this.#columns(width));
    reconcile(
      this.legend,
      this.models,
      (model) => model.name,
      () => el("li", {}, el("span", { "aria-hidden": "true" }), el("span", {})),
      (node, model) => {
        node.firstChild.className = `swatch ${this.colours.of(model.name)}`;
        say(node.lastChild, called(model.name));
      },
    );
    this.#figures();
  }

  #columns(width) {
    const { columns } = this;
    const { top, step } = scale(Math.max(...columns.map((column) => column.total)));
    const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
    const y = (amount) => EDGE.top + inner.height * (1 - amount / top);
    const pitch = inner.width / columns.length;
    const gap = pitch > 12 ? Math.min(8, pitch * 0.25) : pitch > 4 ? 1 : 0;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, "aria-hidden": "true" });
    for (let amount = 0; amount <= top + step / 2; amount += step) {
      const at = Math.round(y(amount)) + 0.5;
      picture.append(
        svg("line", { class: amount === 0 ? "base" : "grid", x1: EDGE.left, x2: width - EDGE.right, y1: at, y2: at }),
        svg("text", { x: EDGE.left - 8, y: at + 4, "text-anchor": "end" }, axisText(amount, step)),
      );
    }
    const every = Math.max(1, Math.ceil((columns.length * LABEL_WIDTH) / inner.width));
    const marks = new Set(this.#marks(every));
    const bars = svg("g", { class: "bars" });
    columns.forEach((column, i) => {
      const x = EDGE.left + i * pitch;
      const hover = svg("rect", { class: "column", x, y: EDGE.top, width: pitch, height: inner.height });
      this.#tip(hover, column);
      picture.append(hover);
      if (marks.has(i)) {
        const anchor = i === 0 && pitch < LABEL_WIDTH / 2 ? "start" : "middle";
        picture.append(svg("text", { x: anchor === "start" ? x : x + pitch / 2, y: HEIGHT - 6, "text-anchor": anchor }, this.#label(column)));
      }
      let base = 0;
      for (const model of this.models) {
        const amount = column.amounts.get(model.name) ?? 0;
        if (amount <= 0) continue;
        const height = Math.max(1, y(base) - y(base + amount));
        bars.append(svg("rect", { class: this.colours.of(model.name), x: x + gap / 2, y: y(base) - height, width: Math.max(1, pitch - gap), height }));
        base += amount;
      }
    });
    picture.append(bars);
    return picture;
  }

  /** The columns that are named below: days where there are days, else every so many. */
  #marks(every) {
    const { columns, range } = this;
    const all = columns.map((_, i) => i);
    if (range !== "week") return all.filter((i) => (columns.length - 1 - i) % every === 0);
    const midnights = all.filter((i) => new Date(columns[i].start).getHours() === 0);
    const days = Math.max(1, Math.ceil(every / 24));
    return midnights.filter((_, i) => i % days === 0);
  }

  #label(column) {
    if (this.range === "year") return monthTime(column.start);
    return this.range === "day" ? hourTime(column.start) : dayTime(column.start);
  }

  #when({ start, end }) {
    if (this.range === "year") return monthTime(start);
    if (this.range === "month") return dayTime(start);
    return `${this.range === "week" ? `${dayTime(start)}, ` : ""}${hourTime(start)} – ${hourTime(end)}`;
  }

  #tip(node, column) {
    const tip = byId("tip");
    const move = (event) => {
      const { innerWidth } = window;
      tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 10)}px`;
    };
    node.addEventListener("pointerenter", (event) => {
      const lines = this.models
        .filter((model) => column.amounts.get(model.name) > 0)
        .map((model) =>
          el(
            "p",
            {},
            el("span", { class: `swatch ${this.colours.of(model.name)}` }),
            el("span", {}, called(model.name)),
            el("span", {}, usd(column.amounts.get(model.name))),
          ),
        );
      tip.replaceChildren(el("b", {}, `${this.#when(column)}: ${usd(column.total)}`), ...lines);
      tip.hidden = false;
      move(event);
    });
    node.addEventListener("pointermove", move);
    node.addEventListener("pointerleave", () => {
      tip.hidden = true;
    });
  }

  #figures() {
    const { models, columns } = this;
    const head = el("tr", {}, el("th", { scope: "col" }, "Time"), ...models.map((model) => el("th", { scope: "col" }, called(model.name))), el("th", { scope: "col" }, "Together"));
    const lines = columns
      .filter((column) => column.total > 0)
      .reverse()
      .map((column) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, this.#when(column)),
          ...models.map((model) => el("td", {}, usd(column.amounts.get(model.name) ?? 0))),
          el("td", {}, usd(column.total)),
        ),
      );
    this.table.replaceChildren(el("thead", {}, head), el("tbody", {}, ...lines));
  }

  #ranks() {
    const { said } = RANGES[this.range];
    say(byId("models-range"), said.replace("the last", "Last"));
    showRanks(
      byId("models-chart"),
      this.models.filter((model) => model.amount > 0 || model.requests > 0).map((model) => ({
        name: called(model.name),
        size: model.amount,
        text: usdShort(model.amount),
        sub: model.requests > 0 ? `${compact(model.requests)} calls` : "",
        colour: this.colours.of(model.name),
      })),
      `No model was used in ${said}.`,
    );
  }
}

/** Names with bars, the largest first; `nothing` is said if there are none. */
export function showRanks(place, ranks, nothing) {
  if (place.list === undefined) {
    place.list = el("ul", { class: "ranks" });
    place.nothing = el("div", { class: "empty small" });
    place.append(place.list, place.nothing);
  }
  place.list.hidden = ranks.length === 0;
  place.nothing.hidden = ranks.length > 0;
  say(place.nothing, ranks.length > 0 ? "" : nothing);
  const top = Math.max(...ranks.map((rank) => rank.size), 0);
  reconcile(
    place.list,
    ranks,
    (rank) => rank.name,
    () =>
      el(
        "li",
        { class: "rank" },
        el("span", { class: "name" }),
        el("span", { class: "amount" }, el("span", {}), el("span", { class: "sub" })),
        el("span", { class: "track", "aria-hidden": "true" }, el("span", {})),
      ),
    (node, rank) => {
      const [name, amount, track] = node.children;
      say(name, rank.name);
      name.title = rank.name;
      say(amount.firstChild, rank.text);
      say(amount.lastChild, rank.sub);
      track.firstChild.className = `fill ${rank.colour}`;
      track.firstChild.style.width = `${top > 0 ? ((100 * rank.size) / top).toFixed(2) : 0}%`;
    },
  );
}

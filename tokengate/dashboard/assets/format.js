// Numbers and times for people. Amounts are USD, as the API has them.

const LOCALE = "en-US";
const dollars = [2, 4, 6, 9].map(
  (digits) => new Intl.NumberFormat(LOCALE, { style: "currency", currency: "USD", minimumFractionDigits: 2, maximumFractionDigits: digits }),
);
const counts = new Intl.NumberFormat(LOCALE);
const short = new Intl.NumberFormat(LOCALE, { notation: "compact", maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const hour = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const month = new Intl.DateTimeFormat(undefined, { month: "short", year: "2-digit", timeZone: "UTC" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

/** `$1,234.50`; what is small keeps as many decimals as it takes to be seen. */
export function usd(amount) {
  const size = Math.abs(amount);
  if (size === 0 || size >= 1) return dollars[0].format(amount);
  if (size >= 0.01) return dollars[1].format(amount);
  if (size >= 0.0001) return dollars[2].format(amount);
  return dollars[3].format(amount);
}

/** The same to two decimals, where there is little room: `<$0.01`. */
export function usdShort(amount) {
  if (amount > 0 && amount < 0.01) return "<$0.01";
  return amount >= 100_000 ? `$${short.format(amount)}` : dollars[0].format(amount);
}

/** As it is typed into a field: no sign, no commas. */
export function usdPlain(amount) {
  return dollars[3].format(amount).replace(/[$,]/g, "");
}

export const count = (number) => counts.format(number);
export const compact = (number) => (number < 10_000 ? counts.format(number) : short.format(number));

export function many(number, one, more = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : more}`;
}

export function percent(share) {
  if (share > 0 && share < 0.01) return "<1%";
  // Rounded down, as the API has it: only what is full is called full.
  return `${count(Math.floor(share * 100 + 1e-9))}%`;
}

export function ms(amount) {
  if (amount >= 1000) return `${(amount / 1000).toFixed(1)} s`;
  return `${amount < 1 ? amount.toFixed(2) : amount < 10 ? amount.toFixed(1) : Math.round(amount)} ms`;
}

/** `4 min`: how long something takes or took, in one unit, or two where one says too little. */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return s % 3600 < 60 || s >= 36_000 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return many(Math.floor(s / 86_400), "day");
}

export function ago(time, now) {
  const s = (now - time) / 1000;
  return s < 5 ? "just now" : `${span(s)} ago`;
}

export function ahead(time, now) {
  const s = (time - now) / 1000;
  return s <= 0 ? "now" : `in ${span(s)}`;
}

export const clockTime = (time) => clock.format(new Date(time));
export const hourTime = (time) => hour.format(new Date(time));
export const dayTime = (time) => day.format(new Date(time));
export const monthTime = (time) => month.format(new Date(time));
export const fullTime = (time) => full.format(new Date(time));

/** `budget_exceeded` as `Budget exceeded`. */
export function words(name) {
  const text = name.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let size = number;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit === 0 || size >= 100 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`;
}

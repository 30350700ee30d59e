// What is asked before anything is changed. Each says what will happen, to which session, and takes Escape for no.

import { Refused, account, pathOf, post } from "./connection.js";
import { button, el, reconcile, say, toast } from "./dom.js";
import { span, usd, usdPlain } from "./format.js";

const REASON_CHARACTERS_MAX = 500;

const DURATIONS = [
  ["", "Until it is lifted"],
  [900, "15 minutes"],
  [3600, "1 hour"],
  [4 * 3600, "4 hours"],
  [86_400, "1 day"],
  [7 * 86_400, "7 days"],
];

let numbers = 0;

/**
 * Show a dialog with a form, and do `act` when it is sent; it stays open, with the reason, if that cannot be done.
 * Gives whether it was done.
 */
function ask({ title, content, verb, tone = "primary", act, focus = null }) {
  const name = `dialog-${(numbers += 1)}`;
  const problem = el("p", { class: "problem", role: "alert" });
  const go = el("button", { type: "submit", class: `button ${tone}` }, verb);
  const form = el(
    "form",
    { method: "dialog", novalidate: true },
    el("h2", { id: name }, title),
    ...content,
    problem,
    el("div", { class: "row" }, button("Cancel", () => dialog.close("no")), go),
  );
  const dialog = el("dialog", { "aria-labelledby": name }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (go.disabled) return;
    say(problem, "");
    go.disabled = true;
    try {
      await act();
      dialog.close("yes");
    } catch (error) {
      say(problem, error instanceof Refused ? error.message : `Nothing is known to be changed: ${error.message}. Try again.`);
    } finally {
      go.disabled = false;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  (focus ?? go).focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}

function field(label, input, hint = null) {
  const id = `field-${(numbers += 1)}`;
  input.id = id;
  if (hint !== null) {
    hint.id = `${id}-hint`;
    input.setAttribute("aria-describedby", hint.id);
  }
  return el("div", { class: "fields" }, el("label", { for: id }, label), input, hint);
}

const change = async (session, action, body) => account(await post(`${pathOf(session)}/${action}`, body));

export async function freeze(session) {
  const reason = el("input", { type: "text", maxlength: REASON_CHARACTERS_MAX, autocomplete: "off", required: true });
  const lasting = el("select", {}, ...DURATIONS.map(([value, text]) => el("option", { value }, text)));
  return ask({
    title: `Freeze ${session.name}?`,
    content: [
      el("p", {}, "Every call of it is refused, with the reason, until it is set free. What it has spent stays."),
      field("Reason", reason, el("p", { class: "hint" }, "The agent is told it, and it stands in the record.")),
      field("For", lasting),
    ],
    verb: "Freeze",
    tone: "danger",
    focus: reason,
    act: async () => {
      const seconds = lasting.value === "" ? null : Number(lasting.value);
      await change(session, "freeze", { reason: reason.value.trim(), for_ms: seconds === null ? null : seconds * 1000 });
      toast(`${session.name} is frozen${seconds === null ? "" : ` for ${span(seconds)}`}.`);
    },
  });
}

export async function unfreeze(session) {
  return ask({
    title: `Unfreeze ${session.name}?`,
    content: [
      el("p", {}, "Its calls are admitted again at once, within its budget. It was frozen because:"),
      el("p", { class: "quote" }, session.frozen_reason || "No reason was given."),
      el("p", { class: "hint" }, `It has ${usd(session.remaining)} left of ${usd(session.budget)}.`),
    ],
    verb: "Unfreeze",
    act: async () => {
      await change(session, "unfreeze");
      toast(`${session.name} is free again.`);
    },
  });
}

export async function reset(session) {
  return ask({
    title: `Reset ${session.name}?`,
    content: [
      el(
        "p",
        {},
        `What it has spent, ${usd(session.spent)}, is set back to $0.00, so that it may spend ${usd(session.budget)} anew. `,
        "Calls under way are charged to what was before.",
      ),
      el("p", { class: "hint" }, "The record and the reports keep what was spent. This cannot be undone."),
    ],
    verb: "Reset",
    tone: "danger",
    act: async () => {
      await change(session, "reset");
      toast(`${session.name} starts anew with ${usd(session.budget)}.`);
    },
  });
}

export async function setBudget(session) {
  const amount = el("input", { type: "text", inputmode: "decimal", autocomplete: "off", maxlength: 32, value: usdPlain(session.budget) });
  const add = (more) => () => {
    // In nano-dollars, so that 0.1 and 0.2 make 0.3.
    const now = Number(amount.value) >= 0 ? Number(amount.value) : session.budget;
    amount.value = usdPlain((Math.round(now * 1e9) + more * 1e9) / 1e9);
    amount.focus();
  };
  return ask({
    title: `Budget of ${session.name}`,
    content: [
      el("p", { class: "hint" }, `Spent: ${usd(session.spent)}. Held by calls under way: ${usd(session.held)}.`),
      field("Budget in USD", amount, el("p", { class: "hint" }, "A budget below what is spent refuses every further call.")),
      el(
        "div",
        { class: "choices" },
        ...[1, 5, 25].map((more) => button(`+$${more}`, add(more), { "aria-label": `Add ${more} dollars` })),
        session.budget_is_default ? null : button("Follow the default", () => {
          amount.value = "";
          amount.placeholder = "the default";
          amount.focus();
        }),
      ),
    ],
    verb: "Set budget",
    focus: amount,
    act: async () => {
      const given = amount.value.trim();
      const after = await change(session, "budget", { budget_usd: given === "" && amount.placeholder !== "" ? null : given });
      toast(`${session.name} now has a budget of ${usd(after.budget)}, ${usd(after.remaining)} of it left.`);
    },
  });
}

const ACTIONS = {
  unfreeze: { text: "Unfreeze", dialog: unfreeze },
  budget: { text: "Set budget", dialog: setBudget },
  reset: { text: "Reset", dialog: reset },
  freeze: { text: "Freeze", dialog: freeze },
};

/** Keep the buttons in `place` to what can be done with a session as it stands; `place.session` is what they act on. */
export function showActions(place, session, done) {
  place.session = session;
  const focused = place.contains(document.activeElement);
  const names = session.frozen ? ["unfreeze", "budget", "reset"] : ["budget", "reset", "freeze"];
  reconcile(
    place,
    names,
    (name) => name,
    (name) => {
      const { text, dialog } = ACTIONS[name];
      const act = async () => {
        if (await dialog(place.session)) await done();
      };
      return button(text, act, { data: { action: name }, "aria-label": `${text}: ${session.name}` });
    },
    () => {},
  );
  // What was pressed may be gone, because it was done.
  if (focused && !place.contains(document.activeElement)) place.firstElementChild.focus({ preventScroll: true });
}

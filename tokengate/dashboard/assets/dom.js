// Elements from words, never from markup: whatever a session is called, it is text.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [kind, listener] of Object.entries(value)) node.addEventListener(kind, listener);
    else if (name === "data") Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An element; children are nodes or texts. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same in SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

export const byId = (id) => document.getElementById(id);

/** Say something else, if it is something else: what is the same is not touched, so that nothing is read out twice. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function mark(node, name, value) {
  if (value === null || value === undefined || value === "") delete node.dataset[name];
  else if (node.dataset[name] !== value) node.dataset[name] = value;
}

export function attribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/**
 * Make the children of `parent` those of `items`, in their order, keeping what is there already: an element stays the
 * same for as long as its key is shown, with its focus, its selection and what is open in it.
 */
export function reconcile(parent, items, keyOf, create, update) {
  const old = new Map();
  for (const child of parent.children) old.set(child.key, child);
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = old.get(key);
    if (child === undefined) {
      child = create(item);
      child.key = key;
    }
    old.delete(key);
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else moveBefore(parent, child, place);
  }
  for (const child of old.values()) child.remove();
}

/** Moving an element that has the focus would take the focus away. */
function moveBefore(parent, child, place) {
  const focused = child.contains(document.activeElement) ? document.activeElement : null;
  parent.insertBefore(child, place);
  if (focused !== null) focused.focus({ preventScroll: true });
}

/** A button; `act` is what it does. */
export function button(text, act, attributes = {}) {
  return el("button", { type: "button", class: "button", ...attributes, on: { click: act } }, text);
}

/** Tell what was done, for as long as it takes to read. */
export function toast(text, tone = "good") {
  const node = el("p", { class: "toast", data: { tone } }, text);
  const place = byId("toasts");
  place.append(node);
  if (place.children.length > 3) place.firstElementChild.remove();
  setTimeout(() => node.remove(), 4000 + 60 * text.length);
}

// The login. The address that a console prints at its start has the token behind a #, which no server ever sees.

import { Refused, post } from "./connection.js";
import { byId, say } from "./dom.js";

const FRAGMENT = /^#token=([\w.~-]+)$/;

async function login(token) {
  const submit = byId("submit");
  submit.disabled = true;
  say(byId("problem"), "");
  try {
    await post("/login", { token });
    location.replace(location.pathname + location.search);
    return;
  } catch (error) {
    say(byId("problem"), error instanceof Refused ? error.message : "The server cannot be reached. Try again.");
    byId("token").setAttribute("aria-invalid", "true");
    byId("token").select();
  }
  submit.disabled = false;
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  if (token === "") {
    say(byId("problem"), "Enter the token.");
    byId("token").focus();
  } else login(token);
});

/** Take the token out of the address, also when it is pasted over the login's own, which loads nothing anew. */
function takeFragment() {
  const given = FRAGMENT.exec(location.hash);
  if (location.hash !== "") history.replaceState(null, "", location.pathname + location.search);
  if (given !== null) login(given[1]);
}

window.addEventListener("hashchange", takeFragment);
takeFragment();

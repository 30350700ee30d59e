// Sets the reader's colours before anything is painted; everything else is a module, and comes later.
"use strict";
try {
  const wish = localStorage.getItem("tokengate-theme");
  if (wish === "light" || wish === "dark") document.documentElement.dataset.theme = wish;
} catch {
  // Storage may be denied: then it is as the system has it.
}

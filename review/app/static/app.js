"use strict";
// Keys, folding and the theme. Everything else is plain forms, which htmx sends in place.
const byId = (id) => document.getElementById(id);
const inField = (node) => node.matches?.("input:not([type=hidden]):not([type=radio]):not([type=checkbox]), textarea, select, [contenteditable]");

// Light and dark: the system decides until the button is used.
(() => {
  const root = document.documentElement, theme = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const named = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  const kept = localStorage.getItem("prefactory-review-theme");
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  theme.hidden = false;
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("prefactory-review-theme", root.dataset.theme);
    named();
  });
  system.addEventListener("change", named);
  named();
})();

const unfold = (button) => {
  const fold = button.closest(".answer").querySelector(".fold");
  const folded = fold.classList.toggle("folded");
  button.setAttribute("aria-expanded", String(!folded));
  button.firstChild.textContent = folded ? "Show all " : "Fold ";
};
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button");
  if (!button) return;
  if (button.classList.contains("unfold")) unfold(button);
  if (button.id === "help") byId("keys").showModal();
});

// A form that was sent is not sent again, until the answer to it is here.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.id !== "vote") return;
  if (form.dataset.sent) { event.preventDefault(); event.stopImmediatePropagation(); return; }
  form.dataset.sent = "1";
}, true);
const again = () => { const form = byId("vote"); if (form) delete form.dataset.sent; };
for (const name of ["htmx:response:error", "htmx:error", "htmx:send:error", "htmx:timeout"]) {
  document.addEventListener(name, () => {
    again();
    const alert = byId("alert");
    if (alert && !alert.textContent.trim()) alert.innerHTML = '<p class="warning">The server did not answer. Vote again: nothing is counted twice.</p>';
  });
}
document.addEventListener("htmx:after:swap", () => {
  const edit = document.querySelector(".editing textarea[data-new]");
  if (byId("vote")?.dataset.task !== last) {
    last = byId("vote")?.dataset.task;
    scrollTo(0, 0);
    byId("title")?.focus();
  } else {
    again();
    if (edit) { delete edit.dataset.new; edit.focus(); }
  }
  for (const key of early.splice(0)) {
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  }
});
const early = [];  // keys that came between the new question and its buttons' first use
let last = byId("vote")?.dataset.task;

const open = (id, inside) => {
  const box = byId(id);
  if (!box) return false;
  box.open = inside ? true : !box.open;
  if (box.open) (box.querySelector(inside ?? "input:not([type=hidden]), textarea") ?? box.querySelector("summary"))?.focus();
  return true;
};
const digit = (key) => {  // answers the first group of radios that has none, or the one in focus
  const groups = [...document.querySelectorAll("[data-digits] fieldset")];
  if (!groups.length) return false;
  const own = document.activeElement.closest?.("[data-digits] fieldset");
  const group = own ?? groups.find((g) => !g.querySelector("input:checked"));
  const radio = group?.querySelectorAll("input")[Number(key) - 1];
  if (!radio) return false;
  radio.checked = true;
  const next = groups.find((g) => !g.querySelector("input:checked"));
  (next?.querySelector("input") ?? document.querySelector("button[data-key=Enter]")).focus();
  return true;
};
const rank = (key) => {
  const lists = [...document.querySelectorAll("select[data-letter]")];
  if (!lists.length) return false;
  if (key === "Backspace") { for (const list of lists) list.value = ""; return true; }
  const list = lists.find((l) => l.dataset.letter === key.toLowerCase());
  if (!list) return false;
  if (!list.value) list.value = String(lists.filter((l) => l.value).length + 1);
  return true;
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  if (byId("keys")?.open) return;
  if (event.key === "Escape" && inField(event.target)) { event.target.blur(); return; }
  if (inField(event.target)) return;
  if (document.querySelector(".htmx-added")) {  // new buttons do nothing yet
    early.push(event.key);
    event.preventDefault();
    return;
  }
  if (event.key === "Enter" && event.target.closest?.("button, a, summary")) return;
  const done = () => event.preventDefault();
  if (/^[1-9]$/.test(event.key) && digit(event.key)) return done();
  if (rank(event.key)) return done();
  if (event.key === "g" && open("guidelines", "summary")) return done();
  if (event.key === "c" && open("more")) return done();
  if (event.key === "f" && open("more", "input[name=flag]")) return done();
  if (event.key === "x") {
    const buttons = document.querySelectorAll(".unfold");
    for (const button of buttons) unfold(button);
    if (buttons.length) return done();
  }
  const target = document.querySelector(`main [data-key="${CSS.escape(event.key)}"]`);
  if (target && !target.form?.dataset.sent) { done(); target.click(); }
});

"use strict";
const byId = (id) => document.getElementById(id);

// Light and dark: the system decides until the button is used.
(() => {
  const root = document.documentElement;
  const theme = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const named = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  try {
    const kept = localStorage.getItem("prefactory-report-theme");
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch { /* storage may be closed to local files */ }
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("prefactory-report-theme", root.dataset.theme); } catch { /* as above */ }
    named();
  });
  system.addEventListener("change", named);
  named();
})();

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const lines = button.previousElementSibling;
    let done = true;
    try {
      await navigator.clipboard.writeText(lines.textContent);
    } catch {
      getSelection().selectAllChildren(lines);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Selected";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

// Printing shows what is folded away.
(() => {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const box of opened) box.open = true;
  });
  addEventListener("afterprint", () => { for (const box of opened) box.open = false; });
})();

// Highlight a text in some nodes.
const mark = (needle, nodes) => {
  if (!globalThis.Highlight || !CSS.highlights) return;
  const ranges = [];
  if (needle) for (const node of nodes) {
    const walk = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
    while (walk.nextNode() && ranges.length < 1000) {
      const text = walk.currentNode.data.toLowerCase();
      if (text.length !== walk.currentNode.data.length) continue;
      for (let i = text.indexOf(needle); i >= 0; i = text.indexOf(needle, i + needle.length)) {
        const range = new Range();
        range.setStart(walk.currentNode, i);
        range.setEnd(walk.currentNode, i + needle.length);
        ranges.push(range);
      }
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
};

// A list of items { node, ... } that is searched by the field #q, narrowed by `inputs` and walked
// with j and k. `choose(needle)` hides what does not fit; it returns the items that do, and words.
const browse = (list, items, inputs, choose) => {
  const q = byId("q");
  let current = null;
  let shown = items;
  const update = () => {
    const needle = q.value.trim().toLowerCase();
    const chosen = choose(needle);
    shown = chosen.shown;
    const visible = new Set(shown);
    for (const item of items) item.node.hidden = !visible.has(item);
    byId("found").textContent = chosen.words;
    byId("none").hidden = shown.length > 0;
    mark(needle, shown.map((item) => item.node));
  };
  for (const input of inputs) if (input) input.addEventListener("change", update);
  let waiting = 0;
  q.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, 80); });
  q.form.addEventListener("submit", (event) => event.preventDefault());

  const step = (by) => {
    if (!shown.length) return;
    const at = shown.indexOf(current);
    current = shown[at < 0 ? (by > 0 ? 0 : shown.length - 1) : Math.min(Math.max(at + by, 0), shown.length - 1)];
    current.node.focus({ preventScroll: true });
    current.node.scrollIntoView({ block: "start" });
  };
  list.addEventListener("focusin", (event) => {
    current = items.find((item) => item.node.contains(event.target)) ?? current;
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && event.target === q) {
      q.value = "";
      update();
      q.blur();
    }
    if (event.target.matches?.("input, select, textarea")) return;
    if (event.key === "/") {
      event.preventDefault();
      q.focus();
    } else if (event.key === "j" || event.key === "k") {
      event.preventDefault();
      step(event.key === "j" ? 1 : -1);
    }
  });
  update();
};

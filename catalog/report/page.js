"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;

  // Light and dark: the system decides until the button is used.
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

  const copy = byId("copy");
  if (copy) copy.addEventListener("click", async () => {
    const snippet = byId("snippet");
    let done = true;
    try {
      await navigator.clipboard.writeText(snippet.textContent);
    } catch {
      getSelection().selectAllChildren(snippet);
      done = document.execCommand("copy");
    }
    copy.textContent = done ? "Copied" : "Selected";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  });

  // Printing shows what is folded away.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const box of opened) box.open = true;
  });
  addEventListener("afterprint", () => { for (const box of opened) box.open = false; });

  const list = byId("samples");
  if (!list) return;
  const q = byId("q"), objective = byId("objective"), direction = byId("direction"), sort = byId("sort");
  const samples = [...list.children].map((node) => ({
    node,
    at: Number(node.dataset.at),
    text: node.textContent.toLowerCase(),
    ...JSON.parse(node.dataset.numbers),
  }));
  const wanted = {
    all: () => true,
    higher: (gap) => gap !== null && gap > 0,
    lower: (gap) => gap !== null && gap < 0,
    tied: (gap) => gap === 0,
  };

  const mark = (needle, shown) => {
    if (!globalThis.Highlight || !CSS.highlights) return;
    const ranges = [];
    if (needle) for (const { node } of shown) {
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

  let current = null;
  let shown = samples;
  const update = () => {
    const needle = q.value.trim().toLowerCase();
    const which = objective ? Number(objective.value) : -1;
    const gap = (s) => (which < 0 ? null : s.gaps[which]);
    const fits = wanted[direction ? direction.value : "all"];
    const [key, way] = sort.value.split("-");
    const value = (s) => (key === "margin" ? s.margin : gap(s));
    const order = (a, b) => {
      if (key === "id") return a.at - b.at;
      const x = value(a), y = value(b);
      if (x === null || y === null) return (x === null) - (y === null) || a.at - b.at;
      return (way === "down" ? y - x : x - y) || a.at - b.at;
    };
    const sorted = [...samples].sort(order);
    shown = sorted.filter((s) => s.text.includes(needle) && fits(gap(s)));
    const visible = new Set(shown);
    for (const s of samples) s.node.hidden = !visible.has(s);
    list.append(...sorted.map((s) => s.node));
    byId("found").textContent = `${shown.length} of ${samples.length}`;
    byId("none").hidden = shown.length > 0;
    mark(needle, shown);
  };
  for (const input of [objective, direction, sort]) if (input) input.addEventListener("change", update);
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
    current = samples.find((s) => s.node.contains(event.target)) ?? current;
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
})();

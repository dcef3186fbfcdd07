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
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const box of opened) box.open = true;
  });
  addEventListener("afterprint", () => { for (const box of opened) box.open = false; });

  const q = byId("q"), severity = byId("severity");
  const findings = [...byId("findings").children].map((node) => ({
    node,
    severity: Number(node.dataset.severity),
    text: node.textContent.toLowerCase(),
    box: node.querySelector("details.examples"),
    was: node.querySelector("details.examples")?.open,
    list: node.querySelector("details.named"),
    rows: [...node.querySelectorAll("ol.named > li")].map((item) => ({
      node: item,
      text: item.textContent.toLowerCase(),
    })),
    examples: [...node.querySelectorAll(".example")].map((item) => ({
      node: item,
      text: item.textContent.toLowerCase(),
    })),
  }));

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
  let shown = findings;
  const update = () => {
    const needle = q.value.trim().toLowerCase();
    const least = Number(severity.value);
    shown = findings.filter((f) => f.severity >= least && f.text.includes(needle));
    const visible = new Set(shown);
    let examples = 0, rows = 0;
    for (const f of findings) {
      f.node.hidden = !visible.has(f);
      const hits = needle ? f.examples.filter((e) => e.text.includes(needle)) : f.examples;
      if (visible.has(f) && needle) examples += hits.length;
      for (const e of f.examples) e.node.hidden = needle !== "" && hits.length > 0 && !hits.includes(e);
      const named = needle ? f.rows.filter((r) => r.text.includes(needle)) : f.rows;
      if (visible.has(f) && needle) rows += named.length;
      for (const r of f.rows) r.node.hidden = needle !== "" && named.length > 0 && !named.includes(r);
      if (f.list && needle) f.list.open = named.length > 0;
      if (f.box) f.box.open = needle && hits.length > 0 ? true : f.was;
    }
    const counted = (n, word) => `, ${n} ${word}${n === 1 ? "" : "s"}`;
    const also = needle ? counted(examples, "example") + (rows ? counted(rows, "row") : "") : "";
    byId("found").textContent = `${shown.length} of ${findings.length} findings${also}`;
    byId("none").hidden = shown.length > 0;
    mark(needle, shown);
  };
  severity.addEventListener("change", update);
  let waiting = 0;
  q.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, 80); });
  q.form.addEventListener("submit", (event) => event.preventDefault());
  for (const f of findings) if (f.box) f.box.addEventListener("toggle", () => {
    if (!q.value.trim()) f.was = f.box.open;
  });

  const step = (by) => {
    if (!shown.length) return;
    const at = shown.indexOf(current);
    current = shown[at < 0 ? (by > 0 ? 0 : shown.length - 1) : Math.min(Math.max(at + by, 0), shown.length - 1)];
    current.node.focus({ preventScroll: true });
    current.node.scrollIntoView({ block: "start" });
  };
  byId("findings").addEventListener("focusin", (event) => {
    current = findings.find((f) => f.node.contains(event.target)) ?? current;
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
})();

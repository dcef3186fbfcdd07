(() => {
  const severity = byId("severity");
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
  browse(byId("findings"), findings, [severity], (needle) => {
    const least = Number(severity.value);
    const shown = findings.filter((f) => f.severity >= least && f.text.includes(needle));
    let examples = 0, rows = 0;
    for (const f of findings) {
      const hits = needle ? f.examples.filter((e) => e.text.includes(needle)) : f.examples;
      if (shown.includes(f) && needle) examples += hits.length;
      for (const e of f.examples) e.node.hidden = needle !== "" && hits.length > 0 && !hits.includes(e);
      const named = needle ? f.rows.filter((r) => r.text.includes(needle)) : f.rows;
      if (shown.includes(f) && needle) rows += named.length;
      for (const r of f.rows) r.node.hidden = needle !== "" && named.length > 0 && !named.includes(r);
      if (f.list && needle) f.list.open = named.length > 0;
      if (f.box) f.box.open = needle && hits.length > 0 ? true : f.was;
    }
    const counted = (n, word) => `, ${n} ${word}${n === 1 ? "" : "s"}`;
    const also = needle ? counted(examples, "example") + (rows ? counted(rows, "row") : "") : "";
    return { shown, words: `${shown.length} of ${findings.length} findings${also}` };
  });
  for (const f of findings) if (f.box) f.box.addEventListener("toggle", () => {
    if (!byId("q").value.trim()) f.was = f.box.open;
  });
})();

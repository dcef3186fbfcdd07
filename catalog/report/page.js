(() => {
  const list = byId("samples");
  if (!list) return;
  const objective = byId("objective"), direction = byId("direction"), sort = byId("sort");
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
  browse(list, samples, [objective, direction, sort], (needle) => {
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
    list.append(...sorted.map((s) => s.node));
    const shown = sorted.filter((s) => s.text.includes(needle) && fits(gap(s)));
    return { shown, words: `${shown.length} of ${samples.length}` };
  });
})();

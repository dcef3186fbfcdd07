// The Pareto plot for other objectives than the first two; draws what pareto.py draws.
(() => {
  "use strict";
  const home = document.getElementById("pareto");
  if (!home) return;
  const { names, sides, shown, radius, largest, leastAhead, pad, box } = JSON.parse(home.dataset.plot);
  const [across, up] = ["x", "y"].map((axis) => document.getElementById(`pareto-${axis}`));
  const base = box.height - box.bottom, end = box.width - box.right;

  const make = (name, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const words = (text, x, y, anchor, style, more = {}) =>
    make("text", { x, y, "text-anchor": anchor, class: style, ...more }, text);
  const signed = (text) => text.replace("-", "\u2212");
  const count = (n) => n.toLocaleString("en-US");
  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const num = (v) => {
    const size = Math.abs(v);
    if (size >= 1e7 || (size > 0 && size < 1e-3)) return signed(v.toExponential(2));
    if (size >= 1000) return signed(count(Math.round(v)));
    return signed(v.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3));
  };
  const tick = (v) => {
    const size = Math.abs(v), g = (x) => String(Number(x.toPrecision(6)));
    if (size >= 1e9) return signed(v.toExponential(1));
    return signed(size >= 1e6 ? `${g(v / 1e6)}M` : size >= 1e4 ? `${g(v / 1e3)}k` : g(v));
  };
  const nice = (step) => {
    if (step <= 1e-300) return null;
    const power = 10 ** Math.floor(Math.log10(step));
    return [1, 2, 2.5, 5, 10].map((k) => k * power).find((k) => k >= step * (1 - 1e-9));
  };
  const axis = (values) => {
    let low = values.length ? Math.min(...values) : 0, high = values.length ? Math.max(...values) : 1;
    const size = Math.max(Math.abs(low), Math.abs(high));
    let step = high - low > 1e-9 * size ? nice((high - low) / 4) : null;
    if (step === null) {
      const half = Math.max(0.5, size / 20);
      [low, high, step] = [low - half, high + half, nice(half)];
    }
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i += 1) ticks.push(Number((i * step).toPrecision(12)));
    const room = (high - low) * pad, from = low - room, span = high - low + 2 * room;
    return { ticks, place: (v) => (v - from) / span };
  };
  const pointsOf = (side, x, y) => sides[side][x].map((a, i) => {
    const b = sides[side][y][i];
    return a === null || b === null ? null : [a, b];
  });
  const frontOf = (points) => {
    const found = [];
    for (const [x, y] of [...points].sort((p, q) => q[0] - p[0] || q[1] - p[1])) if (!found.length || y > found.at(-1)[1]) found.push([x, y]);
    return found.reverse();
  };
  const key = (point) => point.join(" ");
  const counted = (points) => {
    const found = new Map();
    for (const p of points) found.set(key(p), [p, (found.get(key(p))?.[1] ?? 0) + 1]);
    return found;
  };

  const draw = () => {
    const [x, y] = [Number(across.value), Number(up.value)];
    const rows = Object.fromEntries(Object.keys(sides).map((side) => [side, pointsOf(side, x, y)]));
    const found = Object.fromEntries(Object.entries(rows).map(([side, all]) => [side, all.filter(Boolean)]));
    const every = Object.values(found).flat();
    const front = frontOf(every), ahead = new Set(front.map(key));
    const [ax, ay] = [0, 1].map((i) => axis(every.map((p) => p[i])));
    const px = (v) => box.left + (end - box.left) * ax.place(v);
    const py = (v) => base - (base - box.top) * ay.place(v);
    const marks = [];
    for (const v of ay.ticks) marks.push(make("line", { x1: box.left, x2: end, y1: py(v), y2: py(v), class: "grid" }), words(tick(v), box.left - 6, py(v) + 3.5, "end", "tick"));
    for (const v of ax.ticks) marks.push(make("line", { x1: px(v), x2: px(v), y1: box.top, y2: base, class: "grid" }), words(tick(v), px(v), base + 15, "middle", "tick"));
    marks.push(make("line", { x1: box.left, x2: end, y1: base, y2: base, class: "axis" }));
    const middle = (box.top + base) / 2;
    marks.push(words(names[x], (box.left + end) / 2, box.height - 8, "middle", "label"));
    marks.push(words(names[y], 12, middle, "middle", "label", { transform: `rotate(-90 12 ${middle})` }));
    if (front.length) {
      const path = front.map(([a, b], i) => `${i ? `V${py(b)}` : ""}H${px(a)}`).join("");
      marks.push(make("path", { d: `M${box.left} ${py(front[0][1])}${path}V${base}`, class: "front" }));
    }
    for (const [side, all] of Object.entries(found)) for (const [place, [p, n]] of counted(all)) {
      const on = ahead.has(place), cx = px(p[0]), cy = py(p[1]);
      const r = Math.max(Math.min(radius * Math.sqrt(n), largest), on ? leastAhead : 0);
      const many = n > 1 ? ` (${count(n)} answers)` : "";
      const tip = make("title", {}, `${side} at ${tick(p[0])}, ${tick(p[1])}${many}${on ? ", on the front" : ""}`);
      const style = { class: `mark ${side}${on ? " ahead" : ""}` };
      const corners = `${cx},${cy - r} ${cx + r},${cy} ${cx},${cy + r} ${cx - r},${cy}`;
      marks.push(side === "rejected" ? make("polygon", { points: corners, ...style }, tip) : make("circle", { cx, cy, r, ...style }, tip));
    }
    const told = tell(rows, found, every, ahead);
    const summary = `${names[y]} against ${names[x]}. ${told}`;
    const picture = make("svg", { viewBox: `0 0 ${box.width} ${box.height}`, role: "img", "aria-label": summary, class: "chart" }, make("title", {}, summary), make("g", {}, ...marks));
    document.getElementById("pareto-picture").replaceChildren(picture);
    document.getElementById("pareto-told").textContent = told;
    list(x, y, found, front);
  };

  const tell = (rows, found, every, ahead) => {
    const on = Object.entries(found).map(([side, all]) => [side, all.filter((p) => ahead.has(key(p))).length]);
    const sum = on.reduce((total, [, n]) => total + n, 0);
    const bySide = on.length > 1 ? ` (${on.map(([side, n]) => `${count(n)} ${side}`).join(", ")})` : "";
    const text = `${count(sum)} of ${count(every.length)} answers lie on the Pareto front${bySide}.`;
    if (on.length < 2) return text;
    const both = rows.chosen.map((c, i) => [c, rows.rejected[i]]).filter(([c, r]) => c && r);
    if (!both.length) return text;
    const beats = (a, b) => a[0] >= b[0] && a[1] >= b[1] && (a[0] > b[0] || a[1] > b[1]);
    const share = (test) => percent(both.filter(([c, r]) => test(c, r)).length / both.length);
    return `${text} Of ${count(both.length)} pairs the chosen answer is ahead on one and not behind on the other in ${share(beats)}, the rejected one in ${share((c, r) => beats(r, c))}, and the two objectives pull apart in ${share((c, r) => (c[0] - r[0]) * (c[1] - r[1]) < 0)}.`;
  };

  const list = (x, y, found, front) => {
    const table = document.getElementById("pareto-front");
    const cell = (name, text) => Object.assign(document.createElement(name), { textContent: text });
    [names[x], names[y]].forEach((name, i) => { table.tHead.rows[0].cells[i].textContent = name; });
    const sizes = Object.entries(found).map(([side, all]) => [side, counted(all)]);
    table.tBodies[0].replaceChildren(...front.reverse().map((p) => {
      const who = sizes.map(([side, n]) => [side, n.get(key(p))?.[1]]).filter(([, n]) => n);
      const row = document.createElement("tr");
      row.append(cell("th", num(p[0])), cell("td", num(p[1])), cell("td", who.map(([side, n]) => `${count(n)} ${side}`).join(", ")));
      row.cells[0].scope = "row";
      return row;
    }));
  };

  let before = shown;
  for (const [i, input] of [across, up].entries()) input.addEventListener("change", () => {
    if (across.value === up.value) [across, up][1 - i].value = before[i]; // swapped, never twice the same
    before = [Number(across.value), Number(up.value)];
    draw();
  });
  across.value = shown[0]; // a browser may have kept what was chosen before a reload
  up.value = shown[1];
})();

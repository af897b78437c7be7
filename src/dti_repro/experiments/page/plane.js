"use strict";
// The image-text plane and the curves of training, drawn by Observable Plot as SVG.
const PLACES = [8, 22, 38, 56, 76].flatMap((far) => [0, 4, 2, 6, 1, 3, 5, 7].map((turn) => [far, (turn * Math.PI) / 4]));

/** Return a figure of Plot whose parts a screen reader takes as groups: their names are not allowed without a role. */
function plot(options) {
  const svg = Plot.plot({ style: { background: "none", fontSize: "13px" }, ...options });
  for (const part of [svg, ...svg.querySelectorAll("g[aria-label]")]) part.setAttribute("role", "group");
  return svg;
}

/** Return what a row measures on two metrics; null where it has no score on one of them. */
function pointOf(row, x, y) {
  const [across, up] = [data.rows[row].scores[x], data.rows[row].scores[y]];
  if (!across || !up) return null;
  const [ax, aLow, aHigh] = across;
  const [uy, uLow, uHigh] = up;
  return { row, label: data.rows[row].label, bound: data.rows[row].bound, x: ax, y: uy, xLow: aLow, xHigh: aHigh, yLow: uLow, yHigh: uHigh };
}

/** Return the points that no other beats on one axis without losing on the other, from left to right. */
function frontOf(points) {
  const beats = (a, b) => a.x >= b.x && a.y >= b.y && (a.x > b.x || a.y > b.y);
  return points.filter((p) => !points.some((other) => beats(other, p))).sort((a, b) => a.x - b.x || b.y - a.y);
}

function inWords(row, metric) {
  const [mean, low, high, n] = data.rows[row].scores[metric];
  const interval = low == null ? "" : ` (95%: ${low.toFixed(3)} to ${high.toFixed(3)}, ${n} subjects)`;
  return `${data.metrics[metric]} ${mean.toFixed(3)}${interval}`;
}

const valuesOf = (row, x, y) => `${data.rows[row].label}\n${inWords(row, x)}\n${inWords(row, y)}`;

function startPlane() {
  fill(byId("plane-x"), data.metrics);
  fill(byId("plane-y"), data.metrics);
  [byId("plane-x").value, byId("plane-y").value] = data.axes;
  const rows = range(data.rows.length).filter((row) => data.rows[row].scores.filter(Boolean).length > 1);
  const chosen = chips(byId("plane-rows"), rows, () => drawPlane(chosen));
  for (const id of ["plane-x", "plane-y", "plane-bars"]) byId(id).addEventListener("change", () => drawPlane(chosen));
  whenResized(byId("plane-figure"), () => drawPlane(chosen));
}

function drawPlane(chosen) {
  const [x, y] = [Number(byId("plane-x").value), Number(byId("plane-y").value)];
  const points = [...chosen].sort((a, b) => a - b).map((row) => pointOf(row, x, y)).filter(Boolean);
  const front = frontOf(points.filter((point) => !point.bound));
  const bars = byId("plane-bars").checked ? points : [];
  const width = byId("plane-figure").clientWidth;
  const svg = plot({
    width,
    height: Math.min(620, Math.max(380, width * 0.6)),
    marginLeft: 52, marginRight: 24, marginBottom: 44, marginTop: 28,
    ariaLabel: `${data.metrics[y]} against ${data.metrics[x]}; the table below has the same numbers`,
    x: { label: `${data.metrics[x]} →`, grid: true, nice: true, ticks: Math.max(3, width / 120) },
    y: { label: `↑ ${data.metrics[y]}`, grid: true, nice: true },
    marks: [
      Plot.line(front, { x: "x", y: "y", stroke: "var(--soft)", strokeWidth: 1.5, strokeDasharray: "5 4" }),
      Plot.ruleY(bars, { y: "y", x1: "xLow", x2: "xHigh", stroke: (p) => colour(p.row), strokeOpacity: 0.55 }),
      Plot.ruleX(bars, { x: "x", y1: "yLow", y2: "yHigh", stroke: (p) => colour(p.row), strokeOpacity: 0.55 }),
      Plot.dot(points, {
        x: "x", y: "y", r: 6, strokeWidth: 2, className: "points", symbol: (p) => symbol(p.row), stroke: (p) => colour(p.row),
        fill: (p) => (p.bound ? "var(--paper)" : colour(p.row)), ariaLabel: (p) => valuesOf(p.row, x, y),
      }),
      Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: (p) => valuesOf(p.row, x, y), lineWidth: 40, fill: "var(--paper)", stroke: "var(--soft)" })),
    ],
    color: { type: "identity" },
    symbol: { type: "identity" },
  });
  byId("plane-figure").replaceChildren(svg);
  const signs = [...svg.querySelectorAll("[aria-label='dot'] path, [aria-label='dot'] circle")];
  signs.forEach((sign, i) => {
    sign.setAttribute("tabindex", "0");
    sign.setAttribute("role", "img");
    for (const event of ["focus", "pointerenter", "click"])
      sign.addEventListener(event, () => { byId("plane-value").textContent = valuesOf(points[i].row, x, y); });
  });
  const at = (point) => ({ ...point, px: svg.scale("x").apply(point.x), py: svg.scale("y").apply(point.y) });
  labelPoints(svg, points.map(at), width);
}

/** Write the names beside the points, each at the first place where it covers no point and no other name. */
function labelPoints(svg, points, width) {
  const layer = d3.select(svg).insert("g", "[aria-label=tip]").attr("pointer-events", "none").attr("aria-hidden", "true");
  const taken = points.map((p) => ({ left: p.px - 8, right: p.px + 8, top: p.py - 8, bottom: p.py + 8 }));
  const height = Number(svg.getAttribute("height"));
  for (const point of points) {
    const text = layer.append("text").attr("class", "label").attr("text-anchor", "start").text(point.label);
    const size = text.node().getBBox();
    const boxes = PLACES.map(([far, turn]) => {
      const [dx, dy] = [Math.cos(turn), Math.sin(turn)];
      const middle = point.px + dx * (far + 4 + size.width / 2);
      const centre = point.py - dy * (far + 2 + size.height / 2);
      return { far, left: middle - size.width / 2, right: middle + size.width / 2, top: centre - size.height / 2, bottom: centre + size.height / 2 };
    });
    const inside = (b) => b.left > 50 && b.right < width - 2 && b.top > 22 && b.bottom < height - 40;
    const free = (b) => !taken.some((t) => b.left < t.right && b.right > t.left && b.top < t.bottom && b.bottom > t.top);
    const box = boxes.find((b) => inside(b) && free(b));
    if (!box) {
      text.remove(); // its sign is in the list of rows, and pointing at it names it
      continue;
    }
    taken.push(box);
    text.attr("x", box.left).attr("y", box.bottom - size.height * 0.24);
    if (box.far > 20)
      layer.insert("line", "text").attr("stroke", "var(--soft)").attr("x1", point.px).attr("y1", point.py)
        .attr("x2", Math.max(box.left, Math.min(box.right, point.px)))
        .attr("y2", Math.max(box.top, Math.min(box.bottom, point.py)));
  }
}

function startCurves() {
  const rows = [...new Set(data.curves.flatMap((curve) => curve.lines.map((line) => line.row)))].sort((a, b) => a - b);
  byId("training-about").textContent = rows.length
    ? "Means over subjects, from the log of each training. Point at a line to read it."
    : "The runs are not on this machine, so there are no curves.";
  byId("curve-rows").closest("details").hidden = !rows.length;
  if (!rows.length) return;
  const chosen = chips(byId("curve-rows"), rows, () => drawCurves(chosen), { folded: false }); // they say which line is whose
  whenResized(byId("curves"), () => drawCurves(chosen));
}

function drawCurves(chosen) {
  const across = Math.max(1, Math.floor((byId("curves").clientWidth + 16) / 432));
  const width = (byId("curves").clientWidth - 16 * (across - 1)) / across;
  byId("curves").replaceChildren(...data.curves.map((curve) => {
    const points = curve.lines.filter((line) => chosen.has(line.row)).flatMap((line) =>
      line.points.map(([step, value]) => ({ row: line.row, step, value })));
    const values = points.map((point) => point.value);
    const wide = Math.min(...values) > 0 && Math.max(...values) > 8 * Math.min(...values);
    const svg = plot({
      width, height: 280, marginLeft: 52,
      ariaLabel: `${curve.title} by step`,
      x: { label: null, nice: true, ticks: 5 },
      y: { label: null, grid: true, type: wide ? "log" : "linear", ticks: 5, tickFormat: "~g" },
      color: { type: "identity" },
      marks: [
        Plot.line(points, { x: "step", y: "value", z: "row", stroke: (p) => colour(p.row), strokeWidth: 1.8 }),
        Plot.tip(points, Plot.pointer({
          x: "step", y: "value", fill: "var(--paper)", stroke: "var(--soft)",
          title: (p) => `${data.rows[p.row].label}\nstep ${p.step}: ${Number(p.value.toPrecision(3))}`,
        })),
      ],
    });
    return make("figure", {}, make("figcaption", { textContent: `${curve.title} by step${wide ? " (log scale)" : ""}` }), svg);
  }));
}

/** Draw now, and again when the width of an element has changed. */
function whenResized(element, draw) {
  let width = 0;
  new ResizeObserver(() => {
    if (element.clientWidth === width) return;
    width = element.clientWidth;
    draw();
  }).observe(element);
}

startPlane();
startCurves();

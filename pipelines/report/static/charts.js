"use strict";

// Histograms, drawn by uPlot. The x axis is the number of the bar, so that equal steps and equal ratios look alike.
RM.charts = (() => {
  const { el, fmt } = RM;
  const drawn = new Set();

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  /** The position of a value among the edges, in bars. */
  function position(edges, value) {
    if (value <= edges[0]) return 0;
    for (let i = 1; i < edges.length; i++) {
      if (value < edges[i]) {
        const steep = edges[i - 1] > 0 && edges.length > 2 && edges[edges.length - 1] / edges[edges.length - 2] > 1.05;
        const inside = steep
          ? Math.log(value / edges[i - 1]) / Math.log(edges[i] / edges[i - 1])
          : (value - edges[i - 1]) / (edges[i] - edges[i - 1]);
        return i - 1 + inside;
      }
    }
    return edges.length - 1;
  }

  /** The value at a position: the inverse of `position`. */
  function valueAt(edges, where) {
    const i = Math.min(Math.floor(where), edges.length - 2);
    const inside = where - i;
    const steep = edges[i] > 0 && edges[edges.length - 1] / edges[edges.length - 2] > 1.05;
    return steep ? edges[i] * (edges[i + 1] / edges[i]) ** inside : edges[i] + inside * (edges[i + 1] - edges[i]);
  }

  /** Draw a histogram {edges, kept, others} in `box`. marks(): values to draw as lines. Returns {redraw}. */
  function histogram(box, found, { marks = () => [], height = 96, label = "" } = {}) {
    const bars = found.edges.length - 1;
    const x = Array.from({ length: bars }, (_, i) => i);
    const total = found.kept.map((n, i) => n + found.others[i]);
    // Bars of whole numbers end between two of them: a tick shows the number beside its edge.
    const edgeAt = (i) => found.edges[Math.round(i)];
    const whole = bars > 1 && edgeAt(bars) - edgeAt(0) > 1 && found.edges.every((edge) => (edge - 0.5) % 1 === 0);
    let plot = null;

    const at = () => Math.max(160, Math.floor(box.clientWidth));
    function draw() {
      const width = at();
      const grey = colour("--bar");
      const accent = colour("--accent");
      const muted = colour("--muted");
      const axis = { stroke: muted, grid: { show: false }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
      if (plot) plot.destroy();
      plot = new uPlot({
        width, height, padding: [6, 14, 0, 14], legend: { show: false },
        cursor: { show: false }, select: { show: false },
        scales: { x: { time: false, range: [0, bars] }, y: { range: (_, __, top) => [0, top || 1] } },
        axes: [
          { ...axis, size: 20, gap: 2, space: 46,
            splits: () => ticks(bars, width),
            values: (_, splits) => splits.map((i) => fmt.tick(whole ? Math.floor(edgeAt(i) + (i < bars ? 0.5 : 0)) : edgeAt(i))) },
          { ...axis, show: false },
        ],
        series: [
          {},
          { fill: grey, stroke: grey, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.86, 100], align: 1 }) },
          { fill: accent, stroke: accent, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.86, 100], align: 1 }) },
        ],
        hooks: { draw: [(u) => lines(u, found.edges, marks())] },
      }, [x, total, found.kept], box);
      plot.root.setAttribute("aria-hidden", "true");
    }

    box.classList.add("chart");
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", `${label}: ${fmt.count(found.count)} values, median ${fmt.number(found.median)}, from ${fmt.number(found.min)} to ${fmt.number(found.max)}`);
    RM.whenSeen(box, draw);
    const entry = { box, redraw: () => plot && plot.redraw(false), again: () => plot && draw() };
    drawn.add(entry);
    return entry;
  }

  function ticks(bars, width) {
    const count = Math.max(2, Math.min(6, Math.floor(width / 64)));
    return Array.from({ length: count }, (_, i) => Math.round((i * bars) / (count - 1)));
  }

  function lines(u, edges, values) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.strokeStyle = colour("--ink");
    ctx.lineWidth = 1.5 * devicePixelRatio;
    for (const value of values) {
      if (value === null || Number.isNaN(value)) continue;
      const x = Math.round(u.valToPos(position(edges, value), "x", true));
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  /** An HTML bar of shares of a whole. parts: [[share, class, title]]. */
  function bar(parts, label) {
    const node = el("div", { class: "bar", role: "img", "aria-label": label });
    for (const [share, kind, title] of parts) {
      const part = el("span", { class: kind, title });
      part.style.width = `${100 * share}%`;
      node.append(part);
    }
    return node;
  }

  function again() {
    for (const entry of drawn) entry.box.isConnected ? entry.again() : drawn.delete(entry);
  }
  let timer = 0;
  addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(again, 120); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);

  return { histogram, bar, position, valueAt };
})();

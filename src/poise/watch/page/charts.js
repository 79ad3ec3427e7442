// One chart for all pictures: lines by uPlot, and what stands behind and before them.

import { along, h, number } from "./dom.js";

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
export const shade = (index) => colour(`c${(index % 8) + 1}`);
const RATIO = () => devicePixelRatio || 1;

export class Chart {
  // host: the element; about: { x, height, label, format, zoom(range), legend, low, high }.
  constructor(host, about) {
    this.host = host;
    this.about = { height: 120, format: number, ...about };
    this.shown = { lines: [] };
    this.box = h("div", { className: "plot", role: "img", "aria-label": this.about.label });
    this.legend = h("div", { className: "legend" });
    host.append(this.box, ...(this.about.legend ? [this.legend] : []));
    this.watcher = new ResizeObserver(() => this.fit());
    this.watcher.observe(this.box);
  }

  // shown: { lines: [{ label, colour, x, y, width, fill, dash }], dots, bands, good, bars, marks, goal }.
  set(shown) {
    this.shown = shown;
    const tables = shown.lines.map((line) => [line.x, line.y]);
    this.data = tables.length ? uPlot.join(tables) : [[], []];
    const shape = JSON.stringify(shown.lines.map((line) => [line.label, line.colour, line.fill]));
    if (this.plot && shape === this.shape) this.plot.setData(this.data, !this.zoomed);
    else this.build(shape);
    if (this.zoomed) this.plot.redraw();
    this.read(null);
    return this;
  }

  build(shape) {
    this.shape = shape;
    this.plot?.destroy();
    const grid = { stroke: colour("grid"), width: 1 };
    const axis = { stroke: colour("quiet"), grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const lines = this.shown.lines.map((line) => ({
      label: line.label, stroke: line.colour, width: line.width ?? 2, fill: line.fill, dash: line.dash,
      spanGaps: true, points: { show: line.x.length < 2, size: 6 },
    }));
    const { x, format } = this.about;
    this.plot = new uPlot({
      width: Math.max(this.box.clientWidth, 50), height: this.about.height,
      legend: { show: false },
      scales: { x: { time: false, range: (u, low, high) => this.across(low, high) }, y: { range: () => this.extent() } },
      axes: [
        { ...axis, size: 26, values: (u, ticks) => ticks.map(along(x)), space: 70 },
        { ...axis, size: 54, values: (u, ticks) => ticks.map((tick) => format(tick)), space: this.about.height > 200 ? 40 : 26 },
      ],
      series: [{}, ...(lines.length ? lines : [{}])],
      cursor: { sync: { key: `x-${x}`, setSeries: false }, drag: { x: true, y: false, setScale: true, dist: 5 },
        y: false, points: { size: 7 } },
      hooks: {
        drawAxes: [(u) => this.within(u, () => this.behind(u))],
        draw: [(u) => this.within(u, () => this.before(u))],
        setCursor: [(u) => this.read(u.cursor.idx)],
        setSelect: [(u) => { if (u.select.width > 5) this.zoomTo(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")); }],
        ready: [(u) => u.over.addEventListener("dblclick", () => this.zoomTo(null))],
      },
    }, this.data, this.box);
  }

  zoomTo(low, high) {
    this.zoomed = low == null ? null : [low, high];
    this.about.zoom?.(this.zoomed);
  }

  across(low, high) {
    if (low == null || high == null) return [0, 1];
    const all = [...(this.shown.dots ? [this.shown.dots.x] : []), ...(this.shown.bars ? [this.shown.bars.x] : []),
      ...(this.shown.marks ?? []).map((mark) => [mark.x])];
    if (!this.zoomed) for (const xs of all) if (xs.length) { low = Math.min(low, xs[0]); high = Math.max(high, xs.at(-1)); }
    return low === high ? [low - 1, high + 1] : [low, high];
  }

  // The vertical axis holds all that is drawn between the ends of the horizontal one.
  extent() {
    if (this.shown.heat) return [0, this.shown.heat.rows[0]?.length || 1];
    const { lines, dots, bands = [], bars, goal, good } = this.shown;
    const { min: start = -Infinity, max: end = Infinity } = this.plot?.scales.x ?? {};
    let low = Infinity, high = -Infinity;
    const take = (xs, ys) => {
      for (let i = 0; i < xs.length; i++) {
        if (ys[i] == null || (this.zoomed && (xs[i] < start || xs[i] > end))) continue;
        if (ys[i] < low) low = ys[i];
        if (ys[i] > high) high = ys[i];
      }
    };
    for (const line of lines) take(line.x, line.y);
    if (lines.some((line) => line.fill)) take([start === -Infinity ? 0 : start], [0]);
    if (dots) take(dots.x, dots.y);
    for (const band of bands) { take(band.x, band.low); take(band.x, band.high); }
    if (bars) { take(bars.x, bars.low); take(bars.x, bars.high); }
    if (low > high) return [0, 1];
    if (goal != null && !this.zoomed) { low = Math.min(low, goal); high = Math.max(high, goal); }
    if (good && good[0] != null && good[1] != null && good[1] - good[0] < 3 * (high - low)) {
      low = Math.min(low, good[0]);
      high = Math.max(high, good[1]);
    }
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    return [this.about.low ?? low - room, this.about.high ?? high + room];
  }

  within(u, draw) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    draw();
    ctx.restore();
  }

  behind(u) {
    const { ctx, bbox } = u;
    const { good, dots, heat, bands = [] } = this.shown;
    const X = (x) => u.valToPos(x, "x", true), Y = (y) => u.valToPos(y, "y", true);
    heat?.rows.forEach((column, i) => {
      const from = X(i ? heat.x[i - 1] : Math.min(0, heat.x[0])), most = Math.max(...column, 1e-9);
      ctx.fillStyle = colour("c1");
      column.forEach((share, part) => {
        ctx.globalAlpha = share ? 0.08 + 0.92 * share / most : 0;
        ctx.fillRect(from, Y(part + 1), X(heat.x[i]) - from + 0.5, Y(part) - Y(part + 1));
      });
      ctx.globalAlpha = 1;
    });
    if (good && (good[0] != null || good[1] != null)) {
      const top = good[1] == null ? bbox.top : Y(good[1]), low = good[0] == null ? bbox.top + bbox.height : Y(good[0]);
      ctx.fillStyle = colour("good-band");
      ctx.fillRect(bbox.left, top, bbox.width, low - top);
    }
    for (const band of bands) {
      ctx.globalAlpha = 0.18;
      ctx.fillStyle = band.colour;
      ctx.beginPath();
      band.x.forEach((x, i) => ctx.lineTo(X(x), Y(band.low[i])));
      for (let i = band.x.length - 1; i >= 0; i--) ctx.lineTo(X(band.x[i]), Y(band.high[i]));
      ctx.fill();
    }
    if (dots) {
      const size = (dots.x.length > 1500 ? 1.7 : dots.x.length > 200 ? 2.6 : 4.5) * RATIO();
      ctx.globalAlpha = dots.x.length > 1500 ? 0.32 : dots.x.length > 200 ? 0.45 : 0.75;
      ctx.fillStyle = colour("dot");
      for (let i = 0; i < dots.x.length; i++) {
        if (dots.y[i] != null) ctx.fillRect(X(dots.x[i]) - size / 2, Y(dots.y[i]) - size / 2, size, size);
      }
    }
    ctx.globalAlpha = 1;
  }

  before(u) {
    const { ctx, bbox } = u;
    const { bars, goal, marks = [] } = this.shown;
    const X = (x) => u.valToPos(x, "x", true), Y = (y) => u.valToPos(y, "y", true);
    const line = (x0, y0, x1, y1) => { ctx.beginPath(); ctx.moveTo(x0, y0); ctx.lineTo(x1, y1); ctx.stroke(); };
    ctx.lineWidth = RATIO();
    ctx.setLineDash([]);
    if (goal != null) {
      ctx.strokeStyle = colour("good");
      ctx.setLineDash([6 * RATIO(), 4 * RATIO()]);
      line(bbox.left, Y(goal), bbox.left + bbox.width, Y(goal));
      ctx.setLineDash([]);
    }
    if (bars) {
      ctx.strokeStyle = ctx.fillStyle = colour("c2");
      ctx.lineWidth = 1.5 * RATIO();
      bars.x.forEach((x, i) => {
        if (bars.low[i] != null) line(X(x), Y(bars.low[i]), X(x), Y(bars.high[i]));
        ctx.beginPath();
        ctx.arc(X(x), Y(bars.mean[i]), 3.2 * RATIO(), 0, 7);
        ctx.fill();
      });
    }
    for (const mark of marks) {
      const [x, size] = [X(mark.x), 5 * RATIO()], base = bbox.top + bbox.height;
      ctx.fillStyle = ctx.strokeStyle = colour(`mark-${mark.kind}`);
      ctx.globalAlpha = mark.kind === "checkpoint" ? 1 : 0.5;
      if (mark.kind !== "checkpoint") line(x, bbox.top, x, base);
      ctx.globalAlpha = 1;
      ctx.beginPath();
      if (mark.kind === "failure") { ctx.rect(x - size * 0.7, base - size * 1.4, size * 1.4, size * 1.4); }
      else { ctx.moveTo(x - size, base); ctx.lineTo(x + size, base); ctx.lineTo(x, base - 1.6 * size); }
      ctx.fill();
    }
  }

  // What the lines say where the pointer is, or at their ends.
  read(index) {
    if (!this.about.legend) return;
    const { lines, marks = [] } = this.shown, { x, format } = this.about;
    const at = index == null ? null : this.data[0][index];
    const near = at == null || !this.plot ? [] : marks.filter((mark) =>
      Math.abs(this.plot.valToPos(mark.x, "x") - this.plot.valToPos(at, "x")) < 6);
    const value = (line) => { // where the lines are stacked, each says its own part
      const values = line.own ?? line.y;
      return values.findLast((each, i) => each != null && (at == null || line.x[i] <= at)) ?? null;
    };
    this.legend.replaceChildren(
      h("span", { className: "at" }, at == null ? "now" : `${along(x)(at)} ${x === "time" ? "" : x}`),
      ...lines.slice(0, 12).map((line) => h("span", { className: "key" }, swatch(line.colour),
        line.label, " ", h("b", {}, format(value(line))))),
      ...(lines.length > 12 ? [h("span", { className: "quiet" }, `and ${lines.length - 12} more`)] : []),
      ...near.slice(0, 3).map((mark) => h("span", { className: "key mark" }, mark.text)));
  }

  fit() {
    const width = this.box.clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: this.about.height });
    this.about.fitted?.();
  }

  close() {
    this.watcher.disconnect();
    this.plot?.destroy();
  }
}

export function swatch(of) {
  const made = h("i", { className: "swatch" });
  made.style.background = of;
  return made;
}

// Lines that stand on each other: those that are mostly negative hang from 0.
export function stacked(x, parts) {
  const sums = { up: x.map(() => 0), down: x.map(() => 0) };
  const lines = parts.map(({ label, y }, i) => {
    const side = y.reduce((sum, value) => sum + (value ?? 0), 0) < 0 ? "down" : "up";
    sums[side] = sums[side].map((sum, j) => sum + (y[j] ?? 0));
    return { label, colour: shade(i), x, y: sums[side], own: y, width: 1, fill: `${shade(i)}` };
  });
  return lines.reverse(); // the largest is drawn first, and the others before it
}

// A line of a few points as a picture for a table.
export function spark(xs, ys, of = "var(--c1)") {
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 100 24");
  svg.setAttribute("aria-hidden", "true");
  const points = xs.map((x, i) => [x, ys[i]]).filter(([x, y]) => x != null && y != null);
  if (points.length > 1) {
    const [low, high] = [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
    const [start, end] = [points[0][0], points.at(-1)[0]];
    const path = document.createElementNS(NS, "polyline");
    path.setAttribute("points", points.map(([x, y]) =>
      `${(1 + 98 * (x - start) / (end - start || 1)).toFixed(1)},${(22 - 20 * (y - low) / (high - low || 1)).toFixed(1)}`).join(" "));
    path.style.stroke = of;
    svg.append(path);
  }
  return svg;
}

// The means of some curves at the same places, with the lowest and the highest of them.
export function together(curves, points = 80) {
  const sound = curves.map(({ x, y }) => x.map((at, i) => [at, y[i]]).filter(([at, v]) => at != null && v != null))
    .filter((curve) => curve.length > 1);
  if (!sound.length) return null;
  const start = Math.max(...sound.map((curve) => curve[0][0])), end = Math.min(...sound.map((curve) => curve.at(-1)[0]));
  if (!(start < end)) return null;
  const x = Array.from({ length: points }, (_, i) => start + (end - start) * i / (points - 1));
  const all = x.map((at) => sound.map((curve) => {
    let i = curve.findIndex(([place]) => place >= at);
    if (i <= 0) i = i < 0 ? curve.length - 1 : 1;
    const [[x0, y0], [x1, y1]] = [curve[i - 1], curve[i]];
    return x1 === x0 ? y1 : y0 + (y1 - y0) * (at - x0) / (x1 - x0);
  }));
  return {
    x, mean: all.map((row) => row.reduce((a, b) => a + b) / row.length),
    low: all.map((row) => Math.min(...row)), high: all.map((row) => Math.max(...row)), count: sound.length,
  };
}

// The page of a search: its trials, what they came to, and which settings matter.

import { Chart, colour, swatch } from "./charts.js";
import { ask, card, chip, h, number, setting } from "./dom.js";
import { decode } from "./main.js";

const SVG = "http://www.w3.org/2000/svg";

export function showStudy(main, id, known) {
  let study = null, closed = false, timer = null, order = "value", down = null;
  const kept = new Map(); // by the name of an axis, the part of it that is chosen
  const title = h("div", { className: "title" }, h("h1", {}, decode(id.split("/").at(-1))));
  const notes = h("div", { className: "notes" });
  const course = card("Trials", { className: "card" });
  const chart = new Chart(course, { x: "episodes", height: 220, legend: true, label: "What each trial came to" });
  course.append(h("p", { className: "caption" }, "Each trial that has ended is a dot, by its number; the line is the best so far."));
  const weights = card("What matters", { className: "card" });
  const parallel = card("All settings together", { className: "card wide" });
  const list = h("section", { className: "card runs wide", tabIndex: 0, "aria-label": "Trials" });
  main.append(title, notes, h("div", { className: "grid" }, course, weights, parallel, list));

  async function fetchStudy() {
    timer = null;
    try {
      study = await ask(`/api/study?study=${encodeURIComponent(id)}`);
      if (!closed) draw();
    } catch (error) {
      if (!closed) notes.replaceChildren(h("p", { className: "alert" }, error.message));
    }
  }

  const better = (a, b) => (study.mode === "max" ? a > b : a < b);

  function draw() {
    const { trials } = study, states = {};
    for (const trial of trials) states[trial.state] = (states[trial.state] ?? 0) + 1;
    title.replaceChildren(h("h1", {}, decode(id.split("/").at(-1))),
      h("span", { className: "quiet" }, `${study.algorithm} on ${study.env}: ${study.mode === "max" ? "most" : "least"} ${study.metric}, by ${study.sampler}`),
      ...Object.entries(states).map(([state, count]) => h("span", {}, `${count} `, chip(state))));
    notes.replaceChildren(...study.notes.map((note) => h("p", {}, note)));
    const ended = trials.filter((trial) => trial.value != null);
    let best = null;
    const line = ended.map((trial) => (best == null || better(trial.value, best) ? (best = trial.value) : best));
    const x = ended.map((trial) => trial.number);
    chart.set({ lines: [{ label: `best ${study.metric}`, colour: colour("c1"), x, y: line }], dots: { x, y: ended.map((trial) => trial.value) } });
    drawWeights();
    drawParallel(ended);
    drawList();
  }

  function drawWeights() {
    weights.replaceChildren(weights.firstChild, ...(study.importance.length ? [h("table", { className: "settings" },
      h("tbody", {}, study.importance.map(({ name, share }) => {
        const bar = h("i", { className: "weight" });
        bar.style.width = `${100 * share}%`;
        return h("tr", {}, h("th", { scope: "row" }, name), h("td", { className: "n" }, `${Math.round(100 * share)} %`), h("td", { className: "bars" }, bar));
      }))), h("p", { className: "caption" }, "How much of the trials' order each setting says by itself, with chance taken off (ε² over four equal groups of its values). What two settings do only together is not in it.")]
      : [h("p", { className: "quiet" }, "Too few trials have ended to tell.")]));
  }

  // A line for each trial through its place on each axis; a drag along an axis keeps those in it.
  function drawParallel(ended) {
    const places = [...study.params, { name: study.metric, value: true }];
    const width = Math.max(parallel.clientWidth - 30, 300), height = 280, top = 34, foot = 22;
    const axes = places.map((place, i) => axis(place, ended, 60 + i * (width - 120) / Math.max(places.length - 1, 1), top, height - foot));
    const svg = svgOf("svg", { viewBox: `0 0 ${width} ${height}`, class: "parallel", role: "img", "aria-label": "Settings of the trials, and what came of them" });
    const values = ended.map((trial) => trial.value).sort((a, b) => a - b);
    const rank = (value) => values.indexOf(value) / Math.max(values.length - 1, 1);
    const holds = (trial) => axes.every((each) => !kept.has(each.name) || inside(each.at(trial), kept.get(each.name)));
    const lines = [...ended].sort((a, b) => (better(a.value, b.value) ? 1 : -1)).map((trial) => {
      const share = study.mode === "max" ? rank(trial.value) : 1 - rank(trial.value);
      const points = axes.map((each) => [each.x, each.at(trial)]).filter(([, y]) => y != null).map((point) => point.map((v) => v.toFixed(1)).join(","));
      const made = svgOf("polyline", { points: points.join(" ") });
      made.style.stroke = share > 0.75 ? colour("c1") : share > 0.5 ? colour("c3") : share > 0.25 ? colour("c5") : colour("c8");
      if (!holds(trial)) made.setAttribute("class", "off");
      made.append(svgOf("title", {}, `trial ${trial.number}: ${study.metric} ${number(trial.value)}\n${Object.entries(trial.params).map(([k, v]) => `${k}=${setting(v)}`).join("\n")}`));
      return made;
    });
    svg.append(...lines, ...axes.flatMap((each) => each.parts));
    for (const each of axes) {
      const band = kept.get(each.name);
      if (band) svg.append(svgOf("rect", { x: each.x - 7, y: band[0], width: 14, height: band[1] - band[0], class: "kept" }));
      const handle = svgOf("rect", { x: each.x - 14, y: top, width: 28, height: height - foot - top, class: "handle" });
      const place = (event) => (event.clientY - svg.getBoundingClientRect().top) * height / svg.getBoundingClientRect().height;
      handle.addEventListener("pointerdown", (event) => {
        handle.setPointerCapture(event.pointerId);
        const from = place(event);
        handle.onpointerup = (end) => {
          const to = place(end);
          if (Math.abs(to - from) < 4) kept.delete(each.name);
          else kept.set(each.name, [Math.min(from, to), Math.max(from, to)]);
          draw();
        };
      });
      svg.append(handle);
    }
    const chosen = ended.filter(holds).length;
    const keys = ["best quarter", "second", "third", "worst"].map((label, i) => h("span", { className: "key" }, swatch(colour(["c1", "c3", "c5", "c8"][i])), label));
    parallel.replaceChildren(parallel.firstChild, svg, h("div", { className: "legend" }, keys), h("p", { className: "caption" },
      kept.size ? `${chosen} of ${ended.length} trials are in the chosen parts; click an axis to let it go.` : "Drag along an axis to keep the trials of that part."));
    function inside(at, [from, to]) { return at != null && at >= from && at <= to; }
  }

  function axis(place, ended, x, top, foot) {
    const of = (trial) => (place.value ? trial.value : trial.params[place.name]);
    const values = ended.map(of).filter((value) => value != null);
    const numbers = values.length && values.every((value) => typeof value === "number");
    const parts = [svgOf("line", { x1: x, x2: x, y1: top, y2: foot, class: "axis" }), svgOf("text", { x, y: top - 18, class: place.value ? "name last" : "name" }, place.name.split(".").at(-1))];
    if (!numbers) {
      const kinds = [...new Set(values.map(String))].sort();
      const y = (kind) => foot - (kinds.indexOf(kind) + 0.5) * (foot - top) / Math.max(kinds.length, 1);
      parts.push(...kinds.slice(0, 12).map((kind) => svgOf("text", { x: x + 8, y: y(kind) + 4, class: "tick" }, kind.slice(0, 18))));
      return { name: place.name, x, parts, at: (trial) => (of(trial) == null ? null : y(String(of(trial)))) };
    }
    const scale = place.log ? Math.log : (value) => value;
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const y = (value) => foot - (scale(value) - scale(low)) / (scale(high) - scale(low) || 1) * (foot - top);
    parts.push(svgOf("text", { x, y: top - 5, class: "tick end" }, number(high, 3)), svgOf("text", { x, y: foot + 14, class: "tick end" }, number(low, 3)));
    return { name: place.name, x, parts, at: (trial) => (of(trial) == null ? null : y(of(trial))) };
  }

  function drawList() {
    const columns = { number: "trial", state: "state", value: study.metric, ...Object.fromEntries(study.params.map(({ name }) => [`=${name}`, name])) };
    const falls = down ?? (order === "value" && study.mode === "max");
    const of = (trial, key) => (key.startsWith("=") ? trial.params[key.slice(1)] : trial[key]);
    const rows = [...study.trials].sort((a, b) => {
      const [one, other] = [of(a, order), of(b, order)];
      if (one == null || other == null) return (one == null) - (other == null);
      const sign = typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other));
      return falls ? -sign : sign;
    });
    list.replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, Object.entries(columns).map(([key, text]) =>
      h("th", { scope: "col", "aria-sort": key === order ? (falls ? "descending" : "ascending") : null },
        h("button", { type: "button", onclick() { down = key === order ? !falls : false; order = key; drawList(); } }, text, key === order ? (falls ? " ↓" : " ↑") : ""))))),
    h("tbody", {}, rows.map((trial) => h("tr", { title: trial.note }, h("td", {}, trial.runs.length
      ? trial.runs.map((run, i) => [i ? ", " : "", h("a", { href: `#/run/${run}` }, trial.runs.length > 1 ? decode(run.split("/").at(-1)) : `trial ${trial.number}`)])
      : `trial ${trial.number}`), h("td", {}, chip(trial.state)), h("td", {}, trial.value == null ? running(trial) : number(trial.value)),
    study.params.map(({ name }) => h("td", { className: "setting" }, setting(trial.params[name]))))))));
  }

  const running = (trial) => {
    const run = known.runs.get(trial.runs.at(-1));
    return trial.state === "running" && run?.return != null ? `return ${number(run.return)} so far` : "–";
  };

  fetchStudy();
  return {
    update(changed) {
      if (!timer && [...changed].some((run) => id === "." || run.startsWith(`${id}/`))) timer = setTimeout(fetchStudy, 1500);
    },
    close() { closed = true; clearTimeout(timer); chart.close(); },
    keys: { Escape: () => { location.hash = "#/"; } },
  };
}

function svgOf(tag, about, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(about)) made.setAttribute(key, value);
  if (text != null) made.textContent = text;
  return made;
}

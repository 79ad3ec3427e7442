// The page of one run.

import { Chart, colour, stacked, together } from "./charts.js";
import { ago, ask, card, chip, choice, count, duration, h, number, remember, remembered, setting, WORDS } from "./dom.js";
import { decode, film } from "./main.js";

const STAGES = { env: "environment", inference: "inference", learning: "learning", waiting: "waiting" };
const VERDICTS = { good: "well", plain: "", odd: "worth a look", bad: "the doctor says" };
const LEAST_MS = 1000;

export function showRun(main, id, known) {
  const charts = [];
  let x = remembered("x", "steps"), y = remembered("y", "return");
  let page = null, asked = 0, timer = null, closed = false, zoomed = null;
  const row = () => known.runs.get(id);

  const title = h("div", { className: "title" });
  const tiles = h("dl", { className: "tiles" });
  const notes = h("div", { className: "notes" });
  const axes = h("span", { className: "tools" },
    choice("Vertical axis", { return: "return", length: "length" }, y, (key) => { y = key; remember("y", y); draw(); }),
    choice("Horizontal axis", { steps: "steps", episodes: "episodes", time: "time" }, x, (key) => {
      x = key;
      remember("x", x);
      zoomed = null;
      build();
      fetchPage();
    }));
  const body = h("div", { className: "grid" });
  main.append(title, tiles, notes, body);
  if (!row()) {
    title.append(h("h1", {}, decode(id)), h("p", { className: "quiet" }, "There is no such run here (any more)."));
  }

  let episodes, strip, health, acts, ends, shares, terms, others, log, settings, rest;
  function build() {
    for (const chart of charts.splice(0)) chart.close();
    const caption = h("p", { className: "caption", id: "caption" });
    const curve = card("Episodes", { tools: axes, className: "card wide" });
    episodes = new Chart(curve, { x, height: 300, legend: true, label: "Returns of the episodes", fitted: () => placeFilms(),
      zoom: (range) => { zoomed = range; fetchPage(); } });
    strip = h("div", { className: "strip", "aria-label": "Films" });
    curve.append(strip, caption);
    charts.push(episodes);
    health = card("Is it learning?", { id: "health", className: "card wide" });
    acts = card("What it does", { id: "acts", note: "a sample of its actions" });
    ends = card("Why episodes ended", { id: "ends" });
    shares = card("Where the time goes", { id: "time" });
    terms = card("What the environment reports", { id: "terms" });
    others = card("Other numbers", { id: "others", className: "card wide" });
    settings = card("Settings", { id: "settings" });
    log = card("Log", { id: "log" });
    rest = card("Made with", { id: "made" });
    const columns = [[acts, shares], [ends, terms], [settings], [log, rest]].map((cards) => h("div", { className: "stack" }, cards));
    body.replaceChildren(curve, health, columns[0], columns[1], others, columns[2], columns[3]);
    if (page) draw();
  }

  async function fetchPage() {
    const mine = ++asked, began = performance.now();
    const part = zoomed ? `&x=${x}&start=${zoomed[0]}&end=${zoomed[1]}` : "";
    try {
      const found = await ask(`/api/run?run=${encodeURIComponent(id)}${part}`);
      if (closed || mine !== asked) return;
      page = found;
      draw();
    } catch (error) {
      if (!closed && !page) notes.replaceChildren(h("p", { className: "alert" }, row()?.note || error.message));
    }
    // A page that takes long is asked for less often.
    fetchPage.pause = Math.max(LEAST_MS, 10 * (performance.now() - began));
  }

  function later() {
    if (timer || closed) return;
    timer = setTimeout(() => { timer = null; fetchPage(); }, fetchPage.pause ?? LEAST_MS);
  }

  function head() {
    const run = row();
    if (!run) return;
    const more = [run.algorithm, run.env].filter(Boolean).join(" on ");
    const stop = known.about.stops && run.state === "running" && h("button", { type: "button", onclick() {
      this.disabled = true;
      ask(`/api/stop?run=${encodeURIComponent(id)}`, { method: "POST" })
        .then(() => { this.textContent = "asked to end"; }, (error) => { this.textContent = error.message; });
    } }, "End with a checkpoint");
    title.replaceChildren(h("h1", {}, run.name), chip(run.state), h("span", { className: "quiet" }, more),
      run.note && h("span", { className: "note" }, run.note), stop || "");
    const done = run.goal != null && run.return != null && run.return >= run.goal;
    tile("Return", number(run.return), run.episodes == null ? "" : `mean of the last ${page?.window ?? 100}`, "main");
    tile("Best", number(run.best), run.best_at == null ? "no checkpoint yet" : `at iteration ${count(run.best_at)}`);
    tile("Goal", number(run.goal), run.goal == null ? "none is set" : done ? "reached" : "not reached yet");
    tile("Steps", count(run.steps), `${count(run.episodes)} episodes`);
    tile("Steps/s", count(run.rate), run.memory_mb ? `${number(run.memory_mb, 3)} MB in ${number(run.processes)} processes` : "");
    tile(run.state === "running" ? "Time left" : "Time", run.state === "running" ? (run.left_s == null ? "–" : duration(run.left_s)) : duration(run.time_s),
      run.state === "running" ? `after ${duration(run.time_s)}` : `last sign ${ago(run.heartbeat)}`);
    tile("Resume", run.grade || "–", run.checkpoint == null ? "no checkpoint yet" : `from iteration ${count(run.checkpoint)}`);
  }

  const tileOf = new Map();
  function tile(name, value, about, kind = "") {
    if (!tileOf.has(name)) {
      const parts = [h("dd", { className: "value" }), h("dd", { className: "about" })];
      tileOf.set(name, parts);
      tiles.append(h("div", { className: `tile ${kind}` }, h("dt", {}, name), parts));
    }
    const [big, small] = tileOf.get(name);
    big.textContent = value;
    small.textContent = about;
  }

  function draw() {
    head();
    if (!page) return;
    const e = page.episodes, m = page.mean, v = page.evaluations, run = row() ?? {};
    const bands = [];
    const lines = [{ label: `mean of ${page.window}`, colour: colour("c1"), x: m[x], y: m[y], width: 2.5 }];
    const peers = [...known.runs.values()].filter((other) => other.id !== id && other.group && other.group === run.group
      && other.steps >= run.steps / 2); // one that has hardly begun would cut the band short
    if (y === "return" && peers.length) {
      const all = together([...peers, run].map((other) => ({ x: other.curve[x], y: other.curve.return })));
      if (all) {
        bands.push({ ...all, colour: colour("c3") });
        lines.push({ label: `${all.count} seeds`, colour: colour("c3"), x: all.x, y: all.mean, width: 1.5, dash: [4, 3] });
      }
    }
    const marks = page.markers.map((mark) => ({ ...mark, x: mark[x] }));
    episodes.set({ lines, bands, marks, dots: { x: e[x], y: e[y] }, goal: y === "return" ? run.goal : null,
      bars: y === "return" && v.mean.length ? { x: v[x], low: v.low, high: v.high, mean: v.mean } : null });
    const latest = m[y].at(-1);
    episodes.box.setAttribute("aria-label", `The ${y} of episodes against ${WORDS[x]}: the mean is ${number(latest)} after ${count(e.count)} episodes`);
    body.querySelector("#caption").textContent = [
      e.each > 1 ? `Of ${count(e.count)} episodes, the lowest and the highest of every ${e.each} are dots; drag to look closer.`
        : `Each of ${count(e.count)} episodes is a dot.`,
      v.mean.length ? "Orange: evaluations, from the lowest episode to the highest." : "",
      marks.length ? "At the foot: checkpoints ▲, failures ■." : ""].join(" ");
    placeFilms();
    drawHealth();
    drawShares();
    drawTerms();
    drawActs();
    drawEnds();
    drawKeys(terms, (key) => key.startsWith("info/") || key.startsWith("selfplay/"), "Nothing: an environment may report numbers at the end of an episode, in its info.");
    const told = new Set(page.health.map((each) => each.key));
    drawKeys(others, (key) => key.startsWith("learner/") && !told.has(key), "None.");
    drawSettings();
    drawLog();
    const session = page.sessions.at(-1) ?? {};
    list(rest, Object.entries(session).filter(([, value]) => value !== "null"));
    notes.replaceChildren(...[...known.notes, ...page.notes].map((note) => h("p", {}, note)));
  }

  function placeFilms() {
    if (!page || !episodes?.plot) return;
    const left = (place) => episodes.plot.valToPos(place[x], "x") + episodes.plot.over.offsetLeft;
    const width = episodes.box.clientWidth, shown = page.films.slice(-24);
    const key = JSON.stringify([shown, Math.round(width), x]);
    if (strip.dataset.key !== key) {
      strip.dataset.key = key;
      strip.replaceChildren(...shown.map((each) => {
        const source = `/api/film?run=${encodeURIComponent(id)}&name=${encodeURIComponent(each.name)}`;
        return h("button", { type: "button", className: "film", onclick: () => film(`${each.label}, at ${count(each.steps)} steps`, source) },
          h("video", { src: source, preload: "metadata", muted: true, tabIndex: -1, "aria-hidden": "true" }), h("span", {}, `▶ ${each.label}`));
      }));
    }
    let free = 0;
    [...strip.children].forEach((button, i) => {
      const at = Math.min(Math.max(left(shown[i]) - 48, free), width - 100 * (shown.length - i));
      button.style.left = `${Math.max(at, 0)}px`;
      free = at + 100;
    });
    strip.hidden = !shown.length;
  }

  // One small chart for each number; those that are there stay, so that nothing jumps.
  function small(host, key, about, make, format) {
    host.charts ??= new Map();
    if (!host.charts.has(key)) {
      const box = h("div", { className: "small" });
      (host.cells ??= host.appendChild(h("div", { className: "smalls" }))).append(box);
      const parts = make(box);
      const chart = new Chart(box, { x, height: 92, label: about, ...(format && { format }) });
      charts.push(chart);
      host.charts.set(key, { box, chart, parts });
    }
    return host.charts.get(key);
  }

  function drawHealth() {
    const verdict = { true: "The return rises.", false: "The return has not risen.", null: "It is too early to tell." }[page.learns];
    health.verdict ??= health.appendChild(h("div", { className: "verdict" }));
    health.verdict.replaceChildren(h("p", {}, verdict),
      ...page.findings.map((found) => h("p", { className: "finding" }, h("b", {}, `${found.symptom}. `), found.text, " ", found.advice)));
    for (const each of page.health) {
      const { box, chart, parts } = small(health, each.key, each.label, (host) => {
        const made = [h("b"), h("span", { className: "state" }), h("p", { className: "sentence" })];
        host.append(h("div", { className: "top" }, h("h3", {}, each.label), made.slice(0, 2)), made[2]);
        return made;
      });
      box.className = `small ${each.state}`;
      parts[0].textContent = number(each.now, 3);
      parts[1].textContent = VERDICTS[each.state];
      parts[2].textContent = each.sentence;
      chart.set({ lines: [{ label: each.label, colour: colour("c1"), x: page.series.x[x], y: page.series.keys[each.key] ?? [], width: 1.5 }], good: each.band });
    }
  }

  function drawShares() {
    const stages = Object.keys(STAGES).filter((stage) => page.series.keys[`perf/${stage}_share`]);
    shares.chart ??= (charts.push(shares.chart = new Chart(shares, { x, height: 170, legend: true, low: 0, high: 1,
      label: "Shares of the time", format: (share) => `${Math.round(100 * share)} %` })), shares.chart);
    shares.chart.set({ lines: stacked(page.series.x[x],
      stages.map((stage) => ({ label: STAGES[stage], y: page.series.keys[`perf/${stage}_share`] }))) });
    const rates = page.series.keys["perf/env_steps_per_s"];
    if (rates) {
      const { chart, parts } = small(shares, "rate", "Steps per second", (host) => {
        const value = h("b");
        host.append(h("div", { className: "top" }, h("h3", {}, "steps per second"), value));
        return value;
      });
      parts.textContent = count(rates.findLast((rate) => rate != null));
      chart.set({ lines: [{ label: "steps per second", colour: colour("c1"), x: page.series.x[x], y: rates, width: 1.5 }] });
    }
  }

  // Terms of a reward that the environment reports by such names stand on each other.
  function drawTerms() {
    const keys = Object.keys(page.series.keys).filter((key) => /^info\/rew(ard)?_/.test(key));
    if (keys.length < 2) return;
    if (!terms.chart) charts.push(terms.chart = new Chart(terms, { x, height: 170, legend: true, label: "Terms of the reward" }));
    terms.chart.set({ lines: stacked(page.series.x[x], keys.map((key) => ({ label: key.slice(5), y: page.series.keys[key] }))) });
  }

  // Of each part of the run, how often each action was taken: the darker, the more often.
  function drawActs() {
    const { actions, ...places } = page.behaviour, columns = actions.filter((each) => each.length);
    acts.none ??= acts.appendChild(h("p", { className: "quiet" }, "Nothing: of samplers on a cluster, of several agents and of composed actions, none are kept."));
    acts.none.hidden = columns.length > 0;
    acts.key ??= acts.appendChild(h("p", { className: "caption" }, page.choices ? "From choice 0 at the foot upwards; the darker, the more often." : "From the lower bound at the foot to the upper one; the darker, the more often."));
    acts.key.hidden = !columns.length;
    const shown = actions.map((each, i) => [each, places[x][i]]).filter(([each]) => each.length);
    for (let i = 0; i < Math.min(columns[0]?.length ?? 0, 8); i++) {
      const rows = shown.map(([each]) => each[i]), parts = rows[0].length;
      const choices = row()?.settings && page.choices;
      const { chart, parts: said } = small(acts, `${i}`, choices ? "Share of each choice" : `Values of action ${i}`, (box) => {
        const value = h("b");
        box.append(h("div", { className: "top" }, h("h3", {}, choices ? "choices" : `action ${i}`), value));
        return value;
      }, () => "");
      const last = rows.at(-1);
      said.textContent = choices ? last.slice(0, 6).map((share) => `${Math.round(100 * share)} %`).join("  ") : `${Math.round(100 * (last[0] + last[parts - 1]))} % at the bounds`;
      chart.set({ lines: [{ label: "", colour: "transparent", x: shown.map(([, at]) => at), y: shown.map(() => 0) }], heat: { x: shown.map(([, at]) => at), rows } });
    }
  }

  function drawEnds() {
    const { terminated, truncated, ...places } = page.behaviour;
    const [ended, cut] = [terminated, truncated].map((counts) => counts.reduce((sum, count) => sum + (count ?? 0), 0));
    ends.said ??= ends.appendChild(h("p", {}));
    const lost = page.lost ? `, and ${count(page.lost)} episodes were lost to failures` : "";
    ends.said.textContent = ended + cut ? `Of ${count(ended + cut)} ends that were looked at, ${Math.round(100 * ended / (ended + cut))} % were terminated by the environment and ${Math.round(100 * cut / (ended + cut))} % cut by a time limit${lost}.`
      : `No end of an episode was among the steps that were looked at${lost}.`;
    const some = places[x].map((at, i) => [at, terminated[i], truncated[i]]).filter(([, a, b]) => a + b > 0);
    if (some.length < 2) return;
    if (!ends.chart) charts.push(ends.chart = new Chart(ends, { x, height: 120, legend: true, low: 0, high: 1, label: "Why episodes ended", format: (share) => `${Math.round(100 * share)} %` }));
    ends.chart.set({ lines: stacked(some.map(([at]) => at), [{ label: "terminated", y: some.map(([, a, b]) => a / (a + b)) }, { label: "time limit", y: some.map(([, a, b]) => b / (a + b)) }]) });
  }

  function drawKeys(host, wanted, none) {
    const keys = Object.keys(page.series.keys).filter(wanted);
    host.none ??= host.appendChild(h("p", { className: "quiet" }, none));
    host.none.hidden = keys.length > 0;
    for (const key of keys) {
      const values = page.series.keys[key], label = key.slice(key.indexOf("/") + 1);
      const { chart, parts } = small(host, key, label, (box) => {
        const value = h("b");
        box.append(h("div", { className: "top" }, h("h3", {}, label), value));
        return value;
      });
      parts.textContent = number(values.findLast((each) => each != null), 3);
      chart.set({ lines: [{ label, colour: colour("c1"), x: page.series.x[x], y: values, width: 1.5 }] });
    }
  }

  function drawSettings() {
    const run = row();
    if (!run) return;
    settings.made ??= (() => {
      const against = h("select", { "aria-label": "Compare with", onchange: () => drawSettings() });
      const filter = h("input", { type: "search", placeholder: "filter", "aria-label": "Filter settings", oninput: () => drawSettings() });
      const table = h("table", { className: "settings" });
      settings.append(h("div", { className: "tools" }, filter, against), h("div", { className: "scroll" }, table));
      return { against, filter, table };
    })();
    const { against, filter, table } = settings.made;
    const chosen = against.value;
    against.replaceChildren(h("option", { value: "" }, "compare with …"),
      ...[...known.runs.values()].filter((other) => other.id !== id && other.settings)
        .map((other) => h("option", { value: other.id, selected: other.id === chosen }, decode(other.id))));
    const other = known.runs.get(chosen);
    const keys = [...new Set([...Object.keys(run.settings), ...Object.keys(other?.settings ?? {})])]
      .filter((key) => key.includes(filter.value.trim()))
      .filter((key) => !other || setting(run.settings[key]) !== setting(other.settings[key]));
    const cells = (key) => [h("th", { scope: "row" }, key), h("td", {}, setting(run.settings[key])),
      other && h("td", {}, setting(other.settings[key]))];
    table.replaceChildren(...(other ? [h("tr", {}, h("th", {}, `${keys.length} differ`), h("th", {}, run.name), h("th", {}, other.name))] : []),
      ...keys.map((key) => h("tr", {}, cells(key))));
  }

  function drawLog() {
    log.pre ??= log.appendChild(h("pre", { tabIndex: 0, "aria-label": "The end of the log" }));
    const atEnd = log.pre.scrollTop + log.pre.clientHeight >= log.pre.scrollHeight - 4;
    const text = page.log.join("\n") || "Nothing was printed yet.";
    if (log.pre.textContent !== text) log.pre.textContent = text;
    if (atEnd) log.pre.scrollTop = log.pre.scrollHeight;
  }

  function list(host, pairs) {
    host.list ??= host.appendChild(h("dl", { className: "pairs" }));
    host.list.replaceChildren(...pairs.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, value)]));
  }

  build();
  head();
  fetchPage();
  return {
    update(changed) {
      if (!changed.has(id) && ![...changed].some((other) => known.runs.get(other)?.group === row()?.group)) return;
      head();
      later();
    },
    close() {
      closed = true;
      clearTimeout(timer);
      for (const chart of charts) chart.close();
    },
    keys: { Escape: () => { location.hash = "#/"; } },
  };
}

// All runs: a table that sorts and filters, and a picture of those in it, grouped by a setting.

import { Chart, shade, spark, swatch, together } from "./charts.js";
import { ago, card, chip, choice, count, duration, h, number, remember, remembered, setting } from "./dom.js";
import { decode } from "./main.js";

const COLUMNS = {
  run: { title: "run", of: (run) => run.id },
  state: { title: "state", of: (run) => run.state },
  algorithm: { title: "algorithm", of: (run) => run.algorithm ?? "" },
  env: { title: "environment", of: (run) => run.env ?? "" },
  steps: { title: "steps", of: (run) => run.steps, show: count },
  return: { title: "return", of: (run) => run.return, show: number },
  curve: { title: "so far" },
  best: { title: "best", of: (run) => run.best, show: number },
  rate: { title: "steps/s", of: (run) => run.rate, show: count },
  time: { title: "time", of: (run) => run.time_s, show: duration },
  heard: { title: "last sign", of: (run) => run.heartbeat, show: ago },
};
const TOGETHER = { "": "each run", seed: "all but the seed", algorithm: "algorithm", env: "environment" };
const MOST = 30;
const SHOWN = 300;

export function showRuns(main, known) {
  let order = remembered("sort", "heard"), down = remembered("down", "1") === "1";
  let x = remembered("x", "steps"), by = remembered("by", "");
  let settingsShown = remembered("differing", "0") === "1";
  let at = -1;
  const chosen = new Set();
  const notes = h("div", { className: "notes" });
  const filter = h("input", { type: "search", className: "filter", value: remembered("filter", ""),
    placeholder: "Filter: words, state:running, lr>0.001, experiment=mine", "aria-label": "Filter runs",
    oninput: () => { remember("filter", filter.value); draw(); } });
  const group = h("select", { "aria-label": "Group by", onchange: () => { by = group.value; remember("by", by); draw(); } });
  const differing = h("input", { type: "checkbox", checked: settingsShown, onchange() {
    settingsShown = this.checked;
    remember("differing", settingsShown ? "1" : "0");
    draw();
  } });
  const picture = card("Return", { className: "card", tools: h("span", { className: "tools" },
    h("label", {}, "group by ", group),
    choice("Horizontal axis", { steps: "steps", episodes: "episodes", time: "time" }, x, (key) => {
      x = key;
      remember("x", x);
      chart.close();
      chart.box.remove();
      chart.legend.remove();
      chart = plot();
      draw();
    })) });
  const plot = () => new Chart(picture, { x, height: 240, legend: true, label: "Returns of the runs" });
  let chart = plot();
  const caption = picture.appendChild(h("p", { className: "caption" }));
  const head = h("tr"), body = h("tbody");
  const summary = h("span", { className: "quiet", role: "status" });
  const table = h("table", {}, h("caption", { className: "skip" }, "Runs"), h("thead", {}, head), body);
  const list = h("section", { className: "card runs", tabIndex: 0, "aria-label": "Runs" }, table);
  const groups = h("section", { className: "card runs", hidden: true, "aria-label": "Groups" });
  const studies = h("p", { className: "bar" });
  main.append(h("div", { className: "title" }, h("h1", {}, "Runs"), h("span", { className: "quiet" }, known.about.root)),
    notes, studies, h("div", { className: "bar" }, filter, h("label", {}, differing, "settings that differ"), summary),
    h("div", { className: "stack" }, picture, groups, list));

  function sorted() {
    const wanted = filter.value.trim().split(/\s+/).filter(Boolean).map(condition);
    const of = COLUMNS[order]?.of ?? ((run) => run.settings?.[order]);
    return [...known.runs.values()].filter((run) => wanted.every((holds) => holds(run)))
      .map((run) => [of(run), run])
      .sort(([a, one], [b, other]) => (compare(a, b) || compare(one.id, other.id)) * (down ? -1 : 1))
      .map(([, run]) => run);
  }

  function differences(runs) {
    const all = [...new Set(runs.flatMap((run) => Object.keys(run.settings ?? {})))];
    return all.filter((key) => new Set(runs.map((run) => setting(run.settings?.[key]))).size > 1);
  }

  const rows = new Map();
  let shape = "";
  function draw() {
    const runs = sorted(), shown = runs.slice(0, SHOWN), keys = differences(runs);
    const columns = { ...COLUMNS };
    if (settingsShown) for (const key of keys.slice(0, 24)) columns[`=${key}`] = { title: key, key, of: (run) => run.settings?.[key] };
    drawHead(columns);
    const now = JSON.stringify(Object.keys(columns));
    if (now !== shape) rows.clear();
    shape = now;
    for (const id of rows.keys()) if (!known.runs.has(id)) rows.delete(id);
    const made = shown.map((run) => fill(run, columns));
    if (made.length !== body.children.length || made.some((tr, i) => body.children[i] !== tr)) body.replaceChildren(...made);
    mark();
    const left = runs.length - shown.length;
    summary.textContent = `${runs.length} of ${known.runs.size} runs${left ? `, the first ${SHOWN} are shown` : ""}`;
    if (!known.runs.size) body.replaceChildren(h("tr", {}, h("td", { colSpan: 12, className: "empty" },
      "There are no runs here yet. Begin with:  poise train PPO --env CartPole-v1")));
    drawGroupChoice(keys);
    drawPicture(chosen.size ? runs.filter((run) => chosen.has(run.id)) : runs);
    notes.replaceChildren(...known.notes.map((note) => h("p", {}, note)));
    studies.hidden = !known.studies.length;
    studies.replaceChildren("Searches: ", ...known.studies.map((id) => h("a", { href: `#/study/${id}` }, decode(id))));
  }

  function drawHead(columns) {
    const focused = head.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    head.replaceChildren(h("th", {}, h("span", { className: "skip" }, "in the picture")), ...Object.entries(columns).map(([key, column]) => {
      const mine = order === (column.key ?? key);
      return h("th", { scope: "col", className: `c-${key} ${column.show ? "n" : ""}`, "aria-sort": mine && column.of ? (down ? "descending" : "ascending") : null },
        column.of ? h("button", { type: "button", "data-key": key, onclick() {
          down = mine ? !down : Boolean(column.show);
          order = column.key ?? key;
          remember("sort", order);
          remember("down", down ? "1" : "0");
          draw();
        } }, column.title, mine ? (down ? " ↓" : " ↑") : "") : h("span", { className: "quiet" }, column.title));
    }));
    if (focused) head.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  function fill(run, columns) {
    let kept = rows.get(run.id);
    if (kept?.version === run.version) {
      const heard = Object.keys(columns).indexOf("heard") + 1;
      kept.tr.children[heard].textContent = ago(run.heartbeat);
      return kept.tr;
    }
    const box = kept?.box ?? h("input", { type: "checkbox", checked: chosen.has(run.id), "aria-label": `${decode(run.id)} in the picture`,
      onchange: () => { box.checked ? chosen.add(run.id) : chosen.delete(run.id); draw(); } });
    const tr = kept?.tr ?? h("tr");
    const focused = tr.contains(document.activeElement) && document.activeElement.matches("a");
    tr.replaceChildren(h("td", {}, box), ...Object.entries(columns).map(([key, column]) => {
      if (key === "run") return h("td", { className: "name", title: decode(run.id) }, h("a", { href: `#/run/${run.id}` }, `${run.experiment} / ${run.name}`));
      if (key === "state") return h("td", { title: run.note ?? "" }, chip(run.state));
      if (key === "curve") return h("td", {}, run.curve ? spark(run.curve.steps, run.curve.return) : "");
      if (column.key) return h("td", { className: "setting", title: setting(run.settings?.[column.key]) }, setting(run.settings?.[column.key]));
      return h("td", { className: `c-${key} ${column.show ? "n" : ""}` }, column.show ? column.show(column.of(run)) : column.of(run));
    }));
    if (focused) tr.querySelector("a")?.focus();
    rows.set(run.id, { tr, box, version: run.version });
    return tr;
  }

  function drawGroupChoice(keys) {
    const options = { ...TOGETHER, ...Object.fromEntries(keys.filter((key) => key !== "seed").map((key) => [`=${key}`, key])) };
    const now = JSON.stringify(options);
    if (group.dataset.now !== now) {
      group.dataset.now = now;
      group.replaceChildren(...Object.entries(options).map(([value, text]) => h("option", { value }, text)));
    }
    if (!(by in options)) by = "";
    group.value = by;
  }

  const keyOf = (run) => (by === "" ? run.id : by === "seed" ? run.group : by.startsWith("=") ? setting(run.settings[by.slice(1)]) : run[by]);

  function drawPicture(all) {
    const runs = all.filter((run) => run.curve?.return?.some((value) => value != null));
    picture.hidden = !runs.length;
    const parts = new Map();
    for (const run of runs) parts.set(keyOf(run), [...(parts.get(keyOf(run)) ?? []), run]);
    const lines = [], bands = [], about = [];
    for (const [key, members] of [...parts].slice(0, MOST)) {
      const label = by === "" ? `${members[0].experiment} / ${members[0].name}`
        : by === "seed" ? `${members[0].algorithm} on ${members[0].env} (${members[0].experiment})`
          : by.startsWith("=") ? `${by.slice(1)}=${key}` : String(key);
      const of = shade(lines.length), curves = members.map((run) => ({ x: run.curve[x], y: run.curve.return }));
      const mean = members.length > 1 ? together(curves) : null;
      if (mean) {
        bands.push({ ...mean, colour: of });
        lines.push({ label: `${label}, ${mean.count} runs`, colour: of, x: mean.x, y: mean.mean });
      } else if (curves[0].x.length) lines.push({ label, colour: of, ...curves[0] });
      about.push([label, of, members]);
    }
    chart.set({ lines, bands });
    const hidden = parts.size - Math.min(parts.size, MOST);
    caption.textContent = [by === "" ? "" : "The mean of each group over the steps that all of its runs have, and the band from the lowest to the highest.",
      hidden ? `${hidden} more are not drawn.` : "", chosen.size ? "Only the chosen runs." : "Choose runs by their boxes to see them alone."].join(" ");
    groups.hidden = by === "";
    if (by === "") return;
    groups.replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, ["group", "runs", "return: mean", "lowest", "highest", "best", "steps"].map((name, i) =>
      h("th", { scope: "col", className: i ? "n" : "" }, name)))),
    h("tbody", {}, about.map(([label, of, members]) => {
      const returns = members.map((run) => run.return).filter((value) => value != null);
      const best = members.map((run) => run.best).filter((value) => value != null);
      const mean = returns.length ? returns.reduce((a, b) => a + b) / returns.length : null;
      return h("tr", {}, h("td", {}, swatch(of), label), [members.length, number(mean), number(least(returns)), number(most(returns)),
        number(most(best)), count(most(members.map((run) => run.steps ?? 0)))].map((cell) => h("td", { className: "n" }, cell)));
    }))));
  }

  const least = (values) => (values.length ? Math.min(...values) : null);
  const most = (values) => (values.length ? Math.max(...values) : null);

  function mark() {
    [...body.children].forEach((tr, i) => tr.classList.toggle("at", i === at));
  }
  function move(by) {
    at = Math.min(Math.max(at + by, 0), body.children.length - 1);
    mark();
    const link = body.children[at]?.querySelector("a");
    link?.focus({ preventScroll: true });
    body.children[at]?.scrollIntoView({ block: "nearest" });
  }

  draw();
  const clock = setInterval(draw, 10_000);
  return {
    update: draw,
    close() { clearInterval(clock); chart.close(); },
    keys: {
      "/": () => filter.focus(), j: () => move(1), k: () => move(-1),
      x: () => body.children[at]?.querySelector("input")?.click(),
    },
  };
}

function compare(a, b) {
  if (a == null || b == null) return (a == null) - (b == null) ? (a == null ? -1 : 1) : 0;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

// A part of the filter: a word that stands somewhere, or a comparison of a column or a setting.
function condition(part) {
  const [, key, sign, value] = part.match(/^([\w./]+)(>=|<=|!=|=|:|>|<)(.+)$/) ?? [];
  if (!key) {
    const word = part.toLowerCase();
    return (run) => [decode(run.id), run.algorithm, run.env, run.state, run.note].some((text) => text?.toLowerCase().includes(word));
  }
  const found = (run) => {
    if (COLUMNS[key]?.of) return COLUMNS[key].of(run);
    if (["experiment", "name", "goal"].includes(key)) return run[key];
    if (key in (run.settings ?? {})) return run.settings[key];
    return Object.entries(run.settings ?? {}).find(([name]) => name.endsWith(`.${key}`))?.[1];
  };
  const given = Number(value);
  return (run) => {
    const has = found(run);
    if (has === undefined) return false;
    const same = typeof has === "number" ? has === given : String(has).toLowerCase() === value.toLowerCase();
    if (sign === "=" || sign === ":") return same || (sign === ":" && String(has).toLowerCase().includes(value.toLowerCase()));
    if (sign === "!=") return !same;
    if (typeof has !== "number" || Number.isNaN(given)) return false;
    return { ">": has > given, "<": has < given, ">=": has >= given, "<=": has <= given }[sign];
  };
}

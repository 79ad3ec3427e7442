// What is shown where, what the server tells, and the keys.

import { ask, h, remember, remembered } from "./dom.js";
import { showRun } from "./run.js";
import { showRuns } from "./runs.js";
import { showStudy } from "./study.js";

const main = document.getElementById("main");
const where = document.getElementById("where");
const link = document.getElementById("link");
const dialog = document.getElementById("dialog");

// What the server has told: `runs` by their names, and whom to tell when they change.
export const known = { runs: new Map(), about: {}, notes: [], studies: [] };
let view = null;

function route() {
  const [kind, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const name = rest.join("/");
  view?.close?.();
  dialog.close();
  main.replaceChildren();
  const parts = kind ? name.split("/") : [];
  where.replaceChildren(...parts.flatMap((part) => [h("span", { className: "slash" }, "/"),
    h("span", {}, decode(part))]));
  document.title = parts.length ? `${decode(parts.at(-1))} · Poise` : "Poise";
  if (kind === "run") view = showRun(main, name, known);
  else if (kind === "study") view = showStudy(main, name, known);
  else view = showRuns(main, known);
  scrollTo(0, 0);
}

export function decode(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

function told({ runs = [], gone = [], notes, studies }) {
  for (const run of runs) known.runs.set(run.id, run);
  for (const id of gone) known.runs.delete(id);
  if (notes) known.notes = notes;
  if (studies) known.studies = studies;
  if (runs.length || gone.length) view?.update?.(new Set([...runs.map((run) => run.id), ...gone]));
}

function listen() {
  const events = new EventSource("/api/events");
  events.onopen = () => { link.textContent = "live"; link.className = "link live"; };
  events.onmessage = (event) => told(JSON.parse(event.data));
  events.onerror = () => {
    link.textContent = "no connection";
    link.className = "link lost";
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 3000); // refused: try anew
  };
}

// Light and dark: as the system has it, until somebody chooses.
function theme(next) {
  const chosen = next ?? remembered("theme", "");
  if (chosen) document.documentElement.dataset.theme = chosen;
  if (next) {
    remember("theme", next);
    route();
  }
}
const isDark = () => getComputedStyle(document.documentElement).colorScheme === "dark";
const turn = () => theme(isDark() ? "light" : "dark");

const KEYS = {
  "/": "filter the runs", "j / k": "next and previous run", "Enter": "open it",
  "x": "choose it for the picture", "g": "all runs", "t": "light or dark", "?": "this list",
  "drag": "on a picture: look closer; a double click shows all again",
};
function help() {
  dialog.replaceChildren(h("h2", {}, "Keys"), h("dl", { className: "keys" },
    Object.entries(KEYS).flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
  h("form", { method: "dialog" }, h("button", {}, "Close")));
  dialog.showModal();
}

document.getElementById("theme").onclick = turn;
document.getElementById("help").onclick = help;
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => dialog.replaceChildren()); // a film stops
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const keys = { t: turn, "?": help, g: () => { location.hash = "#/"; } };
  const does = keys[event.key] ?? (view?.keys?.[event.key]);
  if (does) { event.preventDefault(); does(); }
});
addEventListener("hashchange", route);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (!remembered("theme", "")) route();
});

export function film(label, source) {
  dialog.replaceChildren(h("h2", {}, label),
    h("video", { src: source, controls: true, autoplay: true, loop: true, muted: true }),
    h("form", { method: "dialog" }, h("button", {}, "Close")));
  dialog.showModal();
}

theme();
ask("/api/runs").then((about) => {
  known.about = about;
  told(about);
  route();
  listen();
}).catch((error) => main.replaceChildren(h("p", { className: "alert" }, String(error.message))));

// Making elements, and writing numbers. Text from runs only ever becomes text: nothing parses it.

export function h(tag, about = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(about)) {
    if (value == null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...inside.flat(3).filter((part) => part != null && part !== false));
  return made;
}

const UNITS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

export function number(value, digits = 4) {
  if (value == null || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e15 || (size > 0 && size < 1e-4)) return value.toExponential(2);
  return Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 8 });
}

export function count(value) {
  if (value == null) return "–";
  const [size, unit] = UNITS.find(([size]) => Math.abs(value) >= size) ?? [1, ""];
  return unit ? `${Number((value / size).toPrecision(3))}${unit}` : number(value, 3);
}

export function duration(seconds) {
  if (seconds == null) return "–";
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function ago(seconds) {
  return seconds == null ? "–" : `${duration(Math.max(0, Date.now() / 1000 - seconds))} ago`;
}

export function setting(value) {
  if (value === undefined) return "";
  return typeof value === "number" ? number(value, 6) : value === null ? "null" : String(value);
}

export const WORDS = { steps: "environment steps", episodes: "episodes", time: "time" };
export const along = (x) => (x === "time" ? duration : count);

export function chip(state) {
  return h("span", { className: `chip ${/^[a-z]+$/.test(state) ? state : ""}` }, state);
}

// A row of buttons of which one is pressed.
export function choice(label, options, chosen, choose) {
  const buttons = Object.entries(options).map(([key, text]) => h("button", {
    type: "button", "aria-pressed": String(key === chosen), onclick() {
      for (const each of buttons) each.setAttribute("aria-pressed", String(each === this));
      choose(key);
    } }, text));
  return h("div", { className: "choice", role: "group", "aria-label": label }, buttons);
}

export function card(title, about, ...inside) {
  const { id, note, tools, ...rest } = about ?? {};
  const head = h("div", { className: "head" }, h("h2", {}, title),
    note && h("span", { className: "note" }, note), tools);
  return h("section", { className: "card", id, ...rest }, head, ...inside);
}

export const remembered = (key, usual) => {
  try { return localStorage.getItem(`poise.${key}`) ?? usual; } catch { return usual; }
};
export const remember = (key, value) => {
  try { localStorage.setItem(`poise.${key}`, value); } catch { /* a private window */ }
};

export async function ask(path, about) {
  const answer = await fetch(path, about);
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.status === 204 ? null : answer.json();
}

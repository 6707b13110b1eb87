"use strict";
// Draws what the server says, once a second; nothing is remembered here but the last answer.

const EVERY_MS = 1000;
const WIDTH = 440, HEIGHT = 190, LEFT = 48, RIGHT = 10, TOP = 18, BOTTOM = 24;
const CHARTS = [
  ["Response time p50", "ms, from the intended time", [["p50_ms"]]],
  ["Response time p95", "ms; dashed: service time", [["p95_ms"], ["service_p95_ms", "second"]]],
  ["Response time p99", "ms, of each second: of fewer than 100 requests the slowest", [["p99_ms"]]],
  ["Goodput", "tasks done per s; dashed: requests acknowledged", [["goodput_per_s"], ["acknowledged_per_s", "second"]]],
  ["Failures", "per s; dashed: unsent", [["failed_per_s"], ["unsent_per_s", "second"]]],
  ["Bystanders p95", "ms; dashed: lateness p99", [["bystander_p95_ms"], ["lateness_p99_ms", "second"]]],
];
const ROWS = [
  ["p50_ms", "Response p50, ms"], ["p95_ms", "Response p95, ms"], ["p99_ms", "Response p99, ms"],
  ["service_p50_ms", "Service p50, ms"], ["service_p95_ms", "Service p95, ms"],
  ["bystander_p50_ms", "Bystander p50, ms"], ["bystander_p95_ms", "Bystander p95, ms"],
  ["lateness_p99_ms", "Lateness p99, ms"],
  ["sent_per_s", "Sent per s"], ["requests", "Requests"], ["acknowledged", "Acknowledged"], ["failed", "Failed"], ["unsent", "Unsent"],
];
const TASKS = [["goodput_per_s", "Goodput, tasks done per s"], ["acknowledged", "Tasks acknowledged"], ["done", "Tasks done"], ["not_done", "Tasks not yet done"],
  ["not_started", "Tasks not yet started"], ["backlog", "Messages in the queue"]];

let last = null, beingSaved = false;
const $ = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const svg = ["svg", "line", "polyline", "text", "circle", "g", "title"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shown(value, key) {
  if (value === null || value === undefined) return "–";
  if (value === "inf") return "failed";
  if (!key.endsWith("_ms")) return value.toLocaleString("en");
  return value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
}

function figures(load, lab) {
  const names = Object.keys(load.contenders);
  const heads = names.map((name, i) => element("th", { scope: "col", colspan: 2 }, swatch(i), name));
  const table = element("table", {}, element("thead", {},
    element("tr", {}, element("th", {}, ""), ...heads),
    element("tr", {}, element("th", {}, ""),
      ...names.flatMap(() => [element("th", { scope: "col" }, "last 10 s"), element("th", { scope: "col" }, "whole run")]))));
  const body = element("tbody");
  for (const [key, title] of ROWS) {
    const cells = names.flatMap((name) => ["recent", "total"].map((part) => {
      const value = load.contenders[name][part][key];
      return element("td", { "data-figure": `${name}/${part}/${key}`, class: value === "inf" ? "failed" : "" }, shown(value, key));
    }));
    const asked = key === "sent_per_s" && load.rate !== null ? `, of ${load.rate.toLocaleString("en")} asked for` : "";
    body.append(element("tr", {}, element("th", { scope: "row" }, title + asked), ...cells));
  }
  const tasks = names.map((name) => tasksOf(name, load, lab));
  for (const [key, title] of TASKS.filter(([key]) => tasks.some((one) => key in one))) {
    const cells = names.map((name, i) => element("td", { colspan: 2, "data-figure": `${name}/tasks/${key}` },
      shown(tasks[i][key], key)));
    body.append(element("tr", {}, element("th", { scope: "row" }, title), ...cells));
  }
  table.append(body);
  $("figures").replaceChildren(element("div", { class: "scroll" }, table));
}

// What is known of a contender's tasks; goodput is of the time until the last of them was done, or the load's.
function tasksOf(name, load, lab) {
  const known = (lab ? lab.contenders[name] : load.contenders[name].tasks) || {};
  if (!known.succeeded_in) return known;
  const seconds = Math.max(load.elapsed_s, known.last_success_s ?? 0);
  const succeeded = known.succeeded_in.reduce((sum, count) => sum + count, 0);
  return { ...known, goodput_per_s: seconds ? Number((succeeded / seconds).toPrecision(3)) : null };
}

// The second that has not ended yet has none.
function seriesOf(name, load, lab) {
  const { series } = load.contenders[name];
  const done = tasksOf(name, load, lab).succeeded_in;
  return { ...series, goodput_per_s: series.t_s.map((t) => done && t + 1 <= load.elapsed_s ? done[t] ?? 0 : null) };
}

function swatch(i) {
  return element("span", { class: "swatch", style: `background: var(--c${i % 5})` });
}

function legend(load) {
  const names = Object.keys(load.contenders).map((name, i) => element("span", {}, swatch(i), name));
  return element("p", { class: "legend" }, ...names);
}

function ticks(most) {
  const raw = most / 3, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((times) => times * power >= raw) * power;
  const found = [];
  for (let at = 0; at <= most * 1.0001; at += step) found.push(at);
  return found;
}

function chart([title, unit, keys], load, lab) {
  const names = Object.keys(load.contenders);
  const series = names.map((name) => seriesOf(name, load, lab));
  const times = series.flatMap((one) => one.t_s);
  const from = times.length ? Math.min(...times) : 0;
  const until = Math.max(from + 10, ...times);
  const values = series.flatMap((one) => keys.flatMap(([key]) => one[key])).filter(Number.isFinite);
  const most = Math.max(...values, 0) * 1.1 || 1;
  const x = (t) => LEFT + (t - from) / (until - from) * (WIDTH - LEFT - RIGHT);
  const y = (v) => HEIGHT - BOTTOM - v / most * (HEIGHT - BOTTOM - TOP);
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}, ${unit}` });
  for (const tick of ticks(most)) {
    svg.append(element("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }),
      element("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, String(Number(tick.toPrecision(3)))));
  }
  svg.append(element("text", { x: LEFT, y: HEIGHT - 6 }, `${Math.round(from)} s`),
    element("text", { x: WIDTH - RIGHT, y: HEIGHT - 6, "text-anchor": "end" }, `${Math.round(until)} s`));
  for (const fault of lab ? lab.faults : []) {
    if (fault.at_s < from || fault.at_s > until) continue;
    const what = `${fault.fault} of ${fault.contender} at ${fault.at_s.toFixed(1)} s`;
    svg.append(element("line", { class: "mark", "data-fault": fault.fault, x1: x(fault.at_s), x2: x(fault.at_s),
      y1: TOP - 4, y2: HEIGHT - BOTTOM, stroke: `var(--c${names.indexOf(fault.contender) % 5})` },
    element("title", {}, what)));
    const flip = x(fault.at_s) > WIDTH * 0.75;
    svg.append(element("text", { x: x(fault.at_s) + (flip ? -4 : 4), y: TOP - 6,
      "text-anchor": flip ? "end" : "start" }, fault.fault));
  }
  series.forEach((one, i) => keys.forEach(([key, kind]) => draw(svg, one, key, kind || "", `var(--c${i % 5})`, x, y)));
  if (!times.length) svg.append(element("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "nothing yet"));
  return element("figure", {}, element("figcaption", {}, title, " ", element("small", {}, unit)), svg);
}

function draw(svg, series, key, kind, colour, x, y) {
  // Where a percentile falls on a request that failed there is no time: the line breaks off, and a ring at the top says so.
  let points = [];
  const end = () => {
    if (points.length === 1) svg.append(element("circle", { cx: points[0][0], cy: points[0][1], r: 1.8, fill: colour }));
    if (points.length > 1) svg.append(element("polyline", { class: kind, stroke: colour, points: points.join(" ") }));
    points = [];
  };
  series.t_s.forEach((t, i) => {
    const value = series[key][i];
    if (Number.isFinite(value)) return points.push([x(t), y(value)]);
    end();
    if (value === "inf") svg.append(element("circle", { cx: x(t), cy: TOP, r: 3, fill: "none", stroke: colour },
      element("title", {}, "falls on requests that failed")));
  });
  end();
}

function faultButtons(load, lab) {
  $("faults").hidden = !lab;
  if (!lab) return;
  const rows = Object.entries(lab.contenders).map(([name, contender]) => element("div", { class: "actions" },
    element("strong", {}, name),
    ...Object.entries(contender.faults).map(([fault, description]) => {
      const button = element("button", { type: "button", title: description, "aria-label": `${fault} of ${name}` }, fault);
      const busy = lab.faults.some((one) => one.contender === name && !one.over);
      button.disabled = busy || !lab.running || !(name in load.contenders);
      button.addEventListener("click", () => post("fault", { contender: name, fault }));
      return button;
    })));
  const done = lab.faults.map((one) => element("li", one.error ? { class: "failed" } : {},
    `${one.fault} of ${one.contender} at ${one.at_s.toFixed(1)} s: ${outcome(one)}`));
  const why = lab.running ? [] : [element("p", { class: "note" }, "Faults can be done while a load is running.")];
  const focused = document.activeElement && document.activeElement.getAttribute("aria-label");
  $("faults").replaceChildren(element("h2", {}, "Faults"), ...why, ...rows, element("ul", {}, ...done));
  if (focused) [...$("faults").querySelectorAll("button")].find((b) => b.getAttribute("aria-label") === focused)?.focus();
}

function saving(lab) {
  $("save").hidden = !lab;
  if (!lab) return;
  const button = element("button", { type: "button" }, beingSaved ? "Saving…" : "Save the load as a run");
  button.disabled = beingSaved || lab.running || last.load.state !== "stopped";
  button.addEventListener("click", async () => {
    beingSaved = true;
    button.disabled = true;
    await post("save", {});
    beingSaved = false;
    saving(last.lab);
  });
  const focused = document.activeElement?.closest("#save button");
  const links = lab.saved.map(({ run }) => element("li", {},
    element("a", { href: `./comparison/report/${encodeURIComponent(run)}`, target: "_blank" }, run)));
  $("save").replaceChildren(element("h2", {}, "Save"), element("p", { class: "note" },
    "What was seen becomes a run directory with its report, marked exploratory. It can be saved once the load has stopped."),
    button, element("ul", {}, ...links));
  if (focused) button.focus();
}

function outcome(fault) {
  if (fault.error) return fault.error;
  if (!fault.over) return "not over yet";
  if (!fault.confirmed) return "it had no effect";
  return fault.healed_s === null ? "happened, and not healed" : `healed after ${(fault.healed_s - fault.at_s).toFixed(1)} s`;
}

function workers(load) {
  const all = Object.entries(load.workers);
  $("workers").hidden = all.length === 0;
  const rows = all.map(([id, one]) => element("tr", {}, element("th", { scope: "row" }, id),
    element("td", { class: one.state === "running" ? "" : "lost" }, one.state),
    element("td", {}, one.samples.toLocaleString("en"))));
  $("workers").replaceChildren(element("h2", {}, "Workers of the load generator"), element("div", { class: "scroll" },
    element("table", {}, element("thead", {}, element("tr", {}, element("th", {}, "worker"),
      element("th", {}, "state"), element("th", {}, "samples"))), element("tbody", {}, ...rows))));
}

function say(load) {
  const said = {
    ready: "Ready: no load has been started yet. Start one on Locust's own page.",
    running: `Running ${load.scenario}${load.rate === null ? "" : ` at ${load.rate.toLocaleString("en")}/s`}, ${Math.round(load.elapsed_s)} s`,
    ending: `Ending ${load.scenario}: another load can be started in a moment`,
    stopped: `Stopped after ${Math.round(load.elapsed_s)} s of ${load.scenario}`,
  };
  return said[load.state] || load.state;
}

function draw_all() {
  const { load, lab, lab_lost } = last;
  $("state").className = "";
  $("state").textContent = say(load) + (lab_lost ? "; the lab behind this page does not answer" : "");
  figures(load, lab);
  faultButtons(load, lab);
  saving(lab);
  $("charts").replaceChildren(legend(load), ...CHARTS.map((one) => chart(one, load, lab)));
  workers(load);
}

async function post(what, body) {
  try {
    const answer = await fetch(`./comparison/${what}`, { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body) });
    const said = await answer.json();
    $("message").hidden = answer.ok;
    $("message").textContent = said.message;
  } catch {
    $("message").hidden = false;
    $("message").textContent = "Locust did not answer: it is not known whether this was done.";
  }
  await ask();
}

async function ask() {
  try {
    const answer = await fetch("./comparison/state", { cache: "no-store" });
    if (answer.redirected) return location.reload(); // logged out
    if (!answer.ok) throw new Error(answer.statusText);
    last = await answer.json();
    draw_all();
  } catch {
    $("state").className = "lost";
    $("state").textContent = "Connection lost: Locust does not answer" + (last ? "; below is what was seen last." : ".");
    for (const button of document.querySelectorAll("button")) button.disabled = true;
  }
}

async function keepAsking() {
  await ask();
  setTimeout(keepAsking, EVERY_MS);
}

// The theme is Locust's own: what was chosen there, else the system's.
const system = matchMedia("(prefers-color-scheme: dark)");
function applyTheme() {
  const dark = "theme" in localStorage ? localStorage.theme === "dark" : system.matches;
  document.documentElement.classList.toggle("dark", dark);
}
applyTheme();
system.addEventListener("change", applyTheme);
addEventListener("storage", applyTheme);
keepAsking();

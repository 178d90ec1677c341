"use strict";
// Keeps the page fresh: replaces what changed, draws the charts, and says when the figures are old.

const STALE_MS = 5000;
const RETRY_MS = 3000;
const CHARTS = [
  { title: "In time", columns: [1], write: (share) => `${+(100 * share).toFixed(2)} %`, most: 1 },
  { title: "Ended, per second", columns: [2], write: (rate) => `${+rate.toFixed(1)}/s` },
  { title: "p50 and p95, ms", columns: [3, 4], write: (ms) => `${Math.round(ms)}` },
  { title: "Running", columns: [5], write: String },
  { title: "Lag, in records", columns: [6], write: String },
];
const DASHES = [[], [4, 3]];
const HEIGHT = 92;
const charts = [];

// Updates: one stream of server-sent events, each with the HTML of the blocks that changed.

let receivedAt = null;
let stream = null;

function connect() {
  stream = new EventSource("api/events?view=page");
  const receive = ({ data }) => {
    receivedAt = performance.now();
    show("live", "Live");
    update(JSON.parse(data));
  };
  stream.addEventListener("status", receive); // all blocks
  stream.addEventListener("update", receive); // those that changed
  stream.addEventListener("error", () => {
    if (stream.readyState === EventSource.CLOSED) { // refused, so that the browser does not try again
      show("stale", "The service refused updates (too many pages are open, or it has a problem); trying again. Figures from");
      setTimeout(connect, RETRY_MS);
    } else {
      show("gone", "No connection to the service; trying again. Figures from");
    }
  });
}

function show(state, text) {
  const connection = document.getElementById("connection");
  if (connection.textContent === text) return; // screen readers read each change
  connection.textContent = text;
  document.documentElement.className = state === "live" ? "live" : `live ${state}`;
}

function checkAge() {
  if (stream?.readyState === EventSource.OPEN && receivedAt !== null && performance.now() - receivedAt > STALE_MS) {
    show("stale", "The service sends no updates. Figures from");
  }
}

function update({ title, ...blocks }) {
  if (title !== undefined && title !== document.title) {
    document.title = title;
    document.getElementById("announcement").textContent = title; // read by screen readers, unlike each figure
  }
  for (const [id, html] of Object.entries(blocks)) {
    const block = document.getElementById(id);
    if (block === null) continue; // from another version of the service
    const fresh = document.createElement("template");
    fresh.innerHTML = html; // written by elements.py, which escapes all text
    replaceChildren(block, fresh.content);
  }
  if (blocks.series !== undefined) drawCharts();
}

/** Makes the children of *old* equal those of *fresh*. Elements stay, so that focus, selection and open folds do;
 *  and so does a row that is open, even if it is not among the fresh ones any more: someone reads it. */
function replaceChildren(old, fresh) {
  const keys = new Set([...fresh.children].map((one) => one.dataset.key));
  const isGone = (node) => Boolean(node?.dataset?.key) && !keys.has(node.dataset.key);
  for (const one of [...old.children]) {
    if (isGone(one) && one.querySelector(":scope > details[open]") === null) one.remove();
  }
  const keyed = new Map([...old.children].filter((one) => one.dataset.key).map((one) => [one.dataset.key, one]));
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    while (isGone(at)) at = at.nextSibling;
    const key = next.dataset?.key;
    const same = key ? keyed.get(key) : at && at.nodeName === next.nodeName && !at.dataset?.key ? at : undefined;
    keyed.delete(key);
    if (same === undefined) {
      old.insertBefore(next, at);
      continue;
    }
    if (same === at) at = at.nextSibling;
    else old.insertBefore(same, at);
    replaceNode(same, next);
  }
  while (at !== null) {
    const next = at.nextSibling;
    if (!isGone(at)) at.remove();
    at = next;
  }
}

function replaceNode(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  replaceChildren(old, fresh);
}

// Charts: drawn from the points that are beside the table of the series.

function drawCharts() {
  const series = JSON.parse(document.getElementById("points").value);
  for (const { plot, latest, columns, write } of charts) {
    plot.setData([series[0], ...columns.map((column) => series[column])]);
    latest.textContent = columns.map((column) => series[column].at(-1) ?? null).map((last) => (last === null ? "–" : write(last))).join(", ");
  }
}

function makeCharts() {
  const style = getComputedStyle(document.documentElement);
  const box = document.getElementById("charts");
  for (const { plot } of charts.splice(0)) plot.destroy();
  box.replaceChildren();
  for (const chart of CHARTS) {
    const place = document.createElement("div");
    const heading = document.createElement("h3");
    const latest = document.createElement("b");
    heading.append(chart.title, latest);
    place.append(heading);
    box.append(place);
    charts.push({ ...chart, place, latest, plot: new uPlot(options(chart, style, latest), [[], []], place) });
  }
  resizeCharts();
  drawCharts();
}

function options({ columns, write, most }, style, latest) {
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour("--quiet"), font: `11px ${style.fontFamily}`, ticks: { show: false } };
  const range = (plot, low, high) => (most === undefined ? [0, Math.max(1, 1.1 * (high ?? 0))] : [Math.min(low ?? most, 0.9 * most), most]);
  const points = { show: false, size: 4, fill: colour("--blue"), filter: findSingles };
  return {
    width: 200,
    height: HEIGHT,
    legend: { show: false },
    cursor: { sync: { key: "time" }, y: false, drag: { x: false, y: false }, points: { size: 5 } },
    padding: [8, 16, 0, 0],
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    scales: { y: { range } },
    axes: [
      { ...axis, grid: { show: false }, size: 20, space: 70, values: writeTimes },
      { ...axis, grid: { stroke: colour("--grid"), width: 1 }, size: 44, space: 30, values: (plot, ticks) => ticks.map((tick) => (most === undefined ? tick : `${+(100 * tick).toFixed(1)}%`)) },
    ],
    series: [{}, ...columns.map((column, index) => ({ stroke: colour("--blue"), dash: DASHES[index], width: 1.5, points }))],
    hooks: {
      setCursor: [(plot) => {
        const at = plot.cursor.idx ?? plot.data[0].length - 1;
        latest.textContent = plot.data.slice(1).map((values) => values[at] ?? null).map((value) => (value === null ? "–" : write(value))).join(", ");
      }],
    },
  };
}

/** Finds the values without neighbours: they are drawn as points, since a line needs two. */
function findSingles(plot, number) {
  const values = plot.data[number];
  return [...values.keys()].filter((at) => values[at] != null && values[at - 1] == null && values[at + 1] == null);
}

/** Writes times of day; with seconds where the whole chart is a few minutes. */
function writeTimes(plot, ticks) {
  const length = plot.scales.x.max - plot.scales.x.min < 600 ? 19 : 16;
  return ticks.map((tick) => new Date(tick * 1000).toISOString().slice(11, length));
}

function resizeCharts() {
  for (const { plot, place } of charts) plot.setSize({ width: place.clientWidth, height: HEIGHT });
}

// Commands that can be copied

async function copy(button) {
  const command = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(command.textContent);
    button.textContent = "Copied";
  } catch { // not allowed, or not over TLS: select it, so that a key copies it
    getSelection().selectAllChildren(command);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

document.addEventListener("click", ({ target }) => {
  if (target.matches(".copy")) copy(target);
});
document.documentElement.className = "live";
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", makeCharts);
new ResizeObserver(resizeCharts).observe(document.getElementById("charts"));
setInterval(checkAge, 1000);
makeCharts();
connect();

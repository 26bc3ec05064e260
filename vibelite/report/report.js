"use strict";
// The sample browser's filters, the charts' x axis and values, and a live page's updates.
document.documentElement.classList.add("js");
const ASK_EVERY_MS = 2000;

function filters() {
  return [...document.querySelectorAll(".filters [data-filter]")];
}

function matches(sample, filter) {
  if (filter.value === "") return true;
  if (filter.dataset.filter === "text") {
    return sample.textContent.toLowerCase().includes(filter.value.toLowerCase());
  }
  return sample.dataset[filter.dataset.filter] === filter.value;
}

function applyFilters() {
  const chosen = filters().filter((filter) => filter.value !== "");
  const samples = [...document.querySelectorAll("details.sample")];
  for (const sample of samples) {
    sample.hidden = !chosen.every((filter) => matches(sample, filter));
  }
  const shown = samples.filter((sample) => !sample.hidden);
  if (chosen.length > 0) {
    for (const sample of shown) sample.parentElement.open = true;
  }
  document.querySelector(".filters output").textContent =
    `${shown.length} of ${samples.length} shown`;
}

function prepareFilters() {
  const samples = [...document.querySelectorAll("details.sample")];
  for (const filter of filters()) {
    if (filter.tagName === "SELECT") {
      const values = new Set(samples.map((sample) => sample.dataset[filter.dataset.filter]));
      for (const value of values) filter.add(new Option(value, value));
    }
    filter.addEventListener("input", applyFilters);
  }
  if (filters().length > 0) applyFilters();
}

// What the reader has opened and typed stays when the page's parts are replaced.
function readerState() {
  const open = [...document.querySelectorAll("details[open] > summary")];
  return {
    open: new Set(open.map((summary) => summary.parentElement.dataset.key)),
    filters: Object.fromEntries(filters().map((filter) => [filter.dataset.filter, filter.value])),
    focused: document.activeElement?.dataset?.filter,
    axis: document.querySelector("[data-axis]")?.value,
  };
}

function restore(state) {
  for (const details of document.querySelectorAll("details")) {
    if (state.open.has(details.dataset.key)) details.open = true;
  }
  for (const filter of filters()) {
    filter.value = state.filters[filter.dataset.filter] ?? "";
    if (filter.dataset.filter === state.focused) filter.focus();
  }
  if (filters().length > 0) applyFilters();
  const axis = document.querySelector("[data-axis]");
  if (axis && state.axis && state.axis !== "step") {
    axis.value = state.axis;
    drawOver(axis.value);
  }
}

// Each mark of a chart has its values in data-y, one for each x value of its run; "" where none.
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

function pointsOf(mark) {
  if (mark.tagName === "circle") return [[Number(mark.getAttribute("cx")), 0]];
  return mark.getAttribute("points").split(" ").map((pair) => pair.split(",").map(Number));
}

function knownOf(mark, xs) {
  return mark.dataset.y.split(",").flatMap((y, index) => (y === "" ? [] : [[xs[index], y]]));
}

function axesOf(svg, name) {
  const runs = JSON.parse(svg.closest("[data-axes]").dataset.axes);
  const known = runs.every((run) => name in run) ? name : "step";
  return [known, runs.map((run) => run[known])];
}

function ticksOf(low, high) {
  const power = 10 ** Math.floor(Math.log10((high - low) / 4));
  const spacing = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= (high - low) / 4.001);
  const first = Math.ceil(low / spacing - 1e-9);
  const count = Math.floor(high / spacing + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, index) => (first + index) * spacing);
}

function unitOf(name, high) {
  if (name !== "seconds") return [1, name === "USD" ? "$" : name];
  return UNITS.slice(1).find(([size]) => high >= 2 * size) ?? [1, "s"];
}

function drawOver(name) {
  for (const svg of document.querySelectorAll(".chart svg")) {
    const [known, runs] = axesOf(svg, name);
    const marks = [...svg.querySelectorAll("[data-y]")];
    const xs = marks.map((mark) => knownOf(mark, runs[mark.dataset.run]).map(([x]) => x));
    let [low, high] = [Math.min(...xs.flat()), Math.max(...xs.flat())];
    if (low === high) [low, high] = [low - 1, high + 1];
    const [left, right] = ["x1", "x2"].map((at) => Number(svg.querySelector(".grid").getAttribute(at)));
    const place = (x) => (left + ((x - low) / (high - low)) * (right - left)).toFixed(1);
    marks.forEach((mark, which) => {
      const placed = pointsOf(mark).map(([, y], index) => `${place(xs[which][index])},${y}`);
      if (mark.tagName === "circle") mark.setAttribute("cx", place(xs[which][0]));
      else mark.setAttribute("points", placed.join(" "));
    });
    const [size, unit] = unitOf(known, high);
    const unitText = svg.querySelector(".unit");
    unitText.textContent = unit;
    for (const old of svg.querySelectorAll("text.x")) old.remove();
    for (const tick of ticksOf(low / size, high / size)) {
      const text = unitText.cloneNode();
      text.setAttribute("class", "x");
      text.setAttribute("x", place(tick * size));
      text.setAttribute("text-anchor", "middle");
      text.textContent = compact.format(tick);
      svg.append(text);
    }
  }
}

function hideValues() {
  for (const old of document.querySelectorAll(".cursor, .tip")) old.remove();
}

// The values nearest to `x`, in units of the drawing; `by` moves that many points on.
function showValues(svg, x, by = 0) {
  hideValues();
  const [name, runs] = axesOf(svg, document.querySelector("[data-axis]").value);
  const marks = [...svg.querySelectorAll("[data-y]:not(.mean)")].map((mark) => ({
    label: mark.dataset.label,
    places: pointsOf(mark).map(([place]) => place),
    known: knownOf(mark, runs[mark.dataset.run]),
  }));
  const nearest = (places, at) =>
    places.reduce((best, place, i) => (Math.abs(place - at) < Math.abs(places[best] - at) ? i : best), 0);
  const places = marks[0].places;
  const chosen = Math.min(places.length - 1, Math.max(0, nearest(places, x) + by));
  const told = marks.map(({ label, places: own, known }) => {
    const index = nearest(own, places[chosen]);
    return `${label} ${compact.format(known[index][1])}`;
  });
  const [size, unit] = unitOf(name, marks[0].known[chosen][0]);
  const grid = svg.querySelector(".grid");
  const cursor = grid.cloneNode();
  const ends = [...svg.querySelectorAll(".grid")].map((line) => Number(line.getAttribute("y1")));
  const at = { class: "cursor", x1: places[chosen], x2: places[chosen], y1: Math.min(...ends), y2: Math.max(...ends) };
  for (const [key, value] of Object.entries(at)) cursor.setAttribute(key, value);
  svg.append(cursor);
  const tip = document.createElement("output");
  tip.className = "tip";
  tip.textContent = [`${unit} ${compact.format(marks[0].known[chosen][0] / size)}`, ...told].join("\n");
  svg.parentElement.append(tip);
}

function pointAt(event) {
  const svg = event.target.closest?.(".chart svg");
  if (!svg) return hideValues();
  const box = svg.getBoundingClientRect();
  showValues(svg, ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width);
}

document.addEventListener("pointermove", pointAt);
document.addEventListener("pointerdown", pointAt);
document.addEventListener("focusout", hideValues);
document.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const svg = event.target.closest?.(".chart svg");
  if (!svg || !by) return;
  event.preventDefault();
  const cursor = svg.querySelector(".cursor");
  showValues(svg, Number(cursor?.getAttribute("x1") ?? 0), cursor ? by * (event.shiftKey ? 10 : 1) : 0);
});
document.addEventListener("change", (event) => {
  if (!("axis" in event.target.dataset)) return;
  hideValues();
  drawOver(event.target.value);
});

async function follow(version) {
  const status = () => document.querySelector("h1 [role=status]");
  try {
    const latest = await (await fetch("/version")).text();
    if (latest !== version) {
      const text = await (await fetch("/")).text();
      const page = new DOMParser().parseFromString(text, "text/html");
      const state = readerState();
      for (const part of ["header", "main"]) {
        document.querySelector(part).replaceWith(page.querySelector(part));
      }
      prepareFilters();
      restore(state);
      version = latest;
    }
    status().textContent = "live";
  } catch {
    status().textContent = "the server does not answer";
  }
  setTimeout(follow, ASK_EVERY_MS, version);
}

const UNITS = [[86400, "days"], [3600, "h"], [60, "min"], [1, "s"]];

function tellTimes() {
  for (const time of document.querySelectorAll("time")) {
    const seconds = Math.max(0, (Date.now() - Date.parse(time.dateTime)) / 1000);
    const [size, unit] = UNITS.find(([size]) => seconds >= 2 * size) ?? [1, "s"];
    time.textContent = `${Math.floor(seconds / size)} ${unit} ago`;
  }
}

tellTimes();
setInterval(tellTimes, 1000);
prepareFilters();
if ("live" in document.body.dataset) follow("");

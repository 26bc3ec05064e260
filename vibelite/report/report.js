"use strict";
// The sample browser's filters, values in charts and other axes, and the updates of a live page; all
// else works without script.
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

// The plot's edges in SVG units, as in charts.py.
const LEFT = 46, RIGHT = 348, TOP = 10, BOTTOM = 146;

function numbers(text) {
  return text.split(" ").map(Number);
}

function plots() {
  return [...document.querySelectorAll("svg[data-unit=step]")];
}

// Linear between the known points; both lists ascend.
function interpolate(xs, ys, x) {
  const after = xs.findIndex((known) => known >= x);
  if (after <= 0) return after < 0 ? ys.at(-1) : ys[0] * (xs[0] ? x / xs[0] : 1);
  const share = (x - xs[after - 1]) / (xs[after] - xs[after - 1]);
  return ys[after - 1] + share * (ys[after] - ys[after - 1]);
}

function short(value) {
  return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 })
    .format(value);
}

// Draws the lines of a chart over what each run had used, in `unit`, after its steps.
function redraw(svg, unit) {
  const amounts = JSON.parse(svg.closest("[data-amounts]").dataset.amounts);
  if (amounts.some((one) => !(unit in one))) return;
  const [low, high] = numbers(svg.dataset.x);
  const used = (line, step) => {
    const one = amounts[Math.min(line.dataset.series, amounts.length - 1)];
    return interpolate(one.step, one[unit], step);
  };
  const stepAt = (x) => low + ((x - LEFT) / (RIGHT - LEFT)) * (high - low);
  const lines = [...svg.querySelectorAll("polyline")];
  const drawn = lines.map((line) => {
    line.dataset.steps ??= line.getAttribute("points");
    return line.dataset.steps.split(" ").map((pair) => pair.split(",").map(Number))
      .map(([x, y]) => [used(line, stepAt(x)), y]);
  });
  const all = drawn.flat().map(([x]) => x);
  const ends = [Math.min(...all), Math.max(...all)];
  svg.dataset.ends = ends.join(" ");
  svg.dataset.over = unit;
  const place = (x) => LEFT + ((x - ends[0]) / (ends[1] - ends[0] || 1)) * (RIGHT - LEFT);
  lines.forEach((line, index) => line.setAttribute(
    "points", drawn[index].map(([x, y]) => `${place(x).toFixed(1)},${y}`).join(" ")));
  const labels = [...svg.querySelectorAll("text.x")];
  labels[0].textContent = unit;
  labels.slice(1).forEach((label, index, rest) => {
    const share = rest.length > 1 ? index / (rest.length - 1) : 1;
    label.setAttribute("x", LEFT + share * (RIGHT - LEFT));
    label.setAttribute("text-anchor", ["start", "middle", "end"][Math.ceil(share) + Math.floor(share)]);
    label.textContent = short(ends[0] + share * (ends[1] - ends[0]));
  });
}

// The values nearest to `x`, in SVG units: a line through the chart, and words over it.
function point(svg, x) {
  const amounts = JSON.parse(svg.closest("[data-amounts]")?.dataset.amounts ?? "[]");
  const [low, high] = numbers(svg.dataset.ends ?? svg.dataset.x);
  const unit = svg.dataset.over ?? svg.dataset.unit;
  const told = [...svg.querySelectorAll("[data-values]")].map((line) => {
    const one = amounts[Math.min(line.dataset.series, amounts.length - 1)];
    const places = line.dataset.values.split(" ").map((pair) => {
      const [at, value] = pair.split(":");
      const used = unit === svg.dataset.unit ? Number(at) : interpolate(one.step, one[unit], at);
      return { at: used, x: LEFT + ((used - low) / (high - low || 1)) * (RIGHT - LEFT), value };
    });
    const near = places.reduce((a, b) => (Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a));
    return { ...near, label: line.dataset.label };
  });
  const at = told[0];
  let cross = svg.querySelector(".cross");
  if (cross === null) {
    cross = document.createElementNS(svg.namespaceURI, "line");
    svg.append(cross);
  }
  const ends = { class: "cross", x1: at.x, x2: at.x, y1: TOP, y2: BOTTOM };
  for (const [name, value] of Object.entries(ends)) cross.setAttribute(name, value);
  const figure = svg.closest("figure");
  const output = figure.querySelector("output") ?? figure.appendChild(document.createElement("output"));
  output.textContent =
    `${unit} ${short(at.at)}: ` + told.map((one) => `${one.label} ${one.value}`).join(", ");
  svg.dataset.at = at.x;
}

function unpoint(svg) {
  svg.querySelector(".cross")?.remove();
  svg.closest("figure").querySelector("output")?.remove();
}

function preparePlots() {
  for (const svg of document.querySelectorAll("svg[data-x]")) {
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      point(svg, ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width);
    });
    svg.addEventListener("pointerleave", () => unpoint(svg));
    svg.addEventListener("blur", () => unpoint(svg));
    svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (move === undefined) return;
      event.preventDefault();
      const many = svg.querySelector("[data-values]").dataset.values.split(" ").length;
      point(svg, Number(svg.dataset.at ?? LEFT) + (move * (RIGHT - LEFT)) / Math.max(1, many - 1));
    });
  }
  const axis = document.querySelector("[data-axis]");
  const change = () => plots().forEach((svg) => redraw(svg, axis.value));
  axis?.addEventListener("change", change);
  if (axis && axis.value !== "step") change();
}

// What the reader has opened and typed stays when the page's parts are replaced.
function readerState() {
  const open = [...document.querySelectorAll("details[open] > summary")];
  return {
    open: new Set(open.map((summary) => summary.parentElement.dataset.key)),
    filters: Object.fromEntries(filters().map((filter) => [filter.dataset.filter, filter.value])),
    axis: document.querySelector("[data-axis]")?.value,
    focused: document.activeElement?.dataset?.filter,
  };
}

function restore(state) {
  for (const details of document.querySelectorAll("details")) {
    if (state.open.has(details.dataset.key)) details.open = true;
  }
  const axis = document.querySelector("[data-axis]");
  if (axis && state.axis) axis.value = state.axis;
  for (const filter of filters()) {
    filter.value = state.filters[filter.dataset.filter] ?? "";
    if (filter.dataset.filter === state.focused) filter.focus();
  }
  if (filters().length > 0) applyFilters();
}

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
      preparePlots();
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
preparePlots();
if ("live" in document.body.dataset) follow("");

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
    document.querySelectorAll(".chart svg").forEach(drawOver);
  }
}

// The edges of the plot, as in charts.py. Each mark has its values in data-y, one for each x value of
// its run; "" where there is none.
const [LEFT, RIGHT, TOP, BOTTOM] = [46, 348, 10, 146];
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

// The unit of a chart's x axis, and its marks with their places, values and what they lie over.
function read(svg) {
  const runs = JSON.parse(svg.closest("[data-axes]").dataset.axes);
  const wanted = document.querySelector("[data-axis]").value;
  const name = runs.every((run) => wanted in run) ? wanted : "step";
  const marks = [...svg.querySelectorAll("[data-y]")].map((mark) => {
    const points = mark.getAttribute("points")?.split(" ").map((pair) => pair.split(","));
    const ys = mark.dataset.y.split(",");
    const known = (values) => values.filter((_, index) => ys[index] !== "");
    const places = (points ?? [[mark.getAttribute("cx")]]).map(([x]) => Number(x));
    return { mark, points, places, ys: known(ys), xs: known(runs[mark.dataset.run][name]) };
  });
  return [name, marks];
}

function unitOf(name, high) {
  if (name !== "seconds") return [1, name === "USD" ? "$" : name];
  return UNITS.slice(1).find(([size]) => high >= 2 * size) ?? [1, "s"];
}

function ticksOf(low, high) {
  const power = 10 ** Math.floor(Math.log10((high - low) / 4));
  const spacing = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= (high - low) / 4.001);
  const [first, last] = [Math.ceil(low / spacing - 1e-9), Math.floor(high / spacing + 1e-9)];
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * spacing);
}

function drawOver(svg) {
  const [name, marks] = read(svg);
  const all = marks.flatMap(({ xs }) => xs);
  let [low, high] = [Math.min(...all), Math.max(...all)];
  if (low === high) [low, high] = [low - 1, high + 1];
  const place = (x) => (LEFT + ((x - low) / (high - low)) * (RIGHT - LEFT)).toFixed(1);
  for (const { mark, points, xs } of marks) {
    const moved = points?.map(([, y], index) => `${place(xs[index])},${y}`).join(" ");
    mark.setAttribute(points ? "points" : "cx", moved ?? place(xs[0]));
  }
  const [size, unit] = unitOf(name, high);
  svg.querySelector(".unit").textContent = unit;
  for (const old of svg.querySelectorAll("text.x")) old.remove();
  svg.insertAdjacentHTML("beforeend", ticksOf(low / size, high / size).map((tick) =>
    `<text class="x" x="${place(tick * size)}" y="161" text-anchor="middle">${compact.format(tick)}</text>`
  ).join(""));
}

function hideValues() {
  for (const old of document.querySelectorAll(".cursor, .tip")) old.remove();
}

// The values nearest to `x`, in units of the drawing; `by` moves that many points on.
function showValues(svg, x, by = 0) {
  hideValues();
  const [name, all] = read(svg);
  const marks = all.filter(({ mark }) => !mark.classList.contains("mean"));
  const nearest = (places, to) => places.reduce(
    (best, place, i) => (Math.abs(place - to) < Math.abs(places[best] - to) ? i : best), 0);
  const { places, xs } = marks.reduce((a, b) => (b.places.at(-1) > a.places.at(-1) ? b : a));
  const chosen = Math.min(places.length - 1, Math.max(0, nearest(places, x) + by));
  const told = marks.flatMap(({ mark, places: own, ys }) => {
    const index = nearest(own, places[chosen]);
    const isNear = Math.abs(own[index] - places[chosen]) < 6;
    return isNear ? [`${mark.dataset.label} ${compact.format(ys[index])}`] : [];
  });
  const [size, unit] = unitOf(name, xs[chosen]);
  const textContent = [`${unit} ${compact.format(xs[chosen] / size)}`, ...told].join("\n");
  svg.dataset.at = places[chosen];
  svg.insertAdjacentHTML(
    "beforeend", `<path class="cursor" d="M${places[chosen]} ${TOP}V${BOTTOM}"/>`);
  svg.parentElement.append(
    Object.assign(document.createElement("output"), { className: "tip", textContent }));
}

for (const kind of ["pointermove", "pointerdown"]) {
  document.addEventListener(kind, (event) => {
    const svg = event.target.closest?.(".chart svg");
    if (!svg) return hideValues();
    const box = svg.getBoundingClientRect();
    showValues(svg, ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width);
  });
}
document.addEventListener("focusout", hideValues);
document.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key] * (event.shiftKey ? 10 : 1);
  const svg = event.target.closest?.(".chart svg");
  if (!svg || !by) return;
  event.preventDefault();
  showValues(svg, Number(svg.dataset.at ?? LEFT), svg.querySelector(".cursor") ? by : 0);
});
document.addEventListener("change", (event) => {
  if (!("axis" in event.target.dataset)) return;
  hideValues();
  document.querySelectorAll(".chart svg").forEach(drawOver);
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

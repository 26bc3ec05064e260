"use strict";
// The sample browser's filters and, on a live page, its updates; all else works without script.
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

"use strict";
// The sample browser's filters; everything else on the page works without script.
document.documentElement.classList.add("js");
const filters = [...document.querySelectorAll(".filters [data-filter]")];
const samples = [...document.querySelectorAll("details.sample")];
const counter = document.querySelector(".filters output");

function matches(sample, filter) {
  if (filter.value === "") return true;
  if (filter.dataset.filter === "text") {
    return sample.textContent.toLowerCase().includes(filter.value.toLowerCase());
  }
  return sample.dataset[filter.dataset.filter] === filter.value;
}

function applyFilters() {
  for (const sample of samples) {
    sample.hidden = !filters.every((filter) => matches(sample, filter));
  }
  const shown = samples.filter((sample) => !sample.hidden);
  if (filters.some((filter) => filter.value !== "")) {
    for (const sample of shown) sample.parentElement.open = true;
  }
  counter.textContent = `${shown.length} of ${samples.length} shown`;
}

for (const filter of filters) {
  if (filter.tagName === "SELECT") {
    const values = new Set(samples.map((sample) => sample.dataset[filter.dataset.filter]));
    for (const value of values) filter.add(new Option(value, value));
  }
  filter.addEventListener("input", applyFilters);
}
if (counter) applyFilters();

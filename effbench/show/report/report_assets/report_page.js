"use strict";
// The page: its switches, the legend, the library of charts, and what changes with the theme and on paper.
const CHARTS = [...document.querySelectorAll(".chart")];
const DRAWN = new Set();

function redraw() {
  for (const place of DRAWN) drawChart(place);
}

function showMechanisms() {
  for (const button of document.querySelectorAll("#legend button[data-mechanism]"))
    button.setAttribute("aria-pressed", String(!HIDDEN.has(Number(button.dataset.mechanism))));
  document.getElementById("everything").setAttribute("aria-disabled", String(HIDDEN.size === 0)); // keeps the focus
  document.querySelectorAll("table").forEach(showRows);
  redraw();
}

function showParts() {
  const {source, mode} = CHOICES;
  for (const place of document.querySelectorAll("[data-source]"))
    place.hidden = (source && place.dataset.source !== "-1" && place.dataset.source !== source)
      || (mode && place.parentElement.matches(".costs") && place.dataset.mode !== mode);
  redraw();
}

for (const select of document.querySelectorAll("select[data-choice]")) {
  CHOICES[select.dataset.choice] = select.value;
  select.addEventListener("change", () => {
    CHOICES[select.dataset.choice] = select.value;
    if (["source", "mode"].includes(select.dataset.choice)) showParts(); else redraw();
    document.querySelectorAll("details.numbers").forEach(showNumbers);
  });
}

for (const details of document.querySelectorAll("details.numbers")) {
  details.hidden = false;
  details.addEventListener("toggle", () => showNumbers(details));
}

document.getElementById("legend").addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "everything") HIDDEN.clear();
  else {
    const place = Number(button.dataset.mechanism);
    if (!HIDDEN.delete(place)) HIDDEN.add(place);
  }
  showMechanisms();
});

function drawAll() {
  for (const place of CHARTS) {
    if (!DRAWN.has(place)) drawChart(place);
    DRAWN.add(place);
  }
}

// Charts are drawn as they come near, so that a page with many opens at once.
function drawInView() {
  const watch = new IntersectionObserver(entries => {
    for (const {isIntersecting, target} of entries) {
      if (!isIntersecting || DRAWN.has(target)) continue;
      drawChart(target);
      DRAWN.add(target);
      watch.unobserve(target);
    }
  }, {rootMargin: "600px"});
  for (const place of CHARTS) watch.observe(place);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readTheme(); redraw(); });

readTheme();
document.querySelectorAll("table").forEach(equip);
LIBRARY.then(drawInView).catch(error => {
  for (const place of CHARTS) place.textContent = `This browser cannot draw charts (${error.message}). The tables hold all numbers.`;
});

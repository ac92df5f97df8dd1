"use strict";
// The page on paper: light, every chart drawn with a legend of its own, no table wider than the sheet.
const SHEET = 680, CHART = 640; // CSS pixels of A4 or Letter between its margins, and of a chart inside its frame

function chartOnPaper(place) {
  const names = place.data.filter(trace => trace.showlegend !== false && trace.visible !== false).map(trace => trace.name.length);
  const column = 60 + 7 * Math.max(0, ...names), rows = Math.ceil(names.length / Math.max(1, Math.floor(CHART / column)));
  const below = 60 + 19 * rows, height = 290 + below;
  place.style.height = `${height}px`;
  Plotly.relayout(place, {width: CHART, height, autosize: false, "margin.b": below,
    "legend.yref": "container", "legend.y": 0, "legend.yanchor": "bottom"});
}

// A table is made smaller if its words and numbers need more than the sheet; beyond half its size, words are broken.
function tableOnPaper(table) {
  const frame = table.parentElement, narrowest = () => {
    frame.classList.add("measured");
    const width = table.offsetWidth;
    frame.classList.remove("measured");
    return width;
  };
  if (narrowest() > 2 * SHEET) table.classList.add("crowded");
  table.style.zoom = Math.min(1, SHEET / narrowest());
}

addEventListener("beforeprint", () => {
  document.documentElement.classList.add("paper");
  for (const table of document.querySelectorAll("table")) if (table.checkVisibility()) tableOnPaper(table);
  if (!window.Plotly) return;
  readTheme();
  drawAll();
  redraw();
  for (const place of CHARTS) if (place.layout) chartOnPaper(place);
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("paper");
  for (const table of document.querySelectorAll("table")) {
    table.style.zoom = "";
    table.classList.remove("crowded");
  }
  if (!window.Plotly) return;
  readTheme();
  redraw();
  for (const place of CHARTS) {
    place.style.height = "";
    if (place.layout) Plotly.Plots.resize(place);
  }
});

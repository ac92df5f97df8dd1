"use strict";
// The numbers of a chart, as its switches are set, in a table that can be sorted, filtered and copied like any other.
// A cell is a text, or [number, its text].
const written = (value, write) => known(value) ? [value, write(value)] : "";

function costNumbers(panel, name) {
  const chosen = chosenCost(panel, name);
  if (typeof chosen === "string") return chosen;
  const {mode, metric, base, title, unit, timed} = chosen, write = UNITS[unit].write;
  const head = ["mechanism", `N (${panel.items})`, title, ...(timed ? ["low", "high"] : []), "status", ...(timed ? ["noisy"] : [])];
  const rows = mode.series.flatMap((one, place) => points(mode, place, metric, base).map(([value, low, high], i) => {
    const ends = timed ? [written(low, write), written(high, write)] : [];
    const status = one.reason[i] ? `${one.status[i]}: ${one.reason[i]}` : one.status[i];
    return [one.mechanism, [one.n[i], String(one.n[i])], written(value, write), ...ends, status, ...(timed ? [one.noisy[i]] : [])];
  }));
  return {head, rows};
}

function frontNumbers(panel) {
  const cost = CHOICES.cost, values = panel.costs[cost], [words, unit] = DATA.trainingCosts[cost];
  if (!values) return `not measured here: ${words}`;
  const score = UNITS[panel.share ? "share" : "number"].write;
  const rows = panel.mechanism.map((mechanism, i) => [mechanism, [panel.n[i], String(panel.n[i])], written(panel.score[i], score),
    written(panel.low[i], score), written(panel.high[i], score), written(values[i], UNITS[unit].write), panel.fronts[cost].includes(i) ? "yes" : ""]);
  return {head: ["mechanism", "N (tokens)", `test ${panel.metric}`, "low", "high", words, "on the Pareto front"], rows};
}

function roofNumbers(panel, name) {
  const speed = value => `${scaled(value, thousands("FLOP"))}/s`, intensity = value => value.toPrecision(3);
  const rows = panel.modes[name].flatMap(one => one.n.map((n, i) => [one.mechanism, [n, String(n)],
    written(one.intensity[i], intensity), written(one.speed[i], speed), written(one.share[i], UNITS.share.write)]));
  return {head: ["mechanism", "N", "FLOP per byte moved", "achieved FLOP/s", "share of the roof"], rows};
}

function curveNumbers(panel) {
  const unit = CHOICES.curve === "score" && panel.share ? "share" : "number", write = UNITS[unit].write;
  const rows = panel.series.flatMap(one => {
    const [mean, low, high] = one[CHOICES.curve], x = alongCurve(one);
    return (x || []).map((at, i) => [one.mechanism, [at, String(Number(at.toPrecision(6)))], written(mean[i], write),
      written(low[i], write), written(high[i], write), [one.seeds, String(one.seeds)]]);
  });
  if (!rows.length) return `not recorded here: ${CHOICES.against}`;
  return {head: ["mechanism", CHOICES.against, `mean ${CHOICES.curve === "score" ? `validation ${panel.metric}` : "training loss"}`, "least", "most", "seeds"], rows};
}

const NUMBERS = {costs: costNumbers, fronts: frontNumbers, roofs: roofNumbers, curves: curveNumbers};

function element(kind, text, name) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function cellOf(value, place) {
  if (place > 0) {
    const isText = typeof value === "string", text = isText ? value : value[1];
    const cell = element("td", text, !isText ? "n" : text.length > 40 ? "w" : "");
    if (!isText) cell.dataset.v = value[0];
    return cell;
  }
  const {name, colour, marker} = DATA.mechanisms[value], cell = element("td", name);
  cell.prepend(element("i", "", `c${colour} m${marker}`));
  return cell;
}

function showNumbers(details) {
  for (const old of [...details.children].slice(1)) old.remove();
  if (!details.open) return;
  const figure = details.parentElement, {kind, panel} = figure.querySelector(".chart").dataset;
  const made = NUMBERS[kind](DATA[kind][Number(panel)], figure.dataset.mode);
  if (typeof made === "string") {
    details.append(element("p", made));
    return;
  }
  const table = element("table"), head = table.createTHead().insertRow(), body = table.createTBody();
  table.createCaption().textContent = `numbers of ${figure.querySelector("b").textContent}`;
  const numeric = made.head.map((_, place) => place > 0 && made.rows.some(row => Array.isArray(row[place])));
  made.head.forEach((name, place) => {
    const cell = element("th", name, numeric[place] ? "n" : "");
    cell.scope = "col";
    head.append(cell);
  });
  for (const cells of made.rows) {
    const row = body.insertRow();
    row.dataset.mechanism = cells[0];
    row.append(...cells.map(cellOf));
  }
  const frame = element("div", undefined, "scroll");
  frame.tabIndex = 0;
  frame.setAttribute("role", "group");
  frame.setAttribute("aria-label", table.caption.textContent);
  frame.append(table);
  details.append(frame);
  equip(table);
  showRows(table);
}

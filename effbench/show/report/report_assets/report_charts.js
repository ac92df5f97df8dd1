"use strict";
// What plotly draws: traces and layout of each kind of chart, from the page's data and the state of its switches.
const DATA = JSON.parse(document.getElementById("data").textContent);
const CHOICES = {};
const HIDDEN = new Set();

// A text inside a chart: plotly reads a few tags, and a name is never one.
const plain = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const known = value => value !== null && value !== undefined;

function scaled(value, steps) {
  if (!known(value)) return "unknown";
  if (value === 0) return "0";
  const [factor, unit] = steps.find(([least]) => Math.abs(value) >= 0.9995 * least) || steps[steps.length - 1];
  const size = Math.abs(value / factor);
  return `${(value / factor).toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2)} ${unit}`.trim();
}
const thousands = unit => [[1e12, `T${unit}`], [1e9, `G${unit}`], [1e6, `M${unit}`], [1e3, `k${unit}`], [1, unit]];
const UNITS = {
  s: {write: v => scaled(v, [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]]), axis: {tickformat: "~s", ticksuffix: "s"}},
  J: {write: v => scaled(v, [[1, "J"], [1e-3, "mJ"], [1e-6, "µJ"]]), axis: {tickformat: "~s", ticksuffix: "J"}},
  bytes: {write: v => scaled(v, [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]]), binary: true},
  flops: {write: v => scaled(v, thousands("FLOP")), axis: {tickformat: "~s"}},
  per_s: {write: v => `${scaled(v, thousands(""))}/s`, axis: {tickformat: "~s"}},
  count: {write: v => scaled(v, thousands("")), axis: {tickformat: "~s"}},
  times: {write: v => known(v) ? `× ${v.toPrecision(3)}` : "unknown", axis: {tickformat: "~g", tickprefix: "×"}},
  share: {write: v => known(v) ? `${(100 * v).toFixed(1)} %` : "unknown", axis: {tickformat: ".1~%"}},
  number: {write: v => known(v) ? v.toPrecision(4) : "unknown", axis: {tickformat: "~g"}},
};
const length = n => n >= 1024 && n % 1024 === 0 ? `${n / 1024}k` : String(n);

let theme = {};
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const of = name => style.getPropertyValue(name).trim();
  theme = {paper: of("--paper"), ink: of("--ink"), line: of("--line"), dim: of("--dim"),
    colours: [...Array(16).keys()].map(place => of(`--c${place}`))};
}
const colour = mechanism => theme.colours[DATA.mechanisms[mechanism].colour];
const faint = hex => `${hex}33`;

function look(mechanism) {
  const {name, symbol, dash} = DATA.mechanisms[mechanism];
  return {
    name: plain(name.length > 60 ? `${name.slice(0, 59)}…` : name), mode: "lines+markers", type: "scatter", visible: !HIDDEN.has(mechanism), meta: mechanism,
    hoverinfo: "text", line: {color: colour(mechanism), dash, width: 1.8},
    marker: {color: colour(mechanism), symbol, size: 8},
  };
}

function axis(title, unit, kind, values) {
  const finite = values.filter(value => known(value) && value > 0);
  const shown = {title: {text: plain(title), standoff: 8}, type: kind, gridcolor: theme.line, zeroline: false, linecolor: theme.dim,
    ticks: "outside", tickcolor: theme.line, automargin: true, ...(UNITS[unit].axis || {})};
  if (finite.length && (kind === "log" || UNITS[unit].binary)) Object.assign(shown, ticks(finite, kind, unit));
  if (kind === "linear") shown.rangemode = "tozero";
  return shown;
}

const STEPS = [[1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7], [...Array(18).keys()].map(step => 1 + step / 2), [...Array(45).keys()].map(step => 1 + step / 5)];

// Ticks at 1, 2 and 5 of each decade, or closer ones, or at powers of 2 for bytes, with the units that the tables have.
function ticks(values, kind, unit) {
  const top = Math.max(...values), low = Math.min(...values), binary = UNITS[unit].binary, found = [];
  if (kind === "linear") {
    const step = 2 ** Math.floor(Math.log2(top / 4));
    for (let tick = 0; tick <= top * 1.1; tick += step) found.push(tick);
  } else if (binary) {
    const first = Math.floor(Math.log2(low)) - 1, last = Math.ceil(Math.log2(top)) + 1;
    const step = Math.max(1, Math.ceil((last - first) / 9));
    for (let power = first; power <= last; power += step) found.push(2 ** power);
  } else {
    const first = Math.floor(Math.log10(low)) - 1, last = Math.ceil(Math.log10(top)) + 1;
    const inside = tick => tick >= low && tick <= top, single = top / low < 1 + 1e-6; // of one value the axis shows two decades
    for (const digits of single ? [[1, 2, 5]] : STEPS) { // the coarsest that has some inside
      found.length = 0;
      for (let power = first; power <= last; power += 1) for (const digit of digits) found.push(Number(`${digit}e${power}`));
      if (found.filter(inside).length >= 4) break;
    }
    if (!single && found.filter(inside).length < 2) return {}; // plotly's own, for values that are close together
  }
  const written = tick => UNITS[unit].write(tick).replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, "");
  return {tickmode: "array", tickvals: found, ticktext: found.map(written)};
}

function lengthAxis(lengths, items, kind) {
  const sorted = [...new Set(lengths)].sort((a, b) => a - b);
  const range = kind === "log" ? n => Math.log(n / sorted[0]) : n => n - sorted[0];
  const width = range(sorted[sorted.length - 1]) || 1, ticks = [];
  for (const n of sorted) if (!ticks.length || range(n) - range(ticks[ticks.length - 1]) >= 0.07 * width) ticks.push(n);
  const title = `${items === "clicks" ? "history" : "sequence"} length N (${items})`;
  return {...axis(title, "number", kind, []), dtick: undefined, tickmode: "array", tickvals: ticks, ticktext: ticks.map(length)};
}

// On paper each chart has its own legend; on the screen the page has one for all.
const onPaper = () => document.documentElement.classList.contains("paper");

function layout(more) {
  return {
    paper_bgcolor: theme.paper, plot_bgcolor: theme.paper, font: {color: theme.ink, family: "system-ui, sans-serif", size: 12},
    margin: {l: 64, r: 14, t: 10, b: 48}, showlegend: onPaper(), legend: {orientation: "h", y: -0.22, yanchor: "top"}, hovermode: "closest",
    hoverlabel: {bgcolor: theme.paper, bordercolor: theme.dim, font: {color: theme.ink}, align: "left"}, ...more,
  };
}

// The ratio of one series to another of the same chart, [value, low, high] by length; low and high of times only.
function ratios(mode, place, base, metric) {
  const ours = mode.series[place], theirs = mode.series[base], found = new Map();
  const timed = metric === "time_s" || metric === "tokens_per_s";
  if (timed && place !== base) {
    const [first, second] = [Math.min(place, base), Math.max(place, base)];
    const [n, centers, lows, highs] = mode.ratios[`${first},${second}`] || [[], [], [], []];
    const inverted = (place > base) !== (metric === "tokens_per_s");
    const over = value => known(value) ? 1 / value : null;
    n.forEach((at, i) => found.set(at, inverted ? [over(centers[i]), over(highs[i]), over(lows[i])] : [centers[i], lows[i], highs[i]]));
    return found;
  }
  ours.n.forEach((at, i) => {
    const value = (ours.values[metric] || [])[i], other = (theirs.values[metric] || [])[theirs.n.indexOf(at)];
    if (known(value) && other) found.set(at, [value / other, null, null]);
  });
  return found;
}

function points(mode, place, metric, base) {
  const one = mode.series[place];
  if (base < 0) {
    const timed = metric in one.low;
    return one.n.map((_, i) => [(one.values[metric] || [])[i], timed ? one.low[metric][i] : null, timed ? one.high[metric][i] : null]);
  }
  const found = ratios(mode, place, base, metric);
  return one.n.map(at => found.get(at) || [null, null, null]);
}

function hoverOfCost(one, i, point, write, timed, base) {
  const lines = [`<b>${plain(DATA.mechanisms[one.mechanism].name)}</b>, N = ${one.n[i]}`, write(point[0])];
  if (one.code) lines.push(`code ${plain(one.code)}`);
  if (known(point[1])) lines.push(`95 %: ${write(point[1])} to ${write(point[2])}`);
  else lines.push(timed ? "no interval" : base < 0 ? "exact or a median: no interval" : "no interval");
  lines.push(`status: ${plain(one.status[i])}${one.reason[i] ? `: ${plain(one.reason[i]).slice(0, 160)}` : ""}`);
  if (timed) lines.push(`${one.repeats[i]} repeats${one.noisy[i] ? `; noisy: ${plain(one.noisy[i]).slice(0, 160)}` : ""}`);
  return lines.join("<br>");
}

// What a chart of costs shows: its series, metric, base (-1: none) and title; a sentence if it has nothing to show.
function chosenCost(panel, name) {
  const {metric, relative} = CHOICES, mode = panel.modes[name], [words, decoding, unit] = DATA.metrics[metric];
  const other = relative === "" ? "" : DATA.mechanisms[Number(relative)].name;
  const base = relative === "" ? -1 : mode.series.findIndex(one => one.mechanism === Number(relative));
  if (base < 0 && other) return `${other} was not measured here`;
  const title = `${name === "decode" ? decoding : words}${other ? `, relative to ${other}` : ""}`;
  return {mode, metric, base, title, unit: base < 0 ? unit : "times", timed: metric === "time_s" || metric === "tokens_per_s"};
}

function costs(panel, name) {
  const chosen = chosenCost(panel, name), scale = CHOICES.scale;
  if (typeof chosen === "string") return chosen;
  const {mode, metric, base, title, unit, timed} = chosen, write = UNITS[unit].write;
  const failures = new Map(); // length -> how many have failed there
  const below = n => {
    failures.set(n, (failures.get(n) || 0) + 1);
    return 1.015 - 0.03 * failures.get(n);
  };
  const every = [...new Set(mode.series.flatMap(one => one.n))], alone = every.length === 1, all = [], traces = [];
  mode.series.forEach((one, place) => {
    const mine = points(mode, place, metric, base), style = look(one.mechanism);
    if (one.code) style.name += plain(` (${one.code})`);
    mine.forEach(point => all.push(...point));
    const values = mine.map(point => known(point[0]) && (point[0] > 0 || scale === "linear") ? point[0] : null);
    const bars = {type: "data", symmetric: false, thickness: 1.4, width: 3, color: colour(one.mechanism),
      array: mine.map((point, i) => known(point[2]) && known(values[i]) ? point[2] - point[0] : 0),
      arrayminus: mine.map((point, i) => known(point[1]) && known(values[i]) ? point[0] - point[1] : 0),
      visible: mine.some(point => known(point[1]))};
    const symbols = one.n.map((_, i) => timed && one.noisy[i] ? `${style.marker.symbol}-open` : style.marker.symbol);
    const names = one.n.map(() => style.name);
    traces.push({...style, x: alone ? values : one.n, y: alone ? names : values, [alone ? "error_x" : "error_y"]: bars,
      marker: {...style.marker, symbol: symbols}, connectgaps: false,
      hovertext: mine.map((point, i) => hoverOfCost(one, i, point, write, timed, base))});
    const failed = one.n.map((_, i) => i).filter(i => !known(mine[i][0]) && !["ok", "interrupted"].includes(one.status[i]));
    if (failed.length && !alone) traces.push({...style, mode: "markers", showlegend: false, x: failed.map(i => one.n[i]), y: failed.map(i => below(one.n[i])), yaxis: "y2",
      marker: {color: colour(one.mechanism), symbol: "x-thin", size: 9, line: {width: 2, color: colour(one.mechanism)}},
      hovertext: failed.map(i => hoverOfCost(one, i, [null], () => "no value", timed, base))});
  });
  if (!all.some(known)) return `not measured here: ${title}`;
  const seen = all.filter(value => known(value) && value > 0);
  if (alone) return {traces, layout: layout({xaxis: axis(`${title} at ${length(every[0])} ${panel.items}`, unit, scale, seen), yaxis: {automargin: true, gridcolor: theme.line}})};
  return {traces, layout: layout({
    xaxis: lengthAxis(every, panel.items, scale), yaxis: axis(title, unit, scale, seen),
    yaxis2: {overlaying: "y", range: [0, 1], visible: false, fixedrange: true},
  })};
}

function fronts(panel) {
  const cost = CHOICES.cost, values = panel.costs[cost];
  if (!values) return `not measured here: ${DATA.trainingCosts[cost][0]}`;
  const [words, unit] = DATA.trainingCosts[cost], score = UNITS[panel.share ? "share" : "number"].write;
  const front = panel.fronts[cost];
  const traces = [{type: "scatter", mode: "lines", x: front.map(i => values[i]), y: front.map(i => panel.score[i]), name: "Pareto front",
    line: {color: theme.dim, width: 1, dash: "dot"}, hoverinfo: "skip"}];
  const several = new Set(panel.n).size > 1;
  for (const mechanism of new Set(panel.mechanism)) {
    const at = panel.mechanism.map((_, i) => i).filter(i => panel.mechanism[i] === mechanism && known(values[i]));
    const style = look(mechanism), gap = (ends, sign) => at.map(i => known(ends[i]) ? sign * (ends[i] - panel.score[i]) : 0);
    traces.push({...style, mode: several ? "markers+text" : "markers", cliponaxis: false, x: at.map(i => values[i]), y: at.map(i => panel.score[i]),
      text: at.map(i => `N=${length(panel.n[i])}`), textposition: "middle right", textfont: {color: theme.dim, size: 10},
      marker: {...style.marker, size: at.map(i => front.includes(i) ? 12 : 9)},
      error_y: {type: "data", symmetric: false, thickness: 1.2, width: 3, color: colour(mechanism), array: gap(panel.high, 1), arrayminus: gap(panel.low, -1)},
      hovertext: at.map(i => [`<b>${plain(DATA.mechanisms[mechanism].name)}</b>, N = ${panel.n[i]}`, `${plain(panel.metric)}: ${score(panel.score[i])}`,
        known(panel.low[i]) ? `${plain(panel.how[i])}: ${score(panel.low[i])} to ${score(panel.high[i])}` : "no interval: one seed",
        `${words}: ${UNITS[unit].write(values[i])}`, front.includes(i) ? "on the Pareto front" : "another is better in both"].join("<br>"))});
  }
  const y = axis(`test ${panel.metric}`, panel.share ? "share" : "number", "linear", []);
  const room = several ? {margin: {l: 64, r: 56, t: 10, b: 48}} : {}; // for the text right of the last marker
  return {traces, layout: layout({xaxis: axis(words, unit, CHOICES.costScale, values), yaxis: {...y, rangemode: "normal"}, ...room})};
}

function roofs(panel, name) {
  const mode = panel.modes[name];
  const all = mode.flatMap(one => one.intensity), slopes = panel.bandwidths.map(one => one.bytes_per_s);
  const first = Math.min(...all, panel.peak / Math.max(...slopes)) / 2, last = 3 * Math.max(...all, panel.peak / Math.min(...slopes));
  const traces = panel.bandwidths.map(({bytes, bytes_per_s: speed}, place) => {
    const text = `limit: ${UNITS.bytes.write(bytes)} of data at ${scaled(speed, thousands("B"))}/s, ${scaled(panel.peak, thousands("FLOP"))}/s`;
    const x = [first, panel.peak / speed, last];
    return {type: "scatter", mode: "lines", x, y: x.map(at => Math.min(panel.peak, at * speed)), hoverinfo: "text", hovertext: x.map(() => text),
      name: text, line: {color: theme.dim, width: 1.4, dash: place ? "dash" : "dot"}};
  });
  for (const one of mode) {
    const style = look(one.mechanism);
    traces.push({...style, x: one.intensity, y: one.speed, line: {...style.line, width: 0.8},
      hovertext: one.n.map((n, i) => [`<b>${plain(DATA.mechanisms[one.mechanism].name)}</b>, N = ${n}`, `${scaled(one.speed[i], thousands("FLOP"))}/s`,
        `${one.intensity[i].toPrecision(3)} FLOP per byte`, `${UNITS.share.write(one.share[i])} of the roof`].join("<br>"))});
  }
  const speeds = mode.flatMap(one => one.speed);
  return {traces, layout: layout({xaxis: axis("arithmetic intensity (FLOP per byte moved)", "number", "log", [first, last]),
    yaxis: axis("achieved FLOP/s", "count", "log", [...speeds, panel.peak])})};
}

// Where the evaluations of a learning curve lie; undefined if that was not recorded.
const alongCurve = one => CHOICES.against === "evaluation" ? one.score[0].map((_, i) => i + 1) : one.x[CHOICES.against];

function curves(panel) {
  const which = CHOICES.curve, unit = which === "score" && panel.share ? "share" : "number", traces = [];
  for (const one of panel.series) {
    const [mean, low, high] = one[which], style = look(one.mechanism), x = alongCurve(one);
    if (!x) continue;
    const quiet = {type: "scatter", mode: "lines", showlegend: false, x, hoverinfo: "skip", visible: style.visible, meta: one.mechanism, line: {width: 0, color: colour(one.mechanism)}};
    if (one.seeds > 1) traces.push({...quiet, y: low}, {...quiet, y: high, fill: "tonexty", fillcolor: faint(colour(one.mechanism))});
    traces.push({...style, x, y: mean, marker: {...style.marker, size: 5}, hovertext: mean.map((value, i) =>
      [`<b>${plain(DATA.mechanisms[one.mechanism].name)}</b>`, UNITS[unit].write(value), `${one.seeds} seeds: ${UNITS[unit].write(low[i])} to ${UNITS[unit].write(high[i])}`].join("<br>"))});
  }
  if (!traces.length) return `not recorded here: ${CHOICES.against}`;
  const words = {epoch: "epoch", seconds: "training time in seconds (mean over seeds)", evaluation: "number of the evaluation"}[CHOICES.against];
  const title = which === "score" ? `validation ${panel.metric}` : "training loss";
  const whole = CHOICES.against !== "seconds" && Math.max(...traces.map(trace => trace.x[trace.x.length - 1])) <= 12 ? {dtick: 1} : {};
  return {traces, layout: layout({xaxis: {...axis(words, "number", "linear", []), rangemode: "normal", ...whole}, yaxis: {...axis(title, unit, "linear", []), rangemode: "normal"}})};
}

const KINDS = {costs, fronts, roofs, curves};
const CONFIG = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  toImageButtonOptions: {format: "svg", filename: "effbench"}};

function drawChart(place) {
  if (!place.offsetParent) return; // hidden: drawn when it is shown
  const panel = DATA[place.dataset.kind][Number(place.dataset.panel)];
  const made = KINDS[place.dataset.kind](panel, place.parentElement.dataset.mode);
  if (typeof made === "string") {
    Plotly.purge(place);
    const note = document.createElement("p");
    note.textContent = made;
    place.replaceChildren(note);
    return;
  }
  if (place.firstElementChild && place.firstElementChild.tagName === "P") place.replaceChildren();
  Plotly.react(place, made.traces, made.layout, CONFIG);
}

"use strict";
// Every table can be sorted, filtered, and copied as it is shown.
const LATEX = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "µ": "\\textmu{}",
  "×": "$\\times$", "±": "$\\pm$", "\u00a0": "~", "<": "\\textless{}", ">": "\\textgreater{}"};
for (const sign of "&%$#_{}") LATEX[sign] = `\\${sign}`;

function say(text) {
  const place = document.getElementById("said");
  place.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { place.textContent = ""; }, 4000);
}

const cellText = cell => cell.textContent.trim();
const isNumber = cell => cell.classList.contains("n");

function shownRows(table) {
  return [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => [...row.cells]);
}

const FORMS = {
  CSV(head, rows) {
    const quoted = text => /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
    return [head, ...rows].map(cells => cells.map(cell => quoted(cellText(cell))).join(",")).join("\n");
  },
  Markdown(head, rows) {
    const line = texts => `| ${texts.join(" | ")} |`, text = cell => cellText(cell).replace(/\|/g, "\\|").replace(/\s+/g, " ");
    return [line(head.map(text)), line(head.map(cell => isNumber(cell) ? "---:" : "---")), ...rows.map(cells => line(cells.map(text)))].join("\n");
  },
  LaTeX(head, rows) {
    const text = cell => [...cellText(cell)].map(sign => LATEX[sign] || sign).join("");
    const line = cells => `${cells.map(text).join(" & ")} \\\\`, columns = head.map(cell => isNumber(cell) ? "r" : "l").join("");
    return [`\\begin{tabular}{${columns}}`, "\\toprule", line(head), "\\midrule", ...rows.map(line), "\\bottomrule", "\\end{tabular}"].join("\n");
  },
};

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch (error) { // a page without the right to write to the clipboard: the older way
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw error;
  }
}

function sortBy(table, column, head) {
  const down = head.getAttribute("aria-sort") === "ascending";
  const key = row => {
    const cell = row.cells[column];
    return cell.dataset.v !== undefined ? Number(cell.dataset.v) : cellText(cell);
  };
  const order = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // what is missing comes last in both orders
    const apart = typeof x === "number" && typeof y === "number" ? x - y
      : typeof x === typeof y ? x.localeCompare(y, "en", {numeric: true}) : typeof x === "number" ? -1 : 1;
    return down ? -apart : apart;
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
}

function showRows(table) {
  const wanted = (table.filterText || "").toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of table.tBodies[0].rows) {
    const hidden = row.dataset.mechanism !== undefined && HIDDEN.has(Number(row.dataset.mechanism));
    const text = wanted.length ? row.textContent.toLowerCase() : "";
    row.hidden = hidden || !wanted.every(word => text.includes(word));
  }
}

function equip(table) {
  const head = [...table.tHead.rows[0].cells], name = table.caption ? table.caption.textContent : "this table";
  head.forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.textContent;
    button.addEventListener("click", () => sortBy(table, column, cell));
    cell.replaceChildren(button);
  });
  const tools = document.createElement("div"), filter = document.createElement("input");
  tools.className = "tools";
  filter.type = "search";
  filter.placeholder = "filter rows";
  filter.setAttribute("aria-label", `filter the rows of ${name}`);
  filter.addEventListener("input", () => {
    table.filterText = filter.value;
    showRows(table);
    say(`${shownRows(table).length} of ${table.tBodies[0].rows.length} rows`);
  });
  tools.append(filter);
  for (const form of Object.keys(FORMS)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `copy ${form}`;
    button.dataset.form = form;
    button.setAttribute("aria-label", `copy ${form}: ${name}`);
    button.addEventListener("click", async () => {
      const rows = shownRows(table);
      try {
        await copy(FORMS[form](head, rows));
        say(`copied ${rows.length} rows as ${form}`);
      } catch (error) {
        say(`this browser does not let the page copy: ${error.message}`);
      }
    });
    tools.append(button);
  }
  table.parentElement.before(tools);
}

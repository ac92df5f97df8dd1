"""The HTML report in a real browser: with the mouse's events, with the keyboard alone, and on paper."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from browser import DOWN, ENTER, SHIFT, SPACE, TAB, Browser, browser, missing
from frames import SIX, Failures, accuracy_records, cost_records, generation_records
from report_records import FAILS, NASTY, costs, source

from effbench.common.spec import Record, Status
from effbench.show.report import report_page

pytest.importorskip("plotly")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser"),
]


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        opened.size(1280, 900)
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A page with costs in two modes, trainings, failures and names like HTML."""
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    records = [*costs((*SIX[:3], NASTY[0], NASTY[2]), fail=FAILS), *accuracy_records()]
    path.write_text(report_page.report([source(records)]), encoding="utf-8")
    return path


def opened(window: Browser, path: Path) -> None:
    """Open a page and wait until all its charts are drawn."""
    window.open(path)
    window.wait("window.Plotly")
    window.run("drawAll()")
    window.wait("document.querySelectorAll('.chart .main-svg').length >= CHARTS.length")


def test_a_browser_shows_hides_switches_sorts_and_copies(window, page):
    opened(window, page)
    assert window.log() == []
    assert window.run("return document.documentElement.scrollWidth <= innerWidth")

    # a mechanism that is hidden is in no chart and no table; one click more, and it is back
    press = "document.querySelector('#legend button[data-mechanism]').click();"
    seen = (
        "const found = CHARTS.flatMap(chart => chart.data || [])"
        ".filter(trace => trace.meta === 0 && trace.visible);"
        "const rows = [...document.querySelectorAll('tr[data-mechanism=\"0\"]')]"
        ".filter(row => !row.hidden);"
        "return [found.length, rows.length];"
    )
    before = window.run(seen)
    assert min(before) > 0
    assert window.run(press + seen) == [0, 0]
    assert window.run(press + seen) == before

    # every choice of every switch draws
    title = "return document.querySelector('.costs .chart').layout.yaxis.title.text"
    first = window.run(title)
    choices = window.run(
        "return [...document.querySelectorAll('select[data-choice]')]"
        ".map(s => [s.dataset.choice, [...s.options].map(option => option.value)])"
    )
    assert {"metric", "mode", "relative", "scale", "cost"} <= {name for name, _ in choices}
    for name, values in choices:
        for value in [*values[1:], values[0]]:
            window.run(
                f"const s = document.querySelector('select[data-choice={name}]'); s.value = '{value}';"
                "s.dispatchEvent(new Event('change'));"
            )
            assert window.run("return document.querySelectorAll('.costs .main-svg').length") > 0
            assert (window.run(title) != first) == (name in ("metric", "relative") and value != values[0])
    hovers = window.run("return CHARTS.flatMap(c => c.data || []).flatMap(t => t.hovertext || []).join(' ')")
    assert "<script" not in hovers
    assert "status: ok" in hovers

    # a table in order of a column, up and down
    column = (
        "const table = document.querySelector('#tables table'), head = table.tHead.rows[0].cells[2];"
        "head.querySelector('button').click();"
        "return [...table.tBodies[0].rows]"
        ".map(row => row.cells[2].dataset.v).filter(Boolean).map(Number);"
    )
    rising, falling = window.run(column), window.run(column)
    assert len(rising) > 2
    assert rising == sorted(rising) == falling[::-1]

    # what is copied is what the table shows
    window.command("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    for form, begins in (
        ("CSV", "mechanism,128"),
        ("Markdown", "| mechanism | 128"),
        ("LaTeX", "\\begin{tabular}"),
    ):
        copied = window.run(
            f"document.querySelector('#tables [data-form={form}]').click();"
            "return new Promise(done => setTimeout("
            "() => navigator.clipboard.readText().then(done, done), 300))"
        )
        assert copied.startswith(begins)
        assert "vanilla" in copied

    # a filter
    left = window.run(
        "const table = document.querySelector('#tables table');"
        "const box = document.querySelector('#tables input');"
        "box.value = 'vanilla'; box.dispatchEvent(new Event('input'));"
        "return shownRows(table).map(cells => cells[0].textContent)"
    )
    assert left == ["vanilla"]
    assert window.log() == []


# What has the focus, in order, is visible, not below another element, and has an outline.
WATCH_FOCUS = """
window.order = [];
addEventListener("focusin", event => {
  const found = event.target, box = found.getBoundingClientRect(), style = getComputedStyle(found);
  const top = document.elementFromPoint(box.x + Math.min(box.width / 2, 20), box.y + box.height / 2);
  order.push([ALL.indexOf(found), Boolean(top) && (found.contains(top) || top.contains(found)),
    style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2]);
});
window.ALL = [...document.querySelectorAll(
  "a[href], button, select, input, summary, [tabindex]")].filter(one => one.checkVisibility());
return ALL.length
"""


def test_the_tab_key_reaches_every_control_in_order_and_shows_where_it_is(window, page):
    opened(window, page)
    count = window.run(WATCH_FOCUS)
    assert count > 50
    window.press(TAB * count)
    places, visible, outlined = zip(*window.run("return order"), strict=True)
    assert places == tuple(range(count))
    assert all(visible)
    assert all(outlined)
    window.press(SHIFT + TAB * 3 + SHIFT)
    assert [place for place, *_ in window.run("return order")][count:] == [count - 2, count - 3, count - 4]


def focus(window: Browser, selector: str) -> None:
    """Give an element the focus as the tab key does: from the control before it."""
    window.run(
        f"const all = [...document.querySelectorAll('a[href], button, select, input, summary, [tabindex]')]"
        f".filter(one => one.checkVisibility()); "
        f"all[all.indexOf(document.querySelector({selector!r})) - 1].focus()"
    )
    window.press(TAB)
    assert window.run(f"return document.activeElement === document.querySelector({selector!r})"), selector


def test_everything_works_with_the_keyboard_alone(window, page):
    opened(window, page)
    window.press(TAB)
    assert window.name_of_focus() == "to the content"
    window.press(ENTER + TAB)
    assert window.run("return document.getElementById('main').contains(document.activeElement)")

    # a mechanism is hidden and shown, and its button says which
    first = "#legend button[data-mechanism]"
    pressed = f"return document.querySelector({first!r}).getAttribute('aria-pressed')"
    drawn = "return CHARTS.flatMap(c => c.data || []).filter(t => t.meta === 0 && t.visible).length"
    focus(window, first)
    assert window.name_of_focus() == window.run("return DATA.mechanisms[0].name")
    seen = window.run(drawn)
    for key in (SPACE, ENTER):
        window.press(key)
        assert (window.run(pressed), window.run(drawn)) == ("false", 0)
        window.press(key)
        assert (window.run(pressed), window.run(drawn)) == ("true", seen)
    window.press(SPACE)
    focus(window, "#everything")
    window.press(ENTER)
    assert (window.run(pressed), window.run(drawn)) == ("true", seen)
    assert window.name_of_focus() == "show all"

    # the switches of the charts
    title = "return document.querySelector('.costs .chart').layout.yaxis.title.text"
    axis = "return document.querySelector('.costs .chart').layout.yaxis.type"
    focus(window, "select[data-choice=metric]")
    assert window.name_of_focus() == "Metric"
    before = window.run(title)
    window.press(DOWN)
    assert window.run(title) != before
    focus(window, "select[data-choice=scale]")
    window.press(DOWN)
    assert window.run(axis) == "linear"

    # the numbers of a chart, which follow its switches
    numbers = ".costs figure details.numbers"
    focus(window, f"{numbers} summary")
    window.press(ENTER)
    window.wait(f"document.querySelector({numbers + ' table'!r})")
    column = f"return document.querySelector({numbers + ' th:nth-child(3)'!r}).textContent"
    assert window.run(column) == window.run(title)
    shown = window.run(
        f"return [...document.querySelectorAll({numbers + ' tbody tr'!r})]"
        ".map(row => Number(row.cells[2].dataset.v)).filter(value => value > 0)"
    )
    points = window.run(
        "return document.querySelector('.costs .chart').data.filter(t => t.name && t.yaxis !== 'y2')"
        ".flatMap(t => [...t.y]).filter(value => value > 0)"
    )
    assert shown == points
    assert len(shown) > 5

    # a table: sorted up and down, filtered, copied
    head = "#tables th:nth-child(3)"
    values = (
        "return [...document.querySelector('#tables table').tBodies[0].rows].filter(row => !row.hidden)"
        ".map(row => row.cells[2].dataset.v).filter(Boolean).map(Number)"
    )
    focus(window, f"{head} button")
    for key, order, sign in ((ENTER, "ascending", 1), (SPACE, "descending", -1)):
        window.press(key)
        assert window.run(f"return document.querySelector({head!r}).getAttribute('aria-sort')") == order
        found = window.run(values)
        assert found == sorted(found, key=lambda value: sign * value)
    focus(window, "#tables input")
    window.press("vanilla")
    names = "return shownRows(document.querySelector('#tables table')).map(cells => cells[0].textContent)"
    assert window.run(names) == ["vanilla"]
    assert window.run("return document.getElementById('said').textContent").startswith("1 of ")
    window.command("Browser.grantPermissions", permissions=["clipboardReadWrite"])
    focus(window, "#tables [data-form=CSV]")
    assert window.name_of_focus().startswith("copy CSV: ")
    window.press(ENTER)
    window.wait("document.getElementById('said').textContent.startsWith('copied 1 rows')")
    copied = window.run("return navigator.clipboard.readText()")
    assert [line.split(",")[0] for line in copied.splitlines()] == ["mechanism", "vanilla"]
    assert window.log() == []


# What a sheet of A4 between margins of 14 mm shows of each chart and table, in CSS pixels.
ON_PAPER = """
dispatchEvent(new Event("beforeprint"));
const shown = all => [...document.querySelectorAll(all)].filter(one => one.checkVisibility());
const right = one => Math.round(one.getBoundingClientRect().right);
const found = {
  charts: shown(".chart").map(one => right(one.querySelector(".main-svg"))),
  legends: shown(".chart").filter(one => one.querySelector(".legend")).length,
  tables: shown("table").map(right),
  below: shown("figure").every(one => one.querySelector(".main-svg").getBoundingClientRect().bottom
    <= one.getBoundingClientRect().bottom),
  ink: getComputedStyle(document.body).color,
};
dispatchEvent(new Event("afterprint"));
return found
"""
SHEET = 688


def test_every_chart_and_table_fits_on_paper(window, page):
    window.open(page)
    assert window.run("return Boolean(window.Plotly)")  # the page counts as loaded when it can be printed
    window.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    window.size(SHEET, 900)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    window.command("Emulation.setEmulatedMedia", media="print", features=dark)
    found = window.run(ON_PAPER)
    printed = window.pdf()
    window.command("Emulation.setEmulatedMedia", media="", features=[])
    window.size(1280, 900)
    count = window.run("return CHARTS.length")
    assert len(found["charts"]) == found["legends"] == count > 2
    assert max(found["charts"]) <= SHEET
    assert found["below"]
    assert len(found["tables"]) > 8
    assert max(found["tables"]) <= SHEET
    assert found["ink"] == "rgb(26, 26, 26)"
    assert window.run("return document.querySelector('table').style.zoom + CHARTS[0].style.height") == ""
    assert printed.startswith(b"%PDF")
    assert len(printed) > 20_000
    assert window.log() == []


def energies() -> list[Record]:
    """Records of energy, as the probe writes them."""
    method = "NVML, the card's total energy"
    found: dict[str, float | int | str | None] = {
        "energy_j": 0.002,
        "energy_resolution_j": 1e-5,
        "power_w": 312.0,
        "energy_method": method,
    }
    return [
        replace(record, cell=replace(record.cell, probe="energy"), values=found)
        for record in costs(SIX[:2])
        if record.cell.probe == "flops"
    ]


def compiled() -> list[Record]:
    """Costs of compiled forms."""
    found = {"compile_s": 2.0, "graph_breaks": 1, "recompiles": 0}
    return [
        replace(record, values={**record.values, **found}) for record in costs(SIX[:2], compile="default")
    ]


def costs_at(length: int, batch_size: int) -> list[Record]:
    """Costs at one length and batch size."""
    return cost_records(SIX[:2], (length,), batch_size=batch_size)


def every_status() -> Failures:
    """A failure of each status."""
    statuses: list[Status] = [status for status in get_args(Status) if status != "ok"]
    cells = itertools.product(SIX[:3], ("train",), (128, 256, 512))
    return {cell: (status, f"<b>{status}</b>") for status, cell in zip(statuses, cells, strict=False)}


ALL_FAIL: Failures = {("vanilla", "train", n): ("oom", "too large") for n in (128, 256, 512)}
NAMES = ("x" * 300, "\u202eleft", "a\nb", *NASTY)
# What is in each folder.
ODD: dict[str, Callable[[], list[list[Record]]]] = {
    "one record": lambda: [costs(("linear",), modes=("forward",))[:1]],
    "failures alone": lambda: [costs(SIX[:1], modes=("train",), fail=ALL_FAIL)],
    "every status": lambda: [costs(SIX[:3], fail=every_status())],
    "energy": lambda: [[*costs(SIX[:2]), *energies()]],
    "batch_tokens": lambda: [[*costs_at(128, 4), *costs_at(256, 2), *costs_at(512, 1)]],
    "compiled": lambda: [[*costs(SIX[:2]), *compiled()]],
    "generation": lambda: [generation_records(SIX[:2])],
    "names": lambda: [[*costs(NAMES, modes=("forward",)), *accuracy_records(NAMES)]],
    "folders": lambda: [costs(SIX[:2]), accuracy_records(SIX[:2]), costs(SIX[2:3])],
}
# Chooses every choice of every switch; returns what is not drawn and what reads like a missing number.
SWITCHED = """
const wrong = [];
for (const one of document.querySelectorAll("details")) one.open = true;
for (const select of document.querySelectorAll("select[data-choice]"))
  for (const {value} of [...select.options].reverse()) {
    select.value = value;
    select.dispatchEvent(new Event("change"));
    for (const chart of CHARTS) {
      if (chart.offsetParent && !chart.querySelector(".main-svg, p")) wrong.push([value, "not drawn"]);
      for (const text of chart.querySelectorAll("text"))
        if (/NaN|undefined|null|Infinity/.test(text.textContent)) wrong.push([value, text.textContent]);
    }
  }
return wrong
"""


@pytest.mark.parametrize("kind", ODD)
def test_odd_records_are_drawn_without_an_error_on_any_screen(window, kind, tmp_path):
    path = tmp_path / "report.html"
    sources = [source(records, number, f"folder {number}") for number, records in enumerate(ODD[kind]())]
    path.write_text(report_page.report(sources), encoding="utf-8")
    opened(window, path)
    assert window.run(SWITCHED) == []
    assert window.run("return document.querySelectorAll('.chart b, .chart img').length") == 0
    for width in (500, 1280):
        window.size(width, 900)
        assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    assert window.log() == []

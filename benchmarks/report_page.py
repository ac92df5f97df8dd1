"""Build the HTML report of 10,000 made-up records; measure its size and how long a browser takes to open it.

    python benchmarks/report_page.py [RECORDS] [LOADS]

The records are costs of 30 mechanisms at 12 lengths in three modes, with 5 repeats, and trainings of 5 seeds.
Each load is a new window of headless Chromium without a cache. A clock in the page tells when the tables and
buttons work, when all charts within the window are drawn and painted, and when every chart of the page is
drawn, as for printing. The script prints Markdown: the smallest and the median of the loads (10), on the
clock, from the start of the navigation. It needs Debian's chromium and chromium-driver, and plotly.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from browser import Browser, browser, missing
from frames import accuracy_records, cost_records

from effbench.common.machine import name
from effbench.common.spec import Record
from effbench.records.analyse.summary import summarise
from effbench.records.frame import raw_frame
from effbench.show.report.report_page import report
from effbench.show.report.report_sources import Source

MECHANISMS = ("vanilla", *(f"mechanism-{place}" for place in range(2, 31)))
LENGTHS = (64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192)
TASKS = ("listops", "imdb", "copying", "mqar", "pathfinder")
# Run in the page before its own scripts: notes when something becomes true, looking before each frame.
WATCH = """
window.seen = {};
addEventListener("DOMContentLoaded", () => { seen.interactive = performance.now(); });
requestAnimationFrame(function watch() {
  const charts = [...document.querySelectorAll(".chart")].filter(place => {
    const box = place.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  });
  const drawn = seen.interactive && window.Plotly && charts.every(place => place.querySelector(".main-svg"));
  requestAnimationFrame(drawn ? () => { seen.drawn = performance.now(); } : watch);
});
"""


def records(count: int) -> list[Record]:
    """Return so many records: costs, then trainings."""
    made = cost_records(MECHANISMS, LENGTHS, repeats=5, modes=("forward", "train", "decode"))
    for task in TASKS:
        made += accuracy_records(MECHANISMS, (128, 512, 2048, 4096), seeds=5, task=task)
    if len(made) < count:
        raise SystemExit(f"at most {len(made)} records")
    return made[-count:]


def loaded(window: Browser, page: Path) -> dict[str, float]:
    """Return the seconds of one load: interactive, drawn, and all charts."""
    window.open(page)
    window.wait("window.seen && seen.drawn")
    seen = window.run(
        "const start = performance.now(); drawAll();"
        "return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => "
        "done({...seen, all: performance.now() - start}))))"
    )
    return {moment: milliseconds / 1000 for moment, milliseconds in seen.items()}


def main(count: int, loads: int) -> None:
    """Print size, time to build, and times to open."""
    if why := missing():
        raise SystemExit(why)
    made = records(count)
    start = time.perf_counter()
    raw = raw_frame(made)
    frame = summarise(raw)
    read = time.perf_counter() - start
    source = Source(number=0, name="made up", folder=Path(), machine=str(raw["machine"].iloc[0]), raw=raw,
                    frame=frame, records=made)  # fmt: skip
    start = time.perf_counter()
    text = report([source])
    built = time.perf_counter() - start
    times = []
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(text, encoding="utf-8")
        for number in range(loads + 1):
            own = Path(folder) / str(number)
            own.mkdir()
            with browser(own) as window:
                window.command("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
                times.append(loaded(window, page))
                elements = window.run("return document.querySelectorAll('*').length")
    size = f"{len(text.encode()) / 1e6:.2f} MB"
    print(f"{name()}: {len(made):,} records, {len(frame):,} configurations, {size}, "
          f"{elements:,} elements, summarised in {read:.1f} s, built in {built:.1f} s\n")  # fmt: skip
    print(f"| until | least of {loads} loads | median | most |\n| --- | ---: | ---: | ---: |")
    words = {"interactive": "tables and buttons work", "drawn": "and the charts in the window are drawn",
             "all": "all charts drawn, after that"}  # fmt: skip
    for moment, said in words.items():
        seconds = [one[moment] for one in times[1:]]  # the first load reads the browser from the disk
        cells = (min(seconds), statistics.median(seconds), max(seconds))
        print(f"| {said} | {' | '.join(f'{value:.2f} s' for value in cells)} |")


if __name__ == "__main__":
    main(*map(int, [*sys.argv[1:3], *("10000", "10")[len(sys.argv) - 1 :]]))

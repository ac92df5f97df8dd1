"""The progress of a sweep in a terminal: results as they are measured, the running cell, the time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from effbench.common import machine
from effbench.common.columns import headline
from effbench.common.spec import Cell, Job, Record
from effbench.common.wording import plural
from effbench.records.analyse.load import is_crowded
from effbench.records.store import Problem
from effbench.show.units import score_words, written_score

_STYLES = {"ok": "", "interrupted": "yellow", "skipped": "yellow", "unsupported": "yellow"}
_PLAIN_EVERY_S = 10.0


class _Bar(Progress):
    """The bar with the message of the running cell below it, since the bar leaves no room beside it."""

    message = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the rows of the bar, then the message."""
        yield self.make_tasks_table(self.tasks)
        if self.message:
            yield Text(f"  {self.message}", no_wrap=True, overflow="ellipsis", style="dim")


class TerminalProgress:
    """A Listener that writes to standard error; it draws the bar only if that is a terminal.

    ``quiet`` writes problems only; ``verbose`` writes a message for every record, not only for times,
    accuracies and failures.
    """

    def __init__(self, console: Console, *, quiet: bool = False, verbose: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._verbose = verbose
        self._bar = _Bar(
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[eta]}"),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None, eta="")
        self._count = 0
        self._total = 0
        self._job: Job | None = None
        self._eta_s = 0.0
        self._last_plain = time.monotonic()
        self._told_of_load = False
        self.statuses: Counter[str] = Counter()

    def __enter__(self) -> TerminalProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def planned(self, jobs: Sequence[Job], done: Sequence[Record], problems: Sequence[Problem]) -> None:
        """Print how many cells there are to measure, and the files of the folder that are ignored."""
        self._total = len(jobs)
        self._bar.update(self._task, total=len(jobs))
        for problem in problems:
            self._print(f"[yellow]ignored {escape(str(problem))}")
        if not self._quiet:
            earlier = f", {len(done)} measured earlier" if done else ""
            self._print(f"{plural(len(jobs), 'cell')} to measure{earlier}")

    def began(self, job: Job, eta_s: float) -> None:
        """Show the cell that starts."""
        self._job, self._eta_s = job, eta_s
        self._bar.message = ""
        self._show(describe(job.cell))

    def progressed(self, fraction: float, message: str) -> None:
        """Show how far the running cell is, and its message."""
        assert self._job is not None
        self._bar.message = message
        self._show(f"{describe(self._job.cell)} {fraction:4.0%}")
        now = time.monotonic()
        if not self._console.is_terminal and not self._quiet and now - self._last_plain > _PLAIN_EVERY_S:
            self._last_plain = now
            self._print(escape(f"{describe(self._job.cell)} {fraction:4.0%} {message}"))

    def finished(self, record: Record) -> None:
        """Count the record and print its result."""
        self._count += 1
        self.statuses[record.status] += 1
        self._bar.update(self._task, completed=self._count)
        if not self._told_of_load and record.cell.probe == "time" and is_crowded(record):
            self._told_of_load = True
            self._print(f"[yellow]{escape(beside_load(record))}")
        worth_a_message = record.status != "ok" or record.cell.probe in ("time", "accuracy")
        budget_ended = record.status == "interrupted" and not record.seconds and not self._verbose
        if self._quiet or not (worth_a_message or self._verbose) or budget_ended:
            return
        style = _STYLES.get(record.status, "red")
        text = escape(f"{describe(record.cell):<58} {_outcome(record)}")
        self._print(f"[{style}]{text}[/]" if style else text)

    def refining(self, cells: Sequence[Cell]) -> None:
        """Print which times are measured again, and add them to the total."""
        self._total += len(cells)
        self._bar.update(self._task, total=self._total)
        if not self._quiet:
            lengths = ", ".join(str(n) for n in sorted({cell.seq_len for cell in cells}))
            repeat = max(cell.repeat for cell in cells) + 1
            self._print(f"repeat {repeat} of {plural(len(cells), 'noisy time')}, at N = {lengths}")

    def say(self, text: str) -> None:
        """Print a sentence."""
        if not self._quiet:
            self._print(escape(text))

    def _show(self, text: str) -> None:
        self._bar.update(self._task, description=escape(text), eta=f"{_duration(self._eta_s)} left")

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


def beside_load(record: Record) -> str:
    """Say that a time was measured beside other load, and what to do about it."""
    facts, threads = record.machine, record.cell.threads
    waited = record.values.get("waited_share")
    others = float(facts.get("others_cores") or 0.0)
    how = f"; the threads waited for a core for {waited:.0%} of the time" if isinstance(waited, float) else ""
    fewer = machine.free_threads(others)
    advice = f", or measure with --threads {fewer}" if fewer < threads else ", or measure later"
    return (
        f"other processes keep {others:.1f} of {facts.get('machine_cores')} cores busy{how}. Stop them"
        f"{advice}. Times beside this load are marked and repeated, and no winner is named from them"
    )


def describe(cell: Cell) -> str:
    """Describe a cell in one line: ``fastformer N=512 forward time``."""
    what = f"{cell.task} training" if cell.task else f"{cell.mode:<7} {cell.probe}"
    repeat = f" #{cell.repeat}" if cell.repeat else ""
    return f"{cell.label:<20} N={cell.seq_len:<6} {what}{repeat}"


def _outcome(record: Record) -> str:
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    values = record.values
    if record.cell.probe == "time":
        return f"{_duration(median(record.samples['time_s'])):>10}"
    if record.cell.probe == "accuracy":
        metric, score = headline(values) or ("no score", float("nan"))
        return f"{written_score(metric)(score):>10} {score_words(metric)} in {_duration(record.seconds)}"
    if record.cell.probe == "memory":
        return f"{float(values['peak_bytes'] or 0) / 2**20:6.1f} MiB"
    return f"{float(values['flops'] or 0) / 1e9:6.2f} GFLOP"


def _duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 90 else f"{seconds / 60:.0f} min"

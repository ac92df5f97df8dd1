"""One round: three fresh workers (base, head, base again), called in turns, one call at a time."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from effbench.gate.decide import Round
from effbench.gate.workers import Worker, WorkerDied
from effbench.spec import Cell

SIDES = ("base", "head", "again")
MIN_BLOCK_S = 200e-6  # a timed block lasts at least this long, as a sample of the time probe does
LEAST_TURNS, MOST_TURNS = 7, 150
_CALL_TIMEOUT_S = 300.0


class CellFailed(RuntimeError):
    """One cell cannot be timed on one side; ``index`` is its place, ``side`` base or head."""

    def __init__(self, index: int, side: str, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.side = "base" if side == "again" else side


def play(
    roots: dict[str, Path],
    cells: Sequence[Cell],
    *,
    seconds: float,
    rng: random.Random,
    check: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> list[Round]:
    """Time every cell in fresh workers for about ``seconds`` in all; one Round a cell.

    ``roots`` holds the folders of ``base`` and ``head``. All workers are started in random order and are
    ready before the first call. A turn visits the cells in random order and, in each, the three workers in
    random order: one untimed call, then a timed block of as many calls as last 200 µs. A cell has at least 7
    turns.
    Raises CellFailed for the first cell that cannot be built or called.
    """
    folders = {"base": roots["base"], "head": roots["head"], "again": roots["base"]}
    with contextlib.ExitStack() as stack:
        order = rng.sample(SIDES, len(SIDES))
        workers = {side: stack.enter_context(Worker(side, folders[side])) for side in order}
        for side in order:
            workers[side].greet()
        for side in order:
            _build(workers[side], cells, check)
        if all(cell.threads == 1 and cell.device == "cpu" for cell in cells):
            stack.enter_context(_one_core(workers, rng))
        calls = [_calls(workers, index, rng) for index in range(len(cells))]
        return _turns(workers, calls, seconds=seconds, rng=rng, clock=clock)


@contextlib.contextmanager
def _one_core(workers: dict[str, Worker], rng: random.Random) -> Iterator[None]:
    """Workers and this process on one core, drawn anew each round.

    What another core's neighbours do then hits all sides alike, and the core never idles between them: on a
    shared machine the ratio of two calls varies two to three times less.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    core = rng.choice(sorted(before))
    for worker in workers.values():
        worker.ask("pin", core)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _build(worker: Worker, cells: Sequence[Cell], check: bool) -> None:
    try:
        reasons = worker.build(cells, check=check, timeout_s=_CALL_TIMEOUT_S)
    except WorkerDied as error:
        if len(cells) == 1:
            raise CellFailed(0, error.side, str(error)) from None
        raise
    for index, reason in enumerate(reasons):
        if reason:
            raise CellFailed(index, worker.side, reason)


def _calls(workers: dict[str, Worker], index: int, rng: random.Random) -> int:
    """Calls that make one block of a cell, after its workers are warm: the same number for all of them."""
    times = [_ask(workers[side], index, "warm_up", index) for side in rng.sample(SIDES, len(SIDES))]
    return max(1, -int(-MIN_BLOCK_S // min(times)))


def _turns(
    workers: dict[str, Worker],
    calls: Sequence[int],
    *,
    seconds: float,
    rng: random.Random,
    clock: Callable[[], float],
) -> list[Round]:
    """Turns until the cells' shares of ``seconds`` are spent; a slow cell has fewer turns, not more time."""
    times: list[dict[str, list[float]]] = [{side: [] for side in SIDES} for _ in calls]
    spent = [0.0] * len(calls)
    share = seconds / max(1, len(calls))
    open_cells = list(range(len(calls)))
    while open_cells:
        for index in rng.sample(open_cells, len(open_cells)):
            began = clock()
            for side in rng.sample(SIDES, len(SIDES)):
                times[index][side].append(_ask(workers[side], index, "call", index, calls[index]))
            spent[index] += clock() - began
        open_cells = [
            index
            for index in open_cells
            if len(times[index]["base"]) < LEAST_TURNS
            or (spent[index] < share and len(times[index]["base"]) < MOST_TURNS)
        ]
    return [
        Round(base_s=tuple(each["base"]), head_s=tuple(each["head"]), again_s=tuple(each["again"]))
        for each in times
    ]


def _ask(worker: Worker, index: int, what: str, *arguments: int) -> float:
    try:
        answer = worker.ask(what, *arguments, timeout_s=_CALL_TIMEOUT_S)
    except WorkerDied as error:
        raise CellFailed(index, error.side, str(error)) from None
    if "error" in answer:
        raise CellFailed(index, worker.side, answer["error"])
    return float(answer["time_s"])

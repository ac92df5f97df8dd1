"""One round: fresh workers (base, head, base again) that are called in turn, one call at a time."""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from effbench.common.spec import Cell
from effbench.gate.decide import Round
from effbench.gate.workers import Nursery, Worker, WorkerDied

MIN_BLOCK_S = 1.5e-3  # least length of a timed block; the command for a block costs a tenth of that
# Other processes' data in the caches cost a call about 0.5 ms here, which is little beside a call this long.
WARM_BELOW_S = 5e-3
LEAST_TURNS, MOST_TURNS = 7, 1000
_CALL_TIMEOUT_S = 300.0


class CellFailed(RuntimeError):
    """A cell cannot be timed on one side; ``index`` is its place in ``cells``, ``side`` base or head."""

    def __init__(self, index: int, side: str, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.side = "base" if side == "again" else side


def play(
    nursery: Nursery,
    roots: dict[str, Path],
    cells: Sequence[Cell],
    *,
    seconds: float,
    rng: random.Random,
    check: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> list[Round]:
    """Time every cell of head, base and base again, in about ``seconds`` overall; return one Round per cell.

    ``roots`` holds the folders of ``base`` and ``head``. Raises CellFailed for the first cell that cannot be
    built or called.
    """
    folders = {"base": roots["base"], "head": roots["head"], "again": roots["base"]}
    return [
        Round(base_s=times["base"], head_s=times["head"], again_s=times["again"])
        for times in take_turns(nursery, folders, cells, seconds=seconds, rng=rng, check=check, clock=clock)
    ]


def take_turns(
    nursery: Nursery,
    folders: dict[str, Path],
    cells: Sequence[Cell],
    *,
    seconds: float,
    rng: random.Random,
    check: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[str, tuple[float, ...]]]:
    """Time every cell in a fresh worker per folder; return, per cell, seconds per call by the folder's name.

    All workers are forked in random order and are ready before the first call. A turn visits the cells in
    random order and, for each, the workers in random order. Each worker then times a block of as many calls
    as last 1.5 ms, after one untimed call if a call lasts less than 5 ms. A cell has at least 7 turns, and a
    share of ``seconds`` in proportion to the square root of the length of its turns: if all turns are equally
    noisy, this minimises the sum of the cells' variances (Neyman 1934). Raises CellFailed as ``play`` does.
    """
    with contextlib.ExitStack() as stack:
        order = rng.sample(list(folders), len(folders))
        workers = {side: stack.enter_context(Worker(nursery, side, folders[side])) for side in order}
        for side in order:
            workers[side].greet()
        for side in order:
            _build(workers[side], cells, check)
        if all(cell.threads == 1 and cell.device == "cpu" for cell in cells):
            stack.enter_context(_one_core(workers, rng))
        turns = [_turn_for(_warm_up(workers, index, rng)) for index in range(len(cells))]
        return _play(workers, turns, seconds=seconds, rng=rng, clock=clock)


@contextlib.contextmanager
def _one_core(workers: dict[str, Worker], rng: random.Random) -> Iterator[None]:
    """Keep workers and this process on one core, which is drawn anew in each round.

    Load from neighbours of the core then affects all sides equally, and the core does not idle between them.
    On a shared machine the ratio of two calls varies two to three times less.
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
    """Let the worker build its cells' calls. Raises CellFailed for the first that it cannot build."""
    try:
        reasons = worker.build(cells, check=check, timeout_s=_CALL_TIMEOUT_S)
    except WorkerDied as error:
        if len(cells) == 1:
            raise CellFailed(0, error.side, str(error)) from None
        raise
    for index, reason in enumerate(reasons):
        if reason:
            raise CellFailed(index, worker.side, reason)


@dataclass(frozen=True)
class _Turn:
    """One worker's turn of a cell: untimed calls, then timed calls, and the seconds that both take."""

    untimed: int
    timed: int
    seconds: float


def _turn_for(call_s: float) -> _Turn:
    """Return the turn of a cell whose calls last ``call_s`` seconds."""
    untimed, timed = int(call_s < WARM_BELOW_S), max(1, -int(-MIN_BLOCK_S // call_s))
    return _Turn(untimed, timed, call_s * (untimed + timed))


def _warm_up(workers: dict[str, Worker], index: int, rng: random.Random) -> float:
    """Warm all workers up and return the seconds of one call of the cell, the least of all workers."""
    return min(_ask_s(workers[side], index, "warm_up", index) for side in _shuffled(workers, rng))


def _play(
    workers: dict[str, Worker],
    turns: Sequence[_Turn],
    *,
    seconds: float,
    rng: random.Random,
    clock: Callable[[], float],
) -> list[dict[str, tuple[float, ...]]]:
    """Take turns until each cell has spent its share of ``seconds``.

    A slow cell gets more time and fewer turns.
    """
    times: list[dict[str, list[float]]] = [{side: [] for side in workers} for _ in turns]
    spent, played = [0.0] * len(turns), [0] * len(turns)
    weights = [math.sqrt(turn.seconds) for turn in turns]
    shares = [seconds * weight / sum(weights) for weight in weights]
    open_cells = list(range(len(turns)))
    while open_cells:
        for index in rng.sample(open_cells, len(open_cells)):
            turn = turns[index]
            began = clock()
            for side in _shuffled(workers, rng):
                times[index][side].append(
                    _ask_s(workers[side], index, "call", index, turn.untimed, turn.timed)
                )
            spent[index] += clock() - began
            played[index] += 1
        open_cells = [
            index
            for index in open_cells
            if played[index] < LEAST_TURNS or (spent[index] < shares[index] and played[index] < MOST_TURNS)
        ]
    return [{side: tuple(series) for side, series in sides.items()} for sides in times]


def _shuffled(workers: dict[str, Worker], rng: random.Random) -> list[str]:
    return rng.sample(list(workers), len(workers))


def _ask_s(worker: Worker, index: int, what: str, *arguments: int) -> float:
    """Call the worker's method ``what`` on a cell; return seconds per call. Raises CellFailed on an error."""
    try:
        answer = worker.ask(what, *arguments, timeout_s=_CALL_TIMEOUT_S)
    except WorkerDied as error:
        raise CellFailed(index, error.side, str(error)) from None
    if "error" in answer:
        raise CellFailed(index, worker.side, answer["error"])
    return float(answer["time_s"])

"""Base and head side by side: which cells both have, and the exact figures of these."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.common.spec import Cell, UsageError, to_json
from effbench.gate import exact
from effbench.gate.checkout import Tree
from effbench.gate.report import Comparison, Figure, Verdict
from effbench.gate.settings import GateSettings
from effbench.gate.workers import NoAnswer, Nursery, Worker, WorkerDied

_LEAST_S = 10.0  # that a side has for the exact figures of one cell, however little budget is left


class Pair:
    """A worker of each side for everything but time, started anew where one died."""

    def __init__(self, head: Tree, base: Tree, inside: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.trees = {"base": base, "head": head}
        self._nursery = Nursery(inside)
        self._workers: dict[str, Worker] = {}
        self.start_s = 0.0

    def __enter__(self) -> Pair:
        began = self._clock()
        try:
            for side in self.trees:
                self._workers[side] = Worker(self._nursery, side, self.trees[side].root)
            for worker in self._workers.values():
                worker.greet()
        except BaseException:
            self.__exit__()
            raise
        self.start_s = self._clock() - began
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()
        self._nursery.close()

    def ask(self, side: str, what: str, *arguments: Any, timeout_s: float = 300.0) -> Any:
        """As Worker.ask; a worker that dies is replaced before WorkerDied goes on."""
        try:
            return self._workers[side].ask(what, *arguments, timeout_s=timeout_s)
        except WorkerDied:
            self._workers[side].close()
            self._workers[side] = Worker(self._nursery, side, self.trees[side].root)
            self._workers[side].greet()
            raise


def cells_of(settings: GateSettings, pair: Pair) -> tuple[list[Cell], list[Comparison]]:
    """(cells that both sides have, comparisons of those that one lacks, or has in a form that cannot be read)."""
    both: list[Cell] = []
    comparisons: list[Comparison] = []
    for text, head, base in _found(list(settings.axes["mechanism"]), pair):
        verdict, reason = _standing(text, head, base, pair.trees)
        unread: dict[str, Any] = {"name": text, "options": {}}
        named = next((each for each in (head, base) if "error" not in each), unread)
        for cell in settings.cells(named["name"], named["options"]):
            if verdict is None:
                both.append(cell)
            else:
                comparisons.append(Comparison(cell=cell, verdict=verdict, reason=reason))
    return list({cell.key: cell for cell in both}.values()), comparisons


def _found(texts: list[str], pair: Pair) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(text, what the head finds by it, what the base does), as ``Side.parse`` answers."""
    found: dict[str, list[dict[str, Any]]] = {}
    for side in ("head", "base"):
        try:
            found[side] = pair.ask(side, "parse", texts)
        except WorkerDied as error:  # code that ends its process as it is imported
            found[side] = [{"error": str(error), "kind": "broken"} for _ in texts]
    return list(zip(texts, found["head"], found["base"], strict=True))


def _standing(
    text: str, head: Mapping[str, Any], base: Mapping[str, Any], trees: Mapping[str, Tree]
) -> tuple[Verdict | None, str]:
    """The verdict on a mechanism that cannot be compared, and why; None if both sides have it.

    Raises UsageError where neither has it, and where the head's is not of its folder.
    """
    if "error" not in head and not _belongs(head, trees["head"].root):
        raise UsageError(
            f"{text!r} comes from {head['path']}, outside of {str(trees['head'].root)!r}: "
            "there is nothing to compare"
        )
    base_has = "error" not in base and _belongs(base, trees["base"].root)
    if "error" in head:
        if head["kind"] == "absent" and (base_has or base.get("kind") in ("broken", "usage")):
            return "gone", f"the head lacks it: {head['error']}"
        if head["kind"] == "broken" or base_has:
            return "failed", head["error"]
        raise UsageError(head["error"])
    if base_has:
        return None, ""
    if "error" in base:
        if base["kind"] == "absent":
            return "new", f"the base lacks it: {base['error']}"
        return "base-failed", f"the base has it and cannot run it: {base['error']}"
    own = Path(head["path"]).relative_to(trees["head"].root.resolve())
    if (trees["base"].root / own).exists():
        return "base-failed", f"the base has {str(own)!r}, and its import finds {base['path']} instead"
    return "new", "the base lacks it: it has no file of it"


def _belongs(answer: Mapping[str, Any], root: Path) -> bool:
    return Path(answer["path"]).is_relative_to(root.resolve())


def exact_figures(
    settings: GateSettings,
    pair: Pair,
    cells: Sequence[Cell],
    deadline: float,
    clock: Callable[[], float],
    notes: list[str],
) -> tuple[list[Figure], list[Comparison]]:
    """(figures of both sides, comparisons of cells that cannot run on one); ``notes`` takes what else there is."""
    figures: list[Figure] = []
    failed: list[Comparison] = []
    strays: set[str] = set()
    for done, cell in enumerate(cells):
        answers = _figures(pair, cell, deadline, clock) if deadline > clock() else None
        if answers is None:
            notes.append(f"the budget ended before the exact figures of {len(cells) - done} cells were taken")
            failed += [
                Comparison(
                    cell=each, verdict="inconclusive", reason="the budget ended before it was measured"
                )
                for each in cells[done:]
            ]
            break
        base, head = answers
        if "error" in head:
            too = "; so does the base" if "error" in base else ""
            failed.append(Comparison(cell=cell, verdict="failed", reason=f"{head['error']}{too}"))
        elif "error" in base:
            why = f"the base has it and cannot run it: {base['error']}"
            failed.append(Comparison(cell=cell, verdict="base-failed", reason=why))
        else:
            figures += exact.compare(cell, base, head, settings.exact)
        strays |= set(base.get("foreign", ()))
    if strays:
        notes.append(
            "the base imports modules of the working tree, so that a change in them is not seen: "
            + ", ".join(sorted(strays))
        )
    return figures, failed


def _figures(
    pair: Pair, cell: Cell, deadline: float, clock: Callable[[], float]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What base and head answer for one cell; None if the budget ended before the base had answered.

    The head has at least thrice the time that the base took: what takes it longer than that is no matter of
    the budget.
    """
    began = clock()
    plain = json.loads(to_json(cell))
    answers: list[dict[str, Any]] = []
    took_s = 0.0  # by the base
    for side, other in (("base", "head"), ("head", "base")):
        least_s = max(_LEAST_S, 3 * took_s)
        place = str(pair.trees[other].root.resolve())
        try:
            answer = pair.ask(side, "figures", plain, place, timeout_s=max(deadline - clock(), least_s))
        except NoAnswer as error:
            if side == "base":
                return None
            answer = {"error": f"{error}; the base took {took_s:.1f} s"}
        except WorkerDied as error:
            answer = {"error": str(error)}
        answers.append(dict(answer))
        took_s = clock() - began
    return answers[0], answers[1]

"""Base and head side by side: the cells that both have, and their exact figures."""

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

_LEAST_S = 10.0  # minimum time limit for the exact figures of a cell, even if less budget is left


class Pair:
    """One worker per side for everything but time; a worker that died is started again."""

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
    """Return (cells that both sides have, comparisons of those that one side lacks or cannot read)."""
    both: list[Cell] = []
    comparisons: list[Comparison] = []
    for text, head, base in _parsed(list(settings.axes["mechanism"]), pair):
        verdict, reason = _verdict_without_time(text, head, base, pair.trees)
        unread: dict[str, Any] = {"name": text, "options": {}}
        named = next((answer for answer in (head, base) if "error" not in answer), unread)
        for cell in settings.cells(named["name"], named["options"]):
            if verdict is None:
                both.append(cell)
            else:
                comparisons.append(Comparison(cell=cell, verdict=verdict, reason=reason))
    return list({cell.key: cell for cell in both}.values()), comparisons


def _parsed(texts: list[str], pair: Pair) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return (text, answer of the head, answer of the base) for each mechanism; see ``Side.parse``."""
    answers: dict[str, list[dict[str, Any]]] = {}
    for side in ("head", "base"):
        try:
            answers[side] = pair.ask(side, "parse", texts)
        except WorkerDied as error:  # code that ends its process as it is imported
            answers[side] = [{"error": str(error), "kind": "broken"} for _ in texts]
    return list(zip(texts, answers["head"], answers["base"], strict=True))


def _verdict_without_time(
    text: str, head: Mapping[str, Any], base: Mapping[str, Any], trees: Mapping[str, Tree]
) -> tuple[Verdict | None, str]:
    """Return the verdict on a mechanism that cannot be compared, with the reason; None if both sides have it.

    Raises UsageError if neither side has it, and if the head's comes from outside its folder.
    """
    if "error" not in head and not _belongs(head, trees["head"].root):
        raise UsageError(
            f"{text!r} comes from {head['path']}, outside of {str(trees['head'].root)!r}: "
            "there is nothing to compare"
        )
    base_has = "error" not in base and _belongs(base, trees["base"].root)
    if "error" in head:
        if head["kind"] == "absent" and (base_has or base.get("kind") in ("broken", "usage")):
            return "gone", f"the head does not have it: {head['error']}"
        if head["kind"] == "broken" or base_has:
            return "failed", head["error"]
        raise UsageError(head["error"])
    if base_has:
        return None, ""
    if "error" in base:
        if base["kind"] == "absent":
            return "new", f"the base does not have it: {base['error']}"
        return "base-failed", f"the base has it but cannot run it: {base['error']}"
    own = Path(head["path"]).relative_to(trees["head"].root.resolve())
    if (trees["base"].root / own).exists():
        return "base-failed", f"the base has {str(own)!r}, but its import finds {base['path']} instead"
    return "new", "the base does not have its file"


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
    """Return (exact figures, comparisons of cells that a side cannot run); add sentences to ``notes``."""
    figures: list[Figure] = []
    failed: list[Comparison] = []
    strays: set[str] = set()
    for done, cell in enumerate(cells):
        answers = _figures(pair, cell, deadline, clock) if deadline > clock() else None
        if answers is None:
            notes.append(
                f"the budget ended before the exact figures of the last {len(cells) - done} configurations"
            )
            failed += [
                Comparison(
                    cell=late, verdict="inconclusive", reason="the budget ended before it was measured"
                )
                for late in cells[done:]
            ]
            break
        base, head = answers
        if "error" in head:
            too = "; so does the base" if "error" in base else ""
            failed.append(Comparison(cell=cell, verdict="failed", reason=f"{head['error']}{too}"))
        elif "error" in base:
            why = f"the base has it but cannot run it: {base['error']}"
            failed.append(Comparison(cell=cell, verdict="base-failed", reason=why))
        else:
            figures += exact.compare(cell, base, head, settings.exact)
        strays |= set(base.get("foreign", ()))
    if strays:
        notes.append(
            "the base imports these modules from the working tree, so the gate does not see changes in them: "
            + ", ".join(sorted(strays))
        )
    return figures, failed


def _figures(
    pair: Pair, cell: Cell, deadline: float, clock: Callable[[], float]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the answers of base and head for one cell; None if the budget ended before the base's answer.

    The head has at least three times as long as the base took: a head that needs more is at fault, not the
    budget.
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

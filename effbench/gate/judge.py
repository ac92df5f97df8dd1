"""The gate itself: rounds of fresh workers until every cell is judged, or the budget ends."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from effbench.common.spec import Cell
from effbench.gate.checkout import Tree
from effbench.gate.decide import Decision, Plan, Round, decide
from effbench.gate.lockstep import CellFailed, play
from effbench.gate.pair import Pair, cells_of, exact_figures
from effbench.gate.report import Comparison, Report, Verdict
from effbench.gate.settings import GateSettings, unused
from effbench.gate.workers import Nursery

Listener = Callable[[str], None]
# A slowdown is asked again with an error of its own: it must pass both, so that the first bounds the gate's.
CONFIRMATION = Plan(cells=1, error=0.05, looks=(3, 5, 8, 12))
_CELL_ROUND_S = 2.5  # what a cell is given in one round at most
_WANTED_ROUNDS = 11  # that the budget should hold, by giving each less time if need be
_ROUND_MARGIN = 1.15
_ROUNDS_A_NURSERY = 3  # then another imports torch, to other addresses


@dataclass
class Track:
    """One cell on its way to a verdict: its rounds, then, if it was slower, those that confirm it.

    ``done`` says that it has one. Until then ``add`` takes rounds in; ``end`` says that no more will come.
    """

    cell: Cell
    threshold: float
    floor_s: float
    plan: Plan
    rounds: list[Round] = field(default_factory=list)
    again: list[Round] = field(default_factory=list)
    decision: Decision | None = None
    confirmation: Decision | None = None
    confirming: bool = False
    done: bool = False

    def add(self, found: Round) -> None:
        """Take a round in, and judge if this is when to look."""
        (self.again if self.confirming else self.rounds).append(found)
        plan, rounds = self._now()
        if len(rounds) in plan.looks:
            self._look(plan.alpha(len(rounds)), last=len(rounds) == plan.looks[-1])

    def end(self) -> None:
        """The budget is over: look once more, with what the look that is now not to come might have spent."""
        plan, rounds = self._now()
        if self.done or len(rounds) in plan.looks:
            return
        if len(rounds) > plan.looks[0]:
            self._look(plan.alpha(min(look for look in plan.looks if look > len(rounds))), last=True)
        elif not self.confirming and len(rounds) >= 2:
            self.decision = self._decide(rounds, plan.alpha(plan.looks[0]))

    def _now(self) -> tuple[Plan, list[Round]]:
        return (CONFIRMATION, self.again) if self.confirming else (self.plan, self.rounds)

    def _decide(self, rounds: Sequence[Round], error: float) -> Decision:
        return decide(rounds, error=error, threshold=self.threshold, floor_s=self.floor_s)

    def _look(self, error: float, *, last: bool) -> None:
        if self.confirming:
            self.confirmation = self._decide(self.again, error)
            self.done = last or self.confirmation.verdict in ("slower", "faster", "same")
            return
        self.decision = self._decide(self.rounds, error)
        if self.decision.verdict == "slower":
            self.confirming = True
        else:
            self.done = last or self.decision.verdict in ("faster", "same")

    def comparison(self, planned: str) -> Comparison:
        """The verdict. Of a slowdown that was found again, the numbers are those of the second time, which
        nothing picked out."""
        first, second = self.decision, self.confirmation
        shown = first
        calls = sum(3 * len(each.base_s) for each in (*self.rounds, *self.again))
        verdict: Verdict
        if first is None or len(self.rounds) < self.plan.looks[0]:
            least = self.plan.looks[0]
            verdict = "inconclusive"
            reason = f"{len(self.rounds)} rounds within {planned}; a verdict needs {least}"
        elif not self.confirming:
            verdict, reason = first.verdict, first.reason
        elif second is not None and second.verdict == "slower":
            verdict, reason, shown = "slower", "", second
        elif second is not None and self.done:
            verdict = "suspected"
            reason = f"slower at first, but fresh workers did not confirm it: {second.verdict}"
        else:
            verdict, reason = (
                "suspected",
                f"slower, but {planned} ended before fresh workers could confirm it",
            )
        return Comparison(
            cell=self.cell, verdict=verdict, reason=reason, rounds=len(self.rounds), calls=calls,
            confirmed_in=len(self.again) if verdict == "slower" else 0, **_numbers(shown),
            head_samples_s=tuple(s for each in (*self.rounds, *self.again) for s in each.head_s),
        )  # fmt: skip


def _numbers(decision: Decision | None) -> dict[str, Any]:
    if decision is None:
        return {}
    head, control = decision.head, decision.control
    return {
        "ratio": head.ratio, "low": head.low, "high": head.high, "error": head.error,
        "control_ratio": control.ratio, "control_low": control.low, "control_high": control.high,
        "threshold": decision.threshold, "detectable": decision.detectable,
        "base_s": decision.base_s, "head_s": decision.head_s,
    }  # fmt: skip


def judge(
    settings: GateSettings,
    head: Tree,
    base: Tree,
    *,
    inside: str = "",
    listener: Listener = lambda text: None,
    seed: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Compare the mechanisms of two trees, cell by cell.

    First the exact figures of both sides, each in a fresh worker; then rounds of time measurements, with
    looks at the rounds of ``decide.Plan``, until every cell is judged or the budget is over. ``inside`` is a
    folder of both trees whose modules come before those of their roots, as where the user stands. ``seed``
    fixes the orders that are drawn. Raises UsageError for a mechanism that neither tree has or that is not in
    the head's folder, and WorkerDied where a worker cannot even start.
    """
    began = clock()
    deadline = began + settings.budget_s
    started = datetime.now(UTC).isoformat(timespec="seconds")
    rng = random.Random(seed)
    notes = [*head.notes, *base.notes]
    with Pair(head, base, inside, clock) as pair:
        cells, comparisons = cells_of(settings, pair)
        for override in unused(settings, [*cells, *(comparison.cell for comparison in comparisons)]):
            notes.append(f"a setting of its own matches no cell: {override}")
        listener(f"{len(cells)} cells; exact figures")
        figures, failed = exact_figures(settings, pair, cells, deadline, clock, notes)
        facts = pair.ask("head", "facts")
        start_s = pair.start_s
    comparisons += failed
    left = {comparison.cell.key for comparison in comparisons}
    cells = [cell for cell in cells if cell.key not in left]
    if settings.time:
        with Nurseries(inside) as nurseries:
            timed, more = _time(
                settings, head, base, cells, nurseries, deadline, start_s, rng, listener, clock
            )
        comparisons += timed
        notes += more
    order = {cell.key: i for i, cell in enumerate([*cells, *(comparison.cell for comparison in comparisons)])}
    return Report(
        kind="gate",
        base=base.to_dict(),
        head=head.to_dict(),
        comparisons=tuple(sorted(comparisons, key=lambda comparison: order[comparison.cell.key])),
        figures=tuple(figures),
        notes=tuple(notes),
        machine=facts,
        settings=settings.to_dict(),
        started=started,
        seconds=clock() - began,
    )


class Nurseries:
    """A nursery a round, another one every few of them; ``inside`` as for a nursery."""

    def __init__(self, inside: str = "") -> None:
        self._inside = inside
        self._nursery: Nursery | None = None
        self._rounds = 0

    def __enter__(self) -> Nurseries:
        return self

    def __exit__(self, *_: object) -> None:
        if self._nursery is not None:
            self._nursery.close()

    def next(self) -> Nursery:
        """The one that the next round's workers are to be forked from."""
        if self._nursery is None or self._rounds % _ROUNDS_A_NURSERY == 0:
            if self._nursery is not None:
                self._nursery.close()
            self._nursery = Nursery(self._inside)
        self._rounds += 1
        return self._nursery


def _time(
    settings: GateSettings,
    head: Tree,
    base: Tree,
    cells: Sequence[Cell],
    nurseries: Nurseries,
    deadline: float,
    start_s: float,
    rng: random.Random,
    listener: Listener,
    clock: Callable[[], float],
) -> tuple[list[Comparison], list[str]]:
    plan = Plan(cells=max(1, len(cells)), error=settings.error)
    tracks = [
        Track(
            cell=cell,
            threshold=settings.threshold_of(cell),
            floor_s=settings.floor_of(cell),
            plan=plan,
        )
        for cell in cells
    ]
    failed: list[Comparison] = []
    roots = {"base": base.root, "head": head.root}
    overheads_s: list[float] = []
    overhead_s, longest_s, played = start_s, 0.0, 0
    out_of_time = False
    while open_tracks := [track for track in tracks if not track.done]:
        left = deadline - clock()
        seconds = _round_seconds(left, overhead_s, len(open_tracks), played)
        if left < max(longest_s * _ROUND_MARGIN, overhead_s):
            out_of_time = True
            break
        began = clock()
        try:
            found = play(
                nurseries.next(),
                roots,
                [track.cell for track in open_tracks],
                seconds=seconds,
                rng=rng,
                check=played == 0,
                clock=clock,
            )
        except CellFailed as error:
            track = open_tracks[error.index]
            verdict: Verdict = "failed" if error.side == "head" else "base-failed"
            failed.append(Comparison(cell=track.cell, verdict=verdict, reason=f"{error.side}: {error}"))
            tracks.remove(track)
            continue
        played += 1
        took = clock() - began
        overheads_s.append(took - seconds)
        overhead_s = statistics.fmean(overheads_s)
        longest_s = max(longest_s if played > 1 else 0.0, took)
        for track, one in zip(open_tracks, found, strict=True):
            track.add(one)
        listener(_progress(played, tracks, deadline - clock()))
    for track in tracks:
        track.end()
    budget = f"the budget of {settings.budget_s:g} s"
    comparisons = [track.comparison(budget) for track in tracks]
    notes = [_cost(budget, comparisons, plan, played, longest_s)] if out_of_time else []
    return [*comparisons, *failed], notes


def _round_seconds(left: float, overhead_s: float, cells: int, played: int) -> float:
    """Seconds that the next round's turns may take, so that the budget holds the rounds that are wanted."""
    wanted = max(1, _WANTED_ROUNDS - played)
    return max(0.05 * cells, min(_CELL_ROUND_S * cells, left / wanted - overhead_s))


def _progress(played: int, tracks: Sequence[Track], left_s: float) -> str:
    judged = Counter(t.comparison("").verdict for t in tracks if t.done)
    confirming = sum(t.confirming and not t.done for t in tracks)
    parts = [f"{count} {verdict}" for verdict, count in sorted(judged.items())]
    if confirming:
        parts.append(f"{confirming} being confirmed")
    parts.append(f"{sum(not t.done for t in tracks) - confirming} open")
    return f"round {played}: {', '.join(parts)}; {max(0.0, left_s):.0f} s left"


def _cost(budget: str, comparisons: Sequence[Comparison], plan: Plan, played: int, round_s: float) -> str:
    """What the budget cost in power, in one sentence."""
    open_comparisons = [
        comparison
        for comparison in comparisons
        if comparison.verdict in ("inconclusive", "suspected", "unfit")
    ]
    told = [comparison.detectable for comparison in open_comparisons if comparison.detectable is not None]
    text = f"{budget} ended after {played} rounds of up to {plan.looks[-1]}; {len(open_comparisons)} cells are open"
    if told:
        text += f"; there slowdowns under {max(told):.0%} are found less than 4 times in 5"
    needed = [_rounds_needed(comparison, plan) for comparison in open_comparisons]
    known = [each for each in needed if each is not None]
    if known:
        most = max(known)
        text += f"; to settle an unchanged cell, about {most} rounds ({most * round_s:.0f} s) are needed"
    return text


def _rounds_needed(comparison: Comparison, plan: Plan) -> int | None:
    """Rounds after which an unchanged cell of this spread would be the same; None if it is not known."""
    from scipy import stats

    if (
        comparison.low is None
        or comparison.high is None
        or comparison.error is None
        or comparison.rounds < 2
        or not comparison.threshold
    ):
        return None
    half = math.log(comparison.high / comparison.low) / 2
    spread = (
        half
        / float(stats.t.ppf(1 - comparison.error / 2, 2 * (comparison.rounds - 1)))
        * math.sqrt(comparison.rounds)
    )
    error = plan.error / plan.cells / len(plan.looks)
    for rounds in range(plan.looks[0], 1000):
        if float(stats.t.ppf(1 - error / 2, 2 * (rounds - 1))) * spread / math.sqrt(rounds) <= math.log1p(
            comparison.threshold
        ):
            return rounds
    return None

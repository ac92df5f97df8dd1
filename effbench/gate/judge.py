"""The gate itself: rounds of fresh workers until every comparison has a verdict or the budget ends."""

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
from effbench.common.wording import plural
from effbench.gate.checkout import Tree
from effbench.gate.decide import Decision, Plan, Round, decide, student
from effbench.gate.lockstep import CellFailed, play
from effbench.gate.pair import Pair, cells_of, exact_figures
from effbench.gate.report import Comparison, Report, Verdict
from effbench.gate.settings import GateSettings, unused
from effbench.gate.workers import Nursery

Listener = Callable[[str], None]
# A slowdown is measured a second time with an error of its own. It must pass both, so the first error bounds
# that of the gate.
CONFIRMATION = Plan(cells=1, error=0.05, looks=(3, 5, 8, 12))
_CELL_ROUND_S = 2.5  # the longest time of a cell in one round
_WANTED_ROUNDS = 11  # the budget should hold so many; each round gets less time if necessary
_ROUND_MARGIN = 1.15
_ROUNDS_PER_NURSERY = 3  # then a new one imports torch, at other addresses


@dataclass
class Track:
    """One comparison in progress: its rounds and, if the head was slower, those that confirm it.

    ``add`` takes rounds until ``done``, that is, until there is a verdict; call ``end`` when no more rounds
    will come.
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

    def add(self, measured: Round) -> None:
        """Add a round, and decide if the plan has a look after it."""
        (self.again if self.confirming else self.rounds).append(measured)
        plan, rounds = self._now()
        if len(rounds) in plan.looks:
            self._look(plan.alpha(len(rounds)), last=len(rounds) == plan.looks[-1])

    def end(self) -> None:
        """End with the budget: look once more, with the error that the next planned look would have spent."""
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
        """Return the verdict. A confirmed slowdown has the numbers of the confirmation: they were not
        selected for being large."""
        first, second = self.decision, self.confirmation
        shown = first
        calls = sum(3 * len(one.base_s) for one in (*self.rounds, *self.again))
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
            reason = f"slower at first, but not confirmed in fresh workers: {second.verdict}"
        else:
            verdict, reason = (
                "suspected",
                f"slower, but {planned} ended before it could be confirmed in fresh workers",
            )
        return Comparison(
            cell=self.cell, verdict=verdict, reason=reason, rounds=len(self.rounds), calls=calls,
            confirmed_in=len(self.again) if verdict == "slower" else 0, **_numbers(shown),
            head_samples_s=tuple(s for one in (*self.rounds, *self.again) for s in one.head_s),
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
    """Compare the mechanisms of two trees, one cell after the other.

    The exact figures of both sides come first, each in a fresh worker. Then rounds of time measurements
    follow, with looks after the rounds of ``decide.Plan``, until every comparison has a verdict or the budget
    is over. ``inside`` is a folder of both trees whose modules are found before those of their roots, such as
    the current folder. ``seed`` fixes the random orders. Raises UsageError for a mechanism that neither tree
    has or that is not in the head's folder, and WorkerDied if a worker cannot start.
    """
    began = clock()
    deadline = began + settings.budget_s
    started = datetime.now(UTC).isoformat(timespec="seconds")
    rng = random.Random(seed)
    notes = [*head.notes, *base.notes]
    with Pair(head, base, inside, clock) as pair:
        cells, comparisons = cells_of(settings, pair)
        for override in unused(settings, [*cells, *(untimed.cell for untimed in comparisons)]):
            notes.append(f"an override in [[cell]] matches no configuration: {override}")
        listener(f"exact figures of {plural(len(cells), 'configuration')}")
        figures, failed = exact_figures(settings, pair, cells, deadline, clock, notes)
        facts = pair.ask("head", "facts")
        start_s = pair.start_s
    comparisons += failed
    judged = {untimed.cell.key for untimed in comparisons}
    cells = [cell for cell in cells if cell.key not in judged]
    if settings.time:
        with Nurseries(inside) as nurseries:
            timed, more = _time(
                settings, head, base, cells, nurseries, deadline, start_s, rng, listener, clock
            )
        comparisons += timed
        notes += more
    order = {cell.key: i for i, cell in enumerate([*cells, *(own.cell for own in comparisons)])}
    return Report(
        kind="gate",
        base=base.to_dict(),
        head=head.to_dict(),
        comparisons=tuple(sorted(comparisons, key=lambda own: order[own.cell.key])),
        figures=tuple(figures),
        notes=tuple(notes),
        machine=facts,
        settings=settings.to_dict(),
        started=started,
        seconds=clock() - began,
    )


class Nurseries:
    """Provide a nursery for each round, and a new one every few rounds; ``inside`` as for a nursery."""

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
        """Return the nursery from which to fork the next round's workers."""
        if self._nursery is None or self._rounds % _ROUNDS_PER_NURSERY == 0:
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
            measured = play(
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
        for track, one in zip(open_tracks, measured, strict=True):
            track.add(one)
        listener(_progress(played, tracks, deadline - clock()))
    for track in tracks:
        track.end()
    budget = f"the budget of {settings.budget_s:g} s"
    comparisons = [track.comparison(budget) for track in tracks]
    notes = [_cost(budget, comparisons, plan, played, longest_s)] if out_of_time else []
    return [*comparisons, *failed], notes


def _round_seconds(left: float, overhead_s: float, cells: int, played: int) -> float:
    """Return the seconds for the next round's turns, so that the budget holds the wanted rounds."""
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
    """Say in one sentence what the budget left undecided, and how many rounds a verdict needs."""
    undecided = [own for own in comparisons if own.verdict in ("inconclusive", "suspected", "unfit")]
    shares = [own.detectable for own in undecided if own.detectable is not None]
    text = (
        f"{budget} ended after {played} rounds of up to {plan.looks[-1]}; "
        f"{plural(len(undecided), 'configuration')} without a verdict"
    )
    if shares:
        text += f"; for these, the chance to find a slowdown under {max(shares):.0%} is less than 80 %"
    needed = [_rounds_needed(own, plan) for own in undecided]
    known = [rounds for rounds in needed if rounds is not None]
    if known:
        most = max(known)
        text += f"; if the code is unchanged, a verdict needs about {most} rounds ({most * round_s:.0f} s)"
    return text


def _rounds_needed(own: Comparison, plan: Plan) -> int | None:
    """Return after how many rounds an unchanged cell of this spread is the same; None if unknown."""
    if own.low is None or own.high is None or own.error is None or own.rounds < 2 or not own.threshold:
        return None
    half = math.log(own.high / own.low) / 2
    spread = half / student(1 - own.error / 2, 2 * (own.rounds - 1)) * math.sqrt(own.rounds)
    error = plan.error / plan.cells / len(plan.looks)
    for rounds in range(plan.looks[0], 1000):
        wide = student(1 - error / 2, 2 * (rounds - 1)) * spread / math.sqrt(rounds)
        if wide <= math.log1p(own.threshold):
            return rounds
    return None

"""Notes under a comparison of two stored runs: what else differs between the runs than the code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median

from effbench.common.spec import Record
from effbench.gate.report import Comparison
from effbench.gate.stored_pairs import NOTED, SIDES, StoredPair, fact_values, joined, known_median

# Differences between the runs that deserve a note: load average, share of stolen time, relative clock.
_LOAD, _STEAL_SHARE, _FREQUENCY = 1.0, 0.02, 0.05


def notes_of(
    pairs: Sequence[StoredPair], comparisons: Sequence[Comparison], records: Mapping[str, Sequence[Record]]
) -> Iterator[str]:
    """Yield sentences for the reader; ``pairs`` and ``comparisons`` of times go together."""
    judged = [(pair, own) for pair, own in zip(pairs, comparisons, strict=True) if pair.judged]
    if any(pair.timed for pair in pairs):
        spread = max(math.sqrt(2 * pair.between.time.value) for pair in pairs if pair.timed)
        yield (
            "the two runs were made at different times: the intervals allow for differences between two runs "
            f"of the same code with a standard deviation of {spread:.1%}. Use effbench gate to find smaller "
            "changes of code"
        )
    yield from _same_code(judged)
    base, head = ({r.code.rpartition("-")[0] for r in records[side] if r.code} for side in SIDES)
    if base and head - base:
        yield (
            f"effbench itself or torch differs between the runs ({joined(base)}; {joined(head)}): a change "
            "need not come from the mechanism"
        )
    base, head = (fact_values(records[side], "host") for side in SIDES)
    if base and head and base != head:
        yield (
            f"the runs were made on different hosts of equal hardware ({joined(base)} in the base, "
            f"{joined(head)} in the head): a change need not come from the code"
        )
    for fact, name in NOTED.items():
        base, head = (fact_values(records[side], fact) for side in SIDES)
        if base and head and base != head:
            yield f"{name}: {joined(base)} in the base, {joined(head)} in the head"
    yield from _conditions([pair for pair in pairs if pair.timed])
    unclear = [own for _, own in judged if own.verdict == "inconclusive"]
    if unclear:
        least = median(own.detectable for own in unclear if own.detectable is not None)
        size = f"of {least:.0%}" if least < 1 else f"by a factor of {1 + least:.2g}"
        yield (
            f"{len(unclear)} of {len(judged)} configurations are inconclusive with "
            f"{min(own.rounds for own in unclear)} repeats or more; the smallest slowdown that they can "
            f"detect is {size} in the median. Measure more repeats (run --repeats 10) or fewer configurations"
        )


def _same_code(judged: Sequence[tuple[StoredPair, Comparison]]) -> Iterator[str]:
    """Configurations with the same code on both sides are the only control of a stored comparison."""
    same = [own for pair, own in judged if pair.same_code]
    if not same:
        return
    moved = sum(own.verdict in ("slower", "faster") for own in same)
    ratio = median(own.ratio for own in same if own.ratio is not None)
    verdicts = f"{moved} of them are slower or faster" if moved else "none is slower or faster"
    yield (
        f"{len(same)} of {len(judged)} configurations ran the same code in both: {verdicts}, and their "
        f"median ratio of {ratio:.3f} comes from the machine, not from the code"
    )


def _conditions(pairs: Sequence[StoredPair]) -> Iterator[str]:
    """Note where the machine was in another state in one of the runs."""
    base = [record for pair in pairs for record in pair.base.ok]
    head = [record for pair in pairs for record in pair.head.ok]
    for name, value_of, unit, differ in _CONDITIONS:
        a, b = known_median(map(value_of, base)), known_median(map(value_of, head))
        if a is not None and b is not None and differ(a, b):
            yield f"{name} was {unit.format(a)} in the base, {unit.format(b)} in the head (medians)"


def _stolen(record: Record) -> float | None:
    """The CPU time that the hypervisor took from the machine, as a share of one core."""
    steal_s = record.machine.get("steal_s")
    return None if steal_s is None else float(steal_s) / max(record.seconds, 1e-3)


# Name, value of a record, unit, and whether two medians differ enough for a note.
_CONDITIONS: tuple[tuple[str, Callable[[Record], float | None], str, Callable[[float, float], bool]], ...] = (
    ("the load average", lambda r: r.machine.get("load_1min"), "{:.1f}", lambda a, b: abs(a - b) > _LOAD),
    ("stolen time", _stolen, "{:.1%} of a core", lambda a, b: abs(a - b) > _STEAL_SHARE),
    (
        "the clock",
        lambda r: r.machine.get("frequency_hz"),
        "{:.3g} Hz",
        lambda a, b: abs(a - b) > _FREQUENCY * min(a, b),
    ),
)

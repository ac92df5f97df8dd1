"""From rounds of paired times to a verdict on one cell. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

TimeVerdict = Literal["slower", "faster", "same", "inconclusive", "unfit"]
RESAMPLES = 200
POWER = 0.8  # with which the smallest detectable slowdown would have been found


@dataclass(frozen=True)
class Middle:
    """The median of one round's turns, and the variance that it has by the turns' own spread."""

    median: float
    variance: float


def middle(turns: np.ndarray, *, seed: int = 0) -> Middle:
    """The median of [T] numbers, or [T, m] with m of each turn; its variance by a bootstrap of the turns."""
    drawn = np.random.default_rng(seed).integers(len(turns), size=(RESAMPLES, len(turns)))
    medians = np.median(turns[drawn].reshape(RESAMPLES, -1), axis=1)
    return Middle(float(np.median(turns)), float(np.var(medians)))


@dataclass(frozen=True, kw_only=True)
class Round:
    """Times of one cell in one set of fresh workers, call by call, in seconds.

    ``base_s``, ``head_s`` and ``again_s`` are equally long; call i of all three was made within one turn, in
    random order. ``again_s`` comes from a second worker of the base: the control that should show nothing.
    """

    base_s: Sequence[float]
    head_s: Sequence[float]
    again_s: Sequence[float]

    @cached_property
    def ratio(self) -> Middle:
        """Of log(head / base) over the turns, two of each: against either worker of the base.

        Not against the mean of both: it is less skewed than one call, so that the median of the difference is
        off where nothing changed. The difference of two calls that are alike is symmetric.
        """
        base, head, again = (np.log(np.asarray(s, dtype=float)) for s in self._series)
        return middle(np.stack([head - base, head - again], axis=1))

    @cached_property
    def control(self) -> Middle:
        """Of log(base again / base) over the turns."""
        base, _, again = (np.log(np.asarray(s, dtype=float)) for s in self._series)
        return middle(again - base, seed=1)

    @cached_property
    def base_median_s(self) -> float:
        """Of the calls of both of the base's workers, in seconds."""
        return float(np.median([*self.base_s, *self.again_s]))

    @cached_property
    def head_median_s(self) -> float:
        """Of the head's calls, in seconds."""
        return float(np.median(self.head_s))

    @property
    def _series(self) -> tuple[Sequence[float], ...]:
        return self.base_s, self.head_s, self.again_s


@dataclass(frozen=True, kw_only=True)
class Plan:
    """When the rounds are looked at, and how much error each look may spend.

    ``error`` is the chance, over all cells and looks together, that some interval misses its truth. It is
    split evenly over ``cells`` (Bonferroni) and over the looks in proportion to the rounds that each adds, so
    that the sum over looks bounds it whatever the looks have in common.
    """

    cells: int
    error: float = 0.01
    looks: tuple[int, ...] = (6, 10, 15, 20)

    def alpha(self, rounds: int) -> float:
        """The two-sided error that one cell may spend at the look after ``rounds`` rounds."""
        before = max((look for look in self.looks if look < rounds), default=0)
        return self.error / self.cells * (rounds - before) / self.looks[-1]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A ratio of two times with its interval; ``error`` is the chance that the interval misses."""

    ratio: float
    low: float
    high: float
    error: float
    se: float  # standard error of the ratio's logarithm
    degrees: float

    @property
    def half(self) -> float:
        """Half the interval's width, in logarithms."""
        return math.log(self.high / self.low) / 2


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the rounds of one cell say.

    ``threshold`` is the share that was applied, never less than the floor's share of the base's time.
    ``detectable`` is the smallest slowdown, as a share, that this many rounds of this spread find with a
    chance of 80 %.
    """

    verdict: TimeVerdict
    head: Interval
    control: Interval
    threshold: float
    detectable: float
    base_s: float
    head_s: float
    reason: str = ""


def estimate(rounds: Sequence[Round], error: float) -> tuple[Interval, Interval]:
    """The log ratio of head over base, and of the base over itself, each with a two-sided interval.

    A round is a block in which three processes have been measured, and turns in one process share its memory
    layout, so the sample is that of the rounds' medians (Kalibera and Jones 2013: the highest level that was
    drawn anew holds the spread of those below). Head against both bases, and the bases against each other,
    are orthogonal contrasts: where the three processes spread alike, both tell of one and the same variance,
    times 3/2 and times 2 (of the turns' own noise, which the median over both bases evens out better, times
    4/3; 3/2 errs on the safe side). It is pooled over them, as the analysis of variance of a randomised block
    design does, which gives Student's t 2 (k - 1) degrees. A bootstrap of the turns inside every round
    bounds each error from below, for a few rounds may agree by luck better than their calls allow, and a head
    whose calls spread more than the base's is not to hide behind it. It is the mean over rounds, not the
    median, since of a few rounds only the mean's interval has the coverage that it claims out in the tails
    that are used here; and head and base are exchangeable where nothing changed, so that the logarithm of
    their ratio is symmetric, which is what Student's t needs.

    Raises ValueError with fewer than two rounds.
    """
    from scipy import stats

    k = len(rounds)
    contrasts = [r.ratio for r in rounds], [r.control for r in rounds]
    centers, own, within = zip(*(_moments(each) for each in contrasts), strict=True)
    process = (own[0] / 1.5 + own[1] / 2) / 2
    t = float(stats.t.ppf(1 - error / 2, 2 * (k - 1)))
    found = []
    for center, factor, least in zip(centers, (1.5, 2.0), within, strict=True):
        se = math.sqrt(max(factor * process, least) / k)
        found.append(
            Interval(
                ratio=math.exp(center), low=math.exp(center - t * se), high=math.exp(center + t * se),
                error=error, se=se, degrees=2 * (k - 1),
            )
        )  # fmt: skip
    return found[0], found[1]


def _moments(rounds: Sequence[Middle]) -> tuple[float, float, float]:
    """(mean of the medians, their variance over the rounds, the variance that they have by their turns)."""
    if len(rounds) < 2:
        raise ValueError("an interval needs at least two rounds")
    medians = np.array([each.median for each in rounds])
    within = float(np.mean([each.variance for each in rounds]))
    return float(np.mean(medians)), float(np.var(medians, ddof=1)), within


def mean_and_error(rounds: Sequence[Middle]) -> tuple[float, float]:
    """The mean of the rounds' medians and its standard error, by their spread and at least by their turns'.

    Raises ValueError with fewer than two rounds.
    """
    mean, own, within = _moments(rounds)
    return mean, math.sqrt(max(own, within) / len(rounds))


def decide(rounds: Sequence[Round], *, error: float, threshold: float, floor_s: float) -> Decision:
    """The verdict on one cell at one look.

    Slower if the whole interval lies beyond the threshold, faster likewise on the other side, the same if it
    lies inside, else inconclusive. The threshold is at least ``floor_s`` as a share of the base's time. Where
    the base against itself is off by more than that, the verdict is unfit: these rounds cannot judge.
    """
    base_s = float(np.median([r.base_median_s for r in rounds]))
    head_s = float(np.median([r.head_median_s for r in rounds]))
    applied = max(threshold, floor_s / base_s)
    head, control = estimate(rounds, error)
    verdict, reason = _verdict(head, control, applied)
    return Decision(
        verdict=verdict, reason=reason, head=head, control=control, threshold=applied,
        detectable=detectable(head, applied), base_s=base_s, head_s=head_s,
    )  # fmt: skip


def detectable(head: Interval, threshold: float) -> float:
    """The slowdown, as a share, that an interval as wide as this puts beyond the threshold 4 times of 5."""
    from scipy import stats

    chance = float(stats.t.ppf(POWER, head.degrees)) * head.se
    return math.expm1(math.log1p(threshold) + head.half + chance)


def _verdict(head: Interval, control: Interval, threshold: float) -> tuple[TimeVerdict, str]:
    most = 1 + threshold
    if not 1 / most <= control.ratio <= most:
        off = abs(math.expm1(abs(math.log(control.ratio))))
        return "unfit", f"the base against itself is off by {off:.1%}, more than the threshold"
    return judge(head, threshold)


def judge(head: Interval, threshold: float) -> tuple[TimeVerdict, str]:
    """The verdict of an interval alone, and why where it is none: where it lies against the threshold."""
    most = 1 + threshold
    if head.low > most:
        return "slower", ""
    if head.high < 1 / most:
        return "faster", ""
    if head.low >= 1 / most and head.high <= most:
        return "same", ""
    return "inconclusive", f"the interval reaches over the threshold of {threshold:.1%}"

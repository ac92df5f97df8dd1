"""The verdict on one cell from rounds of paired times. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

TimeVerdict = Literal["slower", "faster", "same", "inconclusive", "unfit"]
RESAMPLES = 200
POWER = 0.8  # of the smallest detectable slowdown


@dataclass(frozen=True)
class Middle:
    """The median of one round's turns, and its variance from the spread of the turns."""

    median: float
    variance: float


def middle(turns: np.ndarray, *, seed: int = 0) -> Middle:
    """Return the median of [T] numbers, or [T, m] with m per turn, and its variance by a bootstrap."""
    medians = np.median(turns[_resamples(len(turns), seed)].reshape(RESAMPLES, -1), axis=1)
    return Middle(float(np.median(turns)), float(np.var(medians)))


@lru_cache(maxsize=2)
def _resamples(count: int, seed: int) -> np.ndarray:
    """Return [RESAMPLES, count] indices drawn with replacement."""
    return np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))


@dataclass(frozen=True, kw_only=True)
class Round:
    """Times of one cell in one set of fresh workers, one per call, in seconds.

    ``base_s``, ``head_s`` and ``again_s`` have the same length; call i of all three was made in one turn, in
    random order. ``again_s`` comes from a second worker of the base: the control.
    """

    base_s: Sequence[float]
    head_s: Sequence[float]
    again_s: Sequence[float]

    @cached_property
    def ratio(self) -> Middle:
        """The median of log(head / base) over the turns, two values per turn: one per worker of the base.

        A ratio to the mean of both workers would be biased: the mean is less skewed than one call, so the
        median of the difference is not 0 for unchanged code. The difference of two calls of the same code is
        symmetric.
        """
        base, head, again = (np.log(np.asarray(s, dtype=float)) for s in self._series)
        return middle(np.stack([head - base, head - again], axis=1))

    @cached_property
    def control(self) -> Middle:
        """The median of log(base again / base) over the turns."""
        base, _, again = (np.log(np.asarray(s, dtype=float)) for s in self._series)
        return middle(again - base, seed=1)

    @cached_property
    def base_median_s(self) -> float:
        """The median time of the calls of both workers of the base, in seconds."""
        return float(np.median([*self.base_s, *self.again_s]))

    @cached_property
    def head_median_s(self) -> float:
        """The median time of the head's calls, in seconds."""
        return float(np.median(self.head_s))

    @property
    def _series(self) -> tuple[Sequence[float], ...]:
        return self.base_s, self.head_s, self.again_s


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The numbers of rounds after which to look for a verdict, and the error that each look may spend.

    ``error`` is the probability, over all cells and looks together, that any interval misses its true value.
    It is divided evenly over ``cells`` (Bonferroni) and over the looks in proportion to the rounds that each
    adds. The sum over the looks is an upper bound, however they depend on each other.
    """

    cells: int
    error: float = 0.01
    looks: tuple[int, ...] = (6, 10, 15, 20)

    def alpha(self, rounds: int) -> float:
        """Return the two-sided error that one cell may spend at the look after ``rounds`` rounds."""
        before = max((look for look in self.looks if look < rounds), default=0)
        return self.error / self.cells * (rounds - before) / self.looks[-1]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A ratio of two times with its interval; ``error`` is the probability that the interval misses."""

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
    """The verdict from the rounds of one cell, with its numbers.

    ``threshold`` is the share that was applied, at least the floor as a share of the base's time.
    ``detectable`` is the smallest slowdown, as a share, that this many rounds of this spread find with a
    probability of 80 %.
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
    """Return the ratios of head over base and of the base over itself, each with a two-sided interval.

    A round is a block of three processes. All turns of a process share its memory layout, so the sample
    consists of the medians of the rounds (Kalibera and Jones 2013: the highest level that is drawn anew
    includes the variation of the levels below). "Head against both bases" and "base against base" are
    orthogonal contrasts. If the three processes have the same variance, the variances of the contrasts are
    3/2 and 2 times this one (for the noise of the turns 4/3 times, since the median over both bases averages
    it better; 3/2 is on the safe side). It is pooled over both contrasts, as in the analysis of variance of a
    randomised block design, which gives Student's t 2 (k - 1) degrees of freedom. A bootstrap of the turns of
    each round is a lower bound of each standard error: a few rounds may agree by chance better than their
    calls allow, and a head with noisier calls than the base must not profit from the pooling. The estimate is
    the mean over rounds, since with few rounds only the interval of the mean has the claimed coverage in the
    far tails used here. For unchanged code head and base are exchangeable, so the logarithm of their ratio is
    symmetric, which Student's t requires.

    Raises ValueError for fewer than two rounds.
    """
    k = len(rounds)
    contrasts = [r.ratio for r in rounds], [r.control for r in rounds]
    centers, own, within = zip(*map(_moments, contrasts), strict=True)
    process = (own[0] / 1.5 + own[1] / 2) / 2
    t = student(1 - error / 2, 2 * (k - 1))
    intervals = []
    for center, factor, least in zip(centers, (1.5, 2.0), within, strict=True):
        se = math.sqrt(max(factor * process, least) / k)
        intervals.append(
            Interval(
                ratio=math.exp(center), low=math.exp(center - t * se), high=math.exp(center + t * se),
                error=error, se=se, degrees=2 * (k - 1),
            )
        )  # fmt: skip
    return intervals[0], intervals[1]


def student(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t distribution."""
    from scipy.special import stdtrit  # scipy.stats calls it too, and is slow to import

    return float(stdtrit(degrees, probability))


def _moments(rounds: Sequence[Middle]) -> tuple[float, float, float]:
    """Return (mean of the medians, their variance over the rounds, their variance from the turns)."""
    if len(rounds) < 2:
        raise ValueError("an interval needs at least two rounds")
    medians, variances = (
        np.array(column) for column in zip(*((r.median, r.variance) for r in rounds), strict=True)
    )
    return float(medians.mean()), float(medians.var(ddof=1)), float(variances.mean())


def mean_and_error(rounds: Sequence[Middle]) -> tuple[float, float]:
    """Return the mean of the rounds' medians and its standard error, at least that of their turns.

    Raises ValueError for fewer than two rounds.
    """
    mean, own, within = _moments(rounds)
    return mean, math.sqrt(max(own, within) / len(rounds))


def decide(rounds: Sequence[Round], *, error: float, threshold: float, floor_s: float) -> Decision:
    """Return the verdict on one cell at one look.

    Slower if the whole interval is above the threshold, faster if it is below its inverse, same if it is
    between both, else inconclusive. The threshold is at least ``floor_s`` as a share of the base's time. If
    the base differs from itself by more than the threshold, the verdict is unfit.
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
    """Return the slowdown, as a share, that an interval of this width detects with a probability of 80 %."""
    margin = student(POWER, head.degrees) * head.se
    return math.expm1(math.log1p(threshold) + head.half + margin)


def _verdict(head: Interval, control: Interval, threshold: float) -> tuple[TimeVerdict, str]:
    most = 1 + threshold
    if not 1 / most <= control.ratio <= most:
        off = abs(math.expm1(abs(math.log(control.ratio))))
        return "unfit", (
            f"the base differs from itself by {off:.1%}, more than the threshold: the machine is too noisy; "
            "effbench doctor looks for the cause"
        )
    return judge(head, threshold)


def judge(head: Interval, threshold: float) -> tuple[TimeVerdict, str]:
    """Return the verdict of an interval against the threshold, with the reason if it is inconclusive."""
    most = 1 + threshold
    if head.low > most:
        return "slower", ""
    if head.high < 1 / most:
        return "faster", ""
    if head.low >= 1 / most and head.high <= most:
        return "same", ""
    return "inconclusive", f"the interval includes the threshold of {threshold:.1%}"

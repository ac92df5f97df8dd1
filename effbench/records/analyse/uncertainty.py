"""The noise of times: within a run, and between the runs of a machine; the intervals that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from effbench.common.columns import of_role
from effbench.records.analyse.pairs import Pair, Samples, one_folder, one_host, shared_pairs
from effbench.records.analyse.statistics import LEVEL, student_t

Interval = tuple[float, float, float]
# A variance counts as no smaller than this: the clock is not exact, and neither is a model of noise.
_LEAST_SD = 1e-3
# The noise of a few repeats is estimated from all configurations together, if there are so many.
_FEWEST = 4
_MOST_DEGREES = 1e3
# The variance of the median of k normal values over that of their mean; it tends to pi / 2.
_OF_A_MEDIAN = {1: 1.0, 2: 1.0, 3: 1.35, 4: 1.19, 5: 1.43, 6: 1.29}


@dataclass(frozen=True, kw_only=True)
class Variance:
    """A variance of logarithms of times, known to so many degrees of freedom."""

    value: float
    degrees: float

    def pooled(self, other: Variance) -> Variance:
        """Return both together, weighted by their degrees of freedom."""
        degrees = self.degrees + other.degrees
        if not degrees:
            return self
        value = (self.value * self.degrees + other.value * other.degrees) / degrees
        return Variance(value=value, degrees=degrees)

    def plus(self, other: Variance) -> Variance:
        """Return the variance of an independent sum, with Satterthwaite's degrees of freedom."""
        value = self.value + other.value
        known = [part for part in (self, other) if part.value > 0 and part.degrees > 0]
        # of the shares, since the square of a tiny variance would be 0
        inverse = sum((part.value / value) ** 2 / part.degrees for part in known)
        degrees = max(self.degrees, other.degrees, 1.0) if not inverse else 1 / inverse
        return Variance(value=value, degrees=min(degrees, _MOST_DEGREES))

    def times(self, factor: float) -> Variance:
        """Return the variance times a factor."""
        return Variance(value=self.value * factor, degrees=self.degrees)


NOTHING = Variance(value=0.0, degrees=0.0)


@dataclass(frozen=True, kw_only=True)
class Between:
    """The noise between the runs of a machine, without the noise within a run, as variances of logarithms.

    ``time`` is the variance of the time of one configuration. ``own`` is the variance of the part that is not
    common to all configurations of a run; a ratio of two times has twice this variance. ``runs`` is the
    number of earlier runs that the variances come from; below 2, the variances are assumed.
    """

    time: Variance
    own: Variance
    runs: int = 0

    @classmethod
    def told(cls, history: Mapping[str, Any] | None) -> Between:
        """Return what the history in a record's facts tells; what is assumed without one."""
        if not history:
            return ASSUMED_AT_FIRST
        return cls(
            time=Variance(value=history["time_sd"] ** 2, degrees=history["time_degrees"]),
            own=Variance(value=history["own_sd"] ** 2, degrees=history["own_degrees"]),
            runs=int(history["runs"]),
        )

    def in_words(self) -> str:
        """Return the meaning of an interval, for the column ``time_interval``."""
        if self.runs < 2:
            return "another run of this machine, if its runs differ as assumed"
        return f"another run of this machine, learnt from {self.runs} runs"


# Assumed beside what a machine's runs tell, as much as four runs: measured on a shared virtual machine
# (docs/method.md).
ASSUMED = Between(time=Variance(value=0.03**2, degrees=4.0), own=Variance(value=0.015**2, degrees=4.0))
# The same for the first run of a machine, which does not know how quick its quick phases are.
ASSUMED_AT_FIRST = Between(time=Variance(value=0.1**2, degrees=8.0), own=ASSUMED.own)
# The same for times without a control (docs/method.md).
ASSUMED_AS_MEASURED = Between(
    time=Variance(value=0.12**2, degrees=8.0), own=Variance(value=0.05**2, degrees=8.0)
)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The noise of times, of the logarithm of one repeat's time, typical for the configurations of a run.

    ``within``: of a configuration's repeats. ``apart``: of what is not common to a block. ``between``: the
    noise between runs.
    """

    within: Variance = NOTHING
    apart: Variance = NOTHING
    between: Between = ASSUMED_AT_FIRST


def noises(times: pd.DataFrame) -> dict[str, Noise]:
    """Return the noise of each machine's times."""
    if times.empty:
        return {}
    return {str(machine): noise_of(own) for machine, own in times.groupby("machine", sort=False)}


def noise_of(times: pd.DataFrame) -> Noise:
    """Return the noise of these times: records of time, as ``load.comparable`` returns them."""
    if times.empty:
        return Noise()
    logs = np.log(times["samples_time_s"].map(np.median).astype(float))
    configuration = [times[name] for name in of_role("identity", "origin")]
    block = [times[name] for name in of_role("identity", "origin") if name not in _OF_A_MECHANISM]
    block += [times["folder"]] if "folder" in times else []
    in_block = logs.groupby([*block, times["host"], times["repeat"]], dropna=False)
    size = in_block.transform("size")
    apart = (logs - in_block.transform("mean")) * np.sqrt(size / (size - 1).clip(lower=1))
    return Noise(
        within=_typical(logs, configuration),
        apart=_typical(apart[size > 1], [name[size > 1] for name in configuration]),
        between=_between(times),
    )


_OF_A_MECHANISM = ("mechanism", "options", "code")


def time_interval(repeats: Sequence[Samples], noise: Noise) -> Interval:
    """Return (time, low, high) of positive samples in repeats; it predicts the time of another run.

    The time is the median over repeats of each repeat's median. The logarithm of another run's time differs
    from it with the variance 2 (b + w): b is the variance between runs, w that of the median of k repeats.
    The variance of the repeats is pooled with that of the other configurations (``noise.within``), since k
    repeats alone say little about it; the interval uses Student's t with Satterthwaite's degrees of freedom.
    The bounds of a single repeat are NaN. Raises ValueError without samples.
    """
    logs = _logs(repeats)
    if not len(logs):
        raise ValueError("no samples")
    center = float(np.median(logs))
    if len(logs) == 1:
        return math.exp(center), math.nan, math.nan
    return _around(center, variance_of_median(logs, noise.within), noise.between.time)


def own_error(repeats: Sequence[Samples], noise: Noise) -> float:
    """Return half the width of the 95 % confidence interval of this run alone, as a share of the time.

    More repeats make it smaller. It is NaN for a single repeat.
    """
    logs = _logs(repeats)
    if len(logs) < 2:
        return math.nan
    variance = variance_of_median(logs, noise.within)
    return math.expm1(student_t(LEVEL, variance.degrees) * math.sqrt(variance.value))


def ratio_interval(ours: Mapping[Pair, Samples], theirs: Mapping[Pair, Samples], noise: Noise) -> Interval:
    """Return (ratio, low, high) of two times, ours over theirs, whose samples are those of ``pairs.by_pair``.

    The interval predicts the ratio of another run; ``differs`` tells if the two times differ. Repeats of the
    same host and number were measured within seconds of each other, so that disturbances of the machine
    affected both: the ratio is the geometric mean over pairs of the ratio of medians. The variance of the
    pairs is pooled with twice ``noise.apart``, and the variance between runs is twice ``noise.between.own``.
    With fewer than two pairs the two times count as separate if they are of one host; the bounds are NaN if
    one of the two has a single repeat. Separate times of two folders are of different runs: the variance
    between these is twice ``noise.between.time``. Times of several hosts are not compared: with one pair the
    bounds are NaN, without any the ratio is NaN too.
    """
    shared = shared_pairs(ours, theirs)
    between = between_runs(ours, theirs, noise)
    pairs = _logs([ours[pair] for pair in shared]) - _logs([theirs[pair] for pair in shared])
    if len(shared) >= 2:
        variance = _variance(pairs).pooled(noise.apart.times(2)).times(1 / len(pairs))
        return _around(float(np.mean(pairs)), variance, between)
    if not one_host(ours, theirs):
        return math.exp(pairs[0]) if shared else math.nan, math.nan, math.nan
    a, b = _logs(list(ours.values())), _logs(list(theirs.values()))
    center = float(np.median(a) - np.median(b))
    if min(len(a), len(b)) < 2:
        return math.exp(center), math.nan, math.nan
    return _around(
        center, variance_of_median(a, noise.within).plus(variance_of_median(b, noise.within)), between
    )


def between_runs(ours: Mapping[Pair, Any], theirs: Mapping[Pair, Any], noise: Noise) -> Variance:
    """Return the variance between runs of the logarithm of the ratio of two times."""
    one_run = any(pair in theirs for pair in ours) or one_folder(ours, theirs)
    return (noise.between.own if one_run else noise.between.time).times(2)


def differs(interval: Interval) -> bool:
    """True if the ratio in an interval of ``ratio_interval`` is not 1, with 95 % confidence.

    The interval includes the error of this run and the equally large error of another run. Whether the true
    ratio is 1 depends on the error of this run alone, which is smaller by the square root of 2.
    """
    ratio, low, high = interval
    half = math.log(high / low) / 2 if low > 0 else math.inf
    return bool(abs(math.log(ratio)) > half / math.sqrt(2))


def _around(center: float, own: Variance, between: Variance) -> Interval:
    whole = own.plus(between)
    half = min(student_t(LEVEL, whole.degrees) * math.sqrt(2 * whole.value), 50.0)
    return math.exp(center), math.exp(center - half), math.exp(center + half)


def _logs(repeats: Sequence[Samples]) -> np.ndarray:
    return np.log([_median(samples) for samples in repeats if len(samples)])


def _median(samples: Samples) -> float:
    return float(samples[0] if len(samples) == 1 else np.median(np.asarray(samples, dtype=float)))


def medians(times: Mapping[Pair, Samples]) -> dict[Pair, list[float]]:
    """Return each pair's median in the place of its samples, for many calls of ``ratio_interval``."""
    return {pair: [_median(samples)] for pair, samples in times.items() if len(samples)}


def _variance(logs: np.ndarray) -> Variance:
    value = max(float(np.var(logs, ddof=1)), _LEAST_SD**2)
    return Variance(value=value, degrees=len(logs) - 1)


def variance_of_median(logs: np.ndarray, typical: Variance = NOTHING) -> Variance:
    """Return the variance of the median of two or more normal values; it is larger than that of their mean.

    The values' own variance is pooled with the ``typical`` one.
    """
    k = len(logs)
    return _variance(logs).pooled(typical).times(_OF_A_MEDIAN.get(k, math.pi / 2 * k / (k + 1)) / k)


def _typical(logs: pd.Series, configuration: list[pd.Series]) -> Variance:
    """Return the typical variance of a configuration's repeats, and how much the configurations agree on it.

    The logarithms of sample variances tell both (Smyth 2004): their mean the typical variance, and their
    spread, beyond that of estimates from so few repeats, how much the true variances differ. The degrees of
    freedom are those by which the typical variance counts beside a configuration's own.
    """
    groups = logs.groupby(configuration, dropna=False)
    count, variance = groups.size(), groups.var(ddof=1)
    known = (count > 1) & variance.notna()
    if known.sum() < _FEWEST:
        return NOTHING
    from scipy import special

    half = (count[known].to_numpy(dtype=float) - 1) / 2
    logged = np.log(np.maximum(variance[known].to_numpy(dtype=float), _LEAST_SD**2))
    excess = logged - special.digamma(half) + np.log(half)
    beyond = float(np.var(excess, ddof=1) - np.mean(special.polygamma(1, half)))
    prior_half = _inverse_trigamma(beyond) if beyond > 0 else _MOST_DEGREES
    prior_half = min(prior_half, _MOST_DEGREES)
    center = float(np.mean(excess) + special.digamma(prior_half) - np.log(prior_half))
    return Variance(value=math.exp(center), degrees=2 * prior_half)


def _inverse_trigamma(value: float) -> float:
    """Return x between 1e-4 and 1e4 with trigamma(x) = value, or the nearer end."""
    from scipy import optimize, special

    wanted = math.log(min(max(value, 1e-4), 1e8))
    return math.exp(optimize.brentq(lambda x: math.log(special.polygamma(1, math.exp(x))) - wanted, -10, 10))


def _between(times: pd.DataFrame) -> Between:
    """Return the noise between runs that the newest record knew; the assumed one if none knew any."""
    if "slowdown" not in times or times["slowdown"].isna().any():
        return ASSUMED_AS_MEASURED
    if "history_runs" not in times or times["history_runs"].isna().all():
        return ASSUMED_AT_FIRST
    known = times[times["history_runs"].notna()]
    newest = known.loc[known["started"].astype(str).idxmax()]
    names = ("runs", "time_sd", "time_degrees", "own_sd", "own_degrees")
    return Between.told({name: newest[f"history_{name}"] for name in names})

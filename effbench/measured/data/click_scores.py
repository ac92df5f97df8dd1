"""Scores of predicted click probabilities over all candidates together: log loss, AUC and calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from effbench.common.bootstrap import PERCENTILES
from effbench.common.ranking import resampled
from effbench.measured.data.examples import Integers

Floats = NDArray[np.floating[Any]]

SCORES = ("auc", "log_loss_nats", "information_gain", "calibration_error")
BINS = 15


def click_scores(log_odds: Floats, labels: Integers) -> dict[str, float]:
    """Return the scores of predicted log odds [n] of labels [n], of which both 0 and 1 must occur.

    ``auc`` is the share of pairs of a clicked and another candidate, of any two users, in which the clicked
    one has the higher prediction; ties count one half. ``log_loss_nats`` is the mean of -log of the
    probability that was given to the label. ``information_gain`` is 1 - log loss / H, where H is the log loss
    of the best constant, the entropy of the share that was clicked: 0 for that constant, 1 for perfect
    predictions, below 0 for worse ones; 1 minus the normalised entropy of He et al. 2014 (Practical Lessons
    from Predicting Clicks on Ads at Facebook, ADKDD). ``calibration_error`` is the expected calibration error
    of ``calibration_bins``: the mean over candidates of the distance between a bin's mean prediction and its
    share of clicks (Naeini et al. 2015, Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI;
    bins of equal mass: Nixon et al. 2019, Measuring Calibration in Deep Learning, CVPR workshops). It has no
    interval: resampling would add its own noise to each bin's distance and make the error larger.
    """
    log_odds = log_odds.astype(np.float64)
    loss = float(_losses(log_odds, labels).mean())
    bins = calibration_bins(log_odds, labels)
    distances = np.abs(bins["predicted"] - bins["observed"])
    return {
        "auc": float(_wins(log_odds, labels)[labels == 1].mean()),
        "log_loss_nats": loss,
        "information_gain": 1 - loss / float(_entropy(labels.mean())),
        "calibration_error": float(np.average(distances, weights=bins["candidates"])),
    }


def click_intervals(log_odds: Floats, labels: Integers, users: Integers) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of AUC, log loss and information gain, by a percentile bootstrap over users.

    Candidate i [n] was shown to ``users[i]``. The AUC of a sample of users is taken to first order in the
    weights of the users (DeLong et al. 1988, Biometrics 44; clusters: Obuchowski 1997, Biometrics 53), so
    that predictions are sorted once.
    """
    log_odds = log_odds.astype(np.float64)
    clicked = labels == 1
    wins = _wins(log_odds, labels)
    columns = [
        np.ones(len(labels)), clicked.astype(float), _losses(log_odds, labels),
        wins * clicked, wins * ~clicked,
    ]  # fmt: skip
    count, clicks, loss, of_clicked, of_others = resampled(columns, users).T
    both = (clicks > 0) & (clicks < count)  # a sample of few users may lack one
    count, clicks, loss = count[both], clicks[both], loss[both]
    auc = of_clicked[both] / clicks + of_others[both] / (count - clicks) - wins[clicked].mean()
    samples = {
        "auc": auc.clip(0, 1),
        "log_loss_nats": loss / count,
        "information_gain": 1 - loss / count / _entropy(clicks / count),
    }
    ends = {name: np.percentile(values, PERCENTILES) for name, values in samples.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def calibration_bins(log_odds: Floats, labels: Integers, bins: int = BINS) -> dict[str, Floats]:
    """Return ``predicted``, ``observed`` and ``candidates`` of at most ``bins`` bins [bins], in rising order.

    Bins are of equal mass: a prediction belongs to the bin of its rank among all n. Equal predictions have
    their mean rank and stay together, so that the order of the candidates does not matter. ``predicted`` is
    the mean predicted probability of a bin and ``observed`` its share of clicks.
    """
    _, group, sizes = np.unique(log_odds, return_inverse=True, return_counts=True)
    middle = np.cumsum(sizes) - sizes / 2
    _, place = np.unique((middle * bins / len(labels)).astype(np.int64), return_inverse=True)
    of = place[group]
    count = np.bincount(of).astype(np.float64)
    return {
        "predicted": np.bincount(of, weights=probabilities(log_odds)) / count,
        "observed": np.bincount(of, weights=labels == 1) / count,
        "candidates": count,
    }


def probabilities(log_odds: Floats) -> Floats:
    """Return the probabilities of log odds."""
    from scipy.special import expit

    values: Floats = expit(log_odds)
    return values


def _losses(log_odds: Floats, labels: Integers) -> Floats:
    losses: Floats = np.logaddexp(0, log_odds) - np.where(labels == 1, log_odds, 0)
    return losses


def _wins(log_odds: Floats, labels: Integers) -> Floats:
    """Return, for each candidate, the share of those with the other label that it is right about [n]."""
    clicked = labels == 1
    _, group = np.unique(log_odds, return_inverse=True)
    size = int(group.max()) + 1
    clicks = np.bincount(group[clicked], minlength=size)
    others = np.bincount(group[~clicked], minlength=size)
    below = (np.cumsum(others) - others / 2) / others.sum()
    above = 1 - (np.cumsum(clicks) - clicks / 2) / clicks.sum()
    wins: Floats = np.where(clicked, below[group], above[group])
    return wins


def _entropy(share: Any) -> Any:
    return -(share * np.log(share) + (1 - share) * np.log1p(-share))

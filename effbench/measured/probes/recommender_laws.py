"""The laws of a recommender, tested on a few users before it is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from effbench.measured.probes.correctness import Incorrect
from effbench.measured.recommender import Recommender

_TOLERANCE = 1e-3  # of the largest score: float32 sums in another order differ by less
_CLICKS, _CANDIDATES = 3, 4


@torch.no_grad()
def check_recommender(model: Recommender) -> None:
    """Raise Incorrect if the recommender breaks a law of its interface; it is left in evaluation mode.

    Tested: scores have the shape [B, C] and are finite, for an empty history too; padding of a history
    changes nothing; a row of a batch does not depend on the others; ``forward`` is ``score`` of the features.
    """
    model.eval()
    device = next(model.parameters()).device
    count, clicks = model.news_rows - 1, min(_CLICKS, model.max_len)
    named = torch.arange(3 * (clicks + _CANDIDATES), device=device) % count + 1
    history = named[: 3 * clicks].view(3, clicks)
    candidates = named[3 * clicks :].view(3, _CANDIDATES)
    mask = torch.ones(3, clicks, dtype=torch.bool, device=device)
    mask[1, -1], mask[2] = False, False
    scores = model(history, mask, candidates)
    if not isinstance(scores, Tensor) or scores.shape != candidates.shape:
        raise Incorrect(f"scores of {tuple(candidates.shape)} candidates have the shape {_shape(scores)}")
    if not bool(scores.isfinite().all()):
        raise Incorrect("scores are not finite, here with an empty history among three")
    other = torch.where(mask, history, history.flip(0) % count + 1)
    _same(model(other, mask, candidates), scores, "what stands in the padding of a history changes a score")
    if clicks < model.max_len:
        longer = (torch.nn.functional.pad(history, (0, 1)), torch.nn.functional.pad(mask, (0, 1)))
        _same(model(*longer, candidates), scores, "one more place of padding changes a score")
    alone = [model(history[i : i + 1], mask[i : i + 1], candidates[i : i + 1]) for i in range(3)]
    _same(torch.cat(alone), scores, "a row's scores depend on the other rows of the batch")
    features = model.encode(torch.arange(model.news_rows, device=device))
    given = model.score(features[history], mask, features[candidates])
    _same(given, scores, "score of the features of the whole table differs from forward")


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _same(one: Tensor, other: Tensor, complaint: str) -> None:
    difference = float((one - other).abs().max() / other.abs().max().clamp(min=1e-12))
    if not difference <= _TOLERANCE:
        raise Incorrect(f"{complaint}: they differ by {difference:.1e} of the largest score")

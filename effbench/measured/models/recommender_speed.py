"""The speed of a trained recommender: news and users encoded per second, and the time to score candidates."""

from __future__ import annotations

import math

import torch

from effbench.measured.models.stopwatch import median_s
from effbench.measured.recommender import Recommender

CANDIDATES = 10_000  # that one user is scored against
USERS = 256  # encoded together
NEWS = 4_096  # encoded together at most


@torch.no_grad()
def speeds(model: Recommender, history: int) -> dict[str, float]:
    """Return news and users encoded per second, and the seconds to score 1 user against 10,000 candidates.

    ``history`` is the length of every user's history; users are encoded together, 256 at a time. Each number
    is from the median of a few calls after one that is not timed. A model without a vector of the user has
    no ``users_per_s``. The features of news are computed before users and candidates are timed.
    """
    device = next(model.parameters()).device
    rows = torch.arange(1, min(NEWS + 1, model.news_rows), device=device)
    features = model.encode(rows)
    found = {"news_per_s": len(rows) / median_s(lambda: model.encode(rows), device)}

    def some(*shape: int) -> torch.Tensor:
        chosen: torch.Tensor = features[torch.arange(math.prod(shape), device=device) % len(features)]
        return chosen.unflatten(0, shape)  # type: ignore[no-any-return]

    mask = torch.ones(USERS, history, dtype=torch.bool, device=device)
    if type(model).user is not Recommender.user:
        users = some(USERS, history)
        found["users_per_s"] = USERS / median_s(lambda: model.user(users, mask), device)
    one, candidates = some(1, history), some(1, CANDIDATES)
    found["scoring_s"] = median_s(lambda: model.score(one, mask[:1], candidates), device)
    return found

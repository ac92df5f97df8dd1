"""A small world of news in which clicks follow words, and the recommenders that the tests go through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from baselines.attention.fastformer import Fastformer
from baselines.attention.vanilla import Vanilla
from baselines.recommenders.fim import FIM
from baselines.recommenders.mean_words import MeanWords
from baselines.recommenders.nrms import NRMS
from effbench import News, Recommender
from effbench.measured.models.hierarchical import Hierarchical
from effbench.measured.models.pooled_encoder import Blocks

TOPICS, OWN_WORDS, SHARED_WORDS = 4, 12, 20
D_MODEL, HEADS, TITLE, MAX_LEN = 16, 4, 7, 6


def small_news(count: int = 60, seed: int = 0, title: int = TITLE) -> News:
    """Return news whose titles have words of one topic, row % TOPICS, and words that all topics share."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((count, title), dtype=np.int64)
    for row in range(1, count):
        length = rng.integers(2, TITLE + 1)
        own = 1 + (row % TOPICS) * OWN_WORDS + rng.integers(OWN_WORDS, size=length)
        shared = 1 + TOPICS * OWN_WORDS + rng.integers(SHARED_WORDS, size=length)
        tokens[row, :length] = np.where(rng.random(length) < 0.7, own, shared)
    titles = [" ".join(f"w{token}" for token in row if token) for row in tokens]
    trained = rng.random(count) < 0.7
    return News(
        titles=titles,
        tokens=tokens,
        vocab_size=1 + TOPICS * OWN_WORDS + SHARED_WORDS,
        trained=trained,
        vectors=None,
    )


def clicks(news: News, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return histories [n, H], mask [n, H] and candidates [n, 5]: the first one has the history's topic."""
    rng = np.random.default_rng(seed)
    rows = np.arange(1, len(news))
    topic = rng.integers(TOPICS, size=count)
    history = np.zeros((count, MAX_LEN), dtype=np.int64)
    candidates = np.zeros((count, 5), dtype=np.int64)
    lengths = rng.integers(1, MAX_LEN + 1, size=count)
    for i in range(count):
        same, others = rows[rows % TOPICS == topic[i]], rows[rows % TOPICS != topic[i]]
        history[i, : lengths[i]] = rng.choice(same, lengths[i])
        candidates[i] = [rng.choice(same), *rng.choice(others, 4)]
    mask = np.arange(MAX_LEN) < lengths[:, None]
    return torch.from_numpy(history), torch.from_numpy(mask), torch.from_numpy(candidates)


def _hierarchical(
    mechanism: Callable[..., nn.Module], blocks: Blocks, layers: int
) -> Callable[..., Recommender]:
    def make(
        news: News, d_model: int, heads: int, *, max_len: int, dropout: float, **more: Any
    ) -> Recommender:
        return Hierarchical(
            lambda longest: mechanism(d_model, heads, max_len=longest),
            news, d_model=d_model, layers=layers, max_len=max_len, dropout=dropout, blocks=blocks, **more,
        )  # fmt: skip

    return make


# name: (maker, its options, whether the order of the history does not matter)
MODELS: dict[str, tuple[Callable[..., Recommender], dict[str, object], bool]] = {
    "nrms": (NRMS, {}, True),
    "nrms, ids": (NRMS, {"ids": True}, True),
    "fim": (FIM, {"filters": 8}, False),
    "fim, cut": (FIM, {"filters": 8, "history": 3, "title": 4}, False),
    "mean-words": (MeanWords, {}, True),
    "mean-words, pooling and ids": (MeanWords, {"user": "pooling", "ids": True}, True),
    "hierarchical fastformer": (_hierarchical(Fastformer, "plain", 1), {}, True),
    "hierarchical vanilla, 2 layers": (_hierarchical(Vanilla, "residual", 2), {"ids": True}, True),
    "hierarchical encoder": (_hierarchical(Fastformer, "encoder", 2), {"title": 4}, True),
}


def build(name: str, news: News, dropout: float = 0.0, seed: int = 0) -> Recommender:
    """Return a new instance of a model of MODELS in float64 and evaluation mode."""
    make, options, _ = MODELS[name]
    torch.manual_seed(seed)
    return make(news, D_MODEL, HEADS, max_len=MAX_LEN, dropout=dropout, **options).double().eval()

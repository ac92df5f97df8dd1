"""A classifier beside a linear model of n-grams: the linear model, and both as one module."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from effbench.measured.data.corpus import UNKNOWN
from effbench.measured.data.examples import Examples, Integers

LEAST_TEXTS = 2  # an n-gram of one text alone would only be learnt by heart


class LinearNGrams(nn.Module):
    """tokens [B, N], mask [B, N] -> logits [B, classes]: a linear model of TF-IDF, as the baseline has it.

    A feature is a token, or a pair (and so on, up to ``longest`` tokens) that stands in two of the texts; of
    each n the ``rows`` ones of the most texts. Its value is (1 + log count) idf, and each row of values has
    norm 1. All weights begin at 0. In training each is left out with probability ``dropout``, which
    regularises a linear model (Wager et al. 2013, Dropout Training as Adaptive Regularization). Ids 0 and 1,
    padding and unknown words, are no features.
    """

    idf: Tensor

    def __init__(
        self, texts: Examples, *, vocab_size: int, classes: int, longest: int, rows: int, dropout: float
    ) -> None:
        super().__init__()
        self.base, self.longest, self.dropout = vocab_size, longest, dropout
        in_texts: list[Integers] = [np.zeros(vocab_size, dtype=np.int64)]
        keys, counts = ngrams_of(texts, 1, vocab_size)
        in_texts[0][keys] = counts
        in_texts[0][: UNKNOWN + 1] = len(texts)
        for n in range(2, longest + 1):
            keys, counts = ngrams_of(texts, n, vocab_size)
            common = np.argsort(-counts, kind="stable")[:rows]
            common = np.sort(common[counts[common] >= LEAST_TEXTS])
            self.register_buffer(f"keys_{n}", torch.from_numpy(keys[common]), persistent=False)
            in_texts.append(counts[common])
        idf = 1 + np.log((1 + len(texts)) / (1 + np.concatenate(in_texts)))
        idf[: UNKNOWN + 1] = 0
        self.register_buffer("idf", torch.from_numpy(idf.astype(np.float32)), persistent=False)
        self.weights = nn.Embedding(len(idf), classes)
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.zeros_(self.weights.weight)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [B, classes]; mask [B, N] is True for a real token."""
        features = torch.cat([tokens, *(self._rows(tokens, n) for n in range(2, self.longest + 1))], dim=1)
        if mask is not None:
            features[:, : tokens.shape[1]].masked_fill_(~mask, 0)
        # (1 + log count) idf / count at each place of a feature: their sum over its places is its value
        row = torch.arange(len(features), device=features.device)[:, None] * len(self.idf)
        _, place, found = (features + row).unique(return_inverse=True, return_counts=True)
        count = found[place].float()
        value = (1 + count.log()) * self.idf[features]
        norm = (value**2 / count).sum(dim=1, keepdim=True).sqrt().clamp(min=1e-6)
        value = value / count / norm
        if self.training:
            value = value * (torch.rand_like(value) >= self.dropout) / (1 - self.dropout)
        return torch.einsum("bn,bnk->bk", value, self.weights(features)) + self.bias

    def _rows(self, tokens: Tensor, n: int) -> Tensor:
        """Return the feature of each n-gram [B, max(0, N - n + 1)], 0 for one that is none."""
        keys: Tensor = getattr(self, f"keys_{n}")
        ends = max(0, tokens.shape[1] - n + 1)
        key = torch.zeros_like(tokens[:, :ends])
        for offset in range(min(n, tokens.shape[1])):
            key = key * self.base + tokens[:, offset : offset + ends]
        if not len(keys):
            return torch.zeros_like(key)
        first = self.base + sum(len(getattr(self, f"keys_{shorter}")) for shorter in range(2, n))
        rows = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
        return torch.where(keys[rows] == key, first + rows, 0)


def ngrams_of(texts: Examples, n: int, vocab_size: int) -> tuple[NDArray[np.int64], Integers]:
    """Return (sorted keys of all n-grams, number of texts of each).

    The key of tokens t1 ... tn is t1 vocab_size^(n - 1) + ... + tn.
    """
    places = max(0, len(texts.tokens) - n + 1)
    keys = np.zeros(places, dtype=np.int64)
    for offset in range(n if places else 0):
        keys = keys * vocab_size + texts.tokens[offset : offset + places]
    row = np.repeat(np.arange(len(texts)), texts.lengths)
    inside = row[:places] == row[len(row) - places :]
    keys, row = keys[inside], row[:places][inside]
    order = np.lexsort((row, keys))
    keys, row = keys[order], row[order]
    again = (np.diff(keys, prepend=-1) == 0) & (np.diff(row, prepend=-1) == 0)  # in the same text
    return np.unique(keys[~again], return_counts=True)


class WithLinear(nn.Module):
    """tokens [B, N], mask [B, N] -> logits [B, classes]: a mean of an encoder's and a linear model's.

    They share no parameter. ``share`` is the weight of the linear model in the mean; it is a buffer, so it is
    kept with the weights. The linear model learns at ``lr_factor`` times the rate of the training.
    """

    share: Tensor

    def __init__(self, encoder: nn.Module, linear: LinearNGrams, *, lr_factor: float) -> None:
        super().__init__()
        self.encoder, self.linear = encoder, linear
        self.register_buffer("share", torch.tensor(0.5))
        for parameter in linear.parameters():
            parameter.lr_factor = lr_factor  # type: ignore[attr-defined]

    def paths(self, tokens: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Return the logits [B, classes] of each of the two by its name."""
        return {"encoder": self.encoder(tokens, mask), "linear": self.linear(tokens, mask)}

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weighted mean of the logits [B, classes]."""
        paths = self.paths(tokens, mask)
        return (1 - self.share) * paths["encoder"] + self.share * paths["linear"]

"""Softmax-weighted sums over past tokens as a state, to which a token is added at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SoftmaxSums(NamedTuple):
    """Sums of exp(score - largest) [v, 1] over past tokens [B, heads, d + 1]; the largest score [B, heads].

    Weights are relative to the largest score so far, so that none exceeds 1.
    """

    sums: Tensor
    largest: Tensor


def no_tokens(values_bhnd: Tensor) -> SoftmaxSums:
    """Return the sums over no token, for values of this shape."""
    b, h, _, d = values_bhnd.shape
    lowest = torch.finfo(values_bhnd.dtype).min
    return SoftmaxSums(values_bhnd.new_zeros(b, h, d + 1), values_bhnd.new_full((b, h), lowest))


def with_token(state: SoftmaxSums, score_bh: Tensor, value_bhd: Tensor) -> SoftmaxSums:
    """Return the sums with one more token; if its score is the largest, the sums before are scaled down."""
    largest_bh = torch.maximum(state.largest, score_bh)
    weight_bh1 = (score_bh - largest_bh).exp()[..., None]
    before_bhe = state.sums * (state.largest - largest_bh).exp()[..., None]
    added_bhe = torch.cat([value_bhd * weight_bh1, weight_bh1], dim=-1)
    return SoftmaxSums(before_bhe + added_bhe, largest_bh)


def mean_of(state: SoftmaxSums) -> Tensor:
    """Return the weighted mean of the tokens: [B, heads, d]."""
    sums_bhd, weight_bh1 = state.sums[..., :-1], state.sums[..., -1:]
    return sums_bhd / weight_bh1.clamp_min(torch.finfo(weight_bh1.dtype).tiny)

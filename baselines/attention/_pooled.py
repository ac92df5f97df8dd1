"""Softmax-weighted sums of the input per head, with one product for both gradients of the input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from baselines.attention._heads import masked_softmax, no_autocast


def pooled_inputs(x_bnD: Tensor, scores_bhD: Tensor, mask: Tensor | None, d_head: int) -> Tensor:
    """Return sum_i softmax_i(score . x_i / sqrt(d)) x_i for each head: [B, heads, D].

    scores [B or 1, heads, D]; mask [B, N] is True for a real token.
    """
    scores_bhD = scores_bhD.expand(x_bnD.shape[0], -1, -1) / d_head**0.5
    widest = torch.promote_types(x_bnD.dtype, scores_bhD.dtype)  # they differ under autocast
    with no_autocast(x_bnD):
        return _Pool.apply(x_bnD.to(widest), scores_bhD.to(widest), mask)  # type: ignore[no-any-return, no-untyped-call]


class _Pool(torch.autograd.Function):
    """softmax_i(score . x_i)-weighted sums of x, whose two gradients of x share one product.

    With weights a_i, pooled P = sum_i a_i x_i and dP its gradient: d logit_i = a_i (dP . x_i - dP . P), and
    dx_i = a_i dP + d logit_i score. Autograd would need one sum more.
    """

    @staticmethod
    def forward(context: Any, x_bnD: Tensor, scores_bhD: Tensor, mask: Tensor | None) -> Tensor:
        real = None if mask is None else mask[:, None]
        weights_bhn = masked_softmax(scores_bhD @ x_bnD.mT, real, -1)
        pooled_bhD = weights_bhn @ x_bnD
        context.save_for_backward(x_bnD, scores_bhD, weights_bhn, pooled_bhD)
        return pooled_bhD

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x_bnD, scores_bhD, weights_bhn, pooled_bhD = context.saved_tensors
        mean_bh1 = (gradient * pooled_bhD).sum(-1, keepdim=True)
        logits_bhn = (gradient @ x_bnD.mT).sub_(mean_bh1).mul_(weights_bhn)
        both_bnh = torch.cat([weights_bhn, logits_bhn], dim=1).mT
        return both_bnh @ torch.cat([gradient, scores_bhD], dim=1), logits_bhn @ x_bnD, None

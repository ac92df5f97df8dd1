"""Helpers of several mechanisms: heads, softmax over real tokens, wide sums, checks of options."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def split_heads(x_bnd: Tensor, heads: int) -> Tensor:
    """[B, N, heads * d] -> [B, heads, N, d], a view."""
    b, n, width = x_bnd.shape
    return x_bnd.view(b, n, heads, width // heads).transpose(1, 2)


def merge_heads(x_bhnd: Tensor) -> Tensor:
    """[B, heads, N, d] -> [B, N, heads * d]."""
    return x_bhnd.transpose(1, 2).flatten(2)


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of sums: that of x, but float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


def projected(x: Tensor, layer: nn.Linear, rows: slice | None = None) -> Tensor:
    """Return layer(x) in the dtype of x, which may be wider than that of the layer.

    ``rows`` chooses the outputs that are computed, all by default.
    """
    weight, bias = (t if t is None or rows is None else t[rows] for t in (layer.weight, layer.bias))
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def tokens_last(x_bnD: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return F.linear(x, weight, bias) with the tokens of a feature side by side: [B, N, D] -> [B, width, N].

    What is computed for each number then runs along the tokens, not along the few features of a head.
    """
    return torch.baddbmm(bias[:, None], weight.expand(x_bnD.shape[0], -1, -1), x_bnD.mT)


def tokens_first(t_bDn: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return F.linear(t.mT, weight, bias): [B, D, N] -> [B, N, width]."""
    return torch.baddbmm(bias, t_bDn.mT, weight.mT.expand(t_bDn.shape[0], -1, -1))


def clear_padding(x_bnd: Tensor, mask: Tensor | None) -> Tensor:
    """Return x with padding set to 0. A weight of 0 would not remove a NaN or infinity: 0 * NaN is NaN."""
    return x_bnd if mask is None else x_bnd.masked_fill(~mask[..., None], 0.0)


def masked_softmax(scores: Tensor, mask: Tensor | None, dim: int) -> Tensor:
    """Return the softmax over ``dim`` among the positions where mask is True; zeros if there is none.

    Other scores are filled with the dtype's lowest finite number rather than minus infinity, so that a row
    without a real token stays finite, forward and backward; it is set to 0 afterwards.
    """
    if mask is None:
        return scores.softmax(dim)
    filled = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return filled.softmax(dim).masked_fill(~mask, 0.0)


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Return a context without autocast, in which products keep the dtype of their factors."""
    kind = x.device.type
    # torch's compiler traces the second question in every version, the first one only in new ones
    known = kind in ("cpu", "cuda") or torch.amp.is_autocast_available(kind)
    on = known and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()


def wide_bytes(weight: Tensor) -> int:
    """Return the bytes of a number of a sum: of the dtype of ``weight``, but at least float32."""
    return max(4, weight.element_size())


def summed(size: int) -> int:
    """Return ``size``, or 0 for 1: torch.einsum makes no matrix product if it sums over one number only."""
    return size if size > 1 else 0


def require(allowed: bool, what: str, value: object, rule: str) -> None:
    """Raise ValueError naming an option, its value and what is allowed."""
    if not allowed:
        raise ValueError(f"{what} is {value!r}, must be {rule}")

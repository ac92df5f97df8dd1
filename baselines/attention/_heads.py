"""Splitting the model width into heads and back, softmax over real tokens only, sums that stay wide."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def split_heads(x_bnd: Tensor, heads: int) -> Tensor:
    """[B, N, heads * d] -> [B, heads, N, d], a view."""
    b, n, width = x_bnd.shape
    return x_bnd.view(b, n, heads, width // heads).transpose(1, 2)


def merge_heads(x_bhnd: Tensor) -> Tensor:
    """[B, heads, N, d] -> [B, N, heads * d]."""
    return x_bhnd.transpose(1, 2).flatten(2)


def clear_padding(x_bnd: Tensor, mask: Tensor | None) -> Tensor:
    """Padding as zeros: a weight of 0 would not silence a NaN or an infinity, since 0 * NaN is NaN."""
    return x_bnd if mask is None else x_bnd.masked_fill(~mask[..., None], 0.0)


def masked_softmax(scores: Tensor, mask: Tensor | None, dim: int) -> Tensor:
    """Softmax over ``dim`` among the positions where mask is True; all zeros where none is.

    The fill is the dtype's lowest finite number rather than minus infinity: a row without a real token then
    stays finite, forward and backward, and is zeroed after.
    """
    if mask is None:
        return scores.softmax(dim)
    filled = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return filled.softmax(dim).masked_fill(~mask, 0.0)


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Where products keep the dtype of their factors: for sums that float16 cannot hold."""
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()


def wide_bytes(weight: Tensor) -> int:
    """Bytes of a number in the dtype of ``weight``, or in float32 if that is wider: what sums are kept in."""
    return max(4, weight.element_size())


def summed(size: int) -> int:
    """``size``, or 0 for 1: where torch.einsum has but one number to sum over, it makes no matrix product."""
    return size if size > 1 else 0


def refuse_causal(causal: bool, name: str, why: str) -> None:
    """Raise Unsupported with the reason, for a mechanism without a causal form."""
    if causal:
        from effbench import Unsupported

        raise Unsupported(f"{name} has no causal form here: {why}")


def require(allowed: bool, what: str, value: object, rule: str) -> None:
    """Raise ValueError naming an option, its value and what is allowed."""
    if not allowed:
        raise ValueError(f"{what} is {value!r}, must be {rule}")

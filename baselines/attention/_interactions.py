"""Interactions of a global vector with every token: element-wise product, sum, or a learned map of both."""

from __future__ import annotations

import torch
from torch import Tensor


def interact(whole: Tensor, tokens: Tensor, kind: str, join_h2de: Tensor | None) -> Tensor:
    """Return the interaction of a global vector with tokens: [..., heads, d] all; affine in the tokens.

    ``kind`` is product, add or concat; the last needs ``join_h2de`` [heads or 1, 2 d, d].
    """
    if kind == "product":
        return whole * tokens
    if kind == "add":
        return whole + tokens
    assert join_h2de is not None
    of_whole, of_tokens = join_h2de.chunk(2, dim=1)
    return per_head(whole, of_whole) + per_head(tokens, of_tokens)


def interact_by_definition(whole: Tensor, tokens: Tensor, kind: str, join_h2de: Tensor | None) -> Tensor:
    """Return the same as the paper writes it, for a reference: concat joins the two vectors first."""
    whole = whole.expand_as(tokens)
    if kind == "product":
        return whole * tokens
    if kind == "add":
        return whole + tokens
    assert join_h2de is not None
    both = torch.cat([whole, tokens], dim=-1)
    return (both[..., None, :] @ join_h2de).squeeze(-2)


def per_head(t: Tensor, maps_hde: Tensor) -> Tensor:
    """Return t [..., heads, d] times one map per head, or one map for all heads: [..., heads, e]."""
    if maps_hde.shape[0] == 1:
        return t @ maps_hde[0]
    return torch.einsum("...hd,hde->...he", t, maps_hde)

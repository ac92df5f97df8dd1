"""The first rows of a generation and the last of the others, in a state of fixed size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import projected, split_heads
from effbench import Unsupported


class Ring(NamedTuple):
    """Slots for the first rows of a generation, then slots that all later rows take in turn.

    rows [B, slots, E]; seen [B, slots] is True where a slot holds the row of a real token.
    """

    rows: Tensor
    seen: Tensor


def slot(i: int, first: int, slots: int) -> int:
    """Return the slot of row i, if the ``first`` rows have slots of their own."""
    return i if i < first else first + (i - first) % (slots - first)


def kept(n: int, first: int, slots: int) -> list[int]:
    """Return which of n rows the ring holds after the last of them."""
    return [*range(min(first, n)), *range(max(first, n - (slots - first)), n)]


def remembered(x: Tensor, mask: Tensor | None, qkv: nn.Linear | None, *, slots: int, first: int = 0) -> Ring:
    """Return the ring after the tokens of x [B, N, D], whose padding is 0.

    It holds their keys and values, the last 2 D outputs of ``qkv``; without ``qkv``, the tokens themselves.
    """
    places = kept(x.shape[1], first, slots)
    rows = x[:, places] if qkv is None else projected(x[:, places], qkv, slice(x.shape[2], None))
    seen = None if mask is None else mask[:, places]
    return filled(rows, seen, [slot(i, first, slots) for i in places], slots)


def filled(rows_bkE: Tensor, seen_bk: Tensor | None, places: Sequence[int], slots: int) -> Ring:
    """Return a ring with these rows in these slots; seen_bk None: all of them are real."""
    rows = rows_bkE.new_zeros(rows_bkE.shape[0], slots, rows_bkE.shape[2])
    seen = torch.zeros(rows.shape[:2], dtype=torch.bool, device=rows.device)
    rows[:, places] = rows_bkE
    seen[:, places] = True if seen_bk is None else seen_bk
    return Ring(rows, seen)


def put(ring: Ring, place: int, row_bE: Tensor, real_b: Tensor | None = None) -> Ring:
    """Return a new ring with this row in this slot; real_b None: it is a real token's everywhere."""
    rows, seen = ring.rows.clone(), ring.seen.clone()
    rows[:, place] = row_bE
    seen[:, place] = True if real_b is None else real_b
    return Ring(rows, seen)


def attended(q_bD: Tensor, ring: Ring, heads: int, near_s: Tensor | None = None) -> Tensor:
    """Attend from one query to a ring of keys beside their values [B, slots, 2 D]: -> [B, D].

    near_s [slots], if given, is True for the slots that may be seen. 0 if there is none with a real token.
    """
    k, v = (split_heads(part, heads) for part in ring.rows.chunk(2, dim=-1))
    seen = ring.seen if near_s is None else ring.seen & near_s
    q = split_heads(q_bD[:, None], heads)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None]).flatten(1)


def require_causal(causal: bool) -> None:
    """Raise Unsupported unless a mechanism was built in its causal form, the only one with steps."""
    if not causal:
        raise Unsupported("only its causal form has a step form, ask for causal=true")

"""A cache of the keys and values of all past tokens, for attention token by token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LEAST_ROOM = 64  # free places of a new cache


class Cache(NamedTuple):
    """Keys [B, heads, d, places] and values [B, heads, places, d] of past tokens; the first ``used`` count.

    Keys lie with their places side by side: a product with one query reads them fastest so. ``real``
    [B, places] is True for a real token; None if all are real.
    """

    keys: Tensor
    values: Tensor
    real: Tensor | None
    used: int


def filled(k_bhnd: Tensor, v_bhnd: Tensor, mask: Tensor | None) -> Cache:
    """Return a cache of these keys and values, with free places for tokens to come."""
    b, h, n, d = k_bhnd.shape
    places = n + _room(n)
    keys, values = k_bhnd.new_empty(b, h, d, places), v_bhnd.new_empty(b, h, places, d)
    keys[..., :n] = k_bhnd.mT
    values[:, :, :n] = v_bhnd
    real = None
    if mask is not None:
        real = mask.new_ones(b, places)
        real[:, :n] = mask
    return Cache(keys, values, real, n)


def appended(cache: Cache, k_bhd: Tensor, v_bhd: Tensor) -> Cache:
    """Return the cache with one more real token, written to its first free place.

    A full cache moves to a larger one. It grows by an eighth, so that a token is copied 8 times in the mean.
    """
    if cache.used == cache.values.shape[2]:
        cache = filled(cache.keys.mT, cache.values, cache.real)
    cache.keys[..., cache.used] = k_bhd
    cache.values[:, :, cache.used] = v_bhd
    return cache._replace(used=cache.used + 1)


def attended(cache: Cache, q_bhgd: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v over the cached tokens: [B, heads, g, d] for g queries a head."""
    keys, values = cache.keys[..., : cache.used], cache.values[:, :, : cache.used]
    scores = (q_bhgd * q_bhgd.shape[-1] ** -0.5) @ keys
    if cache.real is not None:
        hidden = ~cache.real[:, None, None, : cache.used]
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    mixed: Tensor = scores.softmax(dim=-1) @ values
    return mixed


def _room(n: int) -> int:
    return max(LEAST_ROOM, n // 8)

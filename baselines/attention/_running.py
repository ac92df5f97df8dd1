"""Running sums over past tokens, in chunks: shared by the causal forms of linear-order mechanisms."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.attention._stepping import SoftmaxSums, no_tokens

CHUNK = 32  # tokens whose pairs are computed; the tokens before a chunk are one sum


def rows_and_pairs(n: int) -> tuple[int, int]:
    """Return the tokens of n filled up to whole chunks, and the pairs inside these chunks."""
    rows = n + -n % CHUNK
    return rows, rows * CHUNK


def past_pairs(n: int, chunk: int = CHUNK) -> int:
    """Return the pairs inside chunks of n tokens whose key is not in the future."""
    whole, rest = divmod(n, chunk)
    return whole * chunk * (chunk + 1) // 2 + rest * (rest + 1) // 2


def chunks_of(part_bhnd: Tensor, fill: float = 0.0) -> Tensor:
    """[B, heads, N, d] -> [B, heads, chunks, CHUNK, d], filled up with zeros or another number."""
    after = -part_bhnd.shape[2] % CHUNK
    filled = F.pad(part_bhnd, (0, 0, 0, after), value=fill) if after else part_bhnd
    chunks: Tensor = filled.unflatten(2, (-1, CHUNK))
    return chunks


def running_products(q_bhnf: Tensor, k_bhnf: Tensor, v_bhne: Tensor) -> Tensor:
    """Return sum_{j <= i} (q_i . k_j) v_j: [B, heads, N, e], in O(N (CHUNK + f) e).

    The queries of a chunk are multiplied with the sum of k_j v_j^T over all chunks before; inside the chunk
    all pairs are computed.
    """
    if not v_bhne.shape[2]:
        return v_bhne
    chunks = (chunks_of(part) for part in (q_bhnf, k_bhnf, v_bhne))
    out: Tensor = _Running.apply(*chunks, None)  # type: ignore[no-untyped-call]
    return out.flatten(2, 3)[:, :, : q_bhnf.shape[2]]


def running_softmax(
    scores_bhn: Tensor, values_bhnd: Tensor, mask: Tensor | None
) -> tuple[Tensor, SoftmaxSums]:
    """Return sum_{j <= i} exp(score_j) v_j / sum_{j <= i} exp(score_j), [B, heads, N, d], and the last sums.

    0 before the first real token. Weights are relative to the largest score so far, so that none exceeds 1;
    when it rises, the sums of the chunks before are scaled down. O(N CHUNK d). mask [B, N] is True for a real
    token.
    """
    n = scores_bhn.shape[2]
    if not n:
        return values_bhnd, no_tokens(values_bhnd)
    lowest = torch.finfo(scores_bhn.dtype).min
    values = F.pad(values_bhnd, (0, 1), value=1.0)  # a column of ones sums the weights
    if mask is not None:
        scores_bhn = scores_bhn.masked_fill(~mask[:, None], lowest)
        values = values.masked_fill(~mask[:, None, :, None], 0.0)
    after = -n % CHUNK
    scores_bhci = F.pad(scores_bhn, (0, after), value=lowest).unflatten(2, (-1, CHUNK))
    values_bhcid = chunks_of(values)
    largest_bhci = scores_bhci.detach().flatten(2).cummax(dim=-1).values.unflatten(2, (-1, CHUNK))
    end_bhc = largest_bhci[..., -1]
    start_bhc = F.pad(end_bhc[..., :-1], (1, 0), value=lowest)
    relative = scores_bhci[..., None, :] - largest_bhci[..., None]
    past = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=scores_bhn.device).tril()
    inside = relative.masked_fill(~past, lowest).exp() @ values_bhcid
    before = carried(inside[..., -1:, :], (start_bhc - end_bhc).exp()[..., None, None])
    sums = torch.addcmul(inside, before, (start_bhc[..., None] - largest_bhci).exp()[..., None])
    tiny = torch.finfo(scores_bhn.dtype).tiny
    pooled = sums[..., :-1] / sums[..., -1:].clamp_min(tiny)
    last = SoftmaxSums(
        sums[:, :, -1, -1].clone(), largest_bhci[..., -1, -1].clone()
    )  # no views of all tokens
    return pooled.flatten(2, 3)[:, :, :n], last


def running_features(query_bhnm: Tensor, key_bhnm: Tensor, values_bhne: Tensor) -> Tensor:
    """Return sum_{j <= i} exp(query_i) . exp(key_j) v_j, up to a factor per i: [B, heads, N, e].

    The arguments are logarithms of positive features. Keys are relative to the largest of their feature up to
    the end of the chunk; when it rises, earlier sums are scaled down. The sums of a token underflow if a
    later key of its chunk exceeds all keys that the token sees by more than the dtype's range.
    """
    n = query_bhnm.shape[2]
    if not n:
        return values_bhne
    key_bhcjm = chunks_of(key_bhnm, fill=torch.finfo(key_bhnm.dtype).min)
    start_bhcm, end_bhcm = _largest_around(key_bhcjm)
    query = chunks_of(query_bhnm) + end_bhcm[..., None, :]
    query = query.sub_(query.detach().amax(dim=-1, keepdim=True)).exp_()
    key = (key_bhcjm - end_bhcm[..., None, :]).exp_()
    decay = (start_bhcm - end_bhcm).exp()[..., None]
    out: Tensor = _Running.apply(query, key, chunks_of(values_bhne), decay)  # type: ignore[no-untyped-call]
    return out.flatten(2, 3)[:, :, :n]


def running_features_of_any_range(query_bhnm: Tensor, key_bhnm: Tensor, values_bhne: Tensor) -> Tensor:
    """Return the same sums without underflow, but slower: no keys are relative to a later key.

    The pairs of a chunk are those of a token with itself, and those of each right half of 2, 4, ..., 32
    tokens with the left half, all of which it sees. Keys are relative to the largest of their half, and
    queries to the largest exponent of all their pairs, so that the sum of a column of ones is at least 1.
    """
    n = query_bhnm.shape[2]
    query, values = chunks_of(query_bhnm), chunks_of(values_bhne)
    key = chunks_of(key_bhnm, fill=torch.finfo(key_bhnm.dtype).min)
    start_bhcm, end_bhcm = _largest_around(key)
    so_far = torch.maximum(key.detach().cummax(dim=3).values, start_bhcm[..., None, :])
    query = query - (query.detach() + so_far).amax(dim=-1, keepdim=True)
    weights = _exp(query + key).sum(dim=-1)[..., None, None]  # [B, heads, chunks, blocks, rows, columns]
    half = 1
    while half < CHUNK:
        right = query.unflatten(3, (-1, 2, half))[..., 1, :, :]
        left = key.unflatten(3, (-1, 2, half))[..., 0, :, :]
        largest = left.detach().amax(dim=-2, keepdim=True)
        across = _exp(right + largest) @ _exp(left - largest).mT
        upper, lower = weights.unflatten(3, (-1, 2)).unbind(4)
        upper, lower = F.pad(upper, (0, half)), torch.cat([across, lower], dim=-1)
        weights = torch.cat([upper, lower], dim=-2)
        half *= 2
    inside = weights.squeeze(3) @ values
    decay = _exp(start_bhcm - end_bhcm)[..., None]
    before = carried(_exp(key - end_bhcm[..., None, :]).mT @ values, decay)
    out = inside + _exp(query + start_bhcm[..., None, :]) @ before
    return out.flatten(2, 3)[:, :, :n]


def _exp(exponents: Tensor) -> Tensor:
    """Return exp of exponents of at most 0, clamped at half of the dtype's range.

    No product of two results is then denormal, which processors compute slowly. Beside a 1 such a product is
    negligible.
    """
    return exponents.clamp(min=math.log(torch.finfo(exponents.dtype).tiny) / 2).exp()


def _largest_around(key_bhcjm: Tensor) -> tuple[Tensor, Tensor]:
    """Return each feature's largest key before a chunk and up to its end: [B, heads, chunks, m] twice."""
    end_bhcm = key_bhcjm.detach().amax(dim=3).cummax(dim=2).values
    return F.pad(end_bhcm[:, :, :-1], (0, 0, 1, 0), value=torch.finfo(key_bhcjm.dtype).min), end_bhcm


class _Running(torch.autograd.Function):
    """sum_{j <= i} (q_i . k_j) v_j of chunks [B, heads, chunks, CHUNK, .]; saves its arguments only.

    Queries are multiplied with S = sum k_j v_j^T over the chunks before, and with the pairs inside their
    chunk. With g the gradient and T = sum q_i g_i^T over the chunks after:
    dq_i = S g_i + sum_{j <= i} (g_i . v_j) k_j, dk_j = T v_j + sum_{i >= j} (g_i . v_j) q_i,
    dv_j = T^T k_j + sum_{i >= j} (q_i . k_j) g_i.
    S is multiplied with ``decay`` [B, heads, chunks, f, 1] as it enters a chunk; decay gets no gradient.
    """

    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None) -> Tensor:
        context.save_for_backward(q, k, v, decay)
        return _plus(q @ _before(k, v, decay), _past(q, k), v)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, decay = context.saved_tensors
        gradient = gradient.contiguous()
        toward = _past(gradient, v)
        of_q = _plus(gradient @ _before(k, v, decay).mT, toward, k)
        after = _after(q, gradient, decay)
        of_k = _plus(v @ after.mT, toward.mT, q)
        del toward  # frees the products of pairs, which are the largest
        return of_q, of_k, _plus(k @ after, _past(q, k).mT, gradient), None


def _past(left: Tensor, right: Tensor) -> Tensor:
    """Return the products of pairs inside chunks, 0 for those in the future."""
    past = torch.ones(CHUNK, CHUNK, dtype=left.dtype, device=left.device).tril()
    return (left @ right.mT).mul_(past)


def _plus(out: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return out + left @ right, written over out."""
    return out.flatten(0, 2).baddbmm_(left.flatten(0, 2), right.flatten(0, 2)).view_as(out)


def _before(k: Tensor, v: Tensor, decay: Tensor | None) -> Tensor:
    """Return S for each chunk: sums of k_j v_j^T over the chunks before."""
    if decay is None:
        return F.pad((k.mT @ v)[:, :, :-1].cumsum(dim=2), (0, 0, 0, 0, 1, 0))
    return carried(k.mT @ v, decay).mul_(decay)


def _after(q: Tensor, gradient: Tensor, decay: Tensor | None) -> Tensor:
    """Return T for each chunk: sums of q_i g_i^T over the chunks after."""
    if decay is None:
        return F.pad((q.mT @ gradient)[:, :, 1:].flip(2).cumsum(dim=2).flip(2), (0, 0, 0, 0, 0, 1))
    return _carried_on((q.mT @ gradient).mul_(decay), decay, toward=-1)


def carried(sums: Tensor, decay: Tensor) -> Tensor:
    """Return for each chunk the sum over all chunks before it, along dimension 2.

    A sum is multiplied with a chunk's ``decay`` as it passes the chunk; decay gets no gradient.
    """
    return _Carried.apply(sums, decay)  # type: ignore[no-any-return, no-untyped-call]


class _Carried(torch.autograd.Function):
    """before_c = decay_{c-1} before_{c-1} + sums_{c-1}, from 0; backward is the same from the end."""

    @staticmethod
    def forward(context: Any, sums: Tensor, decay: Tensor) -> Tensor:
        context.save_for_backward(decay)
        return _carried_on(sums, decay, toward=1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (decay,) = context.saved_tensors
        return _carried_on(gradient, decay, toward=-1), None


def _carried_on(sums: Tensor, decay: Tensor, toward: int) -> Tensor:
    """Return t with t_{c + toward} = decay_c t_c + sums_c, from 0 at the first chunk (for -1, the last)."""
    parts, factors = sums.unbind(2), decay.unbind(2)
    chunks = range(len(parts))[::toward]
    if torch.compiler.is_compiling():  # torch's compiler takes no part of a tensor as ``out``
        carried = [torch.zeros_like(parts[0])]
        for c in chunks[:-1]:
            carried.append(torch.addcmul(parts[c], carried[-1], factors[c]))
        return torch.stack(carried[::toward], dim=2)
    out = torch.empty_like(sums)
    totals = out.unbind(2)
    totals[chunks[0]].zero_()
    for c in chunks[:-1]:
        torch.addcmul(parts[c], totals[c], factors[c], out=totals[c + toward])
    return out

"""Windows of a sequence as views, and attention of blocks of queries to them, without copies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from baselines.attention._flash import attend, attend_backward

TOGETHER = 8  # blocks whose windows get their gradients at once: few enough to stay small and in a cache


def strided_windows(part_rhd: Tensor, blocks: int, block: int, keys: int) -> Tensor:
    """Return [rows, heads, d] as views [blocks, heads, keys, d]: window i starts at row i block.

    rows >= (blocks - 1) block + keys. The gradient of a row is the sum over the windows that hold it.
    """
    return _Windows.apply(part_rhd, blocks, block, keys)  # type: ignore[no-any-return, no-untyped-call]


def attend_in_windows(qkv_r3hd: Tensor, allowed_bqk: Tensor, whole_g: Tensor, *, first: int) -> Tensor:
    """Return the softmax attention of blocks of queries to their windows and to a few rows that all see.

    ``qkv_r3hd`` [rows, 3, heads, d] holds queries, keys and values; the first query is row ``first``, and the
    window of block i starts at row i block. ``allowed_bqk`` [blocks, block, keys] is added to the scores: 0,
    or -inf for a key that is not seen. The first len(whole_g) rows from ``first`` on are also keys of every
    query, with a number of ``whole_g`` added to their scores. -> [blocks block, heads, d]; a query without a
    key gets a finite result. CPU only.

    The window goes through torch's fused kernel, which also returns L = log sum exp(scores). The few scores g
    of the other rows are added: with L' = log(exp L + sum exp g), out = exp(L - L') out + sum exp(g - L') v.
    With L' for L and the joint output, the kernel's backward returns the window's gradients unchanged.
    """
    out: Tensor = _InWindows.apply(qkv_r3hd, allowed_bqk, whole_g, first)  # type: ignore[no-untyped-call]
    return out


class _InWindows(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, qkv_r3hd: Tensor, allowed_bqk: Tensor, whole_g: Tensor, first: int) -> Tensor:
        q, k, v = _views(qkv_r3hd, allowed_bqk, first)
        out, log_sum = attend(q, k, v, allowed_bqk[:, None])
        weights = None
        if len(whole_g):
            seen = qkv_r3hd[first : first + len(whole_g)]
            _, keys, values = (part.transpose(0, 1) for part in seen.unbind(1))
            scores_bhqg = (q @ keys.mT).to(log_sum.dtype) / q.shape[-1] ** 0.5 + whole_g
            joint = torch.logaddexp(log_sum, scores_bhqg.logsumexp(dim=-1))
            weights = (scores_bhqg - joint[..., None]).exp_()
            share = (log_sum - joint).exp_()[..., None]
            log_sum = joint
            total = share + weights.sum(dim=-1, keepdim=True)  # 1, but for the rounding of a large joint sum
            weights = weights.div_(total)
            out = out.mul_(share.div_(total).to(out.dtype))
            del share, total  # what is held at once decides the peak memory
            out = out.add_(weights.to(out.dtype) @ values)
        context.first = first
        context.save_for_backward(qkv_r3hd, allowed_bqk, out, log_sum, weights)
        heads_rhd: Tensor = out.transpose(1, 2).flatten(0, 1)
        return heads_rhd

    @staticmethod
    def backward(context: Any, gradient_rhd: Tensor) -> tuple[Tensor, None, None, None]:
        qkv_r3hd, allowed_bqk, out, log_sum, weights = context.saved_tensors
        first, (blocks, block, _) = context.first, allowed_bqk.shape
        q, k, v = _views(qkv_r3hd, allowed_bqk, first)
        gradient = gradient_rhd.unflatten(0, (blocks, block)).transpose(1, 2)
        gradients = torch.zeros_like(qkv_r3hd)
        queries = gradients[first : first + blocks * block, 0].unflatten(0, (blocks, block)).transpose(1, 2)
        for start in range(0, blocks, TOGETHER):
            some = slice(start, start + TOGETHER)
            of_q, *of_seen = attend_backward(
                gradient[some], q[some], k[some], v[some], out[some], log_sum[some], allowed_bqk[some, None]
            )
            queries[some] = of_q
            for place, windows in enumerate(of_seen, start=1):
                add_overlaps(gradients[start * block :, place], windows, block)
        if weights is not None:
            seen = slice(first, first + weights.shape[-1])
            _, keys, values = (part.transpose(0, 1) for part in qkv_r3hd[seen].unbind(1))
            mean = (gradient * out).sum(-1, keepdim=True)
            toward = (weights * (gradient @ values.mT - mean) / q.shape[-1] ** 0.5).to(q.dtype)
            queries += toward @ keys
            gradients[seen, 1] += torch.einsum("bhqg,bhqd->ghd", toward, q)
            gradients[seen, 2] += torch.einsum("bhqg,bhqd->ghd", weights.to(q.dtype), gradient)
        return gradients, None, None, None


def _views(qkv_r3hd: Tensor, allowed_bqk: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries [blocks, heads, block, d], and windows of keys and values [blocks, heads, keys, d]."""
    blocks, block, keys = allowed_bqk.shape
    q, k, v = qkv_r3hd.unbind(1)
    queries = q[first : first + blocks * block].unflatten(0, (blocks, block)).transpose(1, 2)
    return queries, _window_views(k, blocks, block, keys), _window_views(v, blocks, block, keys)


def _window_views(part_rhd: Tensor, blocks: int, block: int, keys: int) -> Tensor:
    _, heads, d = part_rhd.shape
    row, head, one = part_rhd.stride()
    return part_rhd.as_strided((blocks, heads, keys, d), (block * row, head, row, one))


def add_overlaps(out_rhd: Tensor, windows_bhkd: Tensor, block: int) -> None:
    """Add windows [blocks, heads, keys, d], a block of rows apart, to their rows of [rows, heads, d]."""
    blocks, _, keys, _ = windows_bhkd.shape
    for start in range(0, keys, block):
        part = windows_bhkd[:, :, start : start + block].transpose(1, 2)
        whole = min(blocks, (out_rhd.shape[0] - start) // block)
        out_rhd[start : start + whole * block].unflatten(0, (whole, block))[:, : part.shape[1]] += part[
            :whole
        ]
        for i in range(whole, blocks):  # the last windows may end with the rows
            out_rhd[start + i * block :][: part.shape[1]] += part[i]


class _Windows(torch.autograd.Function):
    """Overlapping views; the gradient adds the overlaps, one block of each window at a time.

    The gradient of torch's own as_strided adds number by number.
    """

    @staticmethod
    def forward(context: Any, part_rhd: Tensor, blocks: int, block: int, keys: int) -> Tensor:
        context.rows, context.block = part_rhd.shape[0], block
        return _window_views(part_rhd, blocks, block, keys)

    @staticmethod
    def backward(context: Any, gradient_bhkd: Tensor) -> tuple[Tensor, None, None, None]:
        _, heads, _, d = gradient_bhkd.shape
        out = gradient_bhkd.new_zeros(context.rows, heads, d)
        add_overlaps(out, gradient_bhkd, context.block)
        return out, None, None, None

"""Windows of a sequence as views, and attention of blocks of queries to them, without copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from baselines.attention._flash import attend, attend_backward

TOGETHER = 8  # blocks whose windows get their gradients at once: few enough to stay small and in a cache


def strided_windows(part_rhd: Tensor, blocks: int, block: int, keys: int) -> Tensor:
    """Return [rows, heads, d] as views [blocks, heads, keys, d]: window i starts at row i block.

    rows >= (blocks - 1) block + keys. The gradient of a row is the sum over the windows that hold it.
    """
    return _Windows.apply(part_rhd, blocks, block, keys)  # type: ignore[no-any-return, no-untyped-call]


class Run(NamedTuple):
    """Successive blocks of queries whose windows start ``step`` rows apart, the first at row ``start``.

    ``alike``: each query sees the same places of its window in every block.
    """

    blocks: slice
    start: int
    step: int
    alike: bool

    @property
    def number(self) -> int:
        """The number of blocks."""
        return int(self.blocks.stop - self.blocks.start)

    def pieces(self, most: int) -> list[Run]:
        """Return the run in pieces of at most ``most`` blocks."""
        firsts = range(self.blocks.start, self.blocks.stop, most)
        return [
            self._replace(
                blocks=slice(first, min(first + most, self.blocks.stop)),
                start=self.start + (first - self.blocks.start) * self.step,
            )
            for first in firsts
        ]


def runs(rows: int, block: int, keys: int, before: int, seen: Sequence[int]) -> list[Run]:
    """Return where the windows of all blocks of ``rows`` rows start.

    A window of ``keys`` rows starts ``before`` rows before its block, but none begins before the first row or
    ends after the last: the first windows are one, and so are the last. The windows are alike within the rows
    ``seen[0]`` to ``seen[1]``, all of which are seen. rows is a multiple of block, and more than keys.
    """
    blocks, room = rows // block, rows - keys
    low, high = before // block + 1, -(-(room + before) // block)
    first = max(low, -(-(seen[0] + before) // block))
    end = min(high, (seen[1] - keys + before) // block + 1)
    alike = (first, end) if first < end else (high, high)
    steps, ends = (0, block, block, block, 0), (0, low, *alike, high, blocks)
    found = [
        Run(slice(i, j), min(max(i * block - before, 0), room), step, (i, j) == alike)
        for step, i, j in zip(steps, ends, ends[1:], strict=False)
    ]
    return [run for run in found if run.number]


def attend_in_windows(
    qkv_r3hd: Tensor, allowed: Sequence[Tensor], whole_g: Tensor, *, before: int, seen: tuple[int, int]
) -> Tensor:
    """Return the softmax attention of blocks of queries to their windows and to a few rows that all see.

    ``qkv_r3hd`` [rows, 3, heads, d] holds queries, keys and values. ``allowed`` has for each of ``runs`` what
    is added to the scores, [blocks, block, keys], or [1, block, keys] if its blocks are alike: 0, or -inf for
    a key that is not seen. The first len(whole_g) rows are also keys of every query, with a number of
    ``whole_g`` added to their scores. -> [rows, heads, d]; a query without a key gets a finite result. CPU
    only.

    The window goes through torch's fused kernel, which also returns L = log sum exp(scores). The few scores g
    of the other rows are added: with L' = log(exp L + sum exp g), out = exp(L - L') out + sum exp(g - L') v.
    With L' for L and the joint output, the kernel's backward returns the window's gradients unchanged.
    """
    out: Tensor = _InWindows.apply(qkv_r3hd, whole_g, before, seen, *allowed)  # type: ignore[no-untyped-call]
    return out


class _InWindows(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, qkv_r3hd: Tensor, whole_g: Tensor, before: int, seen: tuple[int, int], *allowed: Tensor
    ) -> Tensor:
        forward = _forward_operator if torch.compiler.is_compiling() else _forward
        heads_rhd, log_sum, weights = forward(qkv_r3hd, whole_g, before, seen, allowed)
        context.windows = before, seen
        context.save_for_backward(qkv_r3hd, heads_rhd, log_sum, weights, *allowed)
        return heads_rhd

    @staticmethod
    def backward(context: Any, gradient_rhd: Tensor) -> tuple[Tensor | None, ...]:
        qkv_r3hd, heads_rhd, log_sum, weights, *allowed = context.saved_tensors
        before, seen = context.windows
        backward = _backward_operator if torch.compiler.is_compiling() else _backward
        gradients = backward(gradient_rhd, qkv_r3hd, heads_rhd, log_sum, weights, before, seen, allowed)
        return gradients, None, None, None, *[None for _ in allowed]


def _forward(
    qkv_r3hd: Tensor, whole_g: Tensor, before: int, seen: Sequence[int], allowed: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output [rows, heads, d], the joint sums L' and the first rows' weights exp(g - L')."""
    _, block, keys = allowed[0].shape
    heads_rhd, sums = torch.empty_like(qkv_r3hd[:, 0]), []
    out = _in_blocks(heads_rhd, block)
    for run, allowed_bqk in zip(runs(len(qkv_r3hd), block, keys, before, seen), allowed, strict=True):
        q, k, v = _views(qkv_r3hd, block, keys, run)
        out[run.blocks], sums_bhq = attend(q, k, v, allowed_bqk[:, None])
        sums.append(sums_bhq)
    log_sum = torch.cat(sums)
    if not len(whole_g):
        return heads_rhd, log_sum, log_sum.new_empty(*log_sum.shape, 0)
    q, whole_k, whole_v = _whole(qkv_r3hd, block, len(whole_g))
    scores_bhqg = (q @ whole_k.mT).to(log_sum.dtype) / q.shape[-1] ** 0.5 + whole_g
    joint = torch.logaddexp(log_sum, scores_bhqg.logsumexp(dim=-1))
    weights = (scores_bhqg - joint[..., None]).exp_()
    share = (log_sum - joint).exp_()[..., None]
    total = share + weights.sum(dim=-1, keepdim=True)  # 1, but for the rounding of a large joint sum
    weights = weights.div_(total)
    out.mul_(share.div_(total).to(out.dtype))
    del log_sum, share, total  # what is held at once decides the peak memory
    out.add_(weights.to(out.dtype) @ whole_v)
    return heads_rhd, joint, weights


def _backward(
    gradient_rhd: Tensor,
    qkv_r3hd: Tensor,
    heads_rhd: Tensor,
    log_sum: Tensor,
    weights: Tensor,
    before: int,
    seen: Sequence[int],
    allowed: Sequence[Tensor],
) -> Tensor:
    """Return the gradient of qkv_r3hd from that of the output and from what ``_forward`` returned."""
    _, block, keys = allowed[0].shape
    out, gradient = _in_blocks(heads_rhd, block), _in_blocks(gradient_rhd, block)
    gradients = torch.zeros_like(qkv_r3hd)
    queries = _in_blocks(gradients[:, 0], block)
    for run, of_run in zip(runs(len(qkv_r3hd), block, keys, before, seen), allowed, strict=True):
        for piece in run.pieces(TOGETHER):
            some, first = piece.blocks, piece.blocks.start - run.blocks.start
            allowed_bqk = of_run if run.alike else of_run[first : first + piece.number]
            q, k, v = _views(qkv_r3hd, block, keys, piece)
            queries[some], *of_seen = attend_backward(
                gradient[some], q, k, v, out[some], log_sum[some], allowed_bqk[:, None]
            )
            for place, windows in enumerate(of_seen, start=1):
                if run.step:
                    add_overlaps(gradients[piece.start :, place], windows, block)
                else:
                    gradients[run.start : run.start + keys, place] += windows.sum(dim=0).transpose(0, 1)
    if count := weights.shape[-1]:
        q, whole_k, whole_v = _whole(qkv_r3hd, block, count)
        mean = (gradient * out).sum(-1, keepdim=True)
        toward = (weights * (gradient @ whole_v.mT - mean) / q.shape[-1] ** 0.5).to(q.dtype)
        queries += toward @ whole_k
        of_whole = gradients[:count]
        of_whole[:, 1] += torch.einsum("bhqg,bhqd->ghd", toward, q)
        of_whole[:, 2] += torch.einsum("bhqg,bhqd->ghd", weights.to(q.dtype), gradient)
    return gradients


# torch's compiler sees one operator: it takes minutes over the many overlaps, and its result is slower
_forward_operator = torch.library.custom_op(
    "effbench::attend_in_windows",
    _forward,
    mutates_args=(),
    schema="(Tensor qkv, Tensor whole, int before, int[] seen, Tensor[] allowed) -> (Tensor, Tensor, Tensor)",
)
_backward_operator = torch.library.custom_op(
    "effbench::attend_in_windows_backward",
    _backward,
    mutates_args=(),
    schema="(Tensor gradient, Tensor qkv, Tensor heads, Tensor log_sum, Tensor weights, int before,"
    " int[] seen, Tensor[] allowed) -> Tensor",
)


@_forward_operator.register_fake
def _forward_shapes(
    qkv_r3hd: Tensor, whole_g: Tensor, before: int, seen: Sequence[int], allowed: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    rows, _, heads, _ = qkv_r3hd.shape
    block = allowed[0].shape[1]
    wide = torch.promote_types(qkv_r3hd.dtype, torch.float32)
    log_sum = qkv_r3hd.new_empty(rows // block, heads, block, dtype=wide)
    return torch.empty_like(qkv_r3hd[:, 0]), log_sum, log_sum.new_empty(*log_sum.shape, len(whole_g))


@_backward_operator.register_fake
def _backward_shapes(gradient_rhd: Tensor, qkv_r3hd: Tensor, *_: Any) -> Tensor:
    return torch.zeros_like(qkv_r3hd)


def _in_blocks(part_rhd: Tensor, block: int) -> Tensor:
    """View [rows, heads, d] as [blocks, heads, block, d]."""
    blocks: Tensor = part_rhd.unflatten(0, (-1, block))
    return blocks.transpose(1, 2)


def _views(qkv_r3hd: Tensor, block: int, keys: int, run: Run) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries [blocks, heads, block, d], and windows of keys and values [blocks, heads, keys, d]."""
    q = _in_blocks(qkv_r3hd[:, 0], block)[run.blocks]
    k, v = (_window_views(qkv_r3hd[run.start :, place], run.number, run.step, keys) for place in (1, 2))
    return q, k, v


def _whole(qkv_r3hd: Tensor, block: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries [blocks, heads, block, d], and the first rows' keys and values [heads, count, d]."""
    k, v = (qkv_r3hd[:count, place].transpose(0, 1) for place in (1, 2))
    return _in_blocks(qkv_r3hd[:, 0], block), k, v


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

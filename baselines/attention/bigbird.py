"""BigBird-style: blocks of queries see neighbouring, global and random blocks of keys."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._flash import attend, attend_backward
from baselines.attention._flex import Chosen, Rule, block_mask, flex_attend
from baselines.attention._heads import (
    clear_padding,
    masked_softmax,
    merge_heads,
    require,
    split_heads,
    wide_bytes,
    wide_dtype,
)

TOGETHER = 64  # blocks of queries, of one head or a few, that gather their keys at once


class BigBird(Chosen):
    """Block-sparse attention: a window of blocks, global blocks, and random blocks.

    The sequence is cut into blocks of ``block`` tokens; the last one may be shorter. The queries of a block
    see the ``window_blocks`` (odd) blocks around it, ``global_blocks`` (0; 1: the first; 2: the first and the
    last) and ``random_blocks`` other blocks. These are drawn per head and block without replacement from the
    blocks that it does not see anyway (all of them if fewer are left). Each key counts once, in one softmax
    of q . k / sqrt(d). The queries of global blocks see all keys. The draw depends on ``seed`` and the number
    of blocks only; unlike in public codes, it is not limited to the first tokens. x [B, N, D] -> [B, N, D];
    O(N block blocks_seen D), memory O(N D): visible blocks are gathered for a few heads at a time, and again
    in the backward pass.

    ``implementation``: ``blocked``, as above; ``flex``, FlexAttention, which gathers nothing; ``dense``, the
    reference, with one N x N map per head. ``auto`` is flex on CUDA (float64: dense) and blocked on the CPU.

    Raises ValueError for a wrong option and Unsupported for ``causal=True``.
    """

    order = 1.0
    memory_order = 1.0
    equivariant = False
    no_causal = "its global blocks see the future"
    no_cross = "its windows and random blocks pair positions of one sequence"
    source = "Zaheer et al. 2020, Big Bird: Transformers for Longer Sequences (arXiv 2007.14062)"

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        causal: bool = False,
        block: int = 64,
        window_blocks: int = 3,
        random_blocks: int = 3,
        global_blocks: int = 2,
        seed: int = 0,
        implementation: Literal["auto", "blocked", "dense", "flex"] = "auto",
    ) -> None:
        require(block >= 1, "block", block, "at least 1")
        require(
            window_blocks >= 1 and window_blocks % 2 == 1, "window_blocks", window_blocks, "odd, at least 1"
        )
        require(random_blocks >= 0, "random_blocks", random_blocks, "at least 0")
        require(global_blocks in (0, 1, 2), "global_blocks", global_blocks, "0, 1 or 2")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.block = block
        self.window_blocks = window_blocks
        self.random_blocks = random_blocks
        self.global_blocks = global_blocks
        self.seed = seed
        self._choose(implementation)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        x = clear_padding(x, mask)
        how = self._how()
        if how == "dense":
            return self.reference(x, mask)
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = self._flex(q, k, v, mask) if how == "flex" else self._blocked(q, k, v, mask)
        return self.out(merge_heads(mixed))  # type: ignore[no-any-return]

    def _flex(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        n = q.shape[2]
        options = self.block, *self._rule(-(-n // self.block))
        return flex_attend(q, k, v, block_mask(_in_plan, options, self.heads, n, q.device), mask)

    def _blocked(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from global blocks to all keys, from others to gathered blocks: [B, heads, N, d]."""
        blocks = -(-q.shape[2] // self.block)
        ends = self._global(blocks)
        sparse = [i for i in range(blocks) if i not in ends]
        whole = None if mask is None else mask[:, None, None]
        parts = {i: self._rows(q, i) for i in ends}
        mixed = {i: F.scaled_dot_product_attention(rows, k, v, attn_mask=whole) for i, rows in parts.items()}
        if not sparse:
            return torch.cat([mixed[i] for i in ends], dim=2)
        first = [mixed[0]] if 0 in mixed else []
        last = [mixed[i] for i in ends if i > 0]
        return torch.cat([*first, self._sparse(q, k, v, mask, blocks, sparse), *last], dim=2)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the definition, with one dense N x N map per head from the same plan."""
        n = x.shape[1]
        blocks = -(-n // self.block)
        sees = _table(*self._rule(blocks)).to(x.device)
        of = torch.arange(n, device=x.device) // self.block
        allowed = sees[:, of][:, :, of]
        if mask is not None:
            allowed = allowed & mask[:, None, None, :]
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        weights = masked_softmax(q @ k.mT / self.d_head**0.5, allowed, -1)
        return self.out(merge_heads(weights @ v))  # type: ignore[no-any-return]

    def forward_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Four projections, global blocks against all keys, the others against the blocks they gather.

        Dense: all pairs. Not declared for flex.
        """
        how = self._how()
        if how == "flex":
            return None
        pairs = seq_len**2 if how == "dense" else self._executed_pairs(seq_len)
        return self._flops(batch_size, seq_len, self.heads * pairs)

    def train_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Three times the forward pass; blocked also the scores once more, which the kernel does not keep."""
        forward = self.forward_flops(batch_size, seq_len)
        if forward is None:
            return None
        blocked = self._how() == "blocked"
        again = 2 * batch_size * self._executed_pairs(seq_len) * self.d_model if blocked else 0
        return 3 * forward + again

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Only the tokens of the blocks that a query sees, without those gathered to fill its row."""
        n = seq_len
        blocks = -(-n // self.block)
        size = [min((i + 1) * self.block, n) - i * self.block for i in range(blocks)]
        plan = _plan(*self._rule(blocks))
        pairs = sum(size[i] * sum(size[j] for j in seen) for rows in plan for i, seen in enumerate(rows))
        return self._flops(batch_size, n, pairs)

    def saved_bytes(self, batch_size: int, seq_len: int) -> int | None:
        """q, k, v, by tokens and by blocks, the results of the kernels, and the plan of gathered blocks.

        Dense: tokens, weights and visibility maps as in Vanilla. Not declared for flex, which trains on CUDA
        only.
        """
        how = self._how()
        if how == "flex":
            return None
        n, d, h, wide = seq_len, self.d_model, self.heads, wide_bytes(self.qkv.weight)
        size = self.qkv.weight.element_size()
        if how == "dense":
            return batch_size * size * (4 * n * d + 2 * h * n * n) + 2 * h * n * n
        blocks = -(-n // self.block)
        ends = self._global(blocks)
        whole = sum(min((i + 1) * self.block, n) - i * self.block for i in ends)
        kept = n * d + (3 * n * d if ends else 0) + whole * d
        sparse, widest = blocks - len(ends), self._widest(blocks)
        if not sparse:
            return batch_size * (size * kept + wide * h * whole)
        rows = sparse * self.block
        own = 1 if ends and batch_size * rows == 1 else 2  # one row of queries alone is not copied
        kept += own * rows * d + 2 * blocks * self.block * d
        plan = h * sparse * widest  # numbers of blocks, and what is added to the scores of their keys
        return batch_size * (size * kept + wide * h * (whole + rows)) + (8 + size * self.block) * plan

    def _flops(self, batch_size: int, seq_len: int, pairs: int) -> int:
        """Return the FLOPs of four projections and of two products over ``pairs`` pairs of all heads."""
        n, d = seq_len, self.d_model
        return batch_size * (2 * n * d * 4 * d + 4 * pairs * self.d_head)

    def _executed_pairs(self, n: int) -> int:
        """Return the query-key pairs per head that the kernels compute."""
        blocks = -(-n // self.block)
        ends = self._global(blocks)
        whole = sum(min((i + 1) * self.block, n) - i * self.block for i in ends)
        rows = (blocks - len(ends)) * self.block
        return whole * n + rows * self._widest(blocks) * self.block

    def _global(self, blocks: int) -> list[int]:
        return sorted({0, blocks - 1} if self.global_blocks == 2 else set(range(self.global_blocks)))

    def _rule(self, blocks: int) -> tuple[int, int, int, int, tuple[int, ...], int]:
        """Return all that the plan depends on: the arguments of ``_plan``."""
        ends = tuple(self._global(blocks))
        return blocks, self.heads, self.window_blocks, self.random_blocks, ends, self.seed

    def _widest(self, blocks: int) -> int:
        """Return the blocks gathered per sparse block of queries: as many as any of them sees."""
        ends = self._global(blocks)
        plan = _plan(*self._rule(blocks))
        return max((len(plan[0][i]) for i in range(blocks) if i not in ends), default=0)

    def _rows(self, q_bhnd: Tensor, block: int) -> Tensor:
        return q_bhnd[:, :, block * self.block : (block + 1) * self.block]

    def _sparse(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, blocks: int, sparse: list[int]
    ) -> Tensor:
        """Return the rows of the blocks that are not global (they are consecutive): [B, heads, rows, d]."""
        n, after = q.shape[2], blocks * self.block - q.shape[2]
        index, valid = _as_constants(q.device, *self._rule(blocks))  # [heads, sparse, widest]
        first, last = sparse[0] * self.block, (sparse[-1] + 1) * self.block
        queries = q[:, :, first:last]
        queries = F.pad(queries, (0, 0, 0, last - n)) if last > n else queries.contiguous()
        tables = (F.pad(part, (0, 0, 0, after)) if after else part.contiguous() for part in (k, v))
        real = torch.ones(1, n, dtype=torch.bool, device=q.device) if mask is None else mask
        cut = F.pad(real, (0, after)).unflatten(1, (blocks, self.block))
        sees = (cut[:, index] & valid[..., None]).flatten(3, 4)  # [B or 1, heads, sparse, keys]
        hidden = q.new_zeros(sees.shape).masked_fill(~sees, -torch.inf).expand(len(q), -1, -1, -1)
        mixed: Tensor = _Gather.apply(queries, *tables, index, hidden)  # type: ignore[no-untyped-call]
        return mixed[:, :, : n - first]


class _Gather(torch.autograd.Function):
    """Softmax attention of each block of queries to blocks of its own, gathered for a few heads at a time.

    queries [B, heads, rows, d], keys and values [B, heads, blocks block, d], numbers of blocks
    [heads, sparse, widest], numbers added to scores [B, heads, sparse, widest block] -> [B, heads, rows, d].
    The gathered blocks are larger than their source. A part of them fits into a cache, so it is gathered
    again in the backward pass rather than kept.
    """

    @staticmethod
    def forward(
        context: Any, queries: Tensor, keys: Tensor, values: Tensor, index: Tensor, hidden: Tensor
    ) -> Tensor:
        out = torch.empty_like(queries)
        sums = queries.new_empty(queries.shape[:3], dtype=wide_dtype(queries))
        for part, _, q, k, v, added in _parts(queries, keys, values, index, hidden):
            mixed, log_sum = attend(q, k, v, added)
            out.flatten(0, 1)[part] = mixed.view_as(out.flatten(0, 1)[part])
            sums.flatten(0, 1)[part] = log_sum.view_as(sums.flatten(0, 1)[part])
        context.save_for_backward(queries, keys, values, index, hidden, out, sums)
        return out

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        queries, keys, values, index, hidden, out, sums = context.saved_tensors
        gradients = [torch.empty_like(part) for part in (queries, keys, values)]
        gradient = gradient.contiguous()
        for part, rows, q, k, v, added in _parts(queries, keys, values, index, hidden):
            grad, mixed, log_sum = (
                t.flatten(0, 1)[part].view(*q.shape[:3], -1) for t in (gradient, out, sums)
            )
            of_q, *of_seen = attend_backward(grad, q, k, v, mixed, log_sum[..., 0], added)
            target = gradients[0].flatten(0, 1)[part]
            target.copy_(of_q.view_as(target))
            for total, seen in zip(gradients[1:], of_seen, strict=True):
                target, seen = total.flatten(0, 1)[part], seen.reshape(len(rows), -1)
                blocks = target.numel() // seen.shape[1]
                summed = torch.ops.aten.embedding_dense_backward(seen, rows, blocks, -1, False)
                target.copy_(summed.view_as(target))
        return gradients[0], gradients[1], gradients[2], None, None


def _parts(
    queries: Tensor, keys: Tensor, values: Tensor, index: Tensor, hidden: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Yield for a few heads at a time: their slice, their rows, q, k, v, and the numbers added to scores.

    Blocks of queries are elements of a batch, since the kernel lays its gradients out with heads innermost.
    """
    _, sparse, widest = index.shape
    heads, d = queries.shape[0] * queries.shape[1], queries.shape[3]
    block = hidden.shape[-1] // widest
    blocks = keys.shape[2] // block
    few = max(1, TOGETHER // sparse)
    index = index.expand(len(queries), -1, -1, -1).flatten(0, 1)
    q, k, v, hidden = (t.flatten(0, 1) for t in (queries, keys, values, hidden))
    for first in range(0, heads, few):
        part = slice(first, min(first + few, heads))
        own = blocks * torch.arange(part.stop - first, device=index.device)
        rows = (index[part] + own[:, None, None]).flatten()
        tables = (t[part].view(-1, block * d) for t in (k, v))
        keys, values = (table.index_select(0, rows).view(-1, 1, widest * block, d) for table in tables)
        added = hidden[part].flatten(0, 1)[:, None, None]
        yield part, rows, q[part].view(-1, 1, block, d), keys, values, added


@lru_cache(maxsize=64)
def _plan(
    blocks: int, heads: int, window: int, extra: int, ends: tuple[int, ...], seed: int
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return for each head and block of queries the blocks that it sees, ascending."""
    draw = random.Random(f"{seed} {blocks}")
    everything = tuple(range(blocks))
    plan = []
    for _ in range(heads):
        rows = []
        for i in range(blocks):
            near = range(max(0, i - window // 2), min(blocks, i + window // 2 + 1))
            seen = sorted({*near, *ends})
            others = blocks - len(seen)
            drawn = draw.sample(range(others), min(extra, others))
            rows.append(everything if i in ends else tuple(sorted([*seen, *(_skip(p, seen) for p in drawn)])))
        plan.append(tuple(rows))
    return tuple(plan)


def _skip(place: int, seen: list[int]) -> int:
    """Return the block at a place among those that are not in ``seen``, which ascends."""
    for block in seen:
        place += place >= block
    return place


# torch.compile cannot trace the draw, which the arguments decide: for it, the result is a constant
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _as_constants(
    device: torch.device, blocks: int, heads: int, window: int, extra: int, ends: tuple[int, ...], seed: int
) -> tuple[Tensor, Tensor]:
    """Return ``_gathered``, whose cache torch.compile would pass by."""
    return _gathered(device, blocks, heads, window, extra, ends, seed)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # else the first call under inference_mode would spoil training for this length
def _gathered(
    device: torch.device, blocks: int, heads: int, window: int, extra: int, ends: tuple[int, ...], seed: int
) -> tuple[Tensor, Tensor]:
    """Return the plan of the blocks that are not global: numbers and validity, [heads, blocks, widest] each.

    Rows that see fewer blocks than the widest are filled up with block 0, marked as not valid.
    """
    plan = _plan(blocks, heads, window, extra, ends, seed)
    rows = [[row for i, row in enumerate(of_head) if i not in ends] for of_head in plan]
    widest = max(len(row) for row in rows[0])
    numbers = torch.tensor([[[*row, *[0] * (widest - len(row))] for row in of_head] for of_head in rows])
    counts = torch.tensor([[len(row) for row in of_head] for of_head in rows])
    return numbers.to(device), (torch.arange(widest) < counts[..., None]).to(device)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _table(blocks: int, heads: int, window: int, extra: int, ends: tuple[int, ...], seed: int) -> Tensor:
    """Return the plan as a map of visible blocks: [heads, blocks, blocks]."""
    sees = torch.zeros(heads, blocks, blocks, dtype=torch.bool)
    for head, rows in enumerate(_plan(blocks, heads, window, extra, ends, seed)):
        for i, seen in enumerate(rows):
            sees[head, i, list(seen)] = True
    return sees


def _in_plan(
    device: torch.device,
    block: int,
    blocks: int,
    heads: int,
    window: int,
    extra: int,
    ends: tuple[int, ...],
    seed: int,
) -> Rule:
    """Return the rule: a query sees a key if its block sees the block of the key."""
    table: Tensor = _table(blocks, heads, window, extra, ends, seed).to(device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return table[head, query // block, key // block]

    return sees

"""Poolingformer: a sliding window, then a wider window over pooled keys and values of its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention import _ring
from baselines.attention._heads import (
    clear_padding,
    masked_softmax,
    merge_heads,
    require,
    split_heads,
    wide_bytes,
)
from baselines.attention._ring import Ring
from baselines.attention._windows import strided_windows
from effbench import Mechanism

NEAR_BLOCK = 32  # queries per block in the first level
WIDE_BLOCK = 64  # and in the second level, rounded up to a multiple of the stride

_State = tuple[
    Ring, Ring, Ring, int
]  # keys and values of tokens; tokens of a row; rows; the number of tokens


class Poolingformer(Mechanism):
    """Two levels of attention: a sliding window, then a wider window over pooled keys and values.

    Level 1: token i sees the tokens j with ``|i - j| <= window`` (one-sided: 2 window + 1 wide) in one
    softmax of q . k / sqrt(d); q, k, v = x W + b. y_i is the concatenation of the heads.
    Level 2: q, k, v = y W2 + b2. Pooled row p is the mean (or with ``pooling=max`` the element-wise maximum)
    of the keys, and of the values, of tokens p stride to p stride + kernel - 1, as far as they exist and are
    real. There are ceil(N / stride) rows. Token i sees row p if p pools a real token and
    ``|p stride - i| <= pool_window``: it is our choice that the row's first token decides. z_i is the softmax
    over the visible rows, 0 if there is none. Out: W_o (y_i + z_i) + b_o. x [B, N, D] -> [B, N, D].

    A mean is linear and does not change the bias, mean_j (y_j W2 + b2) = (mean_j y_j) W2 + b2. So y is pooled
    first, and keys and values of level 2 cost 4 N D^2 / stride instead of 4 N D^2. A maximum is taken after
    the projection. Queries are processed in blocks (32 in level 1, 64 in level 2), against the rows that any
    of them may see. Time O(N (D + window + pool_window / stride) D), memory O(N D).

    Causal: i - window <= j <= i, and row p is seen if none of its tokens is in the future:
    i - pool_window <= p stride <= i - kernel + 1. Tokens before kernel - 1 see no row. Step by step: the
    state is the keys and values of the last window + 1 tokens and of the pooled rows that a token may see,
    and y of the last ``kernel`` tokens, which are pooled when a row ends with them.

    The paper's best pooling, a light dynamic convolution, is not implemented. The defaults are the paper's,
    as far as known. Raises ValueError for a wrong option.
    """

    order = 1.0
    memory_order = 1.0
    state_order = 0.0
    equivariant = False
    no_cross = "its windows pair positions of one sequence"
    source = (
        "Zhang et al. 2021, Poolingformer: Long Document Modeling with Pooling Attention (arXiv 2105.04371)"
    )

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        causal: bool = False,
        window: int = 64,
        pool_window: int = 256,
        kernel: int = 5,
        stride: int = 4,
        pooling: Literal["mean", "max"] = "mean",
    ) -> None:
        require(window >= 1, "window", window, "at least 1")
        require(kernel >= 1, "kernel", kernel, "at least 1")
        require(stride >= 1, "stride", stride, "at least 1")
        require(pool_window >= 1, "pool_window", pool_window, "at least 1")
        require(
            not causal or pool_window >= kernel - 1,
            "pool_window",
            pool_window,
            "at least kernel - 1 if causal",
        )
        require(pooling in ("mean", "max"), "pooling", pooling, "mean or max")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.window = window
        self.pool_window = pool_window
        self.kernel = kernel
        self.stride = stride
        self.pooling = pooling
        block = -(-WIDE_BLOCK // stride) * stride
        self.near = _Level(1, window, 0 if causal else window, NEAR_BLOCK)
        self.wide = _Level(stride, pool_window, 1 - kernel if causal else pool_window, block)
        self.slots = (
            max(0, pool_window - kernel + 1) // stride + 1
        )  # rows that a token of the causal form may see
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.query = nn.Linear(d_model, d_model)
        self.key_value = nn.Linear(d_model, 2 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        x = clear_padding(x, mask)
        real_bn = torch.ones_like(x[:1, :, 0], dtype=torch.bool) if mask is None else mask
        y = clear_padding(self._sliding(x, real_bn), mask)
        return self.out(y + self._pooled(y, real_bn))  # type: ignore[no-any-return]

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, _State]:
        """x [B, N, D], mask [B, N] -> the causal outputs [B, N, D], and the state.

        It is three rings and N: keys and values of level 1 [B, window + 1, 2 D], y of the last tokens
        [B, kernel, D], and keys and values of level 2 [B, rows, 2 D]. Raises Unsupported if it is not causal.
        """
        _ring.require_causal(self.causal)
        n = x.shape[1]
        real_bn = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        x = clear_padding(x, mask)
        y = clear_padding(self._sliding(x, real_bn), mask) if n else x
        near = _ring.remembered(
            x,
            real_bn,
            self.qkv,
            slots=self.window + 1,
        )
        recent = _ring.remembered(y, real_bn, None, slots=self.kernel)
        rows = _ring.kept(max(0, (n - self.kernel) // self.stride + 1), 0, self.slots)
        firsts = torch.tensor(rows, dtype=torch.long, device=x.device)[:, None] * self.stride
        tokens_pk = firsts + torch.arange(self.kernel, device=x.device)
        real_bpk = real_bn[:, tokens_pk]
        pooled = self._row(y[:, tokens_pk].flatten(0, 1), real_bpk.flatten(0, 1))
        pooled_bpE = pooled.view(len(x), len(rows), 2 * self.d_model)
        wide = _ring.filled(pooled_bpE, real_bpk.any(dim=2), [p % self.slots for p in rows], self.slots)
        return self.out(y + self._pooled(y, real_bn)) if n else x, (near, recent, wide, n)

    def step(self, x: Tensor, state: _State) -> tuple[Tensor, _State]:
        """x [B, D] -> the output [B, D] for one more token, and the state with it."""
        near, recent, wide, n = state
        q, key_value = self.qkv(x).split([self.d_model, 2 * self.d_model], dim=-1)
        near = _ring.put(near, n % (self.window + 1), key_value)
        y = _ring.attended(q, near, self.heads)
        recent = _ring.put(recent, n % self.kernel, y)
        last, past = divmod(n - self.kernel + 1, self.stride)  # the last row without a future token
        if last >= 0 and past == 0:  # it ends with this token
            row_bE, some_b = self._row(*recent), recent.seen.any(dim=1)
            wide = _ring.put(wide, last % self.slots, row_bE, some_b)
        place = torch.arange(self.slots, device=x.device)
        row_s = last - (last - place) % self.slots
        z = _ring.attended(self.query(y), wide, self.heads, row_s * self.stride >= n - self.pool_window)
        return self.out(y + z), (near, recent, wide, n + 1)

    def _row(self, y_bkD: Tensor, real_bk: Tensor) -> Tensor:
        """Return keys and values [B, 2 D] of the row that pools these tokens."""
        if self.pooling == "mean":
            return self.key_value(self._pool(y_bkD, real_bk))  # type: ignore[no-any-return]
        return self._pool(self.key_value(y_bkD), real_bk)

    def _sliding(self, x: Tensor, real_bn: Tensor) -> Tensor:
        """Return y of level 1 [B, N, D]: one product for q, k and v, with zeros at both ends."""
        n = x.shape[1]
        q, k, v = self.qkv(self.near.widen(x, n)).chunk(3, dim=-1)
        before, rows = self.near.margin(n), self.near.queries(n)
        return self.near.attend(q[:, before : before + rows], k, v, real_bn, n, self.heads)

    def _pooled(self, y: Tensor, real_bn: Tensor) -> Tensor:
        """Return z of level 2 [B, N, D]."""
        n = y.shape[1]
        q = self.query(F.pad(y, (0, 0, 0, self.wide.queries(n) - n)))
        past = self._past(n)
        count_bp = F.pad(real_bn, (0, past)).unfold(1, self.kernel, self.stride).sum(dim=-1)
        if self.pooling == "mean":
            rows_bpD = self._windows(F.pad(y, (0, 0, 0, past))).sum(dim=2).transpose(0, 1)
            rows_bpD = rows_bpD / count_bp.clamp(min=1)[..., None].to(y.dtype)
            key_value = self.key_value(self.wide.widen(rows_bpD, n))
        else:
            lowest = torch.finfo(y.dtype).min
            each_bnD = self.key_value(y).masked_fill(~real_bn[..., None], lowest)
            rows_bpD = self._windows(F.pad(each_bnD, (0, 0, 0, past), value=lowest)).amax(dim=2)
            rows_bpD = rows_bpD.transpose(0, 1).masked_fill(count_bp[..., None] == 0, 0.0)
            key_value = self.wide.widen(rows_bpD, n)
        k, v = key_value.chunk(2, dim=-1)
        return self.wide.attend(q, k, v, count_bp > 0, n, self.heads)

    def _past(self, n: int) -> int:
        """Return the number of tokens that the last row of n tokens lacks."""
        return max(0, (self.wide.rows(n) - 1) * self.stride + self.kernel - n)

    def _windows(self, part_bnD: Tensor) -> Tensor:
        """Return the tokens of each row as views [rows, B, kernel, D]: sequences in place of heads."""
        rows = (part_bnD.shape[1] - self.kernel) // self.stride + 1
        return strided_windows(part_bnD.transpose(0, 1), rows, self.stride, self.kernel)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the definition: maps of visible keys; keys and values pooled row by row."""
        n = x.shape[1]
        real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        position = torch.arange(n, device=x.device)
        sees = (position - position[:, None]).abs() <= self.window
        if self.causal:
            sees = sees & (position <= position[:, None])
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        y = self._dense(q, k, v, sees & real[:, None])
        firsts = range(0, n, self.stride)
        parts = [slice(first, first + self.kernel) for first in firsts]
        key_value = self.key_value(y)
        pooled = torch.stack([self._pool(key_value[:, part], real[:, part]) for part in parts], dim=1)
        some = torch.stack([real[:, part].any(dim=1) for part in parts], dim=1)
        first = torch.tensor(firsts, device=x.device)
        sees = (first - position[:, None]).abs() <= self.pool_window
        if self.causal:
            sees = sees & (first + self.kernel - 1 <= position[:, None])
        k, v = pooled.chunk(2, dim=-1)
        z = self._dense(self.query(y), k, v, sees & some[:, None])
        return self.out(y + z)  # type: ignore[no-any-return]

    def _dense(self, q: Tensor, k: Tensor, v: Tensor, sees_bnm: Tensor) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        weights = masked_softmax(q @ k.mT / self.d_head**0.5, sees_bnm[:, None], -1)
        return merge_heads(weights @ v)

    def _pool(self, part_bkD: Tensor, real_bk: Tensor) -> Tensor:
        """Return one pooled row [B, D]; zeros if no token is real."""
        real = real_bk[..., None]
        if self.pooling == "mean":
            return (part_bkD * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        highest = part_bkD.masked_fill(~real, torch.finfo(part_bkD.dtype).min).amax(dim=1)
        return torch.where(real.any(dim=1), highest, 0.0)

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Products of all rows, including those that fill up blocks, and of blocks with their rows."""
        n = seq_len
        pooled = self.wide.widened(n) if self.pooling == "mean" else n
        return self._flops(
            batch_size, n, self.near.widened(n), self.wide.queries(n), pooled, self._executed_pairs(n)
        )

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Three times the forward pass, and the scores once more, which the kernel does not keep."""
        again = 2 * batch_size * self._executed_pairs(seq_len) * self.d_model
        return 3 * self.forward_flops(batch_size, seq_len) + again

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Only the tokens and rows that a token sees, and only the rows of tokens and of strides."""
        n = seq_len
        pooled = self.wide.rows(n) if self.pooling == "mean" else n
        return self._flops(batch_size, n, n, n, pooled, self.near.seen_pairs(n) + self.wide.seen_pairs(n))

    def saved_bytes(self, batch_size: int, seq_len: int) -> int:
        """Padded inputs and results of the products, pooled rows, masks, and the kernels' results."""
        n, d, rows = seq_len, self.d_model, self.wide.rows(seq_len)
        widths = 3 * self.near.widened(n) + 2 * self.wide.queries(n) + 2 * self.wide.widened(n) + n
        if self.near.blocked(n):
            widths += self.near.widened(n)
        if self.pooling == "mean":
            widths += self.wide.widened(n)
            once, masks = rows, 0  # the number of tokens that each row pools
        else:  # keys and values before and after the maximum; level 1's output, unless it is the kernel's
            widths += 2 * (n + self._past(n)) + 2 * rows + (n if self.near.blocked(n) else 0)
            once, masks = 0, n + rows
        kept, sums, weight = batch_size * widths * d + once, 0, self.qkv.weight
        for level in (self.near, self.wide):
            kept += level.executed_pairs(n) * (batch_size if level.blocked(n) else 1)
            kept += batch_size * level.queries(n) * d
            sums += batch_size * level.queries(n) * self.heads
        return weight.element_size() * kept + wide_bytes(weight) * sums + masks

    def _flops(self, batch_size: int, n: int, near: int, queries: int, pooled: int, pairs: int) -> int:
        """Return FLOPs of products of rows, 3, 1, 2 and 1 widths wide, and of two products of pairs."""
        d = self.d_model
        return batch_size * (2 * d * d * (3 * near + queries + 2 * pooled + n) + 4 * pairs * d)

    def _executed_pairs(self, n: int) -> int:
        return self.near.executed_pairs(n) + self.wide.executed_pairs(n)


@dataclass(frozen=True)
class _Level:
    """Blocks of queries against rows of keys: token i may see row p if -back <= p stride - i <= ahead.

    A block may see ``keys`` rows, the first of them ``before`` rows before its own first. A sequence with no
    more rows than that is not cut into blocks.
    """

    stride: int
    back: int
    ahead: int
    block: int  # a multiple of the stride

    @property
    def before(self) -> int:
        return self.back // self.stride

    @property
    def keys(self) -> int:
        return self.before + (self.block - 1 + self.ahead) // self.stride + 1

    @property
    def step(self) -> int:
        """Rows from the first of a block to the first of the next."""
        return self.block // self.stride

    def rows(self, n: int) -> int:
        """Return the number of rows of keys of n tokens."""
        return -(-n // self.stride)

    def blocked(self, n: int) -> bool:
        """True if a block sees less than all rows, so that blocks save work."""
        return self.rows(n) > self.keys

    def margin(self, n: int) -> int:
        """Return the number of zero rows before the first."""
        return self.before if self.blocked(n) else 0

    def queries(self, n: int) -> int:
        """Return the number of queries, filled up to whole blocks."""
        return -(-n // self.block) * self.block if self.blocked(n) else n

    def widened(self, n: int) -> int:
        """Return the number of rows with zero rows at both ends; fewer if no block sees the last rows."""
        return (
            (self.queries(n) // self.block - 1) * self.step + self.keys if self.blocked(n) else self.rows(n)
        )

    def executed_pairs(self, n: int) -> int:
        """Return the pairs of a query and a row that the kernel computes."""
        return self.queries(n) * (self.keys if self.blocked(n) else self.rows(n))

    def seen_pairs(self, n: int) -> int:
        """Return the pairs of a query and a row that the definition asks for."""
        firsts = (max(0, -((self.back - i) // self.stride)) for i in range(n))
        lasts = (min(self.rows(n) - 1, (i + self.ahead) // self.stride) for i in range(n))
        return sum(max(0, last - first + 1) for first, last in zip(firsts, lasts, strict=True))

    def widen(self, part_bmD: Tensor, n: int) -> Tensor:
        """Add the zero rows: [B, rows, D] -> [B, widened, D]."""
        if not self.blocked(n):
            return part_bmD
        after = self.widened(n) - self.before - self.rows(n)
        return F.pad(part_bmD, (0, 0, self.before, after))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, real_bm: Tensor, n: int, heads: int) -> Tensor:
        """Attend from queries [B, queries, D] to keys and values [B, widened, D] -> [B, N, D].

        ``real_bm`` [B or 1, rows] is True for a row that may be seen. A token that sees no row gets 0.
        """
        sees = self._sees(real_bm, n)
        if not self.blocked(n):
            q, k, v = (split_heads(part, heads) for part in (q, k, v))
            return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=sees))
        sees = sees.expand(q.shape[0], -1, -1, -1)
        sequences = zip(q.unbind(), k.unbind(), v.unbind(), sees.unbind(), strict=True)
        return torch.stack([self._blocks(*parts, heads)[:n] for parts in sequences])

    def _blocks(self, q_rD: Tensor, k_rD: Tensor, v_rD: Tensor, sees: Tensor, heads: int) -> Tensor:
        """Attend in one sequence: [blocks block, D]. Blocks are the kernel's batch: heads share masks."""
        q, k, v = (part.unflatten(1, (heads, -1)) for part in (q_rD, k_rD, v_rD))
        q_bhqd = q.unflatten(0, (-1, self.block)).transpose(1, 2)
        keys, values = (strided_windows(part, len(q_bhqd), self.step, self.keys) for part in (k, v))
        mixed_bhqd = F.scaled_dot_product_attention(q_bhqd, keys, values, attn_mask=sees[:, None])
        merged: Tensor = mixed_bhqd.transpose(1, 2).flatten(0, 1).flatten(1)
        return merged

    def _sees(self, real_bm: Tensor, n: int) -> Tensor:
        """Return the visible rows: [B or 1, blocks, block, keys], or [B or 1, 1, N, rows] if not cut."""
        tall, wide = (self.block, self.keys) if self.blocked(n) else (n, self.rows(n))
        query = torch.arange(tall, device=real_bm.device)
        first = (torch.arange(wide, device=real_bm.device) - self.margin(n)) * self.stride
        distance = first - query[:, None]
        allowed = (distance >= -self.back) & (distance <= self.ahead)
        around = self.margin(n), self.widened(n) - self.margin(n) - self.rows(n)
        return allowed & F.pad(real_bm, around).unfold(1, wide, self.step)[:, :, None]

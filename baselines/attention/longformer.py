"""Longformer-style: a sliding window and a few global tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import (
    clear_padding,
    masked_softmax,
    merge_heads,
    require,
    split_heads,
)
from baselines.attention._windows import strided_windows
from effbench.mechanism import Mechanism


class Longformer(Mechanism):
    """Sliding-window attention with global tokens.

    The first ``global_tokens`` tokens are global. Any other token i attends to the tokens j with
    |i - j| <= ``window`` (one-sided: 2 window + 1 wide) and to the global tokens, each key once, in one
    softmax of q . k / sqrt(d). Global tokens attend to all tokens through query, key and value projections of
    their own (without bias). ``global_tokens=0`` is a pure sliding window. x [B, N, D] -> [B, N, D];
    time O(N window D); memory O(N D) without global tokens, else O(N (window + 64) D / 64), since a block's
    keys are then copied to stand beside the global ones.

    Queries go in blocks of 32 (64 with global tokens) against the global keys and the 32 + 2 window keys that
    any of them may see. A sequence no longer than that is one masked softmax over its own keys. The keys and
    values of the global tokens' own attention are never made for all tokens: q_g . (W x_j) = (W^T q_g) . x_j,
    and sum_j a_j W x_j = W sum_j a_j x_j.

    Causal: i - window <= j <= i; the first tokens stay global as keys, and as queries see each other alone,
    up to themselves.
    """

    order = 1.0
    memory_order = 1.0
    equivariant = False
    source = "Beltagy et al. 2020, Longformer: The Long-Document Transformer (arXiv 2004.05150)"

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        causal: bool = False,
        window: int = 128,
        global_tokens: int = 1,
    ) -> None:
        require(window >= 1, "window", window, "at least 1")
        require(global_tokens >= 0, "global_tokens", global_tokens, "at least 0")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.window = window
        self.global_tokens = global_tokens
        self.block = 64 if global_tokens else 32
        self.after = 0 if causal else window  # how far a token sees ahead
        self.span = self.block + window + self.after  # keys that a block of queries may see
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        if global_tokens:
            self.query_global = nn.Linear(d_model, d_model, bias=False)
            self.key_global = nn.Linear(d_model, d_model, bias=False)
            self.value_global = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        count = min(self.global_tokens, x.shape[1])
        x = clear_padding(x, mask)
        mixed = self._local(x, mask, count)
        if count:
            mixed = torch.cat([self._global(x, mask, count), mixed[:, count:]], dim=1)
        return self.out(mixed)  # type: ignore[no-any-return]

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """By the definition, with the N x N map of who sees whom."""
        n, count = x.shape[1], min(self.global_tokens, x.shape[1])
        position = torch.arange(n, device=x.device)
        sees = (position[:, None] - position).abs() <= self.window
        sees[:, :count] = True
        past = torch.ones(n, n, dtype=torch.bool, device=x.device)
        past = past.tril() if self.causal else past
        real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        weights = masked_softmax(q @ k.mT / self.d_head**0.5, sees & past & real[:, None, None], -1)
        mixed = merge_heads(weights @ v)
        if count:
            maps = (self.query_global, self.key_global, self.value_global)
            q, k, v = (split_heads(project(x), self.heads) for project in maps)
            weights = masked_softmax(q @ k.mT / self.d_head**0.5, past & real[:, None, None], -1)
            mixed = torch.where((position < count)[:, None], merge_heads(weights @ v), mixed)
        return self.out(mixed)  # type: ignore[no-any-return]

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Four projections, the blocks' products with all the keys they are given, and the global tokens'."""
        n, around = seq_len, self._blocked(seq_len)
        rows = -(-n // self.block) * self.block + self.window + self.after if around else n
        return self._flops(batch_size, n, rows, self._executed_pairs(n))

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Three times the forward pass, and the window's scores once more: its kernel does not keep them."""
        again = 2 * batch_size * self._executed_pairs(seq_len) * self.d_model
        return 3 * self.forward_flops(batch_size, seq_len) + again

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Only the keys that a query sees, and nothing for the global tokens' windows, which are not used."""
        n, count = seq_len, min(self.global_tokens, seq_len)
        pairs = sum(
            count + min(i + self.after, n - 1) - max(i - self.window, count) + 1 for i in range(count, n)
        )
        return self._flops(batch_size, n, n, pairs)

    def saved_bytes(self, batch_size: int, seq_len: int) -> int | None:
        """Padded input, q, k and v, the mask, what the kernel returns, and the global tokens' share.

        Not declared for the causal form.
        """
        if self.causal:
            return None
        n, d, h, count = seq_len, self.d_model, self.heads, min(self.global_tokens, seq_len)
        whole = d * count + 2 * h * count * d + h * count * n + n * d if count else 0
        if count > 1 and batch_size > 1:
            whole += d * count  # their inputs, which do not lie side by side
        if not self._blocked(n):
            kept = batch_size * (4 * n * d + n * h + whole) + n * n
        else:
            blocks, keys = -(-n // self.block), count + self.span
            rows = blocks * self.block
            padded, copied = rows + self.window + self.after, 2 * blocks * keys * d if count else 0
            local = 4 * padded * d + rows * keys + copied + rows * (h + d)
            kept = batch_size * (local + (whole or n * d))
        return self.qkv.weight.element_size() * kept

    def _flops(self, batch_size: int, seq_len: int, rows: int, pairs: int) -> int:
        """Queries, keys and values of so many rows, so many pairs, the output, and the global tokens' own."""
        n, d, count = seq_len, self.d_model, min(self.global_tokens, seq_len)
        # query, its way into the input's space, scores, sums of the input, value: for each global token
        whole = 2 * count * d * (3 * d + 2 * (count if self.causal else n) * self.heads)
        return batch_size * (2 * d * d * (3 * rows + n) + 4 * pairs * d + whole)

    def _executed_pairs(self, n: int) -> int:
        """Query-key pairs that the window's kernel computes."""
        keys = min(self.global_tokens, n) + self.span
        return -(-n // self.block) * self.block * keys if self._blocked(n) else n * n

    def _blocked(self, n: int) -> bool:
        """Whether a block sees less than the whole sequence, so that blocks are worth their trouble."""
        return n > min(self.global_tokens, n) + self.span

    def _local(self, x: Tensor, mask: Tensor | None, count: int) -> Tensor:
        """Window and global keys for every token: [B, N, D]; rows of global tokens are of no use."""
        n = x.shape[1]
        if not self._blocked(n):
            q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
            position = torch.arange(n, device=x.device)
            ahead = position - position[:, None]
            sees = ((ahead >= -self.window) | (position < count)) & (ahead <= self.after)
            sees = sees if self.causal else sees | (position < count)
            sees = sees if mask is None else sees & mask[:, None, None]
            return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=sees))
        blocks = -(-n // self.block)
        sees = self._sees(n, blocks, count, mask, x.device).expand(x.shape[0], -1, -1, -1)
        # one product makes queries, keys and values with a window of zeros around, of which windows are views
        around = (0, 0, self.window, self.after + blocks * self.block - n)
        sequences = zip(self.qkv(F.pad(x, around)).unbind(), sees.unbind(), strict=True)
        return torch.stack([self._blocks(qkv_r3D, seen, blocks, count)[:n] for qkv_r3D, seen in sequences])

    def _blocks(self, qkv_r3D: Tensor, sees: Tensor, blocks: int, count: int) -> Tensor:
        """One sequence, from the padded product [window + N + after, 3 D]: [blocks block, D].

        A block of queries is an element of the kernel's batch, so that heads share its mask.
        """
        q, k, v = (part.unflatten(1, (self.heads, self.d_head)) for part in qkv_r3D.chunk(3, dim=1))
        q_bhqd = (
            q[self.window : self.window + blocks * self.block]
            .unflatten(0, (blocks, self.block))
            .transpose(1, 2)
        )
        keys, values = (self._seen(part, blocks, count) for part in (k, v))
        mixed_bhqd = F.scaled_dot_product_attention(q_bhqd, keys, values, attn_mask=sees[:, None])
        merged: Tensor = mixed_bhqd.transpose(1, 2).flatten(0, 1).flatten(1)
        return merged

    def _seen(self, part_rhd: Tensor, blocks: int, count: int) -> Tensor:
        """The global keys and the window of each block: [blocks, heads, count + keys, d]."""
        windows = strided_windows(part_rhd, blocks, self.block, self.span)
        if not count:
            return windows
        whole = part_rhd[self.window : self.window + count].transpose(0, 1).expand(blocks, -1, -1, -1)
        return torch.cat([whole, windows], dim=2)

    def _windows(self, t_bn: Tensor, blocks: int) -> Tensor:
        """[B, N] -> [B, blocks, block + window + after], overlapping views into one padded copy."""
        padded = F.pad(t_bn, (self.window, self.after + blocks * self.block - t_bn.shape[1]))
        windows: Tensor = padded.unfold(1, self.span, self.block)
        return windows

    def _sees(self, n: int, blocks: int, count: int, mask: Tensor | None, device: torch.device) -> Tensor:
        """Which keys each query sees, global ones in the first columns: [B or 1, blocks, block, keys]."""
        query = torch.arange(self.block, device=device)[:, None]
        offset = torch.arange(self.span, device=device)
        ahead = offset - self.window - query
        near = (ahead >= -self.window) & (ahead <= self.after)
        real = torch.ones(1, n, dtype=torch.bool, device=device) if mask is None else mask
        local = real & (torch.arange(n, device=device) >= count)
        sees = near & self._windows(local, blocks)[:, :, None]
        whole = real[:, None, None, :count].expand(-1, blocks, self.block, -1)
        return torch.cat([whole, sees], dim=-1)

    def _global(self, x: Tensor, mask: Tensor | None, count: int) -> Tensor:
        """What the global tokens gather from all tokens, causal from each other: [B, count, D]."""
        q = split_heads(self.query_global(x[:, :count]), self.heads)
        key_hde = self.key_global.weight.unflatten(0, (self.heads, self.d_head))
        value_hde = self.value_global.weight.unflatten(0, (self.heads, self.d_head))
        seeking = torch.einsum("bhgd,hde->bhge", q, key_hde).flatten(1, 2)  # [B, heads count, D]
        if self.causal:
            x, mask = x[:, :count], None if mask is None else mask[:, :count]
        allowed = None if mask is None else mask[:, None]
        if self.causal:
            past = torch.ones(count, count, dtype=torch.bool, device=x.device).tril().repeat(self.heads, 1)
            allowed = past if allowed is None else past & allowed
        scores = seeking @ x.mT / self.d_head**0.5
        weights = masked_softmax(scores, allowed, -1)
        gathered = (weights @ x).unflatten(1, (self.heads, count))
        return torch.einsum("bhge,hde->bghd", gathered, value_hde).flatten(2)

"""Longformer-style: a sliding window and a few global tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import masked_softmax, merge_heads, refuse_causal, require, split_heads
from effbench.mechanism import Mechanism

QUERY_BLOCK = 64


class Longformer(Mechanism):
    """Sliding-window attention with global tokens.

    The first ``global_tokens`` tokens are global. Any other token i attends to the tokens j with
    |i - j| <= ``window`` (one-sided: 2 window + 1 wide) and to the global tokens, each key once, in one
    softmax of q . k / sqrt(d). Global tokens attend to all tokens through query, key and value projections of
    their own (without bias). ``global_tokens=0`` is a pure sliding window. x [B, N, D] -> [B, N, D];
    O(N window D), memory O(N (window + block) D / block) with global tokens, whose keys are copied to every
    block of queries, and O(N D) without.

    Queries go in blocks of 64 against the 64 + 2 window keys that any of them may see, views into one padded
    buffer; an input that is no longer than those keys is one block with a band mask. The keys and values of
    the global tokens' own attention are never made for all tokens: q_g . (W x_j) = (W^T q_g) . x_j, and
    sum_j a_j W x_j = W sum_j a_j x_j.
    """

    order = 1.0
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
        refuse_causal(causal, "longformer", "its causal window is not written yet")
        require(window >= 1, "window", window, "at least 1")
        require(global_tokens >= 0, "global_tokens", global_tokens, "at least 0")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.window = window
        self.global_tokens = global_tokens
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        if global_tokens:
            self.query_global = nn.Linear(d_model, d_model, bias=False)
            self.key_global = nn.Linear(d_model, d_model, bias=False)
            self.value_global = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        count = min(self.global_tokens, x.shape[1])
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
        real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        weights = masked_softmax(q @ k.mT / self.d_head**0.5, sees & real[:, None, None], -1)
        mixed = merge_heads(weights @ v)
        if count:
            maps = (self.query_global, self.key_global, self.value_global)
            q, k, v = (split_heads(project(x), self.heads) for project in maps)
            weights = masked_softmax(q @ k.mT / self.d_head**0.5, real[:, None, None], -1)
            mixed = torch.where((position < count)[:, None], merge_heads(weights @ v), mixed)
        return self.out(mixed)  # type: ignore[no-any-return]

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Four projections, the blocks' products with all the keys they are given, and the global tokens'."""
        n, d, count = seq_len, self.d_model, min(self.global_tokens, seq_len)
        block, blocks = _blocks(n)
        local = 4 * n * n * d
        if not self._is_short(n):
            local = 4 * blocks * block * (block + 2 * self.window + count) * d
        # query, its way into the input's space, scores, sums of the input, value: for each global token
        whole = 2 * count * d * (3 * d + 2 * n * self.heads)
        return batch_size * (2 * n * d * 4 * d + local + whole)

    def _is_short(self, n: int) -> bool:
        """Whether a block's keys would be as many as all there are: no work is saved by blocks then."""
        return n <= QUERY_BLOCK + 2 * self.window

    def _local(self, x: Tensor, mask: Tensor | None, count: int) -> Tensor:
        """Window and global keys for every token: [B, N, D]; rows of global tokens are of no use."""
        b, n, _ = x.shape
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        if self._is_short(n):
            position = torch.arange(n, device=x.device)
            band = ((position[:, None] - position).abs() <= self.window) | (position < count)
            sees = band[None, None] if mask is None else band & mask[:, None, None]
            return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=sees))
        block, blocks = _blocks(n)
        after = blocks * block - n
        q = F.pad(q, (0, 0, 0, after)).unflatten(2, (blocks, block)).flatten(0, 1)
        keys, values = (self._windows(part, block, after) for part in (k, v))
        sees = self._sees(n, block, blocks, count, x.device)  # [1, blocks, block, block + 2 window]
        if mask is not None:
            padded = F.pad(mask, (self.window, self.window + after))
            sees = sees & padded.unfold(1, block + 2 * self.window, block)[:, :, None]
        if count:
            whole = (part[:, :, None, :count].expand(-1, -1, blocks, -1, -1).flatten(0, 1) for part in (k, v))
            keys, values = (torch.cat(pair, dim=2) for pair in zip(whole, (keys, values), strict=True))
            real = sees.new_ones(1, count) if mask is None else mask[:, :count]
            both = real[:, None, None].expand(sees.shape[0], blocks, block, -1)
            sees = torch.cat([both, sees], dim=-1)
        if sees.shape[0] > 1:
            sees = sees.repeat_interleave(self.heads, dim=0)
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=sees)
        return merge_heads(mixed.unflatten(0, (b, self.heads)).flatten(2, 3)[:, :, :n])

    def _windows(self, part_bhnd: Tensor, block: int, after: int) -> Tensor:
        """The keys each block may see: [B heads, blocks, block + 2 window, d], overlapping views."""
        padded = F.pad(part_bhnd, (0, 0, self.window, self.window + after))
        return padded.flatten(0, 1).unfold(1, block + 2 * self.window, block).mT

    def _sees(self, n: int, block: int, blocks: int, count: int, device: torch.device) -> Tensor:
        """Which of its window's keys each query sees: near, inside the sequence, not a global token."""
        query = torch.arange(block, device=device)[:, None]
        offset = torch.arange(block + 2 * self.window, device=device)
        near = (offset - self.window - query).abs() <= self.window
        key = torch.arange(blocks, device=device)[:, None, None] * block + offset - self.window
        return (near & (key >= count) & (key < n))[None]

    def _global(self, x: Tensor, mask: Tensor | None, count: int) -> Tensor:
        """What the global tokens gather from all tokens: [B, count, D]."""
        q = split_heads(self.query_global(x[:, :count]), self.heads)
        key_hde = self.key_global.weight.unflatten(0, (self.heads, self.d_head))
        value_hde = self.value_global.weight.unflatten(0, (self.heads, self.d_head))
        seeking = torch.einsum("bhgd,hde->bhge", q, key_hde).flatten(1, 2)  # [B, heads count, D]
        scores = seeking @ x.mT / self.d_head**0.5
        weights = masked_softmax(scores, None if mask is None else mask[:, None], -1)
        gathered = (weights @ x).unflatten(1, (self.heads, count))
        return torch.einsum("bhge,hde->bghd", gathered, value_hde).flatten(2)


def _blocks(n: int) -> tuple[int, int]:
    """(queries a block, blocks) for n tokens."""
    block = min(QUERY_BLOCK, n)
    return block, -(-n // block)

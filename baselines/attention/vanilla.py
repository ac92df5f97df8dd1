"""Vanilla: softmax attention over all pairs of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import masked_softmax, merge_heads, split_heads
from effbench.mechanism import Mechanism


class Vanilla(Mechanism):
    """Softmax attention over all pairs of tokens, through torch's fused kernel.

    Per head: out = softmax(Q K^T / sqrt(d)) V with Q, K, V = x W + b; heads concatenated, then an output
    projection with bias. x [B, N, D] -> [B, N, D]. Time O(N^2 D); the fused kernel never holds the N x N
    scores, so memory is O(N D). Causal: token i sees tokens 0 to i.
    """

    order = 2.0
    source = "Vaswani et al. 2017, Attention Is All You Need (arXiv 1706.03762)"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        if mask is None:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            allowed = mask[:, None, None, :]
            if self.causal:
                allowed = allowed & _not_future(x.shape[1], x.device)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.out(merge_heads(mixed))  # type: ignore[no-any-return]

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """By the formula, with the N x N matrix."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        scores_bhnm = q @ k.mT / self.d_head**0.5
        allowed = torch.ones_like(scores_bhnm, dtype=torch.bool)
        if mask is not None:
            allowed = allowed & mask[:, None, None, :]
        if self.causal:
            allowed = allowed & _not_future(x.shape[1], x.device)
        return self.out(merge_heads(masked_softmax(scores_bhnm, allowed, -1) @ v))  # type: ignore[no-any-return]

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Four projections and the two products of the kernel; causal runs count in full."""
        n, d = seq_len, self.d_model
        return batch_size * (2 * n * d * 4 * d + 4 * n * n * d)


def _not_future(n: int, device: torch.device) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()

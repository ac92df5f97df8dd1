"""torch's own layers as mechanisms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.peers._peer import Peer


class MultiheadAttention(Peer):
    """torch's nn.MultiheadAttention, without its map of weights: vanilla attention.

    In inference it uses torch's fused path, which holds the scores; in training the fused kernel.
    """

    order = 2.0
    source = "torch.nn.MultiheadAttention"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.layer = nn.MultiheadAttention(d_model, heads, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        n = x.shape[1]
        future = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1) if self.causal else None
        padding = None if mask is None else ~mask
        out, _ = self.layer(
            x, x, x, key_padding_mask=padding, need_weights=False, attn_mask=future, is_causal=self.causal
        )
        return out  # type: ignore[no-any-return]


class ScaledDotProduct(Peer):
    """Four nn.Linear around torch's F.scaled_dot_product_attention: vanilla attention as usually written."""

    order = 2.0
    memory_order = 1.0
    source = "torch.nn.functional.scaled_dot_product_attention"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.query, self.key, self.value, self.out = (nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        q, k, v = (
            part(x).unflatten(-1, (self.heads, self.d_head)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        allowed = None if mask is None else mask[:, None, None]
        if allowed is not None and self.causal:
            n = x.shape[1]
            allowed = allowed & torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, is_causal=self.causal and allowed is None
        )
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

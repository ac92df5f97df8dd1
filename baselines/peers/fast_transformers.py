"""Layers of pytorch-fast-transformers as mechanisms."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.peers._peer import Peer
from effbench import Unsupported


class Linear(Peer):
    """`pytorch-fast-transformers`' linear attention, elu(x) + 1; causal through its own compiled kernel.

    The library only asks whether its N x N masks are all ones or lower triangular, so they are not built.
    FLOPs of the causal kernel are not counted, because torch does not see it.
    """

    order = 1.0
    memory_order = 1.0
    source = "github.com/idiap/fast-transformers"
    requires = "pytorch-fast-transformers"
    install = "pip install torch && pip install --no-build-isolation pytorch-fast-transformers"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        from fast_transformers.attention import AttentionLayer, CausalLinearAttention, LinearAttention

        kind = CausalLinearAttention if causal else LinearAttention
        self.layer = AttentionLayer(kind(self.d_head), d_model, heads)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token, padding last -> [B, N, D]."""
        from fast_transformers.masking import LengthMask

        b, n, _ = x.shape
        lengths = x.new_full((b,), n, dtype=torch.long) if mask is None else mask.sum(1)
        if mask is not None and bool((mask != (torch.arange(n, device=x.device) < lengths[:, None])).any()):
            raise Unsupported("pytorch-fast-transformers takes padding only at the end")
        real = LengthMask(lengths, max_len=n)
        return self.layer(x, x, x, _Everything(), real, real)  # type: ignore[no-any-return]


class _Everything:
    """An attention mask that hides nothing: the two attributes that the library reads."""

    all_ones = True
    lower_triangular = True

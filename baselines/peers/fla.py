"""Layers of flash-linear-attention as mechanisms; CUDA only, causal only."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from baselines.peers._peer import Peer, refuse_mask
from effbench import Unsupported


class LinearAttention(Peer):
    """`flash-linear-attention`'s linear attention, causal, by its Triton kernels."""

    order = 1.0
    memory_order = 1.0
    source = "github.com/fla-org/flash-linear-attention"
    requires = "flash-linear-attention"
    install = "pip install flash-linear-attention (on a machine with a GPU)"

    layer_class: ClassVar[str] = "LinearAttention"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        if not torch.cuda.is_available():
            raise Unsupported(
                "flash-linear-attention has kernels for CUDA only; this torch finds no CUDA device"
            )
        if not causal:
            raise Unsupported("flash-linear-attention's layers are causal only: ask for causal=true")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        import fla.layers

        self.layer = getattr(fla.layers, self.layer_class)(hidden_size=d_model, num_heads=heads)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]; no mask."""
        refuse_mask(mask, "this adapter of flash-linear-attention")
        return self.layer(x)[0]  # type: ignore[no-any-return]


class GatedLinearAttention(LinearAttention):
    """`flash-linear-attention`'s gated linear attention, causal."""

    order = 1.0
    memory_order = 1.0
    source = "github.com/fla-org/flash-linear-attention; Yang et al. 2023 (arXiv 2312.06635)"
    requires = "flash-linear-attention"
    install = "pip install flash-linear-attention (on a machine with a GPU)"

    layer_class = "GatedLinearAttention"


class Retention(LinearAttention):
    """`flash-linear-attention`'s multi-scale retention, causal."""

    order = 1.0
    memory_order = 1.0
    source = "github.com/fla-org/flash-linear-attention; Sun et al. 2023 (arXiv 2307.08621)"
    requires = "flash-linear-attention"
    install = "pip install flash-linear-attention (on a machine with a GPU)"

    layer_class = "MultiScaleRetention"


class DeltaNet(LinearAttention):
    """`flash-linear-attention`'s DeltaNet, causal."""

    order = 1.0
    memory_order = 1.0
    source = "github.com/fla-org/flash-linear-attention; Yang et al. 2024 (arXiv 2406.06484)"
    requires = "flash-linear-attention"
    install = "pip install flash-linear-attention (on a machine with a GPU)"

    layer_class = "DeltaNet"

"""Layers of lucidrains' packages as mechanisms."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from baselines.peers._peer import Peer, refuse_causal, refuse_mask
from effbench import Unsupported


class Linformer(Peer):
    """`linformer`: keys and values are computed for all tokens, then projected along the sequence.

    ``share_kv`` shares the key and value maps too (values are the keys): less work than sharing E and F.
    """

    order = 1.0
    memory_order = 1.0
    source = "github.com/lucidrains/linformer"
    requires = "linformer"
    install = "pip install 'effbench[peers]'"

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        causal: bool = False,
        k: int = 256,
        share_kv: bool = False,
    ) -> None:
        refuse_causal(causal, "linformer")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        from linformer.linformer import LinformerSelfAttention

        self.layer = LinformerSelfAttention(
            d_model, max_len, k=min(k, max_len), heads=heads, share_kv=share_kv
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]; no mask."""
        refuse_mask(mask, "linformer")
        return self.layer(x)  # type: ignore[no-any-return]


class Fastformer(Peer):
    """`fast-transformer-pytorch`: another function than the paper's.

    It has separate values, scoring vectors and an output map shared by all heads, a global key that sums k
    rather than p, and one more output projection. Its rotary embedding is left out: it fails with the current
    version of the rotary library.
    """

    order = 1.0
    memory_order = 1.0
    source = "github.com/lucidrains/fast-transformer-pytorch"
    requires = "fast-transformer-pytorch"
    install = "pip install 'effbench[peers]'"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        if causal:
            raise Unsupported("fast-transformer-pytorch is an encoder only")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        from fast_transformer_pytorch.fast_transformer_pytorch import FastAttention

        self.layer = FastAttention(d_model, heads=heads, dim_head=self.d_head)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        return self.layer(x, mask=_all_real(x) if mask is None else mask)  # type: ignore[no-any-return]


class Local(Peer):
    """`local-attention`: an exact window of ``window`` tokens per side, no positions, no bias."""

    order = 1.0
    memory_order = 1.0
    source = "github.com/lucidrains/local-attention"
    requires = "local-attention"
    install = "pip install 'effbench[peers]'"

    def __init__(
        self, d_model: int, heads: int, *, max_len: int, causal: bool = False, window: int = 128
    ) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        from local_attention.transformer import LocalMHA

        self.layer = LocalMHA(
            dim=d_model,
            window_size=window,
            dim_head=self.d_head,
            heads=heads,
            causal=causal,
            exact_windowsize=True,
            use_rotary_pos_emb=False,
        )
        self.window = window

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        if mask is None and not self.causal and x.shape[1] % self.window:
            mask = _all_real(x)
        return self.layer(x, mask=mask)  # type: ignore[no-any-return]


class Performer(Peer):
    """`performer-pytorch`: FAVOR+ with its own epsilon (1e-4), or generalized attention with ReLU.

    Without its CUDA kernel the causal form keeps one sum per token.
    """

    order = 1.0
    memory_order = 1.0
    source = "github.com/lucidrains/performer-pytorch"
    requires = "performer-pytorch"
    install = "pip install 'effbench[peers]'"

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        causal: bool = False,
        features: int = 0,
        kernel: Literal["softmax", "relu"] = "softmax",
    ) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        from performer_pytorch import SelfAttention

        self.layer = SelfAttention(
            d_model,
            causal=causal,
            heads=heads,
            dim_head=self.d_head,
            nb_features=features or None,
            generalized_attention=kernel == "relu",
            qkv_bias=True,
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]; no mask, since the library leaves padding in the denominator."""
        refuse_mask(mask, "performer-pytorch")
        return self.layer(x)  # type: ignore[no-any-return]


class Nystromformer(Peer):
    """`nystrom-attention`, without its convolution; its first iterate is scaled over the whole batch."""

    order = 1.0
    memory_order = 1.0
    source = "github.com/lucidrains/nystrom-attention"
    requires = "nystrom-attention"
    install = "pip install 'effbench[peers]'"

    def __init__(
        self, d_model: int, heads: int, *, max_len: int, causal: bool = False, landmarks: int = 64
    ) -> None:
        refuse_causal(causal, "nystrom-attention")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        from nystrom_attention import NystromAttention

        self.layer = NystromAttention(
            d_model, dim_head=self.d_head, heads=heads, num_landmarks=landmarks, residual=False
        )
        self.landmarks = landmarks

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        if mask is None and x.shape[1] % self.landmarks:
            mask = _all_real(x)
        return self.layer(x, mask=mask)  # type: ignore[no-any-return]


def _all_real(x: Tensor) -> Tensor:
    """Return a mask for libraries that fill up a length with zeros and hide them only if given a mask."""
    return torch.ones_like(x[..., 0], dtype=torch.bool)

"""Layers of Hugging Face's transformers as mechanisms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from baselines.peers._peer import Peer, refuse_causal, refuse_mask
from effbench import Unsupported


class Longformer(Peer):
    """`transformers`' Longformer self-attention and an output projection; ``window`` tokens per side.

    The first ``global_tokens`` tokens are global. The layer needs whole pairs of windows: other lengths are
    padded, as in its model.
    """

    order = 1.0
    memory_order = 1.0
    source = "github.com/huggingface/transformers, models/longformer"
    requires = "transformers"
    install = "pip install 'effbench[peers]'"

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
        refuse_causal(causal, "transformers' Longformer")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        from transformers import LongformerConfig
        from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

        config = LongformerConfig(
            hidden_size=d_model,
            num_attention_heads=heads,
            attention_window=[2 * window],
            attention_probs_dropout_prob=0.0,
        )
        self.layer = LongformerSelfAttention(config, layer_id=0)
        self.out = nn.Linear(d_model, d_model)
        self.window, self.global_tokens = window, global_tokens

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        b, n, _ = x.shape
        after = -n % (2 * self.window)
        kind = torch.zeros(b, n, dtype=x.dtype, device=x.device)  # < 0 padding, 0 local, > 0 global
        kind[:, : self.global_tokens] = 10000.0
        if mask is not None:
            kind = kind.masked_fill(~mask, -10000.0)
        kind = F.pad(kind, (0, after), value=-10000.0)
        (mixed,) = self.layer(
            F.pad(x, (0, 0, 0, after)),
            attention_mask=kind,
            is_index_masked=kind < 0,
            is_index_global_attn=kind > 0,
            is_global_attn=self.global_tokens > 0,
        )[:1]
        return self.out(mixed[:, :n])  # type: ignore[no-any-return]


class BigBird(Peer):
    """`transformers`' BigBird block-sparse self-attention and an output projection.

    As shipped it also builds the N x N map of all heads only to return it; ``build_map=false`` prevents that.
    In eval mode all its random blocks are block 0. In train mode they come from the first 704 tokens, or at
    N = 1024, 3072, 4096 from the first 1024.
    """

    order = 1.0
    memory_order = 1.0
    source = "github.com/huggingface/transformers, models/big_bird"
    requires = "transformers"
    install = "pip install 'effbench[peers]'"

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        causal: bool = False,
        block: int = 64,
        random_blocks: int = 3,
        build_map: bool = False,
    ) -> None:
        refuse_causal(causal, "transformers' BigBird")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        from transformers import BigBirdConfig
        from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

        config = BigBirdConfig(
            hidden_size=d_model,
            num_attention_heads=heads,
            block_size=block,
            num_random_blocks=random_blocks,
            max_position_embeddings=max_len,
            use_bias=True,
            attention_probs_dropout_prob=0.0,
        )
        self.layer = BigBirdBlockSparseAttention(config, seed=0)
        self.out = nn.Linear(d_model, d_model)
        self.block, self.random_blocks, self.build_map = block, random_blocks, build_map

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        from transformers.models.big_bird.modeling_big_bird import BigBirdModel

        b, n, _ = x.shape
        least = (5 + 2 * self.random_blocks) * self.block
        if n % self.block or n <= least:
            raise Unsupported(
                f"transformers' BigBird needs more than {least} tokens, in whole blocks of {self.block}; "
                f"there are {n}"
            )
        real = x.new_ones(b, n) if mask is None else mask.to(x.dtype)
        blocked, band, rows, columns = BigBirdModel.create_masks_for_block_sparse_attn(real, self.block)
        masks = {
            "band_mask": band,
            "from_mask": rows,
            "to_mask": columns,
            "from_blocked_mask": blocked,
            "to_blocked_mask": blocked,
        }
        if self.build_map:
            mixed, _ = self.layer(x, **masks)
        else:
            with _WithoutMap((b, self.heads, n, n)):
                mixed, _ = self.layer(x, **masks)
        return self.out(mixed)  # type: ignore[no-any-return]


class _Nothing(Tensor):
    """A placeholder for a tensor that nobody reads: every operation returns the placeholder."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") == "__get__":  # its device, dtype or shape
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        return args[0]


class _WithoutMap(TorchFunctionMode):
    """A mode in which ``torch.zeros`` of one shape returns the placeholder."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.zeros and args == self.shape:
            return torch.empty(0).as_subclass(_Nothing)
        return func(*args, **(kwargs or {}))


class Nystromformer(Peer):
    """`transformers`' Nystromformer self-attention, without its convolution, and an output projection.

    Its first iterate is scaled over the whole batch; N must be a multiple of its landmarks.
    """

    order = 1.0
    memory_order = 1.0
    source = "github.com/huggingface/transformers, models/nystromformer"
    requires = "transformers"
    install = "pip install 'effbench[peers]'"

    def __init__(
        self, d_model: int, heads: int, *, max_len: int, causal: bool = False, landmarks: int = 64
    ) -> None:
        refuse_causal(causal, "transformers' Nystromformer")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        from transformers import NystromformerConfig
        from transformers.models.nystromformer.modeling_nystromformer import NystromformerSelfAttention

        config = NystromformerConfig(
            hidden_size=d_model,
            num_attention_heads=heads,
            num_landmarks=landmarks,
            segment_means_seq_len=max_len,
            conv_kernel_size=1,  # it must be a number
            attention_probs_dropout_prob=0.0,
        )
        self.layer = NystromformerSelfAttention(config)
        del self.layer.conv
        self.layer.conv_kernel_size = None
        self.out = nn.Linear(d_model, d_model)
        self.landmarks = landmarks

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, max_len, D] -> [B, max_len, D]; no mask, since its landmarks would include padding."""
        refuse_mask(mask, "transformers' Nystromformer")
        if x.shape[1] != self.max_len or self.max_len % self.landmarks:
            raise Unsupported(
                f"transformers' Nystromformer was made for {self.max_len} tokens in {self.landmarks} "
                f"segments; there are {x.shape[1]}"
            )
        return self.out(self.layer(x)[0])  # type: ignore[no-any-return]


class FNet(Peer):
    """`transformers`' FNet mixing: the real part of a two-dimensional FFT."""

    order = "N log N"
    memory_order = 1.0
    source = "github.com/huggingface/transformers, models/fnet"
    requires = "transformers"
    install = "pip install 'effbench[peers]'"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        refuse_causal(causal, "transformers' FNet")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        from transformers import FNetConfig
        from transformers.models.fnet.modeling_fnet import FNetBasicFourierTransform

        self.layer = FNetBasicFourierTransform(
            FNetConfig(hidden_size=d_model, use_tpu_fourier_optimizations=False)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]; no mask."""
        refuse_mask(mask, "transformers' FNet")
        return self.layer(x)[0]  # type: ignore[no-any-return]

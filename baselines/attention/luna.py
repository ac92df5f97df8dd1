"""Luna: a short learned sequence attends to the tokens, and the tokens attend to its result."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import (
    clear_padding,
    masked_softmax,
    merge_heads,
    projected,
    require,
    split_heads,
    wide_bytes,
)
from effbench import Mechanism


class Luna(Mechanism):
    """Two nested attentions through a learned sequence P of l = ``length`` rows.

    With attend(q, k, v) = softmax(q k^T / sqrt(d)) v per head, heads concatenated::

        packed = attend(P W_1, x W_2, x W_3)                     [B, l, D]
        out = attend(x W_4, packed W_5, packed W_6) W_o          [B, N, D]

    every W with bias. x [B, N, D] -> [B, N, D]. Both attentions go through a fused kernel that never holds
    their l x N maps. One product of x computes the maps W_2, W_3 and W_4; the queries of P are computed once
    per batch. O(N (l + D) D), memory O(N D).

    Differences from the paper, and choices where it says nothing: the packing has no output projection, since
    W_5 and W_6 follow it. The layer norms and residuals between and around the two attentions of the paper's
    block are left out. P belongs to this layer, with rows as large as normalised tokens. In the paper P is
    passed from layer to layer; here packed is not returned, since an encoder passes on tokens only. Cross: P
    packs the memory.

    Raises ValueError for a wrong option and Unsupported for ``causal=True``.
    """

    order = 1.0
    memory_order = 1.0
    equivariant = True
    no_causal = "the packed sequence sums over all tokens, the future's too"
    source = "Ma et al. 2021, Luna: Linear Unified Nested Attention (arXiv 2106.01540)"

    def __init__(
        self, d_model: int, heads: int, *, max_len: int, causal: bool = False, length: int = 64
    ) -> None:
        require(length >= 1, "length", length, "at least 1")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.length = length
        self.learned = nn.Parameter(torch.randn(length, d_model))
        self.pack_query = nn.Linear(d_model, d_model)
        self.from_tokens = nn.Linear(d_model, 3 * d_model)  # keys and values to pack, queries to unpack
        self.from_packed = nn.Linear(d_model, 2 * d_model)  # keys and values to unpack
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        x = clear_padding(x, mask)
        k, v, q = (split_heads(part, self.heads) for part in self.from_tokens(x).chunk(3, dim=-1))
        return self._unpacked(q, *self._packed(k, v, mask))

    def remember(self, memory: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """memory [B, M, D], mask [B, M] -> keys and values [B, heads, l, d] of the packed memory."""
        pair = projected(clear_padding(memory, mask), self.from_tokens, slice(2 * self.d_model))
        k, v = (split_heads(part, self.heads) for part in pair.chunk(2, dim=-1))
        return self._packed(k, v, mask)

    def attend(self, x: Tensor, remembered: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, N, D] and the packed memory -> [B, N, D]."""
        q = projected(x, self.from_tokens, slice(2 * self.d_model, None))
        return self._unpacked(split_heads(q, self.heads), *remembered)

    def _packed(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the keys and values [B, heads, l, d] of the packed rows."""
        learned_bhld = split_heads(self.pack_query(self.learned)[None], self.heads).expand(len(k), -1, -1, -1)
        real = None if mask is None else mask[:, None, None]
        packed_blD = merge_heads(F.scaled_dot_product_attention(learned_bhld, k, v, attn_mask=real))
        k, v = (split_heads(part, self.heads) for part in self.from_packed(packed_blD).chunk(2, dim=-1))
        return k, v

    def _unpacked(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.out(merge_heads(F.scaled_dot_product_attention(q, k, v)))  # type: ignore[no-any-return]

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the formula, with both maps."""
        k, v, q_tokens = self.from_tokens(x).chunk(3, dim=-1)
        real = None if mask is None else mask[:, None, None]
        packed = self._dense(self.pack_query(self.learned).expand(len(x), -1, -1), k, v, real)
        k, v = self.from_packed(packed).chunk(2, dim=-1)
        return self.out(self._dense(q_tokens, k, v, None))  # type: ignore[no-any-return]

    def _dense(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """Return one attention of the reference, with its map: [B, rows, D]."""
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        return merge_heads(masked_softmax(q @ k.mT / self.d_head**0.5, allowed, -1) @ v)

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Four projections of tokens, two of packed rows, both attentions; queries of P once per batch."""
        n, d, rows = seq_len, self.d_model, self.length
        sequence = 2 * n * d * 4 * d + 2 * rows * d * 2 * d + 2 * 4 * n * rows * d
        return batch_size * sequence + 2 * rows * d * d

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Three times the forward pass, and the scores once more, which the kernel does not keep."""
        again = 2 * 2 * batch_size * seq_len * self.length * self.d_model
        return 3 * self.forward_flops(batch_size, seq_len) + again

    def saved_bytes(self, batch_size: int, seq_len: int) -> int:
        """Keys, values, queries, heads' outputs of tokens and packed rows; one wide sum per row of scores."""
        n, d, h, rows = seq_len, self.d_model, self.heads, self.length
        kept = batch_size * (n * 4 * d + rows * 3 * d) + rows * d
        weight = self.out.weight
        return weight.element_size() * kept + wide_bytes(weight) * batch_size * h * (n + rows)

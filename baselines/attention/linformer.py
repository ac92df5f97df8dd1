"""Linformer: keys and values projected along the sequence to a fixed length."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import (
    clear_padding,
    merge_heads,
    require,
    split_heads,
    wide_bytes,
)
from effbench import Mechanism


class Linformer(Mechanism):
    """Softmax attention to k projected keys and values.

    Per head: out = softmax(Q K~^T / sqrt(d)) V~ with K~ = E^T K, V~ = F^T V and learned E, F [max_len, k],
    shared by all heads (``share_kv``: F is E). An input shorter than max_len uses the first N rows; k is at
    most max_len. K and V have no bias, so E^T (x W_k) = (E^T x) W_k: the input is projected first, which
    costs k D^2 instead of N D^2. Padded rows are set to 0 before the projection. O(N k D), memory O(N D).
    x [B, N, D] -> [B, N, D]. Cross: keys and values are those of the memory.

    Raises ValueError for a wrong option and Unsupported for ``causal=True``.
    """

    order = 1.0
    memory_order = 1.0
    equivariant = False
    no_causal = "each projected key mixes all positions, the future's too"
    source = "Wang et al. 2020, Linformer: Self-Attention with Linear Complexity (arXiv 2006.04768)"

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
        require(k >= 1, "k", k, "at least 1")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.k = min(k, max_len)
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model)
        self.project_keys = nn.Parameter(torch.randn(max_len, self.k) * max_len**-0.5)
        self.project_values = (
            self.project_keys if share_kv else nn.Parameter(torch.randn(max_len, self.k) * max_len**-0.5)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        x = clear_padding(x, mask)
        return self.attend(x, self._keys_and_values(x))

    def remember(self, memory: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """memory [B, M, D], M at most max_len, mask [B, M] -> K~ and V~ [B, heads, k, d] of the memory."""
        return self._keys_and_values(clear_padding(memory, mask))

    def attend(self, x: Tensor, remembered: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, N, D] and the projected keys and values of a memory -> [B, N, D]."""
        q = split_heads(self.query(x), self.heads)
        mixed = F.scaled_dot_product_attention(q, *remembered)
        return self.out(merge_heads(mixed))  # type: ignore[no-any-return]

    def _keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return K~ and V~ [B, heads, k, d]."""
        beside = x.transpose(0, 1).reshape(x.shape[1], -1)  # [N, B D]: one product for all sequences
        inputs_k = self._short(self.project_keys, beside)
        shared = self.project_values is self.project_keys
        inputs_v = inputs_k if shared else self._short(self.project_values, beside)
        return split_heads(self.key(inputs_k), self.heads), split_heads(self.value(inputs_v), self.heads)

    def _short(self, project: Tensor, beside_nBD: Tensor) -> Tensor:
        """Return E^T x of all sequences, which lie side by side: [B, k, D]."""
        short_kBD = project[: len(beside_nBD)].mT @ beside_nBD
        short_bkD: Tensor = short_kBD.unflatten(1, (-1, self.d_model)).transpose(0, 1).contiguous()
        return short_bkD

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the formula: keys and values of all tokens, then projected along the sequence."""
        n = x.shape[1]
        keys, values = self.key(x), self.value(x)
        if mask is not None:
            keys, values = keys * mask[..., None], values * mask[..., None]
        keys = torch.einsum("nk,bnd->bkd", self.project_keys[:n], keys)
        values = torch.einsum("nk,bnd->bkd", self.project_values[:n], values)
        q, k, v = (split_heads(part, self.heads) for part in (self.query(x), keys, values))
        weights_bhnk = (q @ k.mT / self.d_head**0.5).softmax(dim=-1)
        return self.out(merge_heads(weights_bhnk @ v))  # type: ignore[no-any-return]

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Query and output projections, E and F on the input, K and V of k rows, the two products."""
        n, d, k = seq_len, self.d_model, self.k
        sequence = 1 if self.project_values is self.project_keys else 2
        return batch_size * (2 * n * d * 2 * d + sequence * 2 * k * n * d + 2 * 2 * k * d * d + 4 * n * k * d)

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Three times the forward pass, and the scores once more, which the kernel does not keep."""
        again = 2 * batch_size * seq_len * self.k * self.d_model
        return 3 * self.forward_flops(batch_size, seq_len) + again

    def saved_bytes(self, batch_size: int, seq_len: int) -> int:
        """Queries, heads' outputs, one sum per row in float32 at least; projected inputs, keys and values.

        Also the copy of the inputs side by side, unless a batch, length or width of 1 makes it a view.
        """
        n, d = seq_len, self.d_model
        short = (1 if self.project_values is self.project_keys else 2) + 2
        beside = 0 if 1 in (batch_size, n, d) else n * d
        kept = batch_size * (beside + 2 * n * d + short * self.k * d)
        weight = self.query.weight
        return weight.element_size() * kept + wide_bytes(weight) * batch_size * n * self.heads

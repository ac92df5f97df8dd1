"""A sliding window with attention sinks, as in StreamingLLM: the first tokens stay visible."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention import _ring
from baselines.attention._flex import Chosen
from baselines.attention._heads import (
    clear_padding,
    masked_softmax,
    merge_heads,
    require,
    split_heads,
    wide_bytes,
)
from baselines.attention._local import Local
from baselines.attention._ring import Ring


class Sinks(Chosen):
    """Causal attention to the last tokens and to the first ones, the attention sinks.

    Token i sees the tokens j <= i with j > i - ``window`` (its own and the window - 1 before it) or
    j < ``sinks``, in one softmax of q . k / sqrt(d). Positions are those in the padded sequence; padding is
    not seen. x [B, N, D] -> [B, N, D]; time O(N (window + sinks) D), memory O(N D).

    As in causal Longformer, queries are processed in blocks of 32 against views of the 31 + window keys that
    any of them may see, and the few sinks are added to each softmax by its logarithmic sum. The first tokens
    then attend to one another apart. Unlike Longformer's global tokens, they have no projections of their
    own.

    Step by step: the state is the keys and values of the sinks and of the last ``window`` other tokens.

    ``implementation``: ``blocked``, as above; ``flex``, FlexAttention; ``dense``, the reference. ``auto`` is
    flex on CUDA (float64: dense) and blocked on the CPU.

    The paper keeps a trained model's positions relative to the cache; here there are no positions. Raises
    ValueError for a wrong option.
    """

    order = 1.0
    memory_order = 1.0
    state_order = 0.0
    equivariant = False
    no_noncausal = "its window is one of past tokens; longformer has a window in both directions"
    no_cross = "its window is one of positions of the same sequence"
    source = "Xiao et al. 2023, Efficient Streaming Language Models with Attention Sinks (arXiv 2309.17453)"

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        causal: bool = False,
        window: int = 256,
        sinks: int = 4,
        implementation: Literal["auto", "blocked", "dense", "flex"] = "auto",
    ) -> None:
        require(window >= 1, "window", window, "at least 1")
        require(sinks >= 0, "sinks", sinks, "at least 0")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.window = window
        self.sinks = sinks
        self._choose(implementation)
        self.near = Local(window - 1, 0)
        self.slots = sinks + window  # of the state of a generation
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        how, n = self._how(), x.shape[1]
        x = clear_padding(x, mask)
        if how == "dense":
            return self.reference(x, mask)
        attend = self.near.attend_flex if how == "flex" else self.near.attend
        out: Tensor = self.out(attend(self.qkv, x, mask, self.heads, min(self.sinks, n)))
        first = slice(0, self._apart(n))
        if how == "blocked" and first.stop:
            out[:, first] = self.out(self._first(x[:, first], None if mask is None else mask[:, first]))
        return out

    def _first(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from the sinks to one another: [B, sinks, D] -> [B, sinks, D]."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        sees = past if mask is None else past & mask[:, None, None]
        return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=sees))

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, tuple[Ring, int]]:
        """x [B, N, D], mask [B, N] -> the outputs [B, N, D]; a ring of keys and values, and N."""
        n = x.shape[1]
        x = clear_padding(x, mask)
        ring = _ring.remembered(
            x,
            mask,
            self.qkv,
            slots=self.slots,
            first=self.sinks,
        )
        return self(x, mask) if n else x, (ring, n)

    def step(self, x: Tensor, state: tuple[Ring, int]) -> tuple[Tensor, tuple[Ring, int]]:
        """x [B, D] -> the output [B, D] for one more token, and the state with it."""
        ring, n = state
        q, key_value = self.qkv(x).split([self.d_model, 2 * self.d_model], dim=-1)
        ring = _ring.put(ring, _ring.slot(n, self.sinks, self.slots), key_value)
        return self.out(_ring.attended(q, ring, self.heads)), (ring, n + 1)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the definition, with the N x N map of visible keys."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        key = torch.arange(x.shape[1], device=x.device)
        query = key[:, None]
        sees = (key <= query) & ((key > query - self.window) | (key < self.sinks))
        if mask is not None:
            sees = sees & mask[:, None, None]
        weights = masked_softmax(q @ k.mT / self.d_head**0.5, sees, -1)
        return self.out(merge_heads(weights @ v))  # type: ignore[no-any-return]

    def _apart(self, n: int) -> int:
        """Return the number of sinks that attend to one another apart from the blocks."""
        return min(self.sinks, n) if self.near.blocked(n, self.sinks) else 0

    def forward_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Four projections, products of blocks with all their keys, and the sinks among themselves.

        Dense: all pairs. Not declared for flex.
        """
        how, n = self._how(), seq_len
        if how == "flex":
            return None
        if how == "dense":
            return self._flops(batch_size, n, n, n * n)
        apart = self._apart(n)
        pairs = sum(self.near.executed_pairs(n, self.sinks)) + apart * apart
        return self._flops(batch_size, n + apart, self.near.projected(n, self.sinks) + apart, pairs)

    def _flops(self, batch_size: int, outputs: int, rows: int, pairs: int) -> int:
        """Return FLOPs of q, k, v of ``rows`` rows, of ``pairs`` pairs, and of the output projection."""
        d = self.d_model
        return batch_size * (2 * d * d * (3 * rows + outputs) + 4 * pairs * d)

    def train_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Three times the forward pass; blocked also the scores once more, which the kernel does not keep."""
        forward = self.forward_flops(batch_size, seq_len)
        if forward is None:
            return None
        again = 0
        if self._how() == "blocked":
            again = self.near.executed_pairs(seq_len, self.sinks)[0] + self._apart(seq_len) ** 2
        return 3 * forward + 2 * batch_size * again * self.d_model

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Only the keys that a query sees."""
        pairs = sum(
            min(i + 1, self.window) + min(self.sinks, max(0, i + 1 - self.window)) for i in range(seq_len)
        )
        return self._flops(batch_size, seq_len, seq_len, pairs)

    def saved_bytes(self, batch_size: int, seq_len: int) -> int | None:
        """As for Local, and the sinks' own attention. Dense: tokens, weights and maps, as in Vanilla.

        Not declared for flex, which trains on CUDA only.
        """
        how = self._how()
        if how == "flex":
            return None
        n, d, h = seq_len, self.d_model, self.heads
        size, wide = self.qkv.weight.element_size(), wide_bytes(self.qkv.weight)
        if how == "dense":
            return batch_size * size * (4 * n * d + 2 * h * n * n) + 2 * n * n
        kept, sums = self.near.saved(batch_size, n, self.sinks, d, h)
        apart = self._apart(n)
        copied = 1 if apart > 1 and batch_size > 1 else 0  # their inputs, which do not lie side by side
        kept += batch_size * (4 + copied) * apart * d + apart * apart
        return size * kept + wide * (sums + batch_size * apart * h)

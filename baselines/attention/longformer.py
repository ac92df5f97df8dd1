"""Longformer-style: a sliding window and a few global tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from baselines.attention import _ring
from baselines.attention._flex import Chosen
from baselines.attention._heads import (
    clear_padding,
    masked_softmax,
    merge_heads,
    require,
    split_heads,
    summed,
    wide_bytes,
)
from baselines.attention._local import Local
from baselines.attention._ring import Ring

_State = tuple[Ring, Ring, int]  # keys and values; the global tokens' inputs; the number of tokens


class Longformer(Chosen):
    """Sliding-window attention with global tokens.

    The first ``global_tokens`` tokens are global. Any other token i attends to the tokens j with
    ``|i - j| <= window`` (one-sided: 2 window + 1 wide) and to the global tokens, each key once, in one
    softmax of q . k / sqrt(d). Global tokens attend to all tokens through query, key and value projections of
    their own (without bias). ``global_tokens=0`` is a pure sliding window. x [B, N, D] -> [B, N, D];
    time O(N window D); memory O(N D).

    Queries are processed in blocks of 32, against the 32 + 2 window keys that any of them may see, which are
    overlapping views of the sequence, one view near each end; the few global keys are added to each softmax
    by its logarithmic sum. A sequence no longer than a window is one masked softmax over all keys. For the
    global tokens' own attention the keys and values of all tokens are never computed:
    q_g . (W x_j) = (W^T q_g) . x_j, and sum_j a_j W x_j = W sum_j a_j x_j.

    ``implementation``: ``blocked``, as above; ``flex``, FlexAttention for the window and the global keys;
    ``dense``, the reference. ``auto`` is flex on CUDA (float64: dense) and blocked on the CPU.

    Causal: i - window <= j <= i. The first tokens remain global as keys; as queries they see only the global
    tokens up to themselves. Step by step: the state is the keys and values of the global tokens and of the
    last window + 1 others, and the global tokens themselves.

    Raises ValueError for a wrong option.
    """

    order = 1.0
    memory_order = 1.0
    state_order = 0.0
    equivariant = False
    no_cross = "its windows pair positions of one sequence"
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
        implementation: Literal["auto", "blocked", "dense", "flex"] = "auto",
    ) -> None:
        require(window >= 1, "window", window, "at least 1")
        require(global_tokens >= 0, "global_tokens", global_tokens, "at least 0")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.window = window
        self.global_tokens = global_tokens
        self._choose(implementation)
        self.near = Local(window, 0 if causal else window)
        self.slots = global_tokens + window + 1  # of the state of a generation
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        if global_tokens:
            self.query_global = nn.Linear(d_model, d_model, bias=False)
            self.key_global = nn.Linear(d_model, d_model, bias=False)
            self.value_global = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        count, how = min(self.global_tokens, x.shape[1]), self._how()
        x = clear_padding(x, mask)
        if how == "dense":
            return self.reference(x, mask)
        attend = self.near.attend_flex if how == "flex" else self.near.attend
        out: Tensor = self.out(attend(self.qkv, x, mask, self.heads, count))
        if count:
            out[:, :count] = self.out(self._global(x, mask, count))
        return out

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, _State]:
        """x [B, N, D], mask [B, N] -> the causal outputs [B, N, D]; a ring of keys and values, and N.

        With global tokens the state has their inputs too. Raises Unsupported if it is not causal.
        """
        _ring.require_causal(self.causal)
        n, count = x.shape[1], self.global_tokens
        x = clear_padding(x, mask)
        ring = _ring.remembered(
            x,
            mask,
            self.qkv,
            slots=self.slots,
            first=count,
        )
        first = None if mask is None else mask[:, :count]
        inputs = _ring.remembered(x[:, :count], first, None, slots=count, first=count)
        return self(x, mask) if n else x, (ring, inputs, n)

    def step(self, x: Tensor, state: _State) -> tuple[Tensor, _State]:
        """x [B, D] -> the output [B, D] for one more token, and the state with it."""
        ring, inputs, n = state
        q, key_value = self.qkv(x).split([self.d_model, 2 * self.d_model], dim=-1)
        ring = _ring.put(ring, _ring.slot(n, self.global_tokens, self.slots), key_value)
        if n < self.global_tokens:
            inputs, so_far = _ring.put(inputs, n, x), slice(0, n + 1)
            mixed = self._global(inputs.rows[:, so_far], inputs.seen[:, so_far], n + 1)[:, n]
        else:
            mixed = _ring.attended(q, ring, self.heads)
        return self.out(mixed), (ring, inputs, n + 1)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the definition, with the N x N map of visible keys."""
        n, count = x.shape[1], min(self.global_tokens, x.shape[1])
        position = torch.arange(n, device=x.device)
        sees = (position[:, None] - position).abs() <= self.window
        sees[:, :count] = True
        past = torch.ones(n, n, dtype=torch.bool, device=x.device)
        past = past.tril() if self.causal else past
        real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        weights = masked_softmax(q @ k.mT / self.d_head**0.5, sees & past & real[:, None, None], -1)
        mixed = merge_heads(weights @ v)
        if count:
            maps = (self.query_global, self.key_global, self.value_global)
            q, k, v = (split_heads(project(x), self.heads) for project in maps)
            weights = masked_softmax(q @ k.mT / self.d_head**0.5, past & real[:, None, None], -1)
            mixed = torch.where((position < count)[:, None], merge_heads(weights @ v), mixed)
        return self.out(mixed)  # type: ignore[no-any-return]

    def forward_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Four projections, products of blocks with all their keys, and the global tokens' attention.

        Dense: all pairs; with global tokens all pairs twice, and three more projections. Not declared for
        flex.
        """
        how = self._how()
        if how == "flex":
            return None
        n, d = seq_len, self.d_model
        if how == "dense":
            return batch_size * (
                2 * n * d * 4 * d + 4 * n * n * d + (6 * n * d * d + 4 * n * n * d) * self._any
            )
        rows, pairs = (
            self.near.projected(n, self.global_tokens),
            self.near.executed_pairs(n, self.global_tokens),
        )
        return self._flops(batch_size, n, rows, sum(pairs))

    def train_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Three times the forward pass; blocked also the scores once more, which the kernel does not keep."""
        forward = self.forward_flops(batch_size, seq_len)
        if forward is None:
            return None
        inside = self.near.executed_pairs(seq_len, self.global_tokens)[0] if self._how() == "blocked" else 0
        return 3 * forward + 2 * batch_size * inside * self.d_model

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Only the keys that a query sees, without the windows of global tokens, which are not used.

        Dense: of the global projections the keys and values of all tokens, and the global tokens' queries.
        """
        n, d, count = seq_len, self.d_model, min(self.global_tokens, seq_len)
        pairs = sum(
            count + min(i + self.near.after, n - 1) - max(i - self.window, count) + 1 for i in range(count, n)
        )
        if self._how() == "dense":
            pairs += count * (count + 1) // 2 if self.causal else count * n
            projections = 4 * n + (2 * n + count) * self._any
            return batch_size * (2 * projections * d * d + 4 * pairs * d)
        return self._flops(batch_size, n, n, pairs)

    def saved_bytes(self, batch_size: int, seq_len: int) -> int | None:
        """Input, q, k and v, the mask, the kernel's results, and the global tokens' attention.

        Dense: tokens, weights and visibility maps as in Vanilla, twice with global tokens. Not declared for
        flex, which trains on CUDA only.
        """
        how = self._how()
        if how == "flex":
            return None
        n, d, h, count = seq_len, self.d_model, self.heads, min(self.global_tokens, seq_len)
        size, wide = self.qkv.weight.element_size(), wide_bytes(self.qkv.weight)
        if how == "dense":
            kept = 4 * n * d + 2 * h * n * n + (3 * n * d + 2 * h * n * n) * self._any
            return batch_size * (size * kept + 2 * n * n * (1 + self._any)) + n * self._any
        whole, masks = 2 * d * count + 2 * h * count * d + h * count * (2 * count if self.causal else n), 0
        if self.causal:
            masks = 2 * h * count * count
        if 1 < count < n and batch_size > 1:
            whole += d * count  # their inputs, which do not lie side by side
        kept, sums = self.near.saved(batch_size, n, count, d, h)
        return size * (kept + batch_size * whole) + wide * sums + masks

    @property
    def _any(self) -> bool:
        """True if there are global tokens."""
        return self.global_tokens > 0

    def _flops(self, batch_size: int, seq_len: int, rows: int, pairs: int) -> int:
        """Return FLOPs of q, k, v of ``rows`` rows, of ``pairs`` pairs, output and global attention."""
        n, d, count = seq_len, self.d_model, min(self.global_tokens, seq_len)
        # per global token: query, output, key map of the query, value, scores, sums of the input
        maps = 2 * d + self.heads * summed(self.d_head) + summed(d)
        whole = 2 * count * d * (maps + 2 * (count if self.causal else n) * self.heads)
        return batch_size * (2 * d * d * (3 * rows + n) + 4 * pairs * d + whole)

    def _global(self, x: Tensor, mask: Tensor | None, count: int) -> Tensor:
        """Attend from the global tokens to all tokens, or causally to each other: [B, count, D]."""
        # scaled before the product with x, where float16 has less range left
        q = split_heads(self.query_global(x[:, :count]) / self.d_head**0.5, self.heads)
        key_hde = self.key_global.weight.unflatten(0, (self.heads, self.d_head))
        value_hde = self.value_global.weight.unflatten(0, (self.heads, self.d_head))
        seeking = torch.einsum("bhgd,hde->bhge", q, key_hde).flatten(1, 2)  # [B, heads count, D]
        if self.causal:
            x, mask = x[:, :count], None if mask is None else mask[:, :count]
        allowed = None if mask is None else mask[:, None]
        if self.causal:
            past = torch.ones(count, count, dtype=torch.bool, device=x.device).tril().repeat(self.heads, 1)
            allowed = past if allowed is None else past & allowed
        weights = masked_softmax(seeking @ x.mT, allowed, -1)
        gathered = (weights @ x).unflatten(1, (self.heads, count))
        return torch.einsum("bhge,hde->bghd", gathered, value_hde).flatten(2)

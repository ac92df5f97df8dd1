"""A mechanism of your own: every token is gated by the mean of the sequence.

Measure it:  effbench run -m docs/examples/mechanism.py:MeanGate -m vanilla --seq-len 512,1024
Check it:    effbench audit docs/examples/mechanism.py:MeanGate
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effbench import Mechanism, State


class MeanGate(Mechanism):
    """out_i = W_o (v_i * gain * mean of v_j over the real tokens j), v = W_v x.

    x [B, N, D] -> [B, N, D]. Time O(N D^2), memory O(N D). ``causal``: token i takes the mean over j <= i.
    Cross: the mean is that of the memory. Step by step: the sum of the v_j and their number are the state.
    """

    order = 1.0  # time grows with N^1
    memory_order = 1.0
    state_order = 0.0  # the state has the same size after any number of tokens
    equivariant = True  # permuted tokens give permuted outputs
    source = "an example of effbench's documentation"

    def __init__(
        self, d_model: int, heads: int, *, max_len: int, causal: bool = False, gain: float = 1.0
    ) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.gain = gain
        self.value = nn.Linear(d_model, d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        if self.causal:
            return self.prefill(x, mask)[0]
        values, real = self._values(x, mask)
        return self._gated(values, values.sum(1, keepdim=True), real.sum(1, keepdim=True))

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """x [B, N, D], mask [B, N] -> the causal outputs [B, N, D], and the state after the last token."""
        values, real = self._values(x, mask)
        return self._gated(values, values.cumsum(1), real.cumsum(1)), (values.sum(1), real.sum(1))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x [B, D] -> the output [B, D] for one more token, and the state with it."""
        value = self.value(x)
        total, count = state[0] + value, state[1] + 1
        return self._gated(value, total, count), (total, count)

    def remember(self, memory: Tensor, mask: Tensor | None = None) -> State:
        """memory [B, M, D], mask [B, M] -> the sum of its values [B, 1, D], and their number [B, 1, 1]."""
        values, real = self._values(memory, mask)
        return values.sum(1, keepdim=True), real.sum(1, keepdim=True)

    def attend(self, x: Tensor, remembered: State) -> Tensor:
        """x [B, N, D] and what was remembered of a memory -> [B, N, D]."""
        return self._gated(self.value(x), *remembered)

    def _values(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the values [B, N, D], 0 for padding, and 1 for each real token [B, N, 1]."""
        if mask is None:
            return self.value(x), torch.ones_like(x[..., :1])
        padding = ~mask[..., None]
        values = self.value(x.masked_fill(padding, 0.0))  # padding may hold anything, NaN too
        return values.masked_fill(padding, 0.0), mask[..., None].to(x.dtype)

    def _gated(self, values: Tensor, total: Tensor, count: Tensor) -> Tensor:
        output: Tensor = self.out(values * (total / count.clamp_min(1.0)) * self.gain)
        return output

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same function with a dense N x N matrix of weights; effbench compares it with ``forward``."""
        n = x.shape[1]
        weights = torch.ones(x.shape[0], n, n, dtype=x.dtype, device=x.device)
        if self.causal:
            weights = weights.tril()
        values = self.value(x)
        if mask is not None:
            weights = weights * mask[:, None, :]
            values = values.masked_fill(~mask[..., None], 0.0)
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1.0)
        output: Tensor = self.out(values * (weights @ values) * self.gain)
        return output

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """FLOPs of the two projections: 2 N D^2 each."""
        return 2 * 2 * batch_size * seq_len * self.d_model**2

"""A mechanism of your own: every token is gated by the mean of the sequence.

Measure it:  effbench run -m docs/examples/mechanism.py:MeanGate -m vanilla --seq-len 512,1024
Check it:    effbench audit docs/examples/mechanism.py:MeanGate
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effbench import Mechanism


class MeanGate(Mechanism):
    """out_i = W_o (v_i * gain * mean of v_j over the real tokens j), v = W_v x.

    x [B, N, D] -> [B, N, D]. Time O(N D^2), memory O(N D). ``causal``: token i takes the mean over j <= i.
    """

    order = 1.0  # time grows with N^1
    memory_order = 1.0
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
        values, real = self.value(x), torch.ones_like(x[..., :1])
        if mask is not None:
            real = mask[..., None].to(x.dtype)
            values = values.masked_fill(~mask[..., None], 0.0)  # padding may hold anything, NaN too
        if self.causal:
            mean = values.cumsum(dim=1) / real.cumsum(dim=1).clamp_min(1.0)
        else:
            mean = values.sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp_min(1.0)
        output: Tensor = self.out(values * mean * self.gain)
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

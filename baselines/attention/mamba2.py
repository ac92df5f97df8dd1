"""Mamba-2: a state space model with one decay a head, computed as masked attention in chunks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import projected, require
from baselines.attention._recurrent import (
    Recurrent,
    carried_states,
    in_chunks,
    least_log,
    pair_decays,
    scaled_to_one,
    whole,
)
from baselines.attention._running import past_pairs
from baselines.attention._sums import decayed, read, with_pair
from effbench import State

SHORTEST, LONGEST = 1e-3, 1e-1  # the range of the first time steps, as in the paper's code


class Mamba2(Recurrent):
    """The mixer of Mamba-2 by state space duality.

    Per head h, with x, B, C after SiLU, a time step dt > 0, a rate exp(A_h), and B, C [state] of all heads::

        dt_i = softplus(W_dt x_i + b_h);  a_i = exp(-dt_i exp(A_h))
        S_i = a_i S_{i-1} + B_i (dt_i x_i)^T [state, d];  y_i = S_i^T C_i + D_h x_i
        output_i = W_o rms_norm(y_i * swish(z_i))

    z, x, B, C and dt are one projection of the input without bias; the norm is over all heads. ``state`` is
    the width of B and C. There is no short convolution before the SiLU. x [B, N, D] -> [B, N, D].

    In chunks of 32 tokens: all pairs inside a chunk, whose products C_i . B_j are the same for all heads, and
    one state for all chunks before: O(N (32 + state) D) and three projections, memory O(N D). A padded token
    is skipped: it neither decays nor adds. The state of a generation is S [B, state, D] as sums and their
    scale [B, 1, D]. Sections 5 to 7.
    """

    order = 1.0
    memory_order = 1.0
    state_order = 0.0
    equivariant = False
    chunk = 32
    no_noncausal = "a state sums over the past"
    source = "Dao and Gu 2024, Transformers are SSMs (arXiv 2405.21060)"

    def __init__(
        self, d_model: int, heads: int, *, max_len: int, causal: bool = False, state: int = 64
    ) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        require(state >= 1, "state", state, "at least 1")
        self.state = state
        self.parts = [d_model, d_model, state, state, heads]
        self.inputs = nn.Linear(d_model, sum(self.parts), bias=False)
        self.log_rate = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        first = torch.empty(heads).uniform_(math.log(SHORTEST), math.log(LONGEST)).exp()
        self.step_bias = nn.Parameter(first + (-torch.expm1(-first)).log())  # softplus of it is ``first``
        self.skip = nn.Parameter(torch.ones(heads))
        self.norm = nn.Parameter(torch.ones(d_model))
        self.out = nn.Linear(d_model, d_model, bias=False)

    def _start(self, like: Tensor) -> State:
        sums_bsD = like.new_zeros(len(like), self.state, self.d_model)
        return sums_bsD, like.new_ones(len(like), 1, self.d_model)

    def _scan(self, x_bnD: Tensor, mask: Tensor | None, state: State) -> tuple[Tensor, State]:
        n = x_bnD.shape[1]
        state_bsD, scale_b1D = state  # the scale is 1 before the first step
        z, x, b, c, dt_bnh, log_bnh = self._parts(x_bnD)
        if mask is not None:
            dt_bnh, log_bnh = (part.masked_fill(~mask[..., None], 0.0) for part in (dt_bnh, log_bnh))
        written = (x.unflatten(-1, (self.heads, -1)) * dt_bnh[..., None]).flatten(2)
        b, c, x_bciD = (in_chunks(part, self.chunk, 1) for part in (b, c, written))
        pairs_bchij, start_bchi = pair_decays(in_chunks(log_bnh, self.chunk, 1).mT)
        weights_bchij = pairs_bchij * (c @ b.mT)[:, :, None]
        x_bchid = x_bciD.unflatten(-1, (self.heads, -1)).transpose(2, 3)
        inside_bcihd = (weights_bchij @ x_bchid).transpose(2, 3)
        ending = (x_bchid * pairs_bchij[..., -1, :, None]).transpose(2, 3).flatten(3)
        decay_bcD = start_bchi[..., -1].repeat_interleave(self.d_head, dim=-1)
        before_bcsD, last_bsD = carried_states(b.mT @ ending, decay_bcD[..., None, :], state_bsD)
        across_bcihd = (c @ before_bcsD).unflatten(-1, (self.heads, -1))
        mixed = torch.addcmul(inside_bcihd, across_bcihd, start_bchi.mT[..., None]).flatten(1, 2)
        return self._output(mixed[:, mixed.shape[1] - n :], x, z), (last_bsD, scale_b1D)

    def _next(self, x_bD: Tensor, state: State) -> tuple[Tensor, State]:
        z, x, b, c, dt_bh, log_bh = self._parts(x_bD)
        decay_bD, dt_bD = (part.repeat_interleave(self.d_head, dim=-1) for part in (log_bh.exp(), dt_bh))
        sums_bsD, scale_b1D = state
        sums_bsD, scale_b1D = decayed(sums_bsD, scale_b1D, decay_bD[:, None])
        scale_bD = scale_b1D[:, 0]
        sums_bsD = with_pair(sums_bsD[:, None], b, x * dt_bD / scale_bD)[:, 0]
        mixed_bD = read(sums_bsD, c) * scale_bD
        return self._output(mixed_bD.unflatten(-1, (self.heads, -1)), x, z), (sums_bsD, scale_b1D)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it with the N x N matrix of weights of each head."""
        z, values, b, c, dt = self.inputs(x).split(self.parts, dim=-1)
        values, b, c = F.silu(values), F.silu(b), F.silu(c)
        dt_bhn = F.softplus(dt + self.step_bias).mT
        if mask is not None:
            dt_bhn = dt_bhn * mask[:, None]
        passed_bhn = (-dt_bhn * self.log_rate.exp()[:, None]).cumsum(dim=-1)
        past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        exponents_bhnm = (passed_bhn[..., :, None] - passed_bhn[..., None, :]).masked_fill(~past, -math.inf)
        weights_bhnm = exponents_bhnm.exp() * (c @ b.mT)[:, None] * dt_bhn[..., None, :]
        mixed = weights_bhnm @ values.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self._output(mixed.transpose(1, 2), values, z)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return z, x, B, C, dt and the logarithm of the decay for x [..., D]."""
        z, mixed, dt = projected(x, self.inputs).split(
            [self.d_model, self.d_model + 2 * self.state, self.heads], dim=-1
        )
        values, b, c = F.silu(mixed).split([self.d_model, self.state, self.state], dim=-1)
        dt = F.softplus(dt + self.step_bias.to(x.dtype))
        log_decay = -dt * self.log_rate.to(x.dtype).exp()
        return z, values, b, c, dt, log_decay.clamp(min=least_log(x.dtype))

    def _output(self, mixed_xhd: Tensor, values_xD: Tensor, z_xD: Tensor) -> Tensor:
        """Add the skip to mixed [..., heads, d], gate, normalise and map: [..., D]."""
        dtype = z_xD.dtype
        skipped = values_xD.unflatten(-1, (self.heads, -1)) * self.skip.to(dtype)[:, None]
        normal_xD = scaled_to_one((mixed_xhd + skipped).flatten(-2) * F.silu(z_xD)) * self.norm.to(dtype)
        return projected(normal_xD, self.out)

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Projections in and out; C . B of pairs inside chunks, and the pairs; states, made and read."""
        rows = whole(seq_len, self.chunk)
        return batch_size * self._flops(seq_len, rows * self.chunk, rows)

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Without pairs in the future and without the rows that fill up the first chunk."""
        return batch_size * self._flops(seq_len, past_pairs(seq_len, self.chunk), seq_len)

    def _flops(self, n: int, pairs: int, rows: int) -> int:
        d = self.d_model
        maps = 2 * n * d * (sum(self.parts) + d)
        return maps + 2 * pairs * (self.state + d) + 4 * rows * self.state * d

"""Retention: linear attention whose heads forget at fixed rates, with rotated queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import projected, split_heads
from baselines.attention._recurrent import (
    NORM_EPSILON,
    Recurrent,
    carried_states,
    heads_in_chunks,
    out_of_chunks,
    pair_decays,
    whole,
)
from baselines.attention._running import past_pairs
from baselines.attention._sums import decayed, read, with_pair
from effbench import State


class Retention(Recurrent):
    """Multi-scale retention.

    Per head h = 0, 1, ..., with gamma_h = 1 - 2^(-5 - h) and R_i the rotation by the position i::

        S_i = gamma_h S_{i-1} + (R_i k_i / sqrt(d)) v_i^T [d, d];  o_i = S_i^T R_i q_i
            = sum_{j <= i} gamma_h^(i-j) (R_i q_i . R_j k_j) v_j / sqrt(d)
        output_i = W_o (group_norm(o_i) * swish(W_g x_i))

    R_i turns the features f and f + d/2 of a head by the angle i 10000^(-2f/d); a feature without a partner
    (odd d) is not turned. The group norm has one group a head. No map has a bias. x [B, N, D] -> [B, N, D].

    In chunks of 32 tokens: all pairs inside a chunk, and one state S for all chunks before it:
    O(N (32 + d) D) and five projections, memory O(N D). The decay counts positions, those of padding too.
    The state of a generation is S [B, heads, d, d], as sums and their scale [B, heads, 1, 1], and the number
    of tokens. Equations (5) to (8).
    """

    order = 1.0
    memory_order = 1.0
    state_order = 0.0
    equivariant = False
    chunk = 32
    no_noncausal = "a state sums over the past"
    source = "Sun et al. 2023, Retentive Network: A Successor to Transformer (arXiv 2307.08621)"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.qkvg = nn.Linear(d_model, 4 * d_model, bias=False)
        self.norm = nn.GroupNorm(heads, d_model, eps=NORM_EPSILON)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def _start(self, like: Tensor) -> State:
        return super()._start(like), like.new_ones(len(like), self.heads, 1, 1), 0

    def _scan(self, x_bnD: Tensor, mask: Tensor | None, state: State) -> tuple[Tensor, State]:
        n, heads = x_bnD.shape[1], self.heads
        state_bhde, scale_bh11, position = state  # the scale is 1 before the first step
        qk, v, gate = projected(x_bnD, self.qkvg).split(
            [2 * self.d_model, self.d_model, self.d_model], dim=-1
        )
        turned = self._turned(
            qk.unflatten(-1, (2 * heads, -1)), position + torch.arange(n, device=x_bnD.device)
        )
        q_bhcid, k_bhcid = heads_in_chunks(turned, self.chunk).chunk(2, dim=1)
        v_bhcid = heads_in_chunks(v.unflatten(-1, (heads, -1)), self.chunk)
        log_h = self._log_decay(x_bnD.device)
        pairs_hij, start_hi = pair_decays(log_h[:, None].expand(-1, self.chunk))
        pairs_hij, start_hi = pairs_hij.to(x_bnD.dtype), start_hi.to(x_bnD.dtype)
        weights_bhcij = (q_bhcid @ k_bhcid.mT) * pairs_hij[:, None]
        inside_bhcid = weights_bhcij @ v_bhcid
        sums_bhcde = (k_bhcid * pairs_hij[:, None, -1, :, None]).mT @ v_bhcid
        whole_bchde = start_hi[None, None, :, -1, None, None].expand(1, sums_bhcde.shape[2], -1, -1, -1)
        before_bchde, last_bhde = carried_states(sums_bhcde.transpose(1, 2), whole_bchde, state_bhde)
        across_bhcid = q_bhcid @ before_bchde.transpose(1, 2)
        mixed = torch.addcmul(inside_bhcid, across_bhcid, start_hi[:, None, :, None])
        return self._output(out_of_chunks(mixed, n), gate), (last_bhde, scale_bh11, position + n)

    def _next(self, x_bD: Tensor, state: State) -> tuple[Tensor, State]:
        sums_bhde, scale_bh11, position = state
        q, k, v, gate = projected(x_bD, self.qkvg).chunk(4, dim=-1)
        qk = torch.stack([q, k], dim=1).unflatten(-1, (self.heads, -1))
        q_bhd, k_bhd = self._turned(qk[:, None], torch.tensor([position], device=x_bD.device))[:, 0].unbind(1)
        v_bhd = v.unflatten(-1, (self.heads, -1))
        decay = self._log_decay(x_bD.device).exp().to(x_bD.dtype)
        sums_bhde, scale_bh11 = decayed(sums_bhde, scale_bh11, decay[:, None, None])
        scale_bh1 = scale_bh11[..., 0]
        sums_bhde = with_pair(sums_bhde, k_bhd / scale_bh1, v_bhd)
        mixed_bhd = read(sums_bhde, q_bhd * scale_bh1)
        return self._output(mixed_bhd, gate), (sums_bhde, scale_bh11, position + 1)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it with the N x N matrix of weights, the paper's parallel form."""
        n = x.shape[1]
        q, k, v, gate = self.qkvg(x).chunk(4, dim=-1)
        position = torch.arange(n, device=x.device)
        q_bhnd, k_bhnd = (
            self._turned(part.unflatten(-1, (self.heads, -1)), position).transpose(1, 2) for part in (q, k)
        )
        gamma_h = 1 - 2.0 ** (-5.0 - torch.arange(self.heads, dtype=torch.float64, device=x.device))
        distance_nm = position[:, None] - position
        decay_hnm = (gamma_h[:, None, None] ** distance_nm.clamp(min=0)).tril().to(x.dtype)
        weights_bhnm = (q_bhnd @ k_bhnd.mT) * decay_hnm
        if mask is not None:
            weights_bhnm = weights_bhnm * mask[:, None, None, :]
        mixed_bhnd = weights_bhnm @ split_heads(v, self.heads)
        return self._output(mixed_bhnd.transpose(1, 2), gate)

    def _log_decay(self, device: torch.device) -> Tensor:
        """Return log gamma_h in float64: [heads]."""
        return torch.log1p(-(2.0 ** (-5.0 - torch.arange(self.heads, dtype=torch.float64, device=device))))

    def _turned(self, x_bnhd: Tensor, position_n: Tensor) -> Tensor:
        """Rotate x [B, N, heads, d] by the positions [N], and scale it by d^(-1/4).

        Angles are computed in float64, since their error grows with the position.
        """
        half = self.d_head // 2
        rate = 10000.0 ** (-2.0 / self.d_head * torch.arange(half, dtype=torch.float64, device=x_bnhd.device))
        angle_n1p = position_n[:, None, None] * rate
        scale = self.d_head**-0.25
        cos, sin = (scale * angle_n1p.cos()).to(x_bnhd.dtype), (scale * angle_n1p.sin()).to(x_bnhd.dtype)
        first, second, rest = x_bnhd.split([half, half, self.d_head - 2 * half], dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, scale * rest], dim=-1)

    def _output(self, mixed_xhd: Tensor, gate_xD: Tensor) -> Tensor:
        """Normalise each head of mixed [..., heads, d], gate and map: [..., D]."""
        weight, bias = self.norm.weight.to(gate_xD.dtype), self.norm.bias.to(gate_xD.dtype)
        normal_xD = F.layer_norm(mixed_xhd, (self.d_head,), eps=NORM_EPSILON).flatten(-2)
        return projected(torch.addcmul(bias, normal_xD, weight) * F.silu(gate_xD), self.out)

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Five projections; pairs inside chunks, of all tokens and to both sides; states, made and read."""
        d, rows = self.d_model, whole(seq_len, self.chunk)
        return batch_size * (10 * seq_len * d * d + 4 * rows * self.chunk * d + 4 * rows * self.d_head * d)

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Without pairs in the future and without the rows that fill up the first chunk."""
        d = self.d_model
        pairs = past_pairs(seq_len, self.chunk)
        return batch_size * (10 * seq_len * d * d + 4 * pairs * d + 4 * seq_len * self.d_head * d)

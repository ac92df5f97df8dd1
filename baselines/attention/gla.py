"""Gated linear attention: each key feature forgets at a rate that the token decides."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import projected, require
from baselines.attention._recurrent import (
    NORM_EPSILON,
    Recurrent,
    carried_states,
    heads_in_chunks,
    least_log,
    out_of_chunks,
    plus_product,
    whole,
)
from baselines.attention._running import past_pairs
from baselines.attention._sums import decayed, read, with_pair
from effbench import State


class GatedLinearAttention(Recurrent):
    """Gated linear attention.

    Per head, with a decay for each feature of the keys, made by a map of low rank::

        alpha_i = sigmoid(W_2 W_1 x_i + b_alpha)^(1 / tau) [d]
        S_i = diag(alpha_i) S_{i-1} + k_i v_i^T [d, d];  o_i = S_i^T q_i
        output_i = W_o (layer_norm(o_i) * swish(W_g x_i + b_g))

    ``rank`` is the width of W_1 x; ``tau`` slows down forgetting. W_q, W_k, W_v, W_o have no bias; the norm
    is per head, its weights are shared by heads. x [B, N, D] -> [B, N, D].

    In chunks of 16 tokens: one state S for all chunks before, and the pairs inside a chunk, computed for
    blocks of 2, 4, 8 and 16 tokens: the queries of a right half with the keys of the left half, both decayed
    to the middle. So no decay is divided by, and none is above 1. O(N (16 + d) D), memory O(N D). A padded
    token is skipped: it neither decays nor adds. The state of a generation is S [B, heads, d, d]
    as sums and their scale [B, heads, d, 1]. Sections 4.1 to 4.4.
    """

    order = 1.0
    memory_order = 1.0
    state_order = 0.0
    equivariant = False
    chunk = 16
    no_noncausal = "a state sums over the past"
    source = "Yang et al. 2023, Gated Linear Attention Transformers (arXiv 2312.06635)"

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        causal: bool = False,
        rank: int = 16,
        tau: int = 16,
    ) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        require(rank >= 1, "rank", rank, "at least 1")
        require(tau >= 1, "tau", tau, "at least 1")
        self.rank, self.tau = rank, tau
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.gate = nn.Linear(d_model, d_model)
        self.narrow = nn.Linear(d_model, rank, bias=False)
        self.decay = nn.Linear(rank, d_model)
        self.norm = nn.LayerNorm(self.d_head, eps=NORM_EPSILON)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def _start(self, like: Tensor) -> State:
        return super()._start(like), like.new_ones(len(like), self.heads, self.d_head, 1)

    def _scan(self, x_bnD: Tensor, mask: Tensor | None, state: State) -> tuple[Tensor, State]:
        state_bhde, scale_bhd1 = state  # the scale is 1 before the first step
        qkv, alpha = projected(x_bnD, self.qkv), self._alpha(x_bnD)
        if mask is not None:
            alpha = alpha.masked_fill(~mask[..., None], 1.0)
        q, k, v = heads_in_chunks(qkv.unflatten(-1, (3 * self.heads, -1)), self.chunk).chunk(3, dim=1)
        alpha_bhcid = heads_in_chunks(alpha.unflatten(-1, (self.heads, -1)), self.chunk)
        inside_bhcid, q_bhcid, k_bhcid, whole_bhcd = _inside(q, k, v, alpha_bhcid)
        sums_bhcde = k_bhcid.mT @ v
        before_bchde, last_bhde = carried_states(
            sums_bhcde.transpose(1, 2), whole_bhcd.transpose(1, 2)[..., None], state_bhde
        )
        mixed_bhcid = plus_product(inside_bhcid, q_bhcid, before_bchde.transpose(1, 2))
        return self._output(out_of_chunks(mixed_bhcid, x_bnD.shape[1]), x_bnD), (last_bhde, scale_bhd1)

    def _next(self, x_bD: Tensor, state: State) -> tuple[Tensor, State]:
        q, k, v = projected(x_bD, self.qkv).view(-1, 3, self.heads, self.d_head).unbind(1)
        alpha = self._alpha(x_bD).view_as(k)
        sums_bhde, scale_bhd1 = state
        sums_bhde, scale_bhd1 = decayed(sums_bhde, scale_bhd1, alpha[..., None])
        scale_bhd = scale_bhd1[..., 0]
        sums_bhde = with_pair(sums_bhde, k / scale_bhd, v)
        return self._output(read(sums_bhde, q * scale_bhd), x_bD), (sums_bhde, scale_bhd1)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it token by token, by the recurrence."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        alpha = (F.logsigmoid(self.decay(self.narrow(x))) / self.tau).exp().view_as(k)
        state_bhde = x.new_zeros(x.shape[0], self.heads, self.d_head, self.d_head)
        mixed = []
        for i in range(x.shape[1]):
            new_bhde = alpha[:, i, :, :, None] * state_bhde + k[:, i, :, :, None] * v[:, i, :, None, :]
            real = None if mask is None else mask[:, i, None, None, None]
            state_bhde = new_bhde if real is None else torch.where(real, new_bhde, state_bhde)
            mixed.append(torch.einsum("bhd,bhde->bhe", q[:, i], state_bhde))
        return self._output(torch.stack(mixed, dim=1), x)

    def _alpha(self, x: Tensor) -> Tensor:
        """Return the decays of x [..., D], from 0 to 1: [..., D]."""
        log_alpha = F.logsigmoid(projected(projected(x, self.narrow), self.decay)) / self.tau
        return log_alpha.clamp(min=least_log(x.dtype)).exp()

    def _output(self, mixed_xhd: Tensor, x_xD: Tensor) -> Tensor:
        """Normalise each head of mixed [..., heads, d], gate and map: [..., D]."""
        weight, bias = self.norm.weight.to(x_xD.dtype), self.norm.bias.to(x_xD.dtype)
        normal = F.layer_norm(mixed_xhd, (self.d_head,), weight, bias, NORM_EPSILON)
        return projected(normal.flatten(-2) * F.silu(projected(x_xD, self.gate)), self.out)

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Five projections and the decays' two; pairs inside chunks; states, made and read."""
        d, rows = self.d_model, whole(seq_len, self.chunk)
        return batch_size * self._flops(seq_len, rows * (self.chunk - 1) // 2, rows * d * self.d_head)

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Without the rows that fill up the first chunk."""
        pairs = past_pairs(seq_len, self.chunk) - seq_len
        return batch_size * self._flops(seq_len, pairs, seq_len * self.d_model * self.d_head)

    def _flops(self, n: int, pairs: int, states: int) -> int:
        d = self.d_model
        return 2 * n * d * (5 * d + 2 * self.rank) + 4 * pairs * d + 4 * states


def _inside(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the sums over pairs inside chunks; q and k decayed to the ends of chunks; the chunks' decays.

    All arguments are [B, heads, chunks, chunk, d]. Blocks of 1 token become blocks of 2, 4, ... tokens: a
    query carries the decays from the start of its block up to itself, a key those after it up to the end of
    its block. The decays of chunks are [B, heads, chunks, d].
    """
    shape, d, half = v.shape, v.shape[-1], 1
    out, q, total = (q * k).sum(dim=-1, keepdim=True) * v, q * alpha, alpha
    while half < shape[-2]:
        q, k, v = (part.reshape(-1, 2, half, d) for part in (q, k, v))
        out.view(-1, 2, half, d)[:, 1].add_((q[:, 1] @ k[:, 0].mT) @ v[:, 0])
        left, right = total.reshape(-1, 2, 1, d).chunk(2, dim=1)
        one = torch.ones_like(left)
        q, k, total = q * torch.cat([one, left], dim=1), k * torch.cat([right, one], dim=1), left * right
        half *= 2
    return out, q.view(shape), k.view(shape), total.view(*shape[:3], d)

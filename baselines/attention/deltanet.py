"""DeltaNet: a state that corrects what it holds for a key, by the delta rule, in chunks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import clear_padding, projected
from baselines.attention._recurrent import (
    Recurrent,
    heads_in_chunks,
    in_chunks,
    least_log,
    out_of_chunks,
    pair_decays,
    plus_product,
    scaled_to_one,
    whole,
)
from baselines.attention._sums import decayed, with_pair
from effbench import State

SHORTEST, LONGEST = 1e-3, 1e-1  # the range of the first time steps of ``gated``, those of Mamba-2
LEAST = 1e-6
BLOCK = 4  # tokens whose triangular system is inverted at once


class DeltaNet(Recurrent):
    """DeltaNet, and with ``gated`` Gated DeltaNet.

    Per head, with q and k = ``silu(W x) / |silu(W x)|`` and beta_i = sigmoid(w_beta . x_i)::

        S_i = a_i S_{i-1} + beta_i k_i (v_i - a_i S_{i-1}^T k_i)^T [d, d];  o_i = S_i^T q_i
        output_i = W_o rms_norm(o_i)

    a_i = 1. With ``gated``, a_i = exp(-softplus(w_a . x_i + b) exp(A)) as in Mamba-2, and the norm is
    multiplied with silu(W_g x_i). No map has a bias but b; the norm is per head, with weights of all heads.
    There are no short convolutions. x [B, N, D] -> [B, N, D].

    In chunks of 16 tokens. With g_i = a_1 ... a_i, a chunk writes U = T (V - diag(g) K S) for the state S
    before it, where T = (I + L)^{-1} diag(beta) and L_ij = beta_i (k_i . k_j) g_i / g_j for j < i. So the
    state after it is M S + K'^T T V with K'_j = k_j g_end / g_j and M = g_end I - K'^T T diag(g) K, and one
    product a chunk carries the state. I + L is inverted by blocks of 4, 8 and 16 tokens.
    O(N (16 + d) D), memory O(N D). A padded token is skipped: it neither decays nor corrects. The state of a
    generation is S [B, heads, d, d] as sums and their scale [B, heads, 1, 1]. Yang et al. 2024, section 3;
    ``gated``: arXiv 2412.06464, section 3.
    """

    order = 1.0
    memory_order = 1.0
    state_order = 0.0
    equivariant = False
    chunk = 16
    no_noncausal = "a state corrects itself token by token"
    source = "Yang et al. 2024, Parallelizing Linear Transformers with the Delta Rule (arXiv 2406.06484)"

    def __init__(
        self, d_model: int, heads: int, *, max_len: int, causal: bool = False, gated: bool = False
    ) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.gated = gated
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.beta = nn.Linear(d_model, heads, bias=False)
        self.norm = nn.Parameter(torch.ones(self.d_head))
        self.out = nn.Linear(d_model, d_model, bias=False)
        if gated:
            self.gate = nn.Linear(d_model, d_model, bias=False)
            self.time = nn.Linear(d_model, heads)
            self.log_rate = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
            first = torch.empty(heads).uniform_(math.log(SHORTEST), math.log(LONGEST)).exp()
            with torch.no_grad():
                self.time.bias.copy_(first + (-torch.expm1(-first)).log())  # softplus of it is ``first``

    def _start(self, like: Tensor) -> State:
        return super()._start(like), like.new_ones(len(like), self.heads, 1, 1)

    def _scan(self, x_bnD: Tensor, mask: Tensor | None, state: State) -> tuple[Tensor, State]:
        state_bhde, scale_bh11 = state  # the scale is 1 before the first step
        q, k, v = self._qkv(x_bnD)
        beta_bnh = clear_padding(projected(x_bnD, self.beta).sigmoid(), mask)
        q, k, v = (heads_in_chunks(part, self.chunk) for part in (q, k, v))
        beta_bhci1 = in_chunks(beta_bnh.mT, self.chunk, 2)[..., None]
        k_beta = k * beta_bhci1
        if self.gated:
            log_bnh = clear_padding(self._log_decay(x_bnD), mask)
            pairs_cij, start_bhci = pair_decays(in_chunks(log_bnh.mT, self.chunk, 2))
            ending = k * pairs_cij[..., -1, :, None]
            reading, q_start = (part * start_bhci[..., None] for part in (k_beta, q))
            whole_bhc = start_bhci[..., -1, None, None]
        else:
            pairs_cij = torch.ones(self.chunk, self.chunk, dtype=x_bnD.dtype, device=x_bnD.device).tril()
            ending, reading, q_start, whole_bhc = k, k_beta, q, pairs_cij[0, 0]
        inverse = _inverse((k_beta @ k.mT) * pairs_cij)
        values, keys = inverse @ (v * beta_bhci1), inverse @ reading
        eye = torch.eye(self.d_head, dtype=x_bnD.dtype, device=x_bnD.device)
        before_bhcde, last_bhde = _carried(ending.mT @ values, whole_bhc * eye - ending.mT @ keys, state_bhde)
        written = plus_product(values, keys, before_bhcde, scale=-1.0)
        mixed = plus_product(q_start @ before_bhcde, (q @ k.mT) * pairs_cij, written)
        return self._output(out_of_chunks(mixed, x_bnD.shape[1]), x_bnD), (last_bhde, scale_bh11)

    def _next(self, x_bD: Tensor, state: State) -> tuple[Tensor, State]:
        q, k, v = self._qkv(x_bD)
        beta_bh1 = projected(x_bD, self.beta).sigmoid()[..., None]
        sums_bhde, scale_bh11 = state
        if self.gated:
            decay_bh11 = self._log_decay(x_bD).exp()[..., None, None]
            sums_bhde, scale_bh11 = decayed(sums_bhde, scale_bh11, decay_bh11)
        scale_bh1 = scale_bh11[..., 0]
        # one pass reads for the key and the query; what is then written adds to what the query has read
        held, mixed = (torch.stack([k, q], dim=2) @ sums_bhde).unbind(2)
        written = torch.addcmul(beta_bh1 / scale_bh1 * v, beta_bh1, held, value=-1)
        mixed = torch.addcmul(mixed, (q * k).sum(dim=-1, keepdim=True), written) * scale_bh1
        return self._output(mixed, x_bD), (with_pair(sums_bhde, k, written), scale_bh11)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it token by token, by the recurrence."""
        q, k, v = self._qkv(x)
        beta = torch.sigmoid(self.beta(x))
        decay = self._log_decay(x).exp() if self.gated else torch.ones_like(beta)
        eye = torch.eye(self.d_head, dtype=x.dtype, device=x.device)
        state_bhde = x.new_zeros(x.shape[0], self.heads, self.d_head, self.d_head)
        mixed = []
        for i in range(x.shape[1]):
            rate_bh11, key_bhd1 = beta[:, i, :, None, None], k[:, i, :, :, None]
            kept_bhdd = decay[:, i, :, None, None] * (eye - rate_bh11 * key_bhd1 * key_bhd1.mT)
            new_bhde = kept_bhdd @ state_bhde + rate_bh11 * key_bhd1 * v[:, i, :, None, :]
            real = None if mask is None else mask[:, i, None, None, None]
            state_bhde = new_bhde if real is None else torch.where(real, new_bhde, state_bhde)
            mixed.append((state_bhde.mT @ q[:, i, :, :, None])[..., 0])
        return self._output(torch.stack(mixed, dim=1), x)

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q and k of length 1, and v, for x [..., D]: [..., heads, d] each."""
        qk, v = projected(x, self.qkv).split([2 * self.d_model, self.d_model], dim=-1)
        features = F.silu(qk).unflatten(-1, (2, self.heads, self.d_head))
        length = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
        q, k = (features * (length.square() + LEAST).rsqrt()).unbind(-3)
        return q, k, v.unflatten(-1, (self.heads, self.d_head))

    def _log_decay(self, x: Tensor) -> Tensor:
        """Return the logarithm of a_i for x [..., D]: [..., heads]."""
        log_decay = -F.softplus(projected(x, self.time)) * self.log_rate.to(x.dtype).exp()
        return log_decay.clamp(min=least_log(x.dtype))

    def _output(self, mixed_xhd: Tensor, x_xD: Tensor) -> Tensor:
        """Normalise each head of mixed [..., heads, d], gate and map: [..., D]."""
        normal_xD = (scaled_to_one(mixed_xhd) * self.norm.to(x_xD.dtype)).flatten(-2)
        if self.gated:
            normal_xD = normal_xD * F.silu(projected(x_xD, self.gate))
        return projected(normal_xD, self.out)

    def train_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Return None: some products of the inverse are of constants."""
        return None

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Projections; keys and queries with keys, T, T with both, pairs; states, made, carried and read."""
        n, d, head = seq_len, self.d_model, self.d_head
        maps = 2 * n * d * ((5 if self.gated else 4) * d + (2 if self.gated else 1) * self.heads)
        rows = whole(n, self.chunk)
        halves = [half for half in (4, 8) if half < self.chunk]
        inverse = 2 * rows * self.heads * (2 * BLOCK * BLOCK + sum(half * half for half in halves))
        pairs = 2 * rows * self.chunk * d * 5
        states = 2 * rows * d * head * 4 + 2 * rows // self.chunk * d * head * head
        return batch_size * (maps + inverse + pairs + states)


def _inverse(lower: Tensor) -> Tensor:
    """Return the inverse of I + the part below the diagonal of ``lower`` [..., chunk, chunk].

    Blocks of 4 on the diagonal, I + A with A^4 = 0, have the inverse (I - A) (I + A^2). With the inverses P
    and Q of two neighbouring blocks and X below P and left of Q, that of both together is P, Q and -Q X P. No
    higher power is computed: those of alike keys have large entries.
    """
    blocks = _neighbours(lower, BLOCK, 1)[..., 0, :, 0, :].tril(-1)
    eye = torch.eye(BLOCK, dtype=lower.dtype, device=lower.device)
    inverse, half = (eye - blocks) @ (eye + blocks @ blocks), BLOCK  # [..., blocks, half, half]
    while half < lower.shape[-1]:
        above, after = inverse.unflatten(-3, (-1, 2)).unbind(-3)
        left = torch.cat([above, -(after @ _neighbours(lower, half, 2)[..., 1, :, 0, :] @ above)], dim=-2)
        inverse = torch.cat([left, F.pad(after, (0, 0, half, 0))], dim=-1)
        half *= 2
    return inverse.squeeze(-3)


def _neighbours(square: Tensor, size: int, count: int) -> Tensor:
    """Return the blocks of ``size`` in the squares of ``count`` by ``count`` blocks on the diagonal.

    [..., chunk, chunk] -> [..., squares, count, size, count, size], a view.
    """
    parts = square.unflatten(-1, (-1, count, size)).unflatten(-4, (-1, count, size))
    blocks: Tensor = parts.diagonal(dim1=-6, dim2=-3).movedim(-1, -5)
    return blocks


def _carried(values: Tensor, transition: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states before each chunk, from ``state`` [B, heads, d, d], and the one after the last.

    A chunk [B, heads, chunks, d, d] makes of a state S its transition S + values.
    """
    shape, state, before = state.shape, state.flatten(0, 1), []
    for part, kept in zip(values.unbind(2), transition.unbind(2), strict=True):
        before.append(state)
        state = torch.baddbmm(part.flatten(0, 1), kept.flatten(0, 1), state)
    return torch.stack(before, dim=1).view(values.shape), state.view(shape)

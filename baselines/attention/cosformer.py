"""cosFormer: rectified features and a cosine that favours near tokens; keys are summed once."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import (
    clear_padding,
    merge_heads,
    no_autocast,
    projected,
    split_heads,
    tokens_first,
    tokens_last,
    wide_bytes,
    wide_dtype,
)
from baselines.attention._running import CHUNK, past_pairs, rows_and_pairs, running_products
from baselines.attention._sums import with_pair
from effbench import Mechanism

EPSILON = 1e-6


class CosFormer(Mechanism):
    """Linear attention with ReLU features and a cosine of the distance.

    Per head, with M = ``max_len`` and no 1/sqrt(d)::

        w_ij = relu(q_i) . relu(k_j) cos(pi (i - j) / 2 M)
        out_i = sum_j w_ij v_j / max(sum_j w_ij, 1e-6)

    No weight is negative, since ``|i - j| < M``. By cos(a - b) = cos a cos b + sin a sin b, w_ij is
    phi(q_i) . phi(k_j) with phi(t_i) = [relu(t_i) cos(pi i / 2 M); relu(t_i) sin(pi i / 2 M)], 2 d wide. The
    sums over keys, S = sum_j phi(k_j) [v_j, 1] [2 d, d + 1], are computed once: O(N D^2), memory O(N D).
    x [B, N, D] -> [B, N, D]. Public code uses the length of each input for M. With ``max_len`` a token's
    output does not change when padding is appended; the two are equal for inputs of ``max_len`` tokens.

    Causal: the sums run over j <= i, in chunks of 32 tokens. Step by step: S is the whole state.
    """

    order = 1.0
    memory_order = 1.0
    state_order = 0.0
    equivariant = False
    no_cross = "its weights depend on the distance of two positions of one sequence"
    source = "Qin et al. 2022, cosFormer: Rethinking Softmax in Attention (arXiv 2202.08791)"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        with no_autocast(x):
            return self._wide(x, mask)

    def _wide(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Compute forward in float32 at least, also under autocast."""
        wide = wide_dtype(x)
        x_bnD = clear_padding(x, mask).to(wide)
        if self.causal:
            return self._running(x_bnD, mask)[0].to(x.dtype)
        parts = [2 * self.d_model, self.d_model]
        pair_weight, value_weight = self.qkv.weight.to(wide).split(parts)
        pair_bias, value_bias = self.qkv.bias.to(wide).split(parts)
        pairs = tokens_last(x_bnD, pair_weight, pair_bias).relu_()
        q_bhdn, k_bhdn = pairs.unflatten(1, (2, self.heads, self.d_head)).unbind(1)
        v_bhdn = tokens_last(x_bnD, value_weight, value_bias).unflatten(1, (self.heads, self.d_head))
        turn_21n = self._turn(x_bnD)[:, None]
        turn_of_keys = turn_21n if mask is None else turn_21n * mask[:, None, None, None]
        sums_bhfe = _sums_of_keys(_turned(k_bhdn, turn_of_keys), v_bhdn)
        mixed_bDn = _weighed(_turned(q_bhdn, turn_21n), sums_bhfe)
        return tokens_first(mixed_bDn, self.out.weight.to(wide), self.out.bias.to(wide)).to(x.dtype)

    def _running(self, x_bnD: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the causal outputs [B, N, D], features of keys [B, heads, N, 2 d], values and ones.

        They are in the dtype of x, with each token's features side by side.
        """
        q, k, v = self._features(x_bnD, self._turn(x_bnD))
        k = k if mask is None else k.masked_fill(~mask[:, None, :, None], 0.0)
        return self._finished(running_products(q, k, v)), k, v

    def _features(self, x_bnD: Tensor, turn_2n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features of queries and keys, [B, heads, N, 2 d], values and ones, [..., d + 1]."""
        q, k, v = projected(x_bnD, self.qkv).chunk(3, dim=-1)
        turn_n21 = turn_2n.mT[..., None]
        q_bhnf, k_bhnf = (
            (turn_n21 * split_heads(part.relu(), self.heads)[..., None, :]).flatten(-2) for part in (q, k)
        )
        values_bhne = F.pad(
            split_heads(v, self.heads), (0, 1), value=1.0
        )  # a column of ones sums the weights
        return q_bhnf, k_bhnf, values_bhne

    def _finished(self, sums_bhne: Tensor) -> Tensor:
        """Divide the sums by their weights, the last column, and project: -> [B, N, D]."""
        mixed = merge_heads(sums_bhne[..., :-1] / sums_bhne[..., -1:].clamp_min(EPSILON))
        return projected(mixed, self.out)

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, int]]:
        """x [B, N, D], mask [B, N] -> the causal outputs [B, N, D]; S [B, heads, 2 d, d + 1] and N."""
        with no_autocast(x):
            x_bnD = clear_padding(x, mask).to(wide_dtype(x))
            out, k_bhnf, values_bhne = self._running(x_bnD, mask)
            return out.to(x.dtype), (k_bhnf.mT @ values_bhne, x.shape[1])

    def step(self, x: Tensor, state: tuple[Tensor, int]) -> tuple[Tensor, tuple[Tensor, int]]:
        """x [B, D] -> the output [B, D] for one more token, the sums with it, and its place plus one."""
        with no_autocast(x):
            sums_bhfe, place = state
            x_b1D = x[:, None].to(sums_bhfe.dtype)
            q, k, v = self._features(x_b1D, self._turn(x_b1D, first=place))
            sums_bhfe = with_pair(sums_bhfe, k, v)
            return self._finished(q @ sums_bhfe)[:, 0].to(x.dtype), (sums_bhfe, place + 1)

    def _turn(self, x_bnD: Tensor, first: int = 0) -> Tensor:
        """Return cosine and sine of each token's angle, [2, N]; the first token is at place ``first``."""
        angle_n = torch.arange(x_bnD.shape[1], device=x_bnD.device, dtype=torch.float64)
        angle_n = (angle_n + first) * (math.pi / (2 * self.max_len))
        return torch.stack([angle_n.cos(), angle_n.sin()]).to(x_bnD.dtype)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the formula, with the N x N matrix of weights."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        place = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
        near = torch.cos(math.pi * (place[:, None] - place) / (2 * self.max_len))
        weights_bhij = (q.relu() @ k.relu().mT) * near
        weights_bhij = weights_bhij.tril() if self.causal else weights_bhij
        if mask is not None:
            weights_bhij = weights_bhij * mask[:, None, None]
        mixed = (weights_bhij @ v) / weights_bhij.sum(-1, keepdim=True).clamp_min(EPSILON)
        return self.out(merge_heads(mixed))  # type: ignore[no-any-return]

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Four projections, the sums and their products with queries; causal: the pairs of chunks."""
        rows, pairs = rows_and_pairs(seq_len) if self.causal else (seq_len, 0)
        return self._flops(batch_size, seq_len, rows, pairs)

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Causal: without the rows that fill up the last chunk, and without pairs in the future."""
        return self._flops(batch_size, seq_len, seq_len, past_pairs(seq_len) if self.causal else 0)

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Three times the forward pass; causal also pairs and sums of chunks again, which are not kept."""
        rows = rows_and_pairs(seq_len)[0] if self.causal else 0
        again = 2 * batch_size * rows * 2 * self.d_model * (CHUNK + self.d_head + 1)
        return 3 * self.forward_flops(batch_size, seq_len) + again

    def saved_bytes(self, batch_size: int, seq_len: int) -> int:
        """Rectified q and k, before and after the turn; values, sums, weights, heads' outputs; angles.

        Not causal: also S. Causal: in whole chunks, values with a column of ones.
        """
        n, d, h = seq_len, self.d_model, self.heads
        rows = rows_and_pairs(n)[0] if self.causal else n
        more = rows * h if self.causal else 2 * d * (self.d_head + 1)
        kept = batch_size * (3 * n * d + 6 * rows * d + rows * h + n * h + more) + 2 * n
        if self.qkv.weight.element_size() < 4:  # wide copies of inputs and maps
            kept += batch_size * n * d + 4 * d * d
        return wide_bytes(self.qkv.weight) * kept

    def _flops(self, batch_size: int, n: int, rows: int, pairs: int) -> int:
        d, h, head = self.d_model, self.heads, self.d_head
        sums = 2 * rows * 2 * d * (2 * head + (2 if self.causal else 1))
        return batch_size * (2 * n * d * 4 * d + sums + 2 * pairs * h * (3 * head + 1))


def _turned(t_bhdn: Tensor, turn_21n: Tensor) -> Tensor:
    """Return [t_i cos; t_i sin] of the token's angle: [B, heads, 2 d, N]."""
    return (t_bhdn[:, :, None] * turn_21n).flatten(2, 3)


def _sums_of_keys(k_bhfn: Tensor, v_bhdn: Tensor) -> Tensor:
    """Return S = sum_j phi(k_j) [v_j, 1]: [B, heads, 2 d, d + 1]."""
    return torch.cat([k_bhfn @ v_bhdn.mT, k_bhfn.sum(dim=-1, keepdim=True)], dim=-1)


def _weighed(q_bhfn: Tensor, sums_bhfe: Tensor) -> Tensor:
    """Return the heads' outputs, the queries' sums over the sum of their weights: [B, D, N]."""
    out_bhen = sums_bhfe.mT @ q_bhfn
    values_bhdn, weights_bh1n = out_bhen.split([out_bhen.shape[2] - 1, 1], dim=2)
    mixed: Tensor = values_bhdn / weights_bh1n.clamp_min(EPSILON)
    return mixed.flatten(1, 2)

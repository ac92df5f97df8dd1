"""cosFormer: rectified features and a cosine that favours near tokens; keys are summed once."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import clear_padding, merge_heads, no_autocast, split_heads, wide_bytes
from baselines.attention._running import CHUNK, past_pairs, rows_and_pairs, running_products
from effbench import Mechanism

EPSILON = 1e-6


class CosFormer(Mechanism):
    """Linear attention with ReLU features and a cosine of the distance.

    Per head, with M = ``max_len`` and no 1/sqrt(d):

        w_ij = relu(q_i) . relu(k_j) cos(pi (i - j) / 2 M)
        out_i = sum_j w_ij v_j / max(sum_j w_ij, 1e-6)

    No weight is negative, since |i - j| < M. By cos(a - b) = cos a cos b + sin a sin b, w_ij is
    phi(q_i) . phi(k_j) with phi(t_i) = [relu(t_i) cos(pi i / 2 M); relu(t_i) sin(pi i / 2 M)], 2 d wide. The
    sums over keys, S = sum_j phi(k_j) [v_j, 1] [2 d, d + 1], are computed once: O(N D^2), memory O(N D).
    x [B, N, D] -> [B, N, D]. Public code uses the length of each input for M. With ``max_len`` a token's
    output does not change when padding is appended; the two are equal for inputs of ``max_len`` tokens.

    Causal: the sums run over j <= i, in chunks of 32 tokens.
    """

    order = 1.0
    memory_order = 1.0
    equivariant = False
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
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.qkv.weight.to(wide), self.qkv.bias.to(wide)
        q, k, v = F.linear(clear_padding(x, mask).to(wide), weight, bias).chunk(3, dim=-1)
        k = k.relu() if mask is None else k.relu().masked_fill(~mask[..., None], 0.0)
        q_bhnf, k_bhnf = (self._turned(split_heads(part, self.heads)) for part in (q.relu(), k))
        values = F.pad(split_heads(v, self.heads), (0, 1), value=1.0)  # a column of ones sums the weights
        sums = running_products(q_bhnf, k_bhnf, values) if self.causal else q_bhnf @ (k_bhnf.mT @ values)
        mixed = merge_heads(sums[..., :-1] / sums[..., -1:].clamp_min(EPSILON))
        return F.linear(mixed, self.out.weight.to(wide), self.out.bias.to(wide)).to(x.dtype)

    def _turned(self, t_bhnd: Tensor) -> Tensor:
        """Return [t_i cos; t_i sin] of the token's angle: [B, heads, N, 2 d]."""
        angle_n1 = torch.arange(t_bhnd.shape[2], device=t_bhnd.device, dtype=torch.float64)[:, None]
        angle_n1 = angle_n1 * (math.pi / (2 * self.max_len))
        turn_n2 = torch.cat([angle_n1.cos(), angle_n1.sin()], dim=1).to(t_bhnd.dtype)
        return (turn_n2[..., None] * t_bhnd[..., None, :]).flatten(-2)

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
        """Rectified q and k, before and after the turn; values, sums, weights, heads' outputs; angles twice.

        Not causal: also S. Causal: in whole chunks.
        """
        n, d, h = seq_len, self.d_model, self.heads
        rows = rows_and_pairs(n)[0] if self.causal else n
        meeting = 0 if self.causal else 2 * d * (self.d_head + 1)
        kept = batch_size * (3 * n * d + 4 * rows * d + 2 * rows * (d + h) + n * h + meeting) + 4 * n
        if self.qkv.weight.element_size() < 4:  # wide copies of inputs and maps
            kept += batch_size * n * d + 4 * d * d
        return wide_bytes(self.qkv.weight) * kept

    def _flops(self, batch_size: int, n: int, rows: int, pairs: int) -> int:
        d, h, head = self.d_model, self.heads, self.d_head
        sums = 2 * 2 * rows * 2 * d * (head + 1)
        return batch_size * (2 * n * d * 4 * d + sums + 2 * pairs * h * (3 * head + 1))

"""Linear attention: a kernel feature map lets keys and values be summed once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import clear_padding, merge_heads, refuse_causal, split_heads
from effbench.mechanism import Mechanism

EPSILON = 1e-6


class LinearAttention(Mechanism):
    """Linear attention with the feature map elu(x) + 1.

    Per head, with phi(x) = elu(x) + 1 and no 1/sqrt(d):

        out_i = sum_j (phi(q_i) . phi(k_j)) v_j / (sum_j phi(q_i) . phi(k_j) + 1e-6)

    which re-associates to phi(q_i) S / (phi(q_i) . z + 1e-6), S = sum_j phi(k_j) v_j^T [d, d] and
    z = sum_j phi(k_j) [d]: O(N d^2) a head, memory O(N D). Padding has phi(k_j) = 0. Sums are in float32 at
    least. Projections with bias around it. x [B, N, D] -> [B, N, D].
    """

    order = 1.0
    memory_order = 1.0
    equivariant = True
    source = "Katharopoulos et al. 2020, Transformers are RNNs (arXiv 2006.16236)"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        refuse_causal(causal, "linear", "its running sums are not written yet")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        q, k, v = self._features(clear_padding(x, mask), mask)
        sums_bhde = k.mT @ v
        norm_bhd1 = k.sum(dim=-2)[..., None]
        mixed = (q @ sums_bhde) / (q @ norm_bhd1 + EPSILON)
        return self.out(merge_heads(mixed).to(x.dtype))  # type: ignore[no-any-return]

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """By the formula, with the N x N matrix of weights."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        weights_bhnm = _phi_by_cases(q) @ _phi_by_cases(k).mT
        if mask is not None:
            weights_bhnm = weights_bhnm * mask[:, None, None, :]
        mixed = (weights_bhnm / (weights_bhnm.sum(dim=-1, keepdim=True) + EPSILON)) @ v
        return self.out(merge_heads(mixed))  # type: ignore[no-any-return]

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Four projections, S and its product with the queries (2 N d D each), the queries times z."""
        n, d = seq_len, self.d_model
        return batch_size * (2 * n * d * 4 * d + 4 * n * self.d_head * d + 2 * n * d)

    def _features(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """phi(q), phi(k), v: [B, heads, N, d], in float32 or better."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        wide = torch.promote_types(x.dtype, torch.float32)
        q, k = F.elu(q.to(wide)) + 1, F.elu(k.to(wide)) + 1
        v = v.to(wide)
        if mask is not None:
            k = k.masked_fill(~mask[:, None, :, None], 0.0)
        return q, k, v


def _phi_by_cases(x: Tensor) -> Tensor:
    """elu(x) + 1 spelt out, for the reference: x + 1 above 0, exp(x) below."""
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())

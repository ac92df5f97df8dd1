"""Layers that authors released as notebooks, which are in no package: rewritten from their equations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from baselines.peers._peer import Peer, refuse_causal


class AuthorsFastformer(Peer):
    """The attention core of the Fastformer authors' PyTorch release, with the operations of the release.

    It differs from the paper's equations: with both scoring maps [D, heads] each head's logit sees the
    features of all heads, all maps have a bias, and values are the queries. Written from the equations of the
    release (wuch15/Fastformer at 84cc859), operation by operation; its code is not copied.
    """

    order = 1.0
    memory_order = 1.0
    source = "Wu et al. 2021, the authors' release (github.com/wuch15/Fastformer)"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        refuse_causal(causal, "the authors' Fastformer")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.query, self.key, self.transform = (nn.Linear(d_model, d_model) for _ in range(3))
        self.score_query, self.score_key = nn.Linear(d_model, heads), nn.Linear(d_model, heads)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        query, key = self.query(x), self.key(x)
        pooled_query = self._pooled(self.score_query(query), query, mask)
        mixed = key * pooled_query.repeat(1, x.shape[1], 1)
        pooled_key = self._pooled(self.score_key(mixed), mixed, mask)
        return self.transform(pooled_key * query) + query  # type: ignore[no-any-return]

    def _pooled(self, scores_bnh: Tensor, t_bnD: Tensor, mask: Tensor | None) -> Tensor:
        """Return the sum of each head's part, weighted by its softmax of scores over tokens: [B, 1, D]."""
        logits_bhn = scores_bnh.transpose(1, 2) / self.d_head**0.5
        if mask is not None:
            logits_bhn = logits_bhn + (1.0 - mask[:, None].to(logits_bhn.dtype)) * -10000.0
        weights_bh1n = logits_bhn.softmax(dim=-1)[:, :, None]
        heads_bhnd = t_bnD.unflatten(-1, (self.heads, self.d_head)).transpose(1, 2)
        return torch.matmul(weights_bh1n, heads_bhnd).transpose(1, 2).flatten(2)

"""Fastformer: additive attention that sums the sequence into one global query and one global key."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from baselines.attention._heads import clear_padding, masked_softmax, refuse_causal, require
from effbench.mechanism import Mechanism


class Fastformer(Mechanism):
    """Additive attention: a global query, a global key, and their interaction with every token.

    The paper's equations, per head, with Q, K, V = x W (no bias) and d the head's width:

        alpha_i = softmax_i(w_q . q_i / sqrt(d))     q = sum_i alpha_i q_i         (3), (4)
        p_i = q * k_i
        beta_i = softmax_i(w_k . p_i / sqrt(d))      k = sum_i beta_i p_i          (5), (6)
        u_i = k * v_i        r_i = W_r u_i + b       output_i = r_i + q_i

    x [B, N, D] -> [B, N, D]; time O(N D) beside the projections, memory O(N D). The interaction is affine in
    the token, so neither p_i nor its N scores over D need be made: w_k . p_i = (w_k * q) . k_i, and
    k = q * sum_i beta_i k_i.

    ``interaction``: ``product`` as above; ``add``: q + k_i and k + v_i; ``concat``: a learned map
    [2 d -> d] a head of [q; k_i] and of [k; v_i] restores the width (the paper does not say how it does).

    ``sharing``: ``none``; ``query-value``: W_v is W_q; ``layer-wise``, the paper's: the same, and an encoder
    uses one instance for all its layers; ``head-wise``: query-value, and one w_q, one w_k, one interaction
    map and one [d, d] output map serve all heads (sharing W_q, W_k too would make the heads identical).
    Where the paper is silent: W_r mixes heads [D, D] with bias, as in the authors' code; attention weights of
    padding are exactly 0.
    """

    order = 1.0
    memory_order = 1.0
    equivariant = True
    source = "Wu et al. 2021, Fastformer: Additive Attention Can Be All You Need (arXiv 2108.09084)"

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        causal: bool = False,
        interaction: Literal["product", "add", "concat"] = "product",
        sharing: Literal["none", "query-value", "layer-wise", "head-wise"] = "layer-wise",
    ) -> None:
        refuse_causal(causal, "fastformer", "its global query and key sum over the future too")
        require(
            interaction in ("product", "add", "concat"), "interaction", interaction, "product, add or concat"
        )
        allowed = ("none", "query-value", "layer-wise", "head-wise")
        require(sharing in allowed, "sharing", sharing, f"one of {', '.join(allowed)}")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.interaction = interaction
        self.sharing = sharing
        self.shares_layers = sharing == "layer-wise"
        d = self.d_head
        own = 1 if sharing == "head-wise" else heads
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False) if sharing == "none" else None
        # scores of order 1 for queries of order 1
        self.score_query = nn.Parameter(torch.randn(own, d))
        self.score_key = nn.Parameter(torch.randn(own, d))
        if interaction == "concat":
            self.join_query = nn.Parameter(torch.randn(own, 2 * d, d) * (2 * d) ** -0.5)
            self.join_key = nn.Parameter(torch.randn(own, 2 * d, d) * (2 * d) ** -0.5)
        self.transform = nn.Linear(d, d) if sharing == "head-wise" else nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        x = clear_padding(x, mask)
        q_bnhd = self.query(x).unflatten(-1, (self.heads, self.d_head))
        k_bnhd = self.key(x).unflatten(-1, (self.heads, self.d_head))
        v_bnhd = q_bnhd if self.value is None else self.value(x).unflatten(-1, (self.heads, self.d_head))
        alpha = self._weights(self.score_query[None], q_bnhd, mask)
        query_bhd = self._sum(alpha, q_bnhd)
        beta = self._weights(self._score_of_pairs(query_bhd), k_bnhd, mask)
        key_bhd = self._interact(query_bhd, self._sum(beta, k_bnhd), "query")
        u_bnhd = self._interact(key_bhd[:, None], v_bnhd, "key")
        output: Tensor = self._transformed(u_bnhd) + q_bnhd.flatten(2)
        return output

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Equations (3) to (6) one after the other, with every p_i."""
        q_bnhd = self.query(x).unflatten(-1, (self.heads, self.d_head))
        k_bnhd = self.key(x).unflatten(-1, (self.heads, self.d_head))
        v_bnhd = q_bnhd if self.value is None else self.value(x).unflatten(-1, (self.heads, self.d_head))
        real = None if mask is None else mask[..., None]
        alpha_bnh = masked_softmax((self.score_query * q_bnhd).sum(-1) / self.d_head**0.5, real, 1)
        query_bhd = (alpha_bnh[..., None] * q_bnhd).sum(1)
        p_bnhd = self._pair(query_bhd, k_bnhd, "query")
        beta_bnh = masked_softmax((self.score_key * p_bnhd).sum(-1) / self.d_head**0.5, real, 1)
        key_bhd = (beta_bnh[..., None] * p_bnhd).sum(1)
        u_bnhd = self._pair(key_bhd, v_bnhd, "key")
        r = (
            self.transform(u_bnhd).flatten(2)
            if self.sharing == "head-wise"
            else self.transform(u_bnhd.flatten(2))
        )
        return r + q_bnhd.flatten(2)  # type: ignore[no-any-return]

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Q, K (V) and W_r, two scores and two sums over the tokens, and the maps of ``concat``."""
        b, n, d, width = batch_size, seq_len, self.d_head, self.d_model
        projections = 2 * n * width * width * (3 if self.sharing == "none" else 2)
        transform = 2 * n * width * (d if self.sharing == "head-wise" else width)
        thin = 4 * 2 * n * width
        flops = b * (projections + transform + thin)
        if self.interaction == "concat":
            # [d, d] maps of q, of sum beta_i k_i, of k and of all v_i; and the score vectors' own
            flops += 2 * width * d * b * (3 + n) + 2 * self.score_key.numel() * d
        return flops

    def _weights(self, score_bhd: Tensor, t_bnhd: Tensor, mask: Tensor | None) -> Tensor:
        """softmax over tokens of score . t_i / sqrt(d): [B, heads, N]."""
        scores_bhn = torch.einsum("bhd,bnhd->bhn", score_bhd.expand(t_bnhd.shape[0], self.heads, -1), t_bnhd)
        return masked_softmax(scores_bhn / self.d_head**0.5, None if mask is None else mask[:, None], -1)

    def _sum(self, weights_bhn: Tensor, t_bnhd: Tensor) -> Tensor:
        """sum_i weight_i t_i: [B, heads, d]."""
        return torch.einsum("bhn,bnhd->bhd", weights_bhn, t_bnhd)

    def _score_of_pairs(self, query_bhd: Tensor) -> Tensor:
        """The vector whose product with k_i is w_k . p_i, up to a constant that the softmax forgets."""
        if self.interaction == "product":
            return self.score_key * query_bhd
        if self.interaction == "add":
            return self.score_key[None]
        token_half = self.join_query[:, self.d_head :]
        return torch.einsum("hde,he->hd", token_half, self.score_key)[None]

    def _interact(self, whole: Tensor, tokens: Tensor, which: Literal["query", "key"]) -> Tensor:
        """The interaction of a global vector with tokens, [..., heads, d] both; affine in the tokens."""
        if self.interaction == "product":
            return whole * tokens
        if self.interaction == "add":
            return whole + tokens
        join = self.join_query if which == "query" else self.join_key
        first, second = join[:, : self.d_head], join[:, self.d_head :]
        return _per_head(whole, first) + _per_head(tokens, second)

    def _pair(self, whole_bhd: Tensor, tokens_bnhd: Tensor, which: Literal["query", "key"]) -> Tensor:
        """The interaction as the paper writes it, for the reference."""
        whole = whole_bhd[:, None].expand_as(tokens_bnhd)
        if self.interaction == "product":
            return whole * tokens_bnhd
        if self.interaction == "add":
            return whole + tokens_bnhd
        join = self.join_query if which == "query" else self.join_key
        both = torch.cat([whole, tokens_bnhd], dim=-1)
        return (both[..., None, :] @ join).squeeze(-2)

    def _transformed(self, u_bnhd: Tensor) -> Tensor:
        if self.sharing == "head-wise":
            return self.transform(u_bnhd).flatten(2)  # type: ignore[no-any-return]
        return self.transform(u_bnhd.flatten(2))  # type: ignore[no-any-return]


def _per_head(t: Tensor, maps_hde: Tensor) -> Tensor:
    """t [..., heads, d] times a map a head, or one for all: [..., heads, e]."""
    if maps_hde.shape[0] == 1:
        return t @ maps_hde[0]
    return torch.einsum("...hd,hde->...he", t, maps_hde)

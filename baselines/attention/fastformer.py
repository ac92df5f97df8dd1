"""Fastformer: additive attention that sums the sequence into one global query and one global key."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import clear_padding, masked_softmax, no_autocast, require
from baselines.attention._running import past_pairs, rows_and_pairs, running_softmax
from effbench.mechanism import Mechanism


class Fastformer(Mechanism):
    """Additive attention: a global query, a global key, and their interaction with every token.

    The paper's equations, per head, with Q, K, V = x W (no bias) and d the head's width:

        alpha_i = softmax_i(w_q . q_i / sqrt(d))     q = sum_i alpha_i q_i         (3), (4)
        p_i = q * k_i
        beta_i = softmax_i(w_k . p_i / sqrt(d))      k = sum_i beta_i p_i          (5), (6)
        u_i = k * v_i        r_i = W_r u_i + b       output_i = r_i + q_i

    x [B, N, D] -> [B, N, D]; time O(N D^2), memory O(N D). Causal (the paper has no such form): each token i
    has a global query and key of its own, pooled from the tokens j <= i, where p_j is made once, with the
    global query of j. Both softmaxes run along, relative to their largest logit so far, in chunks of 32
    tokens whose pairs of weights are made: O(N (32 + D) D).

    But for the two softmaxes all of this is linear in
    x, so that no query, key or value is made for any single token: with W_h the columns of W of head h,

        w_q . q_i = (W_q,h w_q) . x_i                 q = W_q,h^T sum_i alpha_i x_i
        w_k . p_i = (W_k,h (w_k * q)) . x_i           k = q * W_k,h^T sum_i beta_i x_i
        output_i = x_i (W_v diag(k) W_r + W_q) + b

    which leaves one product of N D^2 and four of N heads D, and costs 2 D^3 a sequence to make the last map.
    Sequences shorter than D are cheaper token by token: there p_i alone is not made, since the interaction is
    affine in the token, w_k . p_i = (w_k * q) . k_i and k = q * sum_i beta_i k_i.

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
        if self.causal:
            return self._running(x, mask)
        return self._by_maps(x, mask) if x.shape[1] >= self.d_model else self._by_tokens(x, mask)

    def _by_maps(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """As maps of x, for sequences that are longer than x is wide."""
        query_hdD, key_hdD, value_hdD = (
            (self.query if part is None else part).weight.unflatten(0, (self.heads, self.d_head))
            for part in (self.query, self.key, self.value)
        )
        scores_hD = torch.einsum("hd,hdm->hm", self.score_query.expand(self.heads, -1), query_hdD)
        query_bhd = torch.einsum("hdm,bhm->bhd", query_hdD, _pool(x, scores_hD[None], mask, self.d_head))
        scores_bhd = self._score_of_pairs(query_bhd).expand(-1, self.heads, -1)
        scores_bhD = torch.einsum("bhd,hdm->bhm", scores_bhd, key_hdD)
        summed_bhd = torch.einsum("hdm,bhm->bhd", key_hdD, _pool(x, scores_bhD, mask, self.d_head))
        key_bhd = self._interact(query_bhd, summed_bhd, "query")
        value_bDhd, shift_bhd = self._value_map(key_bhd, value_hdD.permute(2, 0, 1))
        map_bDD = self._transformed(value_bDhd, bias=False) + self.query.weight.mT
        bias = self.transform.bias
        shift_bD = (
            bias.repeat(self.d_model // len(bias))[None]
            if shift_bhd is None
            else self._transformed(shift_bhd)
        )
        if map_bDD.shape[0] < x.shape[0]:  # the interaction adds the global key: the map is the same for all
            return x @ map_bDD[0] + shift_bD[:, None]
        return torch.baddbmm(shift_bD[:, None], x, map_bDD)

    def _value_map(self, key_bhd: Tensor, value_Dhd: Tensor) -> tuple[Tensor, Tensor | None]:
        """u_i as an affine map of x_i: [B or 1, D, heads, d], and what it adds, if any: [B, heads, d]."""
        if self.interaction == "product":
            return key_bhd[:, None] * value_Dhd, None
        if self.interaction == "add":
            return value_Dhd[None], key_bhd
        whole, token = self.join_key.chunk(2, dim=1)
        return _per_head(value_Dhd, token)[None], _per_head(key_bhd, whole)

    def _by_tokens(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """With the queries, keys and values of all tokens."""
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

    def _running(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The causal form, with the queries, keys and values of all tokens."""
        q_bnhd = self.query(x).unflatten(-1, (self.heads, self.d_head))
        k_bnhd = self.key(x).unflatten(-1, (self.heads, self.d_head))
        v_bnhd = q_bnhd if self.value is None else self.value(x).unflatten(-1, (self.heads, self.d_head))
        query_bnhd = self._pooled_so_far(self.score_query, q_bnhd, mask)
        p_bnhd = self._interact(query_bnhd, k_bnhd, "query")
        u_bnhd = self._interact(self._pooled_so_far(self.score_key, p_bnhd, mask), v_bnhd, "key")
        output: Tensor = self._transformed(u_bnhd) + q_bnhd.flatten(2)
        return output

    def _pooled_so_far(self, score_hd: Tensor, t_bnhd: Tensor, mask: Tensor | None) -> Tensor:
        """sum_{j<=i} softmax_j(score . t_j / sqrt(d)) t_j for each i: [B, N, heads, d]."""
        scores_bhn = torch.einsum("hd,bnhd->bhn", score_hd.expand(self.heads, -1), t_bnhd) / self.d_head**0.5
        wide = torch.promote_types(t_bnhd.dtype, torch.float32)
        with no_autocast(t_bnhd):
            pooled = running_softmax(scores_bhn.to(wide), t_bnhd.to(wide).transpose(1, 2), mask)
        return pooled.to(t_bnhd.dtype).transpose(1, 2)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Equations (3) to (6) one after the other, with every p_i; causal, with every weight of a pair."""
        if self.causal:
            return self._causal_reference(x, mask)
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

    def _causal_reference(self, x: Tensor, mask: Tensor | None) -> Tensor:
        n = x.shape[1]
        seen = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
        if mask is not None:
            seen = seen & mask[:, None, None, :]
        tokens = (self.query, self.key, self.query if self.value is None else self.value)
        q_bnhd, k_bnhd, v_bnhd = (part(x).unflatten(-1, (self.heads, self.d_head)) for part in tokens)

        def pooled(score_hd: Tensor, t_bnhd: Tensor) -> Tensor:
            logits_bhn = (score_hd * t_bnhd).sum(-1).transpose(1, 2) / self.d_head**0.5
            weights_bhij = masked_softmax(logits_bhn[:, :, None].expand(-1, -1, n, -1), seen, -1)
            summed: Tensor = torch.einsum("bhij,bjhd->bihd", weights_bhij, t_bnhd)
            return summed

        def pair(whole_bnhd: Tensor, tokens_bnhd: Tensor, which: Literal["query", "key"]) -> Tensor:
            together = self._pair(whole_bnhd.flatten(0, 1), tokens_bnhd.flatten(0, 1)[:, None], which)
            split: Tensor = together[:, 0].unflatten(0, (-1, n))
            return split

        p_bnhd = pair(pooled(self.score_query, q_bnhd), k_bnhd, "query")
        u_bnhd = pair(pooled(self.score_key, p_bnhd), v_bnhd, "key")
        out: Tensor = self._transformed(u_bnhd) + q_bnhd.flatten(2)
        return out

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """By maps: the last product and four thin ones, and what makes the maps. By tokens: Q, K (V), W_r.

        Causal: by tokens, with the weights of the pairs in a chunk.
        """
        if self.causal:
            return self._causal_flops(batch_size, seq_len, rows_and_pairs(seq_len)[1])
        b, n, d, h, width = batch_size, seq_len, self.d_head, self.heads, self.d_model
        square, last = 2 * width * width, 2 * width * (d if self.sharing == "head-wise" else width)
        if n < width:
            thin = 4 * 2 * n * width
            flops = b * (n * square * (3 if self.sharing == "none" else 2) + n * last + thin)
            if self.interaction == "concat":
                # [d, d] maps of q, of sum beta_i k_i, of k and of all v_i; and the score vectors' own
                flops += 2 * width * d * b * (3 + n) + 2 * self.score_key.numel() * d
            return flops
        # the maps of the last product, and the thin ones' way into W_q, W_k and out of W_k, W_q
        maps = (b if self.interaction == "product" else 1) * width * last
        shift = 0 if self.interaction == "product" else b * last
        into = 2 * width * width * (1 + 2 * b + (b if self.interaction == "product" else 1))
        flops = b * n * (square + 4 * 2 * h * width) + maps + shift + into
        if self.interaction == "concat":
            # [d, d] maps of q, of sum beta_i k_i, of k and of W_v; and the score vectors' own
            flops += 2 * width * d * (3 * b + width) + 2 * self.score_key.numel() * d
        return flops

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Causal: of the pairs in a chunk, those not in the future."""
        if not self.causal:
            return self.forward_flops(batch_size, seq_len)
        return self._causal_flops(batch_size, seq_len, past_pairs(seq_len))

    def _causal_flops(self, batch_size: int, n: int, pairs: int) -> int:
        """Q, K (V) and W_r, two logits a head, and two sums over so many pairs."""
        d, h, width = self.d_head, self.heads, self.d_model
        square, last = 2 * width * width, 2 * width * (d if self.sharing == "head-wise" else width)
        flops = n * (square * (3 if self.sharing == "none" else 2) + last + 2 * 2 * width)
        flops += 2 * 2 * pairs * h * (d + 1)
        if self.interaction == "concat":
            flops += 4 * 2 * n * width * d
        return batch_size * flops

    def saved_bytes(self, batch_size: int, seq_len: int) -> int | None:
        """By maps: the weights of tokens, what is summed with them, and the maps. Not declared otherwise."""
        n, h, width = seq_len, self.heads, self.d_model
        if n < width or self.causal:
            return None
        square, pooled = width * width, 4 * h * width + 2 * n * h
        if self.interaction == "product":
            kept = batch_size * (pooled + 4 * width + 2 * square)
        elif self.interaction == "add":
            kept = batch_size * (pooled + width) + square
        else:
            kept = batch_size * (pooled + 4 * width) + self.score_key.numel() + 2 * square
            kept += square if self.sharing == "head-wise" else 0
        return self.query.weight.element_size() * kept

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

    def _transformed(self, u_hd: Tensor, *, bias: bool = True) -> Tensor:
        """W_r u (+ b): [..., heads, d] -> [..., D]."""
        shift = self.transform.bias if bias else None
        if self.sharing == "head-wise":
            return F.linear(u_hd, self.transform.weight, shift).flatten(-2)
        return F.linear(u_hd.flatten(-2), self.transform.weight, shift)


def _pool(x_bnD: Tensor, scores_bhD: Tensor, mask: Tensor | None, d_head: int) -> Tensor:
    """sum_i softmax_i(score . x_i / sqrt(d)) x_i for each head: [B, heads, D]."""
    scores_bhD = scores_bhD.expand(x_bnD.shape[0], -1, -1) / d_head**0.5
    widest = torch.promote_types(x_bnD.dtype, scores_bhD.dtype)  # they differ under autocast
    with no_autocast(x_bnD):
        return _Pool.apply(x_bnD.to(widest), scores_bhD.to(widest), mask)  # type: ignore[no-any-return, no-untyped-call]


class _Pool(torch.autograd.Function):
    """softmax_i(score . x_i)-weighted sums of x; its two gradients of x are one product, and one sum less.

    With weights a_i, pooled P = sum_i a_i x_i and dP its gradient: d logit_i = a_i (dP . x_i - dP . P), and
    dx_i = a_i dP + d logit_i score.
    """

    @staticmethod
    def forward(context: Any, x_bnD: Tensor, scores_bhD: Tensor, mask: Tensor | None) -> Tensor:
        real = None if mask is None else mask[:, None]
        weights_bhn = masked_softmax(scores_bhD @ x_bnD.mT, real, -1)
        pooled_bhD = weights_bhn @ x_bnD
        context.save_for_backward(x_bnD, scores_bhD, weights_bhn, pooled_bhD)
        return pooled_bhD

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x_bnD, scores_bhD, weights_bhn, pooled_bhD = context.saved_tensors
        mean_bh1 = (gradient * pooled_bhD).sum(-1, keepdim=True)
        logits_bhn = (gradient @ x_bnD.mT).sub_(mean_bh1).mul_(weights_bhn)
        both_bnh = torch.cat([weights_bhn, logits_bhn], dim=1).mT
        return both_bnh @ torch.cat([gradient, scores_bhD], dim=1), logits_bhn @ x_bnD, None


def _per_head(t: Tensor, maps_hde: Tensor) -> Tensor:
    """t [..., heads, d] times a map a head, or one for all: [..., heads, e]."""
    if maps_hde.shape[0] == 1:
        return t @ maps_hde[0]
    return torch.einsum("...hd,hde->...he", t, maps_hde)

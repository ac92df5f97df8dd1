"""Fastformer: additive attention that sums the sequence into one global query and one global key."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._fastformer_costs import FastformerCosts
from baselines.attention._heads import clear_padding, masked_softmax, no_autocast, require, wide_dtype
from baselines.attention._interactions import interact, interact_by_definition, per_head
from baselines.attention._pooled import pooled_inputs
from baselines.attention._running import running_softmax
from baselines.attention._stepping import SoftmaxSums, mean_of, with_token


class Fastformer(FastformerCosts):
    """Additive attention: a global query, a global key, and their interaction with every token.

    The paper's equations, per head, with Q, K, V = x W (no bias) and d the width of a head::

        alpha_i = softmax_i(w_q . q_i / sqrt(d))     q = sum_i alpha_i q_i         (3), (4)
        p_i = q * k_i
        beta_i = softmax_i(w_k . p_i / sqrt(d))      k = sum_i beta_i p_i          (5), (6)
        u_i = k * v_i        r_i = W_r u_i + b       output_i = r_i + q_i

    x [B, N, D] -> [B, N, D]; time O(N D^2), memory O(N D). Causal (not in the paper): each token i has its
    own global query and key, pooled from the tokens j <= i; p_j is computed once, with the global query of j.
    Both softmaxes are running sums, relative to the largest logit so far; the weights of pairs of tokens are
    computed inside chunks of 32 tokens only: O(N (32 + D) D). Step by step: the sums of both softmaxes are
    the whole state. Cross (not in the paper): the global query and key are pooled from the memory, and v_i
    and the added q_i are the token's.

    Apart from the two softmaxes the layer is linear in x, so the query, key and value of a single token are
    never computed. With W_h the columns of W of head h::

        w_q . q_i = (W_q,h w_q) . x_i                 q = W_q,h^T sum_i alpha_i x_i
        w_k . p_i = (W_k,h (w_k * q)) . x_i           k = q * W_k,h^T sum_i beta_i x_i
        output_i = x_i (W_v diag(k) W_r + W_q) + b

    This leaves one product of N D^2 and four of N heads D, and costs 2 D^3 per sequence for the last map.
    Sequences shorter than D are cheaper token by token. There only p_i is not computed, because the
    interaction is affine in the token: w_k . p_i = (w_k * q) . k_i and k = q * sum_i beta_i k_i.

    Choices where the paper says nothing: W_r [D, D] with bias mixes heads, as in the authors' code; attention
    weights of padding are exactly 0.

    ``variant``: ``paper``, as above; ``official``, the block of the authors' PyTorch release, another model::

        q_i, k_i = x_i W + b     v_i = q_i
        logits s . q_i / sqrt(d) and s . p_i / sqrt(d) with s [D]: each head sees the features of all heads
        output_i = LayerNorm(x_i + (r_i + q_i) W_o + b_o), eps 1e-12

    Sums over tokens and r_i are as in the paper. The bias of the release's scorers is left out: it shifts all
    logits of a head alike, which does not change a softmax. Its feed-forward layer (GELU, D -> D -> D,
    post-norm) and its dropout belong to the encoder around it. The official block too is linear in x between
    its softmaxes and the norm::

        output_i = LayerNorm(x_i + x_i W_q (diag(k) W_r + 1) W_o + shift)

    again one product of N D^2; W_r W_o is computed once for all sequences. Causal: as above.

    ``interaction``: ``product``, as above; ``add``: q + k_i and k + v_i; ``concat``: a learned map [2 d -> d]
    per head, of [q; k_i] and of [k; v_i], restores the width (the paper does not say how). The release
    multiplies.

    ``sharing``: ``none``; ``query-value``: W_v is W_q; ``layer-wise``: the same, and an encoder uses one
    instance for all its layers; ``head-wise``: query-value, and one w_q, one w_k, one interaction map and one
    [d, d] output map for all heads (with shared W_q and W_k the heads would be identical). ``published``:
    layer-wise for the paper, query-value for the release. The release has neither ``none`` nor ``head-wise``.

    Raises ValueError for a wrong option, or for an interaction or sharing that the variant does not have.
    """

    order = 1.0
    memory_order = 1.0
    state_order = 0.0
    equivariant = True
    source = "Wu et al. 2021, Fastformer: Additive Attention Can Be All You Need (arXiv 2108.09084)"

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        causal: bool = False,
        variant: Literal["paper", "official"] = "paper",
        interaction: Literal["product", "add", "concat"] = "product",
        sharing: Literal["published", "none", "query-value", "layer-wise", "head-wise"] = "published",
    ) -> None:
        require(variant in ("paper", "official"), "variant", variant, "paper or official")
        require(
            interaction in ("product", "add", "concat"), "interaction", interaction, "product, add or concat"
        )
        allowed = ("published", "none", "query-value", "layer-wise", "head-wise")
        require(sharing in allowed, "sharing", sharing, f"one of {', '.join(allowed)}")
        official = variant == "official"
        if official:
            rule = "product with variant=official: the released code multiplies and has nothing else"
            require(interaction == "product", "interaction", interaction, rule)
            rule = "published, query-value or layer-wise with variant=official: "
            rule += "its values are its queries, and each of its scores sees all heads"
            require(sharing not in ("none", "head-wise"), "sharing", sharing, rule)
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        if sharing == "published":
            sharing = "query-value" if official else "layer-wise"
        self.variant = variant
        self.interaction = interaction
        self.sharing = sharing
        self.shares_layers = sharing == "layer-wise"
        d = self.d_head
        own = 1 if sharing == "head-wise" else heads
        self.query = nn.Linear(d_model, d_model, bias=official)
        self.key = nn.Linear(d_model, d_model, bias=official)
        self.value = nn.Linear(d_model, d_model, bias=False) if sharing == "none" else None
        # scores of order 1 for queries of order 1; [heads, d], or [heads, D] if a score sees all heads
        reach, scale = (d_model, heads**-0.5) if official else (d, 1.0)
        self.score_query = nn.Parameter(torch.randn(own, reach) * scale)
        self.score_key = nn.Parameter(torch.randn(own, reach) * scale)
        if interaction == "concat":
            self.join_query = nn.Parameter(torch.randn(own, 2 * d, d) * (2 * d) ** -0.5)
            self.join_key = nn.Parameter(torch.randn(own, 2 * d, d) * (2 * d) ** -0.5)
        self.transform = nn.Linear(d, d) if sharing == "head-wise" else nn.Linear(d_model, d_model)
        if official:
            self.output = nn.Linear(d_model, d_model)
            self.norm = nn.LayerNorm(d_model, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        x = clear_padding(x, mask)
        if self.causal:
            return self._running(x, mask)[0]
        if x.shape[1] < self.d_model:
            return self._by_tokens(x, mask)
        return self._official_by_maps(x, mask) if self.variant == "official" else self._by_maps(x, mask)

    def _by_maps(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Compute it as maps of x, for sequences of at least D tokens."""
        key_bhd = self._key_by_maps(x, mask)
        value = self.query if self.value is None else self.value
        value_hdD = value.weight.unflatten(0, (self.heads, self.d_head))
        value_bDhd, shift_bhd = self._value_map(key_bhd, value_hdD.permute(2, 0, 1))
        map_bDD = self._transformed(value_bDhd, bias=False) + self.query.weight.mT
        bias = self.transform.bias
        shift_bD = (
            bias.repeat(self.d_model // len(bias))[None]
            if shift_bhd is None
            else self._transformed(shift_bhd)
        )
        if map_bDD.shape[0] < x.shape[0]:  # the interaction adds the global key: one map for all sequences
            return x @ map_bDD[0] + shift_bD[:, None]
        return torch.baddbmm(shift_bD[:, None], x, map_bDD)

    def _key_by_maps(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the global key [B, heads, d] from pooled inputs."""
        if self.variant == "official":
            queries = self.score_query @ self.query.weight
            query_bD = self._through(self.query, pooled_inputs(x, queries[None], mask, self.d_head))
            scores_bhD = (self.score_key * query_bD[:, None]) @ self.key.weight
            summed_bD = self._through(self.key, pooled_inputs(x, scores_bhD, mask, self.d_head))
            key_bhd: Tensor = (query_bD * summed_bD).unflatten(1, (self.heads, self.d_head))
            return key_bhd
        query_hdD, key_hdD = (
            part.weight.unflatten(0, (self.heads, self.d_head)) for part in (self.query, self.key)
        )
        scores_hD = torch.einsum("hd,hdm->hm", self.score_query.expand(self.heads, -1), query_hdD)
        query_bhd = torch.einsum(
            "hdm,bhm->bhd", query_hdD, pooled_inputs(x, scores_hD[None], mask, self.d_head)
        )
        scores_bhd = self._score_of_pairs(query_bhd).expand(-1, self.heads, -1)
        scores_bhD = torch.einsum("bhd,hdm->bhm", scores_bhd, key_hdD)
        summed_bhd = torch.einsum("hdm,bhm->bhd", key_hdD, pooled_inputs(x, scores_bhD, mask, self.d_head))
        return self._interact(query_bhd, summed_bhd, "query")

    def _official_by_maps(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Compute the release's block as maps of x."""
        key_bD = self._key_by_maps(x, mask).flatten(1)
        both_DD = self.output.weight @ self.transform.weight
        map_bDD = torch.addcmul(self.output.weight, both_DD, key_bD[:, None]) @ self.query.weight
        shift_bD = self.output(self.transform(key_bD * self.query.bias) + self.query.bias)
        return self.norm(x + torch.baddbmm(shift_bD[:, None], x, map_bDD.mT))  # type: ignore[no-any-return]

    def _through(self, part: nn.Linear, pooled_bhD: Tensor) -> Tensor:
        """Map each head's sum of inputs to the features of that head: [B, heads, D] -> [B, D]."""
        weight_hdD = part.weight.unflatten(0, (self.heads, self.d_head))
        return torch.einsum("hdm,bhm->bhd", weight_hdD, pooled_bhD).flatten(1) + part.bias

    def _value_map(self, key_bhd: Tensor, value_Dhd: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return u_i as an affine map of x_i: [B or 1, D, heads, d], and a shift [B, heads, d] or None."""
        if self.interaction == "product":
            return key_bhd[:, None] * value_Dhd, None
        if self.interaction == "add":
            return value_Dhd[None], key_bhd
        whole, token = self.join_key.chunk(2, dim=1)
        return per_head(value_Dhd, token)[None], per_head(key_bhd, whole)

    def _by_tokens(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Compute it from the queries, keys and values of all tokens."""
        q_bnhd, k_bnhd, v_bnhd = self._tokens(x)
        return self._output(x, self._key_by_tokens(q_bnhd, k_bnhd, mask)[:, None], q_bnhd, v_bnhd)

    def _key_by_tokens(self, q_bnhd: Tensor, k_bnhd: Tensor, mask: Tensor | None) -> Tensor:
        """Return the global key [B, heads, d] from the queries and keys of all tokens."""
        alpha = self._weights(self.score_query[None], q_bnhd, mask)
        query_bhd = self._sum(alpha, q_bnhd)
        beta = self._weights(self._score_of_pairs(query_bhd), k_bnhd, mask)
        return self._interact(query_bhd, self._sum(beta, k_bnhd), "query")

    def _output(self, x: Tensor, key_bnhd: Tensor, q_bnhd: Tensor, v_bnhd: Tensor) -> Tensor:
        """Return the output [B, N, D] for the global key, of all tokens or of each."""
        u_bnhd = self._interact(key_bnhd, v_bnhd, "key")
        return self._finished(x, self._transformed(u_bnhd) + q_bnhd.flatten(2))

    def remember(self, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """memory [B, M, D], mask [B, M] -> the global key of the memory: [B, heads, d]."""
        memory = clear_padding(memory, mask)
        if memory.shape[1] >= self.d_model:
            return self._key_by_maps(memory, mask)
        return self._key_by_tokens(*self._tokens(memory)[:2], mask)

    def attend(self, x: Tensor, remembered: Tensor) -> Tensor:
        """x [B, N, D] and the global key of a memory -> [B, N, D]."""
        q_bnhd, v_bnhd = self._queries_and_values(x)
        return self._output(x, remembered[:, None], q_bnhd, v_bnhd)

    def _running(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, list[SoftmaxSums]]:
        """Return the causal output [B, N, D], and the sums of both softmaxes after the last token."""
        q_bnhd, k_bnhd, v_bnhd = self._tokens(x)
        query_bnhd, of_queries = self._pooled_so_far(self.score_query, q_bnhd, mask)
        p_bnhd = self._interact(query_bnhd, k_bnhd, "query")
        key_bnhd, of_pairs = self._pooled_so_far(self.score_key, p_bnhd, mask)
        return self._output(x, key_bnhd, q_bnhd, v_bnhd), [of_queries, of_pairs]

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[SoftmaxSums]]:
        """x [B, N, D], mask [B, N] -> the causal outputs [B, N, D] and the sums of both softmaxes."""
        return self._running(clear_padding(x, mask), mask)

    def step(self, x: Tensor, state: list[SoftmaxSums]) -> tuple[Tensor, list[SoftmaxSums]]:
        """x [B, D] -> the output [B, D] for one more token, and both sums with it."""
        q_bnhd, k_bnhd, v_bnhd = self._tokens(x[:, None])
        of_queries = self._with_token(state[0], self.score_query, q_bnhd)
        p_bnhd = self._interact(mean_of(of_queries).to(x.dtype)[:, None], k_bnhd, "query")
        of_pairs = self._with_token(state[1], self.score_key, p_bnhd)
        out = self._output(x[:, None], mean_of(of_pairs).to(x.dtype)[:, None], q_bnhd, v_bnhd)
        return out[:, 0], [of_queries, of_pairs]

    def _with_token(self, sums: SoftmaxSums, score: Tensor, t_bnhd: Tensor) -> SoftmaxSums:
        wide = sums.largest.dtype
        return with_token(sums, self._logits(score[None], t_bnhd)[..., 0].to(wide), t_bnhd[:, 0].to(wide))

    def _tokens(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, keys and values of all tokens: [B, N, heads, d] each."""
        q_bnhd, v_bnhd = self._queries_and_values(x)
        return q_bnhd, self.key(x).unflatten(-1, (self.heads, self.d_head)), v_bnhd

    def _queries_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q_bnhd = self.query(x).unflatten(-1, (self.heads, self.d_head))
        if self.value is None:
            return q_bnhd, q_bnhd
        return q_bnhd, self.value(x).unflatten(-1, (self.heads, self.d_head))

    def _finished(self, x: Tensor, mixed_bnD: Tensor) -> Tensor:
        """Return r_i + q_i in the paper's variant; the release adds a dense layer, residual and norm."""
        if self.variant == "paper":
            return mixed_bnD
        return self.norm(x + self.output(mixed_bnD))  # type: ignore[no-any-return]

    def _pooled_so_far(
        self, score: Tensor, t_bnhd: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, SoftmaxSums]:
        """Return sum_{j<=i} softmax_j(score . t_j / sqrt(d)) t_j, [B, N, heads, d], and the last sums."""
        scores_bhn = self._logits(score[None], t_bnhd)
        wide = wide_dtype(t_bnhd)
        with no_autocast(t_bnhd):
            pooled, sums = running_softmax(scores_bhn.to(wide), t_bnhd.to(wide).transpose(1, 2), mask)
        return pooled.to(t_bnhd.dtype).transpose(1, 2), sums

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Equations (3) to (6) in order, with every p_i; the causal form with the weights of all pairs."""
        if self.causal:
            return self._causal_reference(x, mask)
        q_bnhd, k_bnhd, v_bnhd = self._tokens(x)
        real = None if mask is None else mask[..., None]
        alpha_bnh = masked_softmax(self._plain_logits(self.score_query, q_bnhd), real, 1)
        query_bhd = (alpha_bnh[..., None] * q_bnhd).sum(1)
        p_bnhd = self._pair(query_bhd[:, None], k_bnhd, "query")
        beta_bnh = masked_softmax(self._plain_logits(self.score_key, p_bnhd), real, 1)
        key_bhd = (beta_bnh[..., None] * p_bnhd).sum(1)
        u_bnhd = self._pair(key_bhd[:, None], v_bnhd, "key")
        r = (
            self.transform(u_bnhd).flatten(2)
            if self.sharing == "head-wise"
            else self.transform(u_bnhd.flatten(2))
        )
        return self._finished(x, r + q_bnhd.flatten(2))

    def _pair(self, whole: Tensor, tokens: Tensor, which: Literal["query", "key"]) -> Tensor:
        return interact_by_definition(whole, tokens, self.interaction, self._join(which))

    def _plain_logits(self, score: Tensor, t_bnhd: Tensor) -> Tensor:
        """Return score . t_i / sqrt(d): [B, N, heads]. In the release a score sees all heads' part of t_i."""
        official = self.variant == "official"
        logits_bnh = t_bnhd.flatten(2) @ score.mT if official else (score * t_bnhd).sum(-1)
        scaled: Tensor = logits_bnh / self.d_head**0.5
        return scaled

    def _causal_reference(self, x: Tensor, mask: Tensor | None) -> Tensor:
        n = x.shape[1]
        seen = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
        if mask is not None:
            seen = seen & mask[:, None, None, :]
        tokens = (self.query, self.key, self.query if self.value is None else self.value)
        q_bnhd, k_bnhd, v_bnhd = (part(x).unflatten(-1, (self.heads, self.d_head)) for part in tokens)

        def pooled(score: Tensor, t_bnhd: Tensor) -> Tensor:
            logits_bhn = self._plain_logits(score, t_bnhd).transpose(1, 2)
            weights_bhij = masked_softmax(logits_bhn[:, :, None].expand(-1, -1, n, -1), seen, -1)
            summed: Tensor = torch.einsum("bhij,bjhd->bihd", weights_bhij, t_bnhd)
            return summed

        p_bnhd = self._pair(pooled(self.score_query, q_bnhd), k_bnhd, "query")
        u_bnhd = self._pair(pooled(self.score_key, p_bnhd), v_bnhd, "key")
        return self._finished(x, self._transformed(u_bnhd) + q_bnhd.flatten(2))

    def _weights(self, score: Tensor, t_bnhd: Tensor, mask: Tensor | None) -> Tensor:
        """Return the softmax over tokens of score . t_i / sqrt(d): [B, heads, N]."""
        return masked_softmax(self._logits(score, t_bnhd), None if mask is None else mask[:, None], -1)

    def _logits(self, score: Tensor, t_bnhd: Tensor) -> Tensor:
        """Return score . t_i / sqrt(d): [B, heads, N]. score [B or 1, heads or 1, d], official [., ., D]."""
        score = score.expand(t_bnhd.shape[0], self.heads, -1)
        official = self.variant == "official"
        scores_bhn = (
            score @ t_bnhd.flatten(2).mT if official else torch.einsum("bhd,bnhd->bhn", score, t_bnhd)
        )
        scaled: Tensor = scores_bhn / self.d_head**0.5
        return scaled

    def _sum(self, weights_bhn: Tensor, t_bnhd: Tensor) -> Tensor:
        """Return sum_i weight_i t_i: [B, heads, d]."""
        return torch.einsum("bhn,bnhd->bhd", weights_bhn, t_bnhd)

    def _score_of_pairs(self, query_bhd: Tensor) -> Tensor:
        """Return the vector whose product with k_i is w_k . p_i, up to what cancels in the softmax."""
        if self.variant == "official":
            return self.score_key * query_bhd.flatten(1)[:, None]
        if self.interaction == "product":
            return self.score_key * query_bhd
        if self.interaction == "add":
            return self.score_key[None]
        token_half = self.join_query[:, self.d_head :]
        return torch.einsum("hde,he->hd", token_half, self.score_key)[None]

    def _interact(self, whole: Tensor, tokens: Tensor, which: Literal["query", "key"]) -> Tensor:
        return interact(whole, tokens, self.interaction, self._join(which))

    def _join(self, which: Literal["query", "key"]) -> Tensor | None:
        """Return the learned map of interaction=concat for the global query or key: [heads or 1, 2 d, d]."""
        if self.interaction != "concat":
            return None
        return self.join_query if which == "query" else self.join_key

    def _transformed(self, u_hd: Tensor, *, bias: bool = True) -> Tensor:
        """Return W_r u (+ b): [..., heads, d] -> [..., D]."""
        shift = self.transform.bias if bias else None
        if self.sharing == "head-wise":
            return F.linear(u_hd, self.transform.weight, shift).flatten(-2)
        return F.linear(u_hd.flatten(-2), self.transform.weight, shift)

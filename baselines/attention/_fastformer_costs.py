"""The closed forms of Fastformer's costs: FLOPs and saved bytes by shape and options."""

from __future__ import annotations

from torch import Tensor, nn

from baselines.attention._heads import summed
from baselines.attention._running import past_pairs, rows_and_pairs
from effbench import Mechanism


class FastformerCosts(Mechanism):
    """The costs that ``Fastformer`` declares. ``Fastformer`` sets the attributes below."""

    variant: str
    interaction: str
    sharing: str
    query: nn.Linear
    score_key: Tensor
    join_key: Tensor

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Count the products. By maps: the last product, four thin ones, and those that make the maps.

        By tokens: Q, K (V), W_r (W_o). Causal: by tokens, and the weights of pairs inside chunks.
        """
        if self.causal:
            return self._causal_flops(batch_size, seq_len, rows_and_pairs(seq_len)[1])
        if self.variant == "official":
            return self._official_flops(batch_size, seq_len)
        b, n, d, h, width = batch_size, seq_len, self.d_head, self.heads, self.d_model
        square, last = 2 * width * width, 2 * width * (d if self.sharing == "head-wise" else width)
        if n < width:
            thin = 2 * 2 * h * (n * summed(d) + summed(n) * d)
            flops = b * (n * square * (3 if self.sharing == "none" else 2) + n * last + thin)
            if self.interaction == "concat":
                # halves of q, of sum beta_i k_i, of k and of all v_i; and those of the score vectors
                flops += self._joined_flops(b * (3 + n)) + 2 * self.score_key.numel() * summed(d)
            return flops
        # the map of the last product, and the products of thin ones with W_q and W_k
        maps = (b if self.interaction == "product" else 1) * width * last
        shift = 0 if self.interaction == "product" else b * last
        scored = 1 + (b if self.interaction == "product" else 1)
        into = 2 * width * (summed(d) * h * scored + summed(width) * 2 * b)
        flops = b * n * (square + 4 * 2 * h * width) + maps + shift + into
        if self.interaction == "concat":
            # halves of q, of sum beta_i k_i, of k and of W_v; and those of the score vectors
            flops += self._joined_flops(3 * b + width) + 2 * self.score_key.numel() * summed(d)
        return flops

    def _joined_flops(self, vectors: int) -> int:
        """Return the FLOPs of one half of the [2 d -> d] maps for ``vectors`` vectors [heads, d]."""
        one_for_all = len(self.join_key) == 1
        return 2 * self.d_model * (self.d_head if one_for_all else summed(self.d_head)) * vectors

    def _official_flops(self, b: int, n: int) -> int:
        h, width = self.heads, self.d_model
        square = 2 * width * width
        if n < width:  # four maps of tokens, two logits per head, two sums
            return b * (n * (4 * square + 2 * 2 * h * width) + 2 * 2 * width * summed(n))
        # W_r W_o and the first scores times W_q; the last map, the second scores times W_k, and the global
        # query, global key and shift: four products of a vector and a map
        made = square * (width + h) + b * (square * (width + h + 2) + 2 * 2 * width * summed(width))
        return b * n * (square + 4 * 2 * h * width) + made

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Causal: of the pairs inside a chunk only those that are not in the future."""
        if not self.causal:
            return self.forward_flops(batch_size, seq_len)
        return self._causal_flops(batch_size, seq_len, past_pairs(seq_len))

    def _causal_flops(self, batch_size: int, n: int, pairs: int) -> int:
        """Return FLOPs of Q, K (V) and W_r (W_o), two logits per head, and two sums over ``pairs`` pairs."""
        d, h, width = self.d_head, self.heads, self.d_model
        square, last = 2 * width * width, 2 * width * (d if self.sharing == "head-wise" else width)
        official = self.variant == "official"
        maps = square * (3 if self.sharing == "none" or official else 2) + last
        flops = n * (maps + 2 * 2 * h * (width if official else summed(d)))
        flops += 2 * 2 * pairs * h * (d + 1)
        if self.interaction == "concat":
            flops += self._joined_flops(4 * n)
        return batch_size * flops

    def saved_bytes(self, batch_size: int, seq_len: int) -> int | None:
        """By maps: the weights of tokens, what they weigh, and the maps. Not declared by tokens or causal."""
        n, h, width = seq_len, self.heads, self.d_model
        if n < width or self.causal:
            return None
        square, pooled = width * width, 4 * h * width + 2 * n * h
        if self.variant == "official":  # and the inputs and statistics of the norm
            kept = batch_size * (pooled + (h + 5) * width + 2 * square + n * width + 2 * n) + square
        elif self.interaction == "product":
            kept = batch_size * (pooled + 4 * width + 2 * square)
        elif self.interaction == "add":
            kept = batch_size * (pooled + width) + square
        else:
            kept = batch_size * (pooled + 4 * width) + self.score_key.numel() + 2 * square
            kept += square if self.sharing == "head-wise" and h > 1 else 0  # one map, once per head
        return self.query.weight.element_size() * kept

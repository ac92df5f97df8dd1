"""Performer: positive random features approximate the softmax kernel; keys and values are summed once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import (
    clear_padding,
    merge_heads,
    no_autocast,
    projected,
    require,
    split_heads,
    tokens_first,
    tokens_last,
    wide_bytes,
    wide_dtype,
)
from baselines.attention._running import (
    CHUNK,
    past_pairs,
    rows_and_pairs,
    running_features,
    running_features_of_any_range,
)
from baselines.attention._sums import read, with_pair
from effbench import Mechanism

RISE = 16.0  # by which a key's exponent may exceed those that the sums are relative to


class Performer(Mechanism):
    """FAVOR+ attention: exp(q . k / sqrt(d)) as a product of positive random features.

    With x' = x / d^(1/4) and m random directions w_r, the same for all heads::

        phi_r(x) = exp(w_r . x' - |x'|^2 / 2)      E[phi(q) . phi(k)] / m = exp(q . k / sqrt(d))
        out_i = sum_j (phi(q_i) . phi(k_j)) v_j / sum_j phi(q_i) . phi(k_j)

    The sums over keys, S = sum_j phi(k_j) [v_j, 1] [m, d + 1], are computed once: O(N m D), memory
    O(N heads m). x [B, N, D] -> [B, N, D]. ``features`` is m; 0 means int(d ln d), at least 1, as in public
    codes. The directions are drawn from ``seed``: Gaussian lengths, orthogonal in groups of d. They are a
    buffer and are not drawn again during training.

    Overflow is prevented without an epsilon: with M_r the largest exponent of feature r among the keys::

        phi_r(q) phi_r(k) = exp(w_r . q' + M_r - c) exp(w_r . k' - |k'|^2 / 2 - M_r)

    up to a factor per query that cancels in the quotient. So c is the query's largest exponent, and every
    denominator is at least 1.

    Causal: the sums run over j <= i, in chunks of 32 tokens, with M_r the largest exponent up to the end of
    the chunk. A token's denominator underflows if a later key of its chunk exceeds all keys that the token
    sees by more than the dtype's range, as with inputs of order 10 in float32. On the CPU the denominators
    are checked; if one underflowed, all sums are computed again in halves of chunks, each relative to its own
    largest key. This is right for any range, and several times slower. On other devices, where a check would
    wait for the device, the sums are always computed in halves. The declared FLOPs are those without
    underflow. Step by step: S and M_r are the whole state; when M_r rises by more than 16, S is scaled down.

    Cross: S and M_r are those of the memory.

    Raises ValueError for a wrong option.
    """

    order = 1.0
    memory_order = 1.0
    state_order = 0.0
    equivariant = True
    source = "Choromanski et al. 2020, Rethinking Attention with Performers (arXiv 2009.14794)"

    directions: Tensor

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        causal: bool = False,
        features: int = 0,
        seed: int = 0,
    ) -> None:
        require(features >= 0, "features", features, "at least 0")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        d = self.d_head
        self.features = features or max(1, int(d * torch.tensor(float(d)).log()))
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.register_buffer("directions", _directions(self.features, d, seed))

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
        parts = tokens_last(x_bnD, self.qkv.weight.to(wide), self.qkv.bias.to(wide))
        q_bhdn, k_bhdn, v_bhdn = parts.unflatten(1, (3, self.heads, self.d_head)).unbind(1)
        scaled_md = self._scaled(wide)
        remembered = _sums_of_keys(scaled_md @ k_bhdn, self._length(k_bhdn, dim=2), v_bhdn, mask)
        return self._read(scaled_md, q_bhdn, *remembered).to(x.dtype)

    def _read(self, scaled_md: Tensor, q_bhdn: Tensor, sums_bhme: Tensor, largest_bhm1: Tensor) -> Tensor:
        """Return the outputs [B, N, D] of queries for the sums of keys relative to each feature's largest."""
        wide = q_bhdn.dtype
        query_bhmn = (scaled_md @ q_bhdn).add_(largest_bhm1)
        query_bhmn = query_bhmn.sub_(query_bhmn.detach().amax(dim=2, keepdim=True)).exp_()
        out_bhdn, weights_bh1n = (sums_bhme.mT @ query_bhmn).split([self.d_head, 1], dim=2)
        del query_bhmn  # frees the largest tensor, which nothing reads from here on
        mixed_bDn = (out_bhdn / weights_bh1n.clamp_min(_least(wide))).flatten(1, 2)
        return tokens_first(mixed_bDn, self.out.weight.to(wide), self.out.bias.to(wide))

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, N, D], mask [B, N] -> the causal outputs; S [B, heads, m, d + 1] and M_r [B, heads, m, 1]."""
        with no_autocast(x):
            wide = wide_dtype(x)
            out, key_bhnm, values_bhne = self._running(clear_padding(x, mask).to(wide), mask)
            lowest = key_bhnm.new_full((*key_bhnm.shape[:2], 1, self.features), torch.finfo(wide).min)
            largest_bh1m = torch.cat([lowest, key_bhnm], dim=2).amax(dim=2, keepdim=True)
            sums_bhme = (key_bhnm - largest_bh1m).exp().mT @ values_bhne
            return out.to(x.dtype), (sums_bhme, largest_bh1m.mT)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, D] -> the output [B, D] for one more token, and the sums with it."""
        with no_autocast(x):
            sums_bhme, before_bhm1 = state
            wide = sums_bhme.dtype
            qkv = projected(x.to(wide), self.qkv)
            q_bhd, k_bhd, v_bhd = qkv.unflatten(-1, (3, self.heads, self.d_head)).unbind(1)
            scaled_dm = self._scaled(wide).mT
            key_bhm1 = (k_bhd @ scaled_dm + self._length(k_bhd, dim=-1))[..., None]
            sums_bhme, largest_bhm1 = _scaled_down(sums_bhme, before_bhm1, key_bhm1)
            key_bhm1 = (key_bhm1 - largest_bhm1).exp()
            sums_bhme = with_pair(sums_bhme, key_bhm1[..., 0], F.pad(v_bhd, (0, 1), value=1.0))
            query_bhm = q_bhd @ scaled_dm + largest_bhm1[..., 0]
            query_bhm = (query_bhm - query_bhm.amax(dim=-1, keepdim=True)).exp()
            out_bhe = read(sums_bhme, query_bhm)
            mixed_bD = (out_bhe[..., :-1] / out_bhe[..., -1:].clamp_min(_least(wide))).flatten(1)
            return projected(mixed_bD, self.out).to(x.dtype), (sums_bhme, largest_bhm1)

    def remember(self, memory: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """memory [B, M, D], mask [B, M] -> S [B, heads, m, d + 1] and M_r [B, heads, m, 1] of the memory."""
        with no_autocast(memory):
            wide = wide_dtype(memory)
            weight, bias = self.qkv.weight[self.d_model :].to(wide), self.qkv.bias[self.d_model :].to(wide)
            parts = tokens_last(clear_padding(memory, mask).to(wide), weight, bias)
            k_bhdn, v_bhdn = parts.unflatten(1, (2, self.heads, self.d_head)).unbind(1)
            return _sums_of_keys(self._scaled(wide) @ k_bhdn, self._length(k_bhdn, dim=2), v_bhdn, mask)

    def attend(self, x: Tensor, remembered: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, N, D] and the sums of a memory -> [B, N, D]."""
        with no_autocast(x):
            wide = remembered[0].dtype
            weight, bias = self.qkv.weight[: self.d_model].to(wide), self.qkv.bias[: self.d_model].to(wide)
            q_bhdn = tokens_last(x.to(wide), weight, bias).unflatten(1, (self.heads, self.d_head))
            return self._read(self._scaled(wide), q_bhdn, *remembered).to(x.dtype)

    def _running(self, x_bnD: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the causal outputs [B, N, D], logarithms of keys [B, heads, N, m], values and ones.

        They are in the dtype of x.
        """
        wide = x_bnD.dtype
        parts = projected(x_bnD, self.qkv).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        scaled_dm = self._scaled(wide).mT
        query_bhnm, key_bhnm = q @ scaled_dm, k @ scaled_dm + self._length(k, dim=3)
        values = F.pad(v, (0, 1), value=1.0)  # a column of ones sums the weights
        if mask is not None:
            key_bhnm = key_bhnm.masked_fill(~mask[:, None, :, None], torch.finfo(wide).min)
            values = values.masked_fill(~mask[:, None, :, None], 0.0)
        on_cpu = x_bnD.device.type == "cpu"
        summed = running_features if on_cpu else running_features_of_any_range
        sums = summed(query_bhnm, key_bhnm, values)
        weights = sums[..., -1:].clamp_min(_least(wide))
        if on_cpu and weights.numel() and _underflown(weights, mask):
            sums = running_features_of_any_range(query_bhnm, key_bhnm, values)
            weights = sums[..., -1:].clamp_min(_least(wide))
        mixed = merge_heads(sums[..., :-1] / weights)
        return projected(mixed, self.out), key_bhnm, values

    def _scaled(self, dtype: torch.dtype) -> Tensor:
        """Return the directions over d^(1/4): [m, d]."""
        scaled: Tensor = self.directions.to(dtype) / self.d_head**0.25
        return scaled

    def _length(self, k: Tensor, dim: int) -> Tensor:
        """Return -|k'|^2 / 2, a sum over ``dim``."""
        length: Tensor = k.square().sum(dim, keepdim=True) / (-2 * self.d_head**0.5)
        return length

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the formula, with the N x N matrix of weights, from logarithms."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        scaled_md = self.directions / self.d_head**0.25
        query = q @ scaled_md.mT - q.square().sum(-1, keepdim=True) / (2 * self.d_head**0.5)
        key = k @ scaled_md.mT - k.square().sum(-1, keepdim=True) / (2 * self.d_head**0.5)
        logits_bhij = (query[:, :, :, None] + key[:, :, None]).logsumexp(dim=-1)
        seen = torch.ones_like(logits_bhij, dtype=torch.bool)
        seen = seen.tril() if self.causal else seen
        seen = seen if mask is None else seen & mask[:, None, None]
        lowest = torch.finfo(x.dtype).min
        weights = logits_bhij.masked_fill(~seen, lowest).softmax(-1).masked_fill(~seen, 0.0)
        return self.out(merge_heads(weights @ v))  # type: ignore[no-any-return]

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Four projections, two into features, the sums and their products with queries; causal: pairs."""
        rows, pairs = rows_and_pairs(seq_len) if self.causal else (seq_len, 0)
        return self._flops(batch_size, seq_len, rows, pairs)

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Causal: without the rows that fill up the last chunk, and without pairs in the future."""
        return self._flops(batch_size, seq_len, seq_len, past_pairs(seq_len) if self.causal else 0)

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Three times the forward pass, without gradients of the directions, which are no parameters.

        Causal also the pairs and sums of chunks again, which are not kept.
        """
        into = 2 * 2 * batch_size * seq_len * self.features * self.d_model
        rows = rows_and_pairs(seq_len)[0] if self.causal else 0
        again = 2 * batch_size * rows * self.heads * self.features * (CHUNK + self.d_head + 1)
        return 3 * self.forward_flops(batch_size, seq_len) - into + again

    def saved_bytes(self, batch_size: int, seq_len: int) -> int:
        """q, k, v; features of queries and keys; sums, weights, heads' outputs; scaled directions.

        Not causal: also S, and of several sequences with several heads each a copy of v. Causal: also values,
        in whole chunks, and the factor that scales S down at each chunk. Without underflow, as the FLOPs.
        """
        n, d, h, m = seq_len, self.d_model, self.heads, self.features
        rows = rows_and_pairs(n)[0] if self.causal else n
        copied = (
            n * d if batch_size > 1 and h > 1 else 0
        )  # a product takes the heads of all sequences as one list
        between = rows * (d + h) + h * m * rows // CHUNK if self.causal else m * (d + h) + copied
        kept = 4 * n * d + rows * (2 * h * m + d + h) + n * h + between
        kept = batch_size * kept + m * self.d_head
        if self.qkv.weight.element_size() < 4:  # wide copies of inputs and maps
            kept += batch_size * n * d + 4 * d * d
        return wide_bytes(self.qkv.weight) * kept

    def _flops(self, batch_size: int, n: int, rows: int, pairs: int) -> int:
        d, h, m, head = self.d_model, self.heads, self.features, self.d_head
        features = 2 * 2 * n * m * d
        sums = 2 * rows * h * m * (2 * head + (2 if self.causal else 1))
        return batch_size * (2 * n * d * 4 * d + features + sums + 2 * pairs * h * (m + head + 1))


def _sums_of_keys(
    key_bhmn: Tensor, length_bh1n: Tensor, v_bhdn: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return S [B, heads, m, d + 1] of keys relative to each feature's largest, and this [B, heads, m, 1].

    ``key`` is w_r . k_j', without its length, and is overwritten. The last column sums the weights.
    """
    key_bhmn = key_bhmn.add_(length_bh1n)
    if mask is not None:
        key_bhmn = key_bhmn.masked_fill_(~mask[:, None, None], torch.finfo(key_bhmn.dtype).min)
        v_bhdn = v_bhdn.masked_fill(~mask[:, None, None], 0.0)
    largest_bhm1 = key_bhmn.detach().amax(dim=3, keepdim=True)
    key_bhmn = key_bhmn.sub_(largest_bhm1).exp_()
    sums_bhme = torch.cat([key_bhmn @ v_bhdn.mT, key_bhmn.sum(dim=3, keepdim=True)], dim=-1)
    return sums_bhme, largest_bhm1


def _scaled_down(sums_bhme: Tensor, largest_bhm1: Tensor, key_bhm1: Tensor) -> tuple[Tensor, Tensor]:
    """Return S relative to the largest exponents, that of the new key included, and these.

    This pass over S is saved on the CPU, without gradients, if no key exceeds them by more than ``RISE``. On
    other devices a check would wait for the device.
    """
    later_bhm1 = torch.maximum(largest_bhm1, key_bhm1)
    fall_bhm1 = largest_bhm1 - later_bhm1
    if torch.is_grad_enabled():
        return sums_bhme * fall_bhm1.exp(), later_bhm1
    if sums_bhme.device.type != "cpu" or not float(fall_bhm1.amin()) >= -RISE:
        sums_bhme.mul_(fall_bhm1.exp())
        largest_bhm1.copy_(later_bhm1)
    return sums_bhme, largest_bhm1


def _underflown(weights_bhn1: Tensor, mask: Tensor | None) -> bool:
    """True if a real token's denominator underflowed; padding is left out, since it may see no key."""
    weights_bhn1 = weights_bhn1.detach()
    if mask is not None:
        weights_bhn1 = weights_bhn1.masked_fill(~mask[:, None, :, None], 1.0)
    return float(weights_bhn1.amin()) <= _least(weights_bhn1.dtype)


def _least(dtype: torch.dtype) -> float:
    """Return the least denominator: a term that underflows beside it is negligible."""
    return float(torch.finfo(dtype).tiny ** 0.5)


def _directions(features: int, d: int, seed: int) -> Tensor:
    """Draw directions [m, d]: orthogonal in groups of d, with the lengths of Gaussian vectors."""
    draw = torch.Generator().manual_seed(seed)
    groups = []
    for _ in range(-(-features // d)):
        square, _ = torch.linalg.qr(torch.randn(d, d, generator=draw, dtype=torch.float64))
        groups.append(square.mT)
    lengths = torch.randn(features, d, generator=draw, dtype=torch.float64).norm(dim=1, keepdim=True)
    drawn: Tensor = torch.cat(groups)[:features] * lengths
    return drawn.to(torch.get_default_dtype())

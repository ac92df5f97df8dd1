"""Linear attention: with a kernel feature map, keys and values are summed once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import (
    clear_padding,
    merge_heads,
    no_autocast,
    projected,
    split_heads,
    summed,
    wide_bytes,
    wide_dtype,
)
from baselines.attention._running import CHUNK, past_pairs, rows_and_pairs, running_products
from baselines.attention._sums import read, with_pair
from effbench import Mechanism

EPSILON = 1e-6


class LinearAttention(Mechanism):
    """Linear attention with the feature map elu(x) + 1.

    Per head h, with phi(x) = elu(x) + 1 and no 1/sqrt(d)::

        out_i = sum_j (phi(q_i) . phi(k_j)) v_j / (sum_j phi(q_i) . phi(k_j) + 1e-6)

    This equals phi(q_i) S / (phi(q_i) . z + 1e-6) with S = sum_j phi(k_j) v_j^T [d, d] and
    z = sum_j phi(k_j) [d]. The values and the heads' outputs of single tokens are not computed: with
    v_j = W_v x_j + b_v, S = (sum_j phi(k_j) x_j^T) W_v^T + z b_v^T, and S and the output projection W_o
    become one map [D, D] per sequence. Four products of N D^2 are left, each of all heads at once: queries,
    keys, sum_j phi(k_j) x_j^T, and phi(q_i) times that map. O(N D^2), memory O(N D). Padding has
    phi(k_j) = 0. Sums are in float32 at least. x [B, N, D] -> [B, N, D].

    Causal: the sums run over j <= i. In chunks of 32 tokens: S is the running sum over the chunks before, and
    the pairs inside a chunk are computed: O(N (32 + d) D). The map differs from chunk to chunk, so values and
    heads' outputs are computed for every token. Step by step: S and z, [heads, d, d + 1] numbers, are the
    whole state, to which a token is added.

    Cross: S and z are those of the memory.
    """

    order = 1.0
    memory_order = 1.0
    state_order = 0.0
    equivariant = True
    source = "Katharopoulos et al. 2020, Transformers are RNNs (arXiv 2006.16236)"

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
        weight, bias = self.qkv.weight.to(wide), self.qkv.bias.to(wide)
        pair, value = 2 * self.d_model, (self.heads, self.d_head, self.d_model)
        q, k = _Phi.apply(F.linear(x_bnD, weight[:pair], bias[:pair])).chunk(2, dim=-1)  # type: ignore[no-untyped-call]
        if mask is not None:
            k = k.masked_fill(~mask[..., None], 0.0)
        norm_bhd = k.sum(dim=1).unflatten(-1, (self.heads, self.d_head))
        inputs_bhdD = (k.mT @ x_bnD).unflatten(1, (self.heads, self.d_head))
        sums_bhde = torch.einsum("bhdm,hem->bhde", inputs_bhdD, weight[pair:].view(value))
        sums_bhde = sums_bhde + norm_bhd[..., None] * bias[pair:].view(self.heads, 1, self.d_head)
        out_Dhe = self.out.weight.to(wide).unflatten(1, (self.heads, self.d_head))
        map_bDD = torch.einsum("bhde,mhe->bhdm", sums_bhde, out_Dhe).flatten(1, 2)
        shares = _shares(q, norm_bhd)
        out: Tensor = torch.baddbmm(self.out.bias.to(wide), shares, map_bDD)
        return out.to(x.dtype)

    def _running(self, x_bnD: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the causal outputs [B, N, D], phi of keys [B, heads, N, d], values and ones [..., d + 1]."""
        pair, v = projected(x_bnD, self.qkv).split([2 * self.d_model, self.d_model], dim=-1)
        # each head in its own rows, so that chunks are views
        rows_2bhnd = pair.unflatten(-1, (2, self.heads, self.d_head)).permute(2, 0, 3, 1, 4)
        rows_2bhnd = rows_2bhnd.clone(memory_format=torch.contiguous_format)  # a view cannot be overwritten
        q_bhnd, k_bhnd = _Phi.apply(rows_2bhnd).unbind()  # type: ignore[no-untyped-call]
        values = F.pad(split_heads(v, self.heads), (0, 1), value=1.0)  # a column of ones sums the weights
        del pair, v  # frees the projections, which nothing reads from here on
        if mask is not None:
            k_bhnd = k_bhnd.masked_fill(~mask[:, None, :, None], 0.0)
        return self._finished(running_products(q_bhnd, k_bhnd, values)), k_bhnd, values

    def _finished(self, sums_bhne: Tensor) -> Tensor:
        """Divide the sums by their weights, the last column, and project: -> [B, N, D]."""
        heads_bhnd = sums_bhne[..., :-1] / (sums_bhne[..., -1:] + EPSILON)
        return projected(merge_heads(heads_bhnd), self.out)

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, N, D], mask [B, N] -> the causal outputs [B, N, D] and [S, z] [B, heads, d, d + 1]."""
        with no_autocast(x):
            x_bnD = clear_padding(x, mask).to(wide_dtype(x))
            out, k_bhnd, values_bhne = self._running(x_bnD, mask)
            return out.to(x.dtype), k_bhnd.mT @ values_bhne

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, D] -> the output [B, D] for one more token, and the sums with it."""
        with no_autocast(x):
            qkv = projected(x.to(state.dtype), self.qkv)
            q, k, v = qkv.unflatten(-1, (3, self.heads, self.d_head)).unbind(1)
            q, k = _Phi.apply(torch.stack([q, k])).unbind()  # type: ignore[no-untyped-call]
            state = with_pair(state, k, F.pad(v, (0, 1), value=1.0))
            return self._finished(read(state, q)[:, :, None])[:, 0].to(x.dtype), state

    def remember(self, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """memory [B, M, D], mask [B, M] -> [S, z] of the memory: [B, heads, d, d + 1]."""
        with no_autocast(memory):
            memory = clear_padding(memory, mask).to(wide_dtype(memory))
            k, v = projected(memory, self.qkv, slice(self.d_model, None)).chunk(2, dim=-1)
            k_bnD: Tensor = _Phi.apply(k.clone())  # type: ignore[no-untyped-call]
            if mask is not None:
                k_bnD = k_bnD.masked_fill(~mask[..., None], 0.0)
            values_bhne = F.pad(split_heads(v, self.heads), (0, 1), value=1.0)
            return split_heads(k_bnD, self.heads).mT @ values_bhne

    def attend(self, x: Tensor, remembered: Tensor) -> Tensor:
        """x [B, N, D] and the sums of a memory -> [B, N, D]."""
        with no_autocast(x):
            q = projected(x.to(remembered.dtype), self.qkv, slice(self.d_model))
            q_bhnd = split_heads(_Phi.apply(q), self.heads)  # type: ignore[no-untyped-call]
            return self._finished(q_bhnd @ remembered).to(x.dtype)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the formula, with the N x N matrix of weights."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        weights_bhnm = _phi_by_cases(q) @ _phi_by_cases(k).mT
        if self.causal:
            weights_bhnm = weights_bhnm.tril()
        if mask is not None:
            weights_bhnm = weights_bhnm * mask[:, None, None, :]
        mixed = (weights_bhnm / (weights_bhnm.sum(dim=-1, keepdim=True) + EPSILON)) @ v
        return self.out(merge_heads(mixed))  # type: ignore[no-any-return]

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Queries and keys, keys times inputs, queries times the map, the weights; S and the map."""
        n, d, h = seq_len, self.d_model, self.heads
        if self.causal:
            return self._causal_flops(batch_size, n, *rows_and_pairs(n))
        maps = summed(d) * d * self.d_head + d * d * summed(self.d_head)
        return batch_size * (2 * n * d * 4 * d + 2 * n * d * h + 2 * maps)

    def _causal_flops(self, batch_size: int, n: int, rows: int, pairs: int) -> int:
        """Return FLOPs of four projections, of sums and their products with queries, and of pairs."""
        d, head = self.d_model, self.d_head
        running = 2 * 2 * rows * d * (head + 1)
        return batch_size * (2 * n * d * 4 * d + running + 2 * pairs * self.heads * (2 * head + 1))

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Causal: without the rows that fill up the last chunk, and without pairs in the future."""
        if not self.causal:
            return self.forward_flops(batch_size, seq_len)
        return self._causal_flops(batch_size, seq_len, seq_len, past_pairs(seq_len))

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Three times the forward pass; causal also pairs and sums of chunks again, which are not kept."""
        rows = rows_and_pairs(seq_len)[0] if self.causal else 0
        again = 2 * batch_size * rows * self.d_model * (CHUNK + self.d_head + 1)
        return 3 * self.forward_flops(batch_size, seq_len) + again

    def saved_bytes(self, batch_size: int, seq_len: int) -> int | None:
        """phi of queries and keys, the shares and their weights; keys times inputs, S, z and the map.

        Causal: phi, its copy in whole chunks if the last is not whole, values, sums, weights, heads' outputs.
        """
        n, d, h = seq_len, self.d_model, self.heads
        rows = rows_and_pairs(n)[0]
        if self.causal:
            chunks = 2 * rows * (d + h) + (2 * rows * d if rows > n else 0)
            kept = batch_size * (chunks + 3 * n * d + n * h)
        else:
            kept = batch_size * (3 * n * d + n * h + 2 * d * d + d * self.d_head + d * h + d) + h * h
        if self.qkv.weight.element_size() < 4:  # wide copies of inputs and maps, here with a bias
            kept += batch_size * n * d + 4 * d * d + (0 if self.causal else 3 * d)
        return wide_bytes(self.qkv.weight) * kept


class _Phi(torch.autograd.Function):
    """elu(x) + 1, which saves its result only, since the derivative is min(phi(x), 1). It overwrites x.

    Computed as exp(min(x, 0)) + max(x, 0): far below 0 the sum elu(x) + 1 would lose all digits.
    """

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # torch 2.11's compiler computes wrong gradients after overwriting
            out = x.clamp(max=0).exp() + x.relu()
        else:
            out = x.clamp(max=0).exp_()
            out.add_(x.relu_())  # nothing else reads x, a product: its memory is reused
        context.save_for_backward(out)
        return out

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        out: Tensor = context.saved_tensors[0]
        return out.clamp(max=1).mul_(gradient)


def _shares(q_bnD: Tensor, norm_bhd: Tensor) -> Tensor:
    """Return phi(q_i) / (phi(q_i) . z + 1e-6) for each head: [B, N, D]. One product with z for all heads."""
    b, h, d = norm_bhd.shape
    own = torch.eye(h, dtype=norm_bhd.dtype, device=norm_bhd.device)
    norm_bDh = (norm_bhd[..., None] * own[:, None]).view(b, h * d, h)
    weights_bnh = q_bnD @ norm_bDh + EPSILON
    shares: Tensor = (q_bnD.unflatten(-1, (h, d)) / weights_bnh[..., None]).flatten(2)
    return shares


def _phi_by_cases(x: Tensor) -> Tensor:
    """Return elu(x) + 1 case by case, for the reference: x + 1 above 0, exp(x) below."""
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())

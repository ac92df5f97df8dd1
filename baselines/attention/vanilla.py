"""Vanilla: softmax attention over all pairs of tokens."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention import _cache
from baselines.attention._heads import (
    clear_padding,
    masked_softmax,
    merge_heads,
    projected,
    require,
    split_heads,
    wide_bytes,
)
from effbench import Mechanism, Unsupported

IMPLEMENTATIONS = ("auto", "sdpa", "dense", "xformers")


class Vanilla(Mechanism):
    """Softmax attention over all pairs of tokens, through torch's fused kernel.

    Per head: out = softmax(Q K^T / sqrt(d)) V with Q, K, V = x W + b; heads concatenated, then an output
    projection with bias. x [B, N, D] -> [B, N, D]. Time O(N^2 D); the fused kernel never holds the N x N
    scores, so memory is O(N D). Causal: token i sees tokens 0 to i.

    ``kv_heads``: the number of heads of keys and values; heads / kv_heads queries share one. 0, the default,
    means as many as ``heads``; 1 is multi-query attention (Shazeer 2019, arXiv 1911.02150), in between it is
    grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245).

    Step by step: a cache holds the keys and values of past tokens, so a step takes O(N D).

    ``implementation``: ``sdpa`` (``auto``), as above; ``dense``, the reference, with the N x N matrix;
    ``xformers``, its memory_efficient_attention, on CUDA only, and with a padding mask only if causal.

    Raises ValueError for a wrong option.
    """

    order = 2.0
    memory_order = 1.0
    state_order = 1.0
    equivariant = True
    source = "Vaswani et al. 2017, Attention Is All You Need (arXiv 1706.03762)"

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        causal: bool = False,
        implementation: Literal["auto", "sdpa", "dense", "xformers"] = "auto",
        kv_heads: int = 0,
    ) -> None:
        allowed = f"one of {', '.join(IMPLEMENTATIONS)}"
        require(implementation in IMPLEMENTATIONS, "implementation", implementation, allowed)
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.implementation = "sdpa" if implementation == "auto" else implementation
        if implementation == "dense":
            self.__dict__["memory_order"] = 2.0  # for this instance; the class declares the fused kernel's
        allowed = f"0 or a divisor of heads ({heads})"
        require(kv_heads == 0 or (kv_heads > 0 and heads % kv_heads == 0), "kv_heads", kv_heads, allowed)
        self.kv_heads = kv_heads or heads
        self.kv_width = self.kv_heads * self.d_head
        self.qkv = nn.Linear(d_model, d_model + 2 * self.kv_width)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        x = clear_padding(x, mask)
        if self.implementation == "dense":
            return self.reference(x, mask)
        if mask is None or not self.causal:
            return self._output(x, None if mask is None else mask[:, None, None, :])
        places = _real_first(mask)
        return _take(self._output(_take(x, places), None), places.argsort(dim=1))

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, _cache.Cache]:
        """x [B, N, D], mask [B, N] -> the causal outputs [B, N, D] and a cache of keys and values."""
        x = clear_padding(x, mask)
        if mask is None:
            out, k, v = self._attend(x, None, causal=True)
            return out, _cache.filled(k, v, None)
        places = _real_first(mask)
        out, k, v = self._attend(_take(x, places), None, causal=True)
        return _take(out, places.argsort(dim=1)), _cache.filled(k, v, mask.gather(1, places))

    def step(self, x: Tensor, state: _cache.Cache) -> tuple[Tensor, _cache.Cache]:
        """x [B, D] -> the output [B, D] for one more token, and the cache with it."""
        q_bhd, k_bhd, v_bhd = (part.squeeze(2) for part in self._parts(self.qkv(x)[:, None]))
        state = _cache.appended(state, k_bhd, v_bhd)
        mixed_bhgd = _cache.attended(state, q_bhd.unflatten(1, (self.kv_heads, -1)))
        return self.out(mixed_bhgd.flatten(1)), state

    def remember(self, memory: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """memory [B, M, D], mask [B, M] -> keys and values [B, kv_heads, M, d], and the mask."""
        pair = projected(clear_padding(memory, mask), self.qkv, slice(self.d_model, None))
        k, v = (split_heads(part, self.kv_heads) for part in pair.chunk(2, dim=-1))
        return k, v, mask

    def attend(self, x: Tensor, remembered: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
        """x [B, N, D] and what was remembered of a memory -> [B, N, D]."""
        k, v, mask = remembered
        q = split_heads(projected(x, self.qkv, slice(self.d_model)), self.heads)
        real = None if mask is None else mask[:, None, None]
        mixed = F.scaled_dot_product_attention(q, self._for_all(k), self._for_all(v), attn_mask=real)
        return self.out(merge_heads(mixed))  # type: ignore[no-any-return]

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the formula, with the N x N matrix."""
        q, k, v = self._parts(self.qkv(x))
        k, v = self._for_all(k), self._for_all(v)
        scores_bhnm = q @ k.mT / self.d_head**0.5
        allowed = torch.ones_like(scores_bhnm, dtype=torch.bool)
        if mask is not None:
            allowed = allowed & mask[:, None, None, :]
        if self.causal:
            allowed = allowed & _not_future(x.shape[1], x.device)
        return self.out(merge_heads(masked_softmax(scores_bhnm, allowed, -1) @ v))  # type: ignore[no-any-return]

    def runs_as(self, batch_size: int, seq_len: int) -> str:
        """Return the implementation; sdpa for auto."""
        return self.implementation

    def _parts(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [B, heads, N, d], keys and values [B, kv_heads, N, d]."""
        q, k, v = qkv.split([self.d_model, self.kv_width, self.kv_width], dim=-1)
        return split_heads(q, self.heads), split_heads(k, self.kv_heads), split_heads(v, self.kv_heads)

    def _for_all(self, t_bhnd: Tensor) -> Tensor:
        """Return keys or values for each head of the queries: [B, heads, N, d]."""
        if self.kv_heads == self.heads:
            return t_bhnd
        return t_bhnd[:, :, None].expand(-1, -1, self.heads // self.kv_heads, -1, -1).flatten(1, 2)

    def _output(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        """Return the output [B, N, D] of the implementation that was asked for."""
        if self.implementation == "xformers":
            return self._through_xformers(x, allowed)
        return self._attend(x, allowed, causal=self.causal)[0]

    def _attend(self, x: Tensor, allowed: Tensor | None, *, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output [B, N, D], keys and values, through the fused kernel."""
        q, k, v = self._parts(self.qkv(x))
        mixed = F.scaled_dot_product_attention(
            q, self._for_all(k), self._for_all(v), attn_mask=allowed, is_causal=causal
        )
        return self.out(merge_heads(mixed)), k, v

    def _through_xformers(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        ops = _xformers(x.device)
        if allowed is not None:
            raise Unsupported("implementation=xformers takes no padding mask here unless it is causal")
        q, k, v = (self._for_all(part).transpose(1, 2) for part in self._parts(self.qkv(x)))
        bias = ops.LowerTriangularMask() if self.causal else None
        try:
            mixed = ops.memory_efficient_attention(q, k, v, attn_bias=bias)
        except NotImplementedError as error:  # it has no kernel for this dtype, width or device
            raise Unsupported(f"xformers: {error}") from None
        return self.out(mixed.flatten(2))  # type: ignore[no-any-return]

    def forward_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Four projections and the two products; causal runs count in full. Not declared for xformers."""
        if self.implementation == "xformers":
            return None
        n, d = seq_len, self.d_model
        return batch_size * (self._projections(n) + 4 * n * n * d)

    def train_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Three times the forward pass, and the scores once more, which the fused kernel does not keep."""
        forward = self.forward_flops(batch_size, seq_len)
        if forward is None:
            return None
        again = 2 * batch_size * seq_len**2 * self.d_model if self.implementation == "sdpa" else 0
        return 3 * forward + again

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Causal: of the N^2 pairs, N (N + 1) / 2 are asked for."""
        n, d = seq_len, self.d_model
        pairs = n * (n + 1) // 2 if self.causal else n * n
        return batch_size * (self._projections(n) + 4 * pairs * d)

    def _projections(self, n: int) -> int:
        """Return the FLOPs of the projections of n tokens."""
        return 2 * n * self.d_model * 2 * (self.d_model + self.kv_width)

    def saved_bytes(self, batch_size: int, seq_len: int) -> int | None:
        """Queries, keys, values, the heads' outputs, and one sum per row of scores, in float32 at least.

        Dense: the weights twice, before and after invisible ones are cleared, and the visibility map twice.
        Not declared for xformers, whose kernels run on CUDA only, where nothing was measured, and for shared
        keys and values, whose copies depend on the kernel.
        """
        if self.implementation == "xformers" or self.kv_heads < self.heads:
            return None
        weight, rows = self.qkv.weight, batch_size * seq_len
        tokens = weight.element_size() * rows * 4 * self.d_model
        if self.implementation == "sdpa":
            return tokens + wide_bytes(weight) * rows * self.heads
        return tokens + (weight.element_size() + 1) * 2 * self.heads * rows * seq_len


def _xformers(device: torch.device) -> Any:
    """Return xformers.ops. Raises Unsupported with what is missing."""
    if device.type != "cuda":
        raise Unsupported(f"implementation=xformers runs on cuda only, not on {device.type}")
    try:
        import xformers.ops
    except ImportError as error:
        how = "pip install --no-deps xformers (a wheel that was built for the torch that is installed)"
        raise Unsupported(f"implementation=xformers needs xformers ({error}): {how}") from None
    return xformers.ops


def _real_first(mask: Tensor) -> Tensor:
    """Return the places of all tokens, real ones first and in their order: [B, N].

    Then no padding comes before a real token, and the kernel's own causal mask replaces an N x N mask.
    """
    return (~mask).sort(dim=1, stable=True).indices


def _take(x_bnd: Tensor, places_bn: Tensor) -> Tensor:
    return x_bnd.gather(1, places_bn[..., None].expand_as(x_bnd))


def _not_future(n: int, device: torch.device) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()

"""Vanilla: softmax attention over all pairs of tokens."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import (
    clear_padding,
    masked_softmax,
    merge_heads,
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

    ``implementation``: ``sdpa`` (``auto``), as above; ``dense``, the reference, with the N x N matrix;
    ``xformers``, its memory_efficient_attention, on CUDA only, and with a padding mask only if causal.

    Raises ValueError for a wrong option.
    """

    order = 2.0
    memory_order = 1.0
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
    ) -> None:
        allowed = f"one of {', '.join(IMPLEMENTATIONS)}"
        require(implementation in IMPLEMENTATIONS, "implementation", implementation, allowed)
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.implementation = "sdpa" if implementation == "auto" else implementation
        if implementation == "dense":
            self.__dict__["memory_order"] = 2.0  # for this instance; the class declares the fused kernel's
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        x = clear_padding(x, mask)
        if self.implementation == "dense":
            return self.reference(x, mask)
        if mask is None or not self.causal:
            return self._attend(x, None if mask is None else mask[:, None, None, :])
        # Real tokens first, in their order: then no padding comes before one, and the kernel's own causal
        # mask replaces an N x N mask.
        places = (~mask).sort(dim=1, stable=True).indices
        return _take(self._attend(_take(x, places), None), places.argsort(dim=1))

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the formula, with the N x N matrix."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
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

    def _attend(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        if self.implementation == "xformers":
            return self._through_xformers(x, allowed)
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=self.causal)
        return self.out(merge_heads(mixed))  # type: ignore[no-any-return]

    def _through_xformers(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        ops = _xformers(x.device)
        if allowed is not None:
            raise Unsupported("implementation=xformers takes no padding mask here unless it is causal")
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.d_head)).unbind(2)
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
        return batch_size * (2 * n * d * 4 * d + 4 * n * n * d)

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
        return batch_size * (2 * n * d * 4 * d + 4 * pairs * d)

    def saved_bytes(self, batch_size: int, seq_len: int) -> int | None:
        """Queries, keys, values, the heads' outputs, and one sum per row of scores, in float32 at least.

        Dense: the weights twice, before and after invisible ones are cleared, and the visibility map twice.
        Not declared for xformers, whose kernels run on CUDA only, where nothing was measured.
        """
        if self.implementation == "xformers":
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


def _take(x_bnd: Tensor, places_bn: Tensor) -> Tensor:
    return x_bnd.gather(1, places_bn[..., None].expand_as(x_bnd))


def _not_future(n: int, device: torch.device) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()

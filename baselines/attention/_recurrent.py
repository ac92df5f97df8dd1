"""Parts of the causal mechanisms with a state of fixed size: chunks, decays, carried states, norms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.attention._heads import clear_padding, no_autocast, wide_dtype
from effbench import Mechanism, State

NORM_EPSILON = 1e-5
SEGMENT = 1024  # tokens of all sequences of a batch that are scanned at a time


class Recurrent(Mechanism):
    """A mechanism with a state: a scan over the tokens of a sequence, in chunks, and a step for one token.

    A subclass defines ``chunk``, ``_start``, ``_scan`` and ``_next``. The latter two get float32 at least and
    no autocast, since sums grow with N; ``_scan`` gets padding as zeros.
    """

    chunk: ClassVar[int]  # tokens whose pairs are computed; the tokens before a chunk are in the state

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        return self.prefill(x, mask)[0]

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """x [B, N, D], N >= 0, mask [B, N] -> the outputs [B, N, D] and the state after the last token."""
        outs, state = [], self._start(x.new_zeros(x.shape[0], dtype=wide_dtype(x)))
        with no_autocast(x):
            for tokens in self._segments(*x.shape[:2]):
                real = None if mask is None else mask[:, tokens]
                out, state = self._scan(clear_padding(x[:, tokens], real).to(wide_dtype(x)), real, state)
                outs.append(out.to(x.dtype))
        return torch.cat(outs, dim=1) if outs else x, state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x [B, D] -> the output [B, D] for this token and the state after it; the given one is consumed."""
        with no_autocast(x):
            out_bD, state = self._next(x.to(wide_dtype(x)), state)
        return out_bD.to(x.dtype), state

    def train_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Three times the forward pass; None if the first segment is one chunk: its state is constant."""
        first = next(self._segments(batch_size, seq_len)).stop
        return None if first <= self.chunk else super().train_flops(batch_size, seq_len)

    def _segments(self, batch_size: int, n: int) -> Iterator[slice]:
        """Yield the parts of a sequence that are scanned one by one: whole chunks, but for the first.

        What is computed for a segment of a batch is small enough for the processor's cache.
        """
        size = max(SEGMENT // batch_size // self.chunk, 1) * self.chunk
        start = 0
        for stop in range((n - 1) % size + 1, n + 1, size):
            yield slice(start, stop)
            start = stop

    def _start(self, like: Tensor) -> State:
        """Return the state before the first token, for ``like`` [B], in its dtype and on its device."""
        return like.new_zeros(len(like), self.heads, self.d_head, self.d_head)

    def _scan(self, x_bnD: Tensor, mask: Tensor | None, state: State) -> tuple[Tensor, State]:
        raise NotImplementedError

    def _next(self, x_bD: Tensor, state: State) -> tuple[Tensor, State]:
        raise NotImplementedError


def whole(n: int, chunk: int) -> int:
    """Return the tokens of n filled up to whole chunks."""
    return n + -n % chunk


def in_chunks(part: Tensor, chunk: int, dim: int) -> Tensor:
    """Split dimension ``dim``, tokens, into [chunks, chunk]; zeros before the first token fill them up.

    The last chunk ends with the last token, so that the state after it is that of the sequence.
    """
    n = part.shape[dim]
    dim = dim % part.ndim
    if n % chunk:
        part = F.pad(part, (0, 0) * (part.ndim - 1 - dim) + (-n % chunk, 0))
    chunks: Tensor = part.unflatten(dim, (whole(n, chunk) // chunk, chunk))
    return chunks


def heads_in_chunks(x_bnhd: Tensor, chunk: int) -> Tensor:
    """[B, N, heads, d] -> [B, heads, chunks, chunk, d], each head in its own rows."""
    return in_chunks(x_bnhd, chunk, 1).permute(0, 3, 1, 2, 4).contiguous()


def out_of_chunks(x_bhcid: Tensor, n: int) -> Tensor:
    """[B, heads, chunks, chunk, d] -> [B, N, heads, d], without what filled up the first chunk."""
    filled = x_bhcid.flatten(2, 3)
    return filled[:, :, filled.shape[2] - n :].transpose(1, 2)


def least_log(dtype: torch.dtype) -> float:
    """Return the logarithm of the smallest normal number, below which a decay is not told from 0.

    Logarithms of decays are clamped there. Their sums in a chunk then keep the digits of small ones, and no
    decay is denormal, which processors compute slowly.
    """
    return math.log(torch.finfo(dtype).tiny)


def pair_decays(log_ci: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decays inside chunks from the logarithms of each token's decay [..., chunk].

    First those from token j to token i, exp(log_{j+1} + ... + log_i) for j <= i and 0 for j > i:
    [..., chunk, chunk]. Then those from the start of the chunk up to and with token i: [..., chunk]. No
    exponent is above 0, or below ``least_log``.
    """
    sums_ci = log_ci.cumsum(dim=-1)
    exponents_cij = sums_ci[..., :, None] - sums_ci[..., None, :]
    future = torch.ones(exponents_cij.shape[-2:], dtype=torch.bool, device=log_ci.device).triu(1)
    least = least_log(log_ci.dtype)
    pairs_cij = exponents_cij.clamp(min=least).masked_fill(future, -math.inf).exp()
    return pairs_cij, sums_ci.clamp(min=least).exp()


def carried_states(sums: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states before each chunk, from ``state`` [B, ...], and the state after the last chunk.

    A chunk multiplies the state with its ``decay`` and adds its ``sums``, both [B, chunks, ...].
    """
    before = []
    for part, factor in zip(sums.unbind(1), decay.unbind(1), strict=True):
        before.append(state)
        state = torch.addcmul(part, state, factor)
    return torch.stack(before, dim=1), state


def plus_product(added: Tensor, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
    """Return added + scale * left @ right for [B, heads, chunks, ...] in one pass over the result."""
    factors = left.flatten(0, 2), right.flatten(0, 2)
    return torch.baddbmm(added.flatten(0, 2), *factors, alpha=scale).view(added.shape)


def scaled_to_one(x: Tensor) -> Tensor:
    """Return x divided by the root of the mean of its squares along the last dimension."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scaled: Tensor = x * (length.square() / x.shape[-1] + NORM_EPSILON).rsqrt()
    return scaled

"""Hyena: gated tokens, summed by a causal convolution as long as the sequence."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._heads import (
    clear_padding,
    no_autocast,
    projected,
    require,
    tokens_first,
    tokens_last,
    wide_bytes,
    wide_dtype,
)
from effbench import Mechanism

TAPS = 3  # of the short convolutions
BANDS = 8  # cosines and sines among the features of a position
SINE = 10.0  # the filter's layers are sin(SINE (W x + b)), so that it can vary fast
SLOWEST, FASTEST = math.log(100) / 1.5, math.log(100) / 0.3  # rates of decay, per max_len tokens
ROOM = 64  # the least number of free places in a new cache

_State = tuple[Tensor, Tensor, Tensor, int]  # inputs of short convolutions, cache of z, filter, tokens


class Hyena(Mechanism):
    """The operator of order 2: a long causal convolution between two gates.

    q, k and v are projections of x, each feature convolved with three causal taps of its own. With z = k * v,
    a filter h and a factor b per feature::

        y_i = q_i * (sum_{j <= i} h_{i-j} * z_j + b * z_i),        out_i = W_o y_i + b_o

    The filter is a function of the distance t: h_t = W_3 f_2(f_1(e_t)) * exp(-rate t / max_len), where
    f(u) = sin(10 (W u + c)) has ``width`` features, and e_t holds t / max_len and its cosines and sines of 1
    to 8 periods. The rates of the features lie evenly from ln(100) / 1.5 to ln(100) / 0.3. So an output does
    not depend on how many tokens follow. x [B, N, D] -> [B, N, D].

    The convolution is a product of real Fourier transforms of 2 N numbers: O(N D log N) time, O(N D) memory.
    Sums are in float32 at least. The rounding of a transform is relative to its largest number, so outputs
    before a huge token are less accurate. Gradients that are 0 by causality are exactly 0.

    Padding adds nothing: its projections and its z are 0. ``heads`` has no meaning: features do not meet
    between the projections. FFTs are no matrix products and are not part of the declared FLOPs.

    Step by step: the sum needs every z, so the state is a cache of them beside the filter; a step takes
    O(N D).

    Raises ValueError for a wrong option.
    """

    order = "N log N"
    memory_order = 1.0
    state_order = 1.0
    equivariant = False
    no_noncausal = "its filter has no taps for later tokens"
    no_cross = "its filter is one of distances in the same sequence"
    source = (
        "Poli et al. 2023, Hyena Hierarchy: Towards Larger Convolutional Language Models (arXiv 2302.10866)"
    )

    def __init__(
        self, d_model: int, heads: int, *, max_len: int, causal: bool = False, width: int = 64
    ) -> None:
        require(width >= 1, "width", width, "at least 1")
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.width = width
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.short = nn.Conv1d(3 * d_model, 3 * d_model, TAPS, groups=3 * d_model, bias=False)
        self.filter_in = nn.Linear(1 + 2 * BANDS, width)
        self.filter_hidden = nn.Linear(width, width)
        self.filter_out = nn.Linear(width, d_model, bias=False)
        self.skip = nn.Parameter(torch.randn(d_model))
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        with no_autocast(x):
            return self._mix(x, mask)[0].to(x.dtype)

    def _mix(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs [B, N, D], inputs of the short convolutions [B, 3 D, N], and z [B, D, N]."""
        wide = wide_dtype(x)
        n = x.shape[1]
        inputs = tokens_last(
            clear_padding(x, mask).to(wide), self.qkv.weight.to(wide), self.qkv.bias.to(wide)
        )
        if mask is not None:
            inputs = inputs.masked_fill(~mask[:, None], 0.0)
        weight = self.short.weight.to(wide)
        parts = F.conv1d(inputs, weight, padding=TAPS - 1, groups=len(weight))[..., :n]
        q, k, v = parts.chunk(3, dim=1)
        z = k * v
        if mask is not None:
            z = z.masked_fill(~mask[:, None], 0.0)
        summed: Tensor = _Convolution.apply(z, self._filter(n, wide))  # type: ignore[no-untyped-call]
        mixed = torch.addcmul(summed, self.skip.to(wide)[:, None], z)
        return tokens_first(q * mixed, self.out.weight.to(wide), self.out.bias.to(wide)), inputs, z

    def _filter(self, n: int, wide: torch.dtype) -> Tensor:
        """Return the filter at the distances 0 to n - 1: [D, n]."""
        device = self.skip.device
        time_n1 = torch.arange(n, device=device, dtype=wide)[:, None] / self.max_len
        angle_nb = 2 * math.pi * time_n1 * torch.arange(1, BANDS + 1, device=device, dtype=wide)
        hidden = torch.cat([time_n1, angle_nb.cos(), angle_nb.sin()], dim=1)
        for layer in (self.filter_in, self.filter_hidden):
            hidden = (SINE * F.linear(hidden, layer.weight.to(wide), layer.bias.to(wide))).sin()
        rate_D = torch.linspace(SLOWEST, FASTEST, self.d_model, device=device, dtype=wide)
        return (self.filter_out.weight.to(wide) @ hidden.mT) * (-rate_D[:, None] * time_n1.mT).exp()

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, _State]:
        """x [B, N, D], mask [B, N] -> the outputs [B, N, D], and the state.

        It holds the last two inputs of the short convolutions [B, 3 D, 2], a cache of z and the filter from
        its last tap to its first, both [B, D, capacity], and N.
        """
        with no_autocast(x):
            batch, n, d = x.shape
            wide = wide_dtype(x)
            out, inputs, z = (
                self._mix(x, mask) if n else (x, x.new_zeros(batch, 3 * d, 0), x.new_zeros(batch, d, 0))
            )
            last = F.pad(inputs.to(wide), (TAPS - 1, 0))[..., n:].clone()
            cache, taps = self._with_room(z.to(wide))
            return out.to(x.dtype), (last, cache, taps, n)

    def _with_room(self, z_bDn: Tensor) -> tuple[Tensor, Tensor]:
        """Return a cache that begins with z and has an eighth of its length free, and the filter for it."""
        batch, d, n = z_bDn.shape
        capacity = n + max(n // 8, ROOM)
        cache = z_bDn.new_zeros(batch, d, capacity)
        cache[..., :n] = z_bDn
        return cache, self._filter(capacity, z_bDn.dtype).flip(-1).expand(batch, -1, -1)

    def step(self, x: Tensor, state: _State) -> tuple[Tensor, _State]:
        """x [B, D] -> the output [B, D] for one more token, and the state with it.

        It writes z behind those that the given state uses.
        """
        with no_autocast(x):
            last, cache, taps, n = state
            wide = cache.dtype
            inputs = projected(x.to(wide), self.qkv)
            recent = torch.cat([last, inputs[..., None]], dim=-1)
            q, k, v = (recent * self.short.weight.to(wide)[:, 0]).sum(dim=-1).chunk(3, dim=-1)
            z = k * v
            if n == cache.shape[-1]:
                cache, taps = self._with_room(cache)
            cache[..., n] = z
            summed = torch.einsum("bdn,bdn->bd", cache[..., : n + 1], taps[..., -n - 1 :])
            mixed = torch.addcmul(summed, self.skip.to(wide), z)
            return projected(q * mixed, self.out).to(x.dtype), (recent[..., 1:].clone(), cache, taps, n + 1)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the formulas, with a sum over the past of each token."""
        real = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)
        n, inputs = x.shape[1], self.qkv(x) * real
        tap_before = self.short.weight[:, 0].flip(1).unbind(1)  # [3 D] for each number of tokens before
        shifted = [tap * F.pad(inputs, (0, 0, ago, 0))[:, :n] for ago, tap in enumerate(tap_before)]
        parts = torch.stack(shifted).sum(dim=0)
        q, k, v = parts.chunk(3, dim=-1)
        z = k * v * real
        backward_nD = self._filter(n, x.dtype).mT.flip(0)
        summed = [(z[:, : i + 1] * backward_nD[n - 1 - i :]).sum(dim=1) for i in range(n)]
        return self.out(q * (torch.stack(summed, dim=1) + self.skip * z))  # type: ignore[no-any-return]

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """Four projections, the short convolutions with the places after the end, and the filter's layers."""
        return self._flops(batch_size, seq_len, seq_len + TAPS - 1)

    def useful_flops(self, batch_size: int, seq_len: int) -> int:
        """Without the short convolutions after the end."""
        return self._flops(batch_size, seq_len, seq_len)

    def train_flops(self, batch_size: int, seq_len: int) -> int:
        """Three times the forward pass, but for the filter's positions, which need no gradient."""
        return 3 * self.forward_flops(batch_size, seq_len) - 2 * seq_len * self.width * (1 + 2 * BANDS)

    def _flops(self, batch_size: int, n: int, places: int) -> int:
        d, w = self.d_model, self.width
        layers = 2 * n * w * (1 + 2 * BANDS + w + d)
        return batch_size * (2 * n * d * 4 * d + 2 * places * 3 * d * TAPS) + layers

    def saved_bytes(self, batch_size: int, seq_len: int) -> int:
        """Inputs and results of the short convolutions, z, mixed, y; of the filter the layers and decay."""
        n, d, w = seq_len, self.d_model, self.width
        tokens = 3 * n * d + 3 * (n + TAPS - 1) * d + 3 * n * d
        kept = batch_size * tokens + n * (1 + 2 * BANDS) + 4 * n * w + 2 * n * d
        if self.qkv.weight.element_size() < 4:  # wide copies of inputs and maps
            kept += batch_size * n * d + 4 * d * d + 3 * d * TAPS + d + w * w + w * d
        return wide_bytes(self.qkv.weight) * kept


class _Convolution(torch.autograd.Function):
    """sum_{j <= i} h_{i-j} z_j for each feature, by transforms of 2 N numbers; saves its arguments only.

    The gradient of z_j sums over the outputs from j on. Where none of these has a gradient it is set to 0,
    which a transform computes only up to rounding.
    """

    @staticmethod
    def forward(context: Any, z_bDn: Tensor, h_Dn: Tensor) -> Tensor:
        context.save_for_backward(z_bDn, h_Dn)
        n = z_bDn.shape[-1]
        product = torch.fft.rfft(z_bDn, 2 * n).mul_(torch.fft.rfft(h_Dn, 2 * n))
        summed_bDn: Tensor = torch.fft.irfft(product, 2 * n)[..., :n]
        return summed_bDn

    @staticmethod
    def backward(context: Any, gradient_bDn: Tensor) -> tuple[Tensor, Tensor]:
        z_bDn, h_Dn = context.saved_tensors
        n = z_bDn.shape[-1]
        toward = torch.fft.rfft(gradient_bDn, 2 * n)
        of_h = (toward * torch.fft.rfft(z_bDn, 2 * n).conj()).sum(dim=0)
        of_z = torch.fft.irfft(toward * torch.fft.rfft(h_Dn, 2 * n).conj(), 2 * n)[..., :n]
        after_bn = gradient_bDn.ne(0).any(dim=1).flip(-1).cumsum(dim=-1).flip(-1)  # outputs with a gradient
        return of_z.masked_fill(after_bn[:, None] == 0, 0.0), torch.fft.irfft(of_h, 2 * n)[..., :n]

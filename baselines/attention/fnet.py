"""FNet: tokens mixed by a Fourier transform, without any parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from baselines.attention._heads import clear_padding, wide_dtype
from effbench import Mechanism


class FNet(Mechanism):
    """The real part of the Fourier transform over tokens and features; no parameters, ``heads`` is unused.

    Definition::

        out = Re(F_N (F_D x))        out[k, l] = sum_n sum_m cos(2 pi (n k / N + m l / D)) x[n, m]

    Unscaled, as in the paper. x [B, N, D] -> [B, N, D]. Time O(N D log(N D)), memory O(N D).

    x is real, so only the features l <= D / 2 of the spectrum are computed; the real parts of the others are
    copies, Re X[k, D - l] = Re X[-k mod N, l]. The matrix of cosines is symmetric, so the gradient of the
    input is the same transform of the output's gradient, and nothing is kept for it. The transform is in
    float32 at least.

    Padding is set to 0, but the frequencies are those of the padded length: the amount of padding changes the
    output, as in the paper. FFTs are no matrix products, so all declared FLOPs are 0.

    Raises Unsupported for ``causal=True``.
    """

    order = "N log N"
    memory_order = 1.0
    equivariant = False
    no_causal = "every frequency sums over all tokens, the future's too"
    no_cross = "it mixes the tokens of one sequence"
    source = "Lee-Thorp et al. 2021, FNet: Mixing Tokens with Fourier Transforms (arXiv 2105.03824)"

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        super().__init__(d_model, heads, max_len=max_len, causal=causal)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D], mask [B, N] True for a real token -> [B, N, D]."""
        wide = wide_dtype(x)
        mixed: Tensor = _RealSpectrum.apply(clear_padding(x, mask).to(wide))  # type: ignore[no-untyped-call]
        return mixed.to(x.dtype)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute it by the formula, with tables of cosines and sines: Re((C_N - i S_N) x (C_D - i S_D))."""
        if mask is not None:
            x = x * mask[..., None]
        (cos_nk, sin_nk), (cos_ml, sin_ml) = (_tables(size, x) for size in x.shape[1:])
        mixed = cos_nk @ x.double() @ cos_ml - sin_nk @ x.double() @ sin_ml
        return mixed.to(x.dtype)

    def forward_flops(self, batch_size: int, seq_len: int) -> int:
        """No matrix product."""
        return 0

    def saved_bytes(self, batch_size: int, seq_len: int) -> int:
        """Nothing: the transform is linear."""
        return 0


class _RealSpectrum(torch.autograd.Function):
    """Real part of the two-dimensional DFT of real matrices [B, N, D]; symmetric, so its own gradient."""

    @staticmethod
    def forward(context: Any, x_bnd: Tensor) -> Tensor:
        d = x_bnd.shape[2]
        half = d // 2 + 1
        out_bkl = torch.empty_like(x_bnd, memory_format=torch.contiguous_format)
        out_bkl[..., :half] = torch.fft.rfft2(x_bnd).real
        mirrored = out_bkl[..., 1 : (d + 1) // 2]  # the features with a mirror image
        out_bkl[:, :1, half:] = mirrored[:, :1].flip(2)
        out_bkl[:, 1:, half:] = mirrored[:, 1:].flip(1, 2)
        return out_bkl

    @staticmethod
    def backward(context: Any, gradient_bkl: Tensor) -> Tensor:
        out: Tensor = _RealSpectrum.apply(gradient_bkl)  # type: ignore[no-untyped-call]
        return out


def _tables(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin of 2 pi i j / size: [size, size] each, in float64."""
    i = torch.arange(size, device=like.device)
    angle = 2 * math.pi / size * (i[:, None] * i % size).double()
    return angle.cos(), angle.sin()

"""Make the mechanism under audit and its inputs, and call it; everything from fixed seeds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effbench.common.spec import Option
from effbench.measured.mechanism import Mechanism, Unsupported
from effbench.measured.probes.correctness import gradients
from effbench.measured.workload import cast

# Long enough that a window or a block of the usual sizes does not cover the sequence, and not round.
LONG = 777
OUTPUT = "the output"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The mechanism under audit: its class, its options (without ``causal``) and its shape.

    ``seq_len`` is the longest length that is tried. ``causal``: the causal form is audited. Modules and
    inputs are on ``device`` and, unless a check asks for another one, of ``dtype``.
    """

    kind: type
    options: Mapping[str, Option]
    d_model: int
    heads: int
    seq_len: int
    device: torch.device
    causal: bool = False
    dtype: torch.dtype = torch.float64

    @property
    def on_cuda(self) -> bool:
        """True if the device is a CUDA device."""
        return self.device.type == "cuda"

    def make(
        self,
        *,
        max_len: int | None = None,
        dtype: torch.dtype | None = None,
        causal: bool | None = None,
        options: Mapping[str, Option] | None = None,
    ) -> nn.Module:
        """Return a new instance in evaluation mode, from the same seed each time, on any device alike."""
        torch.manual_seed(0)
        given = self.options if options is None else options
        longest = max_len or min(LONG, self.seq_len)
        form = self.causal if causal is None else causal
        made = self.kind(self.d_model, self.heads, max_len=longest, causal=form, **given)
        if not isinstance(made, nn.Module):
            raise TypeError(f"{self.kind.__name__} is not an nn.Module")
        return cast(made.to(self.device), dtype or self.dtype).eval()

    def input(self, batch: int, n: int, dtype: torch.dtype | None = None, seed: int = 1) -> Tensor:
        """Return standard normal x [batch, n, d_model], the same on any device but for rounding."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(batch, n, self.d_model, generator=generator, dtype=torch.float64, device="cpu")
        return x.to(self.device, dtype or self.dtype)

    def loss_weights(self, batch: int, n: int, mask: Tensor | None) -> Tensor:
        """Return the weights of the outputs [batch, n, d_model] in a loss: normal, and 0 at padding."""
        weights = self.input(batch, n, seed=3)
        return weights if mask is None else weights * mask[..., None]

    def lengths(self, *wanted: int) -> list[int]:
        """Return these lengths in ascending order; ``seq_len`` replaces those above it."""
        return sorted({min(n, self.seq_len) for n in wanted})

    def lengths_and_masks(self, *wanted: int, batch: int = 2) -> Iterator[tuple[int, Tensor | None]]:
        """Yield each length twice: without a mask and with a ragged mask [batch, n]."""
        for n in self.lengths(*wanted):
            yield n, None
            yield n, self.ragged_mask(batch, n)

    def upper_lengths(self) -> list[int]:
        """Return a quarter, half and all of ``seq_len``, on which growth is fitted.

        Raises Unsupported if ``seq_len`` is below 64.
        """
        if self.seq_len < 64:
            raise Unsupported(f"growth cannot be fitted up to N={self.seq_len}; at least 64 is needed")
        return [self.seq_len // 4, self.seq_len // 2, self.seq_len]

    def ragged_mask(self, batch: int, n: int) -> Tensor:
        """Return a mask [batch, n] of four kinds of rows in turn: half real, with holes, all real, one token.

        No row is without a real token.
        """
        position = torch.arange(n, device=self.device)
        rows = [position < (n + 1) // 2, position % 3 != 1, position >= 0, position < 1]
        return torch.stack([rows[i % len(rows)] for i in range(batch)])


def real_tokens(t: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``t`` [B, N, ...] at real tokens: [real, ...], or all of it without a mask."""
    return t if mask is None else t[mask]


def output_of(function: Callable[..., Any], x: Tensor, mask: Tensor | None) -> Tensor:
    """Call without gradients, with torch's generator at a fixed seed."""
    torch.manual_seed(7)
    with torch.no_grad():
        return function(x, mask)  # type: ignore[no-any-return]


def gradients_of(
    function: Callable[..., Any], module: nn.Module, x: Tensor, mask: Tensor | None, weights: Tensor
) -> dict[str, Tensor]:
    """Return the gradients of the weighted sum of outputs, with torch's generator at a fixed seed."""
    torch.manual_seed(7)
    return gradients(function, module, x, mask, weights)


def results_of(
    function: Callable[..., Any], module: nn.Module, x: Tensor, mask: Tensor | None, weights: Tensor
) -> dict[str, Tensor]:
    """Return the output at real tokens and all gradients, by name."""
    out = real_tokens(output_of(function, x, mask), mask)
    grads = gradients_of(function, module, x, mask, weights)
    return {OUTPUT: out, **{f"the gradient of {name}": gradient for name, gradient in grads.items()}}


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that get a gradient, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def named_state(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return parameters and buffers with their names, buffers that are not saved too."""
    return [(name, t.detach()) for name, t in (*module.named_parameters(), *module.named_buffers())]


def exact_form(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return the module of this dtype in float64: a copy with the same, rounded, parameters; or itself."""
    return module if dtype == torch.float64 else cast(copy.deepcopy(module), torch.float64)


def reference_of(module: nn.Module) -> Callable[..., Any]:
    """Return the module's dense reference. Raises Unsupported if it declares none."""
    declared = getattr(type(module), "reference", None)
    if declared is None or declared is Mechanism.reference:
        raise Unsupported("declares no reference")
    return module.reference  # type: ignore[return-value]

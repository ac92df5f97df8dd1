"""Encoder: blocks of a mechanism and a feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from effbench.measured.mechanism import State
from effbench.measured.patterns import require_steps


class Encoder(nn.Module):
    """x [B, N, d_model], mask [B, N] -> [B, N, d_model], ``layers`` times mixing and feed-forward.

    Pre-norm: x + mechanism(norm(x)), then x + ffn(norm(x)), and a norm at the end. ``ffn_width`` is the
    hidden width of the feed-forward layer, 2 d_model if None (LRA's ratio); 0 leaves feed-forward layers out.
    One instance of a mechanism with ``shares_layers`` serves all layers; each layer has its own norms and
    feed-forward layer.
    """

    def __init__(
        self,
        make_mechanism: Callable[[], nn.Module],
        *,
        d_model: int,
        layers: int,
        ffn_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        width = 2 * d_model if ffn_width is None else ffn_width
        self.blocks = nn.ModuleList(
            _Block(mechanism, d_model, width, dropout) for mechanism in of_each_layer(make_mechanism, layers)
        )
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode x [B, N, d_model]; mask [B, N] is True for a real token."""
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)  # type: ignore[no-any-return]

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[State]]:
        """Encode x [B, N, d_model] with the causal forms; return it and the state of each layer.

        Raises Unsupported if the mechanism has no step form.
        """
        states: list[State] = []
        for block in self.blocks:
            x, state = block.prefill(x, mask)  # type: ignore[operator]
            states.append(state)
        return self.norm(x), states

    def step(self, x: Tensor, state: list[State]) -> tuple[Tensor, list[State]]:
        """Encode one more token x [B, d_model]; return it and the state of each layer after it."""
        states: list[State] = []
        for block, before in zip(self.blocks, state, strict=True):
            x, after = block.step(x, before)  # type: ignore[operator]
            states.append(after)
        return self.norm(x), states


def of_each_layer(make_mechanism: Callable[[], nn.Module], layers: int) -> Iterator[nn.Module]:
    """Yield the mechanism of each layer: new instances, or the same one if it ``shares_layers``."""
    first = make_mechanism()
    yield first
    for _ in range(layers - 1):
        yield first if getattr(first, "shares_layers", False) else make_mechanism()


class FeatureDropout(nn.Module):
    """x [B, N, D] -> [B, N, D]: dropout with one mask [B, 1, D] for all positions of a row.

    Gal and Ghahramani 2016 (arXiv 1512.05287). In this model it regularises as well as a mask for every
    token, whose random numbers would take about half of a training step on a CPU.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop features of x in training; x itself in evaluation."""
        if not self.training or self.p == 0:
            return x
        keep = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) >= self.p
        return x * (keep / (1 - self.p)).to(x.dtype)


class _Block(nn.Module):
    def __init__(self, mechanism: nn.Module, d_model: int, ffn_width: int, dropout: float) -> None:
        super().__init__()
        self.mechanism = mechanism
        self.mix_norm = nn.LayerNorm(d_model)
        self.feed_forward = ffn_width > 0
        if self.feed_forward:
            self.ffn_norm = nn.LayerNorm(d_model)
            self.ffn = nn.Sequential(nn.Linear(d_model, ffn_width), nn.GELU(), nn.Linear(ffn_width, d_model))
        self.dropout = FeatureDropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._after(x, self.mechanism(self.mix_norm(x), mask), mask)

    def prefill(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, State]:
        require_steps(self.mechanism)
        mixed, state = self.mechanism.prefill(self.mix_norm(x), mask)  # type: ignore[operator]
        return self._after(x, mixed, mask), state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        mixed, state = self.mechanism.step(self.mix_norm(x), state)  # type: ignore[operator]
        return self._after(x[:, None], mixed[:, None], None)[:, 0], state

    def _after(self, x: Tensor, mixed: Tensor, mask: Tensor | None) -> Tensor:
        """Add what the mechanism returned, then the feed-forward layer's output."""
        if mask is not None:
            # A mechanism may leave anything at padding, even NaN: it must not reach later layers.
            mixed = mixed.masked_fill(~mask[..., None], 0.0)
        x = x + self.dropout(mixed)
        if not self.feed_forward:
            return x
        return x + self.dropout(self.ffn(self.ffn_norm(x)))  # type: ignore[no-any-return]

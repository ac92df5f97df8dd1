"""PooledEncoder: one vector of a sequence, from blocks of a mechanism and additive pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn

from effbench.measured.models.classifier import AdditivePooling
from effbench.measured.models.encoder import Encoder, FeatureDropout, of_each_layer

Blocks = Literal["plain", "residual", "encoder"]
QUERY = 200  # the width of the pooling's query (Wu et al. 2019, NRMS)


class PooledEncoder(nn.Module):
    """x [B, N, d_model], mask [B, N] -> [B, d_model]: pool(dropout(blocks(x))).

    One level of the hierarchical news recommender: over the words of a title, or over the clicks of a user
    (the user encoder). There are ``layers`` blocks; ``blocks`` says what stands around the mechanism:
    ``plain``, x <- mechanism(x); ``residual``, x <- x + mechanism(x); ``encoder``, the pre-norm blocks of
    ``Encoder`` with feed-forward layers of width ``ffn_width``. ``query`` is the width of the query of the
    pooling.

    What padding of x holds does not change the result of plain blocks; give zeros to the other blocks.
    Raises ValueError for a wrong option.
    """

    def __init__(
        self,
        make_mechanism: Callable[[], nn.Module],
        *,
        d_model: int,
        layers: int,
        blocks: Blocks = "plain",
        ffn_width: int | None = None,
        query: int = QUERY,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        if blocks not in get_args(Blocks):
            raise ValueError(f"blocks is {blocks!r}, not one of {', '.join(get_args(Blocks))}")
        self.mix: Encoder | MechanismStack
        if blocks == "encoder":
            self.mix = Encoder(
                make_mechanism, d_model=d_model, layers=layers, ffn_width=ffn_width, dropout=dropout
            )
        else:
            self.mix = MechanismStack(make_mechanism, layers, residual=blocks == "residual")
        self.dropout = FeatureDropout(dropout)
        self.pool = AdditivePooling(d_model, query)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return one vector [B, d_model] of each row of x [B, N, d_model]; mask [B, N]."""
        return self.pool(self.dropout(self.mix(x, mask)), mask)  # type: ignore[no-any-return]

    @property
    def mechanism(self) -> nn.Module:
        """The mechanism of the first block."""
        if isinstance(self.mix, Encoder):
            return self.mix.blocks[0].mechanism  # type: ignore[return-value]
        return self.mix.mechanisms[0]

    def forward_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Return the FLOPs of the products of one pass without a mask; None if a block declares none."""
        return self._flops("forward_flops", batch_size, seq_len)

    def train_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Return the FLOPs of a forward and a backward pass; None if a block declares none."""
        return self._flops("train_flops", batch_size, seq_len, passes=3)

    def useful_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Return the part of ``forward_flops`` that the definitions require; None if not declared."""
        return self._flops("useful_flops", batch_size, seq_len)

    def _flops(self, name: str, batch_size: int, seq_len: int, passes: int = 1) -> int | None:
        if isinstance(self.mix, Encoder):
            return None
        total = passes * self.pool.forward_flops(batch_size, seq_len)
        for mechanism in self.mix.mechanisms:
            form: Callable[[int, int], int | None] | None = getattr(mechanism, name, None)
            declared = None if form is None else form(batch_size, seq_len)
            if declared is None:
                return None
            total += declared
        return total


class MechanismStack(nn.Module):
    """x [B, N, D], mask [B, N] -> [B, N, D]: mechanisms one after the other, without norms."""

    def __init__(self, make_mechanism: Callable[[], nn.Module], layers: int, *, residual: bool) -> None:
        super().__init__()
        self.mechanisms = nn.ModuleList(of_each_layer(make_mechanism, layers))
        self.residual = residual

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix x [B, N, D]; mask [B, N] is True for a real token."""
        for mechanism in self.mechanisms:
            mixed = mechanism(x, mask)
            if mask is not None:
                # a mechanism may leave anything at padding, even NaN
                mixed = mixed.masked_fill(~mask[..., None], 0.0)
            x = x + mixed if self.residual else mixed
        return x

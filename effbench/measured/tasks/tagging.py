"""Tagging: what tasks share whose model predicts a token of the vocabulary at some positions of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effbench.measured.data.examples import UNLABELLED, Splits
from effbench.measured.tasks.base import TrainedTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from effbench.measured.tasks.base import Batch, MakeMechanism


class Tagging(TrainedTask):
    """Batches hold ``labels`` [B, N]: a token id where one is predicted, else UNLABELLED."""

    @property
    def ffn_width(self) -> int | None:
        """Width of the feed-forward layers, as the encoder takes it: None is its default, 0 is none."""
        return None

    def model(
        self, make_mechanism: MakeMechanism, *, splits: Splits, seq_len: int, d_model: int, layers: int
    ) -> nn.Module:
        """Return an encoder that predicts a token of the vocabulary at each labelled position."""
        from effbench.measured.models.tagger import Tagger

        return Tagger(
            make_mechanism,
            vocab_size=splits.vocab_size,
            max_len=seq_len,
            d_model=d_model,
            layers=layers,
            ffn_width=self.ffn_width,
            dropout=self.dropout,
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy in nats, the mean over all labelled positions."""
        from torch.nn.functional import cross_entropy

        at = batch["labels"] != UNLABELLED
        return cross_entropy(model(batch["tokens"], batch["mask"], at), batch["labels"][at])

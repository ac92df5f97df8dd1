"""The base class of tasks that read a source and write a target: their model, batches, loss and speeds."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from effbench.common.extent import Extent
from effbench.measured.data.examples import PAD, Integers, Splits, padded
from effbench.measured.data.source_targets import BEGIN, END, SPECIAL, SourceTargets
from effbench.measured.tasks.base import TrainedTask, require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from effbench.measured.models.beam_search import Search
    from effbench.measured.models.seq2seq import Seq2Seq
    from effbench.measured.tasks.base import Batch, MakeMechanism
    from effbench.measured.workload import MechanismMaker


MOST_PENALTY = 10  # more would decide by the length alone
_DECODER = 1.5  # layers of an encoder that a layer of a decoder, which has two attentions, is like


class Forced(NamedTuple):
    """The predictions of a model that reads the right targets (teacher forcing), summed over batches.

    ``nats``: the cross-entropy of all tokens. ``tokens``, ``right``: how many there are, the end token of
    each target included, and how many are the model's first choice. ``rows``, ``whole``: the rows, and those
    whose tokens are all right.
    """

    nats: float
    tokens: int
    right: int
    rows: int
    whole: int

    def scores(self) -> dict[str, float]:
        """Return the mean loss in nats, and the inverse of the perplexity: from 0 to 1, higher is better."""
        loss = self.nats / self.tokens
        return {"loss_nats": loss, "inverse_perplexity": math.exp(-loss)}


class Generation(TrainedTask):
    """A task on pairs of a source and a target, with an encoder and a decoder around the mechanism.

    seq_len is the longest source. The model has as many encoder layers as the cell says, and as many decoder
    layers unless ``decoder_layers`` is given. Training predicts the next token of the target, with label
    smoothing. Its weights are those with the lowest validation loss. The search is greedy, or a beam search
    with ``beams`` hypotheses.

    A subclass brings ``fingerprint``, ``data`` with three ``SourceTargets``, ``score`` and ``longest``.
    """

    validation_metric = "inverse_perplexity"

    decoder_layers: int | None = None
    smoothing: float = 0.0
    beams: int = 1
    length_penalty: float = 0.6
    no_repeat: int = 0

    def check_options(self) -> None:
        """Refuse what no decoder and no search can have."""
        super().check_options()
        layers = self.decoder_layers
        require(layers is None or layers >= 1, f"decoder_layers must be at least 1, got {layers}")
        require(0 <= self.smoothing < 1, f"smoothing must be at least 0 and below 1, got {self.smoothing}")
        require(self.beams >= 1, f"beams must be at least 1, got {self.beams}")
        penalty = self.length_penalty
        require(-MOST_PENALTY <= penalty <= MOST_PENALTY,
                f"length_penalty must be {-MOST_PENALTY} to {MOST_PENALTY}, got {penalty}")  # fmt: skip
        require(self.no_repeat >= 0, f"no_repeat must be at least 0 (allowed), got {self.no_repeat}")

    @property
    @abstractmethod
    def longest(self) -> int:
        """The most tokens of a target, begin and end not counted."""

    @property
    def search(self) -> Search:
        """The search that writes a target: greedy, or with a beam."""
        from effbench.measured.models.beam_search import Search

        return Search(
            begin=BEGIN,
            end=END,
            max_length=self.longest,
            no_repeat=self.no_repeat,
            beams=self.beams,
            length_penalty=self.length_penalty,
        )

    def model(
        self, make_mechanism: MakeMechanism, *, splits: Splits, seq_len: int, d_model: int, layers: int
    ) -> nn.Module:
        """Return the encoder and decoder; forms that the mechanism lacks are vanilla's, as ``facts`` say."""
        from effbench.measured.models.seq2seq import Seq2Seq

        make = cast("MechanismMaker", make_mechanism)
        return Seq2Seq(
            make,
            make_vanilla=make.vanilla,
            label=make.label,
            vocab_size=splits.vocab_size,
            max_source=seq_len,
            max_target=self.longest + 1,
            d_model=d_model,
            encoder_layers=layers,
            decoder_layers=self.decoder_layers or layers,
            dropout=self.dropout,
        )

    def pairs_extent(
        self, rows: tuple[int, int, int], sources: tuple[float, float], targets: float, vocabulary: int
    ) -> Extent:
        """Return the extent of so many rows of each part, with these mean tokens.

        ``sources``: of the sources of training and test. ``targets``: of the targets of training, which the
        decoder reads with its own attention and that to the source.
        """
        train, validation, test = rows
        return Extent(
            train=train,
            validation=validation,
            test=test,
            tokens=sources[1],
            epochs=self.epochs,
            evaluations=self.evaluations,
            passes=((1, sources[0]), (_DECODER, targets + 1)),
            predicted=targets + 1,
            vocabulary=vocabulary,
            written=(self.longest + 1) * self.beams,
        )

    def batch(self, part: SourceTargets, rows: Integers) -> Batch:  # type: ignore[override]
        """Return ``tokens`` [B, N] and ``mask`` of the sources, ``target`` [B, T + 1] with BEGIN and END,
        ``target_mask`` [B, T], True where the token that follows is real, and ``rows`` [B].
        """
        import torch

        tokens, mask = padded(part.sources, part.source_starts, rows)
        written, real = padded(part.targets, part.target_starts, rows)
        lengths = real.sum(axis=1)
        target = np.full((len(rows), written.shape[1] + 2), PAD, dtype=np.int64)
        target[:, 0] = BEGIN
        target[:, 1:-1] = written
        target[np.arange(len(rows)), lengths + 1] = END
        arrays = {
            "tokens": tokens,
            "mask": mask,
            "target": target,
            "target_mask": np.arange(target.shape[1] - 1) <= lengths[:, None],
            "rows": np.asarray(rows, dtype=np.int64),
        }
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    def full_batch(self, splits: Splits, batch_size: int, seq_len: int) -> Batch:
        """Return arbitrary sources and targets of the largest lengths."""
        import torch

        def arbitrary(length: int) -> Tensor:
            rows = torch.arange(batch_size * length).reshape(batch_size, length)
            return rows % (splits.vocab_size - SPECIAL) + SPECIAL

        length = self.longest + 1
        target = arbitrary(length + 1)
        target[:, 0], target[:, -1] = BEGIN, END
        return {
            "tokens": arbitrary(seq_len),
            "mask": torch.ones(batch_size, seq_len, dtype=torch.bool),
            "target": target,
            "target_mask": torch.ones(batch_size, length, dtype=torch.bool),
            "rows": torch.arange(batch_size),
        }

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy in nats, smoothed in training."""
        smoothing = self.smoothing if model.training else 0.0
        return cast("Seq2Seq", model).loss(*_inputs(batch), smoothing=smoothing)

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, Any]:
        """Return the loss in nats and the inverse of the perplexity."""
        return summed([self.forced(model, batch) for batch in batches]).scores()

    def check(self, model: nn.Module, splits: Splits, seq_len: int) -> None:
        """Compare the steps with the forward pass."""
        from effbench.measured.probes.generation_laws import check_generation

        device = next(model.parameters()).device
        full = self.full_batch(splits, 2, seq_len)
        source, target = full["tokens"].to(device), full["target"][:, :-1].to(device)
        check_generation(cast("Seq2Seq", model), source, target)

    def measurements(
        self, model: nn.Module, splits: Splits, seq_len: int
    ) -> Mapping[str, float | str | tuple[float, ...]]:
        """Return which attention the decoder has, how fast the model generates, and the size of its state."""
        from effbench.common.columns import SOURCES
        from effbench.measured.models.generation_speed import generation_speed

        seq2seq = cast("Seq2Seq", model)
        source = self.full_batch(splits, SOURCES, seq_len)["tokens"].to(next(model.parameters()).device)
        return {**seq2seq.facts, **generation_speed(seq2seq, source, self.search)}

    def generated(self, model: nn.Module, batch: Batch) -> list[list[int]]:
        """Return the tokens that the search finds for each row; none where it finds no text."""
        from effbench.measured.models.beam_search import beam_search, greedy_search

        seq2seq = cast("Seq2Seq", model)
        search = self.search
        tokens = batch["tokens"]
        state = seq2seq.start(tokens, batch["mask"])
        given: Any = (state, seq2seq.step, seq2seq.reorder, search)
        if search.beams == 1:
            found = greedy_search(*given, sources=len(tokens), device=tokens.device)
            return [hypothesis.tokens for hypothesis in found]
        each = beam_search(*given, sources=len(tokens), device=tokens.device)
        return [texts[0].tokens if texts else [] for texts in each]

    def forced(self, model: nn.Module, batch: Batch) -> Forced:
        """Return what the model predicts of a batch when it reads the right targets."""
        import torch
        from torch.nn.functional import cross_entropy

        from effbench.measured.models.training import Diverged

        logits = cast("Seq2Seq", model).predicted(*_inputs(batch)).detach().float()
        at = batch["target_mask"]
        wanted = batch["target"][:, 1:][at]
        right = torch.zeros_like(at)
        right[at] = logits.argmax(dim=1) == wanted
        nats = float(cross_entropy(logits, wanted, reduction="sum"))
        if not math.isfinite(nats):
            raise Diverged(f"the loss of a batch of targets is {nats}; try a lower lr than {self.lr:g}")
        return Forced(
            nats=nats,
            tokens=len(wanted),
            right=int(right.sum()),
            rows=len(at),
            whole=int((right | ~at).all(dim=1).sum()),
        )


def named_priors(by_predictor: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, float]:
    """Return the scores of predictors as priors; the name of a score other than the metric is added."""
    return {
        name if score == metric else f"{name}_{score}": value
        for name, scores in by_predictor.items()
        for score, value in scores.items()
    }


def summed(parts: Iterable[Forced]) -> Forced:
    """Return the sums over batches."""
    nats, *counts = (sum(column) for column in zip(*parts, strict=True))
    return Forced(float(nats), *map(int, counts))


def _inputs(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return batch["tokens"], batch["mask"], batch["target"], batch["target_mask"]

"""The base class of language modelling tasks: texts, byte pairs, packed rows, model and scores."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from effbench.common.extent import Extent
from effbench.common.spec import UsageError
from effbench.measured.data import byte_pairs
from effbench.measured.data.byte_pairs import LARGEST, SMALLEST, BytePairs
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.examples import Integers, Splits
from effbench.measured.data.language_rows import (
    PARTS,
    VERSION,
    Segments,
    bits,
    bytes_of_tokens,
    divided,
    documents_of,
    encoded,
    packed_rows,
)
from effbench.measured.data.ngrams import KneserNey
from effbench.measured.data.source_targets import SPECIAL
from effbench.measured.tasks.base import LastRead, TrainedTask, require
from effbench.measured.tasks.generation import named_priors
from effbench.measured.tasks.unlabelled import NAMES, SEPARATOR, unlabelled

if TYPE_CHECKING:
    from torch import Tensor, nn

    from effbench.measured.tasks.base import Batch, MakeMechanism

_BASELINE_VERSION = 1
_BYTES_PER_TOKEN = 4.0  # of English text at a vocabulary of 8,000, for estimates alone
_MOST_NATS = 700.0  # e to this power is still a number


class LanguageModelling(TrainedTask):
    """Predict tokens of unlabelled texts; the trained weights can start a text classification.

    ``texts`` are the texts without their labels: ``imdb`` (training reviews), ``newsgroups`` (training
    messages), ``sumpubmed`` (training articles), or several of them, as in ``imdb+newsgroups``. Blank texts
    and repeated ones are left out. ``validation`` and ``test`` documents are held out, drawn by the seed;
    ``train`` are the others (0), or so many of them. Tokens are byte pairs, ``vocabulary`` ids at most,
    trained on the training documents. The documents of a part are cut into rows of exactly seq_len tokens,
    one after the other, with an end token after each document; the rest that fills no row is left out.

    ``bits_per_byte`` is the main score: all bits over all bytes of the tokens that are predicted, an end
    token being 0 bytes. Compare it with that of a unigram model and a trigram model (interpolated
    Kneser-Ney) of the same rows. Training keeps the weights with the lowest validation loss.
    """

    metric = "bits_per_byte"
    validation_metric = "inverse_perplexity"
    evaluations: ClassVar[int] = 2
    source: ClassVar[str] = ""

    texts: str = "imdb"
    vocabulary: int = 8_000
    train: int = 0
    validation: int = 500
    test: int = 500
    epochs: int = 5
    patience: int = 10

    _made: BytePairs  # of the last call of ``data``
    _bytes: Integers  # of each token id

    def check_options(self) -> None:
        """Refuse texts, vocabularies and parts that there cannot be."""
        super().check_options()
        names = self.texts.split(SEPARATOR)
        known = set(names) <= NAMES.keys() and len(set(names)) == len(names)
        message = f"texts is {self.texts!r}, not one or several of {', '.join(NAMES)}, joined by {SEPARATOR}"
        require(known, message)
        size = self.vocabulary
        require(SMALLEST <= size <= LARGEST, f"vocabulary must be {SMALLEST} to {LARGEST}, got {size}")
        require(self.train >= 0, f"train must be at least 0 (all), got {self.train}")
        for name in ("validation", "test"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")

    def fingerprint(self, data_dir: Path | None) -> str:
        """Read every text."""
        documents, _, digest = self._documents.anew(data_dir)
        self._parts(documents, 0)
        return digest

    def check_length(self, seq_len: int, data_dir: Path | None) -> None:
        """Refuse a length that a part surely has no row of; a token is at least a byte."""
        documents, _, _ = self._documents.of(data_dir)
        for part, rows in self._parts(documents, 0).items():
            most = sum(len(documents[i].encode()) + 1 for i in rows.tolist())
            if most < seq_len:
                raise UsageError(
                    f"the {part} part of {self.texts} has at most {most} tokens, seq_len is {seq_len}"
                )

    def prepare(self, seq_len: int, seed: int, data_dir: Path | None) -> None:
        """Train the byte pairs, encode the texts and compute the baseline scores."""
        self.data(seq_len, seed, data_dir)

    def extent(self, seq_len: int, seed: int, data_dir: Path | None) -> Extent:
        """Return the rows of each part, estimated from the bytes of its documents."""
        documents, _, _ = self._documents.of(data_dir)
        rows = {
            part: max(1, int(sum(len(documents[i]) for i in chosen.tolist()) / _BYTES_PER_TOKEN / seq_len))
            for part, chosen in self._parts(documents, seed).items()
        }
        return Extent(
            train=rows["train"],
            validation=rows["validation"],
            test=rows["test"],
            tokens=seq_len,
            epochs=self.epochs,
            evaluations=self.evaluations,
            passes=((1, seq_len),),
            predicted=self.predicted_in(seq_len),
            vocabulary=self.vocabulary,
        )

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Return rows of exactly ``seq_len`` tokens; ``seed`` draws the documents of each part."""
        documents, repeated, digest = self._documents.of(data_dir)
        parts = self._parts(documents, seed)
        sizes = [self.train, self.validation, self.test]
        key = {"version": VERSION, "bpe": byte_pairs.VERSION, "digest": digest, "texts": self.texts,
               "sizes": sizes, "seed": seed, "vocabulary": self.vocabulary}  # fmt: skip
        arrays = cached("language", key, lambda: encoded(documents, parts, self.vocabulary))
        self._made = BytePairs(arrays["byte_pairs"].tobytes().decode())
        self._bytes = bytes_of_tokens(self._made)
        rows = {part: packed_rows(arrays[part], seq_len) for part in PARTS}
        for part, cut in rows.items():
            if not len(cut):
                raise UsageError(
                    f"the {part} part of {self.texts} has {len(arrays[part])} tokens, seq_len is {seq_len}"
                )
        segments = {part: self.segments(cut, part, seed) for part, cut in rows.items()}
        predicted = self.predicted(segments["test"])
        return Splits(
            train=segments["train"],  # type: ignore[arg-type]  # parts of our own: see Task
            validation=segments["validation"],  # type: ignore[arg-type]
            test=segments["test"],  # type: ignore[arg-type]
            vocab_size=self._made.size,
            classes=self._made.size,
            priors=self._baselines(rows, predicted, {**key, "seq_len": seq_len}),
            facts={
                "vocabulary": self._made.size,
                "train_tokens": rows["train"].size,
                "train_text_bytes": int(self._bytes[rows["train"]].sum()),
                "test_tokens": int(predicted.sum()),
                "test_text_bytes": int(self._bytes[rows["test"][predicted]].sum()),
                "repeated_texts": repeated,
            },
        )

    @abstractmethod
    def segments(self, rows: Integers, part: str, seed: int) -> Segments:
        """Return the rows [n, N] of a part, with what is masked where that is fixed."""

    @abstractmethod
    def predicted(self, part: Segments) -> NDArray[np.bool_]:
        """Return a mask [n, N] of the tokens of an evaluated part that are predicted."""

    @abstractmethod
    def predicted_in(self, seq_len: int) -> int:
        """Return the predicted tokens of a row."""

    def model(
        self, make_mechanism: MakeMechanism, *, splits: Splits, seq_len: int, d_model: int, layers: int
    ) -> nn.Module:
        """Return an encoder with an output layer that is tied to its token embedding."""
        from effbench.measured.models.tagger import Tagger

        return Tagger(
            make_mechanism,
            vocab_size=splits.vocab_size,
            max_len=seq_len,
            d_model=d_model,
            layers=layers,
            dropout=self.dropout,
            bias=True,
        )

    def full_batch(self, splits: Splits, batch_size: int, seq_len: int) -> Batch:
        """Return arbitrary tokens, as many of them predicted as in every row."""
        import torch

        tokens = torch.arange(batch_size * seq_len).reshape(batch_size, seq_len)
        tokens = tokens % (splits.vocab_size - SPECIAL) + SPECIAL
        chosen = torch.zeros(batch_size, seq_len, dtype=torch.bool)
        chosen[:, : self.predicted_in(seq_len)] = True
        return {"tokens": tokens, "mask": torch.ones_like(chosen), "targets": tokens, "chosen": chosen}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy in nats, the mean over the predicted tokens."""
        from torch.nn.functional import cross_entropy

        at = batch["chosen"]
        return cross_entropy(model(batch["tokens"], None, at), batch["targets"][at])

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, Any]:
        """Return ``bits_per_byte``, ``perplexity`` and ``token_accuracy`` of the predicted tokens."""
        from torch.nn.functional import cross_entropy

        from effbench.measured.models.training import Diverged

        nats, tokens, right, text_bytes = 0.0, 0, 0, 0
        for batch in batches:
            at = batch["chosen"]
            wanted = batch["targets"][at]
            logits: Tensor = model(batch["tokens"], None, at).float()
            nats += float(cross_entropy(logits, wanted, reduction="sum"))
            right += int((logits.argmax(dim=1) == wanted).sum())
            tokens += len(wanted)
            text_bytes += int(self._bytes[wanted.cpu().numpy()].sum())
        mean = nats / tokens
        if not mean < _MOST_NATS:
            raise Diverged(f"the loss of a token is {mean} nats; try a lower lr than {self.lr:g}")
        return {**scores_of(nats, tokens, text_bytes), "token_accuracy": right / tokens}

    def validate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, Any]:
        """Return the scores and ``inverse_perplexity``, which is higher for a better model."""
        scores = self.score(model, batches)
        return {**scores, "inverse_perplexity": 1 / scores["perplexity"]}

    def kept_with_weights(self) -> Mapping[str, str]:
        """Return the byte pairs, which a model that begins with the weights must read with."""
        return {"byte_pairs": self._made.written}

    @cached_property
    def _documents(self) -> LastRead[tuple[list[str], int, str]]:
        return LastRead(self._read)

    def _read(self, data_dir: Path | None) -> tuple[list[str], int, str]:
        texts = unlabelled(self.texts, data_dir)
        documents, repeated = documents_of(texts.read(), str(data_dir or self.texts))
        if unlabelled(self.texts, data_dir).digest != texts.digest:
            raise UsageError(f"{data_dir}: the files changed while they were read; run it again")
        return documents, repeated, texts.digest

    def _parts(self, documents: list[str], seed: int) -> dict[str, Integers]:
        try:
            return divided(len(documents), (self.train, self.validation, self.test), seed)
        except ValueError as error:
            raise UsageError(f"{self.texts}: {error}") from None

    def _baselines(
        self, rows: Mapping[str, Integers], predicted: NDArray[np.bool_], key: Mapping[str, object]
    ) -> dict[str, float]:
        """Return bits per byte and perplexity of the unigram and trigram models of the training rows."""

        def make() -> Arrays:
            model = KneserNey(rows["train"], self._made.size)
            each = {"unigram": model.unigram, "trigram": model.of}
            nats = {name: -np.log(of(rows["test"])[predicted]).sum() for name, of in each.items()}
            return {name: np.array(value) for name, value in nats.items()}

        chosen = hashlib.sha256(np.packbits(predicted).tobytes()).hexdigest()
        made = cached("language-ngrams", {**key, "baseline": _BASELINE_VERSION, "predicted": chosen}, make)
        tokens = int(predicted.sum())
        text_bytes = int(self._bytes[rows["test"][predicted]].sum())
        each = {name: scores_of(float(nats), tokens, text_bytes) for name, nats in made.items()}
        return named_priors(each, self.metric)


def scores_of(nats: float, tokens: int, text_bytes: int) -> dict[str, float]:
    """Return ``bits_per_byte`` and ``perplexity`` of tokens that have so many nats together."""
    return {"bits_per_byte": bits(nats, text_bytes), "perplexity": math.exp(nats / tokens)}

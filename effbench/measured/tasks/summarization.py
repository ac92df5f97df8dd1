"""Summarization: write the summary of an article, scored with ROUGE (the paper's Table 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from effbench.common.extent import Extent
from effbench.common.spec import UsageError
from effbench.measured.data.byte_pairs import LARGEST, SMALLEST, BytePairs
from effbench.measured.data.examples import Integers, Splits
from effbench.measured.data.reading import folder_of
from effbench.measured.data.rouge import mean_rouge, require_rouge, rouge_scores
from effbench.measured.data.summary_baselines import summary_baselines
from effbench.measured.data.summary_files import FORMATS, parts_in
from effbench.measured.data.summary_texts import LEAST, Documents, Summaries, read_summaries
from effbench.measured.tasks.base import LastRead, require
from effbench.measured.tasks.generation import Generation, named_priors, summed

if TYPE_CHECKING:
    from torch import nn

    from effbench.measured.models.beam_search import Search
    from effbench.measured.tasks.base import Batch

# the data set -> the folders inside the data folder that may hold it, and where it comes from
FOLDERS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "cnn-dailymail": (
        ("cnn_dailymail", "cnn-dailymail"),
        "https://huggingface.co/datasets/abisee/cnn_dailymail (3.0.0)",
    ),
    "pubmed": (("pubmed",), "https://huggingface.co/datasets/ccdv/pubmed-summarization (document)"),
    "arxiv": (("arxiv",), "https://huggingface.co/datasets/ccdv/arxiv-summarization (document)"),
    "sumpubmed": (("sumpubmed",), "https://github.com/vgupta123/sumpubmed"),
    "files": ((), "two columns of text"),
}
_FIRST_WORDS = 200


class Summarization(Generation):
    """Write the summary of an article: CNN/DailyMail, PubMed, arXiv, SumPubMed, or files of one's own.

    Reads the files of ``dataset`` from the data folder, or from the folder of its name inside it; with
    ``dataset=files``, of any names: ``article`` and ``summary`` then name the two columns. A text is byte
    pairs, ``vocabulary`` ids at most, trained on the training part. seq_len is the longest article and
    ``max_length`` the longest summary, in tokens: longer ones are cut to their first tokens, and the row says
    how many were. ``train``, ``validation`` and ``test`` rows are drawn by the seed (0: all).

    Scores are the F1 of ROUGE against the whole reference, means over the documents of the test part, of
    summaries of ``min_length`` to ``max_length`` tokens by a beam search. Compare them with the baseline
    scores: the first three sentences, the first words, and a greedy extract that has seen the reference.
    """

    source = "Wu et al. 2021, Fastformer (arXiv 2108.09084), Table 6"
    metric = "rouge1"

    dataset: Literal["cnn-dailymail", "pubmed", "arxiv", "sumpubmed", "files"] = "cnn-dailymail"
    article: str = ""
    summary: str = ""
    vocabulary: int = 8_000
    max_length: int = 256
    min_length: int = 0
    train: int = 0
    validation: int = 0
    test: int = 0
    beams: int = 5
    no_repeat: int = 3
    smoothing: float = 0.1
    epochs: int = 10
    lr: float = 1e-4
    dropout: float = 0.2

    _scored: tuple[Documents, BytePairs]  # the test part's, of the last call of ``data``

    def check_options(self) -> None:
        """Refuse other data, and sizes that no summary can have."""
        super().check_options()
        require(self.dataset in FOLDERS, f"dataset is {self.dataset!r}, not one of {', '.join(FOLDERS)}")
        size = self.vocabulary
        require(SMALLEST <= size <= LARGEST, f"vocabulary must be {SMALLEST} to {LARGEST}, got {size}")
        require(self.max_length >= 1, f"max_length must be at least 1, got {self.max_length}")
        require(
            0 <= self.min_length <= self.max_length,
            f"min_length must be 0 to max_length ({self.max_length}), got {self.min_length}",
        )
        for name, count in self._sizes.items():
            require(count == 0 or count >= LEAST, f"{name} must be 0 (all) or at least {LEAST}, got {count}")

    def fingerprint(self, data_dir: Path | None) -> str:
        """Read every row of the files."""
        summaries, digest = self._files.anew(data_dir)
        self._rows(summaries, 0)
        return f"{digest}-rouge-score-{require_rouge()}"

    def prepare(self, seq_len: int, seed: int, data_dir: Path | None) -> None:
        """Compute the baseline scores."""
        self.data(seq_len, seed, data_dir)

    @property
    def longest(self) -> int:
        """The most tokens of a summary."""
        return self.max_length

    def extent(self, seq_len: int, seed: int, data_dir: Path | None) -> Extent:
        """Return the rows of each part, with the lengths of articles and summaries after the cut."""
        summaries, _ = self._files.of(data_dir)
        rows = self._rows(summaries, seed)
        train, test = (summaries.parts[part] for part in ("train", "test"))
        sources = [
            float(np.minimum(of.source_lengths[rows[part]], seq_len).mean())
            for part, of in (("train", train), ("test", test))
        ]
        targets = float(np.minimum(train.target_lengths[rows["train"]], self.max_length).mean())
        sizes = (len(rows["train"]), len(rows["validation"]), len(rows["test"]))
        return self.pairs_extent(sizes, (sources[0], sources[1]), targets, summaries.vocab_size)

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Return articles and summaries as tokens, cut; the texts of the test part are kept for ``score``."""
        summaries, _ = self._files.of(data_dir)
        rows = self._rows(summaries, seed)
        whole = {part: pairs.take(rows[part]) for part, pairs in summaries.parts.items()}
        parts = {
            part: pairs.take(np.arange(len(pairs)), seq_len, self.max_length) for part, pairs in whole.items()
        }
        documents = summaries.documents["test"].take(rows["test"])
        self._scored = documents, summaries.byte_pairs
        mean = summaries.facts["training_summary_words"]
        counts = {f"first_{count}_words": count for count in (_FIRST_WORDS, mean)}
        baselines = summary_baselines(documents.articles, documents.summaries, documents.digest, counts)
        return Splits(
            train=parts["train"],  # type: ignore[arg-type]  # parts of our own: see Task
            validation=parts["validation"],  # type: ignore[arg-type]
            test=parts["test"],  # type: ignore[arg-type]
            vocab_size=summaries.vocab_size,
            classes=summaries.vocab_size,
            priors=named_priors(
                {
                    name: {metric: float(scores.mean()) for metric, scores in each.items()}
                    for name, each in baselines.items()
                },
                self.metric,
            ),
            facts={
                **summaries.facts,
                **whole["train"].truncated(seq_len, self.max_length),
                "vocabulary": summaries.vocab_size,
                "test_examples": len(documents),
            },
        )

    def score(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, Any]:
        """Return ROUGE with intervals over documents, its series by document, and the loss in nats."""
        documents, byte_pairs = self._scored
        written: dict[int, str] = {}
        forced = []
        for batch in batches:
            for row, tokens in zip(batch["rows"].tolist(), self.generated(model, batch), strict=True):
                written[row] = byte_pairs.decode(tokens)
            forced.append(self.forced(model, batch))
        each = rouge_scores(documents.summaries, [written[row] for row in range(len(documents))])
        words = [len(text.split()) for text in written.values()]
        return {
            **mean_rouge(each),
            **{f"{name}_by_document": tuple(scores.tolist()) for name, scores in each.items()},
            "loss_nats": summed(forced).scores()["loss_nats"],
            "summary_words": round(sum(words) / len(words)),
        }

    @property
    def search(self) -> Search:
        """A beam search within the two lengths."""
        return replace(super().search, min_length=self.min_length)

    @property
    def _sizes(self) -> dict[str, int]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @cached_property
    def _files(self) -> LastRead[tuple[Summaries, str]]:
        return LastRead(self._read)

    def _read(self, data_dir: Path | None) -> tuple[Summaries, str]:
        names, source = FOLDERS[self.dataset]
        folder = folder_of(data_dir, *names)
        if folder is None:
            raise UsageError(
                f"summarization needs articles and summaries: pass --data-dir DIR with {FORMATS} and the "
                f"same of validation and test, such as {source}"
            )
        if names and folder == data_dir and folder.name not in names and not parts_in(folder):
            raise UsageError(
                f"{folder}: there is no folder {' or '.join(names)} in it and no training part: {FORMATS}; "
                "for other data, pass dataset=files"
            )
        return read_summaries(folder, self.vocabulary, self.article, self.summary)

    def _rows(self, summaries: Summaries, seed: int) -> dict[str, Integers]:
        """Return the rows of each part that are taken, in the order of the files."""
        rows: dict[str, Integers] = {part: np.arange(len(pairs)) for part, pairs in summaries.parts.items()}
        for place, (name, count) in enumerate(self._sizes.items()):
            there = len(rows[name])
            if count > there:
                raise UsageError(f"summarization: {name}={count} exceeds the {there} pairs that there are")
            if count:
                rng = np.random.default_rng((seed, place))  # no part depends on the size of another
                rows[name] = np.sort(rng.choice(there, count, replace=False))
        return rows

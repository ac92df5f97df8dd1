"""Measure the speed-up by batches of rows of similar length: interleaved trainings with and without.

    python benchmarks/bucketing.py [mechanism] [pairs]

The rows are random tokens. Their lengths are log-normal with the mean and standard deviation of IMDB's
reviews in words (230 and 170), truncated to 512. A pair is two trainings of one epoch from the same weights,
in random order: one with bucketed batches, one with batches of any rows. The script prints Markdown: the
ratio of real tokens per second of training steps with its 95 % confidence interval over pairs, and the share
of padding with its range over shuffles.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from effbench.common import registry
from effbench.measured.data.examples import Examples, Splits
from effbench.measured.models.history import History
from effbench.measured.models.training import Objective, Recipe, train
from effbench.measured.tasks.base import Classification
from effbench.records.analyse.statistics import paired_ratio

ROWS, LONGEST, VOCABULARY = 640, 512, 4000
MEAN, DEVIATION = 230.0, 170.0
BATCH_SIZE, D_MODEL, HEADS = 16, 64, 4


class Reviews(Classification):
    """Rows of random tokens as long as IMDB's reviews, with random labels."""

    epochs: int = 1
    dropout: float = 0.0
    patience: int = 1

    def fingerprint(self, data_dir: object) -> str:
        """Return "": no file is read."""
        return ""

    def data(self, seq_len: int, seed: int, data_dir: object) -> Splits:
        """Return rows truncated to ``seq_len`` tokens; validation and test are the first four of them."""
        rng = np.random.default_rng(seed)
        variance = np.log1p((DEVIATION / MEAN) ** 2)
        drawn = rng.lognormal(np.log(MEAN) - variance / 2, np.sqrt(variance), size=ROWS)
        lengths = np.clip(drawn.round().astype(int), 10, seq_len)
        starts = np.concatenate(([0], np.cumsum(lengths)))
        tokens = rng.integers(1, VOCABULARY, size=starts[-1])
        rows = Examples(tokens=tokens, starts=starts, labels=rng.integers(2, size=ROWS))
        few = rows.take(np.arange(4))
        return Splits(train=rows, validation=few, test=few, vocab_size=VOCABULARY, classes=2, priors={})


def main() -> None:
    """Measure the pairs and print the report."""
    name = sys.argv[1] if len(sys.argv) > 1 else "fastformer"
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    torch.set_num_threads(1)
    task, rng = Reviews(), np.random.default_rng(0)
    splits = task.data(LONGEST, 0, None)
    training(name, task, splits, seed=0, bucketed=False)  # warm-up
    histories: dict[bool, list[History]] = {True: [], False: []}
    for number in range(pairs):
        for bucketed in rng.permutation([True, False]).tolist():
            histories[bucketed].append(training(name, task, splits, seed=number, bucketed=bucketed))
        print(f"{number + 1} of {pairs}", file=sys.stderr)
    mean = splits.train.lengths.mean()
    print(f"{name}: {ROWS} rows of {mean:.0f} tokens on average, batches of {BATCH_SIZE}, {pairs} pairs\n")
    print("| batches | padding | tokens/s |\n| --- | --- | --- |")
    for bucketed, words in ((True, "bucketed"), (False, "any rows")):
        shares = [history.padding_share for history in histories[bucketed]]
        padding = f"{np.mean(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"
        print(f"| {words} | {padding} | {np.median([h.tokens_per_s for h in histories[bucketed]]):,.0f} |")
    speeds = {how: {i: [h.tokens_per_s] for i, h in enumerate(many)} for how, many in histories.items()}
    ratio, low, high = paired_ratio(speeds[True], speeds[False])
    print(f"\nbucketed over any rows: {ratio:.2f} times the tokens/s (95 % CI: {low:.2f} to {high:.2f})")


def training(name: str, task: Reviews, splits: Splits, *, seed: int, bucketed: bool) -> History:
    """Train for one epoch in effbench's own loop and return its history."""
    mechanism, options = registry.parse(name, "mechanism")
    kind = registry.load(registry.find(mechanism, "mechanism"))
    torch.manual_seed(seed)
    model = task.model(
        lambda: kind(D_MODEL, HEADS, max_len=LONGEST, causal=False, **options),
        splits=splits,
        seq_len=LONGEST,
        d_model=D_MODEL,
        layers=1,
    )
    few = np.arange(len(splits.validation))
    return train(
        model,
        Objective(
            batch=lambda rows: task.batch(splits.train, rows),
            lengths=splits.train.lengths,
            loss=task.loss,
            score=lambda: task.score(model, [task.batch(splits.validation, few)]),
            metric=task.metric,
        ),
        Recipe(epochs=1, bucketed=bucketed),
        batch_size=BATCH_SIZE,
        seed=seed,
        progress=lambda fraction, text: None,
    )


if __name__ == "__main__":
    main()

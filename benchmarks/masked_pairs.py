"""Test which mechanisms predict a masked token from its neighbour, on an artificial language of pairs.

    python benchmarks/masked_pairs.py

A row is 16 pairs of a random token and a fixed function of it, so a masked token follows from the other
one of its pair and from nothing else in the row. Masks are those of ``masked-language``. The script prints
Markdown: the share of masked tokens that each mechanism predicts, two layers of width 64, one seed. Three
minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from baselines.attention.fastformer import Fastformer
from baselines.attention.linear import LinearAttention
from baselines.attention.longformer import Longformer
from baselines.attention.vanilla import Vanilla
from effbench.measured.data.examples import Integers
from effbench.measured.data.language_rows import masked
from effbench.measured.data.source_targets import SPECIAL
from effbench.measured.mechanism import Mechanism
from effbench.measured.models.tagger import Tagger

TOKENS = 40
LENGTH = 32
ROWS = 64  # of a batch
REPORT_AT = (300, 900, 1500)  # steps
MECHANISMS: dict[str, Callable[..., Mechanism]] = {
    "vanilla": Vanilla,
    "longformer:window=8": partial(Longformer, window=8),
    "linear": LinearAttention,
    "fastformer": Fastformer,
}


def pairs(partner: Integers, rng: np.random.Generator) -> Integers:
    """Return ROWS rows of LENGTH tokens: each second token is the partner of the one before."""
    rows = np.empty((ROWS, LENGTH), dtype=np.int64)
    rows[:, 0::2] = rng.integers(SPECIAL, TOKENS, (ROWS, LENGTH // 2))
    rows[:, 1::2] = partner[rows[:, 0::2] - SPECIAL]
    return rows


def accuracies(make: Callable[..., Mechanism]) -> list[float]:
    """Train a language model; return the share of right tokens in the last 50 batches at REPORT_AT."""
    rng = np.random.default_rng(0)
    partner = rng.permutation(np.arange(SPECIAL, TOKENS))
    torch.manual_seed(0)
    model = Tagger(
        partial(make, 64, 4, max_len=LENGTH),
        vocab_size=TOKENS,
        max_len=LENGTH,
        d_model=64,
        layers=2,
        bias=True,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    right: list[float] = []
    for _ in range(REPORT_AT[-1]):
        rows = pairs(partner, rng)
        inputs, chosen = masked(rows, TOKENS, rng)
        at = torch.from_numpy(chosen)
        wanted = torch.from_numpy(rows)[at]
        logits = model(torch.from_numpy(inputs), None, at)
        optimizer.zero_grad()
        cross_entropy(logits, wanted).backward()
        optimizer.step()
        right.append((logits.argmax(dim=1) == wanted).float().mean().item())
    return [float(np.mean(right[step - 50 : step])) for step in REPORT_AT]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"| mechanism | {' | '.join(f'{step:,} steps' for step in REPORT_AT)} |")
    print(f"| --- |{' --- |' * len(REPORT_AT)}")
    for name, make in MECHANISMS.items():
        print(f"| {name} | {' | '.join(f'{100 * share:.0f} %' for share in accuracies(make))} |", flush=True)


if __name__ == "__main__":
    main()

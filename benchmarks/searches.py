"""Measure greedy and beam search with cached states and without: tokens per second of untrained models.

    python benchmarks/searches.py [source] [target]

Each search writes exactly ``target`` tokens (256 by default) for each of 8 sources of ``source`` tokens
(512). The model has one encoder layer and two decoder layers, is 256 wide with 4 heads, and has a vocabulary
of 4,000. The searches of all rows are interleaved, three rounds after one that is not counted; a row shows
medians, and the ratio is the median of the rounds' ratios. One thread. The script prints Markdown.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from typing import Any

import torch

from effbench.common.machine import name
from effbench.common.spec import Cell
from effbench.measured.data.source_targets import BEGIN, END, SPECIAL
from effbench.measured.models.beam_search import Search, beam_search, greedy_search
from effbench.measured.models.seq2seq import Seq2Seq
from effbench.measured.workload import maker

MECHANISMS = ("vanilla", "linear", "fastformer", "linformer:k=64", "retention:causal=true")
SOURCES, VOCAB, WIDTH, HEADS, ROUNDS = 8, 4000, 256, 4, 3


def main(source_len: int, target_len: int) -> None:
    """Print a table with a row for each mechanism and beam."""
    torch.set_num_threads(1)
    models = {spec: built(spec, source_len, target_len) for spec in MECHANISMS}
    source = torch.randint(SPECIAL, VOCAB, (SOURCES, source_len))
    rows = [(spec, beams) for spec in models for beams in (1, 5)]
    times: dict[tuple[str, int, bool], list[float]] = defaultdict(list)
    for round_number in range(ROUNDS + 1):
        for spec, beams in rows:
            for cached in (True, False):
                seconds = search_s(models[spec], source, beams, target_len, cached)
                if round_number:
                    times[spec, beams, cached].append(seconds)
    print(f"{SOURCES} sources of {source_len} tokens, {target_len} tokens written for each; {name()}; "
          f"torch {torch.__version__}\n")  # fmt: skip
    print("| mechanism | decoder's self-attention, cross attention | beam | cached, tokens/s | "
          "without cache, tokens/s | ratio |\n| --- | --- | --- | --- | --- | --- |")  # fmt: skip
    for spec, beams in rows:
        forms = ", ".join(text.partition(":")[0] for text in models[spec].facts.values())
        with_cache, without = (times[spec, beams, cached] for cached in (True, False))
        tokens = SOURCES * target_len
        speeds = [tokens / statistics.median(each) for each in (with_cache, without)]
        ratio = statistics.median(b / a for a, b in zip(with_cache, without, strict=True))
        print(f"| {spec} | {forms} | {beams} | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {ratio:.2f} |")


def built(spec: str, source_len: int, target_len: int) -> Seq2Seq:
    """Return an untrained model around a mechanism, ``name`` or ``name:option=value``."""
    kind, _, option = spec.partition(":")
    key, _, value = option.partition("=")
    options: dict[str, Any] = {key: True if value == "true" else int(value)} if option else {}
    cell = Cell(mechanism=kind, options=options, probe="time", seq_len=source_len, d_model=WIDTH, heads=HEADS)
    make = maker(cell)
    torch.manual_seed(0)
    return Seq2Seq(
        make,
        make_vanilla=make.vanilla,
        label=kind,
        vocab_size=VOCAB,
        max_source=source_len,
        max_target=target_len + 1,
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=2,
    ).eval()


@torch.no_grad()
def search_s(model: Seq2Seq, source: torch.Tensor, beams: int, length: int, cached: bool) -> float:
    """Return the seconds of a search from the state before the first token."""
    search = Search(begin=BEGIN, end=END, max_length=length, min_length=length, beams=beams)
    run: Any = greedy_search if beams == 1 else beam_search
    start, step, reorder = (
        (model.start, model.step, model.reorder)
        if cached
        else (model.start_uncached, model.step_uncached, model.reorder_uncached)
    )
    state = start(source)
    began = time.perf_counter()
    run(state, step, reorder, search, sources=len(source))
    return time.perf_counter() - began


if __name__ == "__main__":
    given = [int(number) for number in sys.argv[1:]]
    main(*(given or (512, 256)))

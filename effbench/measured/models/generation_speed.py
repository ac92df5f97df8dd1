"""The speed of a trained encoder and decoder: the time to encode sources, and tokens generated per second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from effbench.measured.models.beam_search import Search, Step, beam_search, greedy_search
from effbench.measured.models.seq2seq import Generation, Seq2Seq
from effbench.measured.models.stopwatch import median_s
from effbench.measured.state import copied, state_bytes

TOKENS = 64  # generated for each source at most
WIDTHS = (1, 2, 5, 10)  # of the beam


@torch.no_grad()
def generation_speed(model: Seq2Seq, source: Tensor, search: Search) -> dict[str, float | tuple[float, ...]]:
    """Return how fast the model encodes and decodes, and the bytes of its state; source is [S, N].

    ``encode_s``: the seconds from the sources to the state before the first token.
    ``decode_tokens_per_s`` and ``beam_tokens_per_s``: tokens of the returned texts per second, of all sources
    together, by greedy search and with the search's own beam; all texts have the search's longest length, but
    at most 64 tokens, and may repeat themselves. The series ``width_tokens_per_s`` has the same for each
    ``beam_width``. ``state_bytes``: the state of one source after the longest text, without a beam, free
    places included. Each time is the median of a few calls after one that is not timed.
    """
    device = source.device
    longest, length = search.max_length, min(search.max_length, TOKENS)
    search = replace(search, max_length=length, min_length=length, returned=1, no_repeat=0)
    found: dict[str, float | tuple[float, ...]] = {"encode_s": median_s(lambda: model.start(source), device)}
    encoded = model.start(source)
    speeds: dict[int, float] = {}
    for width in sorted({*WIDTHS, search.beams}):
        run = _search(model, replace(search, beams=width), len(source))
        speeds[width] = len(source) * length / median_s(run, device, before=lambda: copied(encoded))
    state = model.start(source[:1])
    for _ in range(longest + 1):  # begin, and every token of the text
        _, state = model.step(source[:1, 0], state)
    return found | {
        "decode_tokens_per_s": speeds[1],
        "beam_tokens_per_s": speeds[search.beams],
        "beam_width": tuple(map(float, speeds)),
        "width_tokens_per_s": tuple(speeds.values()),
        "state_bytes": state_bytes(state),
    }


def _search(model: Seq2Seq, search: Search, sources: int) -> Callable[[Generation], object]:
    """Return the search from a state before the first token."""
    run = greedy_search if search.beams == 1 else beam_search
    step: Step = model.step
    device = next(model.parameters()).device
    return partial(
        run,
        step=step,
        reorder=model.reorder,
        search=search,
        sources=sources,
        device=device,
    )

"""Speeds of generation: what is timed, what is counted, and the table that shows it."""

from __future__ import annotations

import time

import pandas as pd
import pytest
import torch

from effbench.common.spec import Cell
from effbench.measured.models import generation_speed, stopwatch
from effbench.measured.models.beam_search import Search
from effbench.measured.models.seq2seq import Seq2Seq
from effbench.measured.state import state_bytes
from effbench.measured.workload import maker
from effbench.show.generation_table import generation_block

CPU = torch.device("cpu")


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def pass_(self, seconds):
        self.now += seconds


def test_the_first_call_and_what_is_done_before_each_do_not_count(monkeypatch):
    clock = Clock(monkeypatch)
    durations = iter([9.0, 0.2, 0.1, 0.3])
    given = iter("abcd")
    called = []

    def before():
        clock.pass_(100)
        return next(given)

    def call(argument):
        called.append(argument)
        clock.pass_(next(durations))

    assert stopwatch.median_s(call, CPU, before) == pytest.approx(0.2)
    assert called == ["a", "b", "c", "d"]


def test_calls_are_repeated_until_they_took_long_enough(monkeypatch):
    clock = Clock(monkeypatch)
    count = 0

    def call():
        nonlocal count
        count += 1
        clock.pass_(0.01)

    assert stopwatch.median_s(call, CPU) == pytest.approx(0.01)
    assert count - 1 == pytest.approx(30, abs=1)


def model():
    cell = Cell(mechanism="vanilla", options={}, probe="time", seq_len=20, d_model=8, heads=2)
    made = maker(cell)
    torch.manual_seed(0)
    return Seq2Seq(
        made, make_vanilla=made.vanilla, label="vanilla", vocab_size=12, max_source=20, max_target=101,
        d_model=8, encoder_layers=1, decoder_layers=2,
    ).eval()  # fmt: skip


@pytest.mark.parametrize(("longest", "timed"), [(7, 7), (100, 64)])
def test_speeds_are_tokens_over_seconds_and_every_text_is_whole(monkeypatch, longest, timed):
    """With one second a call, the speed is the number of tokens of all sources."""
    searched = []

    def one_second(call, device, before=None):
        result = call() if before is None else call(before())
        if before is not None:
            texts = [h if isinstance(h, list) else [h] for h in result]
            searched.append([len(h[0].tokens) for h in texts])
        return 1.0

    monkeypatch.setattr(generation_speed, "median_s", one_second)
    source = torch.randint(3, 12, (3, 20))
    search = Search(begin=1, end=2, max_length=longest, no_repeat=1, beams=4)
    made = model()
    found = generation_speed.generation_speed(made, source, search)
    assert found["encode_s"] == 1.0
    assert found["beam_width"] == pytest.approx((1, 2, 4, 5, 10))
    assert found["width_tokens_per_s"] == pytest.approx((3 * timed,) * 5)
    assert found["decode_tokens_per_s"] == found["beam_tokens_per_s"] == 3 * timed
    assert searched == [[timed] * 3] * 5
    state = made.start(source[:1])
    for _ in range(longest + 1):  # begin and all tokens are read before the end is known
        _, state = made.step(source[:1, 0], state)
    assert found["state_bytes"] == state_bytes(state)


def rows(**changed):
    row = {
        "mechanism": "linear", "options": "", "seq_len": 512, "encode_s": 0.0125,
        "decode_tokens_per_s": 5400.0, "beam_tokens_per_s": 1700.0, "state_bytes": 8704.0,
        "decoder_self_attention": "linear", "decoder_cross_attention": "linear",
        "source_truncated_share": 0.25, "target_truncated_share": 0.0,
    }  # fmt: skip
    return pd.DataFrame([row, {**row, "mechanism": "longformer", "options": "window=4", **changed}])


def test_the_table_names_vanillas_forms_and_what_was_cut():
    block = generation_block(rows(decoder_cross_attention="vanilla: it has no cross form"))
    assert block is not None
    assert block.rows[0] == ["linear", "512", "12.5 ms", "5.40 k", "1.70 k", "8.50 KiB"]
    assert list(block.notes) == [
        "cut to their first tokens in training, at 512 tokens: 25.0 % of the sources and 0.0 % of the "
        "targets",
        "longformer:window=4: the decoder's cross attention is vanilla's: it has no cross form",
    ]


def test_without_generation_there_is_no_table():
    assert generation_block(rows().assign(decode_tokens_per_s=float("nan"))) is None

"""Probes against known truths: planted costs, a fake clock."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from effbench.probes.flops import count_flops
from effbench.probes.memory import EVENTS, peak_bytes
from effbench.probes.time import MAX_SAMPLES, MIN_SAMPLE_S, MIN_SAMPLES, sample_seconds


class Clock:
    """A clock that moves only when the timed call says so."""

    def __init__(self, costs_s):
        self.now_ns = 0
        self.costs_s = iter(costs_s)
        self.calls = 0

    def call(self):
        self.calls += 1
        self.now_ns += int(next(self.costs_s) * 1e9)

    def read(self):
        return self.now_ns


def forever(value):
    while True:
        yield value


# the shorter the call, the more of them: short ones by example, the rest drawn
@given(st.floats(5e-5, 0.05))
@example(1e-6)
@example(7e-6)
@settings(max_examples=15)
def test_a_steady_call_is_timed_exactly(cost_s):
    clock = Clock(forever(cost_s))
    samples, how = sample_seconds(clock.call, seconds=0.1, clock_ns=clock.read)
    assert samples == pytest.approx([int(cost_s * 1e9) / 1e9] * len(samples), abs=1e-9)
    assert how["warmed_up"] == "yes"
    assert how["calls_per_sample"] * cost_s >= MIN_SAMPLE_S * 0.99
    assert MIN_SAMPLES <= len(samples) <= MAX_SAMPLES


def test_slow_first_calls_are_not_in_the_samples():
    def costs():
        yield from [1.0] + [0.02] * 5
        yield from forever(0.001)

    clock = Clock(costs())
    samples, _ = sample_seconds(clock.call, seconds=0.2, clock_ns=clock.read)
    assert set(samples) == {0.001}


def test_a_call_that_never_settles_is_said_to():
    def costs():
        cost = 0.001
        while True:
            yield cost
            cost *= 1.2

    clock = Clock(costs())
    samples, how = sample_seconds(clock.call, seconds=0.1, clock_ns=clock.read)
    assert how["warmed_up"] == "no"
    assert len(samples) >= 3


def test_a_long_call_is_sampled_three_times():
    clock = Clock(forever(2.0))
    samples, _ = sample_seconds(clock.call, seconds=0.5, clock_ns=clock.read)
    assert samples == (2.0, 2.0, 2.0)


def test_the_collector_is_off_while_timing_and_back_on_after():
    seen = []

    def call():
        seen.append(gc.isenabled())

    sample_seconds(call, seconds=0.01)
    assert not any(seen)
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        sample_seconds(lambda: 1 / 0, seconds=0.01)
    assert gc.isenabled()


@pytest.mark.parametrize("size", [0, 1, 64, 4096, 10_000_000])
def test_peak_is_exact_to_the_byte(size):
    def call():
        first = torch.empty(3 * size, dtype=torch.uint8)
        second = torch.empty(2 * size, dtype=torch.uint8)
        del first
        third = torch.empty(size, dtype=torch.uint8)
        del second
        return third

    assert peak_bytes(call) == (5 * size, EVENTS)


def test_inputs_do_not_count_and_the_output_does():
    x = torch.ones(1000)
    assert peak_bytes(lambda: x * x)[0] == 4000
    assert peak_bytes(lambda: x.view(10, 100))[0] == 0
    assert peak_bytes(lambda: [x * x, x * x])[0] == 8000


def test_explicit_attention_holds_its_scores():
    n, d = 256, 16
    q = torch.randn(1, 1, n, d)
    peak = peak_bytes(lambda: (q @ q.mT).softmax(-1) @ q)[0]
    assert peak == 2 * n * n * 4  # scores and their softmax; the scores go before the output comes


def truths():
    a, b, v = torch.randn(3, 5), torch.randn(5, 7), torch.randn(5)
    x, y = torch.randn(2, 3, 5), torch.randn(2, 5, 7)
    q = torch.randn(2, 4, 9, 8)
    k = torch.randn(2, 4, 11, 8)
    mask = torch.ones(9, 11, dtype=torch.bool)
    return {
        "mm": (lambda: a @ b, 2 * 3 * 5 * 7),
        "mv": (lambda: a @ v, 2 * 3 * 5),
        "dot": (lambda: v @ v, 2 * 5),
        "addmv": (lambda: torch.addmv(a[:, 0], a, v), 2 * 3 * 5),
        "bmm": (lambda: x @ y, 2 * 2 * 3 * 5 * 7),
        "addbmm": (lambda: torch.addbmm(torch.zeros(3, 7), x, y), 2 * 2 * 3 * 5 * 7),
        "addr": (lambda: torch.addr(torch.zeros(3, 5), a[:, 0], v), 2 * 3 * 5),
        "einsum": (lambda: torch.einsum("bnk,bkm->bnm", x, y), 2 * 2 * 3 * 5 * 7),
        "linear": (lambda: F.linear(x, b.mT), 2 * 6 * 5 * 7),
        "attention": (lambda: F.scaled_dot_product_attention(q, k, k), 4 * 2 * 4 * 9 * 11 * 8),
        "masked": (lambda: F.scaled_dot_product_attention(q, k, k, attn_mask=mask), 4 * 2 * 4 * 9 * 11 * 8),
        "element-wise": (lambda: a * a + a, 0),
    }


@pytest.mark.parametrize("name", truths())
def test_flops_are_exact(name):
    call, expected = truths()[name]
    assert count_flops(call) == expected


def test_backward_of_attention_counts_its_five_products():
    q = torch.randn(2, 4, 9, 8, requires_grad=True)
    forward = count_flops(lambda: F.scaled_dot_product_attention(q, q, q))
    both = count_flops(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward())
    assert both == forward + forward * 5 // 2


def test_the_fast_path_of_multihead_attention_is_not_free():
    layer = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        fast = count_flops(lambda: layer(x, x, x, need_weights=False))
    assert fast == 2 * 2 * 5 * 16 * (4 * 16) + 4 * 2 * 5 * 5 * 16

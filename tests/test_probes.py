"""Probes against known truths: planted costs, a fake clock."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from effbench.common import machine
from effbench.common.spec import MIN_SAMPLES, Cell, Job, Limits
from effbench.measured.probes.context import Context
from effbench.measured.probes.control import Control
from effbench.measured.probes.costs import describe, flops
from effbench.measured.probes.effects import Watch
from effbench.measured.probes.flops import count_flops, count_work
from effbench.measured.probes.memory import EVENTS, peak_bytes
from effbench.measured.probes.time import MAX_SAMPLES, MIN_SAMPLE_S, sample_seconds
from effbench.measured.workload import build


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


def test_a_process_that_this_one_started_is_no_other_load():
    """While it runs and when it has ended: it may be a compiler."""
    busy = "import time\nwhile time.process_time() < 0.5: pass\n"
    before = machine.Moment.now()
    with subprocess.Popen([sys.executable, "-c", f"{busy}input()"], stdin=subprocess.PIPE) as child:
        deadline = time.monotonic() + 60
        while machine.Moment.now().own_s - before.own_s < 0.5:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.communicate(b"\n")
    assert machine.Moment.now().own_s - before.own_s >= 0.5


def test_an_encoder_declares_what_its_mechanism_declares_with_its_options():
    orders = []
    for scope in ("attention", "encoder"):
        cell = Cell(
            mechanism="vanilla", options={"implementation": "dense"}, probe="memory", seq_len=64,
            d_model=16, heads=2, scope=scope, layers=2,
        )  # fmt: skip
        values = describe(build(cell), cell)
        orders.append((values["declared_memory_order"], values["implementation"]))
    assert orders == [("N^2", "dense")] * 2


def test_useful_flops_of_a_training_are_no_more_than_the_declared_ones():
    cell = Cell(mechanism="performer", probe="flops", mode="train", seq_len=256, d_model=16, heads=2)
    job = Job(cell=cell, limits=Limits(timeout_s=60, memory_bytes=2**30))
    _, values = flops(Context(job, print, Watch()))
    useful, declared = (int(values[name] or 0) for name in ("flops_useful", "flops_analytic"))
    assert 0 < useful <= declared == values["flops"]


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
    wide, index = torch.randn(30, 8), torch.arange(5)
    rows, experts = torch.randn(16, 16).bfloat16(), torch.randn(2, 16, 16).bfloat16()
    ends = torch.tensor([4, 8], dtype=torch.int32)
    z = torch.randn(4, 4, dtype=torch.cfloat)
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
        "in place": (lambda: torch.zeros(2, 3, 7).baddbmm_(x, y), 2 * 2 * 3 * 5 * 7),
        "into out": (lambda: torch.mm(a, b, out=torch.empty(3, 7)), 2 * 3 * 5 * 7),
        "with activation": (lambda: torch._addmm_activation(b[0], a, b), 2 * 3 * 5 * 7),
        "several": (lambda: torch.linalg.multi_dot([a, b, b.mT]), 2 * 2 * 3 * 5 * 7),
        "power": (lambda: torch.linalg.matrix_power(torch.eye(4), 4), 2 * 2 * 4**3),
        "bilinear": (lambda: F.bilinear(a, a, torch.randn(7, 5, 5)), 7 * (2 * 3 * 5 * 5 + 2 * 3 * 5)),
        "distances, as a product": (lambda: torch.cdist(wide, wide), 2 * 30 * 30 * (8 + 2)),
        "distances": (lambda: torch.cdist(wide, wide, p=1.0), 3 * 30 * 30 * 8),
        "convolution": (lambda: F.conv1d(x, torch.randn(6, 1, 2), groups=3), 2 * 2 * 4 * 6 * 2),
        "transposed": (lambda: F.conv_transpose1d(x, torch.randn(3, 2, 2), groups=3), 2 * 2 * 5 * 3 * 2 * 2),
        "weighted bag": (
            lambda: F.embedding_bag(index, b, index[:2], mode="sum", per_sample_weights=torch.ones(5)),
            2 * 5 * 7,
        ),
        "bag": (lambda: F.embedding_bag(index, b, index[:2], mode="sum"), 0),
        "grouped": (lambda: torch._grouped_mm(rows, experts, offs=ends), 2 * 8 * 16 * 16),
        "complex": (lambda: torch.mm(z, z), 8 * 4**3),
        "complex dot": (lambda: torch.dot(z[0], z[0]), 8 * 4),
        "complex einsum": (lambda: torch.einsum("ij,kj->ik", z, z.conj()), 8 * 4**3),
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


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_a_fused_encoder_layer_counts_as_its_parts(first, masked):
    layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True, norm_first=first).eval()
    x, mask = torch.randn(2, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2]) if masked else None
    with torch.no_grad():
        fused = count_work(lambda: layer(x, src_key_padding_mask=mask))
    parts = count_work(lambda: layer(x, src_key_padding_mask=mask))
    assert fused.flops == parts.flops == 2 * 2 * 5 * 16 * (4 * 16 + 2 * 24) + 4 * 2 * 5 * 5 * 16
    assert not fused.uncounted
    assert not parts.uncounted


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_count_as_their_steps(kind):
    layer = kind(6, 4, num_layers=2, bidirectional=True)
    x = torch.randn(3, 2, 6, requires_grad=True)
    products = 2 * 3 * 2 * sum(w.numel() for name, w in layer.named_parameters() if name.startswith("weight"))

    def trained():
        layer(x)[0].sum().backward()

    with torch.no_grad():
        forward = count_work(lambda: layer(x))
    assert forward.flops == products
    both = count_work(trained)
    # step by step, no gradient of the state that a layer starts from is computed; the fused kernel makes it
    assert both.flops == 3 * products if kind is nn.LSTM else 2.8 * products < both.flops < 3 * products
    assert not both.uncounted


def test_train_is_forward_and_both_gradients_whatever_the_product():
    x, weight = torch.randn(2, 6, 8, requires_grad=True), torch.randn(6, 3, 3, requires_grad=True)
    calls: list[Callable[[], torch.Tensor]] = [
        lambda: F.conv1d(x, weight[:, :, :1].expand(-1, 3, -1), groups=2),
        lambda: F.conv_transpose1d(x, weight, groups=2),
        lambda: x @ weight[:1, :1].expand(2, 8, 3),
        lambda: torch.nn.functional.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.5),
    ]

    def trained(call):
        call().sum().backward()

    for call in calls:
        forward = count_flops(call)
        assert forward > 0
        assert count_flops(partial(trained, call)) == 3 * forward


def test_autocast_changes_no_count():
    layer, x = nn.Linear(8, 4), torch.randn(2, 8)

    def low():
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x)

    assert count_flops(low) == count_flops(lambda: layer(x)) == 2 * 2 * 8 * 4


def test_complex_numbers_count_in_real_operations():
    z = torch.randn(10, dtype=torch.cfloat)
    for call, each in (
        (lambda: z + z, 2),
        (lambda: z * z, 6),
        (lambda: z / z, 11),
        (lambda: z.abs(), 4),
        (lambda: z.sum(), 2),
        (lambda: z.exp(), 6),
        (lambda: z.real + z.imag, 1),
    ):
        assert count_work(call).other == each * 10


def test_lists_of_tensors_count_as_one_tensor_after_the_other():
    several = [torch.randn(3), torch.randn(4)]
    assert count_work(lambda: torch._foreach_mul(several, 2.0)).other == 7
    assert count_work(lambda: torch._foreach_mul_(several, 2.0)).other == 7
    assert count_work(lambda: torch._foreach_pow(2.0, several)).other == 7
    assert count_work(lambda: torch._foreach_zero_(several)).other == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize:UserWarning")
def test_quantised_layers_count_their_products():
    layer = torch.ao.nn.quantized.dynamic.Linear(8, 4)
    work = count_work(lambda: layer(torch.randn(3, 8)))
    assert (work.flops, dict(work.uncounted)) == (2 * 3 * 8 * 4, {})


def test_layers_of_torch_need_no_warning():
    x, image = torch.randn(2, 16, 32), torch.randn(2, 4, 8, 8)
    alone = "ReLU GELU SiLU ELU SELU Mish Tanh Sigmoid Softplus Softsign Hardswish LeakyReLU LogSigmoid PReLU"
    layers = [
        *[(getattr(nn, name)(), x) for name in alone.split()],
        *[(nn.Linear(32, 8), x), (nn.Dropout(0.1), x), (nn.AlphaDropout(0.1), x), (nn.GLU(), x)],
        *[(nn.LayerNorm(32), x), (nn.RMSNorm(32), x), (nn.GroupNorm(4, 16), x), (nn.BatchNorm1d(16), x)],
        *[(nn.InstanceNorm1d(16), x), (nn.Softmax(-1), x), (nn.LogSoftmax(-1), x), (nn.LSTM(32, 8), x)],
        *[(nn.GRU(32, 8), x), (nn.Conv1d(16, 8, 3, groups=4), x), (nn.ConvTranspose1d(16, 8, 3), x)],
        *[(nn.AvgPool1d(4), x), (nn.MaxPool1d(4), x), (nn.AdaptiveAvgPool1d(4), x)],
        *[(nn.AdaptiveMaxPool1d(4), x), (nn.CircularPad1d(2), x), (nn.ReflectionPad1d(2), x)],
        *[(nn.Upsample(scale_factor=2), x), (nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), x)],
        *[(nn.Conv2d(4, 4, 3), image), (nn.BatchNorm2d(4), image), (nn.AvgPool2d(2), image)],
        *[(nn.MaxPool2d(2), image), (nn.PixelShuffle(2), image), (nn.Unfold(2), image)],
    ]
    for layer, source in layers:
        for training in (False, True):
            layer.train(training)

            def call(layer=layer, source=source, training=training):
                with torch.inference_mode(not training):
                    out = layer(source.clone().requires_grad_(training))
                    out = out[0] if isinstance(out, tuple) else out
                    if training:
                        out.sum().backward()

            assert not count_work(call).uncounted, layer


def test_the_control_is_read_beside_every_sample_for_a_share_of_its_time():
    control = Control()
    samples, _ = sample_seconds(lambda: None, seconds=0.01, control=control)
    assert len(control.times_s) == len(samples) + 1
    beside = control.beside_samples()
    assert len(beside) == len(samples)
    assert beside[0] == pytest.approx((control.times_s[0] + control.times_s[1]) / 2)
    ticks = iter(range(0, 10**9, 1_000_000))  # every reading of this clock is 1 ms later
    slow = Control(clock_ns=lambda: next(ticks))
    slow.warm_up(0.2)
    slow.read()
    # of 20 operations beside samples of 0.2 s, 13 get the data into the caches and 7 are timed
    assert slow.times_s == [pytest.approx(1e-3 / 7)]
    with torch.inference_mode():
        state = torch.get_rng_state()
        Control()
        assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left alone"

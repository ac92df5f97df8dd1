"""Mode decode: one step after a context, with its state and its prefill, from the cell to the plots."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import planted_pattern_bugs
import pytest
import torch
from frames import cost_records
from frames import raw as raw_of
from stepping import stepped
from test_execute import executor, run  # noqa: F401  (executor is a fixture)
from test_mechanisms import HEADS, WIDTH
from torch import nn

from baselines.attention.fastformer import Fastformer
from baselines.attention.linear import LinearAttention
from baselines.attention.mamba2 import Mamba2
from baselines.attention.performer import Performer
from baselines.attention.vanilla import Vanilla
from effbench.common.growth import Growth
from effbench.measured.decoding import Decoding
from effbench.measured.models.encoder import Encoder
from effbench.records.analyse.complexity import exponents
from effbench.records.analyse.summary import summarise
from effbench.show.look import NothingToDraw
from effbench.show.overview import overview
from effbench.show.plots import KINDS, draw

PLANTED = Path(planted_pattern_bugs.__file__)


def test_a_step_has_its_time_its_state_and_its_prefill(executor):  # noqa: F811
    record = run(executor, "vanilla", mode="decode", seq_len=200, batch_size=3)
    assert record.status == "ok", record.reason
    assert record.values["state_bytes"] >= 3 * 2 * 200 * record.cell.d_model * 4
    assert record.values["prefill_s"] > min(record.samples["time_s"])
    assert record.values["declared_order"] == "N"
    (row,) = summarise(raw_of([record])).itertuples()
    assert row.tokens_per_s == pytest.approx(3 / row.time_s)
    assert row.state_bytes == record.values["state_bytes"]


def test_the_flops_of_a_step_are_those_of_one_token(executor):  # noqa: F811
    at = {n: run(executor, "vanilla", mode="decode", probe="flops", seq_len=n) for n in (100, 300)}
    width = at[100].cell.d_model
    for n, record in at.items():
        assert record.values["flops"] == 2 * 4 * width**2 + 4 * (n + 1) * width
        assert record.values["flops_analytic"] is None
    memory = run(executor, "linear", mode="decode", probe="memory", seq_len=100)
    assert memory.values["state_bytes"] == 4 * width * (width // memory.cell.heads + 1)
    assert "prefill_s" not in memory.values


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("fnet", "unsupported", "it has no causal form: every frequency"),
        (f"{PLANTED}:Sums", "ok", ""),
        (f"{PLANTED}:LosesTheContext", "incorrect", "prefill and steps differ from the causal forward pass"),
        (f"{PLANTED}:CountsPadding", "incorrect", "prefill and steps differ from the causal forward pass"),
    ],
)
def test_a_step_is_checked_before_it_is_timed(executor, name, status, says):  # noqa: F811
    record = run(executor, name, mode="decode", seq_len=64)
    assert record.status == status, record.reason
    assert record.reason.startswith(says)


def test_what_has_no_steps_says_so(executor, plugin):  # noqa: F811
    record = run(executor, plugin("Plain"), mode="decode", seq_len=64)
    assert (record.status, record.reason) == (
        "unsupported",
        "it has no step form: it defines no prefill and step",
    )
    noncausal = run(executor, "linear", mode="decode", options={"causal": False})
    assert noncausal.status == "unsupported"
    assert noncausal.reason == "only its causal form has a step form, ask for causal=true"
    compiled = run(executor, "linear", mode="decode", compile="default")
    assert compiled.status == "unsupported"
    assert "a step of a generation is not compiled" in compiled.reason


def test_every_call_follows_the_same_context():
    torch.manual_seed(0)
    module = Vanilla(WIDTH, HEADS, max_len=200, causal=True)
    call = Decoding(module, torch.randn(2, 100, WIDTH))
    outs = [call() for _ in range(150)]  # more than the cache has free places
    assert call.state.used == 100
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_a_state_that_a_step_overwrites_keeps_its_size_and_stays_finite():
    torch.manual_seed(0)
    for kind in (LinearAttention, Performer, Mamba2):
        call = Decoding(kind(WIDTH, HEADS, max_len=200, causal=True), torch.randn(2, 100, WIDTH))
        before = call.state_bytes
        outs = [call() for _ in range(500)]
        assert call.state_bytes == before
        assert outs[-1].isfinite().all()


class RefusesInference(nn.Module):
    def step(self, x, state):
        if torch.is_inference_mode_enabled():
            raise RuntimeError("Inference tensors cannot be saved for backward")
        return super().step(x, state)  # type: ignore[misc]


@pytest.mark.parametrize("kind", [Vanilla, LinearAttention])
def test_a_module_that_refuses_inference_mode_is_called_without_gradients(kind):
    notes: list[str] = []
    module = type("Refuses", (RefusesInference, kind), {})(WIDTH, HEADS, max_len=20, causal=True)
    call = Decoding(module, torch.randn(1, 10, WIDTH), notes.append)
    assert not call().requires_grad
    call()
    assert len(notes) == 1


@pytest.mark.parametrize("kind", [Vanilla, Fastformer])
def test_an_encoder_generates_as_it_encodes(kind):
    torch.manual_seed(0)
    make = lambda: kind(WIDTH, HEADS, max_len=40, causal=True).double()  # noqa: E731
    encoder = Encoder(make, d_model=WIDTH, layers=2).double().eval()
    x = torch.randn(3, 30, WIDTH, dtype=torch.float64)
    mask = torch.ones(3, 30, dtype=torch.bool)
    mask[1, 5:20] = False
    with torch.no_grad():
        out, _ = stepped(encoder, x, mask, 20)
        torch.testing.assert_close(out[mask], encoder(x, mask)[mask], rtol=1e-10, atol=1e-10)


def test_the_time_of_a_recurrent_step_must_be_flat():
    records = cost_records(("mine", "cache"), (128, 256, 512, 1024), modes=("decode",), repeats=4)
    frame = raw_of(records)
    frame = frame[frame["probe"] == "time"].reset_index(drop=True)
    frame["declared_order"] = frame["mechanism"].map({"mine": "1", "cache": "N"})
    frame["samples_time_s"] = [[1e-4 * n / 128] * 9 for n in frame["seq_len"]]
    frame["time_s"] = [samples[0] for samples in frame["samples_time_s"]]
    verdicts = exponents(frame, "time_s").set_index("mechanism")["verdict"]
    assert verdicts.to_dict() == {"mine": "grows faster", "cache": "agrees"}
    assert Growth.parse("1").exponent((128, 256)) == 0.0


def test_a_generation_has_tables_and_plots():
    records = cost_records(("linear", "vanilla"), (128, 256, 512), modes=("decode",))
    frame = raw_of(records)
    frame["state_bytes"] = frame["seq_len"] * 64
    frame["prefill_s"] = frame["seq_len"] * 1e-5
    summary = summarise(frame)
    titles = [block.title for block in overview(summary)]
    assert any("time to read the N tokens before" in str(title) for title in titles)
    for kind in ("decode", "prefill"):
        ((name, figure),) = draw(summary, frame, kind)
        assert name == kind
        assert len(figure.axes) == (2 if kind == "decode" else 1)
    with pytest.raises(NothingToDraw):
        draw(summary, frame, "time")


@pytest.mark.parametrize("kind", KINDS)
def test_every_plot_takes_a_generation_of_as_many_tokens_at_two_lengths(kind):
    records = cost_records(("fastformer", "linear"), (256, 4096), modes=("decode",), d_model=256)
    records = [replace(r, cell=replace(r.cell, batch_size=4096 // r.cell.seq_len)) for r in records]
    frame = raw_of(records)
    with suppress(NothingToDraw):
        assert draw(summarise(frame), frame, kind)


def test_forward_rows_are_no_generation():
    frame = raw_of(cost_records(("linear", "vanilla"), (128, 256, 512)))
    for kind in ("decode", "prefill"):
        with pytest.raises(NothingToDraw):
            draw(summarise(frame), frame, kind)


def test_a_plain_module_with_steps_is_welcome():
    class Own(nn.Module):
        def forward(self, x, mask=None):
            return x

        def prefill(self, x, mask=None):
            return x, None

        def step(self, x, state):
            return x, state

    call = Decoding(Own(), torch.randn(2, 5, 4))
    assert call().shape == (2, 4)
    assert call.state_bytes == 0

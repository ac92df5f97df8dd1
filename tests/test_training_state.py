"""The state that a trained model keeps to go on: its record, its column in a table, its plot."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import planted_pattern_bugs
import pytest
from frames import raw
from test_execute import executor, job  # noqa: F401  (executor is a fixture)
from test_training_plots import FRAMES, PRIORS, by_gid, drawn, named, of, states, trainings

from baselines.attention.linear import LinearAttention
from effbench import Mechanism
from effbench.common.spec import Cell
from effbench.measured.decoding import Decoding
from effbench.measured.probes.accuracy import measure_accuracy
from effbench.measured.tasks.mqar import MQAR
from effbench.measured.workload import build, maker
from effbench.records.analyse.statistics import mean_interval
from effbench.records.analyse.summary import summarise
from effbench.show import plots
from effbench.show.look import NothingToDraw
from effbench.show.overview import overview

OPTIONS: dict[str, Any] = {"pairs": 2, "vocab": 32, "train": 64, "validation": 8, "test": 8, "epochs": 1}
SHAPE: dict[str, Any] = {"seq_len": 32, "d_model": 16, "heads": 2, "layers": 2, "scope": "encoder"}
CAUSAL = {"causal": True}


def values_of(cell, make=None):
    _, values = measure_accuracy(
        MQAR(**OPTIONS),
        make_mechanism=make or maker(cell),
        cell=cell,
        data_dir=None,
        progress=lambda *_: None,
    )
    return values


def record_of(executor, mechanism, **changes):  # noqa: F811
    asked = job(
        mechanism, probe="accuracy", mode="train", task="mqar", task_options=OPTIONS, **SHAPE, **changes
    )
    return executor.run(replace(asked, data=""), lambda fraction, text: None)  # its data is generated


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mechanism", ["vanilla", "linear", "gla"])
def test_a_training_has_the_state_that_decode_has_of_one_row(mechanism, dtype):
    common = {**SHAPE, "mechanism": mechanism, "options": CAUSAL, "dtype": dtype}
    trained = values_of(Cell(probe="accuracy", mode="train", task="mqar", batch_size=32, **common))
    step = build(Cell(probe="memory", mode="decode", batch_size=1, **common))
    assert trained["state_bytes"] == Decoding(step.module, step.x).state_bytes > 0


class WithoutSteps(LinearAttention):
    prefill = Mechanism.prefill
    step = Mechanism.step


def test_what_has_no_step_form_has_no_state():
    shape = {"probe": "accuracy", "task": "mqar", "batch_size": 32, **SHAPE}
    assert "state_bytes" not in values_of(Cell(mechanism="linear", **shape))
    make = partial(WithoutSteps, SHAPE["d_model"], SHAPE["heads"], max_len=SHAPE["seq_len"], causal=True)
    assert "state_bytes" not in values_of(Cell(mechanism="-", options=CAUSAL, **shape), make)


def test_a_plain_module_without_steps_is_trained_without_a_state(executor, plugin):  # noqa: F811
    record = record_of(executor, plugin("Plain"), options=CAUSAL)
    assert record.status == "ok", record.reason
    assert "state_bytes" not in record.values


def test_a_wrong_state_is_no_result(executor):  # noqa: F811
    wrong = f"{Path(planted_pattern_bugs.__file__)}:LosesTheContext"
    record = record_of(executor, wrong, options=CAUSAL)
    assert record.status == "incorrect", record.reason
    assert record.reason.startswith("prefill and steps differ from the causal forward pass")
    noncausal = record_of(executor, wrong)
    assert noncausal.status == "ok", noncausal.reason
    assert "state_bytes" not in noncausal.values


def test_the_table_of_a_training_has_the_state_where_there_is_one():
    (block,) = [b for b in overview(summarise(raw(states((64,))))) if b.head]
    assert block.head[-1] == "state"
    written = {row[0]: row[-1] for row in block.rows}
    assert written == {"vanilla": "128 KiB", "linear": "32.0 KiB", "fastformer": "1.00 KiB", "fnet": ""}
    (block,) = [b for b in overview(summarise(raw(trainings()))) if b.head]
    assert "state" not in block.head


def test_a_point_stands_at_its_state_and_its_mean_with_a_bar_over_seeds():
    (figure,) = drawn("states", "state")
    for mechanism in ("vanilla", "linear", "fastformer"):
        points, bars = by_gid(figure, f"point-{mechanism}"), by_gid(figure, f"bar-{mechanism}")
        widths = sorted(of("states", mechanism)["d_model"].unique())
        for width, point, bar in zip(widths, points, bars, strict=True):
            mine = of("states", mechanism, d_model=width)
            mean, low, high = mean_interval(list(mine["accuracy"]))
            assert point.get_xdata() == [mine["state_bytes"].iloc[0]]
            assert point.get_ydata() == pytest.approx([mean])
            assert bar.get_segments()[0][:, 1] == pytest.approx([max(0, low), min(1, high)])
        (line,) = by_gid(figure, f"line-{mechanism}")
        assert list(line.get_xdata()) == [point.get_xdata()[0] for point in points]
        assert np.all(np.diff([point.get_markersize() for point in points]) > 0)
    lines = [line for line in figure.axes[0].lines if str(line.get_gid()).startswith("line-")]
    assert len({line.get_color() for line in lines}) == len(lines) == 3


def test_what_has_no_point_is_named_with_the_reason():
    (figure,) = drawn("states", "state")
    assert not by_gid(figure, "point-fnet")
    caption = " ".join(figure.get_suptitle().split())
    assert "not drawn: fnet (no state recorded), linear at d_model 256 (oom)" in caption
    assert "markers grow with d_model: 32, 64, 128, 256" in caption
    near = {name.removeprefix("prior_").replace("_", " ") for name in PRIORS if PRIORS[name] > 0.8}
    assert all(by_gid(figure, f"baseline-{name}") for name in near)


def test_lengths_and_batches_that_would_mix_have_figures_of_their_own():
    frame = raw(states((64,), length=64), states((64,), length=128))
    assert [name for name, _ in plots.draw(frame, frame, "state")] == ["state-1", "state-2"]
    two = raw(states((64,)), states((64,), batch_size=64))
    assert len(plots.draw(two, two, "state")) == 2
    assert list(named("states", "state")) == ["state"]
    assert "state" in {name for name, _ in plots.draw_all(summarise(FRAMES["states"]), FRAMES["states"])}


def test_an_empty_state_has_no_place_on_the_axis():
    frame = raw(states((64,)))
    frame.loc[frame["mechanism"] == "linear", "state_bytes"] = 0
    ((_, figure),) = plots.draw(frame, frame, "state")
    assert "linear (no state recorded)" in " ".join(figure.get_suptitle().split())
    frame["state_bytes"] = 0
    with pytest.raises(NothingToDraw, match="nothing to draw for state"):
        plots.draw(frame, frame, "state")

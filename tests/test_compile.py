"""Compiled forms: checked against the plain form, compile time apart, breaks named, ratios in tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import PLUGINS
from frames import cost_records
from test_execute import executor, job, run  # noqa: F401  (executor is a fixture)
from torch import nn

from baselines.attention.bigbird import BigBird
from baselines.attention.fastformer import Fastformer
from baselines.attention.longformer import Longformer
from effbench.common.spec import Record
from effbench.measured.compiled import compiled
from effbench.measured.probes import energy
from effbench.measured.probes.context import Context
from effbench.measured.probes.effects import Watch
from effbench.measured.workload import Workload
from effbench.records.analyse.summary import summarise
from effbench.records.frame import raw_frame
from effbench.show.compile_table import compile_block
from effbench.show.overview import overview
from effbench.sweep.local import LocalExecutor
from effbench.sweep.planning import too_wide
from effbench.sweep.sweep import Sweep

CURVED = f"{PLUGINS}:Curved"  # one or two kernels: the C++ compiler takes a second for each


@pytest.mark.slow
def test_a_compiled_cell_has_its_compile_time_apart_and_later_repeats_find_the_code(executor):  # noqa: F811
    first, second = (run(executor, CURVED, compile="default", repeat=repeat) for repeat in (0, 1))
    assert (first.status, second.status) == ("ok", "ok")
    for record in (first, second):
        assert record.values["graph_breaks"] == record.values["recompiles"] == 0
        assert record.values["compile_s"] > 20 * max(record.samples["time_s"])
        assert "side_effects" not in record.values
    plain = run(executor, CURVED, probe="flops")
    flops = run(executor, CURVED, probe="flops", compile="default")
    assert flops.values["flops"] == plain.values["flops"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("BreaksGraph", "ok", ""),
        ("OtherWhenCompiled", "incorrect", "the output of the compiled form differs from that of the plain"),
    ],
)
def test_what_the_compiler_did_is_said(executor, plugin, name, status, says):  # noqa: F811
    record = run(executor, plugin(name), compile="default")
    assert (record.status, says in record.reason) == (status, True), record.reason
    if name == "BreaksGraph":
        assert record.values["graph_breaks"] == 1
        assert "graph_break" in record.values["graph_break_reasons"]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own
@pytest.mark.parametrize(
    "make",
    [
        lambda: BigBird(32, 2, max_len=90, block=8, implementation="blocked"),
        lambda: BigBird(32, 2, max_len=90, block=8, implementation="dense"),
        lambda: Fastformer(32, 2, max_len=90, causal=True),
        lambda: Longformer(32, 2, max_len=90, window=9),
    ],
    ids=["bigbird blocked", "bigbird dense", "fastformer causal", "longformer"],
)
def test_random_plans_windows_and_sums_of_chunks_break_no_graph_and_stay_the_same(make):
    torch.manual_seed(0)
    module = make()
    whole = torch.compile(module, backend="eager", fullgraph=True, dynamic=False)
    mask = torch.arange(90) % 7 != 3
    for n, given in ((90, None), (61, None), (90, mask.expand(2, -1)), (16, None)):
        plain = torch.randn(2, n, 32)
        compiled = plain.clone()
        outs = []
        for function, x in ((module, plain), (whole, compiled)):
            out = function(x.requires_grad_(), given)
            out.square().sum().backward()
            outs.append(out)
        assert torch.equal(*outs)
        assert plain.grad is not None
        assert compiled.grad is not None
        assert torch.equal(plain.grad, compiled.grad)
        assert plain.grad.abs().max() > 0


def test_the_energy_of_a_compiled_cell_is_that_of_the_compiled_form(monkeypatch):
    called: list[str] = []
    asked = Workload(nn.Identity(), torch.ones(1, 2, 3), mode="forward", causal=False, compiled=nn.Tanh())
    monkeypatch.setattr(energy, "as_asked", lambda context: (asked, lambda: {"compile_s": 2.0}))
    monkeypatch.setattr(energy, "cpu_counter", lambda: energy.Counter(lambda: float(len(called)), "test"))
    monkeypatch.setattr(Workload, "call", lambda self, note: lambda: called.append(str(self.timed)))
    monkeypatch.setattr(energy, "_LEAST_S", 0.0)
    _, values = energy.energy(Context(job("linear", compile="default"), print, Watch()))
    assert set(called) == {"Tanh()"}
    assert (values["compile_s"], values["energy_j"]) == (2.0, 1.0)


@pytest.mark.parametrize(("dropout", "said"), [(0.0, 0), (0.1, 1)])
def test_random_trainings_are_not_compared_with_their_plain_form(monkeypatch, dropout, said):
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)

    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(8, 8), nn.Dropout(dropout))

        def forward(self, x, mask=None):
            return self.layers(x)

    asked = Workload(Mine(), torch.randn(2, 16, 8), mode="train", causal=False)
    notes: list[str] = []
    compiled(asked, "default", notes.append)
    assert ["not compared" in note for note in notes] == [True] * said


@pytest.mark.slow
def test_without_a_compiler_for_c_the_reason_is_said(monkeypatch):
    monkeypatch.setenv("CXX", "/no/compiler")
    other = LocalExecutor()
    record = run(other, CURVED, compile="default")
    other.close()
    assert not other._built.exists()
    assert record.status == "unsupported"
    assert record.reason.startswith("torch.compile fails: ")
    assert "compiler" in record.reason


@pytest.mark.slow
def test_a_training_call_is_compiled_with_its_backward_pass(executor):  # noqa: F811
    record = run(executor, CURVED, mode="train", compile="default")
    assert record.status == "ok", record.reason
    memory = run(executor, CURVED, compile="default", probe="memory", mode="train")
    assert memory.values["rss_growth_bytes"] is None
    assert memory.values["peak_bytes"] > 0 < memory.values["saved_bytes"]
    wrong = run(executor, f"{PLUGINS}:OtherWhenCompiled", mode="train", compile="default")
    assert wrong.status == "incorrect"
    assert "the input of the compiled form differs" in wrong.reason


def halved(records):
    """Return the records with their compiled forms, which take half the time and 3 s of compiling."""
    for record in records:
        yield record
        cell = replace(record.cell, compile="default")
        times = {
            name: tuple(value / 2 if name == "time_s" else value for value in series)
            for name, series in record.samples.items()
        }
        did = {"compile_s": 3.0 if cell.repeat == 0 else 0.1, "graph_breaks": 1, "recompiles": 0}
        told = {**record.values, **did, "graph_break_reasons": "a call (sample)"}
        yield replace(record, cell=cell, samples=times, values=told)


def test_the_ratio_to_the_plain_form_is_paired_and_shown():
    frame = summarise(raw_frame(halved(cost_records(("linear", "vanilla"), (128, 256)))))
    own = frame[frame["compile"] == "default"]
    assert own["compile_ratio"].tolist() == pytest.approx([0.5] * len(own))
    assert (own["compile_ratio_low"] < 0.5).all()
    assert (own["compile_ratio_high"] > 0.5).all()
    assert own["compile_s"].tolist() == [3.0] * len(own), "of the repeat that compiled"
    assert frame.loc[frame["compile"] == "none", "compile_ratio"].isna().all()
    block = compile_block(own, "default")
    assert block is not None
    assert block.head == ["mechanism", "mode", "128", "256", "compile time", "breaks", "recompiles"]
    assert ["linear", "forward", "0.50*", "0.50*", "3.00 s", "1", "0"] in block.rows
    assert "linear breaks the graph: a call (sample)." in block.notes
    assert block.notes[0] == "*: the ratio differs from 1"
    loaded = compile_block(own.assign(noisy="beside other load in 3 of 3 repeats"), "default")
    assert loaded is not None
    assert "0.50*" not in loaded.rows[0], "other load may have made the difference"
    assert not any(note.startswith("*") for note in loaded.notes)
    titles = [block.title for block in overview(frame)]
    assert sum("compiled (default);" in title for title in titles) == 1
    assert "compiled (default): time over that of the plain form" in titles


def test_without_a_plain_form_there_is_no_ratio():
    records = [
        record for record in halved(cost_records(("linear",), (128,))) if record.cell.compile != "none"
    ]
    frame = summarise(raw_frame(records))
    assert frame["compile_ratio"].isna().all()
    assert compile_block(frame, "default") is None


SWEEP = """
[[grid]]
mechanism = ["linear"]
seq_len = [64]
probe = ["time", "flops", "accuracy"]
mode = ["forward"]
compile = ["none", "default"]
repeats = 2
max_repeats = 3
precision = 0.001
"""


def test_both_forms_are_one_block_and_trainings_are_not_compiled():
    sweep = Sweep.from_toml(SWEEP, "x", "x")
    kinds = [(cell.probe, cell.compile) for cell in sweep.cells()]
    assert kinds.count(("time", "none")) == kinds.count(("time", "default")) == 2
    assert kinds.count(("accuracy", "none")) == 2
    assert ("accuracy", "default") not in kinds
    assert kinds.count(("flops", "default")) == 1
    rows = [
        Record(cell=cell, status="ok", samples={"time_s": (1.0 + cell.repeat,) * 5}, machine={"name": "m"})
        for cell in sweep.cells()
        if cell.probe == "time"
    ]
    assert {(cell.compile, cell.repeat) for cell in too_wide(sweep, rows)} == {("none", 2), ("default", 2)}

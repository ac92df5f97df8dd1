"""The examples of docs/extending.md are run as they are written."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import effbench
from effbench.common.probes import PROBES, Probe
from effbench.common.spec import Job, Record
from effbench.sweep.inline import InlineExecutor

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sweep(tmp_path: Path, mechanism: str, probe: str) -> effbench.Sweep:
    file = tmp_path / "mine.toml"
    file.write_text(
        f'name = "mine"\n[[grid]]\nmechanism = ["{mechanism}"]\nprobe = ["{probe}"]\nmode = ["forward"]\n'
        "seq_len = [64, 128]\nd_model = 32\nheads = 2\nrepeats = 1\nseconds = 0.01\nthreads = 1\n"
    )
    return effbench.Sweep.load(file)


@pytest.mark.parametrize("causal", [False, True])
def test_the_mechanism_passes_the_audit(causal):
    effbench.assert_conforms(
        example("mechanism").MeanGate, d_model=16, heads=2, seq_len=128, options={"causal": causal}
    )


def test_the_mechanism_runs_in_a_sweep(tmp_path):
    frame = effbench.run(
        sweep(tmp_path, f"{EXAMPLES}/mechanism.py:MeanGate", "flops"),
        tmp_path / "out",
        executor=InlineExecutor(),
    )
    assert set(frame["status"]) == {"ok"}
    assert dict(frame.set_index("seq_len")["flops"]) == {n: 2 * 2 * n * 32**2 for n in (64, 128)}


class CrashesFirst(InlineExecutor):
    """Its first attempt at each cell crashes."""

    def __init__(self) -> None:
        self.tried: set[str] = set()

    def run(self, job: Job, progress) -> Record:
        first = job.cell.key not in self.tried
        self.tried.add(job.cell.key)
        record = super().run(job, progress)
        return replace(record, status="crashed", reason="as planned") if first else record


def test_the_executor_measures_a_sweep(tmp_path):
    executor = example("executor").RetryOnce(CrashesFirst())
    frame = effbench.run(sweep(tmp_path, "linear", "time"), tmp_path / "out", executor=executor)
    assert set(frame["status"]) == {"ok"}
    assert executor.retried == len(executor.inner.tried) > 0


def test_the_probe_is_one_function_and_one_entry(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setitem(PROBES, "gradients", Probe("probe:gradients"))
    cell = effbench.Cell(mechanism="linear", probe="gradients", seq_len=16, d_model=8, heads=2)
    limits = effbench.Limits(timeout_s=60.0, memory_bytes=2**30)
    record = InlineExecutor().run(Job(cell=cell, limits=limits), lambda fraction, message: None)
    assert record.status == "ok", record.reason
    parameters = record.values["parameters"]
    assert isinstance(parameters, int)
    assert record.values["parameters_with_gradient"] == parameters > 0

"""The example of a task in docs/extending.md is trained as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

import effbench
from effbench.common import registry
from effbench.sweep.inline import InlineExecutor

TASK = f"{Path(__file__).parents[1] / 'docs' / 'examples' / 'task.py'}:Majority"


def test_its_options_are_read_from_its_class_and_its_bases():
    parameters = registry.find(TASK, "task").parameters
    assert parameters is not None
    assert [(p.name, p.default) for p in parameters] == [
        ("signal", 0.5), ("train", 512), ("test", 256),
        ("epochs", 8), ("lr", 1e-2), ("dropout", 0.1), ("patience", 3),
    ]  # fmt: skip
    task = registry.load(registry.find(TASK, "task"))
    with pytest.raises(ValueError, match="signal must be above 0"):
        task(signal=0.0)


def test_it_is_learned_in_a_sweep(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        f'name = "mine"\n[[grid]]\nmechanism = ["linear"]\nprobe = ["accuracy"]\ntask = ["{TASK}"]\n'
        "seq_len = [32]\nd_model = 16\nheads = 2\nlayers = 1\nbatch_size = 32\nrepeats = 1\nthreads = 1\n"
    )
    frame = effbench.run(effbench.Sweep.load(file), tmp_path / "out", executor=InlineExecutor())
    assert frame["status"].tolist() == ["ok"]
    assert frame["accuracy"].iloc[0] > frame["prior_majority"].iloc[0] + 0.1

"""Trainings on several GPUs: one at a time on each, costs alone, and nothing lost when they are stopped."""

import threading
from collections import Counter
from dataclasses import replace

import pytest
from fakes import Fake

import effbench
from effbench.records.store import Store
from effbench.sweep import devices, loop
from effbench.sweep.devices import VISIBLE, Workers, visible
from effbench.sweep.planning import plan
from effbench.sweep.sweep import Sweep

TRAININGS = """
name = "apart"
[[grid]]
mechanism = ["vanilla", "fastformer"]
probe = ["time", "accuracy"]
task = "listops"
device = "cuda"
seq_len = 16
d_model = 8
heads = 2
batch_size = 4
repeats = 3
"""


class Gpu(Fake):
    """A fake executor that stays busy until ``count`` of its kind are, and notes who ran beside whom."""

    together = 0
    most = 0
    lock = threading.Lock()

    def __init__(self, variables=None, count=1, **more):
        super().__init__(**more)
        self.variables, self.barrier = dict(variables or {}), None

    def run(self, job, progress):
        with Gpu.lock:
            Gpu.together += 1
            Gpu.most = max(Gpu.most, Gpu.together)
        if self.barrier is not None:
            self.barrier.wait(timeout=30)
        record = replace(super().run(job, progress), status="unsupported", reason="it is a fake")
        with Gpu.lock:
            Gpu.together -= 1
        return record


class Host(Fake):
    """The loop's own executor on a machine with two GPUs."""

    def start(self):
        return {"torch": "2", "cuda_devices": 2}


@pytest.fixture
def gpus(monkeypatch):
    """The executors that are made for GPUs."""
    made = []
    barrier = threading.Barrier(2)

    def make(variables):
        gpu = Gpu(variables)
        gpu.barrier = barrier
        made.append(gpu)
        return gpu

    Gpu.together = Gpu.most = 0
    monkeypatch.setattr(devices, "LocalExecutor", make)
    return made


def run(folder, host):
    sweep = Sweep.from_toml(TRAININGS, "test", "apart")
    store = Store(folder)
    return loop.measure(sweep, store, plan(sweep, store), host, loop.Silent()).raw


def test_trainings_share_the_gpus_and_costs_run_alone(tmp_path, gpus):
    host = Host()
    raw = run(tmp_path / "out", host)
    assert {job.cell.probe for job in host.ran} == {"time"}
    assert [gpu.variables for gpu in gpus] == [{VISIBLE: "0"}, {VISIBLE: "1"}]
    trained = [job.cell.key for gpu in gpus for job in gpu.ran]
    assert len(trained) == len(set(trained)) == 6
    assert Gpu.most == 2
    assert all(gpu.closed for gpu in gpus)
    assert Counter(raw["probe"])["accuracy"] == 6
    assert set(raw.loc[raw["probe"] == "accuracy", "status"]) == {"unsupported"}


def test_a_training_for_one_gpu_is_not_moved_to_another(tmp_path, gpus):
    sweep = Sweep.from_toml(TRAININGS.replace('"cuda"', '"cuda:1"'), "test", "apart")
    store, host = Store(tmp_path / "out"), Host()
    loop.measure(sweep, store, plan(sweep, store), host, loop.Silent())
    assert not gpus
    assert {job.cell.probe for job in host.ran} == {"time", "accuracy"}


def test_interrupted_trainings_are_recorded_and_made_again(tmp_path, gpus, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Workers, "_ended", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", Host())
    raw = effbench.load(tmp_path / "out", raw=True)
    stopped = raw[raw["status"] == "interrupted"]
    assert len(stopped) == 2
    assert set(stopped["reason"]) == {"stopped by the user while it ran"}
    raw = run(tmp_path / "out", Host())
    assert "interrupted" not in set(raw["status"])
    assert Counter(raw["probe"])["accuracy"] == 6


@pytest.mark.parametrize(
    ("given", "names"),
    [(None, ["0", "1"]), ("", ["0", "1"]), ("3, 5 ,7", ["3", "5"]), ("GPU-ab", ["GPU-ab"])],
)
def test_only_visible_gpus_are_used(monkeypatch, given, names):
    monkeypatch.delenv(VISIBLE, raising=False)
    if given is not None:
        monkeypatch.setenv(VISIBLE, given)
    assert visible(2) == names

"""Data that trainings share is prepared once, before the first training, outside of its time limit."""

from __future__ import annotations

from pathlib import Path

from effbench.common.spec import Record
from effbench.sweep.loop import run
from effbench.sweep.sweep import Sweep

TASK = """
from pathlib import Path
from plugin_tasks import Ranking

class Prepared(Ranking):
    def prepare(self, seq_len, seed, data_dir):
        with Path("events").open("a") as file:
            file.write(f"prepare {seq_len}\\n")


class Failing(Prepared):
    def prepare(self, seq_len, seed, data_dir):
        super().prepare(seq_len, seed, data_dir)
        raise RuntimeError("no disk")
"""


class Trains:
    """An executor that notes what it is given."""

    def start(self):
        return {"cuda_devices": 0, "torch": "none"}

    def run(self, job, progress):
        with Path("events").open("a") as file:
            file.write(f"train {job.cell.seq_len}\n")
        return Record.of(job, "crashed", reason="it trains nothing")

    def close(self):
        pass


def test_each_length_is_prepared_once_before_its_first_training(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "mine.py").write_text(TASK)
    for kind, count in (("Prepared", 2), ("Failing", 4)):
        file = tmp_path / "s.toml"
        file.write_text(
            'name = "s"\n[[grid]]\nmechanism = ["linear", "vanilla"]\nprobe = ["accuracy"]\nrepeats = 1\n'
            f'seq_len = [16, 32]\ntask = ["{tmp_path}/mine.py:{kind}"]\nd_model = 8\nheads = 2\n'
        )
        run(Sweep.load(file), tmp_path / f"out{count}", executor=Trains())
        events = Path("events").read_text().split("\n")
        assert events.count("prepare 16") == events.count("prepare 32") == count // 2
        assert events.count("train 16") == events.count("train 32") == count
        assert events.index("prepare 32") < events.index("train 32")

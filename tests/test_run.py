"""The loop: order, resuming, skipping, interruption; nothing lost, nothing done twice."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from fakes import Fake
from rich.console import Console

import effbench
from effbench.common import machine
from effbench.common.spec import MACHINE, Job, Limits, Record, UsageError, block_of
from effbench.records.analyse.drift import doubts
from effbench.records.frame import raw_frame
from effbench.records.store import Store
from effbench.show.progress import TerminalProgress
from effbench.sweep import sweep as sweep_module
from effbench.sweep.loop import run
from effbench.sweep.planning import order, plan
from effbench.sweep.sweep import Sweep

TOML = """
name = "test"
[[grid]]
mechanism = ["vanilla", "linear", "fastformer"]
probe = ["time", "memory"]
mode = ["forward", "train"]
seq_len = [16, 32, 64]
d_model = 16
heads = 2
threads = 1
seconds = 0.01
repeats = 2
max_repeats = 2
"""
SWEEP = Sweep.from_toml(TOML, "test", "test")
FEW = Sweep.from_toml(
    TOML.replace("[16, 32, 64]", "[16, 32]").replace('["forward", "train"]', '"forward"'), "test", "test"
)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "records").iterdir()}


def test_repeats_are_outermost_and_mechanisms_interleaved():
    cells = order(SWEEP.cells(), seed=0)
    assert Counter(c.key for c in cells) == Counter(c.key for c in SWEEP.cells())
    assert [c.repeat for c in cells] == sorted(c.repeat for c in cells)
    orders = set()
    for (repeat, *_), block in groupby(cells, key=lambda c: (c.repeat, c.seq_len, c.mode, c.probe)):
        members = [c.mechanism for c in block]
        assert sorted(members) == ["fastformer", "linear", "vanilla"]
        orders.add(tuple(members))
        assert repeat in (0, 1)
    assert len(orders) > 1, "the order within a block is drawn anew"
    lengths = [c.seq_len for c in cells if c.repeat == 0]
    assert lengths == sorted(lengths)
    assert order(SWEEP.cells(), seed=0) == cells
    assert order(SWEEP.cells(), seed=1) != cells


def test_a_second_run_measures_nothing(tmp_path):
    first = run(FEW, tmp_path / "out", executor=Fake())
    before = contents(tmp_path / "out")
    again = Fake()
    second = run(FEW, tmp_path / "out", executor=again)
    assert again.ran == []
    assert contents(tmp_path / "out") == before
    assert first.equals(second)
    assert (tmp_path / "out" / "results.parquet").exists()


def test_cells_are_expanded_once_and_the_folder_is_read_once(tmp_path, monkeypatch):
    counts: Counter[str] = Counter()

    def count(owner, name):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: counts.update([name]) or real(*given))

    count(Store, "read")
    count(sweep_module, "_product")
    for _ in range(2):
        counts.clear()
        run(replace(FEW), tmp_path / "out", executor=Fake())
        assert counts == {"read": 1, "_product": 1}


def test_a_run_killed_before_its_export_is_exported_by_the_next(tmp_path):
    run(FEW.override({"seq_len": "16"}), tmp_path / "out", executor=Fake())
    stale = (tmp_path / "out" / "results.csv").read_text()
    run(FEW, tmp_path / "out", executor=Fake())
    fresh = (tmp_path / "out" / "results.csv").read_text()
    (tmp_path / "out" / "results.csv").write_text(stale)
    again = Fake()
    run(FEW, tmp_path / "out", executor=again)
    assert again.ran == []
    assert (tmp_path / "out" / "results.csv").read_text() == fresh != stale


@pytest.mark.parametrize("stop", [1, 2, 17])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, stop):
    whole = Fake()
    run(FEW, tmp_path / "whole", executor=whole)
    first, second = Fake(interrupt_at=stop), Fake()
    with pytest.raises(KeyboardInterrupt):
        run(FEW, tmp_path / "parts", executor=first)
    assert first.closed
    statuses = Counter(r.status for r in Store(tmp_path / "parts").read()[0])
    assert statuses["interrupted"] == 1
    run(FEW, tmp_path / "parts", executor=second)
    assert [j.cell for j in first.ran[: stop - 1] + second.ran] == [j.cell for j in whole.ran]
    left, right = (raw_frame(Store(tmp_path / name).read()[0]) for name in ("whole", "parts"))
    assert left.equals(right)


def test_no_resume_measures_all_anew_and_keeps_the_old(tmp_path):
    run(FEW, tmp_path / "out", executor=Fake())
    again = Fake()
    run(FEW, tmp_path / "out", executor=again, resume=False)
    assert len(again.ran) == len(FEW.cells())
    assert len(list((tmp_path / "out" / "superseded").iterdir())) == len(FEW.cells())


def test_other_code_or_machine_or_data_is_measured_anew(tmp_path):
    store = Store(tmp_path / "out")
    run(FEW, store.folder, executor=Fake())
    records = sorted(store.read()[0], key=lambda r: r.cell.key)
    for changes in ({"code": "older"}, {"machine": {"name": "another"}}, {"data": "other"}):
        store.write(replace(records[0], **changes))
        assert [j.cell for j in plan(FEW, store).jobs] == [records[0].cell]
        store.write(records[0])
        assert plan(FEW, store).jobs == ()


def test_longer_lengths_are_skipped_after_an_oom_with_the_prediction(tmp_path):
    fake = Fake(
        {("vanilla", "train", 64): ("oom", "too big"), ("linear", "forward", 32): ("timeout", "slow")}
    )
    sweep = SWEEP.override({"seq_len": "16,32,64,128"})
    frame = run(sweep, tmp_path / "out", executor=fake)
    tried = Counter((j.cell.mechanism, j.cell.mode, j.cell.seq_len, j.cell.probe) for j in fake.ran)
    assert ("vanilla", "train", 128, "time") not in tried
    assert tried["vanilla", "train", 64, "time"] == 1, "not tried again in the second repeat"
    assert ("linear", "forward", 64, "memory") not in tried
    assert tried["vanilla", "forward", 128, "time"] == 2, "other lines go on"
    assert tried["linear", "train", 128, "time"] == 2
    rows = {(r.mechanism, r.mode, r.seq_len): r for r in frame.itertuples()}
    assert rows["vanilla", "train", 64].status == "oom"
    assert rows["vanilla", "train", 128].status == "skipped"
    assert "N=64 ran out of memory; predicted for N=128: 0.00012 GiB (it grew as N^1.00 from 16 to 32)" in (
        rows["vanilla", "train", 128].reason
    )
    assert "N=32 ran out of time; predicted for N=64: 0.001 s per call (16 measured, N declared)" in (
        rows["linear", "forward", 64].reason
    )
    assert len(frame) == 3 * 2 * 4, "a failure is a row, never a missing one"


def test_a_higher_limit_tries_again(tmp_path):
    def within(limits: Limits) -> str:
        return "ok" if limits.timeout_s > 5 else "timeout"

    fails = {("vanilla", "train", 32): (within, "slow")}
    low = run(replace(SWEEP, timeout_s=1.0), tmp_path / "out", executor=Fake(fails))
    assert Counter(low.status)["skipped"] == 1
    same = Fake(fails)
    run(replace(SWEEP, timeout_s=1.0), tmp_path / "out", executor=same)
    assert same.ran == []
    higher = Fake(fails)
    high = run(replace(SWEEP, timeout_s=10.0), tmp_path / "out", executor=higher)
    assert {j.cell.seq_len for j in higher.ran} == {32, 64}
    assert set(high.status) == {"ok"}


def test_a_budget_leaves_the_rest_to_the_next_run(tmp_path):
    class Slow(Fake):
        def run(self, job, progress):
            time.sleep(0.02)
            return super().run(job, progress)

    slow = Slow()
    frame = run(replace(SWEEP, budget_s=0.4), tmp_path / "out", executor=slow)
    assert 0 < len(slow.ran) < len(SWEEP.cells())
    reached = frame["time_s"].notna() | frame["peak_bytes"].notna()
    assert set(frame.status[reached]) == {"ok"}, "a row has the status of what it shows"
    assert set(frame.status[~reached]) == {"interrupted"}
    rest = Fake()
    assert set(run(SWEEP, tmp_path / "out", executor=rest).status) == {"ok"}
    assert len(slow.ran) + len(rest.ran) == len(SWEEP.cells())


def test_what_was_not_measured_again_keeps_its_result(tmp_path):
    """A run that measures everything anew and is stopped takes no result of the same code away."""
    first = run(SWEEP, tmp_path / "out", executor=Fake())
    again = Fake(interrupt_at=5)
    with pytest.raises(KeyboardInterrupt):
        run(SWEEP, tmp_path / "out", resume=False, executor=again)
    left = effbench.load(tmp_path / "out")
    assert set(left["status"]) == {"ok"}
    assert len(left) == len(first)
    run(replace(SWEEP, budget_s=1e-9), tmp_path / "out", resume=False, executor=Fake())
    assert set(effbench.load(tmp_path / "out")["status"]) == {"ok"}
    idle = Fake()
    run(SWEEP, tmp_path / "out", executor=idle)
    assert idle.ran == []


def test_the_history_gets_what_this_run_measured_alone(tmp_path, monkeypatch):
    kept: list[list[Record]] = []
    monkeypatch.setattr("effbench.sweep.loop.History.keep", lambda self, records: kept.append(list(records)))
    noisy = replace(SWEEP.override({"precision": 0.01, "probe": "time"}), budget_s=None).override(
        {"max_repeats": 4}
    )
    run(noisy, tmp_path / "out", executor=Fake(noise={"linear": 0.3}))
    assert {record.cell.repeat for record in kept[0]} == {0, 1, 2, 3}
    more = Fake(noise={"linear": 0.3})
    run(
        noisy.override({"mechanism": ["vanilla", "linear", "fastformer", "luna"]}),
        tmp_path / "out",
        executor=more,
    )
    assert [record.cell for record in kept[1]] == [job.cell for job in more.ran]
    assert len(kept[1]) < len(kept[0])


def test_what_is_skipped_on_a_gpu_is_of_the_same_machine(tmp_path):
    class OnGpu(Fake):
        def start(self):
            return {"torch": "2", "cuda_devices": 1}

        def run(self, job, progress):
            record = super().run(job, progress)
            return replace(record, machine={**record.machine, "gpu": "Card 1"})

    sweep = SWEEP.override({"device": "cuda"})
    fails = {("vanilla", mode, 16): ("oom", "too big") for mode in ("forward", "train")}
    frame = run(sweep, tmp_path / "out", executor=OnGpu(fails))
    assert "skipped" in set(frame["status"])
    assert frame["machine"].nunique() == 1
    assert frame["machine"].str.contains("Card 1").all()


def test_shapes_are_measured_one_after_the_other(tmp_path):
    cells = order(SWEEP.override({"d_model": [16, 32], "batch_size": [1, 4]}).cells(), seed=0)
    blocks = [key for key, _ in groupby(cells, key=lambda c: (block_of(c), c.repeat, c.probe))]
    assert len(blocks) == len(set(blocks)), "no block is left and entered again"


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="finds no CUDA device"):
        run(SWEEP.override({"device": "cuda"}), tmp_path / "out", executor=Fake())
    assert not (tmp_path / "out").exists()
    for task in ("listops:max_depth=0", "imdb"):
        sweep = SWEEP.override({"probe": "accuracy", "task": [task]})
        with pytest.raises(UsageError):
            run(sweep, tmp_path / "out", data_dir=tmp_path / "nowhere", executor=Fake())
    assert not (tmp_path / "out").exists()


def test_the_resolved_sweep_is_written_beside_the_results(tmp_path):
    run(FEW, tmp_path / "out", executor=Fake())
    again = Sweep.load(tmp_path / "out" / "sweep.toml")
    assert [c.key for c in again.cells()] == [c.key for c in FEW.cells()]


TRAINED = """
name = "trained"
seed = 3
[[grid]]
mechanism = ["fastformer"]
probe = "accuracy"
task = "listops:train=800,validation=50,test=100,epochs=4,dropout=0.2,patience=9"
seq_len = 32
batch_size = 16
d_model = 16
heads = 2
layers = 1
threads = 1
repeats = 1
"""
TRAINING = Sweep.from_toml(TRAINED, "trained", "trained")


KILLED = """
name = "killed"
[[grid]]
mechanism = ["vanilla", "fastformer"]
probe = ["time", "memory"]
seq_len = 16
d_model = 16
heads = 2
threads = 1
seconds = 0.01
repeats = 2
max_repeats = 2
"""


@pytest.mark.slow
def test_killed_and_run_again_loses_nothing_and_repeats_nothing(tmp_path):
    """SIGKILL during the training: records survive, and its curves are those of an uninterrupted run.

    The script has no main guard: the fork server does not import it.
    """
    toml = KILLED + TRAINED[TRAINED.index("[[grid]]") :]
    script = tmp_path / "script.py"
    script.write_text(
        f"import effbench\neffbench.run(effbench.Sweep.from_toml({toml!r}, 'x', 'x'), 'parts')\n"
    )
    sweep = Sweep.from_toml(toml, "x", "x")
    (cell,) = (cell for cell in sweep.cells() if cell.probe == "accuracy")
    checkpoint = Store(tmp_path / "parts").checkpoint(cell)
    process = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path)
    end = time.monotonic() + 60
    while not checkpoint.exists():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = _finished(tmp_path / "parts")
    assert len(kept) == len(sweep.cells()) - 1, "only the training is not finished"
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True, timeout=120)
    now = _finished(tmp_path / "parts")
    assert kept.items() <= now.items()
    assert len(now) == len(sweep.cells())
    frame = effbench.load(tmp_path / "parts")
    assert set(frame.status) == {"ok"}, frame.reason
    cost = frame[frame.task == ""]
    assert (cost.time_s > 0).all()
    assert (cost.peak_bytes > 0).all()
    run(sweep.override({"probe": "accuracy"}), tmp_path / "whole")
    parts = next(r for r in Store(tmp_path / "parts").read()[0] if r.cell.key == cell.key)
    ((whole,), _) = Store(tmp_path / "whole").read()
    assert (parts.values["resumed"], whole.values["resumed"]) == (1, 0)
    for name in ("step_loss", "train_loss", "validation_accuracy", "validation_macro_f1", "learning_rate"):
        assert parts.samples[name] == whole.samples[name], name
    for name in ("accuracy", "test_macro_f1", "test_correct", "best_epoch", "epochs", "padding_share"):
        assert parts.values[name] == whole.values[name], name
    assert len(parts.samples["step_s"]) == len(whole.samples["step_s"]) == 200
    train_seconds = parts.values["train_seconds"]
    assert isinstance(train_seconds, float)
    assert train_seconds > sum(parts.samples["step_s"])
    assert not checkpoint.parent.exists()


@pytest.mark.slow
def test_a_signal_records_the_cell_in_flight(tmp_path, plugin):
    """SIGTERM, which main turns into what Ctrl-C raises."""
    command = [
        sys.executable, "-m", "effbench", "run", "-m", plugin("Hang"), "--seq-len", "16,64",
        "--probe", "time", "--d-model", "16", "--heads", "2", "--mode", "forward", "--repeats", "1",
        "--out", "out",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not _finished(tmp_path / "out"):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Run the same command again" in errors
    statuses = {r.cell.seq_len: r.status for r in Store(tmp_path / "out").read()[0]}
    assert statuses == {16: "ok", 64: "interrupted"}


class Training(Fake):
    """A fake that leaves a checkpoint, and one half-written, wherever it is told a place for one."""

    def run(self, job, progress):
        if job.checkpoint is not None:
            path = Path(job.checkpoint)
            path.parent.mkdir(exist_ok=True)
            path.write_text("")
            path.with_name(f"{path.name}.part").write_text("")
        record = super().run(job, progress)
        if job.cell.probe != "accuracy" or record.status != "ok":
            return record
        values = {"accuracy": 0.5, "tokens_per_s": 9.0, "train_seconds": 9.0, "peak_bytes": 9}
        return replace(record, values=values)


@pytest.mark.parametrize(
    ("status", "kept"),
    [
        *(("ok", False), ("crashed", False), ("unsupported", False), ("incorrect", False)),
        *(("timeout", True), ("oom", True)),
    ],
)
def test_a_checkpoint_is_kept_while_its_cell_may_go_on(tmp_path, status, kept):
    run(TRAINING, tmp_path / "out", executor=Training({("fastformer", "train", 32): (status, "why")}))
    (cell,) = TRAINING.cells()
    assert Store(tmp_path / "out").checkpoint(cell).exists() == kept
    assert (tmp_path / "out" / "checkpoints").exists() == kept


def test_an_interrupted_training_keeps_its_checkpoint_unless_all_is_measured_anew(tmp_path):
    (cell,) = TRAINING.cells()
    checkpoint = Store(tmp_path / "out").checkpoint(cell)

    class Looks(Training):
        def run(self, job, progress):
            self.found = checkpoint.exists()
            return super().run(job, progress)

    for resume in (True, False):
        with pytest.raises(KeyboardInterrupt):
            run(TRAINING, tmp_path / "out", executor=Training(interrupt_at=1))
        assert checkpoint.exists()
        assert [job.cell for job in plan(TRAINING, Store(tmp_path / "out")).jobs] == [cell]
        looks = Looks()
        run(TRAINING, tmp_path / "out", executor=looks, resume=resume)
        assert looks.found == resume
        assert not checkpoint.exists()
        (tmp_path / "out" / "records").joinpath(*contents(tmp_path / "out")).unlink()


def test_only_trainings_are_told_a_place_for_a_checkpoint(tmp_path):
    fake = Training()
    sweep = TRAINING.override({"probe": "time,accuracy"})
    run(sweep, Path(os.path.relpath(tmp_path / "out")), executor=fake)
    for job in fake.ran:
        if job.cell.probe != "accuracy":
            assert job.checkpoint is None
            continue
        assert job.checkpoint is not None
        path = Path(job.checkpoint)
        assert path.is_absolute(), "the process that trains may stand elsewhere"
        assert path.resolve() == (tmp_path / "out" / "checkpoints" / f"{job.cell.key}.pt").resolve()
    assert {job.cell.probe for job in fake.ran} == {"time", "accuracy"}


def test_a_budget_ends_a_training_which_the_next_run_goes_on_with(tmp_path):
    def within(limits: Limits) -> str:
        return "timeout" if limits.timeout_s <= 100 else "ok"

    fails = {("fastformer", "train", 32): (within, "still running")}
    frame = run(replace(TRAINING, budget_s=100.0), tmp_path / "out", executor=Training(fails))
    assert set(frame.status) == {"interrupted"}
    assert set(frame.reason) == {"the budget of 100 s ended while it trained"}
    (cell,) = TRAINING.cells()
    assert Store(tmp_path / "out").checkpoint(cell).exists()
    again = Training(fails)
    assert set(run(TRAINING, tmp_path / "out", executor=again).status) == {"ok"}
    (record,), _ = Store(tmp_path / "out").read()
    assert record.limits == TRAINING.limits("accuracy")


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_training_says_is_seen_in_a_narrow_terminal_and_in_plain_text(terminal, monkeypatch):
    from effbench.show import progress as shown

    monkeypatch.setattr(shown, "_PLAIN_EVERY_S", -1.0)
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=terminal, color_system=None)
    (cell,) = TRAINING.cells()
    said = "epoch 1.0 of 4, loss 0.5, validation 88.0%, 9,000 tokens/s, at most 3 min left"
    with shown.TerminalProgress(console) as progress:
        progress.planned([Job(cell=cell, limits=TRAINING.limits("accuracy"))], [], [])
        progress.began(Job(cell=cell, limits=TRAINING.limits("accuracy")), 200.0)
        progress.progressed(0.25, said)
        progress._bar.refresh()
    assert said[:70] in out.getvalue()
    assert "25%" in out.getvalue() or terminal


def _finished(folder: Path) -> dict[str, str]:
    records = folder / "records"
    if not records.is_dir():
        return {}
    texts = {path.name: path.read_text() for path in records.glob("*.json")}
    return {
        name: text for name, text in texts.items() if json.loads(text)["record"]["status"] != "interrupted"
    }


REFINED = SWEEP.override({"max_repeats": 4, "seq_len": "16,32", "probe": "time", "mode": "forward"})


def repeats_of(fake):
    return Counter((job.cell.mechanism, job.cell.seq_len) for job in fake.ran)


def test_a_wide_interval_repeats_its_whole_block_up_to_the_most(tmp_path):
    fake = Fake(noise={"linear": 0.1})
    frame = run(REFINED, tmp_path / "out", executor=fake)
    assert set(repeats_of(fake).values()) == {4}, "all mechanisms of the block, so that repeats stay pairs"
    assert (frame.repeats == 4).all()
    noisy = frame.set_index("mechanism").noisy
    assert noisy["vanilla"].tolist() == ["", ""]
    assert noisy["linear"].str.endswith("target ± 5 %").all()


def test_narrow_intervals_are_not_refined_and_one_repeat_stays_one(tmp_path):
    steady = Fake()
    run(REFINED, tmp_path / "steady", executor=steady)
    assert set(repeats_of(steady).values()) == {2}
    one = Fake(noise={"linear": 0.1})
    frame = run(REFINED.override({"repeats": 1}), tmp_path / "one", executor=one)
    assert set(repeats_of(one).values()) == {1}
    assert set(frame.noisy) == {"one repeat"}


def test_refining_leaves_out_what_failed_and_goes_on_after_a_stop(tmp_path):
    fails = {("fastformer", "forward", 32): ("crashed", "no")}
    first = Fake(fails, interrupt_at=14, noise={"linear": 0.1})
    with pytest.raises(KeyboardInterrupt):
        run(REFINED, tmp_path / "out", executor=first)
    second = Fake(fails, noise={"linear": 0.1})
    run(REFINED, tmp_path / "out", executor=second)
    total = repeats_of(first) + repeats_of(second)
    total[first.ran[-1].cell.mechanism, first.ran[-1].cell.seq_len] -= 1  # stopped while it ran
    assert total == {
        (name, n): 2 if (name, n) == ("fastformer", 32) else 4
        for name in ("vanilla", "linear", "fastformer") for n in (16, 32)
    }  # fmt: skip
    third = Fake(fails, noise={"linear": 0.1})
    run(REFINED, tmp_path / "out", executor=third)
    assert third.ran == []


def test_a_budget_ends_refining_without_a_trace(tmp_path):
    fake = Fake(noise={"linear": 0.1})
    noisy = FEW.override({"max_repeats": 9, "probe": "time"})
    run(noisy, tmp_path / "a", executor=fake)

    class Slow(Fake):
        def run(self, job, progress):
            time.sleep(0.02)
            return replace(super().run(job, progress), seconds=0.02)

    limited = Slow(noise={"linear": 0.1})
    frame = run(replace(noisy, budget_s=0.6), tmp_path / "b", executor=limited)
    assert len(limited.ran) < len(fake.ran)
    assert set(frame.status) <= {"ok", "interrupted"}


def test_the_ceiling_is_measured_once_and_stands_in_the_records_of_flops(tmp_path):
    class Ceiling(Fake):
        def run(self, job, progress):
            record = super().run(job, progress)
            if job.cell.probe == "ceiling":
                samples = {"bandwidth_at_bytes": (1e6,), "bandwidth_bytes_per_s": (1e10,)}
                return replace(record, samples=samples, values={"peak_flops_per_s": 1e11})
            if job.cell.probe == "flops":
                return replace(record, values={"flops": 1e6 * job.cell.seq_len, "bytes_moved": 1e6})
            return record

    whole = SWEEP.override({"probe": "time,memory,flops"})
    for folder in ("a", "b"):
        fake = Ceiling()
        frame = run(whole, tmp_path / folder, executor=fake)
        asked = [job.cell for job in fake.ran if job.cell.probe == "ceiling"]
        assert len(asked) == (1 if folder == "a" else 0), "the second run finds it in the cache"
        row = frame.iloc[0]
        assert row.arithmetic_intensity == row.seq_len
        assert row.roof_flops_per_s == min(1e11, row.seq_len * 1e10)
        assert row.roof_share == pytest.approx(row.flops / row.time_s / row.roof_flops_per_s)

    class Loud(Ceiling):
        def run(self, job, progress):
            record = super().run(job, progress)
            return replace(record, machine={"name": machine.name(), "others_cores": 1.2})

    loud = Loud()
    frame = run(whole.override({"d_model": "32", "dtype": "bfloat16"}), tmp_path / "loud", executor=loud)
    assert frame["roof_share"].isna().all()
    assert [job.cell.probe for job in loud.ran].count("ceiling") == 3
    (sentence,) = [d for d in doubts(effbench.load(tmp_path / "loud", raw=True)) if "roofline" in d]
    assert sentence == "no roofline: other processes kept 1.2 cores busy while the ceiling was measured"
    failing = Fake({(MACHINE, "forward", 1): ("crashed", "no")})
    run(whole.override({"dtype": "float64"}), tmp_path / "c", executor=failing)
    records, _ = Store(tmp_path / "c").read()
    reasons = {r.machine["ceiling"]["reason"] for r in records if r.cell.probe == "flops"}
    assert reasons == {"crashed: no"}


MIXED = """
name = "mixed"
[[grid]]
mechanism = ["vanilla", "linear"]
probe = "time"
mode = "forward"
seq_len = [16, 32]
d_model = 16
heads = 2
threads = 1
seconds = 0.01
repeats = 3
max_repeats = 3
[[grid]]
mechanism = ["vanilla", "linear"]
probe = "accuracy"
task = "listops"
seq_len = 32
batch_size = 4
d_model = 16
heads = 2
layers = 1
threads = 1
repeats = 2
"""


def test_a_budget_that_ends_among_trainings_leaves_the_costs_complete(tmp_path, capsys):
    sweep = Sweep.from_toml(MIXED, "mixed", "mixed")
    cells = order(sweep.cells(), seed=0)
    probes = [cell.probe for cell in cells]
    assert probes == sorted(probes, key=lambda probe: probe == "accuracy"), "costs before trainings"

    class Slow(Fake):
        def run(self, job, progress):
            if job.cell.probe == "accuracy":
                return replace(super().run(job, progress), status="timeout", reason="still running")
            return super().run(job, progress)

    frame = run(replace(sweep, budget_s=5.0), tmp_path / "out", executor=Slow())
    cost = frame[frame["task"] == ""]
    assert set(cost["status"]) == {"ok"}
    assert (cost["repeats"] == 3).all()
    trained = frame[frame["task"] != ""]
    assert set(trained["status"]) == {"interrupted"}
    from effbench.show.blocks import as_text
    from effbench.show.overview import overview

    text = as_text(overview(frame), "markdown")
    assert text.count("interrupted:") == 1, "what was not reached is one line"
    assert "interrupted: 2 configurations without a result" in text


def test_a_run_returns_its_own_rows_and_the_folder_keeps_all(tmp_path):
    out = tmp_path / "out"
    run(FEW, out, executor=Fake())
    other = FEW.override({"seq_len": "128", "mechanism": ["linear"], "probe": "time"})
    frame = run(other, out, executor=Fake())
    assert set(frame["seq_len"]) == {128}
    assert set(frame["mechanism"]) == {"linear"}
    again = Fake()
    assert run(FEW, out, executor=again)["seq_len"].max() == 32
    assert again.ran == []
    assert len(effbench.load(out)) == 3 * 2 + 1


def test_a_shared_folder_keeps_every_sweep_under_its_own_name(tmp_path):
    out = tmp_path / "out"
    other = FEW.override({"seq_len": "128"})
    for sweep in (FEW, other, FEW.override({"seq_len": "128"})):
        run(sweep, out, executor=Fake())
        run(sweep, out, executor=Fake(), resume=False)
    files = sorted(path.name for path in out.glob("sweep*.toml"))
    assert files == ["sweep-2.toml", "sweep.toml"]
    first, second = (Sweep.load(out / name) for name in ("sweep.toml", "sweep-2.toml"))
    assert [c.key for c in first.cells()] == [c.key for c in FEW.cells()]
    assert [c.key for c in second.cells()] == [c.key for c in other.cells()]
    assert first.name == "test"
    assert second.name.startswith("test-")
    assert second.description == "test, changed: seq_len 128"


def test_a_changed_sweep_has_a_name_of_its_own_and_the_same_one_each_time():
    changed = SWEEP.override({"seq_len": "128"})
    assert changed.name == SWEEP.override({"seq_len": [128]}).name != SWEEP.name
    assert changed.name != SWEEP.override({"seq_len": "256"}).name
    assert changed.override({"repeats": "3"}).name.count("-") == 1
    assert SWEEP.override({"seq_len": "16,32,64"}) == SWEEP
    with pytest.raises(UsageError, match="unknown grid key 'seqlen'; did you mean 'seq_len'"):
        SWEEP.override({"seqlen": "128"})


def test_a_plug_in_is_named_from_the_sweeps_own_file(tmp_path, monkeypatch):
    """Wherever the command is run, and wherever the sweep is written to."""
    (tmp_path / "configs").mkdir()
    source = (
        "from torch import nn\nclass M(nn.Module):\n"
        "    def __init__(self, d_model, heads, *, max_len, causal=False):\n        super().__init__()\n"
    )
    (tmp_path / "configs" / "mine.py").write_text(source)
    toml = TOML.replace('"vanilla", "linear", "fastformer"', '"mine.py:M"')
    (tmp_path / "configs" / "s.toml").write_text(toml)
    monkeypatch.chdir(tmp_path)
    above = Sweep.load("configs/s.toml")
    assert {cell.mechanism for cell in above.cells()} == {"configs/mine.py:M"}
    run(above, "results/x", executor=Fake())
    written = Sweep.load("results/x/sweep.toml")
    assert [c.key for c in written.cells()] == [c.key for c in above.cells()]
    monkeypatch.chdir(tmp_path / "configs")
    assert {cell.mechanism for cell in Sweep.load("s.toml").cells()} == {"mine.py:M"}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = {cell.mechanism for cell in Sweep.load("../configs/s.toml").cells()}
    assert found == {f"{tmp_path}/configs/mine.py:M"}


class Loaded(Fake):
    """A machine on which others are busy while some repeats are measured."""

    def __init__(self, busy: set[int], **changes):
        super().__init__(**changes)
        self.busy = busy

    def run(self, job, progress):
        record = super().run(job, progress)
        others = 1.0 if job.cell.repeat in self.busy and job.cell.mechanism == "linear" else 0.0
        facts = {**record.machine, "others_cores": others, "machine_cores": 2}
        factor = 3.0 if others else 1.0
        samples = {name: tuple(factor * s for s in series) for name, series in record.samples.items()}
        return replace(record, machine=facts, samples=samples)


def test_a_block_measured_beside_other_load_is_repeated_and_the_load_left_out(tmp_path):
    fake = Loaded({1})
    frame = run(REFINED.override({"repeats": 2}), tmp_path / "out", executor=fake)
    assert set(repeats_of(fake).values()) == {3}, "one repeat more for the whole block"
    linear = frame[frame["mechanism"] == "linear"].iloc[0]
    assert linear["time_s"] == pytest.approx(1e-6 * linear["seq_len"] ** 2)
    assert linear["noisy"] == ""
    again = Loaded({1})
    run(REFINED.override({"repeats": 2}), tmp_path / "out", executor=again)
    assert again.ran == []


def test_no_winner_is_named_where_all_repeats_were_beside_other_load(tmp_path):
    from effbench.records.analyse.winners import fastest, in_words

    fake = Loaded({0, 1, 2, 3})
    frame = run(REFINED, tmp_path / "out", executor=fake)
    assert set(repeats_of(fake).values()) == {3}, "the load is there to stay"
    linear = frame[frame["mechanism"] == "linear"]
    assert (linear["noisy"] == "beside other load in 3 of 3 repeats").all()
    rows = frame[frame["seq_len"] == 16]
    assert fastest(rows) == []
    assert "no winner is named from 16 to 32: measured beside other load" in in_words(frame)


@pytest.mark.parametrize(
    ("others", "threads", "cores", "crowds"),
    [
        (1.0, 1, 2, True),
        (1.0, 2, 2, True),
        (0.3, 2, 2, False),
        (0.0, 2, 2, False),
        (10.0, 1, 64, False),
        (40.0, 32, 64, True),
        (None, 1, 2, False),
        (1.0, 1, None, False),
        (float("nan"), 1, 2, False),
    ],
)
def test_other_work_crowds_where_cores_run_short(others, threads, cores, crowds):
    assert machine.crowded(others, threads, cores) is crowds
    assert machine.crowded(others, threads, cores, waited_share=0.01) is crowds
    assert machine.crowded(others, threads, cores, waited_share=0.3), "its threads were seen to wait"


def test_the_first_time_beside_other_load_says_what_to_do(tmp_path):
    written = io.StringIO()
    with TerminalProgress(Console(file=written, width=200)) as progress:
        run(REFINED, tmp_path / "out", executor=Loaded({0, 1, 2, 3}), listener=progress)
    text = written.getvalue()
    assert text.count("Stop them") == 1, "once"
    assert "keep 1.0 of 2 cores busy" in text
    assert machine.free_threads(0.0) == machine.cores()
    assert machine.free_threads(1000.0) == 1


def test_one_repeat_of_a_configuration_is_checked_and_the_others_need_no_check(tmp_path):
    class Noting(Fake):
        def run(self, job, progress):
            asked.append((job.cell.label, job.cell.seq_len, job.cell.mode, job.cell.probe, job.checked))
            record = super().run(job, progress)
            if job.cell.seq_len == 16 and not job.checked:
                return replace(record, status="incorrect", reason="wrong", samples={})
            return record

    asked: list[tuple[str, int, str, str, bool]] = []
    run(REFINED.override({"repeats": 3, "max_repeats": 3}), tmp_path / "out", executor=Noting())
    timed = [one for one in asked if one[3] == "time"]
    of_32 = [one[4] for one in timed if one[1] == 32 and one[0] == "linear"]
    assert of_32 == [False, True, True]
    assert not any(one[4] for one in timed if one[1] == 16), "what was incorrect is checked again"

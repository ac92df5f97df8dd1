"""Records name the host and the job they come from, and times of two hosts are never paired."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fakes import Fake
from frames import cost_records, raw
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.common import host
from effbench.common.host import host_of
from effbench.common.spec import Cell, Job, Limits, Record, block_of, record_from
from effbench.records.analyse.choice import Most, choose
from effbench.records.analyse.complexity import exponents
from effbench.records.analyse.crossover import crossovers
from effbench.records.analyse.drift import doubts
from effbench.records.analyse.summary import summarise
from effbench.records.analyse.uncertainty import Noise, ratio_interval
from effbench.records.analyse.winners import SEVERAL_HOSTS, fastest, undecided
from effbench.records.frame import raw_frame
from effbench.records.soundness import check_content
from effbench.records.store import Problem
from effbench.show import plots
from effbench.show.blocks import as_text
from effbench.show.overview import overview
from effbench.sweep.inline import InlineExecutor
from effbench.sweep.local import LocalExecutor
from effbench.sweep.loop import run
from effbench.sweep.machine_ceiling import Ceilings
from effbench.sweep.planning import plan
from effbench.sweep.sweep import Sweep

SLURM = ("SLURMD_NODENAME", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_CLUSTER_NAME")


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as outside of a Slurm job, also inside one."""
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)


def job(**fields: object) -> Job:
    cell = Cell(mechanism="linear", probe="memory", seq_len=8, d_model=8, heads=2, **fields)  # type: ignore[arg-type]
    return Job(cell=cell, limits=Limits(timeout_s=60.0, memory_bytes=2**30))


def test_outside_of_slurm_a_record_names_the_host_alone():
    assert host.facts() == {"host": platform.node()}
    assert host.host_of(host.facts()) == platform.node()
    assert host.host_of({"name": "an older record"}) == ""


def test_in_a_slurm_job_a_record_names_node_job_and_cluster(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("SLURM_JOB_ID", "1239")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "eff")
    assert host.facts() == {"host": "n1", "slurm_job": "1239", "slurm_cluster": "eff"}
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "1234")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    assert host.facts()["slurm_job"] == "1234_5"
    record = InlineExecutor().run(job(), lambda fraction, text: None)
    assert record.status == "ok", record.reason
    assert record.machine.items() >= host.identity().items()
    row = raw_frame([record]).iloc[0]
    assert (row["host"], row["slurm_job"]) == ("eff/n1", "1234_5")


def test_nodes_of_one_name_in_two_clusters_are_two_hosts():
    names = [host.host_of({"host": "n1", "slurm_cluster": cluster}) for cluster in ("one", "two", None)]
    assert len(set(names)) == 3


@pytest.mark.parametrize("name", ["host", "slurm_job", "slurm_cluster"])
def test_a_fact_that_is_no_text_is_damage(name):
    record = Record(cell=job().cell, status="crashed", machine={name: 7})
    with pytest.raises(ValueError, match=f"{name} is 7, not text"):
        check_content(record_from({**vars(record), "cell": vars(record.cell)}), ())


def on_hosts(records: list[Record], names: Callable[[Cell], str], factor: dict[str, float]) -> list[Record]:
    """The records, each from the host of its cell, on which times are ``factor`` as long."""
    moved = []
    for record in records:
        name = names(record.cell)
        times = tuple(factor.get(name, 1.0) * time for time in record.samples.get("time_s", ()))
        samples = {**record.samples, "time_s": times} if times else record.samples
        facts = {**record.machine, **({"host": name} if name else {})}
        moved.append(replace(record, samples=samples, machine=facts))
    return moved


def by_repeat(cell: Cell) -> str:
    return "n1" if cell.repeat < 2 else "n2"


def by_length(cell: Cell) -> str:
    return "n1" if cell.seq_len < 1000 else "n2"


def by_mechanism(cell: Cell) -> str:
    return "n1" if cell.mechanism == "vanilla" else "n2"


TWO = ("vanilla", "linear")
THREE = (*TWO, "fastformer")
LENGTHS = (128, 512, 4096)
HOSTS = st.sampled_from(["n1", "n2", "n3", ""])


@given(
    st.lists(st.tuples(HOSTS, HOSTS), min_size=1, max_size=5),
    st.lists(st.floats(0.01, 100), min_size=4, max_size=4),
)
def test_a_ratio_does_not_depend_on_how_fast_the_hosts_are(placed, speeds):
    rng = np.random.default_rng(0)
    logs = rng.normal(0, 0.1, (2, len(placed), 3))
    of = dict(zip(["n1", "n2", "n3", ""], speeds, strict=True))
    results = []
    for factor in (dict.fromkeys(of, 1.0), of):
        ours, theirs = (
            {
                ("", hosts[side], r): factor[hosts[side]] * np.exp(logs[side, r])
                for r, hosts in enumerate(placed)
            }
            for side in (0, 1)
        )
        results.append(ratio_interval(ours, theirs, Noise()))
    assert results[1] == pytest.approx(results[0], nan_ok=True)
    pairs = sum(ours == theirs for ours, theirs in placed)
    apart = len({host for hosts in placed for host in hosts}) > 1
    assert np.isnan(results[0][0]) == (apart and pairs == 0)
    assert np.isnan(results[0][1]) == (pairs < 2 if apart else len(placed) < 2)


@pytest.mark.parametrize("names", [by_repeat, by_length])
def test_a_slow_host_changes_no_ratio_no_winner_and_no_crossover(names):
    alike, slow = (
        raw(on_hosts(cost_records(THREE, LENGTHS, repeats=4), names, {"n2": factor})) for factor in (1.0, 7.0)
    )
    first, second = summarise(alike), summarise(slow)
    ratio = ["time_ratio", "time_ratio_low", "time_ratio_high"]
    assert second[ratio].to_numpy() == pytest.approx(first[ratio].to_numpy())
    assert second[ratio].notna().all(axis=None)
    for _, rows in second.groupby(["mode", "seq_len"]):
        assert undecided(rows) == ""
        assert fastest(rows)
    found = ["faster_before", "faster_after", "crossover"]
    crossed, again = crossovers(alike, resamples=50), crossovers(slow, resamples=50)
    assert crossed["crossover"].notna().any()
    pd.testing.assert_frame_equal(again[found], crossed[found])


def test_a_limit_of_times_decides_nothing_between_hosts():
    """The ratio is unknown, so neither is outside the limit, and none is the only one within it."""
    frame = raw(on_hosts(cost_records(TWO, LENGTHS), by_mechanism, {}))
    assert choose(frame, seq_len=512).undecided == SEVERAL_HOSTS
    limited = choose(frame, seq_len=512, most=Most(time_factor=2.0))
    assert (limited.undecided, list(limited.recommended)) == (SEVERAL_HOSTS, [])


def test_times_of_two_folders_are_those_of_two_runs():
    """Equal mechanisms, each timed in a run of its own, at an hour when the machine was 5 % off or so."""
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(30):
        runs = []
        for folder, mechanism in (("a", "linear"), ("b", "fastformer")):
            run = raw(cost_records((mechanism,), (128, 256), modes=("forward",)))
            run = run[run["probe"] == "time"]
            pace = np.exp(rng.normal(0, 0.05))
            runs.append(
                run.assign(folder=folder, samples_time_s=[pace * np.array(s) for s in run["samples_time_s"]])
            )
        (found,) = crossovers(pd.concat(runs, ignore_index=True), resamples=20)["statement"]
        assert "not compared" not in found
        told += "is faster" in found
    assert told <= 3, "as pairs of repeats, nearly all would differ"


def test_no_winner_is_named_among_times_of_different_hosts():
    frame = raw(on_hosts(cost_records(TWO, LENGTHS), by_mechanism, {}))
    rows = summarise(frame)
    timed = rows[rows["time_s"].notna()]
    assert set(timed["hosts"]) == {"n1", "n2"}
    assert set(timed["time_ratio"].dropna()) == {1.0}
    for _, same in timed.groupby(["mode", "seq_len"]):
        assert undecided(same) == SEVERAL_HOSTS
        assert fastest(same) == []
    found = crossovers(frame, resamples=50)
    assert found["crossover"].isna().all()
    assert all("were not compared" in text and SEVERAL_HOSTS in text for text in found["statement"])
    text = as_text(overview(rows, frame), "markdown")
    assert "measured on 2 hosts (n1, n2) of equal hardware" in text
    assert f"no winner is named from 128 to 4096: {SEVERAL_HOSTS}" in text
    assert "the fastest of the column" not in text, "the meaning of the mark *"
    chosen = choose(frame, seq_len=128, most=Most(time_factor=2.0))
    assert chosen.recommended in ((), ["linear"], ["vanilla"])
    assert chosen.exit_code() != 0 or len(chosen.of("front")) == 1


def test_rows_of_two_folders_and_two_hosts_have_no_winner():
    folders = [summarise(raw(on_hosts(cost_records([name]), by_mechanism, {}))) for name in TWO]
    same = [summarise(raw(on_hosts(cost_records([name]), lambda cell: "n1", {}))) for name in TWO]
    for tables, why in ((folders, SEVERAL_HOSTS), (same, "")):
        rows = pd.concat(tables).query("mode == 'forward' and seq_len == 4096 and time_s.notna()")
        assert undecided(rows) == why


def test_a_growth_over_several_hosts_is_less_sure_and_names_them():
    def fit(names: Callable[[Cell], str]) -> pd.Series:
        frame = raw(on_hosts(cost_records(["vanilla"], modes=["forward"]), names, {}))
        return exponents(frame, "time_s").iloc[0]

    one, apart, together = fit(lambda cell: "n1"), fit(by_length), fit(by_repeat)
    assert one["exponent"] == apart["exponent"] == together["exponent"]
    assert apart["exponent_high"] - apart["exponent_low"] > one["exponent_high"] - one["exponent_low"]
    assert together["exponent_high"] == one["exponent_high"], "each repeat is of one host alone"
    assert "hosts" not in one["statement"]
    assert apart["statement"].endswith("; measured on 2 hosts (n1, n2)")


def test_plots_and_sentences_name_several_hosts_and_not_one():
    for names, several in ((lambda cell: "n1", False), (by_length, True)):
        frame = raw(on_hosts(cost_records(TWO, LENGTHS), names, {}))
        ((_, figure),) = plots.draw(summarise(frame), frame, "time")
        assert ("measured on 2 hosts (n1, n2)" in " ".join(figure.get_suptitle().split())) == several
        assert any("2 hosts (n1, n2)" in sentence for sentence in doubts(frame)) == several


SWEEP = Sweep.from_toml(
    """
    [[grid]]
    mechanism = ["vanilla", "linear", "fastformer"]
    probe = ["time", "memory"]
    seq_len = [16, 32]
    d_model = 16
    heads = 2
    threads = 1
    seconds = 0.01
    repeats = 2
    max_repeats = 3
    """,
    "test",
    "test",
)


class Kept:
    """A results folder without a disk."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}

    def exists(self) -> bool:
        return True

    def read(self) -> tuple[list[Record], list[Problem]]:
        return list(self.records.values()), []


def go_on(store: Kept, name: str, most: int) -> int:
    """Measure on this host what the planner asks for, up to so many cells; return how many it asked for."""
    executor = Fake(noise={"linear": 0.3})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURMD_NODENAME", name)
        while len(executor.ran) < most and (jobs := plan(SWEEP, store).jobs):  # type: ignore[arg-type]
            for job in jobs[: most - len(executor.ran)]:
                store.records[job.cell.key] = executor.run(job, lambda fraction, text: None)
    return len(executor.ran)


@given(st.lists(st.tuples(st.sampled_from(["n1", "n2", "n3"]), st.integers(1, 12)), max_size=4))
@settings(max_examples=6)
def test_a_run_that_goes_on_elsewhere_keeps_each_repeat_of_a_block_on_one_host(interruptions):
    store = Kept()
    for name, most in interruptions:
        go_on(store, name, most)
    go_on(store, "n4", 1000)
    assert set(store.records) == {cell.key for cell in SWEEP.cells(most=True)}
    hosts = defaultdict(set)
    for record in store.records.values():
        if record.cell.probe == "time":
            hosts[block_of(record.cell), record.cell.repeat].add(host_of(record.machine))
    assert all(len(names) == 1 for names in hosts.values())
    assert go_on(store, "n5", 1000) == 0


def test_on_one_host_nothing_is_measured_twice():
    store = Kept()
    assert sum(go_on(store, "n1", 7) for _ in range(10)) == len(SWEEP.cells(most=True))


def test_a_failure_of_another_host_is_final_and_the_times_beside_it_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    run(SWEEP, tmp_path / "out", executor=Fake({("vanilla", "forward", 32): ("unsupported", "too long")}))
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    again = Fake()
    run(SWEEP, tmp_path / "out", executor=again)
    assert again.ran == []


class Told(LocalExecutor):
    """An executor whose server says this and no more."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        super().__init__()
        self._messages = iter(messages)

    def start(self) -> dict[str, Any]:
        return {"torch": "2", "cuda_devices": 1}

    def _send(self, message: dict[str, Any]) -> None:
        pass

    def _read(self, deadline: float) -> dict[str, Any] | None:
        return next(self._messages)


def test_failures_on_two_kinds_of_gpu_have_rows_of_their_own():
    exits = {"exit": {"signal": 11, "code": None, "max_rss_bytes": 1, "log": ""}}
    records = [
        Told([{"gpu": gpu}, exits]).run(job(device="cuda"), lambda fraction, text: None)
        for gpu in ("H100", "A100")
    ]
    assert [record.status for record in records] == ["crashed"] * 2
    rows = summarise(raw_frame(records))
    assert [name.rpartition(", ")[2] for name in rows["machine"]] == ["A100", "H100"]


def test_two_kinds_of_gpu_in_equal_hosts_have_ceilings_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    class Measures(Fake):
        def run(self, job, progress):
            self.ran.append(job)
            series = {name: (1.0,) for name in ("bandwidth_at_bytes", "bandwidth_bytes_per_s")}
            values = {"peak_flops_per_s": 1.0 * len(self.ran)}
            return Record(cell=job.cell, status="ok", samples=series, values=values)

    asked = Measures()
    peaks = []
    for gpu in ("H100", "A100", "H100"):
        cell = Cell(mechanism="linear", probe="flops", seq_len=8, device="cuda")
        record = Ceilings(asked).beside(Record(cell=cell, status="ok", machine={"gpu": gpu}))
        peaks.append(record.machine["ceiling"]["peak_flops_per_s"])
    assert peaks == [1.0, 2.0, 1.0]

"""Records name the host and the job they come from, and times of two hosts are never paired."""

from __future__ import annotations

import platform

import pytest

from effbench.common import host
from effbench.common.spec import Cell, Job, Limits, Record, record_from
from effbench.records.frame import raw_frame
from effbench.records.soundness import check_content
from effbench.sweep.inline import InlineExecutor

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

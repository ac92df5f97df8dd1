"""Sweeps on a real Slurm of three nodes: what is killed, refused, lost, stopped and drained."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_cluster
from slurm_cluster import Cluster

from effbench.cli import app as cli
from effbench.common.spec import Job, Record
from effbench.records.store import Store
from effbench.sweep.cluster import driver
from effbench.sweep.cluster.ledger import Ledger
from effbench.sweep.local import LocalExecutor
from effbench.sweep.sweep import Sweep

WHY_NOT = slurm_cluster.missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(WHY_NOT), reason=f"no Slurm: {WHY_NOT}")]

PLUGINS = Path(__file__).parent / "plugins.py"
COSTS = f"""
name = "one"
timeout = "60s"
memory_limit = "512MiB"
[[grid]]
mechanism = ["{PLUGINS}:Dawdles", "fnet"]
probe = "time"
mode = "forward"
seq_len = 16
repeats = 2
max_repeats = 2
seconds = 0.02
d_model = 16
heads = 2
threads = 1
"""
TRAINING = f"""
[[grid]]
mechanism = "{PLUGINS}:Dawdles"
probe = "accuracy"
task = "mqar:pairs=2,vocab=32,train=256,validation=8,test=8,epochs=20,patience=20"
seq_len = 32
batch_size = 32
layers = 1
d_model = 16
heads = 2
threads = 1
repeats = 1
"""
LONG = COSTS.replace("repeats = 2", "repeats = 10")
# Three bundles of one cell each, which takes no time.
BUNDLES = COSTS.replace(f'"{PLUGINS}:Dawdles", ', "").replace('"time"', '"memory"')
BUNDLES = BUNDLES.replace("seq_len = 16", "seq_len = [16, 18, 20]")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # not in pytest's folder, which Slurm's other users may not enter
    with (
        tempfile.TemporaryDirectory(prefix="effbench-slurm-") as folder,
        slurm_cluster.running(Path(folder)) as made,
    ):
        yield made


@pytest.fixture
def up(cluster, monkeypatch) -> Cluster:
    """The cluster, which this process's commands use from now on."""
    return use(cluster, monkeypatch)


@pytest.fixture
def drained(up) -> Iterator[Cluster]:
    """The cluster with its nodes drained: jobs wait."""
    up.ask("scontrol", "update", "nodename=n[1-3]", "state=drain", "reason=disk is full")
    yield up
    up.ask("scancel", "--user", str(os.getuid()))
    up.ask("scontrol", "update", "nodename=n[1-3]", "state=resume")


def use(cluster: Cluster, monkeypatch) -> Cluster:
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    monkeypatch.setattr(driver, "GRACE_S", 1.0)
    monkeypatch.setitem(driver.run.__kwdefaults__, "poll_s", 0.2)
    monkeypatch.setattr("effbench.cli.run.draw", lambda *arguments: [])
    return cluster


@pytest.fixture
def command(monkeypatch, capsys) -> Run:
    """``command("run", ...)`` in this process; (exit code, what it printed, its messages)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["effbench", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture
def script(tmp_path, monkeypatch) -> Callable[[str, str], Path]:
    """``script("squeue", "exit 1")``: a command that comes before Slurm's own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, text: str) -> Path:
        path: Path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return make


def run_of(text: str) -> list[str]:
    """Write the sweep; return the command that has it measured."""
    Path("one.toml").write_text(text)
    return ["run", "--config", "one.toml", "--executor", "slurm", "--out", "out"]


def queue(cluster: Cluster, form: str = "%i", *more: str) -> list[str]:
    return sorted(cluster.ask("squeue", "-h", "-r", "-o", form, *more).splitlines())


def records(text: str) -> dict[str, Record]:
    """Return the records by their cell's key: one for each cell of the sweep, all sound."""
    found, problems = Store(Path("out")).read()
    assert not problems
    cells = Sweep.from_toml(text, "one.toml", "one").cells()
    assert sorted(record.cell.key for record in found) == sorted(cell.key for cell in cells)
    return {record.cell.key: record for record in found}


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


# Jobs that are stopped, and a node that is lost.


def test_a_preempted_training_and_a_lost_node_end_in_the_same_result(up, command, tmp_path, monkeypatch):
    dawdle = tmp_path / "dawdle"
    dawdle.touch()
    monkeypatch.setenv("DAWDLE", str(dawdle))
    begin = run_of(LONG + TRAINING)
    code, printed, said = command(*begin, "--no-wait")
    assert code == 0, said
    assert "submitted; effbench status out says how far it is" in printed
    training, costs = Ledger(Path("out")).read()
    assert (training.need.exclusive, costs.need.exclusive) == (False, True)

    wait_for(lambda: list(Path("out/checkpoints").glob("*.pt")), "no checkpoint")
    up.ask("scontrol", "requeue", training.job)  # as Slurm does with a job that it preempts
    wait_for(lambda: list(Path("out/records").glob("*-time-*")), "no time")
    (node, *_) = queue(up, "%N", "--jobs", costs.job)
    up.fail_node(node)
    up.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=burnt")
    dawdle.unlink()
    requeued = ("PENDING", "BeginTime")
    wait_for(lambda: all(word in command("status", "out")[1] for word in requeued), "it is not requeued")

    code, printed, said = command(*begin)
    up.start_node(node)
    assert code == 0, said
    assert "time per call" in printed
    assert [one.job for one in Ledger(Path("out")).read()] == [training.job, costs.job], (
        "none is submitted twice"
    )
    found = records(LONG + TRAINING)
    assert {record.status for record in found.values()} == {"ok"}
    assert "0 jobs running, 0 jobs waiting" in command("status", "out")[1]

    (resumed,) = [record for record in found.values() if record.cell.probe == "accuracy"]
    assert resumed.values["resumed"] == 1
    assert resumed.limits is not None
    job = Job(cell=resumed.cell, limits=resumed.limits, code=resumed.code, data=resumed.data)
    executor = LocalExecutor()
    whole = executor.run(job, lambda fraction, text: None)
    executor.close()
    assert whole.values["resumed"] == 0
    for curve in ("step_loss", "train_loss", "validation_accuracy", "learning_rate", "curve_step"):
        assert resumed.samples[curve] == whole.samples[curve], curve
    assert resumed.values["test_correct"] == whole.values["test_correct"]


def test_a_job_at_its_time_limit_goes_on(up, command, script, tmp_path, monkeypatch):
    """At its first start the job is told that 34 of its seconds are left, of which it reserves 30."""
    dawdle, limited, squeue = tmp_path / "dawdle", tmp_path / "limited", shutil.which("squeue")
    dawdle.touch()
    monkeypatch.setenv("DAWDLE", str(dawdle))
    answer = f"mkdir {limited} && echo 0:34 && exit; rm -f {dawdle}"
    script("squeue", f'case "$*" in *%L*) {answer};; esac\nexec {squeue} "$@"')
    code, _, said = command(*run_of(LONG))
    assert code == 0, said
    assert {record.status for record in records(LONG).values()} == {"ok"}
    assert not dawdle.exists(), "the job has not started a second time"
    # on a machine so busy that no record came before the limit, it is submitted again instead
    assert len(Ledger(Path("out")).read()) <= 2


def test_a_bundle_whose_jobs_die_is_given_up_with_slurms_words(up, command, monkeypatch):
    begin = run_of(COSTS)
    with monkeypatch.context() as patches:
        patches.setenv(
            "PYTHONHOME", "/nowhere"
        )  # this process runs already; Python of the jobs does not start
        code, _, said = command(*begin)
    assert code == 5, said
    for record in records(COSTS).values():
        assert record.status == "interrupted"
        assert "3 Slurm jobs ended without a record of it" in record.reason
        assert "FAILED on n" in record.reason
    log = next(Path("out/cluster/jobs").glob("*.out"))
    assert "PYTHONHOME" in log.read_text()


# What waits in the queue: nothing is measured in these.


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_command_killed_while_it_submits_leaves_one_job_a_bundle(drained, command, script, moment):
    sbatch = shutil.which("sbatch")
    fake = script("sbatch", f'{sbatch if moment == "after" else ":"} "$@"\nkill -9 $PPID')
    begin = [*run_of(BUNDLES), "--no-wait"]
    killed = subprocess.run(
        [sys.executable, "-m", "effbench", *begin], capture_output=True, text=True, timeout=60
    )
    assert killed.returncode == -9, killed.stderr
    assert len(queue(drained)) == (3 if moment == "after" else 0)
    fake.unlink()
    (lost,) = Ledger(Path("out")).read()
    assert not lost.job
    assert "SUBMITTING" in command("status", "out")[1] or moment == "after"
    time.sleep(driver.GRACE_S)
    for _ in range(2):  # jobs without orders are ended in the first round
        code, _, said = command(*begin)
        assert code == 0, said
        wait_for(lambda: not queue(drained, "%i", "--name", lost.name), "jobs without orders stay")
    names = set(queue(drained, "%j"))
    assert names == {one.name for one in Ledger(Path("out")).read() if one.job}
    assert len(queue(drained)) == 3
    again = queue(drained)
    assert command(*begin)[0] == 0
    assert queue(drained) == again, "a live job is not submitted again"


def test_an_answer_that_is_lost_is_looked_for_in_the_queue(drained, command, script):
    sbatch = shutil.which("sbatch")
    fake = script(
        "sbatch",
        f'{sbatch} "$@" > /dev/null\necho "sbatch: error: Socket timed out on send/recv" >&2\nexit 1',
    )
    begin = [*run_of(BUNDLES), "--no-wait"]
    code, _, said = command(*begin)
    assert code == 0
    assert "not everything is submitted: sbatch got no answer (Socket timed out" in said
    (lost,) = Ledger(Path("out")).read()
    assert len(queue(drained)) == 3
    fake.unlink()
    time.sleep(driver.GRACE_S)
    for _ in range(2):
        assert command(*begin)[0] == 0
        wait_for(lambda: not queue(drained, "%i", "--name", lost.name), "jobs without orders stay")
    assert len(queue(drained)) == 3


def test_a_drained_node_a_silent_squeue_a_second_command_and_cancel(drained, command, script, monkeypatch):
    begin = run_of(BUNDLES)
    assert command(*begin, "--no-wait")[0] == 0
    shown = command("status", "out")[1]
    assert shown.count("PENDING") == 3
    assert "UnavailableNodes:n[1-3]" in shown, shown
    (submitted,) = Ledger(Path("out")).read()

    squeue = script("squeue", "exit 1")
    code, _, said = command(*begin, "--no-wait")
    assert code == 0, said
    assert "squeue does not answer" in command("status", "out")[1]
    assert command("cancel", "out")[0] == 1
    squeue.unlink()
    assert Ledger(Path("out")).read() == [submitted], "nothing is submitted again"

    with Store(Path("out")).lock():
        code, _, said = command(*begin)
    assert (code, said.count("\n")) == (2, 1)
    assert "another effbench run is writing to out" in said

    waiting = subprocess.Popen([sys.executable, "-m", "effbench", *begin], stderr=subprocess.PIPE, text=True)
    assert waiting.stderr is not None
    assert "waiting" in waiting.stderr.readline() + waiting.stderr.readline()
    assert "ended 3 jobs" in command("cancel", "out")[1]
    assert waiting.wait(60) == 130
    assert "effbench cancel ended its jobs" in waiting.stderr.read()
    waiting.stderr.close()
    assert not queue(drained)
    assert command("status", "out")[1].count("LOST") == 3

    drained.ask("scontrol", "update", "nodename=n[1-3]", "state=resume")
    code, _, said = command(*begin)
    assert code == 0, said
    assert {record.status for record in records(BUNDLES).values()} == {"ok"}


def test_what_slurm_refuses_is_one_line_in_its_words_and_leaves_nothing_behind(drained, command, script):
    begin = run_of(BUNDLES)
    before = sorted(Path().rglob("*"))
    refused = (
        "echo 'sbatch: error: Batch job submission failed: Invalid account or account/partition' >&2\nexit 1"
    )
    for options, words in (
        (["--partition", "nope"], "invalid partition specified: nope"),
        (["--constraint", "h100"], "Invalid feature specification"),
        (["--sbatch", "nodelist=n9"], "Invalid node name specified"),
        (["--memory-limit", "900GiB"], "Memory specification can not be satisfied"),
        ([], "Invalid account"),
    ):
        if not options:
            script("sbatch", refused)
        code, printed, said = command(*begin, *options, "--quiet")
        assert (code, printed, said.count("\n")) == (2, "", 1), said
        assert words in said
        assert sorted(Path().rglob("*")) == before
    assert not queue(drained)


def test_arrays_fit_what_slurm_takes_and_the_rest_waits_for_a_place(monkeypatch, command, script, tmp_path):
    """MaxArraySize is 3, so that an array has two jobs; then the queue is full for a while."""
    sbatch, taken, full = shutil.which("sbatch"), tmp_path / "taken", tmp_path / "full"
    words = "sbatch: error: Batch job submission failed: Unable to create job record, try again"
    full.touch()
    script(
        "sbatch", f'if [ -e {full} ] && ! mkdir {taken}; then echo "{words}" >&2; exit 1; fi\n{sbatch} "$@"'
    )
    with (
        tempfile.TemporaryDirectory(prefix="effbench-slurm-") as folder,
        slurm_cluster.running(Path(folder), most_in_an_array=3) as small,
    ):
        use(small, monkeypatch)
        small.ask("scontrol", "update", "nodename=n[1-3]", "state=drain", "reason=full")
        begin = [*run_of(BUNDLES), "--no-wait"]
        code, _, said = command(*begin)
        assert code == 0
        assert "not everything is submitted: Slurm takes no more jobs now" in said
        assert len(queue(small)) == 2
        full.unlink()
        assert command(*begin)[0] == 0
        assert len(queue(small)) == 3
        assert [len(one.handed) for one in Ledger(Path("out")).read()] == [2, 1]

"""Sweeps on a cluster without one: bundles, requests, the ledger, the shared folder, and the driver."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm, Heard, Killed, drive
from fakes import Fake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effbench.cli import app as cli
from effbench.common.exits import Fault
from effbench.common.spec import Record, UsageError, block_of
from effbench.records.packing import pack
from effbench.records.store import Store
from effbench.sweep import loop, planning
from effbench.sweep.cluster import driver, job_request, node, shared_store, slurm
from effbench.sweep.cluster import status as status_of
from effbench.sweep.cluster.bundles import BASE_BYTES, RESERVE_S, bundled_in, bundles, require_portable
from effbench.sweep.cluster.job_request import Settings
from effbench.sweep.cluster.ledger import Ledger
from effbench.sweep.cluster.shared_store import SharedStore
from effbench.sweep.planning import plan
from effbench.sweep.sweep import Sweep

TEXT = """
name = "one"
timeout = "60s"
memory_limit = "1GiB"
[[grid]]
mechanism = ["vanilla", "linear"]
probe = ["time", "memory"]
mode = "forward"
seq_len = [16, 32]
repeats = 2
max_repeats = 2
d_model = 16
heads = 2
threads = 1
[[grid]]
mechanism = ["vanilla", "linear"]
probe = "accuracy"
task = "listops"
seq_len = 16
repeats = 2
d_model = 16
heads = 2
threads = 1
"""


def sweep(text: str = TEXT) -> Sweep:
    return Sweep.from_toml(text, "test.toml", "test")


def jobs_of(one: Sweep, folder: Path):
    return plan(one, Store(folder), anywhere=True).jobs


@pytest.fixture
def fake(monkeypatch) -> FakeSlurm:
    return FakeSlurm(monkeypatch)


# Bundles.


def test_each_cell_is_in_one_bundle_and_blocks_stay_whole(tmp_path):
    one = sweep(TEXT.replace("max_repeats = 2", "max_repeats = 5"))
    made = bundles(one, jobs_of(one, tmp_path / "out"), Settings())
    planned = [key for bundle in made for key in bundle.planned]
    assert sorted(planned) == sorted(cell.key for cell in one.cells())
    possible = [key for bundle in made for key in bundle.possible]
    assert sorted(possible) == sorted(cell.key for cell in one.cells(most=True))
    of = {key: bundle for bundle in made for key in bundle.possible}
    for cell in one.cells(most=True):
        alike = [other for other in one.cells(most=True) if block_of(other) == block_of(cell)]
        together = {of[other.key].block for other in alike}
        assert len(together) == (1 if cell.probe != "accuracy" else len(alike))
        assert of[cell.key].need.exclusive == (cell.probe != "accuracy")
    assert {bundle.need.memory_bytes for bundle in made} == {2**30 + BASE_BYTES}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('memory_limit = "1GiB"\n', ""), "needs --memory-limit"),
        (("threads = 1\n", ""), "needs --threads"),
    ],
)
def test_what_depends_on_this_machine_is_asked_for(change, complaint):
    require_portable(sweep())
    with pytest.raises(UsageError, match=complaint):
        require_portable(sweep(TEXT.replace(*change)))


def test_a_cost_that_fits_into_no_job_is_refused_and_a_training_is_not(tmp_path):
    short = job_request.load(None, {"time_limit": "1m"})
    one = sweep()
    trainings = [job for job in jobs_of(one, tmp_path / "out") if job.cell.probe == "accuracy"]
    assert {bundle.need.minutes for bundle in bundles(one, trainings, short)} == {1}
    with pytest.raises(UsageError, match="a cost may take 60 s, .* a longer --time-limit or a shorter"):
        bundles(one, jobs_of(one, tmp_path / "out"), short)


# What the user asks for.


def request(tmp_path: Path, text: str = "", options=(), **given):
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    return job_request.load(path, given, options)


def test_the_command_comes_before_the_file_and_a_kind_before_what_is_common(tmp_path):
    text = """
    account = "common"
    partition = "cpu"
    time_limit = "2h"
    most_jobs = 7
    [options]
    reservation = "maint"
    [timing]
    partition = "quiet"
    [training]
    time_limit = "30m"
    options = {nice = "5"}
    """
    got = request(tmp_path, text, ["reservation=other"], account="mine")
    assert (got.timing.account, got.training.account, got.most_jobs) == ("mine", "mine", 7)
    assert (got.timing.partition, got.training.partition) == ("quiet", "cpu")
    assert (got.timing.most_s, got.training.most_s) == (7200, 1800)
    assert got.timing.extra == {"reservation": "other"}
    assert got.training.extra == {"reservation": "other", "nice": "5"}
    assert job_request.load(None, {}) == Settings()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("account = ", "cluster.toml: not valid TOML"),
        ('acount = "x"', "cluster.toml: unknown key 'acount'; did you mean 'account'"),
        ('timing = "x"', "timing is 'x', not a table"),
        ("[timing]\nmost_jobs = 3", "unknown key 'most_jobs'"),
        ("account = 3", "account is 3, not a name that sbatch can take"),
        ('account = "a b"', "account is 'a b', not a name"),
        ('partition = "x\\n#SBATCH --wrap=1"', "partition is"),
        ('time_limit = "10s"', "Slurm counts minutes; give at least 1m"),
        ("most_jobs = 0", "most_jobs 0 is not"),
        ('options = "x"', "options is 'x', not a table"),
        ('[options]\narray = "1-3"', "'array' is not free: effbench sets it"),
        ('[options]\nReservation = "x"', "'Reservation=x' is not NAME=VALUE"),
        ('[options]\nnice = "1\\n#SBATCH --wrap=1"', "is not NAME=VALUE"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(tmp_path, text, complaint):
    with pytest.raises(UsageError, match=complaint):
        request(tmp_path, text)


@pytest.mark.parametrize("option", ["nice", "=3", "nice=", "mem=3G", "--mem=3G", "time=1"])
def test_a_bad_option_of_sbatch_is_refused(tmp_path, option):
    with pytest.raises(UsageError, match="sbatch option"):
        request(tmp_path, options=[option])


# The ledger.


def test_a_ledger_reads_what_it_wrote_and_names_a_damaged_file(tmp_path):
    ledger = Ledger(tmp_path)
    assert (ledger.exists(), ledger.read()) == (False, [])
    one = sweep()
    made = bundles(one, jobs_of(one, tmp_path / "out"), Settings())
    alike = [bundle for bundle in made if bundle.need == made[0].need]
    first = ledger.intend(alike)
    second = ledger.write(replace(ledger.intend(alike[:1]), job="7"))
    assert ledger.read() == [first, second]
    assert (second.job_of(0), replace(first, job="8").job_of(1)) == ("7", "8_1")
    ledger.forget(first)
    ledger.forget(first)
    assert ledger.read() == [second]
    path = ledger.folder / f"{second.name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "handed": 3}))
    with pytest.raises(UsageError, match=f"{second.name}.json is not a submission"):
        ledger.read()


# The shared folder.


def stored(one: Sweep, folder: Path) -> Record:
    """The record of the sweep's first job."""
    made: Record = Fake().run(jobs_of(one, folder)[0], None)
    return made


def test_the_first_final_record_stays_and_a_later_one_is_kept_beside_it(tmp_path):
    one, folder = sweep(), tmp_path / "out"
    first = stored(one, folder)
    store, reader = SharedStore(folder, [first.cell.key]), SharedStore(folder, [first.cell.key])
    store.create()
    store.write(replace(first, status="interrupted"))
    store.write(first)
    assert not (folder / "superseded").exists(), "an interrupted record is no result"
    for status in ("ok", "crashed", "interrupted"):
        store.write(replace(first, status=status, seconds=3.0))
        assert reader.read() == ([first], [])
    assert len(list((folder / "superseded").iterdir())) == 2, "an interrupted record is no surplus"
    newer = replace(first, code="d")
    store.write(newer)
    assert store.read()[0] == [newer], "other code is measured anew"
    store.write(replace(newer, status="interrupted"))
    assert reader.read()[0] == [newer], "a result is not lost if it is measured again and interrupted"
    again = replace(newer, seconds=4.0)
    store.write(again)
    assert reader.read()[0] == [again], "what was known is measured again on purpose"
    assert SharedStore(folder, ["0" * 16]).read() == ([], []), "it reads its own cells only"


def test_a_record_that_this_machine_does_not_see_yet_is_not_overwritten(tmp_path, monkeypatch):
    """What it remembers of a shared folder can be old."""
    first = stored(sweep(), tmp_path / "out")
    store = SharedStore(tmp_path / "out", [first.cell.key])
    store.create()
    store.write(first)
    remembered = [None]
    known = shared_store.sound
    monkeypatch.setattr(shared_store, "sound", lambda path: remembered.pop() if remembered else known(path))
    store.write(replace(first, seconds=5.0))
    assert store.read()[0] == [first]
    assert len(list((tmp_path / "out" / "superseded").iterdir())) == 1
    assert not list((tmp_path / "out" / "records").glob(".*"))


def test_packed_records_count_on_a_node(tmp_path):
    one = sweep()
    record = stored(one, tmp_path / "out")
    store = SharedStore(tmp_path / "out", [record.cell.key])
    store.create()
    store.write(record)
    pack(store.folder)
    assert store.read()[0] == [record]


# Slurm's commands, as scripts that say what Slurm would say.


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """``commands(sbatch="...")``: scripts of these names come first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(**scripts: str) -> None:
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

    return make


def submit(tmp_path: Path, calls: int = 2) -> str:
    need = bundles(sweep(), jobs_of(sweep(), tmp_path / "out"), Settings())[0].need
    request = Settings().timing
    return slurm.submit(
        tmp_path / "jobs", "effbench-x", need, request, 10, [(print, n) for n in range(calls)]
    )


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("Batch job submission failed: Invalid account or account/partition combination", UsageError),
        ("invalid partition specified: nope", UsageError),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", slurm.Busy),
        ("QOSMaxSubmitJobPerUserLimit\\nsbatch: error: Job violates policy (job submit limit)", slurm.Busy),
        ("QOSMaxWallDurationPerJobLimit\\nsbatch: error: violates (job submit limit, ...)", UsageError),
        ("Batch job submission failed: Unable to create job record, try again", slurm.Busy),
        ("Batch job submission failed: Resource temporarily unavailable", slurm.Busy),
        ("Unable to contact slurm controller (connect failure)", slurm.Busy),
        ("Batch job submission failed: Socket timed out on send/recv operation", slurm.Unanswered),
        ("Batch job submission failed: Zero Bytes were transmitted or received", slurm.Unanswered),
    ],
)
def test_what_sbatch_says_decides_whether_to_end_to_wait_or_to_look(tmp_path, commands, capfd, words, error):
    commands(srun="", sbatch=f'printf "sbatch: error: {words}\\n" >&2; exit 1')
    with pytest.raises(error, match=words.partition("\\n")[0].replace("(", "\\(").replace(")", "\\)")[:40]):
        submit(tmp_path)
    assert capfd.readouterr() == ("", ""), "the message is the caller's to print"
    assert not [path for path in (tmp_path / "jobs").iterdir()], "nothing is left of a refused submission"


def test_submitit_leaves_the_logging_of_a_program_alone():
    """A handler that is closed may close the standard error that it writes to."""
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import logging, os\n"
            "handler = logging.StreamHandler()\n"
            "handler.close = lambda: os._exit(1)\n"
            "from effbench.sweep.cluster import slurm\n"
            "assert slurm._submitit().SlurmExecutor and 'SUBMITIT_LOG_LEVEL' not in os.environ\n"
            "os._exit(0)",
        ],
        check=True,
    )


def test_an_answer_without_a_number_is_no_answer(tmp_path, commands):
    commands(srun="", sbatch="echo what")
    with pytest.raises(slurm.Unanswered, match="what"):
        submit(tmp_path)
    commands(sbatch="kill -9 $$")
    with pytest.raises(slurm.Unanswered, match="sbatch was killed"):
        submit(tmp_path)


def test_a_job_does_not_inherit_the_job_that_submits_it(tmp_path, commands, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_CONF", "/there")
    commands(
        srun="", sbatch=f'env > {tmp_path}/env; cp "$1" {tmp_path}/script; echo "Submitted batch job 12"'
    )
    assert submit(tmp_path) == "12"
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert {name for name in names if name.startswith("SLURM")} == {"SLURM_CONF"}
    assert os.environ["SLURM_ARRAY_TASK_ID"] == "3"
    script = (tmp_path / "script").read_text()
    for line in ("array=0-1%2", "exclusive", "nodes=1", "ntasks-per-node=1", "requeue", "mem=3072M"):
        assert f"#SBATCH --{line}\n" in script
    assert slurm.has_orders(tmp_path / "jobs", ["12_0", "12_1"])
    assert not slurm.has_orders(tmp_path / "jobs", ["12_0", "12_2"])


def test_the_queue_is_read_and_none_if_squeue_fails(commands):
    lines = ["7|effbench-a|RUNNING|n1|None", "8_3|effbench-b|PENDING||Resources", "9|other|RUNNING|n1|None"]
    commands(squeue="printf '" + "\\n".join(lines) + "\\n'")
    assert slurm.queue() == {
        "7": slurm.Queued(job="7", name="effbench-a", state="RUNNING", nodes="n1", why=""),
        "8_3": slurm.Queued(job="8_3", name="effbench-b", state="PENDING", nodes="", why="Resources"),
    }
    commands(squeue="exit 1")
    assert slurm.queue() is None
    assert slurm.left_s("7") is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("4:05", 245), ("1:00:00", 3600), ("2-03:00:01", 183601), ("UNLIMITED", None), ("", None)],
)
def test_the_time_that_a_job_has_left(commands, text, seconds):
    commands(squeue=f"echo '{text}'")
    assert slurm.left_s("7") == seconds


def test_how_a_job_ended_in_slurms_words(commands):
    facts = "JobId=7 JobState=TIMEOUT Reason=TimeLimit Dependency=(null) ExitCode=0:15 NodeList=n2"
    commands(scontrol=f"echo '{facts}'")
    assert slurm.ending("7") == "TIMEOUT on n2 (TimeLimit, 0:15)"
    commands(scontrol="exit 1")
    assert slurm.ending("7") == ""
    assert slurm.most_in_an_array() == 1000
    commands(scontrol="echo 'MaxArraySize            = 11'")
    assert slurm.most_in_an_array() == 10


@pytest.mark.parametrize("absent", ["sbatch", "squeue", "submitit"])
def test_what_is_missing_is_named(tmp_path, monkeypatch, commands, absent):
    commands(**{name: "" for name in ("sbatch", "squeue", "scancel", "scontrol", "srun") if name != absent})
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    if absent == "submitit":
        slurm.require()
        monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=f"needs .* {absent}"):
        slurm.require()


# A job on its node.


def order(folder: Path, one: Sweep, **changes) -> node.Order:
    only = frozenset(cell.key for cell in one.cells(most=True))
    values = {"data_dir": None, "predictions": False, "weights": False, "minutes": 5, **changes}
    return node.Order(folder=str(folder), sweep=replace(one, only=only), **values)


COSTS = TEXT.partition("[[grid]]\nmechanism")[0] + TEXT.rpartition("[[grid]]")[0].partition('GiB"\n')[2]


def test_a_mechanism_that_ends_jobs_is_given_up_whole_and_the_others_are_measured(tmp_path, fake):
    one = sweep(COSTS.replace("[16, 32]", "16"))
    fake.ends = ["in cell", "in cell"]
    drive(one, tmp_path / "out")
    records, problems = Store(tmp_path / "out").read()
    assert not problems
    crashed = {record.cell.mechanism for record in records if record.status == "crashed"}
    assert len(crashed) == 1
    assert all(record.status == "crashed" for record in records if record.cell.mechanism in crashed)
    assert sum(record.status == "ok" for record in records) == len(records) / 2 == len(one.cells()) / 2
    assert "2 Slurm jobs ended while they measured this mechanism" in min(
        record.reason for record in records if record.reason
    )
    assert fake.submitted == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_job_that_is_told_to_end_records_the_cell_and_asks_for_no_requeue(
    tmp_path, fake, monkeypatch, number
):
    def stop(job, progress):
        os.kill(os.getpid(), number)
        raise AssertionError("the signal was not heard")

    one = sweep(COSTS)
    Store(tmp_path / "out").create()
    monkeypatch.setattr(slurm, "requeue", lambda job: pytest.fail("Slurm requeues a preempted job itself"))
    monkeypatch.setattr(fake.executor, "run", stop)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit):
        node.measure(order(tmp_path / "out", one))
    assert signal.getsignal(number) == before
    (record,) = Store(tmp_path / "out").read()[0]
    assert record.status == "interrupted"
    assert not list((tmp_path / "out" / "cluster" / "attempts").iterdir())


@pytest.mark.parametrize("comes_further", [True, False])
def test_a_job_at_its_time_limit_is_requeued_only_if_it_came_further(
    tmp_path, fake, monkeypatch, comes_further
):
    requeued: list[str] = []
    one = sweep(COSTS)
    Store(tmp_path / "out").create()
    measured = fake.executor.run

    def slow(job, progress):
        if comes_further and len(fake.executor.ran) < 2:
            return measured(job, progress)
        signal.pause()

    monkeypatch.setattr(slurm, "requeue", requeued.append)
    monkeypatch.setattr(slurm, "left_s", lambda job: RESERVE_S + 0.5)
    monkeypatch.setattr(fake.executor, "run", slow)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(SystemExit):
        node.measure(order(tmp_path / "out", one))
    assert requeued == (["7"] if comes_further else [])
    reasons = [record.reason for record in Store(tmp_path / "out").read()[0] if record.status != "ok"]
    assert len(reasons) == 1
    assert ("give a longer --time-limit" in reasons[0]) == (not comes_further)


# The driver.


def one_record_a_cell(folder: Path, one: Sweep) -> list[Record]:
    records, problems = Store(folder).read()
    assert not problems
    assert sorted(record.cell.key for record in records) == sorted(cell.key for cell in one.cells())
    return records


def test_a_sweep_is_measured_and_a_second_call_submits_nothing(tmp_path, fake):
    one, heard = sweep(), Heard()
    outcome = drive(one, tmp_path / "out", heard=heard)
    assert all(record.status == "ok" for record in one_record_a_cell(tmp_path / "out", one))
    assert len(heard.records) == len(one.cells())
    assert outcome is not None
    assert len(outcome.raw) == len(one.cells())
    submitted = fake.submitted
    assert drive(one, tmp_path / "out") is not None
    assert fake.submitted == submitted


EVENTS = ["killed before", "killed after", slurm.Busy("full"), slurm.Unanswered("timed out"), None]


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    says=st.lists(st.sampled_from(EVENTS), max_size=6),
    ends=st.lists(st.sampled_from(["done", "done", "dies", "in cell"]), max_size=6),
    waits=st.lists(st.booleans(), max_size=4),
    most=st.integers(1, 5),
)
def test_whatever_is_killed_each_cell_has_one_record_and_no_block_two_jobs(
    tmp_path_factory, says, ends, waits, most
):
    """FakeSlurm itself asserts that no two jobs have one block."""
    one, folder = sweep(TEXT.replace("repeats = 2", "repeats = 1")), tmp_path_factory.mktemp("any") / "out"
    with pytest.MonkeyPatch.context() as patches:
        fake = FakeSlurm(patches)
        fake.says, fake.ends, fake.most = list(says), list(ends), most
        patches.setattr(loop, "tables", lambda *of: None)  # they take longest
        for wait in [*waits, *[True] * (1 + len(says))]:
            with contextlib.suppress(Killed):
                drive(one, folder, wait=wait)
        one_record_a_cell(folder, one)
        assert not fake.jobs
        assert not (folder / "superseded").exists()


def test_a_repeat_that_a_live_job_may_still_add_is_not_submitted_again(tmp_path, monkeypatch):
    """The command ended when the planned repeats were done, and their times ask for more."""
    fake = FakeSlurm(monkeypatch, Fake(noise={"vanilla": 0.5}))
    one = sweep(COSTS.replace("[16, 32]", "16").replace("max_repeats = 2", "max_repeats = 4"))
    out = tmp_path / "out"
    drive(one, out, wait=False)
    (job,) = fake.jobs
    planned = plan(one, Store(out), anywhere=True).jobs
    monkeypatch.setenv("SLURM_JOB_ID", job)
    for one_job in planned:  # the job has measured these so far
        SharedStore(out, [one_job.cell.key]).write(fake.executor.run(one_job, None))
    assert plan(one, Store(out), anywhere=True).jobs, "further repeats are due"
    drive(one, out, wait=False)
    assert fake.submitted == 1
    drive(one, out)
    assert fake.submitted == 1
    assert {record.cell.repeat for record in Store(out).read()[0]} == {0, 1, 2, 3}


def test_a_silent_squeue_submits_nothing_again(tmp_path, fake):
    one, said = sweep(), list[str]()
    drive(one, tmp_path / "out", wait=False)
    submitted = fake.submitted
    fake.silent = True
    fake.run_all()
    drive(one, tmp_path / "out", wait=False)
    assert fake.submitted == submitted
    shown = status_of.status(tmp_path / "out")
    assert not shown.squeue_answers
    with pytest.raises(Fault, match="squeue does not answer"):
        status_of.cancel(tmp_path / "out")
    fake.silent = False
    drive(one, tmp_path / "out", said=said)
    one_record_a_cell(tmp_path / "out", one)
    assert fake.submitted == submitted


def test_what_dies_each_time_is_given_up_with_slurms_words_and_tried_by_the_next_call(tmp_path, fake):
    one = sweep(COSTS.replace("[16, 32]", "16"))
    fake.ends = ["dies"] * driver.MOST_SUBMISSIONS
    drive(one, tmp_path / "out")
    assert fake.submitted == driver.MOST_SUBMISSIONS
    for record in one_record_a_cell(tmp_path / "out", one):
        assert record.status == "interrupted"
        assert "the last one, 3: FAILED on n1 (NonZeroExitCode, 1:0)" in record.reason
    drive(one, tmp_path / "out")
    assert {record.status for record in one_record_a_cell(tmp_path / "out", one)} == {"ok"}


def test_records_of_other_code_are_named_and_kept(tmp_path, fake, monkeypatch):
    """The nodes have another version than the machine that submits."""
    one, said = sweep(COSTS.replace("[16, 32]", "16")), list[str]()
    store = Store(tmp_path / "out")
    ran = fake.run_all

    def other_code() -> None:
        ran()
        for record in store.read()[0]:
            if record.code != "other":
                for path in (store.folder / "records").glob(f"*.{record.cell.key}.json"):
                    path.unlink()
                store.write(replace(record, code="other"))

    fake.while_waiting = other_code
    monkeypatch.setattr(planning, "code_of", lambda cell: "other")
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(planning, "code_of", lambda cell: "mine")
        jobs = plan(one, store, anywhere=True)
    monkeypatch.setattr(
        planning, "pending", lambda cells, *rest: ([j for j in jobs.jobs if j.cell in list(cells)], [])
    )
    driver.run(one, store, jobs, Settings(), Heard(), said.append, poll_s=0.0)
    assert any("other code or data than this machine has: other" in text for text in said)
    assert {record.code for record in store.read()[0]} == {"other"}


@pytest.mark.parametrize("limit", [1, 3])
def test_arrays_shrink_to_what_slurm_takes(tmp_path, fake, monkeypatch, limit):
    taken = fake.submit

    def submit(folder, name, need, request, most_jobs, calls):
        if len(fake.jobs) + len(calls) > limit:
            raise slurm.Busy("AssocMaxSubmitJobLimit")
        return taken(folder, name, need, request, most_jobs, calls)

    one, said = sweep(), list[str]()
    monkeypatch.setattr(slurm, "submit", submit)
    drive(one, tmp_path / "out", said=said)
    one_record_a_cell(tmp_path / "out", one)
    assert max(fake.arrays) <= limit
    assert any("Slurm takes no more jobs now (AssocMaxSubmitJobLimit)" in text for text in said)


def test_a_refusal_leaves_nothing_behind(tmp_path, fake):
    one = sweep()
    fake.says = [None, UsageError("Slurm refuses the job: no such partition")]
    with pytest.raises(UsageError, match="no such partition"):
        drive(one, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not fake.jobs, "what was submitted before the refusal is ended"
    (tmp_path / "there").mkdir()
    fake.says = [UsageError("Slurm refuses the job: no such partition")]
    with pytest.raises(UsageError, match="no such partition"):
        drive(one, tmp_path / "there")
    assert (tmp_path / "there").is_dir(), "a folder of the user stays"


def test_cancel_ends_the_jobs_and_the_command_that_waits_and_run_goes_on(tmp_path, fake, monkeypatch):
    one, out = sweep(), tmp_path / "out"
    ended: list[int] = []
    fake.while_waiting = lambda: ended.append(status_of.cancel(out))
    with pytest.raises(driver.Cancelled):
        drive(one, out)
    assert ended
    assert ended[0] > 0
    assert not fake.jobs
    assert "LOST" in {bundle.state for bundle in status_of.status(out).bundles}
    fake.while_waiting = fake.run_all
    drive(one, out)
    one_record_a_cell(out, one)


def test_status_changes_nothing(tmp_path, fake):
    """A command that submits may be in the middle of it."""
    one, out = sweep(), tmp_path / "out"
    fake.says = ["killed after"]
    with pytest.raises(Killed):
        drive(one, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    shown = status_of.status(out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert {bundle.state for bundle in shown.bundles} == {"SUBMITTING"}
    assert fake.jobs


def test_a_folder_of_local_records_is_refused_and_so_is_a_second_driver(tmp_path, fake):
    one, out = sweep(), tmp_path / "out"
    drive(one, out, wait=False)
    with Store(out).lock(), pytest.raises(UsageError, match="another effbench run is writing"):
        drive(one, out)
    store = Store(tmp_path / "local")
    store.create()
    store.write(stored(one, store.folder))
    with pytest.raises(UsageError, match="records of a run without Slurm"):
        drive(one, store.folder)
    with pytest.raises(UsageError, match="nothing was submitted from"):
        status_of.status(store.folder)


def test_a_folder_of_jobs_is_not_measured_into_here(tmp_path, fake, monkeypatch, capsys):
    drive(sweep(), tmp_path / "out", wait=False)
    before = sorted(tmp_path.rglob("*"))
    Path("one.toml").write_text(TEXT)
    monkeypatch.setattr(
        sys, "argv", ["effbench", "run", "--config", "one.toml", "--out", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "come from Slurm jobs: add --executor slurm, or choose another --out" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == sorted([*before, Path("one.toml").absolute()])


def test_bundles_are_told_apart_by_block(tmp_path):
    one = sweep()
    for cell in one.cells():
        assert bundled_in(cell) == (cell.key if cell.probe == "accuracy" else block_of(cell))

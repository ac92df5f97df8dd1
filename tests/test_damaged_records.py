"""Records with anything in them: a problem that is reported and left alone, or a row; never a traceback."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from damage import changed
from frames import accuracy_records, cost_records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effbench.cli import app as cli
from effbench.common import machine
from effbench.common.spec import Cell, Record, UsageError, cell_key, to_json
from effbench.common.strict_json import parse_json
from effbench.measured.models.checkpoint import Checkpoint
from effbench.records.soundness import check_ceiling
from effbench.records.store import Store, write_tables
from effbench.sweep import machine_ceiling as ceiling
from effbench.sweep import planning, skipping
from effbench.sweep.estimate import Estimate
from effbench.sweep.machine_ceiling import Ceilings
from effbench.sweep.sweep import Sweep

HERE = settings(suppress_health_check=list(HealthCheck))
CEILING: dict[str, Any] = {
    "peak_flops_per_s": 1e11, "bandwidth_at_bytes": [1e6, 1e8], "bandwidth_bytes_per_s": [5e10, 1e10],
    "measured": "2025-01-01T00:00:00+00:00", "threads_used": 2,
}  # fmt: skip
FACTS = {
    "cores": 2, "memory_bytes": 8 * 2**30, "torch": "2.13.0", "affinity": [0, 1], "cpu_quota_cores": None,
    "load_1min": 0.1, "others_cores": 0.0, "steal_s": 0.0, "frequency_hz": 2e9, "frequency_change": 0.0,
}  # fmt: skip
CURVES = {
    "step_s": (0.1,) * 6, "step_loss": (0.9, 0.8, 0.7, 0.6, 0.5, 0.4), "train_loss": (0.8, 0.5),
    "curve_epoch": (1.0, 2.0), "curve_step": (3, 6), "curve_seconds": (0.3, 0.6),
    "validation_accuracy": (0.5, 0.6), "learning_rate": (1e-3, 1e-4),
}  # fmt: skip
EVERY = ("memory", "flops", "time", "accuracy")
FEW = 6  # records of memory and flops, and two repeats of time and accuracy


def filled(record: Record) -> Record:
    """A record as the probes write it."""
    facts = {**record.machine, **FACTS}
    values = {**record.values, "declared_order": "N^2", "declared_memory_order": "N", "libraries": ""}
    samples = dict(record.samples)
    if record.cell.probe == "flops":
        facts["ceiling"] = CEILING
        values |= {"bytes_moved": 10**6, "uncounted_share": 0.0, "uncounted_ops": ""}
    if record.cell.probe == "time":
        values |= {"warmed_up": "yes", "trend": 0.001, "calls_per_sample": 1, "warm_up_s": 0.1}
    if record.cell.probe == "accuracy":
        values |= {"test_macro_f1": 0.5, "validation_accuracy": 0.6, "best_epoch": 2.0, "stopped": "patience"}
        values |= {"train_examples": 100, "test_texts_in_train": 0}
        samples = CURVES
    return replace(
        record,
        values=values,
        samples=samples,
        machine=facts,
        started="2025-01-01T10:00:00+00:00",
        seconds=1.0,
    )


@cache
def good() -> tuple[Record, ...]:
    records = cost_records(("vanilla", "fastformer"), (64, 128, 256), repeats=2, modes=("forward",))
    trained = accuracy_records(("vanilla", "fastformer"), (128,), seeds=2, task="imdb")
    failed = replace(records[0], cell=replace(records[0].cell, seq_len=512), status="oom", reason="too big")
    return tuple(map(filled, (*records, *trained, replace(failed, samples={}, values={}))))


def folder_of_records(folder: Path) -> Path:
    """A results folder with records of every probe, and a failure."""
    store = Store(folder)
    store.create()
    for record in good():
        store.write(record)
    return folder


def apply(path: Path, change: Any) -> Path:
    """The record changed, with the checksum and the name that belong to its content."""
    written = json.loads(path.read_text())["record"]
    change(written)

    def canonical(data: object) -> str:
        return json.dumps(data, sort_keys=True, separators=(",", ":"))

    body = canonical(written)
    checksum = hashlib.sha256(body.encode()).hexdigest()[:16]
    path.unlink()
    cell = written.get("cell") if isinstance(written, dict) else None
    new = path.with_name(f"{path.name.split('.')[0]}.{cell_key(canonical(cell))}.json")
    new.write_text(f'{{"checksum":"{checksum}","record":{body}}}')
    return new


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))]


ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 10**6, 2**53, 2**62, 2**63, 10**30, 0.0, -0.5, 0.5, 1.5, 1e-320,
    1e308, -1e308,
    "", " ", "a", "ok", "$\\frac", "$x$", "[red]x[/]", "[/]", "a|b", "a,b", "a=b", "\n", "\x1b[2J",
    "\0", "\ud800",
    "é" * 40, "x" * 5000, "N^99", "N log N", "nan", "accuracy", "cpu", "cuda:0", "imdb:classes=rating",
    "table4",
    [], [0], [1.0], [-1.0], ["a"], [None], [[1]], [1e308] * 3, [5e-324] * 3, list(range(50)), {},
    {"a": 1}, {"": ""},
    {"reason": "busy"}, {"peak_flops_per_s": 1}, {"a": {"b": {"c": 1}}},
]  # fmt: skip
NAMES = [
    "",
    "a",
    "seq_len",
    "status",
    "time_s",
    "prior_x",
    "accuracy",
    "samples_time_s",
    "declared_order",
    "\ud800",
]


class Change:
    """Another value at a place, no value there, or one more beside it."""

    def __init__(self, place: tuple[Any, ...], kind: str, value: Any, name: str) -> None:
        self.place, self.kind, self.value, self.name = place, kind, value, name

    def __call__(self, record: Any) -> None:
        inside = record
        for key in self.place[:-1]:
            try:
                inside = inside[key]
            except (KeyError, IndexError, TypeError):
                return
        last = self.place[-1]
        if not isinstance(inside, dict | list) or (
            isinstance(inside, list) and last not in range(len(inside))
        ):
            return
        if self.kind == "without" and (isinstance(inside, list) or last in inside):
            del inside[last]
        elif self.kind == "more" and isinstance(inside, dict):
            inside[self.name] = copy.deepcopy(self.value)
        else:
            inside[last] = copy.deepcopy(self.value)

    def __repr__(self) -> str:
        return f"{self.kind} {self.place} {str(self.value)[:60]!r} {self.name!r}"


def random_change(rng: random.Random, path: Path) -> Change:
    everywhere = places(json.loads(path.read_text())["record"])[1:]
    kind = rng.choice(("other", "other", "other", "without", "more"))
    return Change(rng.choice(everywhere), kind, rng.choice(ODD), rng.choice(NAMES))


COMMANDS = [
    ["show", "A"],
    ["show", "A", "--raw", "--format", "csv"],
    ["show", "A", "--raw", "--format", "json"],
    ["show", "A", "--format", "latex"],
    ["show", "A", "--format", "markdown"],
    ["show", "A", "--summary"],
    ["show", "A", "--complexity"],
    ["show", "A", "--compare", "fastformer"],
    ["show", "A", "B"],
    ["choose", "A", "--seq-len", "128"],
    ["compare", "A", "B"],
    ["compare", "B", "A"],
    ["paper", "table4", "A"],
    ["paper", "figure2", "A"],
]
PICTURES = [
    ["plot", "A", "--out", "A/out.png", "--kind", kind]
    for kind in ("time", "memory", "roofline", "tradeoff", "curves", "figure2", "ablation")
]


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command, whose complaint must be one line."""
    monkeypatch.setattr("sys.argv", ["effbench", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    if ended.value.code == 2:
        assert said.err.strip().count("\n") <= said.err.count("ignored")
    return int(ended.value.code or 0)


def run_of(folders: dict[str, Path], command: list[str]) -> list[str]:
    return [
        str(folders[word.split("/")[0]] / word[2:]) if word.split("/")[0] in folders else word
        for word in command
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All good records, written once."""
    return folder_of_records(tmp_path_factory.mktemp("good") / "out")


@pytest.fixture
def folders(tmp_path: Path, written: Path) -> dict[str, Path]:
    return {name: Path(shutil.copytree(written, tmp_path / name)) for name in "AB"}


@pytest.fixture
def few(tmp_path: Path, written: Path) -> Store:
    """A folder with a few of the good records, of every probe."""
    store = Store(tmp_path / "few")
    store.create()
    for path in (written / "records").glob("vanilla-*-n128-*"):
        shutil.copy(path, store.folder / "records")
    assert len(store.read()[0]) == FEW
    return store


def first(folder: Path, probe: str) -> Path:
    return next(path for path in sorted((folder / "records").iterdir()) if f"-{probe}-" in path.name)


@pytest.mark.slow
def test_good_records_are_shown(folders, capsys, monkeypatch):
    records, problems = Store(folders["A"]).read()
    assert (len(records), problems) == (len(good()), [])
    for command in (*COMMANDS[:-1], *PICTURES[:1]):  # there are no times of the paper's lengths
        assert told(capsys, monkeypatch, *run_of(folders, command)) == 0, command


@pytest.mark.parametrize("probe", EVERY)
def test_any_bytes_of_a_record_are_a_problem_or_a_record_and_the_others_stay(probe, few):
    path = first(few.folder, probe)
    content = path.read_bytes()

    @settings(HERE, max_examples=50)
    @given(changed(content))
    def law(damaged):
        path.write_bytes(damaged)
        records, problems = few.read()
        assert len(records) + len(problems) == FEW
        for problem in problems:
            assert problem.path == path
            assert str(problem).isprintable()
            assert len(str(problem)) <= 1000
        assert path.read_bytes() == damaged, "it is left alone"

    law()


SWEEP = Sweep.from_toml(
    'name = "again"\n[[grid]]\nmechanism = "vanilla"\nseq_len = [64, 128, 512]\nthreads = 1\nrepeats = 2\n'
    'mode = "forward"\n',
    "again.toml",
    "again",
)


def resumed(store: Store) -> None:
    """What a run that goes on reads of the records: what is final, how long it took, what is hopeless."""
    planned = planning.plan(SWEEP, store)
    estimate = Estimate(planned.done)
    for job in planned.jobs:
        assert estimate.seconds(job.cell) >= 0
        skipping.reason_to_skip(job.cell, planned.done)
    planning.too_wide(SWEEP, planned.done)


def test_any_content_with_a_right_checksum_is_a_problem_or_a_row(few):
    paths = [first(few.folder, probe) for probe in EVERY]
    contents = [path.read_text() for path in paths]
    kinds = st.sampled_from(["other", "without", "more"])
    changes = [
        st.builds(
            Change,
            st.sampled_from(places(json.loads(content)["record"])[1:]),
            kinds,
            st.sampled_from(ODD),
            st.sampled_from(NAMES),
        )
        for content in contents
    ]

    @settings(HERE, max_examples=12)
    @given(st.tuples(*changes))
    def law(each):
        for path, content in zip(paths, contents, strict=True):
            path.write_text(content)
        changed_paths = [apply(path, change) for path, change in zip(paths, each, strict=True)]
        records, problems = few.read()
        assert len(records) + len(problems) == FEW
        write_tables(few.folder)
        resumed(few)
        for path in changed_paths:
            path.unlink()

    law()


@pytest.mark.slow
def test_no_command_traces_back_over_odd_content(tmp_path, written, capsys, monkeypatch):
    rng = random.Random(0)
    for number in range(2):
        folders = {name: Path(shutil.copytree(written, tmp_path / f"{number}" / name)) for name in "AB"}
        for probe in EVERY:
            path = first(folders["A"], probe)
            apply(path, random_change(rng, path))
        for command in (*rng.sample(COMMANDS, 4), rng.choice(PICTURES)):
            assert told(capsys, monkeypatch, *run_of(folders, command)) in (0, 2, 3, 4, 5, 6)


PROBLEMS: dict[str, tuple[str, Any, str]] = {
    "deep": ("time", lambda r: r["machine"].update(a=json.loads("[" * 900 + "]" * 900)), "nested|not a|is "),
    "a huge number": ("time", lambda r: r.update(seconds=10**30), "too large"),
    "no length": (
        "time",
        lambda r: r["cell"].update(seq_len=0),
        "seq_len is 0, not a whole number of at least 1",
    ),
    "true for a number": (
        "time",
        lambda r: r["cell"].update(heads=True),
        "heads is True, not a whole number",
    ),
    "a device": (
        "time",
        lambda r: r["cell"].update(device="tpu"),
        "device is 'tpu', not cpu, cuda or cuda:N",
    ),
    "an option": ("time", lambda r: r["cell"].update(options={"a": [1]}), "options.a is"),
    "no text": ("time", lambda r: r.update(code=1), "code is 1, not text"),
    "half of a pair": ("time", lambda r: r["machine"].update(name="\ud800"), "half of a surrogate pair"),
    "no times": (
        "time",
        lambda r: r["samples"].update(time_s=[], control_s=[]),
        "samples.time_s is missing or empty",
    ),
    "no samples": ("time", lambda r: r.update(samples={}), "samples.time_s is missing or empty"),
    "a time of 0": (
        "time",
        lambda r: r["samples"].update(time_s=[1.0, 0.0], control_s=[1.0, 1.0]),
        "a time that is not above 0",
    ),
    "a control": ("time", lambda r: r["samples"].update(control_s=[1e-4]), "samples.control_s has not one"),
    "a history": ("time", lambda r: r["machine"].update(history={"runs": -1}), "history.runs is -1, not"),
    "no history": ("time", lambda r: r["machine"].update(history=[1]), "history is"),
    "a sample": ("time", lambda r: r["samples"].update(time_s=["a"]), "samples.time_s is 'a', not a number"),
    "a list of values": ("time", lambda r: r["values"].update(trend=[1]), "values.trend is"),
    "an order": ("time", lambda r: r["values"].update(declared_order="fast"), "'fast' is not a growth in N"),
    "a column": ("time", lambda r: r["values"].update(seq_len=3), "seq_len is no name of a value"),
    "a number in words": (
        "memory",
        lambda r: r["values"].update(peak_bytes="much"),
        "peak_bytes is 'much', not a",
    ),
    "a fact": (
        "memory",
        lambda r: r["machine"].update(others_cores="few"),
        "others_cores is 'few', not a number",
    ),
    "no FLOPs": ("flops", lambda r: r["values"].pop("flops"), "values.flops is missing"),
    "half a ceiling": (
        "flops",
        lambda r: r["machine"].update(ceiling={"peak_flops_per_s": 1}),
        "no bandwidths",
    ),
    "a ceiling of 0": (
        "flops",
        lambda r: r["machine"]["ceiling"].update(peak_flops_per_s=0),
        "not a number above 0",
    ),
    "no tokens": ("accuracy", lambda r: r["values"].pop("tokens_per_s"), "values.tokens_per_s is missing"),
    "no task": ("accuracy", lambda r: r["cell"].update(task=None), "task is missing"),
    "too many hits": (
        "accuracy",
        lambda r: r["values"].update(test_correct=10**6),
        "test_correct of test_examples",
    ),
    "hits of nothing": (
        "accuracy",
        lambda r: r["values"].pop("test_examples"),
        "test_correct of test_examples",
    ),
    "a limit": (
        "time",
        lambda r: r.update(limits={"timeout_s": "1h", "memory_bytes": 1}),
        "timeout_s is '1h'",
    ),
    "a status": ("time", lambda r: r.update(status=["ok"]), "status is ['ok'], not one of"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_kind_of_odd_content_is_named_and_the_record_left_alone(name, few):
    probe, change, words = PROBLEMS[name]
    path = apply(first(few.folder, probe), change)
    before = path.read_bytes()
    records, problems = few.read()
    assert len(records) == FEW - 1
    (problem,) = problems
    assert problem.path == path
    assert any(word in problem.reason for word in words.split("|"))
    assert str(problem).isprintable()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 10**5, "damaged: arrays or objects are nested too deeply"),
        ('{"checksum":' * 10**5, "damaged: arrays or objects are nested too deeply"),
        ('{"checksum":"","record":NaN}', "damaged: NaN is no number in JSON"),
        ('{"checksum":"","record":{"seconds":1e999}}', "damaged: the number '1e999' is too large"),
        ('{"checksum":"a","checksum":"b"}', "damaged: the key 'checksum' stands twice"),
        ('{"checksum":"a","record":{}}', "missing field 'cell' in Record"),
        ('{"checksum":[],"record":[]}', "expected a JSON object for Record, found list"),
        ("\ufeff{}", "damaged: not JSON"),
        ("", "damaged: not JSON"),
    ],
)
def test_every_odd_text_is_a_problem(text, words, few):
    first(few.folder, "time").write_text(text, encoding="utf-8")
    (problem,) = few.read()[1]
    assert words in str(problem)


def test_what_is_no_file_is_a_problem(few, tmp_path):
    inside = few.folder / "records"
    (inside / "folder.json").mkdir()
    (inside / "nowhere.json").symlink_to(tmp_path / "nowhere")
    (inside / "zero.json").symlink_to("/dev/zero")
    records, problems = few.read()
    assert (len(records), len(problems)) == (FEW, 3)


def test_a_reason_is_shown_in_one_printable_line(few):
    reason = "a\nb\x1b[2J" + "x" * 10**5
    apply(first(few.folder, "time"), lambda r: r.update(status="crashed", reason=reason))
    (crashed,) = (r for r in few.read()[0] if r.status == "crashed")
    assert crashed.reason.startswith("a b\\x1b[2Jxxx")
    assert len(crashed.reason) == 10_000


def test_a_folder_that_cannot_be_listed_or_written_is_refused(folders, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", refuse)
        with pytest.raises(UsageError, match="cannot list the folder .*: Permission denied"):
            Store(folders["A"]).read()
    (folders["B"] / ".lock").mkdir()
    with pytest.raises(UsageError, match=r"cannot write to the results folder: .*\.lock: Is a directory"):
        Store(folders["B"]).lock().__enter__()


# What is kept of the machine and of a training.


class Asked:
    """An executor that measures a ceiling, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def start(self):
        return {}

    def close(self):
        """It has nothing to end."""

    def run(self, job, progress):
        self.times += 1
        series = {name: tuple(CEILING[name]) for name in ("bandwidth_at_bytes", "bandwidth_bytes_per_s")}
        values = {"peak_flops_per_s": 1e11 * self.times}
        return Record(cell=job.cell, status="ok", samples=series, values=values)


FLOPS = Record(cell=Cell(mechanism="vanilla", probe="flops", seq_len=8), status="ok")


def test_any_damage_of_a_kept_ceiling_makes_it_anew():
    asked = Asked()
    first_found = Ceilings(asked).beside(FLOPS).machine["ceiling"]
    assert Ceilings(asked).beside(FLOPS).machine["ceiling"] == first_found
    assert asked.times == 1
    (path,) = machine.cache_dir().iterdir()
    content = path.read_bytes()

    @settings(HERE, max_examples=50)
    @given(changed(content))
    def law(damaged):
        path.write_bytes(damaged)
        before = asked.times
        found = Ceilings(asked).beside(FLOPS).machine["ceiling"]
        check_ceiling(found)
        assert asked.times == before + (damaged != content)
        assert found["peak_flops_per_s"] == (1e11 if damaged == content else 1e11 * asked.times)

    law()
    path.write_bytes(content.replace(b"100000000000.0", b"200000000000.0"))
    assert ceiling._read(path) is None, "a changed digit is still JSON"


def test_a_ceiling_is_measured_where_none_can_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Ceilings(Asked()).beside(FLOPS).machine["ceiling"]["peak_flops_per_s"] == 1e11


def test_any_damage_of_a_checkpoint_is_noted_and_it_is_not_used(tmp_path):
    import torch

    path = tmp_path / "c.pt"
    Checkpoint(path, "mine").write({"step": 3, "weights": torch.ones(4)})
    content = path.read_bytes()

    @settings(HERE, max_examples=50)
    @given(changed(content))
    def law(damaged):
        path.write_bytes(damaged)
        again = Checkpoint(path, "mine")
        state = again.read()
        assert (state is None) == (damaged != content)
        assert bool(again.note) == (damaged != content)

    law()


def test_a_checkpoint_that_torch_cannot_read_is_noted_and_not_used(tmp_path, monkeypatch):
    import torch

    path = tmp_path / "c.pt"
    Checkpoint(path, "mine").write({"step": 3})

    def refuse(*arguments, **options):
        raise RuntimeError("another version")

    monkeypatch.setattr(torch, "load", refuse)
    again = Checkpoint(path, "mine")
    assert again.read() is None
    assert "torch cannot read it (RuntimeError)" in again.note


def test_good_records_are_as_they_were_written():
    for record in good():
        body = json.loads(to_json(record))
        assert parse_json(to_json(record)) == body

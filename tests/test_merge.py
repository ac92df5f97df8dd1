"""Merging folders: whatever is merged first, the result is the same, and no record is lost on the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import Fake
from hypothesis import given, settings
from hypothesis import strategies as st

import effbench
from effbench.common.spec import Cell, Limits, Record, UsageError, cell_key
from effbench.records import merging, packing, record_file, sweep_files
from effbench.records.merging import merge
from effbench.records.store import Store
from effbench.sweep.loop import run
from effbench.sweep.parts import shard
from effbench.sweep.sweep import Sweep

# a folder: the records of each cell with the number of the current one, and the texts of its sweeps
Folder = tuple[list[tuple[list[Record], int]], list[str]]

CELLS = [
    *(Cell(mechanism=m, probe="time", seq_len=n, repeat=r) for m in "ab" for n in (8, 16) for r in (0, 1)),
    Cell(mechanism="a", probe="memory", seq_len=8),
    Cell(mechanism="a", probe="accuracy", task="listops", seq_len=8),
]
NUMBERS = st.integers(0, 2)


@st.composite
def records(draw: st.DrawFn, cell: Cell) -> Record:
    status = draw(st.sampled_from(["ok", "ok", "ok", "oom", "timeout", "skipped", "crashed", "interrupted"]))
    machine = {"name": f"machine {draw(NUMBERS) // 2}", "host": f"n{draw(NUMBERS)}"}
    values: dict[str, Any] = {}
    samples = {}
    if status == "ok" and cell.probe == "time":
        samples = {"time_s": (1.0 + draw(NUMBERS),)}
    if status == "ok" and cell.probe == "accuracy":
        values = {"accuracy": 0.5, "tokens_per_s": 1.0, "train_seconds": 1.0}
    return Record(
        cell=cell,
        status=status,  # type: ignore[arg-type]
        samples=samples,
        values=values,
        machine=machine,
        code=f"1-{draw(NUMBERS) // 2}-x",
        limits=Limits(timeout_s=1.0 + draw(NUMBERS), memory_bytes=draw(NUMBERS)),
        started=f"2026-01-01T00:00:0{draw(NUMBERS)}+00:00",
    )


def cells_at(numbers: list[int]) -> list[Cell]:
    return [CELLS[number] for number in numbers]


@st.composite
def folders(draw: st.DrawFn) -> Folder:
    cells = draw(st.lists(st.sampled_from(range(len(CELLS))), unique=True, max_size=6).map(cells_at))
    of_cells = []
    for cell in cells:
        own = draw(st.lists(records(cell), min_size=1, max_size=3, unique_by=record_file.content_of))
        of_cells.append((own, draw(st.integers(0, len(own) - 1))))
    return of_cells, draw(st.lists(st.sampled_from(["a = 1\n", "b = 2\n", "c = 3\n"]), unique=True))


def written(content: Folder, folder: Path) -> Path:
    """Write a folder as runs leave it: interrupted records are not kept in superseded/."""
    store = Store(folder)
    store.create()
    for own, current in content[0]:
        for number, record in enumerate(own):
            name, data = record_file.name_of(record), record_file.content_of(record)
            if number == current:
                (folder / "records" / name).write_bytes(data)
            elif record.status != "interrupted":
                (folder / "superseded").mkdir(exist_ok=True)
                (folder / "superseded" / record_file.superseded_name(name, data)).write_bytes(data)
    for number, text in enumerate(content[1], start=1):
        sweep_files.path_of(folder, number).write_text(text)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """The files of a merged folder, without its tables, which follow from the records."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.name != ".lock"
        and path.suffix in (".json", ".toml", ".pt", ".npz", ".part")
    }


def contents(*folders: Path) -> set[bytes]:
    """The records in these folders, current and superseded, without interrupted ones."""
    data = {data for folder in folders for name, data in tree(folder).items() if name.endswith(".json")}
    return {one for one in data if b'"status":"interrupted"' not in one}


@contextmanager
def place() -> Iterator[Path]:
    """An empty folder, and merges without tables, which take long and follow from the records."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "write_tables", lambda folder, records: None)
        patch.setattr(os, "sync", lambda: None)
        yield Path(name)


@given(folders(), folders(), folders())
@settings(max_examples=15)
def test_merging_is_associative_commutative_and_idempotent(one, two, three):
    with place() as here:
        a, b, c = (written(content, here / name) for content, name in ((one, "a"), (two, "b"), (three, "c")))
        before = contents(a, b, c)
        merge([a, b, c], here / "abc")
        whole = tree(here / "abc")
        merge([c, b, a], here / "cba")
        merge([a, b], here / "ab")
        merge([here / "ab", c], here / "ab_c")
        merge([b, c], here / "bc")
        merge([a, here / "bc"], here / "a_bc")
        merge([a, a, here / "abc", c], here / "again")
        merge([c], here / "ab")
        for name in ("cba", "ab_c", "a_bc", "again", "ab"):
            assert tree(here / name) == whole, name
        merge([a, here / "abc"], here / "abc")
        assert tree(here / "abc") == whole
        assert contents(here / "abc") == before == contents(a, b, c)
        found, problems = Store(here / "abc").read()
        assert problems == []
        assert len({record.cell.key for record in found}) == len(found)
        packing.pack(b)
        packing.pack(here / "ab")
        merge([b, c], here / "ab")
        merge([a, b, c], here / "packed")
        assert tree(here / "ab") == whole == tree(here / "packed")


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def killed_after(most: int) -> Iterator[None]:
    """End the body after so many changes on the disk; nothing that it does then changes any more."""
    count = 0

    def dies(function: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > most:
                raise Killed
            return function(*args, **kwargs)

        return step

    changes = ((os, "replace"), (os, "sync"), (os, "fsync"), (Path, "unlink"), (Path, "write_bytes"))
    with pytest.MonkeyPatch.context() as patch:
        for where, name in changes:
            patch.setattr(where, name, dies(getattr(where, name)))
        with suppress(Killed):
            yield


@given(folders(), folders(), st.integers(0, 60))
@settings(max_examples=40)
def test_a_merge_that_is_killed_loses_nothing_and_is_finished_by_the_next(one, two, at):
    with place() as here:
        a, b = written(one, here / "a"), written(two, here / "b")
        shutil.copytree(b, here / "clean")
        merge([a], here / "clean")
        before = contents(b)
        with killed_after(at):
            merge([a], b)
        assert before <= contents(b), "at any moment each record of the folder is there, whole"
        found, problems = Store(b).read()
        assert problems == []
        assert len({record.cell.key for record in found}) == len(found)
        merge([a], b)
        assert tree(b) == tree(here / "clean")


def time(mechanism: str, host: str, started: int, repeat: int = 0, status: str = "ok", **more: Any) -> Record:
    return Record(
        cell=Cell(mechanism=mechanism, probe="time", seq_len=8, repeat=repeat),
        status=status,  # type: ignore[arg-type]
        samples={"time_s": (1.0,)} if status == "ok" else {},
        started=f"2026-01-01T00:00:{started:02d}+00:00",
        **{"machine": {"name": "m", "host": host}, "code": "1-a-b", **more},
    )


def folder_of(folder: Path, *records: Record) -> Path:
    Store(folder).create()
    for record in records:
        Store(folder).write(record)
    return folder


def merged(here: Path, *groups: list[Record]) -> dict[str, Record]:
    """The records that stay, by mechanism and repeat, when each group is a folder."""
    sources = [folder_of(here / f"source-{number}", *group) for number, group in enumerate(groups)]
    merge(sources, here / "merged")
    return {f"{r.cell.mechanism}{r.cell.repeat}": r for r in Store(here / "merged").read()[0]}


def test_a_repeat_of_a_block_comes_from_the_host_that_has_most_of_it(tmp_path):
    cut_short = [time("a", "n1", 1), time("b", "n1", 2), time("c", "n1", 30)]
    requeued = [time(name, "n2", 10 + place) for place, name in enumerate("abcd")]
    found = merged(tmp_path, cut_short, requeued)
    assert [found[f"{name}0"].machine["host"] for name in "abcd"] == ["n2"] * 4
    assert len(list((tmp_path / "merged" / "superseded").iterdir())) == 3


@pytest.mark.parametrize(
    ("stays", "goes"),
    [
        (time("a", "n1", 2), time("a", "n1", 1)),
        (time("a", "n1", 1), time("a", "n1", 2, status="crashed")),
        (time("a", "n1", 1, status="crashed"), time("a", "n1", 2, status="interrupted")),
        (time("a", "n1", 2, status="crashed", code="1-a-c"), time("a", "n1", 1)),
        (time("a", "n1", 2, status="oom", machine={"name": "other"}), time("a", "n1", 1)),
        (
            time("a", "n1", 1, status="timeout", limits=Limits(timeout_s=9.0, memory_bytes=1)),
            time("a", "n1", 2, status="timeout", limits=Limits(timeout_s=3.0, memory_bytes=1)),
        ),
        (
            time("a", "n1", 1, status="oom", limits=Limits(timeout_s=3.0, memory_bytes=1)),
            time("a", "n1", 2, status="skipped", limits=Limits(timeout_s=3.0, memory_bytes=1)),
        ),
    ],
)
def test_the_rule_for_two_records_of_a_cell(tmp_path, stays, goes):
    assert merged(tmp_path, [stays], [goes])["a0"] == stays
    kept = [record_file.read(path)[1] for path in (tmp_path / "merged").glob("superseded/*")]
    assert kept == ([] if goes.status == "interrupted" else [goes])


SWEEP = Sweep.from_toml(
    '[[grid]]\nmechanism = ["vanilla", "linear"]\nprobe = ["time", "memory"]\nseq_len = [16, 32, 64]\n'
    "d_model = 16\nheads = 2\nthreads = 1\nseconds = 0.01\nrepeats = 2\nmax_repeats = 2\n",
    "test",
    "test",
)


def test_merged_shards_are_the_folder_of_one_run(tmp_path):
    run(SWEEP, tmp_path / "whole", executor=Fake())
    shards = [tmp_path / f"{number}of3" for number in (1, 2, 3)]
    for number, folder in enumerate(shards, start=1):
        run(shard(SWEEP, number, 3), folder, executor=Fake())
    done = merge(shards, tmp_path / "merged")
    assert tree(tmp_path / "merged") == tree(tmp_path / "whole")
    for name in ("results.csv", "raw.csv", "results.parquet"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert (done.conflicts, done.problems) == ((), ())
    assert sum(stay for stay, _ in done.kept.values()) == done.records == len(SWEEP.cells())
    again = Fake()
    run(SWEEP, tmp_path / "merged", executor=again)
    assert again.ran == []
    assert effbench.load(tmp_path / "merged").equals(effbench.load(tmp_path / "whole"))


def effbench_merge(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "effbench", "merge", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_conflicts_and_damaged_files_are_named_and_refused_if_asked(tmp_path):
    a = folder_of(tmp_path / "a", time("a", "n1", 1), time("b", "n1", 1, code="1-old-b"), time("c", "n1", 1))
    b = folder_of(tmp_path / "b", time("a", "n1", 1), time("b", "n1", 2), time("c", "n1", 2))
    c = folder_of(tmp_path / "c", time("a", "n1", 1, machine={"name": "x", "gpu": "H100"}))
    damaged = a / "records" / "half.json"
    damaged.write_text("{")
    out = tmp_path / "out"
    refused = effbench_merge(a, b, c, "--out", out, "--strict")
    assert refused.returncode == 2
    assert "--strict: nothing is merged" in refused.stderr
    assert not out.exists()
    done = effbench_merge(a, b, c, "--out", out)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines == [
        f"effbench: left out: {damaged}: damaged: not JSON "
        "(Expecting property name enclosed in double quotes at line 1)",
        "effbench: conflict: different code in the records of 1 cell, such as time of b at 8: "
        f"1-old-b in {a}; 1-a-b in {b}. The newest one stays",
        "effbench: conflict: different machine in the records of 1 cell, such as time of a at 8: "
        f"m in {a}; m in {b}; x, H100 in {c}. The newest one stays",
    ]
    assert done.stdout.splitlines()[-1] == (
        f"merged: 3 records, 3 superseded in {out}  (effbench show {out})"
    )
    assert (out / "results.csv").exists()


def test_what_cannot_be_merged_is_refused_and_nothing_is_written(tmp_path):
    a = folder_of(tmp_path / "a", time("a", "n1", 1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for sources, out, message in (
        ([a, tmp_path / "other"], tmp_path / "out", "is not a results folder"),
        ([a, tmp_path / "nowhere"], tmp_path / "out", "is not a results folder"),
        ([a], a / "inside", "is inside"),
        ([a], tmp_path / "other", "exists and is not a results folder"),
        ([], tmp_path / "out", "no results folder was given"),
    ):
        with pytest.raises(UsageError, match=message):
            merge(sources, out)
        assert sorted(tmp_path.rglob("*")) == before
    b = folder_of(tmp_path / "b", time("b", "n1", 1))
    with Store(b).lock(), pytest.raises(UsageError, match="another effbench run is writing"):
        merge([a], b)


def test_damaged_files_of_the_merged_folder_make_room_and_are_kept(tmp_path):
    a = folder_of(tmp_path / "a", time("a", "n1", 1))
    b = folder_of(tmp_path / "b", time("a", "n1", 1), time("b", "n1", 1))
    (path,) = (a / "records").iterdir()
    damaged = b / "records" / path.name
    damaged.write_bytes(b"broken")
    done = merge([a], b)
    assert [problem.path for problem in done.problems] == [damaged]
    assert damaged.read_bytes() == path.read_bytes()
    assert [kept.read_bytes() for kept in (b / "superseded").iterdir()] == [b"broken"]


def training(started: int, status: str = "ok", **more: Any) -> Record:
    values = {"accuracy": 0.5, "tokens_per_s": 1.0, "train_seconds": 1.0} if status == "ok" else {}
    cell = Cell(mechanism="a", probe="accuracy", task="listops", seq_len=8)
    when = f"2026-01-01T00:00:{started:02d}+00:00"
    return Record(cell=cell, status=status, values=values, started=when, **more)  # type: ignore[arg-type]


def predicted(folder: Path, record: Record, text: str) -> None:
    place = Store(folder).predictions(record.cell)
    place.mkdir(parents=True)
    (place / "test.npz").write_text(text)


def test_predictions_come_with_the_record_that_stays(tmp_path):
    old, new = training(1), training(2)
    a, b, c = (folder_of(tmp_path / name, record) for name, record in (("a", old), ("b", new), ("c", new)))
    predicted(a, old, "old")
    predicted(c, new, "new")
    path = Store(a).predictions(old.cell).relative_to(a) / "test.npz"
    for sources in ([a, b, c], [c, a, b], [b, c, a]):
        out = tmp_path / "-".join(source.name for source in sources)
        merge(sources, out)
        assert (out / path).read_text() == "new"
    merge([b], a)
    assert not (a / "predictions").exists(), "they are those of the superseded record"
    merge([c], a)
    assert (a / path).read_text() == "new"


def test_weights_come_with_the_record_that_stays(tmp_path):
    old, new = training(1), training(2)
    a, b, c = (folder_of(tmp_path / name, record) for name, record in (("a", old), ("b", new), ("c", new)))
    for folder, text in ((a, "old"), (c, "new")):
        path = Store(folder).weights(old.cell)
        path.parent.mkdir()
        path.write_text(text)
    for sources in ([a, b, c], [c, a, b], [b, c, a]):
        out = tmp_path / "-".join(source.name for source in sources)
        merge(sources, out)
        assert Store(out).weights(new.cell).read_text() == "new"
    merge([b], a)
    assert not (a / "weights").exists(), "they are those of the superseded record"
    merge([c], a)
    assert Store(a).weights(new.cell).read_text() == "new"


def test_the_last_checkpoint_of_an_unfinished_training_comes_along(tmp_path):
    begun = training(1, "interrupted")
    a, b = (folder_of(tmp_path / name, begun) for name in "ab")
    for folder, age in ((a, 100), (b, 200)):
        path = Store(folder).checkpoint(begun.cell)
        path.parent.mkdir()
        path.write_text(folder.name)
        os.utime(path, (age, age))
    for sources in ([a, b], [b, a]):
        out = tmp_path / "-".join(source.name for source in sources)
        merge(sources, out)
        assert Store(out).checkpoint(begun.cell).read_text() == "b"
        merge([folder_of(tmp_path / "done", training(0))], out)
        assert not (out / "checkpoints").exists(), "its training has a final record"


def test_equal_sweeps_are_kept_once_and_plug_ins_are_found_from_the_merged_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("")
    text = 'name = "x"\n[[grid]]\nmechanism = ["linear", "{}:Mine"]\nseq_len = 8\n'
    for name, file in (("a", "../mine.py"), ("deep/b", "../../mine.py"), ("c", "../mine.py")):
        folder_of(tmp_path / name, time("a", "n1", 1))
        (tmp_path / name / "sweep.toml").write_text(text.format(file))
    (tmp_path / "c" / "sweep-7.toml").write_text('name = "another"\n')
    merge([tmp_path / "a", tmp_path / "deep/b", tmp_path / "c"], tmp_path / "far" / "away" / "out")
    out = tmp_path / "far" / "away" / "out"
    held = {path.name: path.read_text() for path in out.glob("sweep*")}
    assert sorted(held) == ["sweep-2.toml", "sweep.toml"]
    assert held["sweep.toml"] == 'name = "another"\n'
    assert '"../../../mine.py:Mine"' in held["sweep-2.toml"]


@given(
    st.lists(st.sampled_from("abcdef"), max_size=5),
    st.dictionaries(st.integers(1, 9), st.sampled_from("abcdef")),
    st.integers(0, 20),
)
def test_sweeps_are_renumbered_without_losing_one_at_any_moment(added, held, at):
    with place() as here:
        for number, text in held.items():
            sweep_files.path_of(here, number).write_text(text)
        wanted = [*added, *held.values()]
        with killed_after(at):
            sweep_files.keep_sweeps(here, wanted)
        assert set(held.values()) <= set(sweep_files.sweeps_of(here, here)) <= set(wanted)
        sweep_files.keep_sweeps(here, wanted)
        texts = [path.read_text() for path in sorted(here.iterdir(), key=lambda p: (len(p.name), p.name))]
        assert texts == sorted(set(wanted))


def test_a_record_of_another_version_and_a_new_one_are_of_the_same_cell(tmp_path):
    """An older version wrote fewer fields: its key differs, and the file keeps that key in its name."""
    import json

    new = time("a", "n1", 2)
    content = json.loads(record_file.content_of(time("a", "n1", 1)))
    del content["record"]["cell"]["compile"]
    body = json.dumps(content["record"], sort_keys=True, separators=(",", ":"))
    key = cell_key(json.dumps(content["record"]["cell"], sort_keys=True, separators=(",", ":")))
    a = tmp_path / "a"
    Store(a).create()
    old = f'{{"checksum":"{record_file._checksum(body)}","record":{body}}}\n'
    (a / "records" / f"written-by-hand.{key}.json").write_text(old)
    assert Store(a).read()[1] == []
    merge([a, folder_of(tmp_path / "b", new)], tmp_path / "out")
    assert Store(tmp_path / "out").read() == ([new], [])
    (kept,) = (tmp_path / "out" / "superseded").iterdir()
    assert kept.read_text() == old
    assert kept.name.startswith(f"{record_file.stem_of(replace(new.cell)).rpartition('.')[0]}.{key}.")

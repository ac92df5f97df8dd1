"""A packed folder is read as it was before; packing and unpacking lose nothing, wherever they are killed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from damage import changed
from hypothesis import HealthCheck, given, settings

import effbench
from effbench.cli import app as cli
from effbench.common import files, host
from effbench.common.spec import Cell, Record, Status, UsageError
from effbench.records import pack_file
from effbench.records.packing import pack, unpack
from effbench.records.store import Store, StoreFull
from effbench.sweep.sweep import Sweep


def record(seq_len: int = 8, status: Status = "ok", time_s: float = 1.0, code: str = "c") -> Record:
    cell = Cell(mechanism="vanilla", probe="time", seq_len=seq_len)
    samples = {"time_s": (time_s, time_s, time_s)} if status == "ok" else {}
    return Record(cell=cell, status=status, samples=samples, machine={"name": "m"}, code=code)


def contents(folder: Path) -> dict[str, bytes]:
    """Every record file of a folder."""
    found = [path for name in ("records", "superseded") for path in (folder / name).glob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three records, one of them superseded once."""
    store = Store(tmp_path / "out")
    store.create()
    for each in (record(8), record(16, "oom"), record(32), record(8, time_s=2.0)):
        store.write(each)
    return store


def test_a_packed_folder_is_read_as_before_and_unpacked_byte_for_byte(store):
    _, second, third = sorted((store.folder / "records").iterdir())
    second.write_bytes(json.dumps(json.loads(second.read_bytes()), indent=1).encode())  # of many lines
    third.write_bytes(third.read_bytes().removesuffix(b"\n") + b" \r\n")
    third.rename(third.with_name("\udcff\n é." + third.name))
    before, read, frame = contents(store.folder), store.read(), effbench.load(store.folder)
    moved = pack(store.folder)
    assert (moved.records, moved.superseded, moved.problems) == (3, 1, ())
    assert contents(store.folder) == {}
    assert not (store.folder / "records").exists()
    assert store.read() == read
    assert effbench.load(store.folder).equals(frame)
    lines = [json.loads(line) for line in store.pack.read_bytes().removesuffix(b"\n").split(b"\n")]
    assert lines[0] == {"format": "effbench records 1", "lines": 4}
    assert lines[1]["file"]["record"]["cell"]["mechanism"] == "vanilla"
    packed = store.pack.read_bytes()
    assert pack(store.folder) == moved
    assert store.pack.read_bytes() == packed
    assert unpack(store.folder).records == 3
    assert contents(store.folder) == before
    assert not store.pack.exists()


def test_what_is_not_a_sound_record_stays_where_it_is(store):
    damaged = store.folder / "records" / "half.json"
    damaged.write_text('{"checksum"')
    (store.folder / "superseded" / "notes.txt").write_text("mine")
    read = store.read()
    moved = pack(store.folder)
    assert [problem.path.name for problem in moved.problems] == ["half.json", "notes.txt"]
    assert sorted(contents(store.folder)) == ["records/half.json", "superseded/notes.txt"]
    assert store.read() == read


def test_a_newer_record_replaces_the_packed_one_which_is_kept(store):
    old = next(path for path in (store.folder / "records").iterdir() if "n32" in path.name)
    content = old.read_bytes()
    store.write(record(64, "interrupted"))
    pack(store.folder)
    store.create()
    newer = [record(32, code="d"), record(64)]
    for each in newer:
        store.write(each)
    expected = [record(16, "oom"), *newer, record(8, time_s=2.0)]
    assert store.read() == (expected, [])
    moved = pack(store.folder)
    assert (moved.records, moved.superseded) == (4, 2), "an interrupted record holds nothing to keep"
    assert store.read() == (expected, [])
    unpack(store.folder)
    assert store.read() == (expected, [])
    kept = [path for path in (store.folder / "superseded").iterdir() if "n32" in path.name]
    assert [path.read_bytes() for path in kept] == [content]
    # without packing again, unpacking must not bring the old one back either
    pack(store.folder)
    store.create()
    store.write(record(32, code="e"))
    unpack(store.folder)
    assert record(32, code="e") in store.read()[0]
    assert len(store.read()[0]) == 4
    assert len(list((store.folder / "superseded").iterdir())) == 3


class Fake:
    """An executor that measures nothing, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def start(self):
        return {"torch": "2", "cuda_devices": 0}

    def run(self, job, progress):
        self.calls += 1
        return replace(Record.of(job, "ok", machine=host.identity()), samples={"time_s": (1.0,) * 5})

    def close(self):
        pass


def test_a_run_into_a_packed_folder_measures_only_what_is_missing(tmp_path):
    toml = '[[grid]]\nmechanism = "vanilla"\nprobe = "time"\nmode = "forward"\nthreads = 1\nseq_len = '
    few, more = (Sweep.from_toml(toml + lengths, "t", "few") for lengths in ("[8, 16]", "[8, 16, 32]"))
    fake = Fake()
    frame = effbench.run(few, tmp_path / "out", executor=fake)
    assert fake.calls == len(few.cells())
    pack(tmp_path / "out")
    assert effbench.run(few, tmp_path / "out", executor=fake).equals(frame)
    assert fake.calls == len(few.cells())
    assert len(effbench.run(more, tmp_path / "out", executor=fake)) == 3
    assert fake.calls == len(more.cells())
    damaged = Store(tmp_path / "out").pack
    damaged.write_bytes(damaged.read_bytes().replace(b'"seconds":0.0', b'"seconds":1.0', 1))
    with pytest.warns(UserWarning, match=r"ignored .*records\.jsonl: records/vanilla.*checksum"):
        effbench.run(few, tmp_path / "out", executor=fake)
    assert fake.calls == len(more.cells()) + 1
    assert len(Store(tmp_path / "out").read()[0]) == len(more.cells())
    assert Store(tmp_path / "out").read()[1] == []


class Killed(BaseException):
    """The process ends here."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the given change of a file system on, no call succeeds, as after SIGKILL."""
    count = 0

    def of(real):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count > step:
                raise Killed
            return real(*arguments, **options)

        return call

    for name in ("fsync", "replace", "unlink", "mkdir", "rmdir"):
        monkeypatch.setattr(os, name, of(getattr(os, name)))


@pytest.mark.parametrize("action", [pack, unpack])
def test_killed_at_any_step_nothing_is_lost(action, store, monkeypatch):
    # a pack with a superseded record, a newer one of a packed cell, and one that is not packed
    pack(store.folder)
    store.create()
    store.write(record(32, code="d"))
    store.write(record(64))
    start = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    read = store.read()
    steps, finished = 0, False
    while not finished:
        with monkeypatch.context() as patched:
            kill_at(steps, patched)
            try:
                action(store.folder)
                finished = True
            except Killed:
                steps += 1
        assert store.read() == read, f"killed at step {steps}"
        action(store.folder) if action is pack or store.pack.exists() else None
        assert store.read() == read
        assert not list(store.folder.glob("*.part"))
        if store.pack.exists():
            unpack(store.folder)
        everything = sorted(content for content in contents(store.folder).values())
        if steps <= 1:
            expected = everything
        assert everything == expected
        assert len(expected) == 6
        for path in contents(store.folder):
            (store.folder / path).unlink()
        for path, content in start.items():
            path.write_bytes(content)
    assert steps > 8


def test_a_disk_that_gives_back_other_bytes_loses_nothing(store, monkeypatch):
    before = contents(store.folder)
    read_open = pack_file.read_open
    with monkeypatch.context() as patched:
        patched.setattr(pack_file, "read_open", lambda file: list(read_open(file))[1:])
        with pytest.raises(StoreFull, match="does not give back"):
            pack(store.folder)
    assert contents(store.folder) == before
    assert not store.pack.exists()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreFull, match="cannot pack .*No space left on device"):
            pack(store.folder)
    assert contents(store.folder) == before


def test_any_damage_of_a_pack_is_reported_and_what_is_sound_is_kept(store):
    pack(store.folder)
    content, read = store.pack.read_bytes(), store.read()[0]

    @settings(suppress_health_check=list(HealthCheck), max_examples=100)
    @given(changed(content))
    def law(damaged):
        for path in contents(store.folder):
            (store.folder / path).unlink()
        store.pack.write_bytes(damaged)
        records, problems = store.read()
        assert all(each in read for each in records)
        assert len(records) == len(read) or problems
        for problem in problems:
            assert str(problem).isprintable()
            assert len(str(problem)) <= 1000
        assert store.pack.read_bytes() == damaged, "it is left alone"
        lines = list(pack_file.read(store.pack))
        store.create()
        store.write(record(64))
        records = store.read()[0]
        pack(store.folder)
        assert store.read()[0] == records
        unpack(store.folder)
        assert store.read()[0] == records
        after = [*contents(store.folder).values(), store.pack.read_bytes() if store.pack.exists() else b""]
        for line in lines:
            assert any((line.raw if line.reason else line.content) in content for content in after)

    law()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [*lines[:2], lines[2][:90] + b"\n", *lines[3:]], "line 3: damaged: cut or changed"),
        (lambda lines: [*lines[:2], lines[2].replace(b"1", b"7"), *lines[3:]], "not its cell's|checksum"),
        (lambda lines: [*lines[:2], b"garbage\n", *lines[2:]], "line 3: damaged: not a line"),
        (lambda lines: [*lines, lines[1]], "line 6: an earlier line has this path"),
        (lambda lines: lines[:-1], "it has 3 records of 4: it was cut or changed"),
        (lambda lines: lines[1:], "the first line is damaged"),
        (lambda lines: [lines[0], lines[1].replace(b"records/", b"../", 1), *lines[2:]], "not the path"),
        (
            lambda lines: [lines[0], lines[1].replace(b"records/", b"records/..\\u002f"), *lines[2:]],
            "not the path",
        ),
        (lambda lines: [*lines[:4], b'{"path":"records/a.json","text":[]}\n'], "not a text"),
    ],
)
def test_each_damage_is_named(change, words, store):
    pack(store.folder)
    store.pack.write_bytes(b"".join(change(store.pack.read_bytes().splitlines(keepends=True))))
    (problem, *_) = store.read()[1]
    assert problem.path == store.pack
    assert any(word in problem.reason for word in words.split("|")), problem.reason
    assert str(problem) in map(str, unpack(store.folder).problems)
    assert not (store.folder.parent / "a.json").exists()
    assert {path.name for path in store.folder.parent.iterdir()} == {"out", "cache", "work"} & {
        path.name for path in store.folder.parent.iterdir()
    }, "nothing is written outside the folder"


def test_a_pack_that_cannot_be_read_to_its_end_is_neither_packed_nor_unpacked(store, monkeypatch):
    pack(store.folder)
    before = store.pack.read_bytes()
    monkeypatch.setattr(pack_file, "LINE_BYTES", 300)
    assert "line 2 is longer than 300 bytes" in str(store.read()[1][0])
    for action in (pack, unpack):
        with pytest.raises(UsageError, match="line 2 is longer than 300 bytes"):
            action(store.folder)
    assert store.pack.read_bytes() == before


@pytest.mark.parametrize("action", [pack, unpack])
def test_folders_that_are_read_while_they_are_packed_are_read_whole(action, store, monkeypatch):
    if action is unpack:
        pack(store.folder)
        store.create()
    read = store.read()
    real = files.entries

    def entries(folder):
        paths = real(folder)
        monkeypatch.undo()
        action(store.folder)
        return paths

    monkeypatch.setattr(files, "entries", entries)
    assert store.read() == read


def test_what_cannot_be_packed_is_refused(store, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for action in (pack, unpack):
        with pytest.raises(UsageError, match="not a results folder"):
            action(tmp_path / "mine")
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="is not packed: it has no records.jsonl"):
        unpack(store.folder)
    with store.lock(), pytest.raises(UsageError, match="another effbench run is writing"):
        pack(store.folder)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["effbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    code, _, err = run("pack", tmp_path / "mine")
    assert (code, err.count("\n")) == (2, 1)
    (store.folder / "records" / "half.json").write_text("{")
    code, out, err = run("pack", store.folder)
    assert code == 0
    assert "records.jsonl: 3 records and 1 superseded, " in out
    assert "effbench: left as it is: " in err
    assert run("unpack", store.folder)[:2] == (0, f"{store.folder}: 3 records and 1 superseded unpacked\n")

"""The results folder: atomic, checked, nothing lost, nothing silently changed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import effbench
from effbench.common.spec import Cell, Record, Status, UsageError, cell_key
from effbench.records.frame import raw_frame
from effbench.records.packing import pack
from effbench.records.store import Store, StoreFull, write_tables


def record(seq_len: int = 8, status: Status = "ok", time_s: float = 1.0, **changes) -> Record:
    cell = Cell(mechanism="vanilla", probe="time", seq_len=seq_len)
    samples = {"time_s": (time_s, time_s, time_s)} if status == "ok" else {}
    return Record(cell=cell, status=status, samples=samples, machine={"name": "m"}, code="c", **changes)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "out")
    store.create()
    return store


def test_what_is_written_is_read(store):
    records = [record(8), record(16), record(32, "oom", reason="too big")]
    for each in records:
        store.write(each)
    found, problems = store.read()
    assert sorted(found, key=lambda r: r.cell.seq_len) == records
    assert problems == []


def test_a_newer_record_replaces_and_keeps_the_older(store):
    store.write(record(time_s=1.0))
    store.write(record(time_s=2.0))
    found, _ = store.read()
    assert [r.samples["time_s"][0] for r in found] == [2.0]
    (old,) = (store.folder / "superseded").iterdir()
    assert json.loads(old.read_text())["record"]["samples"]["time_s"][0] == 1.0
    store.write(record(16, "interrupted"))
    store.write(record(16))
    assert len(list((store.folder / "superseded").iterdir())) == 1, (
        "an interrupted record holds nothing to keep"
    )


def test_every_damaged_or_foreign_file_is_reported_and_changes_nothing(store):
    good = record(8)
    path = store.write(good)
    text = path.read_text()
    folder = path.parent
    (folder / "notes.txt").write_text("mine")
    (folder / "half.json").write_text(text[: len(text) // 2])
    (folder / ".x.json.99.part").write_text(text[:9])
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00")
    (folder / "other.json").write_text('{"a": 1}')
    (folder / "list.json").write_text("[]")
    (folder / "renamed.json").write_text(text)
    (folder / f"changed.{good.cell.key}.json").write_text(text.replace("1.0", "0.5", 1))
    (folder / "status.json").write_text(text.replace('"status":"ok"', '"status":"great"'))
    (folder / "sub").mkdir()
    found, problems = store.read()
    assert found == [good]
    reasons = {p.path.name: p.reason for p in problems}
    assert len(reasons) == 10
    assert "half-written" in reasons[".x.json.99.part"]
    assert "checksum" in reasons[f"changed.{good.cell.key}.json"]
    assert "name" in reasons["renamed.json"]
    assert "great" in reasons["status.json"]
    assert "damaged: not JSON" in reasons["half.json"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = effbench.load(store.folder)
    assert len(frame) == 1
    assert {"notes.txt" in str(w.message) for w in caught} == {True, False}


def test_a_crash_while_writing_leaves_the_old_record_whole(store, monkeypatch):
    store.write(record(time_s=1.0))

    def crash(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        store.write(record(time_s=2.0))
    monkeypatch.undo()
    assert [r.samples["time_s"][0] for r in store.read()[0]] == [1.0]


def test_a_full_disk_is_said_and_what_was_measured_stays(store, monkeypatch):
    store.write(record(8))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for later in (record(8, time_s=9.0), record(16)):
        with pytest.raises(StoreFull, match="cannot write .*No space left on device"):
            store.write(later)
    monkeypatch.undo()
    found, problems = store.read()
    assert [r.samples["time_s"][0] for r in found] == [1.0]
    assert problems == []


def test_one_writer_at_a_time(store):
    with store.lock(), pytest.raises(UsageError, match="another effbench run"), Store(store.folder).lock():
        pass
    with store.lock():
        pass


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not a results folder"):
        Store(tmp_path / "mine").create()
    with pytest.raises(UsageError, match="not a results folder"):
        effbench.load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no results folder"):
        effbench.load([])
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot make"):
        Store(tmp_path / "file" / "inside").create()


def test_exports_hold_what_load_returns(store):
    store.write(record(8))
    store.write(record(16, "timeout", reason='slow, "very" slow'))
    write_tables(store.folder)
    frame = effbench.load(store.folder)
    parquet = pd.read_parquet(store.folder / "results.parquet")
    pd.testing.assert_frame_equal(parquet, frame, check_dtype=False)
    csv = pd.read_csv(store.folder / "results.csv", keep_default_na=False, na_values=[""])
    assert list(csv["seq_len"]) == [8, 16]
    assert list(csv.columns) == list(frame.columns)
    raw = pd.read_csv(store.folder / "raw.csv")
    assert not [column for column in raw.columns if column.startswith("samples_")]


def test_several_folders_are_joined(store, tmp_path):
    other = Store(tmp_path / "other")
    other.create()
    store.write(record(8))
    other.write(replace(record(16), code="d"))
    frame = effbench.load([store.folder, other.folder])
    assert list(frame["folder"]) == [str(store.folder), str(other.folder)]
    assert list(frame["seq_len"]) == [8, 16]


def test_an_empty_folder_is_an_empty_frame(store):
    assert effbench.load(store.folder).empty
    assert "status" in raw_frame([]).columns
    assert "time_s" in effbench.load(store.folder).columns


def test_records_of_a_version_with_fewer_fields_are_read(tmp_path):
    store = Store(tmp_path / "out")
    store.create()
    path = store.write(record())
    written = json.loads(path.read_text())["record"]
    del written["cell"]["precision"]
    body = json.dumps(written, sort_keys=True, separators=(",", ":"))
    cell = json.dumps(written["cell"], sort_keys=True, separators=(",", ":"))
    path.unlink()
    old = path.with_name(f"old.{cell_key(cell)}.json")
    checksum = hashlib.sha256(body.encode()).hexdigest()[:16]
    old.write_text(f'{{"checksum":"{checksum}","record":{body}}}')
    (found,), problems = store.read()
    assert problems == []
    assert found.cell.precision == Cell(mechanism="x", probe="time", seq_len=1).precision
    again = Store(tmp_path / "again")
    shutil.copytree(store.folder, again.folder)
    again.read()
    again.write(record(time_s=2.0))
    assert [r.samples["time_s"][0] for r in again.read()[0]] == [2.0], "it takes the place of the earlier one"
    assert [path.name for path in (again.folder / "superseded").iterdir()] != []
    packed = Store(tmp_path / "packed")
    shutil.copytree(store.folder, packed.folder)
    pack(packed.folder)
    packed.create()
    packed.write(record(time_s=2.0))
    assert [r.samples["time_s"][0] for r in packed.read()[0]] == [2.0]
    old.write_text(old.read_text().replace('"seed":0', '"seed":1'))
    assert [problem.reason for problem in store.read()[1]] == [
        "changed since it was written: the checksum does not fit"
    ]

"""Exports read back with the readers of other programs: every number, status, reason and origin is there."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from exports import LINES, NASTY, Command, chosen, command, needs, numbers, records, stored
from frames import accuracy_records, cost_records
from hypothesis import given, settings
from hypothesis import strategies as st

import effbench
from effbench.common.spec import UsageError
from effbench.show.export import openmetrics, targets
from effbench.show.export.configurations import Configuration, configurations
from effbench.show.export.openmetrics import metric_names
from effbench.show.export.safe_names import safe_names

TEXTS = st.text(
    st.characters(codec="utf-8") | st.sampled_from("\"\\\n\r{}=,#<>&' \0"),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("results") / "mine", records())


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = cost_records(("vanilla", "linear"), (128, 256), repeats=1) + accuracy_records(("linear",), seeds=1)
    return stored(tmp_path_factory.mktemp("few") / "few", made)


@pytest.fixture
def export(monkeypatch, capsys) -> Command:
    return command(monkeypatch, capsys)


# -- which rows ------------------------------------------------------------------------------------------


def test_a_configuration_has_all_numbers_texts_and_series_of_its_row(results):
    frame, raw = effbench.load(results), effbench.load(results, raw=True)
    rows = configurations(chosen([results]))
    assert len({row.key for row in rows}) == len(rows) == len(frame)
    for (_, expected), row in zip(frame.iterrows(), rows, strict=True):
        assert row.numbers == numbers(expected)
        assert (row.status, row.reason) == (expected["status"], expected["reason"])
        assert {"machine", "code", "data", "folder"} <= set(row.origin)
        assert row.identity["seq_len"] == expected["seq_len"]
    points = sum(len(series.values) for row in rows for series in row.series)
    assert points == sum(len(v) for name in raw if name.startswith("samples_") for v in raw[name].dropna())


def test_a_copy_of_a_folder_elsewhere_is_the_same_folder_and_another_name_is_not(folder):
    made = cost_records(("linear",), (128,))
    keys = [[row.key for row in configurations(chosen([folder(name, made)]))]
            for name in ("a/same", "b/same", "b/other")]  # fmt: skip
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])


def test_a_changed_record_changes_the_digest_and_not_the_key(folder):
    def row(change: float) -> Configuration:
        made = [replace(r, values={"peak_bytes": 10 + change}) if r.cell.probe == "memory" else r
                for r in cost_records(("linear",), (128,), modes=("forward",))]  # fmt: skip
        (one,) = configurations(chosen([folder(f"{change}/same", made)]))
        return one

    first, same, other = row(0), row(0.0), row(1)
    assert first.key == same.key == other.key
    assert first.digest() == same.digest() != other.digest()


def test_records_of_one_repeat_with_other_seeds_keep_all_their_series(folder):
    made = cost_records(("linear",), (128,), repeats=1, modes=("forward",))
    again = [replace(r, cell=replace(r.cell, seed=5)) for r in made if r.cell.probe == "time"]
    (row,) = configurations(chosen([folder("seeds", [*made, *again])]))
    assert sorted((s.name, s.repeat) for s in row.series) == [
        ("control_s", 0), ("control_s", 1), ("time_s", 0), ("time_s", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wish", "count"),
    [
        ({"mechanisms": ["linear"], "lengths": [128]}, 3),
        ({"mechanisms": ["fastformer"]}, 2),
        ({"mechanisms": ["fastformer:interaction=add"], "mode": "train"}, 1),
        ({"mechanisms": [NASTY, LINES], "mode": "forward"}, 4),
        ({"where": "task == 'listops'"}, 2),
    ],
)
def test_rows_are_chosen_by_mechanism_length_mode_and_condition(results, wish, count):
    assert len(configurations(chosen([results], **wish))) == count


@given(st.lists(TEXTS, unique=True, max_size=8))
def test_safe_names_are_safe_and_no_two_are_alike(names):
    safe = safe_names(names)
    assert list(safe) == names
    assert len(set(safe.values())) == len(names)
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) for name in safe.values())


# -- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [False, True])
def test_csv_and_parquet_give_the_frame_that_load_gives(results, export, tmp_path, raw):
    more = ["--raw"] if raw else []
    expected = effbench.load(results, raw=raw)
    code, text, _ = export(results, "--to", "csv", *more)
    assert code == 0
    plain = expected.drop(columns=[name for name in expected if name.startswith("samples_")])
    read = pd.read_csv(io.StringIO(text, newline=""), keep_default_na=False, lineterminator="\n")
    for name in plain:
        if pd.api.types.is_numeric_dtype(plain[name]):
            assert pd.to_numeric(read[name]).fillna(-1).tolist() == plain[name].fillna(-1).tolist()
        else:
            assert read[name].astype(str).tolist() == plain[name].fillna("").astype(str).tolist()
    file = tmp_path / "rows.parquet"
    assert export(results, "--to", "parquet", "--out", file, *more) == (0, f"{file}\n", "")
    back = pd.read_parquet(file)
    for name in back:
        if name.startswith("samples_"):
            back[name] = [value if value is None else list(value) for value in back[name]]
            expected[name] = expected[name].astype(object).where(expected[name].notna(), None)
    pd.testing.assert_frame_equal(back, expected)


def test_parquet_says_the_unit_and_role_of_each_column(results, export, tmp_path):
    from pyarrow import parquet

    assert export(results, "--to", "parquet", "--out", tmp_path / "a.parquet")[0] == 0
    schema = parquet.read_schema(tmp_path / "a.parquet")
    assert schema.field("time_s").metadata == {b"unit": b"seconds", b"role": b"computed"}
    assert schema.field("peak_bytes").metadata[b"unit"] == b"bytes"
    assert schema.metadata[b"effbench"] == b"effbench table 1"


def test_several_folders_are_one_table_with_their_names(folder, export):
    a, b = folder("a", cost_records(("linear",), (128,))), folder("b", cost_records(("vanilla",), (128,)))
    code, text, _ = export(a, b, "--to", "csv")
    assert code == 0
    assert set(pd.read_csv(io.StringIO(text))["folder"]) == {str(a), str(b)}
    page = json.loads(export(a, b, "--to", "json")[1])
    names = {page["origins"][row["origin"]]["folder"] for row in page["configurations"]}
    assert names == {"a", "b"}


def test_json_has_all_numbers_and_may_stand_in_a_script(results, export):
    code, text, _ = export(results, "--to", "json")
    assert code == 0
    assert not set("<>&") & set(text)
    page = json.loads(text)
    frame = effbench.load(results)
    assert page["format"] == "effbench export 1"
    assert page["units"]["time_s"] == "seconds"
    assert len(page["configurations"]) == len(frame)
    for (_, expected), row in zip(frame.iterrows(), page["configurations"], strict=True):
        assert {name: row[name] for name in numbers(expected)} == numbers(expected)
        for name in ("mechanism", "options", "status", "reason", "seq_len"):
            assert row[name] == expected[name]
        assert page["origins"][row["origin"]]["code"] == expected["code"]
        empty = {name for name in page["units"] if pd.isna(expected[name])}
        assert all(row[name] is None for name in empty)


# -- OpenMetrics -----------------------------------------------------------------------------------------


def families(text: str) -> dict[str, Any]:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    return {family.name: family for family in text_string_to_metric_families(text)}


@needs("prometheus_client")
def test_openmetrics_has_every_number_status_reason_and_origin(results, export):
    code, text, _ = export(results, "--to", "openmetrics")
    assert code == 0
    found = families(text)
    assert (found["effbench_time_seconds"].unit, found["effbench_time_seconds"].type) == ("seconds", "gauge")
    rows = configurations(chosen([results]))
    identity = {tuple(map(str, row.identity.values())): row for row in rows}

    def row_of(labels: dict[str, str]) -> Configuration:
        return identity[tuple(labels[name] for name in rows[0].identity)]

    names = metric_names(dict.fromkeys(name for row in rows for name in row.numbers))
    for name, (full, unit) in names.items():
        samples = found[full].samples
        assert found[full].unit == unit
        assert len(samples) == sum(name in row.numbers for row in rows)
        for sample in samples:
            assert sample.value == row_of(sample.labels).numbers[name]
    statuses = {row.key: row.status for row in rows}
    said = {row_of(s.labels).key: s.labels["effbench_status"]
            for s in found["effbench_status"].samples if s.value == 1}  # fmt: skip
    assert said == statuses
    for sample in found["effbench_configuration"].samples:
        assert sample.labels.get("reason", "") == row_of(sample.labels).reason
    origins = {s.labels["origin"]: s.labels for s in found["effbench_origin"].samples}
    for sample in found["effbench_time_seconds"].samples:
        assert origins[sample.labels["origin"]]["code"] == row_of(sample.labels).origin["code"]
    ended = {row_of(s.labels).key: s.value for s in found["effbench_ended_timestamp_seconds"].samples}
    assert ended == {row.key: row.ended.timestamp() for row in rows if row.ended is not None}
    assert len(ended) == 2


@needs("prometheus_client")
@settings(max_examples=50)
@given(TEXTS, TEXTS, st.floats(allow_nan=False, allow_infinity=False))
def test_openmetrics_takes_any_name_text_and_column(name, column, value):
    row = Configuration(
        key="k", label=name, identity={"mechanism": name, "seq_len": 1}, origin={"machine": name},
        status="crashed", reason=name, numbers={column: value, "status": 1.0, "origin_info": 2.0},
        texts={column: name, "mechanism": name}, series=(), started=None, ended=None,
    )  # fmt: skip
    found = families(openmetrics.written([row]))
    assert found["effbench_configuration"].samples[0].labels["reason"] == name
    full = metric_names([*row.numbers])[column][0]
    (sample,) = found[full].samples
    assert sample.value == value
    assert sample.labels["mechanism"] == name


# -- badge -----------------------------------------------------------------------------------------------


def badge(text: str) -> tuple[list[str], str, str]:
    """The texts that are seen, the title and the description of a badge."""
    root = ElementTree.fromstring(text)
    spaces = {"svg": "http://www.w3.org/2000/svg"}
    seen = [str(element.text) for element in root.findall(".//svg:text", spaces)]
    return seen[::2], str(root.findtext("svg:title", "", spaces)), str(root.findtext("svg:desc", "", spaces))


@needs("anybadge")
@pytest.mark.parametrize(
    ("wish", "left", "right"),
    [
        (["-m", "vanilla", "--seq-len", 128], "vanilla at 128 tokens", "µs ± "),
        (
            ["-m", "vanilla", "--seq-len", 256, "--mode", "train"],
            "vanilla at 256 tokens, train",
            "out of memory",
        ),
        (["-m", NASTY, "--seq-len", 256], f"{NASTY} at 256 tokens", "timeout"),
        (["-m", "linear", "--seq-len", 256], "linear at 256 tokens", "not measured"),
        (["-m", "fastformer"], "fastformer:interaction=add at 128 tokens", ", noisy"),
        (
            ["-m", "linear", "--where", "task != ''", "--column", "tokens_per_s"],
            "linear on listops at 128 tokens, tokens per s",
            "k",
        ),
        (["-m", "vanilla", "--column", "accuracy"], "vanilla on listops at 128 tokens, accuracy", "% ± "),
        (
            ["-m", "linear", "--seq-len", 128, "--column", "peak_bytes"],
            "linear at 128 tokens, peak bytes",
            "KiB",
        ),
    ],
)
def test_a_badge_says_the_number_or_why_there_is_none(results, export, wish, left, right):
    code, text, error = export(results, "--to", "badge", *wish)
    assert (code, error) == (0, "")
    seen, title, about = badge(text)
    assert seen[0] == left
    assert right in seen[1]
    assert title == ": ".join(seen)
    assert "code: 0.1.0-aaaa-bbbb" in about
    assert "nan" not in text
    assert ("95 % interval" in about) == ("±" in seen[1])
    assert seen[1].startswith("~") == ("noisy" in seen[1])


@needs("anybadge")
def test_a_badge_of_a_failure_gives_its_reason(results, export):
    text = export(results, "--to", "badge", "-m", "vanilla", "--seq-len", 256, "--mode", "train")[1]
    assert 'oom: no memory within "1 GiB" <b>' in badge(text)[2]


# -- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--to", "excel"], "--to 'excel' is not one of mlflow, wandb-offline, csv"),
        ([], "missing option '--to'"),
        (["--to", "json", "-m", "vanila"], "unknown mechanism in these results 'vanila'; did you mean"),
        (["--to", "json", "--seq-len", "512"], "seq_len 512: no such row; there are 128, 256"),
        (["--to", "json", "--mode", "decode"], "mode decode: no such row; there are forward, train"),
        (["--to", "json", "--mode", "fast"], "mode 'fast' is not one of forward, train, decode"),
        (["--to", "json", "--where", "seq_len > 9999"], "--where 'seq_len > 9999' is true for no row"),
        (["--to", "json", "--where", "x == 1"], "unknown column 'x'"),
        (["--to", "json", "--raw"], "--raw goes with --to csv, parquet, not json"),
        (["--to", "csv", "--column", "time_s"], "--column goes with --to badge, not csv"),
        (["--to", "csv", "--out", "folder"], "--out 'folder': is a folder"),
        (["--to", "csv", "--out", "no/where.csv"], "--out 'no/where.csv': its folder is not there"),
        (["--to", "csv", "--out", "/dev/null"], "/dev/null: is no regular file"),
        (["--to", "parquet"], "--to parquet writes no text: name a file with --out"),
        (["--to", "badge"], "a badge shows one configuration, and "),
        (["--to", "badge", "--column", "machine"], "--column machine has texts: a badge shows a number"),
        (["--to", "badge", "--column", "tims_s"], "--column: unknown column 'tims_s'; did you mean 'time_s'"),
        (["--to", "badge", "--mode", "forward", "--column", "accuracy"], "and no training is chosen"),
        (["--to", "mlflow", "--out", "runs"], "--out 'runs' is not a tracking URI: write sqlite:///FILE or"),
        (["--to", "mlflow", "--out", "sqlite://"], "--out 'sqlite://' names no file"),
        (["--to", "mlflow", "--out", "sqlite:///folder"], "--out 'sqlite:///folder': is a folder"),
        (["--to", "mlflow", "--out", "sqlite:///no/where.db"], "its folder is not there"),
        (["--to", "mlflow", "--out", "sqlite:///text.txt"], "text.txt': file is not a database"),
        (["--to", "mlflow", "--out", "sqlite:///other.db"], "is a database, but not one of MLflow"),
        (["--to", "mlflow", "--out", "ftp://x"], "cannot use 'ftp://x'"),
        (["--to", "wandb-offline", "--out", "text.txt"], "text.txt is there and is no folder"),
        (["--to", "wandb-offline", "--out", "no/where"], "--out 'no/where': its folder is not there"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_nothing_is_written(few, export, arguments, complaint):
    import sqlite3

    target = targets.TARGETS.get(arguments[1] if arguments else "")
    if target is not None and target.module:
        pytest.importorskip(target.module)
    Path("folder").mkdir()
    Path("text.txt").write_text("some text, long enough to be no empty database")
    with sqlite3.connect("other.db") as base:
        base.execute("create table mine (a)")
    base.close()
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    code, out, error = export(few, *arguments)
    assert (code, out) == (2, "")
    assert complaint in error
    assert error.startswith("effbench: ")
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_a_folder_must_have_records_and_a_name_of_its_own(folder, export):
    made = cost_records(("linear",), (128,))
    full, empty, twin = folder("full", made), folder("empty", []), folder("more/full", made)
    for arguments, complaint in (
        ([Path("nowhere")], "'nowhere' is not a results folder"),
        ([empty], "has no records: there is nothing to export"),
        ([full, empty], "has no records: there is nothing to export"),
        ([full, twin], "two folders are called 'full'"),
        ([full, full], "two folders are called 'full'"),
    ):
        code, out, error = export(*arguments, "--to", "json")
        assert (code, out) == (2, "")
        assert complaint in error


@pytest.mark.parametrize("name", [name for name, target in targets.TARGETS.items() if target.module])
def test_a_missing_package_is_named_with_its_extra(few, export, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    code, out, error = export(few, "--to", name)
    assert (code, out) == (2, "")
    target = targets.TARGETS[name]
    package = target.module.replace("_", "-")
    assert error == (
        f"effbench: this export needs the package {package}: pip install 'effbench[{target.extra}]'\n"
    )


def test_a_folder_that_is_called_like_a_package_is_not_the_package(monkeypatch, tmp_path):
    (tmp_path / "wandb_of_nobody").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="wandb-of-nobody"):
        targets.require("wandb_of_nobody", "wandb")


def test_every_target_is_documented_and_its_extra_is_declared():
    import tomllib

    root = Path(__file__).parents[1]
    page = (root / "docs" / "export.md").read_text()
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, target in targets.TARGETS.items():
        assert f"| `{name}` |" in page
        if target.extra:
            assert set(extras[target.extra]) <= set(extras["dev"])

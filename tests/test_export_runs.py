"""Exports to MLflow and W&B, read back with their own formats; a second export duplicates nothing."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wandb_files
from exports import NASTY, Command, chosen, command, needs, records, stored

from effbench.show.export import mlflow_runs
from effbench.show.export.configurations import configurations

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tmp_path_factory.mktemp("results") / "mine", records())


@pytest.fixture
def export(monkeypatch, capsys) -> Command:
    return command(monkeypatch, capsys)


# The records of one mechanism, measured again: the peak of memory has changed.
LINEAR = [
    replace(
        record, values={name: 7 if name == "peak_bytes" else value for name, value in record.values.items()}
    )
    for record in records()
    if record.cell.mechanism == "linear"
]


# -- MLflow ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests, since MLflow needs seconds to make one; each has its own experiment."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/runs.db"


@pytest.fixture
def runs_of(database: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """``runs_of()`` returns MLflow's client and the active runs of this test's experiment."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)

    def read() -> tuple[Any, list[Any]]:
        with mlflow_runs._quiet():
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=database)
            experiment = client.get_experiment_by_name(request.node.name)
            assert experiment is not None
            return client, client.search_runs([experiment.experiment_id])

    return read


@needs("mlflow", "sqlalchemy")
def test_mlflow_has_a_run_for_each_configuration_with_all_that_it_has(results, export, database, runs_of):
    code, out, error = export(results, "--to", "mlflow", "--out", database)
    rows = configurations(chosen([results]))
    assert (code, error) == (0, "")
    assert f"{len(rows)} written, 0 replaced, 0 unchanged" in out
    client, found = runs_of()
    runs = {run.data.tags[mlflow_runs.KEY]: run for run in found}
    assert len(found) == len(runs) == len(rows)
    for row in rows:
        run = runs[row.key]
        assert {name: run.data.metrics[name] for name in row.numbers} == row.numbers
        identity = {name: str(value) for name, value in row.identity.items() if value != ""}
        assert run.data.params == identity
        tags = {**row.origin, **row.texts, "status": row.status, "reason": row.reason}
        assert {name: run.data.tags.get(name, "") for name in tags} == tags
        assert run.info.status == ("FINISHED" if row.status == "ok" else "FAILED")
        for series in row.series:
            points = client.get_metric_history(
                run.info.run_id, f"samples_{series.name}/repeat_{series.repeat}"
            )
            assert [(point.step, point.value) for point in points] == [
                *zip(series.steps, series.values, strict=True)
            ]
        if row.started is not None and row.ended is not None:
            assert run.info.start_time == row.started.timestamp() * 1000
            assert run.info.end_time == row.ended.timestamp() * 1000


@needs("mlflow", "sqlalchemy")
def test_mlflow_keeps_what_is_there_and_replaces_what_changed_or_is_unfinished(
    results, export, database, runs_of, tmp_path
):
    few = ["--mechanism", "linear", "--seq-len", "128", "--to", "mlflow", "--out", database]
    assert "3 written, 0 replaced, 0 unchanged" in export(results, *few)[1]
    first = {run.info.run_id for run in runs_of()[1]}
    assert "0 written, 0 replaced, 3 unchanged" in export(results, *few)[1]
    assert {run.info.run_id for run in runs_of()[1]} == first
    client, (one, *_) = runs_of()
    client.delete_tag(one.info.run_id, mlflow_runs.CONTENT)  # as after an export that was killed
    assert "0 written, 1 replaced, 2 unchanged" in export(results, *few)[1]
    other = stored(tmp_path / "again" / "mine", LINEAR)
    assert "0 written, 3 replaced, 0 unchanged" in export(other, *few)[1]
    found = runs_of()[1]
    assert len(found) == 3
    assert not first & {run.info.run_id for run in found}
    assert [run.data.metrics["peak_bytes"] for run in found] == [7, 7, 7]


@needs("mlflow", "sqlalchemy")
def test_mlflow_takes_long_names_and_reasons(export, database, runs_of, tmp_path):
    long = [
        replace(record, cell=replace(record.cell, mechanism="m" * 9000), status="crashed", samples={},
                values={}, reason="r" * 9000)
        for record in records()[:1]
    ]  # fmt: skip
    folder = stored(tmp_path / "long", long)
    assert export(folder, "--to", "mlflow", "--out", database)[0] == 0
    ((run,)) = runs_of()[1]
    assert run.info.status == "FAILED"
    assert run.data.params["mechanism"].startswith("mmm")
    assert run.data.tags["reason"].startswith("rrr")
    assert "1 unchanged" in export(folder, "--to", "mlflow", "--out", database)[1]


# -- W&B -------------------------------------------------------------------------------------------------


class Listener:
    """A server that counts who connects to it, and answers nobody."""

    def __init__(self) -> None:
        self.calls = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            first = connection.recv(4)
            connection.close()
            if first == b"stop":
                return
            self.calls += 1

    def close(self) -> None:
        with socket.create_connection(self._socket.getsockname()) as last:
            last.sendall(b"stop")
        self._thread.join()
        self._socket.close()


@pytest.fixture
def listener(monkeypatch) -> Iterator[Listener]:
    """Whatever would be sent over HTTP goes to the listener."""
    one = Listener()
    for name in ("WANDB_BASE_URL", "HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, one.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield one
    one.close()


def folders(place: Path) -> dict[str, Path]:
    """The folders of runs, by the identifier at the end of their names."""
    found = sorted((place / "wandb").glob("offline-run-*"))
    by_id = {folder.name.rpartition("-")[2]: folder for folder in found}
    assert len(by_id) == len(found), "two folders of one run"
    return by_id


@needs("wandb")
def test_wandb_has_a_run_for_each_configuration_with_all_that_it_has(results, export, tmp_path, listener):
    code, out, error = export(results, "--to", "wandb-offline", "--out", tmp_path / "runs")
    rows = configurations(chosen([results]))
    assert (code, error) == (0, "")
    assert f"{len(rows)} written, 0 replaced, 0 unchanged" in out
    found = {name: wandb_files.read(folder) for name, folder in folders(tmp_path / "runs").items()}
    assert set(found) == {row.key for row in rows}
    for row in rows:
        run = found[row.key]
        assert run["id"] == row.key
        assert {name: run["config"][name] for name in row.identity} == row.identity
        assert {name: run["config"][name] for name in row.origin} == row.origin
        expected = {**row.numbers, **row.texts, "status": row.status, "reason": row.reason}
        assert {name: run["summary"][name] for name in expected} == expected
        assert (run["exit_code"] == 0) == (row.status == "ok")
        assert row.status in run["tags"]
        for series in row.series:
            key = f"samples_{series.name}/repeat_{series.repeat}"
            assert [step[key] for step in run["history"] if key in step] == [*series.values]
            curve = series.evaluations and series.name != "curve_step"
            assert run["axes"][key] == (f"samples_curve_step/repeat_{series.repeat}" if curve else "")
    assert any(run["config"]["mechanism"] == NASTY for run in found.values())
    assert listener.calls == 0


@needs("wandb")
def test_wandb_keeps_what_is_there_and_replaces_what_changed_or_is_unfinished(
    results, export, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    few = ["--mechanism", "linear", "--seq-len", "128", "--to", "wandb-offline", "--out", tmp_path]
    assert "3 written, 0 replaced, 0 unchanged" in export(results, *few)[1]
    first = folders(tmp_path)
    assert {wandb_files.read(folder)["project"] for folder in first.values()} == {"mine"}
    assert "0 written, 0 replaced, 3 unchanged" in export(results, *few)[1]
    assert folders(tmp_path) == first
    next(iter(first.values())).joinpath("effbench-export.json").unlink()  # as after one that was killed
    assert "0 written, 1 replaced, 2 unchanged" in export(results, *few)[1]
    other = stored(tmp_path / "again" / "mine", LINEAR)
    assert "0 written, 3 replaced, 0 unchanged" in export(other, *few)[1]
    second = folders(tmp_path)
    assert set(second) == set(first)
    for folder in second.values():
        assert wandb_files.read(folder)["summary"]["peak_bytes"] == 7
        assert json.loads((folder / "effbench-export.json").read_text()).keys() == {"content"}

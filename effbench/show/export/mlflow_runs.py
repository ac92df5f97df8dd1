"""Target mlflow: one MLflow run per configuration, in a database or on a tracking server."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from effbench import __version__
from effbench.common.exits import Fault
from effbench.common.files import why
from effbench.common.spec import MESSAGE, UsageError
from effbench.common.wording import one_line, shown
from effbench.show.export.configurations import Configuration, configurations
from effbench.show.export.safe_names import safe_names
from effbench.show.export.selection import Selection
from effbench.show.export.targets import require

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

EXPERIMENT = "effbench"  # unless $MLFLOW_EXPERIMENT_NAME names another, as for any program that uses MLflow
KEY, CONTENT = "effbench.configuration", "effbench.content"
_SQLITE = "sqlite:///"
_STATUS = {"ok": "FINISHED", "interrupted": "KILLED"}  # all others: FAILED
# What MLflow takes: metrics of a request, characters of a parameter's and of a tag's value, of a run's name.
_BATCH, _PARAMETER, _TAG, _NAME = 1000, 6000, 5000, 200


def export(selection: Selection, out: str | None) -> str:
    """Write a run for each configuration; ``out`` is a tracking URI, by default the one that MLflow uses.

    A run that is there with the same content stays as it is. If its configuration has changed since, a new
    run replaces it, and MLflow keeps the old one among its deleted runs. Returns what was done. Raises
    UsageError if the place cannot be used, and Fault if it fails while runs are written.
    """
    runs = configurations(selection)
    with _quiet():
        from mlflow import MlflowClient, get_tracking_uri
        from mlflow.exceptions import MlflowException

        uri = get_tracking_uri() if out is None else out
        _check(uri, "$MLFLOW_TRACKING_URI" if out is None else "--out")
        shown_uri = re.sub(r"//[^/@]*@", "//", uri)  # without a password
        try:
            client = MlflowClient(tracking_uri=uri)
            experiment = _experiment(client)
            there = _runs_there(client, experiment)
        except (MlflowException, ImportError, OSError, ValueError) as error:
            raise UsageError(f"cannot use {shown(shown_uri, 300)}: {one_line(str(error), 700)}") from None
        counts = {"written": 0, "replaced": 0, "unchanged": 0}
        try:
            for configuration in runs:
                digest = configuration.digest()
                old = there.get(configuration.key, [])
                same = [run for run in old if run.data.tags.get(CONTENT) == digest][:1]
                if not same:
                    _write(client, experiment, configuration, digest)
                for run in old:
                    if run not in same:
                        client.delete_run(run.info.run_id)
                counts["unchanged" if same else "replaced" if old else "written"] += 1
        except (MlflowException, OSError) as error:
            raise Fault(one_line(f"MLflow failed, export again to go on: {error}", MESSAGE)) from None
        name = client.get_experiment(experiment).name
    done = ", ".join(f"{count} {what}" for what, count in counts.items())
    return f"runs of experiment {shown(name)} in {shown_uri}: {done}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send nothing about the use of MLflow to anybody, and leave its logs and its own warnings out."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # a line per run, with its password
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its default waits for four minutes
    logs = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [log.level for log in logs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow  # sets the levels of its logs

        assert mlflow
        for log in logs:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)


def _check(uri: str, source: str) -> None:
    """Raise UsageError for what is no tracking URI, and for a database that is not MLflow's."""
    given = f"{source} {shown(uri)}"
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", uri) and uri != "databricks":
        raise UsageError(f"{given} is not a tracking URI: write sqlite:///FILE or http://HOST:PORT")
    if re.fullmatch(r"sqlite:/{0,3}(:memory:)?", uri):
        raise UsageError(f"{given} names no file: write sqlite:///FILE")
    if re.match(r"(sqlite|postgresql|mysql|mssql)\b", uri):
        for package in ("sqlalchemy", "alembic"):
            require(package, "mlflow")
    if not uri.startswith(_SQLITE):
        return
    path = Path(uri.removeprefix(_SQLITE).partition("?")[0])
    try:
        if not path.absolute().parent.is_dir():
            raise UsageError(f"{given}: its folder is not there")
        if path.is_dir():
            raise UsageError(f"{given}: is a folder")
        if not path.exists() or path.stat().st_size == 0:
            return
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as base:
            tables = {name for (name,) in base.execute("select name from sqlite_master where type='table'")}
    except (OSError, ValueError, sqlite3.Error) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{given}: {why(error)}") from None
    if not {"alembic_version", "experiments", "runs"} <= tables:
        raise UsageError(f"{given}: is a database, but not one of MLflow")


def _experiment(client: MlflowClient) -> str:
    """Return the identifier of the experiment, which is made if it is not there."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    known = client.get_experiment_by_name(name)
    if known is None:
        return str(client.create_experiment(name))
    if known.lifecycle_stage != "active":
        raise UsageError(f"the experiment {shown(name)} was deleted: restore it in MLflow first")
    return str(known.experiment_id)


def _runs_there(client: MlflowClient, experiment: str) -> dict[str, list[Run]]:
    """Return the runs that earlier exports wrote, by the key of their configuration."""
    there: dict[str, list[Run]] = {}
    token = None
    while True:
        page = client.search_runs([experiment], f"tags.`{KEY}` LIKE '%'", page_token=token)
        for run in page:
            there.setdefault(run.data.tags[KEY], []).append(run)
        token = page.token
        if not token:
            return there


def _write(client: MlflowClient, experiment: str, configuration: Configuration, digest: str) -> None:
    """Write one run. Its digest comes last: without one, the next export writes the run again."""
    from mlflow.entities import Param

    what = configuration.identity
    texts = {
        **configuration.origin,
        **configuration.texts,
        "status": configuration.status,
        "reason": configuration.reason,
        KEY: configuration.key,
        "effbench.version": __version__,
    }
    safe = safe_names(configuration.texts)
    run = client.create_run(
        experiment,
        start_time=_ms(configuration.started),
        tags={safe.get(key, key): _short(value, _TAG) for key, value in texts.items() if value},
        run_name=one_line(f"{configuration.label}, {what['mode']}, {what['seq_len']}", _NAME),
    )
    place = run.info.run_id
    parameters = [Param(key, _short(str(value), _PARAMETER)) for key, value in what.items() if value != ""]
    metrics = _metrics(configuration)
    for first in range(0, max(1, len(metrics)), _BATCH):
        client.log_batch(place, metrics[first : first + _BATCH], parameters if first == 0 else ())
    client.set_terminated(place, _STATUS.get(configuration.status, "FAILED"), _ms(configuration.ended))
    client.set_tag(place, CONTENT, digest)


def _metrics(configuration: Configuration) -> list[Metric]:
    """Return the numbers of the row at step 0, and every series as ``samples_NAME/repeat_R``."""
    from mlflow.entities import Metric

    at = _ms(configuration.started) or 0
    safe = safe_names(configuration.numbers)
    metrics = [Metric(safe[name], float(value), at, 0) for name, value in configuration.numbers.items()]
    names = safe_names(dict.fromkeys(series.name for series in configuration.series))
    for series in configuration.series:
        key = f"samples_{names[series.name]}/repeat_{series.repeat}"
        points = zip(series.steps, series.values, strict=True)
        metrics += [Metric(key, float(value), at, step) for step, value in points]
    return metrics


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def _short(value: str, most: int) -> str:
    return value if len(value) <= most else one_line(value, most)

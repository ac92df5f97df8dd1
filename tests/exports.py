"""What the tests of exports share: records with failures, curves and nasty names, and the command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from frames import Failures, accuracy_records, cost_records

from effbench.cli import app as cli
from effbench.common import columns
from effbench.common.spec import Record
from effbench.records.store import Store
from effbench.show.export import targets
from effbench.show.export.selection import Selection, Wish, select

Command = Callable[..., tuple[int, str, str]]
NASTY = "<script>alert('1')</script> \"a\\b\" {x=1}, é☃ </text>"
LINES = "two\nlines\rand\ttabs"
FAILS: Failures = {
    ("vanilla", "train", 256): ("oom", 'no memory within "1 GiB" <b>'),
    (NASTY, "forward", 256): ("timeout", "longer than 60 s"),
    ("linear", "forward", 256): ("skipped", "predicted: 9 GiB"),
}


def records() -> list[Record]:
    """Costs with failures and nasty names, one repeat of one mechanism, and trainings with curves."""
    made = cost_records(("vanilla", "linear", NASTY, LINES), (128, 256), repeats=2, fail=FAILS)
    made += cost_records(("fastformer",), (128,), repeats=1, options={"interaction": "add"})
    for record in accuracy_records(("vanilla", "linear"), seeds=2):
        curve = {
            "curve_step": (10.0, 20.0, 30.0),
            "curve_epoch": (1.0, 2.0, 3.0),
            "validation_accuracy": (0.1, 0.3, 0.2 + record.cell.repeat / 7),
            "step_loss": (3.0, 2.0, 1.0, 1 / 3),
        }
        made.append(replace(record, samples=curve, started="2026-01-02T03:04:05+00:00", seconds=9.5))
    return made


def stored(folder: Path, made: Iterable[Record]) -> Path:
    """Write records into a new results folder."""
    store = Store(folder)
    store.create()
    for record in made:
        store.write(record)
    return folder


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``export(folder, ..., "--to", "json")`` is the command in this process: (exit code, output, errors)."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_DIR", "WANDB_PROJECT", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
                 "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):  # fmt: skip
        monkeypatch.setenv(name, "1")  # restored after the test, whatever the export sets

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["effbench", "export", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skip a test where the modules of an extra are missing."""
    extra = next(target.extra for target in targets.TARGETS.values() if target.module == modules[0])
    absent = any(util.find_spec(module) is None for module in modules)
    return pytest.mark.skipif(absent, reason=f"an extra: pip install 'effbench[{extra}]'")


def chosen(folders: Sequence[Path], **wish: Any) -> Selection:
    return select(folders, Wish(**wish))


def numbers(row: pd.Series) -> dict[str, float]:
    """The numbers of a row of the summary that a tracker shows beside its parameters."""
    kept = {}
    for name, value in row.items():
        role = columns.column(str(name)).role
        if role not in ("identity", "origin") and isinstance(value, float | int) and pd.notna(value):
            kept[str(name)] = float(value)
    return kept

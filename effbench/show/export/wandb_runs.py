"""Target wandb-offline: one W&B run per configuration, in folders that ``wandb sync`` uploads later."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench import __version__
from effbench.common import files
from effbench.common.exits import Fault
from effbench.common.spec import MESSAGE, UsageError
from effbench.common.wording import one_line, shown
from effbench.show.export.configurations import Configuration, configurations
from effbench.show.export.safe_names import safe_names
from effbench.show.export.selection import Selection

PROJECT = "effbench"  # unless $WANDB_PROJECT names another, as for any program that uses W&B
FOLDER = "wandb"  # what W&B calls the folder of its runs
DONE = "effbench-export.json"  # in the folder of a run that is complete
_NAME, _TAG = 128, 64  # most characters
_STEP = "curve_step"


def export(selection: Selection, out: str | None) -> str:
    """Write a run for each configuration into ``out/wandb/``; by default into $WANDB_DIR or this folder.

    Nothing is sent anywhere. A run's identifier is the key of its configuration. A run that is there with the
    same content stays as it is; if its configuration has changed since, the new run replaces it. Returns what
    was done. Raises UsageError if the folder cannot be used, and Fault if it fails while runs are written.
    """
    place = Path(out or os.environ.get("WANDB_DIR") or ".")
    _check(place)
    runs = configurations(selection)
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # read when wandb is imported; else errors are sent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = _write_all(runs, place)
    done = ", ".join(f"{count} {what}" for what, count in counts.items())
    return f"runs in {place / FOLDER}: {done}; wandb sync uploads them"


def _write_all(runs: Sequence[Configuration], place: Path) -> dict[str, int]:
    """Write the runs that are not there yet and return how many were written, replaced or left."""
    import wandb

    counts = {"written": 0, "replaced": 0, "unchanged": 0}
    try:
        place.mkdir(exist_ok=True)
        for configuration in runs:
            digest = configuration.digest()
            old = sorted((place / FOLDER).glob(f"offline-run-*-{configuration.key}"))
            same = [folder for folder in old if _content(folder) == digest][:1]
            for folder in old:
                if folder not in same:
                    shutil.rmtree(folder)
            if not same:
                _write(place, configuration, digest)
            counts["unchanged" if same else "replaced" if old else "written"] += 1
    except (OSError, wandb.Error) as error:
        raise Fault(one_line(f"W&B failed, export again to go on: {error}", MESSAGE)) from None
    finally:
        wandb.teardown()
    return counts


def _check(place: Path) -> None:
    """Raise UsageError unless runs can be written there. (W&B itself would write to a temporary folder.)"""
    inside = place / FOLDER
    for folder in (place, inside):
        if os.path.lexists(folder) and not files.is_dir(folder):
            raise UsageError(f"--out {shown(str(place))}: {folder.name} is there and is no folder")
    if not files.is_dir(place.absolute().parent):
        raise UsageError(f"--out {shown(str(place))}: its folder is not there")
    there = next(folder for folder in (inside, place, place.absolute().parent) if folder.exists())
    if not os.access(there, os.W_OK):
        raise UsageError(f"--out {shown(str(place))}: this user may not write there")


def _content(folder: Path) -> str:
    """Return the digest of what the run holds, "" if an export did not complete it."""
    try:
        return str(json.loads((folder / DONE).read_text())["content"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write(place: Path, configuration: Configuration, digest: str) -> None:
    import wandb

    what = configuration.identity
    run = wandb.init(
        mode="offline",
        dir=str(place),
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        id=configuration.key,
        name=one_line(f"{configuration.label}, {what['mode']}, {what['seq_len']}", _NAME),
        group=one_line(configuration.label, _NAME),
        job_type=str(what["mode"]),
        tags=[one_line(text, _TAG) for text in (configuration.status, configuration.origin["folder"])],
        config={**what, **configuration.origin, **_times(configuration), "effbench": __version__},
        settings=wandb.Settings(
            host=configuration.origin["machine"],
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            save_code=False,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        ),
        reinit="create_new",
    )
    _log(run, configuration)
    safe = safe_names([*configuration.numbers, *configuration.texts])
    row = {**configuration.numbers, **configuration.texts}
    run.summary.update({safe[name]: value for name, value in row.items()})
    run.summary.update({"status": configuration.status, "reason": configuration.reason})
    folder = Path(run.dir).parent
    run.finish(exit_code=0 if configuration.status == "ok" else 1)
    files.replace(folder / DONE, json.dumps({"content": digest}).encode())


def _times(configuration: Configuration) -> dict[str, str]:
    moments = {"started": configuration.started, "ended": configuration.ended}
    return {name: moment.isoformat() for name, moment in moments.items() if moment is not None}


def _log(run: Any, configuration: Configuration) -> None:
    """Write each series as ``samples_NAME/repeat_R``; the axis of a learning curve is the training's step.

    Values of all series with the same place in them are one row of W&B's history.
    """
    names = safe_names(dict.fromkeys(series.name for series in configuration.series))
    rows: dict[int, dict[str, float]] = {}
    curves = {series.repeat for series in configuration.series if series.name == _STEP}
    for series in configuration.series:
        key = _key(names, series.name, series.repeat)
        axis = {}
        if series.evaluations and series.repeat in curves and series.name != _STEP:
            axis = {"step_metric": _key(names, _STEP, series.repeat)}
        run.define_metric(key, summary="none", **axis)
        for place, value in enumerate(series.values):
            rows.setdefault(place, {})[key] = value
    for place in sorted(rows):
        run.log(rows[place], step=place)


def _key(names: Mapping[str, str], name: str, repeat: int) -> str:
    return f"samples_{names[name]}/repeat_{repeat}"

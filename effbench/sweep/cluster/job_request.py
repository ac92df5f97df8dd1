"""What a user asks of Slurm (account, partition ...): from a TOML file and from options of the command."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from effbench.common import files, registry
from effbench.common.spec import UsageError
from effbench.common.values import parse_time_s, parse_whole
from effbench.common.wording import shown

Kind = Literal["timing", "training"]
KINDS: tuple[Kind, ...] = ("timing", "training")

_WORD = r"[\w.@:+&|!*,()\[\]=/~-]+"  # what Slurm's names and constraints are made of
# Options of sbatch that effbench sets itself: another value would break the run.
_OWN = frozenset({
    "account", "array", "chdir", "comment", "constraint", "cpus-per-task", "error", "exclusive", "gpus",
    "gres", "input", "job-name", "mem", "no-requeue", "nodes", "ntasks", "ntasks-per-node", "open-mode",
    "output", "parsable", "partition", "qos", "requeue", "signal", "time", "wait", "wrap",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a job asks of Slurm beside its resources; "" leaves the choice to Slurm.

    ``gpu`` is the type in ``--gres=gpu:TYPE:1``. ``most_s`` is the longest time limit of a job, in seconds; a
    bundle that needs longer is requeued and goes on. ``extra`` holds further options of sbatch.
    """

    account: str = ""
    partition: str = ""
    qos: str = ""
    constraint: str = ""
    gpu: str = ""
    most_s: float = 4 * 3600.0
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The requests of jobs that time and of jobs that train, and the most jobs that run at once."""

    timing: Request = field(default_factory=Request)
    training: Request = field(default_factory=Request)
    most_jobs: int = 200

    def of(self, kind: Kind) -> Request:
        """Return the request of a kind of job."""
        return self.timing if kind == "timing" else self.training


_NAMES = ("account", "partition", "qos", "constraint", "gpu")
_KEYS = (*_NAMES, "time_limit", "options")


def load(path: Path | None, given: Mapping[str, Any], options: Sequence[str] = ()) -> Settings:
    """Return the settings of a file (None: the defaults), with what the command's options say instead.

    ``given`` maps names of keys to values of options; ``options`` are texts ``NAME=VALUE`` for sbatch. Raises
    UsageError for an unknown key or a value that sbatch cannot take.
    """
    data = files.parse_toml(files.read_text(path), str(path)) if path else {}
    where = f"{path}: " if path else ""
    try:
        most_jobs = parse_whole("most_jobs", data.pop("most_jobs", 200), least=1, most=10_000)
        own = {kind: data.pop(kind, {}) for kind in KINDS}
        common = _request(Request(), data, [*_KEYS, "most_jobs", *KINDS])
        requests = {kind: _request(common, _table(kind, table), _KEYS) for kind, table in own.items()}
    except UsageError as error:
        raise UsageError(f"{where}{error}") from None
    extra = dict(_option(text) for text in options)
    for kind in KINDS:
        changed = _request(requests[kind], given, _KEYS)
        requests[kind] = replace(changed, extra={**changed.extra, **extra})
    return Settings(timing=requests["timing"], training=requests["training"], most_jobs=most_jobs)


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{name} is {shown(value)}, not a table")
    return value


def _request(base: Request, data: Mapping[str, Any], known: Sequence[str]) -> Request:
    changes: dict[str, Any] = {}
    for key, value in data.items():
        if key not in known:
            raise UsageError(registry.unknown("key", key, list(known), "allowed"))
        if key == "time_limit":
            changes["most_s"] = _time_limit(value)
        elif key == "options":
            table = _table("options", value)
            changes["extra"] = {**base.extra, **dict(_option(f"{k}={v}") for k, v in table.items())}
        else:
            changes[key] = _word(key, value)
    return replace(base, **changes)


def _time_limit(value: Any) -> float:
    seconds = parse_time_s(value)
    if seconds < 60:
        raise UsageError(f"time_limit {shown(value)}: Slurm counts minutes; give at least 1m")
    return seconds


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(_WORD, value):
        raise UsageError(f"{name} is {shown(value)}, not a name that sbatch can take")
    return value


def _option(text: str) -> tuple[str, str]:
    """Return an option of sbatch from ``NAME=VALUE``."""
    name, sign, value = text.removeprefix("--").partition("=")
    if not sign or not re.fullmatch(r"[a-z][a-z-]*", name) or not value or "\n" in value:
        raise UsageError(f"sbatch option {shown(text)} is not NAME=VALUE, such as reservation=maint")
    if name in _OWN:
        raise UsageError(f"sbatch option {name!r} is not free: effbench sets it; see effbench run --help")
    return name, value

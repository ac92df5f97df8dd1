"""What goes over the wire: Cell, Limits, Record and their JSON. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal, get_args

Option = bool | int | float | str | None
Probe = Literal["time", "memory", "flops", "accuracy", "audit", "ceiling", "noise"]
Scope = Literal["attention", "encoder"]
Mode = Literal["forward", "train"]
Dtype = Literal["float32", "float64", "bfloat16", "float16"]
Allocator = Literal["kept", "system"]
Status = Literal["ok", "oom", "timeout", "crashed", "unsupported", "incorrect", "skipped", "interrupted"]

# What a sweep can measure. The others are asked by effbench itself: an audit of a mechanism, and of the
# machine its ceiling (peak FLOP/s and bandwidth) and its noise.
PROBES: tuple[Probe, ...] = ("time", "memory", "flops", "accuracy")
MACHINE = "machine"  # the mechanism of a cell that measures the machine alone
SCOPES: tuple[Scope, ...] = get_args(Scope)
MODES: tuple[Mode, ...] = get_args(Mode)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
ALLOCATORS: tuple[Allocator, ...] = get_args(Allocator)
STATUSES: tuple[Status, ...] = get_args(Status)


class UsageError(ValueError):
    """Something the user got wrong: shown as one line, exit code 2."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement to make.

    ``mechanism`` is a registered name or a reference such as ``path/to/file.py:MyAttention``;
    ``repeat`` is the replicate: a fresh process, seeded with ``seed + repeat``. ``scope`` says what is
    measured: one attention layer, or an encoder of ``layers`` blocks. ``seconds`` is how long a time cell
    samples at most; ``precision`` is the half-width of the interval that is asked for, as a share of the
    time: it ends the sampling of one cell early, and says whether the repeats of a cell are enough.
    """

    mechanism: str
    options: Mapping[str, Option] = field(default_factory=dict)
    probe: Probe
    scope: Scope = "attention"
    mode: Mode = "forward"
    task: str | None = None
    task_options: Mapping[str, Option] = field(default_factory=dict)
    seq_len: int
    batch_size: int = 1
    d_model: int = 256
    heads: int = 16
    layers: int = 1
    dtype: Dtype = "float32"
    device: str = "cpu"
    threads: int = 1
    allocator: Allocator = "kept"
    seconds: float = 0.5
    precision: float = 0.02
    seed: int = 0
    repeat: int = 0

    @property
    def key(self) -> str:
        """A hash of the cell's JSON: the name of its record."""
        return cell_key(to_json(self))

    @property
    def label(self) -> str:
        """The mechanism as a user would write it: ``fastformer:interaction=add``."""
        return spec_label(self.mechanism, self.options)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one cell may use: seconds of wall time, and bytes above what its process started with."""

    timeout_s: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """A cell on its way down: with its limits, the folder of its task's data, and what makes its number.

    ``code`` fingerprints the sources and ``data`` the input files; both are copied into the record.
    ``checkpoint`` is the file in which a training may keep what it needs to go on after it was killed.
    """

    cell: Cell
    limits: Limits
    data_dir: str | None = None
    code: str = ""
    data: str = ""
    checkpoint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What became of a cell. Failure is a status with a reason, never a missing row.

    ``samples`` holds raw series in SI units (``time_s``), ``values`` single numbers (``peak_bytes``),
    ``machine`` the facts of the machine, ``code`` and ``data`` what produced the number, ``started``
    an ISO time in UTC and ``seconds`` the wall time the cell took.
    """

    cell: Cell
    status: Status
    reason: str = ""
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    values: Mapping[str, float | int | str | None] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    data: str = ""
    limits: Limits | None = None
    started: str = ""
    seconds: float = 0.0

    @classmethod
    def of(cls, job: Job, status: Status, reason: str = "", machine: str = "") -> Record:
        """A job's record without a measurement yet: its cell, limits and fingerprints, and the time now."""
        return cls(
            cell=job.cell,
            status=status,
            reason=reason,
            machine={"name": machine} if machine else {},
            code=job.code,
            data=job.data,
            limits=job.limits,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def cell_key(text: str) -> str:
    """The key of a cell from its JSON, of this version or of an earlier one with fewer fields."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_json(value: Cell | Job | Record) -> str:
    """Canonical JSON: sorted keys, no spaces; NaN is refused, since JSON has none."""
    return json.dumps(asdict(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def cell_from(data: object) -> Cell:
    """Read a Cell from parsed JSON; ValueError names what is missing, unknown or of the wrong type."""
    values = _checked(Cell, data)
    for name, allowed in (
        ("probe", get_args(Probe)),
        ("scope", SCOPES),
        ("mode", MODES),
        ("dtype", DTYPES),
        ("allocator", ALLOCATORS),
    ):
        if name in values and values[name] not in allowed:
            raise ValueError(f"{name} is {values[name]!r}, not one of {', '.join(allowed)}")
    for name in ("seq_len", "batch_size", "d_model", "heads", "layers", "threads", "seed", "repeat"):
        if name in values and (not isinstance(values[name], int) or isinstance(values[name], bool)):
            raise ValueError(f"{name} is {values[name]!r}, not a whole number")
    return Cell(**values)


def job_from(data: object) -> Job:
    """Read a Job from parsed JSON; ValueError says what does not fit."""
    values = _checked(Job, data)
    values["cell"] = cell_from(values["cell"])
    values["limits"] = Limits(**_checked(Limits, values["limits"]))
    return Job(**values)


def record_from(data: object) -> Record:
    """Read a Record from parsed JSON; ValueError says what does not fit."""
    values = _checked(Record, data)
    values["cell"] = cell_from(values["cell"])
    if values["status"] not in STATUSES:
        raise ValueError(f"status is {values['status']!r}, not one of {', '.join(STATUSES)}")
    samples = values.get("samples", {})
    if not isinstance(samples, dict) or not all(isinstance(v, list) for v in samples.values()):
        raise ValueError("samples must be an object of lists")
    values["samples"] = {name: tuple(series) for name, series in samples.items()}
    if values.get("limits") is not None:
        values["limits"] = Limits(**_checked(Limits, values["limits"]))
    return Record(**values)


def spec_label(name: str, options: Mapping[str, Option]) -> str:
    """``name:option=value,...``, the form that ``-m`` and ``--task`` read."""
    written = ",".join(f"{k}={_written(v)}" for k, v in sorted(options.items()))
    return f"{name}:{written}" if written else name


def _written(value: Option) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _checked(kind: type[Cell | Job | Limits | Record], data: object) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"expected a JSON object for {kind.__name__}, found {type(data).__name__}")
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r} in {kind.__name__}")
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(required - set(data))
    if missing:
        raise ValueError(f"missing field {missing[0]!r} in {kind.__name__}")
    return dict(data)

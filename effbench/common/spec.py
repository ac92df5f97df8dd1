"""The types that cross the wire as JSON: Cell, Limits, Job and Record. Standard library only."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, get_args

from effbench.common.probes import INTERNAL, PROBES
from effbench.common.strict_json import LARGEST
from effbench.common.wording import one_line, shown

Option = bool | int | float | str | None
Scope = Literal["attention", "encoder", "user-encoder"]
Mode = Literal["forward", "train", "decode"]
Dtype = Literal["float32", "float64", "bfloat16", "float16"]
Allocator = Literal["kept", "system"]
Compile = Literal["none", "default", "max-autotune"]
Status = Literal["ok", "oom", "timeout", "crashed", "unsupported", "incorrect", "skipped", "interrupted"]

# A cell with one of these may be measured again, some once the limits are raised: its checkpoint is kept.
MAY_GO_ON: tuple[Status, ...] = ("interrupted", "timeout", "oom", "skipped")
MACHINE = "machine"  # the mechanism of a cell that measures the machine alone
SCOPES: tuple[Scope, ...] = get_args(Scope)
MODES: tuple[Mode, ...] = get_args(Mode)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
ALLOCATORS: tuple[Allocator, ...] = get_args(Allocator)
COMPILES: tuple[Compile, ...] = get_args(Compile)
STATUSES: tuple[Status, ...] = get_args(Status)

# The least number of samples of a time cell, and the least seconds of its warm-up; estimates use both, too.
MIN_SAMPLES = 5
WARM_UP_MIN_S = 0.1
DEVICE = r"cpu|cuda(:[0-9]{1,3})?"
MESSAGE = 1000  # most characters of an error message


class UsageError(ValueError):
    """A mistake of the user: shown as one printable line of bounded length, with exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, MESSAGE))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement to make.

    ``mechanism`` is a registered name or a dotted name or file such as ``path/to/file.py:MyAttention``.
    ``repeat`` is the number of the replicate: a fresh process, seeded with ``seed + repeat``. ``scope`` is
    one attention layer, an encoder of ``layers`` blocks, or the user encoder of a news recommender:
    ``layers`` mechanisms over a history of ``seq_len`` clicks, then pooling. ``mode`` is a forward pass, a
    forward and a backward pass (``train``), or the causal form's step for one token after ``seq_len`` tokens
    (``decode``).
    A time cell samples for at most ``seconds``. ``precision`` is the target error of the time within its run,
    as a share of the time: a cell whose samples are far better stops sampling early, and a configuration that
    does not reach it is repeated. ``compile`` is torch.compile's mode; "none" does not compile.
    """

    mechanism: str
    options: Mapping[str, Option] = field(default_factory=dict)
    probe: str
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
    compile: Compile = "none"
    seconds: float = 0.5
    precision: float = 0.05
    seed: int = 0
    repeat: int = 0

    @cached_property
    def key(self) -> str:
        """Return a hash of the cell's JSON, which is part of the name of its record's file."""
        return cell_key(to_json(self))

    @property
    def label(self) -> str:
        """Return the mechanism as a user writes it: ``fastformer:interaction=add``."""
        return spec_label(self.mechanism, self.options)

    @property
    def task_label(self) -> str:
        """Return the task as a user writes it, "" for a cell without one."""
        return spec_label(self.task, self.task_options) if self.task else ""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one cell: wall time in seconds, and memory in bytes above the start of its process."""

    timeout_s: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """A cell to measure, with its limits, the folder of its task's data, and fingerprints.

    ``code`` is the fingerprint of the sources and ``data`` that of the input files; both are copied into the
    record. ``checkpoint`` is the file where a training may keep its state, to go on after it was killed.
    ``predictions`` is the folder where a training writes its predictions of the test part, and ``weights``
    the file where it keeps its weights.
    ``checked``: another repeat of the cell, of the same code, has passed the checks before the timing.
    """

    cell: Cell
    limits: Limits
    data_dir: str | None = None
    code: str = ""
    data: str = ""
    checkpoint: str | None = None
    predictions: str | None = None
    weights: str | None = None
    checked: bool = False


@dataclass(frozen=True, kw_only=True)
class Record:
    """The result of a cell. A failure is a status with a reason, never a missing row.

    ``samples`` holds raw series in SI units (``time_s``), ``values`` single numbers (``peak_bytes``), and
    ``machine`` the facts of the machine. ``code`` and ``data`` are the fingerprints from the job. ``started``
    is an ISO time in UTC, and ``seconds`` the wall time of the cell.
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
    def of(
        cls, job: Job, status: Status, reason: str = "", machine: Mapping[str, Any] | None = None
    ) -> Record:
        """Return a record of the job without a measurement: cell, limits, fingerprints and the time now."""
        return cls(
            cell=job.cell,
            status=status,
            reason=reason,
            machine=machine or {},
            code=job.code,
            data=job.data,
            limits=job.limits,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def cell_key(text: str) -> str:
    """Return the key of a cell from its JSON, written by this version or an earlier one with fewer fields."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def block_of(cell: Cell) -> str:
    """Return a key that all cells of a block share.

    The block of a cost is all mechanisms, repeats and probes at one shape, length and mode: its times are
    compared pair by pair. The block of a training is all mechanisms with one seed, since scores are paired by
    seed.
    """
    bare = replace(cell, mechanism="", options={}, compile="none", seconds=0.0, precision=0.0)
    return bare.key if cell.probe == "accuracy" else replace(bare, probe="time", repeat=0).key


def to_json(value: Cell | Job | Record) -> str:
    """Return canonical JSON: sorted keys, no spaces. Raises ValueError for NaN, which JSON does not have."""
    return json.dumps(value, default=_as_object, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _as_object(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, which json writes as an object."""
    return {one.name: getattr(value, one.name) for one in fields(value)}


def cell_from(data: object) -> Cell:
    """Read a Cell from parsed JSON. Raises ValueError for a missing, unknown or unfit field."""
    return Cell(**_fields(Cell, data, _CELL))


def job_from(data: object) -> Job:
    """Read a Job from parsed JSON. Raises ValueError as ``cell_from`` does."""
    values = _checked(Job, data)
    values["cell"] = cell_from(values["cell"])
    values["limits"] = _limits("limits", values["limits"])
    return Job(**values)


def record_from(data: object) -> Record:
    """Read a Record from parsed JSON. Raises ValueError as ``cell_from`` does.

    It checks the types and ranges that later code relies on, and makes the reason one printable line.
    """
    return Record(**_fields(Record, data, _RECORD))


Read = Callable[[str, Any], Any]


def _fields(kind: type[Cell | Record | Limits], data: object, readers: Mapping[str, Read]) -> dict[str, Any]:
    values = _checked(kind, data)
    return {name: readers[name](name, value) for name, value in values.items()}


def _one_of(allowed: Iterable[str]) -> Read:
    names = tuple(allowed)

    def read(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"{name} is {shown(value)}, not one of {', '.join(names)}")
        return value

    return read


def _whole_from(least: int) -> Read:
    def read(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{name} is {shown(value)}, not a whole number")
        if not least <= value < LARGEST:
            raise ValueError(f"{name} is {shown(value)}, not a whole number of at least {least}")
        return value

    return read


def _number(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {shown(value)}, not a number")
    if not (math.isfinite(value) if isinstance(value, float) else abs(value) < LARGEST):
        raise ValueError(f"{name} is {shown(value)}, not a finite number, or too large")
    return value


def _at_least_zero(name: str, value: Any) -> Any:
    if _number(name, value) < 0:
        raise ValueError(f"{name} is {shown(value)}, less than 0")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}, not text")
    if not value.isascii() and re.search("[\ud800-\udfff]", value):
        raise ValueError(f"{name} holds half of a surrogate pair, which is no character")
    return value


def _some_text(name: str, value: Any) -> str:
    if not _text(name, value):
        raise ValueError(f"{name} is empty")
    return str(value)


def _or_none(read: Read) -> Read:
    return lambda name, value: None if value is None else read(name, value)


def _scalar(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    return _text(name, value) if isinstance(value, str) else _number(name, value)


def _object_of(read: Read) -> Read:
    def object_(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"{name} is {shown(value)}, not an object")
        for key in value:
            _some_text(f"a name in {name}", key)
        return {key: read(f"{name}.{key}", one) for key, one in value.items()}

    return object_


def _series(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is {shown(value)}, not a list")
    return tuple(_number(name, one) for one in value)


def _fact(name: str, value: Any) -> Any:
    """Read a fact of the machine: a scalar, a list of scalars, or an object of these."""
    if isinstance(value, dict):
        return _object_of(_flat)(name, value)
    return _flat(name, value)


def _flat(name: str, value: Any) -> Any:
    return [_scalar(name, one) for one in value] if isinstance(value, list) else _scalar(name, value)


def _device(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(DEVICE, value):
        raise ValueError(f"{name} is {shown(value)}, not cpu, cuda or cuda:N")
    return value


def _limits(name: str, value: Any) -> Limits:
    return Limits(**_fields(Limits, value, _LIMITS))


def _cell(name: str, value: Any) -> Cell:
    return cell_from(value)


def _reason(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}, not text")
    return one_line(value, 10 * MESSAGE)


_CELL: dict[str, Read] = {
    "mechanism": _some_text,
    "options": _object_of(_scalar),
    "probe": _one_of((*PROBES, *INTERNAL)),
    "scope": _one_of(SCOPES),
    "mode": _one_of(MODES),
    "task": _or_none(_some_text),
    "task_options": _object_of(_scalar),
    **dict.fromkeys(("seq_len", "batch_size", "d_model", "heads", "layers", "threads"), _whole_from(1)),
    "dtype": _one_of(DTYPES),
    "device": _device,
    "allocator": _one_of(ALLOCATORS),
    "compile": _one_of(COMPILES),
    **dict.fromkeys(("seconds", "precision"), _at_least_zero),
    **dict.fromkeys(("seed", "repeat"), _whole_from(0)),
}
_LIMITS: dict[str, Read] = {"timeout_s": _number, "memory_bytes": _whole_from(0)}
_RECORD: dict[str, Read] = {
    "cell": _cell,
    "status": _one_of(STATUSES),
    "reason": _reason,
    "samples": _object_of(_series),
    "values": _object_of(_scalar),
    "machine": _object_of(_fact),
    **dict.fromkeys(("code", "data", "started"), _text),
    "limits": _or_none(_limits),
    "seconds": _at_least_zero,
}


def spec_label(name: str, options: Mapping[str, Option]) -> str:
    """Return ``name:option=value,...``, the form that ``-m`` and ``--task`` read."""
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

"""Settings of a gate: from flags, a TOML file, or [tool.effbench.gate] in the root's pyproject.toml."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from effbench.common import files, registry
from effbench.common.spec import MODES, Cell, Option, UsageError, spec_label
from effbench.common.values import number, parse_share, parse_time_s, parse_whole
from effbench.common.wording import shown
from effbench.gate.exact import DEFAULTS, Tolerance
from effbench.gate.exact import FIGURES as EXACT
from effbench.gate.paths import from_root
from effbench.sweep import sweep
from effbench.sweep.axes import read_axis

TABLE = "tool.effbench.gate"
# One thread: on a shared machine more threads wait for cores that other processes use.
_AXES: dict[str, tuple[Any, ...]] = {
    "mechanism": (),
    "seq_len": (512, 2048),
    "mode": ("forward", "train"),
    "batch_size": (1,),
    "batch_tokens": (),
    "d_model": (256,),
    "heads": (16,),
    "layers": (2,),
    "scope": ("attention",),
    "dtype": ("float32",),
    "device": ("cpu",),
    "threads": (1,),
    "allocator": ("kept",),
    "compile": ("none",),
}
_INSTEAD = {"batch_size": "batch_tokens", "batch_tokens": "batch_size"}


@dataclass(frozen=True, kw_only=True)
class Override:
    """A separate threshold or floor for the cells that it matches; a field that is None matches all.

    ``mechanism`` as a name matches it with any options; a full label (``fastformer:interaction=add``) matches
    only these options, in any order; ``fastformer:`` is the label without options. ``threshold`` is a share,
    ``floor_s`` is in seconds; a value that is None is not changed.
    """

    mechanism: str | None = None
    seq_len: int | None = None
    mode: str | None = None
    threshold: float | None = None
    floor_s: float | None = None

    def matches(self, cell: Cell) -> bool:
        """True if this override applies to the cell."""
        return (
            (self.mechanism is None or _names(self.mechanism, cell))
            and self.seq_len in (None, cell.seq_len)
            and self.mode in (None, cell.mode)
        )


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """The cells that a gate compares, and the limits for them.

    ``axes`` maps the axes of a grid to their values, as in a sweep, with either batch_size or batch_tokens.
    The texts of ``mechanism`` are unchanged except for paths, which are relative to the repository's root; a
    class may exist in one of the two revisions only.
    Slowdowns above ``threshold``, a share, are reported if they are also above ``floor_s`` seconds. ``error``
    is the probability of any wrong verdict in the whole gate, ``budget_s`` the wall time. ``exact`` maps each
    exact figure that is compared to its tolerance. Without ``time`` only exact figures are compared. The last
    of ``overrides`` that matches a cell and sets a value wins.
    """

    axes: Mapping[str, tuple[Any, ...]]
    threshold: float = 0.05
    floor_s: float = 10e-6
    error: float = 0.01
    budget_s: float = 120.0
    time: bool = True
    exact: Mapping[str, Tolerance] = field(default_factory=lambda: dict(DEFAULTS))
    overrides: tuple[Override, ...] = ()

    def cells(self, mechanism: str, options: Mapping[str, Option]) -> list[Cell]:
        """Return the cells of one mechanism. Raises UsageError for an impossible combination."""
        return sweep.cells_of(self.axes, mechanism, options)

    def threshold_of(self, cell: Cell) -> float:
        """Return the threshold of this cell, as a share."""
        own = [o.threshold for o in self.overrides if o.threshold is not None and o.matches(cell)]
        return own[-1] if own else self.threshold

    def floor_of(self, cell: Cell) -> float:
        """Return the floor of this cell, in seconds."""
        own = [o.floor_s for o in self.overrides if o.floor_s is not None and o.matches(cell)]
        return own[-1] if own else self.floor_s

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a report, with the names and units of the fields."""
        data = asdict(self)
        data["axes"] = {name: list(values) for name, values in self.axes.items()}
        data["overrides"] = list(data["overrides"])
        return data


def read(root: Path, config: Path | None, flags: Mapping[str, Any], here: Path | None = None) -> GateSettings:
    """Read the settings of a gate for the repository at ``root``.

    Flags win over the file, the file wins over defaults. ``flags`` has the keys and values of the TOML file;
    None or an empty list means not given. The file is ``config``, else the root's pyproject.toml if it has a
    table ``[tool.effbench.gate]``; in a ``config`` named pyproject.toml this table is read too. A mechanism's
    path is relative to the folder of the file; in a flag to ``here``, by default the root.

    Raises UsageError with the file, the key, the value and the allowed values.
    """
    given = {key: value for key, value in flags.items() if value is not None and value not in ([], ())}
    table, where = _file(root, config)
    try:
        from_file = _partial(table)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    axes = dict(_AXES)
    exact: dict[str, Tolerance | None] = dict(DEFAULTS)
    values: dict[str, Any] = {}
    overrides: list[Override] = []
    folder = config.absolute().parent if config else root
    for part in (_placed(from_file, folder, root), _placed(_partial(given), here or root, root)):
        for name in set(_INSTEAD) & set(part.axes):
            axes[_INSTEAD[name]] = ()  # of batch_size and batch_tokens the later source wins
        axes |= part.axes
        exact |= part.exact
        values |= part.values
        overrides += part.overrides
    settings = GateSettings(
        axes={name: axis for name, axis in axes.items() if axis},
        exact={name: tolerance for name, tolerance in exact.items() if tolerance is not None},
        overrides=tuple(overrides),
        **values,
    )
    if "mechanism" not in settings.axes:
        raise UsageError(
            "no mechanism to compare; name one with -m NAME or -m path/to/file.py:MyAttention, or with "
            f'mechanism = ["NAME"] in {where if config else f"[{TABLE}] of pyproject.toml"}'
        )
    if (
        len(settings.axes["allocator"]) > 1
    ):  # an allocator belongs to a process, and all cells share the workers
        raise UsageError(
            f"allocator {', '.join(settings.axes['allocator'])}: a gate uses a single allocator; name one"
        )
    if not settings.time and not settings.exact:
        raise UsageError("nothing to compare: no time, and every exact figure is false")
    return settings


def unused(settings: GateSettings, cells: Iterable[Cell]) -> list[Override]:
    """Return the overrides that match no cell: they are probably misspelt."""
    cells = list(cells)
    return [override for override in settings.overrides if not any(map(override.matches, cells))]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The settings of one source: axes, exact figures (None: off), other fields and overrides."""

    axes: dict[str, tuple[Any, ...]]
    exact: dict[str, Tolerance | None]
    values: dict[str, Any]
    overrides: list[Override]


def _placed(part: _Part, folder: Path, root: Path) -> _Part:
    """Make the paths of mechanisms, which are relative to ``folder``, relative to ``root``."""
    axes, overrides = dict(part.axes), part.overrides
    if "mechanism" in axes:
        axes["mechanism"] = tuple(dict.fromkeys(from_root(text, folder, root) for text in axes["mechanism"]))
    overrides = [
        own if own.mechanism is None else replace(own, mechanism=from_root(own.mechanism, folder, root))
        for own in overrides
    ]
    return replace(part, axes=axes, overrides=overrides)


def _file(root: Path, config: Path | None) -> tuple[dict[str, Any], str]:
    """Return the table of settings, empty if there is none, and its place for error messages."""
    path = config or root / "pyproject.toml"
    if config is None and not files.is_file(path):
        return {}, str(path)
    if path.is_dir():
        raise UsageError(f"config {str(config)!r} is a folder: name a file")
    data = files.read_toml(path)
    if path.name != "pyproject.toml":
        return data, str(path)
    for name in ("tool", "effbench"):
        data = _table(f"{path}: {name}", data.get(name, {}))
    for key in data:
        if key != "gate":  # else a misspelt table would be ignored silently
            raise UsageError(
                f"{path}: {registry.unknown('table in tool.effbench', key, ['gate'], 'allowed')}"
            )
    if config is not None and "gate" not in data:
        raise UsageError(f"{path}: there is no table [{TABLE}]")
    return _table(f"{path}: {TABLE}", data.get("gate", {})), f"{path}: {TABLE}"


def _table(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{name} {shown(value)} is not a table")
    return value


def _partial(data: Mapping[str, Any]) -> _Part:
    for key in data:
        if key not in KEYS:
            raise UsageError(registry.unknown("key", key, KEYS, "allowed"))
    if "batch_size" in data and "batch_tokens" in data:
        raise UsageError("give batch_size or batch_tokens, not both")
    return _Part(
        axes={name: _axis(name, data[name]) for name in _AXES if name in data},
        exact=_exact(data.get("exact", {})),
        values={field: read(key, data[key]) for key, (field, read) in _VALUES.items() if key in data},
        overrides=_overrides(data.get("cell", [])),
    )


def _axis(name: str, value: Any) -> tuple[Any, ...]:
    if name != "mechanism":
        return tuple(dict.fromkeys(read_axis(name, value)))
    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise UsageError("mechanism is empty")
    return tuple(dict.fromkeys(_mechanism(name, item) for item in items))


def _mechanism(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(
            f"{name} {shown(value)} is not text such as fastformer or path/to/file.py:MyAttention"
        )
    return value


def _time_s(name: str, value: Any) -> float:
    return parse_time_s(value, name)


def _floor_s(name: str, value: Any) -> float:
    return parse_time_s(value, name, zero=True, unit=True)  # 0: no floor


def _bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name} {shown(value)} is not true or false")
    return value


def _exact(value: Any) -> dict[str, Tolerance | None]:
    for name in _table("exact", value):
        if name not in EXACT:
            raise UsageError(registry.unknown("exact figure", name, EXACT, "there are"))
    return {name: _tolerance(name, given) for name, given in value.items()}


def _tolerance(figure: str, value: Any) -> Tolerance | None:
    if isinstance(value, bool):
        return DEFAULTS[figure] if value else None
    if number(value.removesuffix("%") if isinstance(value, str) else value) == 0:
        return 0.0
    try:
        return parse_share(f"exact.{figure}", value)
    except UsageError as error:
        raise UsageError(
            f"{error}, 0 for no growth at all, true for the default, or false to leave it out"
        ) from None


def _overrides(value: Any) -> list[Override]:
    if not isinstance(value, list | tuple):
        raise UsageError(f"cell {shown(value)} is not a list of tables; write [[cell]], or [[{TABLE}.cell]]")
    overrides = []
    for place, table in enumerate(value, start=1):
        try:
            overrides.append(_override(_table("this", table)))
        except UsageError as error:
            raise UsageError(f"cell {place}: {error}") from None
    return overrides


def _override(table: Mapping[str, Any]) -> Override:
    for key in table:
        if key not in _CELL_VALUES:
            raise UsageError(registry.unknown("key", key, list(_CELL_VALUES), "allowed"))
    if not {"threshold", "floor"} & set(table):
        raise UsageError("sets nothing; give a threshold, a floor or both")
    return Override(
        **{_CELL_VALUES[key][0]: _CELL_VALUES[key][1](key, value) for key, value in table.items()}
    )


def _mode(name: str, value: Any) -> str:
    if not isinstance(value, str) or value not in MODES:
        raise UsageError(registry.unknown(name, value, MODES, "choose from"))
    return value


def _names(text: str, cell: Cell) -> bool:
    """True if a text as for -m is the name or the full label of this cell's mechanism."""
    if text == cell.mechanism:
        return True
    if not text.startswith(f"{cell.mechanism}:"):
        return False
    pairs = [part.partition("=") for part in text[len(cell.mechanism) + 1 :].split(",") if part]
    return spec_label(cell.mechanism, {key.strip(): value.strip() for key, _, value in pairs}) == cell.label


_Reader = Callable[[str, Any], Any]
# Other keys of a file beside axes, exact figures and overrides: the field, and the reader of its value.
_VALUES: dict[str, tuple[str, _Reader]] = {
    "threshold": ("threshold", parse_share),
    "floor": ("floor_s", _floor_s),
    "error": ("error", parse_share),
    "budget": ("budget_s", _time_s),
    "time": ("time", _bool),
}
_CELL_VALUES: dict[str, tuple[str, _Reader]] = {
    "mechanism": ("mechanism", _mechanism),
    "seq_len": ("seq_len", parse_whole),
    "mode": ("mode", _mode),
    "threshold": _VALUES["threshold"],
    "floor": _VALUES["floor"],
}
KEYS = (*_AXES, *_VALUES, "exact", "cell")

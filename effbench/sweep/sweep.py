"""Sweep: a grid of cells, read from a preset, a TOML file or flags, and written back as TOML."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from effbench.common import files, machine, registry
from effbench.common.spec import (
    ALLOCATORS,
    DEVICE,
    DTYPES,
    MODES,
    PROBES,
    SCOPES,
    Cell,
    Limits,
    Option,
    UsageError,
    spec_label,
)
from effbench.common.values import MOST, MOST_SEED

# the readers of values, which the commands take from here
from effbench.common.values import parse_bytes as parse_bytes
from effbench.common.values import parse_lengths as parse_lengths
from effbench.common.values import parse_seconds as parse_seconds
from effbench.common.values import parse_share as parse_share
from effbench.common.values import parse_time_s as parse_time_s
from effbench.common.values import parse_whole as parse_whole
from effbench.common.wording import shown

MOST_THREADS = 4096
MOST_REPEATS = 1000
MOST_CELLS = 100_000  # of one sweep
MOST_NUMBERS = 10**12  # of the input of one cell, batch x length x width

Axis = tuple[Any, ...]
T = TypeVar("T")
_NAME = r"\w[\w.-]{0,99}"  # a folder of results/ has it
_CELL_SECONDS = {"accuracy": 3600.0}
_DEFAULT_TIMEOUT_S = 300.0
_MEMORY_SHARE = 0.8
_DIGEST = 6  # letters in the name of a changed sweep


def _whole_axis(name: str, most: int = MOST) -> Callable[[Any], Axis]:
    return lambda value: tuple(parse_whole(name, item, most=most) for item in _items(value))


def _choice_axis(name: str, allowed: Sequence[str]) -> Callable[[Any], Axis]:
    def read(value: Any) -> Axis:
        for item in _items(value):
            if not isinstance(item, str) or item not in allowed:
                raise UsageError(registry.unknown(name, item, list(allowed), "choose from"))
        return tuple(_items(value))

    return read


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return list(value) if isinstance(value, list | tuple) else [value]


def _specs(kind: registry.Kind) -> Callable[[Any], Axis]:
    def read(value: Any) -> Axis:
        items = value if isinstance(value, list | tuple) else [value]
        for item in items:
            if not isinstance(item, str):
                raise UsageError(f"{kind} {shown(item)} is not text such as name:option=value")
        return tuple(spec_label(*registry.parse(item, kind)) for item in items)

    return read


def _lengths_axis(value: Any) -> Axis:
    parts = value if isinstance(value, list | tuple) else [value]
    return tuple(dict.fromkeys(n for part in parts for n in parse_lengths(part)))


def _device_axis(value: Any) -> Axis:
    for item in _items(value):
        if not isinstance(item, str) or not re.fullmatch(DEVICE, item):
            raise UsageError(f"device {shown(item)} is not cpu, cuda or cuda:N")
    return tuple(_items(value))


# What a grid may hold: the cell's fields, each with what reads it. The order is the order in TOML.
_AXES: dict[str, Callable[[Any], Axis]] = {
    "mechanism": _specs("mechanism"),
    "probe": _choice_axis("probe", PROBES),
    "scope": _choice_axis("scope", SCOPES),
    "mode": _choice_axis("mode", MODES),
    "task": _specs("task"),
    "seq_len": _lengths_axis,
    "batch_size": _whole_axis("batch_size"),
    "batch_tokens": _whole_axis("batch_tokens"),  # instead of batch_size: so many tokens at every length
    "d_model": _whole_axis("d_model"),
    "heads": _whole_axis("heads"),
    "layers": _whole_axis("layers"),
    "dtype": _choice_axis("dtype", DTYPES),
    "device": _device_axis,
    "threads": _whole_axis("threads", MOST_THREADS),
    "allocator": _choice_axis("allocator", ALLOCATORS),
    "seconds": lambda value: (parse_seconds(value, "seconds"),),
    "precision": lambda value: (parse_share("precision", value),),
    "repeats": lambda value: (parse_whole("repeats", value, most=MOST_REPEATS),),
    "max_repeats": lambda value: (parse_whole("max_repeats", value, most=MOST_REPEATS),),
}
_NAMED: tuple[registry.Kind, ...] = ("mechanism", "task")
_DEFAULTS: dict[str, Axis] = {
    "probe": ("time", "memory", "flops"),
    "scope": ("attention",),
    "mode": ("forward", "train"),
    "task": ("listops",),
    "batch_size": (1,),
    "d_model": (256,),
    "heads": (16,),
    "layers": (2,),
    "dtype": ("float32",),
    "device": ("cpu",),
    "allocator": ("kept",),
    "seconds": (0.5,),
    "precision": (0.02,),
    "repeats": (3,),
    "max_repeats": (10,),
}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Grids of cells with shared settings.

    A grid maps axes (the fields of a Cell, ``repeats`` and ``max_repeats``) to the values they take; its
    cells are the product. ``timeout_s`` and ``memory_bytes`` limit each cell; None means a default made for
    the probe and the machine. ``budget_s`` limits the whole sweep.
    """

    name: str
    description: str = ""
    grids: tuple[Mapping[str, Axis], ...] = field(default_factory=tuple)
    seed: int = 0
    timeout_s: float | None = None
    memory_bytes: int | None = None
    budget_s: float | None = None

    @classmethod
    def preset(cls, name: str) -> Sweep:
        """A named sweep that comes with effbench. Raises UsageError naming the presets there are."""
        if name not in presets():
            raise UsageError(registry.unknown("preset", name, presets(), "there are"))
        text = (resources.files("effbench.sweep") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
        return cls.from_toml(text, f"preset {name}", name)

    @classmethod
    def load(cls, path: str | Path) -> Sweep:
        """Read a TOML file. Raises UsageError with the file and what is wrong."""
        path = Path(path)
        return cls.from_toml(files.read_text(path), str(path), path.stem, path.parent)

    @classmethod
    def from_toml(cls, text: str, where: str, name: str, folder: Path = Path()) -> Sweep:
        """Read a sweep from TOML text; ``where`` names it in errors.

        Files of plug-ins are named from ``folder``, where the sweep's own file lies.
        """
        data = files.parse_toml(text, where)
        grids = data.pop("grid", [])
        if not isinstance(grids, list) or not grids or not all(isinstance(grid, dict) for grid in grids):
            raise UsageError(f"{where}: needs at least one [[grid]] table")
        known = ("name", "description", "seed", "timeout", "memory_limit", "budget")
        for key in data:
            if key not in known:
                raise UsageError(f"{where}: {registry.unknown('key', key, [*known, 'grid'], 'allowed')}")
        try:
            return cls(
                name=_text(data, "name", name),
                description=_text(data, "description", ""),
                grids=tuple(_grid(grid, number, folder) for number, grid in enumerate(grids, start=1)),
                seed=parse_whole("seed", data.get("seed", 0), least=0, most=MOST_SEED),
                timeout_s=_given(data, "timeout", parse_seconds),
                memory_bytes=_given(data, "memory_limit", parse_bytes),
                budget_s=_given(data, "budget", parse_seconds),
            )
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None

    def override(self, axes: Mapping[str, Any]) -> Sweep:
        """The sweep with each given axis replaced in every grid, under a name and description of its own.

        ``probe`` selects: a grid keeps those of its probes that were asked for, and goes if none is left; a
        probe that no grid has joins the first grid.
        """
        read = {key: read_axis(key, value) for key, value in axes.items()}
        asked = read.pop("probe", None)
        instead = {"batch_size": "batch_tokens", "batch_tokens": "batch_size"}
        replaced = {instead[key] for key in read if key in instead} - set(read)
        grids = [
            {**{key: axis for key, axis in grid.items() if key not in replaced}, **read}
            for grid in self.grids
        ]
        if asked is not None:
            has = {probe for grid in grids for probe in grid.get("probe", _DEFAULTS["probe"])}
            for grid in grids:
                grid["probe"] = tuple(p for p in grid.get("probe", _DEFAULTS["probe"]) if p in asked)
            grids[0]["probe"] = (*grids[0]["probe"], *(p for p in asked if p not in has))
            grids = [grid for grid in grids if grid["probe"]]
        said = "; ".join(f"{key} {', '.join(map(str, _items(value)))}" for key, value in axes.items())
        return replace(self, grids=tuple(grids)).renamed(self, said)

    def renamed(self, origin: Sweep, said: str) -> Sweep:
        """This sweep under a name and description of its own, if it measures other cells than ``origin``.

        So that its results go to a folder of their own. ``said`` names what was changed.
        """
        if (self.grids, self.seed) == (origin.grids, origin.seed):
            return self
        same = replace(self, name="", description="", budget_s=None, timeout_s=None, memory_bytes=None)
        digest = hashlib.sha256(same.to_toml().encode()).hexdigest()[:_DIGEST]
        first = re.sub(rf"-[0-9a-f]{{{_DIGEST}}}$", "", origin.name)
        before = origin.description if first != origin.name else f"{first}, changed"
        return replace(self, name=f"{first}-{digest}", description=f"{before}: {said}")

    def cells(self, *, most: bool = False) -> list[Cell]:
        """Every cell, each once, in the order of the grids.

        With ``repeats`` replicates of a time cell, or, with ``most``, all ``max_repeats`` that there may be
        if its interval stays wider than ``precision``.

        Axes that a probe does not read are set to one value, so that nothing is measured twice: memory and
        FLOPs are exact and need one repeat; an accuracy cell trains an encoder; one attention layer has one
        layer.
        """
        found: dict[str, Cell] = {}
        if (count := sum(_most_cells(grid) for grid in self.grids)) > MOST_CELLS:
            raise UsageError(f"{self.name}: up to {count} cells, more than {MOST_CELLS}; take fewer values")
        for grid in self.grids:
            if "seq_len" not in grid or "mechanism" not in grid:
                missing = "seq_len" if "seq_len" not in grid else "mechanism"
                raise UsageError(f"a grid of {self.name!r} has no {missing}")
            full = _full(grid)
            repeats, at_most = full.pop("repeats")[0], full.pop("max_repeats")[0]
            for kind in _NAMED:  # once for each name, not for each cell
                full[kind] = tuple(registry.parse(item, kind) for item in full[kind])
            for values in itertools.product(*full.values()):
                for cell in _cells(
                    dict(zip(full, values, strict=True)), self.seed, repeats, at_most if most else 0
                ):
                    found.setdefault(cell.key, cell)
        return list(found.values())

    def limits(self, probe: str) -> Limits:
        """The limits of one cell; by default four fifths of the machine's memory, the same at every run."""
        timeout = self.timeout_s or _CELL_SECONDS.get(probe, _DEFAULT_TIMEOUT_S)
        memory = self.memory_bytes or int(_MEMORY_SHARE * machine.total_memory_bytes())
        return Limits(timeout_s=timeout, memory_bytes=memory)

    def to_toml(self, folder: Path = Path()) -> str:
        """The resolved sweep; reading it back gives the same cells on a machine with as many cores.

        ``folder`` is where the text will lie, from which it names the files of plug-ins.
        """
        import tomli_w

        data: dict[str, Any] = {"name": self.name, "description": self.description, "seed": self.seed}
        for key, value in (
            ("timeout", self.timeout_s),
            ("memory_limit", self.memory_bytes),
            ("budget", self.budget_s),
        ):
            if value is not None:
                data[key] = value
        full = [_full(grid) for grid in self.grids]
        for grid in full:
            for kind in _NAMED:
                grid[kind] = tuple(_moved(text, Path(), folder) for text in grid[kind])
        data["grid"] = [
            {key: grid[key][0] if len(grid[key]) == 1 else list(grid[key]) for key in _AXES if key in grid}
            for grid in full
        ]
        return tomli_w.dumps(data)


def cells_of(axes: Mapping[str, Axis], mechanism: str, options: Mapping[str, Option]) -> list[Cell]:
    """The time cells of one mechanism over ``axes``, without repeats; the mechanism is not looked up.

    Raises UsageError for a combination that cannot be a cell.
    """
    grid = {name: axis for name, axis in axes.items() if name != "mechanism"}
    full = {**_full(grid), "probe": ("time",), "mechanism": ((mechanism, options),), "task": (("", {}),)}
    del full["repeats"], full["max_repeats"]
    made = (dict(zip(full, values, strict=True)) for values in itertools.product(*full.values()))
    return list({cell.key: cell for values in made for cell in _cells(values, 0, 1, 0)}.values())


def presets() -> list[str]:
    """The names of the sweeps that come with effbench."""
    folder = resources.files("effbench.sweep") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_axis(name: str, value: Any) -> Axis:
    """The values of one axis of a grid from a flag's text or a TOML value, such as ``"512:4096:x2"``.

    Raises UsageError naming the axis, the value and what is allowed.
    """
    if name not in _AXES:
        raise UsageError(registry.unknown("grid key", name, list(_AXES), "allowed"))
    values = _AXES[name](value)
    if not values:
        raise UsageError(f"{name} is empty")
    return values


def _text(data: Mapping[str, Any], key: str, default: str) -> str:
    value = data.get(key, default)
    if not isinstance(value, str) or (key == "name" and not re.fullmatch(_NAME, value)):
        raise UsageError(f"{key} {shown(value)} is not {'a plain name' if key == 'name' else 'text'}")
    return value


def _given(data: Mapping[str, Any], key: str, read: Callable[[Any, str], T]) -> T | None:
    return read(data[key], key) if key in data else None


def _grid(data: Mapping[str, Any], number: int, folder: Path) -> dict[str, Axis]:
    found = dict(data)
    for kind in _NAMED:
        if kind in found and all(isinstance(item, str) for item in _whole_items(found[kind])):
            found[kind] = [_moved(item, folder, Path()) for item in _whole_items(found[kind])]
    try:
        return {key: read_axis(key, value) for key, value in found.items()}
    except UsageError as error:
        raise UsageError(f"grid {number}: {error}") from None


def _whole_items(value: Any) -> list[Any]:
    """The items of a list, or the one value; a text is not split at its commas."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _moved(text: str, start: Path, end: Path) -> str:
    """``file.py:Class``, named from one folder, as it is named from another; other texts as they are.

    A file that is not below the folder that it is to be named from is named by its whole path, but for a
    sweep's own file, which may be moved together with its neighbours.
    """
    file, colon, rest = text.partition(":")
    if not file.endswith(".py") or Path(file).is_absolute():
        return text
    whole = os.path.normpath(Path.cwd() / start / file)
    if end == Path() and not Path(whole).is_relative_to(Path.cwd()):
        return f"{whole}{colon}{rest}"
    return f"{os.path.relpath(whole, Path.cwd() / end)}{colon}{rest}"


def _full(grid: Mapping[str, Axis]) -> dict[str, Axis]:
    """A grid with the defaults of the axes that it does not name."""
    if "batch_size" in grid and "batch_tokens" in grid:
        raise UsageError("a grid has batch_size or batch_tokens, not both")
    full = {"threads": (machine.cores(),), **_DEFAULTS, **grid}
    if "batch_tokens" in grid:
        del full["batch_size"]
    return full


def _most_cells(grid: Mapping[str, Axis]) -> int:
    """The cells of a grid with all the repeats that there may be, as far as one can tell beforehand."""
    full = _full(grid)
    repeats: int = max(full["repeats"][0], full["max_repeats"][0])
    return math.prod(len(axis) for axis in full.values()) * repeats


def _cells(values: dict[str, Any], seed: int, repeats: int, at_most: int) -> list[Cell]:
    (mechanism, options), (task, task_options) = values.pop("mechanism"), values.pop("task")
    if "batch_tokens" in values:
        tokens, seq_len = values.pop("batch_tokens"), values["seq_len"]
        if tokens % seq_len:
            raise UsageError(f"seq_len {seq_len} does not divide batch_tokens {tokens}")
        values["batch_size"] = tokens // seq_len
    if values["d_model"] % values["heads"]:
        raise UsageError(f"heads {values['heads']} does not divide d_model {values['d_model']}")
    if values["probe"] == "accuracy":
        values.update(scope="encoder", mode="train", seconds=0.0, precision=0.0)
    else:
        task, task_options = None, {}
        if values["scope"] == "attention":
            values["layers"] = 1
        if values["probe"] != "time":
            values["seconds"], values["precision"], repeats = 0.0, 0.0, 1
        else:
            repeats = max(repeats, at_most)
    if (count := values["batch_size"] * values["seq_len"] * values["d_model"]) > MOST_NUMBERS:
        raise UsageError(
            f"batch_size {values['batch_size']} x seq_len {values['seq_len']} x d_model {values['d_model']} "
            f"is {count} numbers, more than {MOST_NUMBERS}"
        )
    return [
        Cell(
            mechanism=mechanism,
            options=options,
            task=task,
            task_options=task_options,
            seed=seed,
            repeat=repeat,
            **values,
        )
        for repeat in range(repeats)
    ]

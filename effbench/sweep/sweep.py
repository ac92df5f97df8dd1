"""Sweep: a grid of cells, read from a preset, a TOML file or options, and written back as TOML."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from effbench.common import files, machine, registry
from effbench.common.spec import Cell, Limits, Option, UsageError
from effbench.common.values import MOST_SEED, parse_bytes, parse_time_s, parse_whole
from effbench.common.wording import shown
from effbench.sweep.axes import (
    AXES,
    DEFAULTS,
    PLUGINS,
    Axis,
    items_of,
    parse_plugin,
    read_axis,
    read_grid,
    with_defaults,
)

KEYS = ("name", "description", "seed", "timeout", "memory_limit", "budget")  # of a file, beside its grids
MOST_CELLS = 100_000  # of one sweep
MOST_NUMBERS = 10**12  # of the input of one cell, batch x length x width

T = TypeVar("T")
_NAME = r"\w[\w.-]{0,99}"  # it becomes the name of a folder in results/
_CELL_SECONDS = {"accuracy": 3600.0}
_DEFAULT_TIMEOUT_S = 300.0
_MEMORY_SHARE = 0.8
_DIGEST = 6  # letters in the name of a changed sweep


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Grids of cells with shared settings.

    A grid maps axes (the fields of a Cell, ``repeats`` and ``max_repeats``) to the values they take; its
    cells are the product. ``timeout_s`` and ``memory_bytes`` limit each cell; None means a default for the
    probe and the machine. ``budget_s`` limits the whole sweep. ``only`` holds the keys of the cells of a part
    of the sweep (effbench.sweep.parts); None is the whole sweep. It is no part of the file.
    """

    name: str
    description: str = ""
    grids: tuple[Mapping[str, Axis], ...] = field(default_factory=tuple)
    seed: int = 0
    timeout_s: float | None = None
    memory_bytes: int | None = None
    budget_s: float | None = None
    only: frozenset[str] | None = None

    @classmethod
    def preset(cls, name: str) -> Sweep:
        """Return a sweep that comes with effbench. Raises UsageError with the names of the presets."""
        if name not in presets():
            raise UsageError(registry.unknown("preset", name, presets(), "there are"))
        text = (resources.files("effbench.sweep") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
        return cls.from_toml(text, f"preset {name}", name)

    @classmethod
    def load(cls, path: str | Path) -> Sweep:
        """Read a TOML file. Raises UsageError with the file and its error."""
        path = Path(path)
        return cls.from_toml(files.read_text(path), str(path), path.stem, path.parent)

    @classmethod
    def from_toml(cls, text: str, where: str, name: str, folder: Path = Path()) -> Sweep:
        """Read a sweep from TOML text; ``where`` names it in errors.

        Files of plug-ins are relative to ``folder``, the folder of the sweep's own file.
        """
        data = files.parse_toml(text, where)
        grids = data.pop("grid", [])
        if not isinstance(grids, list) or not grids or not all(isinstance(grid, dict) for grid in grids):
            raise UsageError(f"{where}: needs at least one [[grid]] table")
        for key in data:
            if key not in KEYS:
                raise UsageError(f"{where}: {registry.unknown('key', key, [*KEYS, 'grid'], 'allowed')}")
        try:
            return cls(
                name=_text(data, "name", name),
                description=_text(data, "description", ""),
                grids=tuple(_numbered(grid, number, folder) for number, grid in enumerate(grids, start=1)),
                seed=parse_whole("seed", data.get("seed", 0), least=0, most=MOST_SEED),
                timeout_s=_given(data, "timeout", parse_time_s),
                memory_bytes=_given(data, "memory_limit", parse_bytes),
                budget_s=_given(data, "budget", parse_time_s),
            )
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None

    def override(self, axes: Mapping[str, Any]) -> Sweep:
        """Replace each given axis in every grid; the changed sweep gets its own name and description.

        ``probe`` selects: a grid keeps only the probes that are given, and is dropped if it has none of them;
        a given probe that no grid has is added to the first grid.
        """
        given = {key: read_axis(key, value) for key, value in axes.items()}
        probes = given.pop("probe", None)
        other = {"batch_size": "batch_tokens", "batch_tokens": "batch_size"}
        replaced = {other[key] for key in given if key in other} - set(given)
        grids = [
            {**{key: axis for key, axis in grid.items() if key not in replaced}, **given}
            for grid in self.grids
        ]
        if probes is not None:
            present = {probe for grid in grids for probe in grid.get("probe", DEFAULTS["probe"])}
            for grid in grids:
                grid["probe"] = tuple(p for p in grid.get("probe", DEFAULTS["probe"]) if p in probes)
            grids[0]["probe"] = (*grids[0]["probe"], *(p for p in probes if p not in present))
            grids = [grid for grid in grids if grid["probe"]]
        changes = "; ".join(f"{key} {', '.join(map(str, items_of(value)))}" for key, value in axes.items())
        return replace(self, grids=tuple(grids)).renamed(self, changes)

    def renamed(self, origin: Sweep, changes: str) -> Sweep:
        """Give this sweep its own name and description if it measures other cells than ``origin``.

        Its results then go to their own folder. ``changes`` says how it differs from ``origin``.
        """
        if (self.grids, self.seed) == (origin.grids, origin.seed):
            return self
        same = replace(self, name="", description="", budget_s=None, timeout_s=None, memory_bytes=None)
        digest = hashlib.sha256(same.to_toml().encode()).hexdigest()[:_DIGEST]
        first = re.sub(rf"-[0-9a-f]{{{_DIGEST}}}$", "", origin.name)
        before = origin.description if first != origin.name else f"{first}, changed"
        return replace(self, name=f"{first}-{digest}", description=f"{before}: {changes}")

    def cells(self, *, most: bool = False) -> list[Cell]:
        """Return every cell, each once, in the order of the grids.

        A time cell has ``repeats`` replicates; with ``most``, all ``max_repeats`` that a run may add while
        its error is larger than ``precision``, or while other load disturbs it.

        Axes that a probe does not read are set to one value, so that nothing is measured twice: memory and
        FLOPs are exact and need one repeat; an accuracy cell trains an encoder, which is not compiled; one
        attention layer has one layer. Raises UsageError for a combination that cannot be a cell.
        """
        planned, possible = self._expanded
        return list(possible if most else planned)

    @cached_property
    def _expanded(self) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
        """Return the planned cells and all cells that further repeats may add; computed once per sweep."""
        if (count := sum(_most_cells(grid) for grid in self.grids)) > MOST_CELLS:
            raise UsageError(f"{self.name}: up to {count} cells, more than {MOST_CELLS}; take fewer values")
        planned: dict[str, Cell] = {}
        possible: dict[str, Cell] = {}
        for grid in self.grids:
            if "seq_len" not in grid or "mechanism" not in grid:
                missing = "seq_len" if "seq_len" not in grid else "mechanism"
                raise UsageError(f"a grid of {self.name!r} has no {missing}")
            full = with_defaults(grid)
            repeats, at_most = full.pop("repeats")[0], full.pop("max_repeats")[0]
            for kind in PLUGINS:  # once for each name, not for each cell
                full[kind] = tuple(parse_plugin(kind, item) for item in full[kind])
            recommenders = _recommenders(full)
            for values in _product(full):
                if values["mechanism"][0] in recommenders:
                    values["layers"] = 1  # it has no stack of layers of that number
                for cell in _cells(values, self.seed, repeats, at_most):
                    key = cell.key
                    if self.only is not None and key not in self.only:
                        continue
                    possible.setdefault(key, cell)
                    if cell.repeat < repeats:
                        planned.setdefault(key, cell)
        return tuple(planned.values()), tuple(possible.values())

    def limits(self, probe: str) -> Limits:
        """Return the limits of one cell; by default four fifths of the machine's memory, in every run."""
        timeout = self.timeout_s or _CELL_SECONDS.get(probe, _DEFAULT_TIMEOUT_S)
        memory = self.memory_bytes or int(_MEMORY_SHARE * machine.total_memory_bytes())
        return Limits(timeout_s=timeout, memory_bytes=memory)

    def to_toml(self, folder: Path = Path()) -> str:
        """Write the sweep with all its defaults; read on a machine with as many cores, it has the same cells.

        ``folder`` is the folder of the file to be written: the files of plug-ins are named relative to it.
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
        full = [with_defaults(grid) for grid in self.grids]
        for grid in full:
            for kind in PLUGINS:
                grid[kind] = tuple(files.move_reference(text, Path(), folder) for text in grid[kind])
        data["grid"] = [
            {key: grid[key][0] if len(grid[key]) == 1 else list(grid[key]) for key in AXES if key in grid}
            for grid in full
        ]
        return tomli_w.dumps(data)


def cells_of(axes: Mapping[str, Axis], mechanism: str, options: Mapping[str, Option]) -> list[Cell]:
    """Return the time cells of one mechanism over ``axes``, one repeat each; the mechanism is not looked up.

    Raises UsageError for a combination that cannot be a cell.
    """
    grid = {name: axis for name, axis in axes.items() if name != "mechanism"}
    full = {
        **with_defaults(grid),
        "probe": ("time",),
        "mechanism": ((mechanism, options),),
        "task": (("", {}),),
    }
    del full["repeats"], full["max_repeats"]
    cells = (cell for values in _product(full) for cell in _cells(values, 0, 1, 0))
    return list({cell.key: cell for cell in cells}.values())


def presets() -> list[str]:
    """Return the names of the sweeps that come with effbench."""
    folder = resources.files("effbench.sweep") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _text(data: Mapping[str, Any], key: str, default: str) -> str:
    value = data.get(key, default)
    if not isinstance(value, str) or (key == "name" and not re.fullmatch(_NAME, value)):
        raise UsageError(f"{key} {shown(value)} is not {'a plain name' if key == 'name' else 'text'}")
    return value


def _given(data: Mapping[str, Any], key: str, read: Callable[[Any, str], T]) -> T | None:
    return read(data[key], key) if key in data else None


def _numbered(data: Mapping[str, Any], number: int, folder: Path) -> dict[str, Axis]:
    try:
        return read_grid(data, folder)
    except UsageError as error:
        raise UsageError(f"grid {number}: {error}") from None


def _product(axes: Mapping[str, Axis]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the axes' values."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _recommenders(full: Mapping[str, Axis]) -> set[str]:
    """Return the names of the axis ``mechanism`` that are recommenders'. Raises UsageError for costs."""
    names = {name for name, _ in full["mechanism"] if registry.model_kind(name) == "recommender"}
    costs = [probe for probe in full["probe"] if probe != "accuracy"]
    if names and costs:
        raise UsageError(
            f"{min(names)} is a recommender: it is trained, by --probe accuracy with a task of news "
            f"recommendation, and has no cell of the probe {costs[0]}"
        )
    return names


def _most_cells(grid: Mapping[str, Axis]) -> int:
    """Return an upper bound of the cells of a grid with all possible repeats, without making them."""
    full = with_defaults(grid)
    repeats: int = max(full["repeats"][0], full["max_repeats"][0])
    return math.prod(len(axis) for axis in full.values()) * repeats


def _cells(values: dict[str, Any], seed: int, repeats: int, at_most: int) -> list[Cell]:
    """Return the replicates of one combination of values: of a time cell, up to ``at_most``."""
    (mechanism, options), (task, task_options) = values.pop("mechanism"), values.pop("task")
    if "batch_tokens" in values:
        tokens, seq_len = values.pop("batch_tokens"), values["seq_len"]
        if tokens % seq_len:
            raise UsageError(f"seq_len {seq_len} does not divide batch_tokens {tokens}")
        values["batch_size"] = tokens // seq_len
    if values["d_model"] % values["heads"]:
        raise UsageError(f"heads {values['heads']} does not divide d_model {values['d_model']}")
    if values["probe"] == "accuracy":
        values.update(scope="encoder", mode="train", compile="none", seconds=0.0, precision=0.0)
    else:
        task, task_options = None, {}
        if values["scope"] == "attention":
            values["layers"] = 1
        if values["scope"] == "user-encoder" and values["mode"] == "decode":
            raise UsageError("scope user-encoder has no mode decode; choose from: forward, train")
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

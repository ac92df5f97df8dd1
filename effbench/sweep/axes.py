"""The axes of a grid: their names, defaults and the reader of each axis's values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from effbench.common import files, machine, registry
from effbench.common.probes import PROBES
from effbench.common.spec import (
    ALLOCATORS,
    COMPILES,
    DTYPES,
    MODES,
    SCOPES,
    Option,
    UsageError,
    spec_label,
)
from effbench.common.values import MOST, parse_device, parse_lengths, parse_share, parse_time_s, parse_whole
from effbench.common.wording import shown

MOST_THREADS = 4096
MOST_REPEATS = 1000

Axis = tuple[Any, ...]
PLUGINS: tuple[registry.Kind, ...] = ("mechanism", "task")  # the axes whose values name plug-ins


def items_of(value: Any) -> list[Any]:
    """Return the items of a list, the parts of a text between commas, or the one value."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return listed(value)


def listed(value: Any) -> list[Any]:
    """Return the items of a list, or the one value; a text is not split at its commas."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _whole_axis(name: str, most: int = MOST) -> Callable[[Any], Axis]:
    return lambda value: tuple(parse_whole(name, item, most=most) for item in items_of(value))


def _choice_axis(name: str, allowed: Sequence[str]) -> Callable[[Any], Axis]:
    def read(value: Any) -> Axis:
        for item in items_of(value):
            if not isinstance(item, str) or item not in allowed:
                raise UsageError(registry.unknown(name, item, list(allowed), "choose from"))
        return tuple(items_of(value))

    return read


def _plugin_axis(kind: registry.Kind) -> Callable[[Any], Axis]:
    def read(value: Any) -> Axis:
        for item in listed(value):
            if not isinstance(item, str):
                raise UsageError(f"{kind} {shown(item)} is not text such as name:option=value")
        return tuple(spec_label(*parse_plugin(kind, item)) for item in listed(value))

    return read


def parse_plugin(kind: registry.Kind, text: str) -> tuple[str, dict[str, Option]]:
    """Return (name, options) of a value of a plug-in's axis; a recommender may stand for a mechanism."""
    return registry.parse(text, registry.model_kind(text) if kind == "mechanism" else kind)


def _lengths_axis(value: Any) -> Axis:
    return tuple(dict.fromkeys(n for part in listed(value) for n in parse_lengths(part)))


def _device_axis(value: Any) -> Axis:
    return tuple(parse_device(item) for item in items_of(value))


# Every axis of a grid with its reader. They are the fields of a cell, batch_tokens and the repeats; TOML
# files are written in this order.
AXES: dict[str, Callable[[Any], Axis]] = {
    "mechanism": _plugin_axis("mechanism"),
    "probe": _choice_axis("probe", tuple(PROBES)),
    "scope": _choice_axis("scope", SCOPES),
    "mode": _choice_axis("mode", MODES),
    "task": _plugin_axis("task"),
    "seq_len": _lengths_axis,
    "batch_size": _whole_axis("batch_size"),
    "batch_tokens": _whole_axis("batch_tokens"),  # instead of batch_size: the same tokens at every length
    "d_model": _whole_axis("d_model"),
    "heads": _whole_axis("heads"),
    "layers": _whole_axis("layers"),
    "dtype": _choice_axis("dtype", DTYPES),
    "device": _device_axis,
    "threads": _whole_axis("threads", MOST_THREADS),
    "allocator": _choice_axis("allocator", ALLOCATORS),
    "compile": _choice_axis("compile", COMPILES),
    "seconds": lambda value: (parse_time_s(value, "seconds"),),
    "precision": lambda value: (parse_share("precision", value),),
    "repeats": lambda value: (parse_whole("repeats", value, most=MOST_REPEATS),),
    "max_repeats": lambda value: (parse_whole("max_repeats", value, most=MOST_REPEATS),),
}
DEFAULTS: dict[str, Axis] = {
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
    "compile": ("none",),
    "seconds": (0.5,),
    "precision": (0.05,),
    "repeats": (3,),
    "max_repeats": (10,),
}


def read_axis(name: str, value: Any) -> Axis:
    """Read the values of one axis from an option's text or a TOML value, such as ``"512:4096:x2"``.

    Raises UsageError naming the axis, the value and what is allowed.
    """
    if name not in AXES:
        raise UsageError(registry.unknown("grid key", name, list(AXES), "allowed"))
    values = AXES[name](value)
    if not values:
        raise UsageError(f"{name} is empty")
    return values


def read_grid(data: Mapping[str, Any], folder: Path) -> dict[str, Axis]:
    """Read a grid from a TOML table; files of plug-ins are named from ``folder``."""
    moved = dict(data)
    for kind in PLUGINS:
        if kind in data and all(isinstance(item, str) for item in listed(data[kind])):
            moved[kind] = [files.move_reference(item, folder, Path()) for item in listed(data[kind])]
    return {key: read_axis(key, value) for key, value in moved.items()}


def with_defaults(grid: Mapping[str, Axis]) -> dict[str, Axis]:
    """Return a grid with the defaults of the axes that it does not name."""
    if "batch_size" in grid and "batch_tokens" in grid:
        raise UsageError("a grid has batch_size or batch_tokens, not both")
    full = {"threads": (machine.cores(),), **DEFAULTS, **grid}
    if "batch_tokens" in grid:
        del full["batch_size"]
    return full

"""Names to classes: mechanisms, recommenders and tasks, found through entry points, files or dotted names.

Options are read from the source without importing it (plugin_source.py), so that listing and checking need no
torch. There is no other schema and no other registry.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path

from effbench.common import files, values
from effbench.common.class_source import Class, Module, NotFound, derives, module_path
from effbench.common.own_files import own_files
from effbench.common.plugin_source import Absent, Broken, Kind, Parameter, Plugin, describe, unknown
from effbench.common.spec import Option, UsageError
from effbench.common.wording import shown

__all__ = [
    "Absent",
    "Broken",
    "Kind",
    "Parameter",
    "Plugin",
    "check",
    "find",
    "home",
    "load",
    "model",
    "model_kind",
    "names",
    "parse",
    "sources",
    "unknown",
    "versions",
]

_GROUPS: dict[Kind, str] = {
    "mechanism": "effbench.mechanisms",
    "recommender": "effbench.recommenders",
    "task": "effbench.tasks",
}
_MODELS: tuple[Kind, ...] = ("mechanism", "recommender")  # what the mechanism of a cell may name
_RECOMMENDER = Path(__file__).parents[1] / "measured" / "recommender.py"  # the home of Recommender
_LONGEST = 10_000  # characters of a name with its options
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def names(kind: Kind) -> list[str]:
    """Return the installed names, effbench's own and those of plug-ins."""
    return sorted({entry.name for entry in _entries(kind)})


def parse(text: str, kind: Kind) -> tuple[str, dict[str, Option]]:
    """Return (name, options) of ``NAME[:option=value,...]``; the name of a file or module keeps its class.

    Raises UsageError naming the unknown name, option or value and what is allowed.
    """
    if len(text) > _LONGEST or _UNPRINTABLE.search(text):
        why = "is too long" if len(text) > _LONGEST else "has characters that cannot be printed"
        raise UsageError(f"{kind} {shown(text)} {why}")
    name, _, written = _split(text, kind)
    plugin = find(name, kind)
    options: dict[str, Option] = {}
    for part in written.split(",") if written is not None else ():
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not key or not value:
            raise UsageError(f"{shown(text)}: {shown(part)} is not option=value")
        if key in options:
            raise UsageError(f"{shown(text)}: the option {key} is given twice")
        options[key] = _convert(plugin, key, value)
    return name, check(plugin, options)


def check(plugin: Plugin, options: Mapping[str, Option]) -> dict[str, Option]:
    """Return the options, sorted. Raises UsageError for unknown options and missing required ones."""
    if plugin.parameters is not None:
        known = {p.name: p for p in plugin.parameters}
        for key in options:
            if key not in known:
                raise Absent(unknown(f"option of {plugin.name}", key, sorted(known), "its options"))
        for parameter in plugin.parameters:
            if parameter.required and parameter.name not in options:
                raise UsageError(f"{plugin.name} needs the option {parameter.name}={parameter.kind}")
    return dict(sorted(options.items()))


@cache
def find(name: str, kind: Kind) -> Plugin:
    """Locate a plug-in by installed name, ``path/to/file.py:Class`` or ``package.module:Class``."""
    reference, class_name, _ = _split(name, kind)
    if class_name:
        target, path = _place(name, reference, class_name)
        return describe(kind, name, target, class_name, path)
    for entry in _entries(kind):
        if entry.name == name:
            return describe(kind, name, entry.module, entry.attr, _module_path(entry.module))
    if kind == "mechanism" and name in names("recommender"):
        raise UsageError(f"{name} is a recommender: it is trained with a task of news recommendation only")
    raise Absent(
        unknown(kind, name, names(kind), "installed")
        + " (or give path/to/file.py:Class or package.module:Class)"
    )


@cache
def model_kind(text: str) -> Kind:
    """Return "mechanism" or "recommender": which of them ``text``, in the place of a mechanism, names.

    It is a recommender if it is installed as one and not as a mechanism, or if the source of the named class
    shows that it derives from Recommender. Options may follow the name.
    """
    for kind in _MODELS:
        if any(f"{text}:".startswith(f"{name}:") for name in names(kind)):
            return kind
    reference, class_name, _ = _split(text, "mechanism")
    if not class_name:  # no such name: the nearest one decides what the message lists
        near = difflib.get_close_matches(reference[:100], [n for kind in _MODELS for n in names(kind)], n=1)
        return "recommender" if near and near[0] in names("recommender") else "mechanism"
    target, path = _place(text, reference, class_name)
    try:
        module = Module.parse(path, target)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return "mechanism"  # describe says what is wrong with the file
    node = module.classes.get(class_name)
    recommends = node is not None and derives(Class(node, module), "Recommender", _RECOMMENDER)
    return "recommender" if recommends else "mechanism"


def model(name: str) -> Plugin:
    """Locate what the mechanism of a cell names: a mechanism, or a recommender (see ``model_kind``)."""
    return find(name, model_kind(name))


def home(mechanism: str) -> Path | None:
    """Return the folder of the code of a cell's mechanism or recommender; None if there is none."""
    try:
        return model(mechanism).path.parent
    except UsageError:
        return None


def load(plugin: Plugin) -> type:
    """Import the plug-in's class. Whatever its module raises on import goes to the caller.

    Raises Absent where the module has no such class.
    """
    if plugin.module.endswith(".py"):
        name = f"effbench_plugin_{plugin.path.stem}"
        spec = importlib.util.spec_from_file_location(name, plugin.path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # so that dataclasses and pickling inside the file work
        folder = str(plugin.path.resolve().parent)
        if folder not in sys.path:
            sys.path.append(folder)  # its neighbours, as python FILE would see them
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(plugin.module)
    kind: object = getattr(module, plugin.class_name, None)
    if not isinstance(kind, type):
        raise Absent(f"{plugin.name!r}: {plugin.class_name} is not a class in {plugin.module}")
    return kind


def versions(plugin: Plugin) -> dict[str, str | None]:
    """Return the versions of the distributions that a plug-in requires; None for one not installed."""
    installed: dict[str, str | None] = {}
    for name in plugin.requires:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = None
    return installed


def sources(plugin: Plugin) -> tuple[Path, ...]:
    """Return the files that the plug-in's numbers depend on: see ``own_files``. Their paths are absolute."""
    return own_files(plugin.path.absolute(), plugin.module)


@cache  # the metadata of every installed package is read, which takes about 15 ms
def _entries(kind: Kind) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=_GROUPS[kind]), key=lambda entry: entry.name))


def _split(text: str, kind: Kind) -> tuple[str, str, str | None]:
    """Return (name, or file or module with its class; the class or ""; options as written or None)."""
    head, colon, rest = text.partition(":")
    installed = [name for name in names(kind) if f"{text}:".startswith(f"{name}:")]
    if installed:  # a name may have a colon itself, as hf:longformer
        name = max(installed, key=len)
        return name, "", text[len(name) + 1 :] if len(text) > len(name) else None
    if any(name.startswith(f"{head}:") for name in names(kind)):
        raise Absent(unknown(kind, text, names(kind), "installed"))
    class_name, more, options = rest.partition(":")
    if class_name and "=" not in class_name:
        if not class_name.isidentifier():
            raise UsageError(f"{shown(text)}: {shown(class_name)} is not the name of a class")
        return f"{head}:{class_name}", class_name, options if more else None
    if head.endswith(".py") or "/" in head:
        raise UsageError(f"{shown(text)}: name the class too, as in {shown(head)[1:-1]}:MyAttention")
    return head, "", rest if colon else None


def _place(text: str, reference: str, class_name: str) -> tuple[str, Path]:
    """Return the file or module of ``file.py:Class`` or ``module:Class``, and its path."""
    target = reference[: -len(class_name) - 1]
    path = Path(target) if target.endswith(".py") else _module_path(target)
    if not files.is_file(path):
        raise Absent(f"{shown(text)}: there is no file {shown(str(path))}")
    return target, path


def _module_path(module: str) -> Path:
    try:
        return module_path(module)
    except NotFound:
        raise Absent(f"there is no Python module {shown(module)} on the path or in this folder") from None


def _convert(plugin: Plugin, key: str, value: str) -> Option:
    """Return the value in the type that the option's annotation names."""
    guess: Option = {"true": True, "false": False, "none": None}.get(value.lower(), value)
    if plugin.parameters is None:
        return _number(value) if isinstance(guess, str) else guess
    parameter = next((p for p in plugin.parameters if p.name == key), None)
    if parameter is None:
        check(plugin, {key: value})  # raises, with the choices
        raise AssertionError(key)
    if parameter.choices:
        for choice in parameter.choices:
            if str(choice).lower() == value.lower():
                return choice
        allowed = ", ".join(map(str, parameter.choices))
        raise Absent(f"{plugin.name}: {key}={shown(value)[1:-1]} is not one of {allowed}")
    kinds = {part.strip() for part in parameter.kind.split("|")}
    if guess is None and "None" in kinds:
        return None
    if "bool" in kinds and isinstance(guess, bool):
        return guess
    number = _number(value)
    if "int" in kinds and isinstance(number, int):
        return number
    if "float" in kinds and isinstance(number, int | float):
        return float(number)
    if "str" in kinds or not parameter.kind:
        return value if parameter.kind else (number if isinstance(guess, str) else guess)
    raise Absent(f"{plugin.name}: {key}={shown(value)[1:-1]} is not {parameter.kind}")


def _number(value: str) -> int | float | str:
    """Return the number that the text is; the text itself if it is none, or too large for a table."""
    whole = values.whole(value)
    if whole is not None:
        return whole if abs(whole) < 2**63 else value
    number = values.number(value)
    return value if number is None else number

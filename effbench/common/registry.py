"""Names to classes: mechanisms and tasks, found through entry points, files or dotted names.

Options are read from the source of the constructor without importing it, so that listing and checking
need no torch. There is no other schema and no other registry.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any, Literal

from effbench.common import files, values
from effbench.common.growth import Growth
from effbench.common.spec import Option, UsageError
from effbench.common.wording import shown

Kind = Literal["mechanism", "task"]
_GROUPS: dict[Kind, str] = {"mechanism": "effbench.mechanisms", "task": "effbench.tasks"}
_LONGEST = 10_000  # characters of a name with its options
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_CONTRACT = "(d_model, heads, *, max_len, causal=False, **its own keyword options)"


class Absent(UsageError):
    """A name, file, module, class, option or value of an option that does not exist."""


class Broken(UsageError):
    """A plug-in whose source exists and is not one: it cannot be read, or breaks the contract."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One option of a plug-in: its annotation as written, its default, and its choices if they are few."""

    name: str
    kind: str
    default: Option
    required: bool = False
    choices: tuple[Option, ...] = ()


_CAUSAL = Parameter(name="causal", kind="bool", default=False)  # every mechanism is asked for it


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A mechanism or task as its source describes it; nothing has been imported.

    ``parameters`` is None where the source cannot tell (a class made or inherited elsewhere): options are
    then checked only when the class is built. ``order`` is the declared growth of its time with N.
    ``requires`` names the distributions beside torch that it needs, ``install`` the command that brings them.
    """

    kind: Kind
    name: str
    module: str
    class_name: str
    path: Path
    parameters: tuple[Parameter, ...] | None
    summary: str = ""
    order: Growth | None = None
    source: str = ""
    requires: tuple[str, ...] = ()
    install: str = ""


def names(kind: Kind) -> list[str]:
    """The names that are installed, ours and plug-ins' alike."""
    return sorted({entry.name for entry in _entries(kind)})


def parse(text: str, kind: Kind) -> tuple[str, dict[str, Option]]:
    """Read ``NAME[:option=value,...]`` and check it; the reference part of a file or module keeps its class.

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
    """Refuse options that the plug-in's constructor does not have, or lacks."""
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
        target = reference[: -len(class_name) - 1]
        path, module = (Path(target), target) if target.endswith(".py") else _module_path(target)
        if not files.is_file(path):
            raise Absent(f"{shown(name)}: there is no file {shown(str(path))}")
        return _read(kind, name, module, class_name, path)
    for entry in _entries(kind):
        if entry.name == name:
            path, module = _module_path(entry.module)
            return _read(kind, name, module, entry.attr, path)
    raise Absent(
        unknown(kind, name, names(kind), "installed")
        + " (or give path/to/file.py:Class or package.module:Class)"
    )


def home(mechanism: str) -> Path | None:
    """The folder of a mechanism's code; None for what is no mechanism."""
    try:
        return find(mechanism, "mechanism").path.parent
    except UsageError:
        return None


def load(plugin: Plugin) -> type:
    """Import the plug-in's class. What its module raises on import goes to the caller."""
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
    found = getattr(module, plugin.class_name, None)
    if not isinstance(found, type):
        raise Absent(f"{plugin.name!r}: {plugin.class_name} is not a class in {plugin.module}")
    return found


def versions(plugin: Plugin) -> dict[str, str | None]:
    """The versions of what a plug-in requires beside torch; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in plugin.requires:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def sources(plugin: Plugin) -> list[Path]:
    """The files that decide what the plug-in computes: its file, or all modules of its package folder."""
    if plugin.module.endswith(".py") or "." not in plugin.module:
        return [plugin.path]
    return sorted(path for path in plugin.path.parent.glob("*.py") if files.is_file(path))


def _entries(kind: Kind) -> list[EntryPoint]:
    return sorted(entry_points(group=_GROUPS[kind]), key=lambda entry: entry.name)


def _split(text: str, kind: Kind) -> tuple[str, str, str | None]:
    """(name, or reference with its class; the class or ''; options as written, None without their colon)."""
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


def _module_path(module: str) -> tuple[Path, str]:
    """The file of a module, found without importing it or its parents."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    parts = module.split(".")
    spec: ModuleSpec | None = None
    try:
        for depth in range(1, len(parts) + 1):
            full = ".".join(parts[:depth])
            if depth == 1:
                spec = importlib.util.find_spec(full)
            elif spec is not None and spec.submodule_search_locations is not None:
                spec = PathFinder.find_spec(full, list(spec.submodule_search_locations))
            else:
                spec = None
    except (ValueError, ImportError):
        spec = None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise Absent(f"there is no Python module {shown(module)} on the path or in this folder")
    return Path(spec.origin), module


def _read(kind: Kind, name: str, module: str, class_name: str, path: Path) -> Plugin:
    try:
        # bytes, since a source may declare an encoding of its own
        tree = ast.parse(files.read_bytes(path), filename=str(path))
        return _described(tree, kind, name, module, class_name, path)
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        raise Broken(f"{path}: {line}{error.msg}") from None
    except (RecursionError, MemoryError):  # of Python's own parser, too
        raise Broken(f"{path}: its expressions are nested too deeply to be read") from None
    except (Absent, Broken):
        raise
    except ValueError as error:  # an unreadable file, null bytes
        text = str(error)
        raise Broken(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _described(tree: ast.Module, kind: Kind, name: str, module: str, class_name: str, path: Path) -> Plugin:
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if class_name not in classes:
        if class_name in _bound(tree):
            return Plugin(
                kind=kind, name=name, module=module, class_name=class_name, path=path, parameters=None
            )
        raise Absent(unknown(f"class in {path}", class_name, sorted(classes), "it has"))
    node = classes[class_name]
    constants = _constants(node)
    for text in ("source", "requires", "install"):
        if not isinstance(constants.get(text, ""), str):
            raise Broken(f"{path}: {text} of {class_name} is {shown(constants[text])}, not text")
    try:
        order = Growth.parse(constants["order"]) if constants.get("order") is not None else None
    except ValueError as error:
        raise Broken(f"{path}: order of {class_name}: {error}") from None
    requires = tuple(constants.get("requires", "").split())
    for distribution in requires:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", distribution):
            raise Broken(
                f"{path}: requires of {class_name}: {shown(distribution)} is not the name of a distribution"
            )
    return Plugin(
        kind=kind,
        name=name,
        module=module,
        class_name=class_name,
        path=path,
        parameters=_parameters(kind, name, node, classes),
        summary=(ast.get_docstring(node) or "").partition("\n")[0],
        order=order,
        source=constants.get("source", ""),
        requires=requires,
        install=constants.get("install", ""),
    )


def _bound(tree: ast.Module) -> set[str]:
    """Names that a module binds by import or assignment, or by a class under ``if``, ``try`` or ``with``."""
    bound: set[str] = set()
    left: list[ast.stmt] = list(tree.body)
    while left:
        node = left.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.If | ast.Try | ast.With):
            inner = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.stmt)]
            inner += [each for part in getattr(node, "handlers", []) for each in part.body]
            bound |= {each.name for each in inner if isinstance(each, ast.ClassDef)}
            left += inner
    return bound


def _constants(node: ast.ClassDef) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in node.body:
        targets = line.targets if isinstance(line, ast.Assign) else []
        if isinstance(line, ast.AnnAssign):
            targets = [line.target]
        for target in targets:
            value = getattr(line, "value", None)
            if isinstance(target, ast.Name) and value is not None and _is_literal(value):
                found[target.id] = ast.literal_eval(value)
    return found


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):  # a set of lists is a TypeError
        return False
    return True


def _parameters(
    kind: Kind,
    name: str,
    node: ast.ClassDef,
    classes: Mapping[str, ast.ClassDef],
    below: tuple[ast.ClassDef, ...] = (),
) -> tuple[Parameter, ...] | None:
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None:
        bases = [
            base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases
        ]
        below = (*below, node)  # a class that derives from itself in the end is no class, but it is syntax
        if bases and bases[0] in classes and classes[bases[0]] not in below:
            return _parameters(kind, name, classes[bases[0]], classes, below)
        if bases == ["Mechanism"]:
            return (_CAUSAL,)
        return () if kind == "task" and bases in ([], ["Task"]) else None
    arguments = init.args
    if kind == "mechanism":
        positional = [a.arg for a in (*arguments.posonlyargs, *arguments.args)][1:]
        accepted = {*positional, *(a.arg for a in arguments.kwonlyargs)}
        if arguments.kwarg is None and (len(positional) < 2 or not {"max_len", "causal"} <= accepted):
            raise Broken(f"{name}: its constructor must accept {_CONTRACT}")
    if arguments.kwarg is not None:
        return None
    own = (
        (argument, default)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if kind == "task" or argument.arg not in ("max_len", "causal")
    )
    found = tuple(_parameter(argument, default) for argument, default in own)
    return (*found, _CAUSAL) if kind == "mechanism" else found


def _parameter(argument: ast.arg, default: ast.expr | None) -> Parameter:
    annotation = argument.annotation
    choices: tuple[Option, ...] = ()
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Literal"):
        items = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        if not all(map(_is_literal, items)):  # names of constants: the source does not tell the type
            annotation = None
        else:
            choices = tuple(ast.literal_eval(item) for item in items)
    return Parameter(
        name=argument.arg,
        kind=ast.unparse(annotation) if annotation is not None else "",
        default=ast.literal_eval(default) if default is not None and _is_literal(default) else None,
        required=default is None,
        choices=choices,
    )


def _convert(plugin: Plugin, key: str, value: str) -> Option:
    """The value in the type that the constructor's annotation names."""
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
    """The number that the text says, if it is one; a whole number beyond what a table can hold is none."""
    whole = values.whole(value)
    if whole is not None:
        return whole if abs(whole) < 2**63 else value
    number = values.number(value)
    return value if number is None else number


def unknown(what: str, value: object, allowed: Sequence[str], label: str) -> str:
    """The complaint about a name that is not known: the nearest one, and all there are."""
    near = difflib.get_close_matches(value[:100], allowed, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"unknown {what} {shown(value)}{hint} {label}: {', '.join(allowed) or 'none'}"

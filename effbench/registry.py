"""Names to classes: mechanisms and tasks, found through entry points, files or dotted names.

Options are read from the source of the constructor without importing it, so that listing and checking
need no torch. There is no other schema and no other registry.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any, Literal

from effbench.growth import Growth
from effbench.spec import Option, UsageError

Kind = Literal["mechanism", "task"]
_GROUPS: dict[Kind, str] = {"mechanism": "effbench.mechanisms", "task": "effbench.tasks"}
_CONTRACT = "(d_model, heads, *, max_len, causal=False, **its own keyword options)"


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
    name, _, written = _split(text, kind)
    plugin = find(name, kind)
    options: dict[str, Option] = {}
    for part in filter(None, written.split(",")):
        key, sign, value = part.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"{text!r}: {part!r} is not option=value")
        options[key.strip()] = _convert(plugin, key.strip(), value.strip())
    return name, check(plugin, options)


def check(plugin: Plugin, options: Mapping[str, Option]) -> dict[str, Option]:
    """Refuse options that the plug-in's constructor does not have, or lacks."""
    if plugin.parameters is not None:
        known = {p.name: p for p in plugin.parameters}
        for key in options:
            if key not in known:
                raise UsageError(unknown(f"option of {plugin.name}", key, sorted(known), "its options"))
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
        if not path.is_file():
            raise UsageError(f"{name!r}: there is no file {str(path)!r}")
        return _read(kind, name, module, class_name, path)
    for entry in _entries(kind):
        if entry.name == name:
            path, module = _module_path(entry.module)
            return _read(kind, name, module, entry.attr, path)
    raise UsageError(
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
        raise UsageError(f"{plugin.name!r}: {plugin.class_name} is not a class in {plugin.module}")
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
    return sorted(plugin.path.parent.glob("*.py"))


def _entries(kind: Kind) -> list[EntryPoint]:
    return sorted(entry_points(group=_GROUPS[kind]), key=lambda entry: entry.name)


def _split(text: str, kind: Kind) -> tuple[str, str, str]:
    """(name, or reference with its class; the class or ''; options as written)."""
    head, _, rest = text.partition(":")
    installed = [name for name in names(kind) if f"{text}:".startswith(f"{name}:")]
    if installed:  # a name may have a colon itself, as hf:longformer
        name = max(installed, key=len)
        return name, "", text[len(name) + 1 :]
    if any(name.startswith(f"{head}:") for name in names(kind)):
        raise UsageError(unknown(kind, text, names(kind), "installed"))
    class_name, _, options = rest.partition(":")
    if class_name and "=" not in class_name:
        return f"{head}:{class_name}", class_name, options
    if head.endswith(".py") or "/" in head:
        raise UsageError(f"{text!r}: name the class too, as in {head}:MyAttention")
    return head, "", rest


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
    except (ValueError, ModuleNotFoundError):
        spec = None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise UsageError(f"there is no Python module {module!r} on the path or in this folder")
    return Path(spec.origin), module


def _read(kind: Kind, name: str, module: str, class_name: str, path: Path) -> Plugin:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        raise UsageError(f"{path}: line {error.lineno}: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if class_name not in classes:
        if class_name in _bound(tree):
            return Plugin(
                kind=kind, name=name, module=module, class_name=class_name, path=path, parameters=None
            )
        raise UsageError(unknown(f"class in {path}", class_name, sorted(classes), "it has"))
    node = classes[class_name]
    constants = _constants(node)
    try:
        order = Growth.parse(constants["order"]) if constants.get("order") is not None else None
    except ValueError as error:
        raise UsageError(f"{path}: order of {class_name}: {error}") from None
    return Plugin(
        kind=kind,
        name=name,
        module=module,
        class_name=class_name,
        path=path,
        parameters=_parameters(kind, name, node, classes),
        summary=(ast.get_docstring(node) or "").partition("\n")[0],
        order=order,
        source=str(constants.get("source", "")),
        requires=tuple(str(constants.get("requires", "")).split()),
        install=str(constants.get("install", "")),
    )


def _bound(tree: ast.Module) -> set[str]:
    """Names that a module binds by import or assignment, without classes and functions."""
    bound: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign):
            bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}
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
    except ValueError:
        return False
    return True


def _parameters(
    kind: Kind, name: str, node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]
) -> tuple[Parameter, ...] | None:
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None:
        bases = [
            base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases
        ]
        if bases and bases[0] in classes and classes[bases[0]] is not node:
            return _parameters(kind, name, classes[bases[0]], classes)
        if bases == ["Mechanism"]:
            return (_CAUSAL,)
        return () if kind == "task" and bases in ([], ["Task"]) else None
    arguments = init.args
    if kind == "mechanism":
        positional = [a.arg for a in (*arguments.posonlyargs, *arguments.args)][1:]
        accepted = {*positional, *(a.arg for a in arguments.kwonlyargs)}
        if arguments.kwarg is None and (len(positional) < 2 or not {"max_len", "causal"} <= accepted):
            raise UsageError(f"{name}: its constructor must accept {_CONTRACT}")
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
        raise UsageError(f"{plugin.name}: {key}={value} is not one of {allowed}")
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
    raise UsageError(f"{plugin.name}: {key}={value} is not {parameter.kind}")


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def unknown(what: str, value: str, allowed: Sequence[str], label: str) -> str:
    """The complaint about a name that is not known: the nearest one, and all there are."""
    near = difflib.get_close_matches(value, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"unknown {what} {value!r}{hint} {label}: {', '.join(allowed) or 'none'}"

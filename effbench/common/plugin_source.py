"""Plug-ins described from their source alone: summary, paper, growth and options; nothing is imported.

The options of a mechanism or recommender are the keyword-only parameters of its constructor. A task's are
those too, or the annotated fields of its class and its base classes.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from effbench.common.class_source import Class, Module, NotFound, constructor, lineage
from effbench.common.growth import Growth
from effbench.common.spec import Option, UsageError
from effbench.common.wording import shown

Kind = Literal["mechanism", "recommender", "task"]
_TASK = Path(__file__).parents[1] / "measured" / "tasks" / "base.py"  # the home of Task


class Absent(UsageError):
    """A name, file, module, class, option or value of an option that does not exist."""


class Broken(UsageError):
    """A plug-in whose source exists but cannot be read, or does not keep the contract."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One option of a plug-in: its annotation as written, its default, and its choices if they are few."""

    name: str
    kind: str
    default: Option
    required: bool = False
    choices: tuple[Option, ...] = ()


_CAUSAL = Parameter(name="causal", kind="bool", default=False)  # every mechanism has this option


@dataclass(frozen=True, kw_only=True)
class _Contract:
    """The parameters that the constructor of a mechanism or recommender must have beside its own options.

    ``positional`` are the parameters that it gets by place, ``given`` those that it gets by name. ``options``
    belong to every plug-in of the kind; ``base`` is the class whose constructor has no others.
    """

    text: str
    positional: int
    given: tuple[str, ...]
    options: tuple[Parameter, ...]
    base: str


_CONTRACTS = {
    "mechanism": _Contract(
        text="(d_model, heads, *, max_len, causal=False, **its own keyword options)",
        positional=2,
        given=("max_len", "causal"),
        options=(_CAUSAL,),
        base="Mechanism",
    ),
    "recommender": _Contract(
        text="(news, d_model, heads, *, max_len, dropout, **its own keyword options)",
        positional=3,
        given=("max_len", "dropout"),
        options=(),
        base="Recommender",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A mechanism, recommender or task as its source describes it; nothing has been imported.

    ``parameters`` is None where the source does not show them (a class made or inherited elsewhere): options
    are then checked only when the class is built. ``order`` is the declared growth of its time with N.
    ``requires`` names the distributions beside torch that it needs, ``install`` the command that brings them.
    ``reads`` are the options that name a folder, each with the files that the folder must have (folders.py).
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
    reads: tuple[tuple[str, tuple[str, ...]], ...] = ()


def describe(kind: Kind, name: str, module: str, class_name: str, path: Path) -> Plugin:
    """Return what the source in ``path`` says about the class.

    Raises Absent where there is no such class, Broken where the source cannot be read or breaks the contract.
    """
    try:
        return _described(Module.parse(path, module), kind, name, class_name)
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        raise Broken(f"{path}: {line}{error.msg}") from None
    except (RecursionError, MemoryError):  # raised by Python's own parser, too
        raise Broken(f"{path}: its expressions are nested too deeply to be read") from None
    except (Absent, Broken):
        raise
    except ValueError as error:  # an unreadable file, null bytes
        text = str(error)
        raise Broken(text if text.startswith(str(path)) else f"{path}: {text}") from None


def unknown(what: str, value: object, allowed: Sequence[str], label: str) -> str:
    """Return the message about a name that is not known: the nearest one, and all that are allowed."""
    near = difflib.get_close_matches(value[:100], allowed, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"unknown {what} {shown(value)}{hint} {label}: {', '.join(allowed) or 'none'}"


def _described(module: Module, kind: Kind, name: str, class_name: str) -> Plugin:
    path = module.path
    plain = Plugin(
        kind=kind, name=name, module=module.name, class_name=class_name, path=path, parameters=None
    )
    if class_name not in module.classes:
        if class_name in module.bound_names():
            return plain
        raise Absent(unknown(f"class in {path}", class_name, sorted(module.classes), "it has"))
    node = module.classes[class_name]
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
    return replace(
        plain,
        parameters=(
            _task_options(Class(node, module))
            if kind == "task"
            else _constructor_options(name, _CONTRACTS[kind], node, module.classes)
        ),
        summary=(ast.get_docstring(node) or "").partition("\n")[0],
        order=order,
        source=constants.get("source", ""),
        requires=requires,
        install=constants.get("install", ""),
        reads=_folders(constants.get("reads", {}), f"{path}: reads of {class_name}"),
    )


def _folders(reads: object, where: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return a literal ``{"option": ("pattern", ...)}`` as pairs. Raises Broken for anything else."""
    if not isinstance(reads, dict) or not all(
        isinstance(name, str) and isinstance(patterns, tuple) and all(isinstance(p, str) for p in patterns)
        for name, patterns in reads.items()
    ):
        raise Broken(f'{where} is {shown(reads)}, not {{"option": ("file", ...)}}')
    return tuple(reads.items())


def _constants(node: ast.ClassDef) -> dict[str, Any]:
    """The literal values that the class's own body gives to names."""
    constants: dict[str, Any] = {}
    for line in node.body:
        targets = line.targets if isinstance(line, ast.Assign) else []
        if isinstance(line, ast.AnnAssign):
            targets = [line.target]
        for target in targets:
            value = getattr(line, "value", None)
            if isinstance(target, ast.Name) and value is not None and _is_literal(value):
                constants[target.id] = ast.literal_eval(value)
    return constants


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):  # a set of lists is a TypeError
        return False
    return True


def _constructor_options(
    name: str,
    contract: _Contract,
    node: ast.ClassDef,
    classes: Mapping[str, ast.ClassDef],
    below: tuple[ast.ClassDef, ...] = (),
) -> tuple[Parameter, ...] | None:
    """Options of a class: those of its constructor, or of that of its first base in the same file."""
    init = constructor(node)
    if init is None:
        bases = [
            base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases
        ]
        below = (*below, node)  # a class that derives from itself in the end is no class, but it is syntax
        if bases and bases[0] in classes and classes[bases[0]] not in below:
            return _constructor_options(name, contract, classes[bases[0]], classes, below)
        return contract.options if bases == [contract.base] else None
    arguments = init.args
    positional = [a.arg for a in (*arguments.posonlyargs, *arguments.args)][1:]
    accepted = {*positional, *(a.arg for a in arguments.kwonlyargs)}
    short = len(positional) < contract.positional
    if arguments.kwarg is None and (short or not set(contract.given) <= accepted):
        raise Broken(f"{name}: its constructor must accept {contract.text}")
    own = _keyword_only(init)
    if own is None:
        return None
    return (*(option for option in own if option.name not in contract.given), *contract.options)


def _task_options(own: Class) -> tuple[Parameter, ...] | None:
    """Options of a task: those of its constructor, own or inherited, or else its classes' fields.

    None where a base class cannot be found, or where its constructor takes whatever it is given.
    """
    init = constructor(own.node)
    if init is not None:
        return _keyword_only(init)
    try:
        classes = lineage(own)
    except NotFound:
        return None
    for each in classes:
        if each.node.name == "Task" and each.module.path.resolve() == _TASK:
            break  # its constructor takes the fields
        if (init := constructor(each.node)) is not None:
            return _keyword_only(init)
    return _fields(classes)


def _keyword_only(init: ast.FunctionDef) -> tuple[Parameter, ...] | None:
    arguments = init.args
    if arguments.kwarg is not None:
        return None
    return tuple(
        _parameter(argument.arg, argument.annotation, default)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    )


def _fields(classes: Sequence[Class]) -> tuple[Parameter, ...]:
    """Annotated fields of the classes, which come in the order of attribute lookup.

    A class's own options come before those of its bases. One that is assigned again keeps its base's place.
    """
    places: dict[str, tuple[int, int]] = {}
    options: dict[str, Parameter] = {}
    for depth in reversed(range(len(classes))):
        for line, statement in enumerate(classes[depth].node.body):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                name = statement.target.id.removesuffix("_")
                if "ClassVar" in ast.unparse(statement.annotation).partition("[")[0]:
                    options.pop(name, None)  # from here on it is no option
                elif not name.startswith("_"):
                    places.setdefault(name, (depth, line))
                    options[name] = _parameter(name, statement.annotation, statement.value)
            elif isinstance(statement, ast.Assign) and _is_literal(statement.value):
                for target in statement.targets:
                    name = target.id.removesuffix("_") if isinstance(target, ast.Name) else ""
                    if name in options:
                        default = ast.literal_eval(statement.value)
                        options[name] = replace(options[name], default=default, required=False)
    return tuple(options[name] for name in sorted(options, key=places.__getitem__))


def _parameter(name: str, annotation: ast.expr | None, default: ast.expr | None) -> Parameter:
    choices: tuple[Option, ...] = ()
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Literal"):
        items = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        if not all(map(_is_literal, items)):  # names of constants: the source does not tell the type
            annotation = None
        else:
            choices = tuple(ast.literal_eval(item) for item in items)
    return Parameter(
        name=name,
        kind=ast.unparse(annotation) if annotation is not None else "",
        default=ast.literal_eval(default) if default is not None and _is_literal(default) else None,
        required=default is None,
        choices=choices,
    )

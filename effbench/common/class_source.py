"""Classes and their base classes, found in source files without importing them."""

from __future__ import annotations

import ast
import importlib.util
import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from effbench.common import files

_ENOUGH = {"object", "ABC", "Generic", "Protocol"}  # base classes without options, not looked up


class NotFound(ValueError):
    """The source of a module or class is not where it should be; the text says which."""


@dataclass(frozen=True, eq=False)
class Module:
    """A parsed source file. ``name`` is the module's dotted name, or the file as the user gave it."""

    name: str
    path: Path
    tree: ast.Module
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)

    @classmethod
    def parse(cls, path: Path, name: str) -> Module:
        """Read and parse the file. Raises SyntaxError or ValueError where it cannot be."""
        # bytes, since a source may declare an encoding of its own
        tree = ast.parse(files.read_bytes(path), filename=str(path))
        return cls(
            name, path, tree, {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        )

    def bound_names(self) -> set[str]:
        """Names bound by import or assignment, or by a class under ``if``, ``try`` or ``with``."""
        bound: set[str] = set()
        for node in self._statements():
            if isinstance(node, ast.Import | ast.ImportFrom):
                bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            elif isinstance(node, ast.Assign):
                bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.ClassDef) and node.name not in self.classes:
                bound.add(node.name)
        return bound

    def imported(self, name: str) -> tuple[str, str]:
        """(module, name in it) of what ``name`` is imported from; the second is "" for a module itself.

        Raises NotFound for a name that no import statement binds.
        """
        for node in self._statements():
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return self.absolute(node), alias.name
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if name in (alias.asname, alias.name):
                        return alias.name, ""
        raise NotFound(f"{self.path}: no import statement binds {name}")

    def _statements(self) -> list[ast.stmt]:
        """The module's statements, and those under its ``if``, ``try`` and ``with`` statements."""
        statements: list[ast.stmt] = []
        left: list[ast.stmt] = list(self.tree.body)
        while left:
            node = left.pop(0)
            statements.append(node)
            if isinstance(node, ast.If | ast.Try | ast.With):
                left += [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.stmt)]
                left += [part for handler in getattr(node, "handlers", []) for part in handler.body]
        return statements

    def absolute(self, node: ast.ImportFrom) -> str:
        """The dotted name of the module that a statement ``from module import name`` names."""
        if not node.level:
            return node.module or ""
        package = self.name if self.path.stem == "__init__" else self.name.rpartition(".")[0]
        for _ in range(node.level - 1):
            package = package.rpartition(".")[0]
        return ".".join(part for part in (package, node.module) if part)


@dataclass(frozen=True)
class Class:
    """A class statement and the module that it stands in."""

    node: ast.ClassDef
    module: Module


def constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    """The class's own ``__init__``."""
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def lineage(own: Class) -> list[Class]:
    """The class and its base classes, in the order in which Python looks attributes up.

    Bases stand in the same file or are imported from another one, whose source is read. Raises NotFound where
    one cannot be found or read, or where Python would refuse the bases.
    """
    stand_ins: dict[tuple[Path, str], type | None] = {}
    modules = {own.module.path: own.module}
    try:
        order = _stand_in(own, stand_ins, modules).__mro__
    except (TypeError, ValueError, RecursionError, MemoryError, SyntaxError) as error:
        raise NotFound(str(error)) from None
    return [vars(kind)["stands_for"] for kind in order if kind is not object]


def derives(own: Class, base: str, home: Path) -> bool:
    """True if a base class of the class, or one of their bases, is the class ``base`` of the file ``home``.

    Bases that cannot be found or read count as none.
    """
    modules = {own.module.path: own.module}
    left, seen = [own], {(own.module.path, own.node.name)}
    while left:
        current = left.pop()
        for expression in current.node.bases:
            if _name(expression).rpartition(".")[2] in (*_ENOUGH, "Module"):  # torch's, which is no plug-in
                continue
            try:
                found = _located(expression, current.module, modules)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            key = (found.module.path, found.node.name)
            if found.node.name == base and found.module.path.resolve() == home:
                return True
            if key not in seen:
                seen.add(key)
                left.append(found)
    return False


def module_path(module: str, beside: Path | None = None) -> Path:
    """The file of a module, found without importing it or its parents, last of all in the folder ``beside``.

    Raises NotFound.
    """
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
                if spec is None and beside is not None:
                    spec = PathFinder.find_spec(full, [str(beside)])
            elif spec is not None and spec.submodule_search_locations is not None:
                spec = PathFinder.find_spec(full, list(spec.submodule_search_locations))
            else:
                spec = None
    except (ValueError, ImportError):
        spec = None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise NotFound(module)
    return Path(spec.origin)


def _stand_in(own: Class, known: dict[tuple[Path, str], type | None], modules: dict[Path, Module]) -> type:
    """An empty class with the same bases, so that Python itself puts them in order."""
    key = (own.module.path, own.node.name)
    if key in known:
        made = known[key]
        if made is None:
            raise NotFound(f"{own.node.name} derives from itself")
        return made
    known[key] = None
    bases = [
        _stand_in(_located(base, own.module, modules), known, modules)
        for base in own.node.bases
        if _name(base).rpartition(".")[2] not in _ENOUGH
    ]
    known[key] = made = type(own.node.name, tuple(bases), {"stands_for": own})
    return made


def _name(base: ast.expr) -> str:
    return ast.unparse(base.value if isinstance(base, ast.Subscript) else base)


def _located(base: ast.expr, module: Module, modules: dict[Path, Module]) -> Class:
    """The class that an expression in a list of bases names."""
    prefix, _, name = _name(base).rpartition(".")
    seen: set[tuple[Path, str]] = set()
    while prefix or name not in module.classes:
        if (module.path, name) in seen:
            raise NotFound(f"{module.path}: {name} is imported in a circle")
        seen.add((module.path, name))
        if prefix:
            target, inside = module.imported(prefix)
            target, prefix = (f"{target}.{inside}" if inside else target), ""
        else:
            target, name = module.imported(name)
        # a file's neighbours can be imported from it, as from a script
        path = module_path(target, module.path.parent if module.name.endswith(".py") else None)
        if path not in modules:
            modules[path] = Module.parse(path, target)
        module = modules[path]
    return Class(module.classes[name], module)

"""The rooms of docs/architecture.md: imports point down only, torch stays below the wire."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom up; a folder imports from itself and from those before it.
FOLDERS = ["common", "measured", "records", "sweep", "gate", "show", "cli"]
TOP = ["__init__.py", "__main__.py", "mechanism.py"]
CALLS_THE_WORKER = "effbench.sweep.inline"  # it measures in the process of the command: a debugger's wish
LINES = 400


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package in ("effbench", "baselines"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    """Modules imported anywhere in the file, but not for type checkers only."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def floor(name: str) -> int:
    return FOLDERS.index(name.split(".")[1])


def test_the_top_of_the_package_has_ten_entries_at_most():
    found = {path.name for path in (ROOT / "effbench").iterdir()} - {"__pycache__", "py.typed"}
    assert found == {*FOLDERS, *TOP}
    assert len(found) <= 10


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_down(name):
    used = {target for target in imports(modules()[name]) if target in modules() or target == "torch"}
    if name.startswith("baselines"):
        inside = {target for target in used if target.startswith("effbench")}
        assert inside <= {"effbench"}, "a baseline knows what everybody's plug-in knows"
        return
    assert not [i for i in used if i.startswith("baselines")], "baselines are plug-ins like anybody's"
    if name in ("effbench", "effbench.__main__", "effbench.mechanism"):
        return
    for target in sorted(used - {"effbench", "torch"}):
        assert floor(target) <= floor(name), f"{name} imports {target}, which is above it"
        if target.startswith("effbench.measured") and not name.startswith("effbench.measured"):
            assert name == CALLS_THE_WORKER, f"{name} imports {target}: only JSON crosses the wire"
    assert "torch" not in used or name.startswith("effbench.measured"), f"{name} is above the wire"


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_file_is_too_long(name):
    assert len(modules()[name].read_text().splitlines()) <= LINES


def test_no_two_files_of_effbench_have_one_name():
    rooms = (path for name, path in modules().items() if name.startswith("effbench."))
    names = [path.name for path in rooms if path.parent != ROOT / "effbench"]
    twice = {name for name in names if names.count(name) > 1} - {"__init__.py"}
    assert not twice


@pytest.mark.parametrize("name", sorted(modules()))
def test_the_first_line_says_the_files_job(name):
    first = modules()[name].read_text().split("\n")[0]
    assert first.startswith('"""')
    assert len(first) > 20


def test_the_public_surface_is_what_it_says():
    import effbench

    assert sorted(effbench.__all__) == [
        "AdditivePooling", "Cell", "Classification", "Examples", "Limits", "Mechanism", "News", "NewsIds",
        "Recommender", "Record", "Splits", "State", "Sweep", "Task", "TitleWords", "Titles", "Unsupported",
        "UsageError", "assert_conforms", "load", "run",
    ]  # fmt: skip
    for name in effbench.__all__:
        assert getattr(effbench, name) is getattr(effbench, name), "a submodule of that name would replace it"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        effbench.nothing  # noqa: B018

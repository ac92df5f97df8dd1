"""The rooms of docs/architecture.md: imports point down only, torch stays below the wire."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom up; a room imports from its own and from those before it.
ROOMS = [
    ["effbench.wording"],
    [
        "effbench.spec",
        "effbench.growth",
        "effbench.columns",
        "effbench.blame",
        "effbench.exits",
        "effbench.inherited",
    ],
    ["effbench.values", "effbench.files", "effbench.soundness"],
    ["effbench.machine", "effbench.registry", "effbench.mechanism"],
    ["effbench.models", "effbench.probes", "effbench.tasks"],
    ["effbench.audit"],
    ["effbench.worker"],
    # the wire
    ["effbench.fingerprint", "effbench.sweep", "effbench.estimate"],
    ["effbench.analyse"],
    ["effbench.store", "effbench.execute"],
    ["effbench.doctor"],
    ["effbench.loop", "effbench.ceiling"],
    ["effbench.gate"],
    ["effbench.show"],
    ["effbench.cli", "effbench.__main__"],
]
BELOW_THE_WIRE = 7
MEASURED_SIDE = {
    "effbench.execute.server",
    "effbench.execute.inline",
    "effbench.gate.side",
}  # they call the worker: it is their job


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


def room(name: str) -> int | None:
    for height, members in enumerate(ROOMS):
        if any(name == member or name.startswith(member + ".") for member in members):
            return height
    return None


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_down(name):
    path = modules()[name]
    used = imports(path)
    if name.startswith("baselines"):
        assert {i for i in used if i.split(".")[0] == "effbench"} <= {
            i for i in used if i.startswith("effbench.mechanism")
        } | {"effbench"}, "a baseline knows the seam and nothing else"
        return
    assert not [i for i in used if i.split(".")[0] == "baselines"], "baselines are plug-ins like anybody's"
    if name == "effbench":
        return
    height = room(name)
    assert height is not None, f"{name} is in no room: give it one here and in docs/architecture.md"
    if name in MEASURED_SIDE:
        return
    for target in sorted(used & set(modules()) - {"effbench"}):
        other = room(target)
        assert other is not None
        assert other <= height, f"{name} imports {target}, which is above it"
    if height >= BELOW_THE_WIRE:
        assert not [i for i in used if i.split(".")[0] == "torch"], f"{name} is above the wire"


@pytest.mark.parametrize("name", sorted(modules()))
def test_the_first_line_says_the_files_job(name):
    first = modules()[name].read_text().split("\n")[0]
    assert first.startswith('"""')
    assert len(first) > 20


def test_the_public_surface_is_what_it_says():
    import effbench

    assert sorted(effbench.__all__) == [
        "Cell", "Limits", "Mechanism", "Record", "Sweep", "Unsupported", "UsageError", "assert_conforms",
        "load", "run",
    ]  # fmt: skip
    for name in effbench.__all__:
        assert getattr(effbench, name) is getattr(effbench, name), "a submodule of that name would replace it"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        effbench.nothing  # noqa: B018

"""The fingerprint of the code: it covers what a number comes from, and no other mechanism or task."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import effbench
from effbench.common import registry
from effbench.common.own_files import own_files
from effbench.common.plugin_source import Kind
from effbench.common.spec import Cell
from effbench.records.store import Store
from effbench.sweep import fingerprint
from effbench.sweep.fingerprint import code_of
from effbench.sweep.planning import plan
from effbench.sweep.sweep import Sweep

HOME = Path(effbench.__file__).parent
MINE = """import effbench
{imports}

class Mine(effbench.Mechanism):
    def forward(self, x, mask):
        return x
"""
KINDS: tuple[Kind, ...] = ("mechanism", "recommender", "task")

# Loads each plug-in in a process of its own, forked after torch was imported, and prints what it imported.
LOADS = """
import json, os, sys
import torch
from effbench.common import registry
for kind, name in json.loads(sys.argv[1]):
    sys.stdout.flush()
    if os.fork() == 0:
        before = set(sys.modules)
        registry.load(registry.find(name, kind))
        files = [getattr(sys.modules[m], "__file__", None) for m in set(sys.modules) - before]
        print(json.dumps([kind, name, [file for file in files if file]]), flush=True)
        os._exit(0)
    os.wait()
"""


def _cell(mechanism: str, task: str = "") -> Cell:
    return Cell(mechanism=mechanism, probe="accuracy" if task else "time", seq_len=16, task=task)


def _covered(kind: str, name: str) -> set[Path]:
    """The files that the fingerprint of a training with this plug-in covers."""
    seen: set[Path] = set()

    def digest(paths: tuple[Path, ...], more: str = "") -> str:
        seen.update(paths)
        return more

    cell = _cell("vanilla", name) if kind == "task" else _cell(name)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(fingerprint, "_digest", digest)
        code_of(cell)
    return seen


@pytest.mark.slow
def test_what_a_plugin_imports_of_its_own_package_is_covered():
    plugins = [
        (kind, name)
        for kind in KINDS
        for name in registry.names(kind)
        if None not in registry.versions(registry.find(name, kind)).values()
    ]
    call = [sys.executable, "-c", LOADS, json.dumps(plugins)]
    out = subprocess.run(call, capture_output=True, text=True, timeout=120, check=True).stdout
    loaded = [json.loads(line) for line in out.splitlines()]
    assert {name for _, name, _ in loaded} == {name for _, name in plugins}
    for kind, name, files in loaded:
        # effbench's own modules outside measured/ and what is above the wire change no number
        own = {path for file in files if _counts(path := Path(file), kind)}
        assert kind == "task" or own
        assert own <= _covered(kind, name), f"{kind} {name}"


def _counts(path: Path, kind: str) -> bool:
    if HOME in path.parents:
        return kind == "task" and path.parts[-2] in ("tasks", "data", "models", "probes")
    return "baselines" in path.parts


def test_what_the_measured_process_imports_is_covered():
    measured = HOME / "measured"
    places = (measured, measured / "probes", measured / "models")
    among = frozenset(path for place in places for path in place.glob("*.py"))
    used = own_files(measured / "worker.py", "effbench.measured.worker", among)
    assert {"decoding.py", "state.py", "compiled.py", "gpu.py", "patterns.py"} <= {path.name for path in used}
    assert set(used) <= _covered("mechanism", "linear")


def test_no_other_mechanism_and_no_other_task_is_covered():
    names = {path.name for path in _covered("mechanism", "fastformer")}
    assert {"fastformer.py", "_fastformer_costs.py", "_pooled.py", "_running.py"} <= names
    assert "vanilla.py" not in names
    names = {path.name for path in _covered("task", "lookup")}
    assert {"lookup.py", "tagging.py", "lookup_rows.py", "scoring.py", "vanilla.py"} <= names
    assert not {"imdb.py", "text.py", "fastformer.py"} & names


def test_a_recommender_s_mechanism_is_covered():
    assert {"plm_nr.py", "_encoder.py", "fastformer.py"} <= {
        p.name for p in _covered("recommender", "plm-nr")
    }
    assert "fastformer.py" not in {path.name for path in _covered("recommender", "nrms")}
    assert code_of(_cell("nrms")) != code_of(_cell("vanilla"))


def test_a_task_of_another_package_may_use_all_readers():
    task = f"{Path(__file__).with_name('plugin_tasks.py')}:Ranking"
    assert {"plugin_tasks.py", "imdb.py", "corpus.py"} <= {path.name for path in _covered("task", task)}


def test_a_file_s_neighbours_are_covered_and_other_files_are_not(tmp_path):
    codes = []
    for number, (helper, other) in enumerate(
        [("GAIN = 1", ""), ("GAIN = 2", ""), ("GAIN = 1", "changed = 1")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "mine.py").write_text(MINE.format(imports="from helper import GAIN"))
        (folder / "helper.py").write_text(helper)
        (folder / "other.py").write_text(other)
        codes.append(code_of(_cell(f"{folder}/mine.py:Mine")))
    assert codes[1] != codes[0] == codes[2]


def test_a_file_that_changes_between_two_runs_of_a_process_has_another_code(tmp_path):
    mine, codes = tmp_path / "mine.py", []
    for gain in (1, 2):
        mine.write_text(MINE.format(imports=f"GAIN = {gain}"))
        text = f'[[grid]]\nmechanism = "{mine}:Mine"\nprobe = "time"\nseq_len = 8'
        codes.append(plan(Sweep.from_toml(text, "x", "x"), Store(tmp_path / "out")).jobs[0].code)
    assert codes[0] != codes[1]


def test_the_code_of_a_relative_path_is_that_of_the_file_in_this_working_folder(tmp_path, monkeypatch):
    codes = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        registry.find.cache_clear()
        Path("mine.py").write_text(MINE.format(imports=f"where = {name!r}"))
        codes.append(code_of(_cell("mine.py:Mine")))
    assert codes[0] != codes[1]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("import lab.parts.one", {"one.py"}),
        ("from lab.parts import one", {"one.py"}),
        ("from lab.parts.one import thing", {"one.py"}),
        ("from .parts import one", {"one.py"}),
        ("from . import parts", set()),
        ("def later():\n    from lab.parts import two", {"two.py", "one.py"}),
        ("import torch, sys\nfrom elsewhere import one", set()),
        ("from lab.parts import missing\nimport lab.nowhere.one", set()),
        ("this is no Python", set()),
    ],
)
def test_the_files_that_a_module_consists_of(tmp_path, statement, found):
    parts = tmp_path / "lab" / "parts"
    parts.mkdir(parents=True)
    (parts.parent / "__init__.py").touch()
    (parts / "__init__.py").touch()
    (parts / "one.py").write_text("from .two import later" if "two" not in statement else "thing = 1")
    (parts / "two.py").write_text("from . import one  # a circle")
    (parts / "three.py").touch()
    (parts.parent / "own.py").write_text(statement)
    names = [path.name for path in own_files(parts.parent / "own.py", "lab.own")]
    names.remove("own.py")
    names.remove("__init__.py")
    expected = found | ({"two.py"} if "one.py" in found else set())
    assert set(names) - {"__init__.py"} == expected
    assert names.count("__init__.py") == ("parts" in statement)


def test_a_package_alone_and_a_module_alone(tmp_path):
    """A package's folder is its own, under whatever name; what lies beside a module is not."""
    package = tmp_path / "source"
    package.mkdir()
    (package / "__init__.py").write_text("from lab.one import thing\nimport other")
    (package / "one.py").touch()
    (tmp_path / "other.py").touch()
    (tmp_path / "lab.py").write_text("import other")
    assert [path.name for path in own_files(package / "__init__.py", "lab")] == ["__init__.py", "one.py"]
    assert own_files(tmp_path / "lab.py", "lab") == (tmp_path / "lab.py",)

"""The documentation's site has what it promises: the public names, and every command with every option."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from typing import Any

import pytest
import typer
from pages import ROOT, written

import effbench
from effbench.cli.app import COMMANDS, app
from effbench.common import registry


def test_every_public_name_is_on_the_page_of_the_api():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\.\. (?:auto\w+|py:data):: effbench\.(\w+)$", text, re.MULTILINE))
    assert described == set(effbench.__all__)


def test_entry_points_are_of_the_groups_that_are_read():
    (block,) = written("docs/extending.md", "toml")
    groups: dict[str, dict[str, str]] = tomllib.loads(block)["project"]["entry-points"]
    assert set(groups) == set(registry._GROUPS.values())
    assert all(re.fullmatch(r"[\w.]+:\w+", place) for group in groups.values() for place in group.values())


@pytest.fixture(scope="module")
def from_code() -> Any:
    pytest.importorskip("sphinx", reason="needs the extra docs")
    spec = importlib.util.spec_from_file_location("from_code", ROOT / "docs" / "from_code.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_commands_has_every_option(from_code, name):
    _, _, after = from_code.commands().partition(f"\n## {name}\n")
    section = after.split("\n## ")[0]
    group: Any = typer.main.get_command(app)
    for parameter in group.get_command(typer.Context(group), name).params:
        assert parameter.hidden or any(word in section for word in (parameter.opts[-1], parameter.metavar))


def test_markers_on_the_pages_are_filled(from_code):
    used: set[str] = set()
    for path in (ROOT / "docs").glob("*.md"):
        source = [path.read_text(encoding="utf-8")]
        used |= set(re.findall(r"<!-- (\w+) -->", source[0]))
        from_code.fill(None, path.stem, source)
        assert "<!--" not in source[0], path.name
    assert used == set(from_code.FILLED)

"""docs/exit-codes.md gives each command the codes that its code can end with, and no other."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from effbench.cli import app as cli
from effbench.common.exits import Exit

ROOT = Path(__file__).parents[1]
# The files that decide the code of each command. Every other command ends with a code of all commands.
DECIDE = {
    "run": ["cli/run.py", "common/exits.py"],
    "choose": ["cli/choose.py", "records/analyse/choice.py"],
    "compare": ["cli/compare.py", "gate/report.py"],
    "gate": ["cli/gate.py", "gate/report.py"],
    "audit": ["cli/audit.py"],
    "doctor": ["cli/doctor.py"],
}
OF_ALL = {Exit.DONE, Exit.FAULT, Exit.USAGE, Exit.INTERRUPTED}


def codes_in(path: Path) -> set[Exit]:
    """The members of Exit that a file names, but for where they are defined."""
    return {
        Exit[node.attr]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) == "Exit"
        and node.attr in Exit.__members__
    }


def stated() -> dict[str, set[Exit]]:
    """The codes of each command beside those of all, from the second table of the page."""
    text = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    found: dict[str, set[Exit]] = {}
    for commands, codes in re.findall(r"^\| (`[^|]+`) \| (.+) \|$", text, re.MULTILINE):
        for command in re.findall(r"`(\w+)`", commands):
            assert command not in found, f"{command} has two rows"
            found[command] = {Exit(int(code)) for code in re.findall(r"\b\d+\b", codes)}
    return found


def test_every_command_has_a_row_and_every_row_a_command():
    assert set(stated()) == set(cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_codes_of_a_command_are_those_that_its_files_name(command):
    named = {code for file in DECIDE.get(command, []) for code in codes_in(ROOT / "effbench" / file)}
    assert stated()[command] == named - OF_ALL


def test_no_other_file_decides_a_code():
    deciding = {ROOT / "effbench" / file for files in DECIDE.values() for file in files}
    for path in (ROOT / "effbench").rglob("*.py"):
        if path not in deciding:
            assert codes_in(path) <= OF_ALL, f"{path}: add it to DECIDE, and its codes to docs/exit-codes.md"


@pytest.mark.parametrize(("page", "command"), [("choose.md", "choose"), ("gate.md", "gate")])
def test_the_table_on_the_page_of_a_command_has_its_codes(page, command):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = text[text.index("## Exit codes") :].split("\n## ")[0]
    codes = {Exit(int(code)) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert codes - OF_ALL == stated()[command]
    assert {Exit.DONE, Exit.USAGE} <= codes


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_wrong_usage_is_one_line_and_writes_nothing(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["effbench", command, "--no-such-option"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert ended.value.code == Exit.USAGE
    assert printed.out == ""
    assert printed.err.startswith("effbench: ")
    assert printed.err.count("\n") == 1
    assert not list(Path.cwd().iterdir())

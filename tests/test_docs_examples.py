"""Every command line and every Python block of the documentation is run, or checked as far as it can be."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from fakes import Fake
from pages import PAGES, ROOT, Example, blocks, examples, written
from stand_ins import measure_trained, put_files, put_repository, put_results, write_data

from effbench.cli import app as cli

TUTORIAL = "docs/tutorial.md"
ALONE = [example for example in examples() if example.block.page != TUTORIAL]
# The first measurement of each command that measures. The test of an example ends there: its options, files, mechanisms and
# settings were read by then. ``run`` has --dry-run instead, which reads data too.
MEASURES = {
    "audit": "effbench.sweep.local.LocalExecutor.start",
    "doctor": "effbench.sweep.checkup.examine",
    "gate": "effbench.gate.judge.judge",
}
# An example that ends with another exit code than 0, or than the sentence before its block says.
CODES = {
    # five repeats of two runs are too few for a verdict, which --strict turns into this code
    "effbench compare results/before results/after --threshold 10% --floor 50us --plot ratios.png --strict": 4,
}


class Reached(Exception):
    """The example came to its first measurement."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("examples") / "data")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measure_trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def effbench(monkeypatch, capsys) -> Callable[[list[str]], tuple[int, str]]:
    """``effbench(words)``: the exit code of a command in this process, and what it printed."""

    def command(words: list[str]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setenv("COLUMNS", "120")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return command


def reached(*arguments: Any, **options: Any) -> None:
    raise Reached


def test_there_are_examples_on_many_pages():
    assert len({example.block.page for example in ALONE}) > 10
    assert len(ALONE) > 60


@pytest.mark.parametrize("example", ALONE, ids=str)
def test_an_example_runs(example: Example, data: Path, trained: Path, effbench, monkeypatch):
    words = shlex.split(example.command.replace("DIR...", "DIR"), comments=True)
    name = words[1] if len(words) > 1 else ""
    put_files(Path.cwd())
    if "--data-dir" in words:
        words[words.index("--data-dir") + 1] = str(data)
    put_results(Path.cwd(), words, trained)
    if name == "run" and "--dry-run" not in words:
        words.append("--dry-run")
    if name == "gate":
        put_repository(Path.cwd())
    if name in MEASURES:
        monkeypatch.setattr(MEASURES[name], reached)
        with pytest.raises(Reached):
            effbench(words)
        return
    code, printed = effbench(words)
    stated = re.search(r"exit code (\d+)\):$", example.block.before)
    expected = CODES.get(example.command.partition("  ")[0], int(stated[1]) if stated else 0)
    assert code == expected, f"{example.command}\n{printed}"
    if example.output is not None:
        assert lines(printed) == lines(example.output), example.command


def lines(text: str) -> list[str]:
    """The lines of an output, without the blanks that fill a line up."""
    return [line.rstrip().replace("\xa0", " ") for line in text.strip("\n").splitlines()]

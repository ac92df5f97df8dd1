"""Every command line and every Python block of the documentation is run, or checked as far as it can be."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from fakes import Fake
from pages import PAGES, ROOT, Example, blocks, examples, written
from stand_ins import measure_trained, put_files, put_repository, put_results, write_data

from effbench.cli import app as cli
from effbench.common import registry
from effbench.measured.audit import CHECKS, Finding, assert_conforms

TUTORIAL = "docs/tutorial.md"
ALONE = [example for example in examples() if example.block.page != TUTORIAL]
# The first measurement of each command that measures. The test of an example ends there: its options, files,
# mechanisms and settings were read by then. ``run`` has --dry-run instead, which reads data too.
MEASURES = {
    "audit": "effbench.sweep.local.LocalExecutor.start",
    "doctor": "effbench.sweep.checkup.examine",
    "gate": "effbench.gate.judge.judge",
    "status": "effbench.sweep.cluster.status.status",  # tests/test_slurm.py has a queue to ask
}
# An example that ends with another exit code than 0, or than the sentence before its block says.
CODES = {
    # five repeats of two runs are too few for a verdict, which --strict turns into this code
    "effbench compare results/before results/after --threshold 10% --floor 50us --plot ratios.png "
    "--strict": 4,
}
# What the test of the tutorial replaces in its sweep, so that it takes seconds.
SMALLER = {
    '"256:4096:x2"': '"16:32:x2"\nmode = "forward"\nprobe = "time,memory"\nseconds = 0.01\nthreads = 1',
    "max_repeats = 4": "repeats = 2\nmax_repeats = 2",
    "repeats = 3": "repeats = 2",
    "lookup:train=3000,lr=0.01": "lookup:train=32,validation=16,test=16",
    "seq_len = 64": "seq_len = 32\nthreads = 1",
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
    if missing := re.search(r"pip install '(effbench\[\w+\])'", printed):
        pytest.skip(f"{missing[1]} is not installed")
    stated = re.search(r"exit code (\d+)\):$", example.block.before)
    expected = CODES.get(example.command.partition("  ")[0], int(stated[1]) if stated else 0)
    assert code == expected, f"{example.command}\n{printed}"
    if example.output is not None:
        assert lines(printed) == lines(example.output), example.command


def lines(text: str) -> list[str]:
    """The lines of an output, without the blanks that fill a line up."""
    return [line.rstrip().replace("\xa0", " ") for line in text.strip("\n").splitlines()]


def test_the_commands_of_the_tutorial_follow_one_another(effbench, monkeypatch):
    """Its files and commands, in order, with shorter lengths and trainings; what it measures is measured.

    ``run`` measures in this process and draws no plots, since ``plot`` does.
    """
    monkeypatch.setattr("effbench.cli.run.draw", lambda *arguments: [])
    (mechanism,) = written(TUTORIAL, "python")
    Path("block_means.py").write_text(mechanism)
    (sweep,) = written(TUTORIAL, "toml")
    for usual, smaller in SMALLER.items():
        assert usual in sweep
        sweep = sweep.replace(usual, smaller)
    Path("mine.toml").write_text(sweep)
    ended = {}
    for example in examples([TUTORIAL]):
        words = shlex.split(example.command)
        if words[1] == "audit":
            kind = registry.load(registry.find(words[2], "mechanism"))
            assert_conforms(kind, seq_len=64, checks=set(CHECKS) - {"order of time"})
            continue
        if words[1] == "choose":
            words[words.index("--seq-len") + 1] = "24"
        if words[1] == "run":
            words += ["--executor", "inline"]
        ended[example.command], printed = effbench(words)
        # the machine may be too busy to name a winner
        assert ended[example.command] in ((0, 4) if words[1] == "choose" else (0,)), (
            f"{example.command}\n{printed}"
        )
    assert {"run", "show", "plot", "choose", "report"} <= {command.split()[1] for command in ended}
    assert all(Path(name).is_file() for name in ("time.pdf", "tradeoff.pdf", "report.html"))


PYTHON = [
    block for page in PAGES for block in blocks(page) if block.language == "python" and page != TUTORIAL
]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page}:{block.line}")
def test_a_python_block_runs(block, data, trained, monkeypatch):
    """A sweep is measured by a fake, and an audit only gets its arguments; everything else is as written."""
    audited: list[type] = []

    def audit(kind: type, **options: Any) -> list[Finding]:
        audited.append(kind)
        return []

    monkeypatch.setattr("effbench.sweep.loop.LocalExecutor", Fake)
    monkeypatch.setattr("effbench.measured.audit.conformance.audit", audit)
    put_files(Path.cwd())
    names: dict[str, Any] = {"MyAttention": type("MyAttention", (), {})}
    put_results(Path.cwd(), re.findall(r"results/\w+", block.text), trained)
    text = block.text.replace('"DIR"', repr(str(data / "sumpubmed")))
    exec(compile(text, f"{block.page}:{block.line}", "exec"), names)
    for name in [name for name in names if name.startswith("test_")]:
        names[name]()
    assert ("assert_conforms" in block.text) == bool(audited)


def options_of(command: str) -> set[str] | None:
    """The options that a command has, or None if there is no such command."""
    group: Any = typer.main.get_command(cli.app)
    parsed = group.get_command(typer.Context(group), command)
    if parsed is None:
        return None
    return {"-h", "--help", *(name for each in parsed.params for name in (*each.opts, *each.secondary_opts))}


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_running_text_have_the_options_that_they_name(page):
    text = re.sub(
        r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for command in re.findall(r"`effbench ([a-z][^`]*)`", text):
        name, *words = command.split()
        known = options_of(name)
        assert known is not None, f"{page}: effbench {name} is no command"
        named = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert named <= known, f"{page}: effbench {command}"


def test_what_else_the_blocks_run_is_there():
    """Targets of make, scripts and extras that a line of a block names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    makefile = (ROOT / "Makefile").read_text()
    lines_ = [line for page in PAGES for block in blocks(page) for line in block.text.splitlines()]
    for line in lines_:
        if match := re.match(r"make ([a-z]+)", line):
            assert f"\n{match[1]}:" in makefile, line
        if match := re.match(r"python (\S+\.py)", line):
            assert (ROOT / match[1]).is_file(), line
        if match := re.match(r"pip install .*\[([a-z,]+)\]", line):
            assert set(match[1].split(",")) <= set(project["optional-dependencies"]), line

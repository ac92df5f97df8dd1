"""The commands as a user types them: fast, clear, exit code 2 for what the user got wrong."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effbench import cli

SMALL = ["--seq-len", "16,32", "--d-model", "16", "--heads", "2", "--repeats", "1", "--seconds", "0.01"]


def effbench(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "effbench", *arguments], capture_output=True, text=True, timeout=180, cwd=cwd
    )


@pytest.fixture
def here(monkeypatch, capsys):
    """``here(*arguments)``: the command in this process, as ``effbench`` has it in one of its own."""

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["effbench", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code or 0, said.out, said.err)

    return command


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "-m", "fastfromer"], "unknown mechanism 'fastfromer'; did you mean 'fastformer'?"),
        (["run", "-m", "fastformer:colour=red"], "unknown option of fastformer 'colour'"),
        (["run", "--preset", "quikc"], "unknown preset 'quikc'; did you mean 'quick'?"),
        (["run", "--seq-len", "0"], "seq_len '0' is not a whole number of at least 1"),
        (["run", "--seq-len", "-5"], "seq_len '-5' is not"),
        (["run", "--batch-size", "many"], "batch_size 'many' is not a whole number"),
        (["run", "--heads", "7"], "heads 7 does not divide d_model 256"),
        (["run", "--config", "nowhere.toml"], "cannot read 'nowhere.toml'"),
        (["run", "--config", "broken.toml"], "broken.toml: not valid TOML"),
        (["run", "-m", "mine.py:Attention"], "unknown class in mine.py 'Attention'"),
        (["run", "--memory-limit", "lots"], "'lots' is not an amount of memory"),
        (["run", "--timeout", "never"], "'never' is not a time"),
        (["run", "--isolate", "container"], "isolate 'container' is not one of process, inline"),
        (["run", "--preset", "quick", "--config", "broken.toml"], "not both"),
        (["run", "--out", "mine.py", "--seq-len", "16"], "mine.py"),
        (["run", "--out", ".", "--seq-len", "16"], "not a results folder"),
        (["run", "--probe", "accuracy", "--task", "imdb", "--data-dir", "nowhere"], "nowhere"),
        (["show", "."], "not a results folder"),
        (["show", ".", "--format", "xls"], "format 'xls' is not one of table, csv, json, markdown, latex"),
        (["show", ".", "--complexity", "--raw"], "--complexity is a table of its own"),
        (["show", ".", "--complexity", "--summary"], "--complexity is a table of its own"),
        (["show", ".", "--complexity", "--format", "csv"], "it goes with --format table or json alone"),
        (["plot", "."], "not a results folder"),
        (["plot", ".", "--kind", "pie"], "kind 'pie' is not one of time"),
        (["list", "mechanisms", "fastfromer"], "did you mean 'fastformer'?"),
        (["list", "presets", "quikc"], "did you mean 'quick'?"),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(arguments, complaint, monkeypatch, capsys):
    Path("broken.toml").write_text("[[grid]\n")
    Path("mine.py").write_text("class Other:\n    pass\n")
    before = sorted(Path().rglob("*"))
    monkeypatch.setattr(sys, "argv", ["effbench", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_an_unknown_flag_is_exit_code_2():
    done = effbench("run", "--sequence-length", "16")
    assert done.returncode == 2
    assert "No such option" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["list", "mechanisms"], ["list", "mechanisms", "fastformer"], ["run", "-m", "x"]],
)
def test_light_commands_stay_light(arguments):
    """They import neither torch nor pandas; their time is held against Python's own start in the same run."""
    code = (
        "import sys; sys.argv = ['effbench', *sys.argv[1:]]\n"
        "from effbench import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'numpy', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.alone
def test_help_takes_a_fraction_of_importing_torch():
    def seconds(*command: str) -> float:
        begin = time.monotonic()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        return time.monotonic() - begin

    help_s, torch_s = [], []
    for _ in range(3):
        help_s.append(seconds("-m", "effbench", "--help"))
        torch_s.append(seconds("-c", "import torch"))
    assert statistics.median(help_s) < 0.5 * statistics.median(torch_s)


def test_list_prints_options_defaults_order_and_source(here):
    text = effbench("list", "mechanisms", "fastformer").stdout
    for part in ("interaction=product, add, concat  (default product)", "order in N: N\n", "Wu", "sharing="):
        assert part in text
    for what in ("mechanisms", "tasks", "presets", "probes"):
        entries = json.loads(here("list", what, "--format", "json").stdout)
        assert all(entry["name"] and entry["summary"] for entry in entries)
    assert json.loads(here("list", "tasks", "listops", "--format", "json").stdout)["name"] == "listops"


def test_dry_run_prints_every_cell_and_an_estimate_and_writes_nothing():
    done = effbench("run", *SMALL, "-m", "vanilla", "--probe", "time,flops", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 2 * 2 * 2 + 1
    assert lines[-1].startswith("8 cells, about")
    assert not Path("results").exists()


@pytest.mark.slow
def test_run_show_and_plot_end_to_end(plugin, here):
    """The first run and one reading of it are processes of their own; what else reads it is called here."""
    Path("mine.py").write_text(
        "from torch import nn\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, d_model, heads, *, max_len, causal=False, scale: float = 1.0):\n"
        "        super().__init__()\n"
        "        self.linear, self.scale = nn.Linear(d_model, d_model), scale\n"
        "    def forward(self, x, mask=None):\n"
        "        return self.linear(x) * self.scale\n"
    )
    done = effbench(
        "run", *SMALL, "-m", "mine.py:Mine:scale=2", "-m", "vanilla", "-m", plugin("Segfault"),
        "--seq-len", "32,64", "--probe", "time,memory,flops", "--out", "out", "--verbose",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mine.py:Mine" in done.stdout
    assert "crashed" in done.stdout
    assert "out/plots/time.png" in done.stdout
    assert (Path("out/plots/memory.png")).read_bytes().startswith(b"\x89PNG")
    rows = json.loads(effbench("show", "out", "--format", "json").stdout)
    assert len(rows) == 3 * 2 * 2
    mine = [row for row in rows if row["mechanism"] == "mine.py:Mine"]
    assert {row["options"] for row in mine} == {"scale=2.0"}
    for row in mine:
        products = 3 if row["mode"] == "train" else 1
        assert row["time_s"] > 0
        assert row["flops"] == products * 2 * 16 * 16 * row["seq_len"]
    broken = [row for row in rows if "Segfault" in row["mechanism"] and row["seq_len"] == 64]
    assert {row["status"] for row in broken} == {"crashed"}
    for form in ("table", "csv", "markdown", "latex"):
        shown = here("show", "out", "--format", form)
        assert shown.returncode == 0, shown.stderr
        assert "vanilla" in shown.stdout
    raw = here("show", "out", "--raw", "--format", "csv").stdout
    assert "probe" in raw.splitlines()[0].split(",")
    assert here("plot", "out", "--kind", "time", "--out", "one.svg").stdout.strip() == "one.svg"
    refused = here("plot", "out", "--kind", "accuracy")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    again = here("run", "--config", "out/sweep.toml", "--out", "out")
    assert "0 cells to measure" in again.stderr
    assert here("show", "out", "--summary").stdout


def test_a_reader_that_stops_early_is_no_error():
    code = "import sys; sys.stdout.close()"
    done = subprocess.run(
        f"{sys.executable} -m effbench list mechanisms | {sys.executable} -c '{code}'",
        shell=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr

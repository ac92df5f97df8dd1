"""The commands as a user types them: fast, clear, exit code 2 for what the user got wrong."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from fakes import Fake
from frames import accuracy_records, cost_records

from effbench.cli import app as cli
from effbench.common.exits import Exit, of_run
from effbench.records.store import Store, StoreFull

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
        printed = capsys.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code, printed.out, printed.err)

    return command


@pytest.fixture
def executor(monkeypatch):
    """``executor(...)``: ``effbench run`` measures with a fake made like this, and draws nothing."""

    def use(*arguments, **options) -> Fake:
        fake = Fake(*arguments, **options)
        monkeypatch.setattr("effbench.cli.run._executor", lambda name: fake)
        monkeypatch.setattr("effbench.cli.run.draw", lambda *arguments: [])
        return fake

    return use


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
        (["run", "--scope", "user-encoder", "--mode", "decode"], "scope user-encoder has no mode decode"),
        (["run", "--config", "nowhere.toml"], "cannot read 'nowhere.toml'"),
        (["run", "--config", "broken.toml"], "broken.toml: not valid TOML"),
        (["run", "-m", "mine.py:Attention"], "unknown class in mine.py 'Attention'"),
        (["run", "--memory-limit", "lots"], "'lots' is not an amount of memory"),
        (["run", "--timeout", "never"], "'never' is not a time"),
        (["run", "--executor", "container"], "executor 'container' is not one of process, inline, slurm"),
        (["run", "--partition", "gpu"], "--partition is an option of --executor slurm"),
        (["run", "--preset", "quick", "--config", "broken.toml"], "not both"),
        (["run", "--out", "mine.py", "--seq-len", "16", "--probe", "time"], "mine.py"),
        (["run", "--out", ".", "--seq-len", "16", "--probe", "time"], "not a results folder"),
        (["run", "--seq-len", ""], "--seq-len is empty"),
        (["run", "--seq-len="], "--seq-len is empty"),
        (["run", "-m", " "], "-m is empty"),
        (["run", "--config", ""], "--config is empty"),
        (["run", "--out", ""], "--out is empty"),
        (["show", ""], "an argument is empty"),
        (["plot", ".", "--kind", ""], "--kind is empty"),
        (["compare", ".", ""], "an argument is empty"),
        (["paper", "figure2", ""], "an argument is empty"),
        (["audit", ""], "an argument is empty"),
        (["doctor", "--threads", ""], "--threads is empty"),
        (["gate", "--base", ""], "--base is empty"),
        (["gate", "--base=", "-m", "x.py:X"], "--base is empty"),
        (["list", "mechanisms", ""], "an argument is empty"),
        (["run", "--probe", "accuracy", "--task", "imdb", "--data-dir", "nowhere"], "nowhere"),
        (["show", "."], "not a results folder"),
        (["show", ".", "--format", "xls"], "format 'xls' is not one of table, csv, json, markdown, latex"),
        (["show", ".", "--complexity", "--raw"], "--raw and --complexity are different tables"),
        (["show", ".", "--complexity", "--summary"], "--summary and --complexity are different tables"),
        (["show", ".", "--rows", "--compare", "all"], "--rows and --compare are different tables"),
        (["plot", "."], "not a results folder"),
        (["plot", ".", "--kind", "pie"], "kind 'pie' is not one of time"),
        (["plot", ".", "--style", "poster"], "style 'poster' is not one of screen, paper"),
        (["plot", ".", "--width", "6.9"], "--width '6.9' is of figures for a paper"),
        (["plot", ".", "--style", "paper", "--width", "12"], "--width '12' is not between 3 and 7.5 inches"),
        (["plot", ".", "--style", "paper", "--width", "nan"], "--width 'nan' is not between"),
        (["plot", ".", "--style", "paper", "--width", ""], "--width is empty"),
        (["compare", "a", "b", "--floor", "10"], "floor '10' is not a time; write 10us"),
        (["plot", ".", "--format", "jpg"], "format 'jpg' is not one of png, svg, pdf"),
        (["list", "mechanisms", "fastfromer"], "did you mean 'fastformer'?"),
        (["list", "presets", "quikc"], "did you mean 'quick'?"),
        (["list", "mechanism"], "unknown kind 'mechanism'; did you mean 'mechanisms'?"),
        (["rnu"], "unknown command 'rnu'; did you mean 'run'? there are: run, show,"),
        (["--verison"], "no such option: --verison"),
        (["run", "--sequence-length", "16"], "no such option: --sequence-length"),
        (["run", "--seq-len"], "option '--seq-len' requires an argument; see effbench run --help"),
        (["run", "quick"], "unexpected extra argument"),
        (["run", "--resume=1"], "'--resume' does not take a value"),
        (["show"], "missing argument 'DIR'; see effbench show --help"),
        (["gate"], "missing option '--base'"),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(arguments, complaint, monkeypatch, capsys, executor):
    executor()
    Path("broken.toml").write_text("[[grid]\n")
    Path("mine.py").write_text("class Other:\n    pass\n")
    before = sorted(Path().rglob("*"))
    monkeypatch.setattr(sys, "argv", ["effbench", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.startswith("effbench: ")
    assert error.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_without_a_command_the_help_is_printed(here):
    done = here()
    assert done.returncode == 2
    assert "gate" in done.stdout


def test_every_command_is_registered_with_a_help_text():
    group = typer.main.get_command(cli.app)
    assert isinstance(group, cli.Commands)
    for name in cli.COMMANDS:
        command = group.get_command(None, name)
        assert command.name == name
        assert command.help
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["list"], ["list", "mechanisms", "fastformer"], ["run", "-m", "x"], ["rnu"]],
)
def test_light_commands_stay_light(arguments):
    """They import neither torch nor pandas, and rich only for --help; no gate, executor or store."""
    code = (
        "import sys; sys.argv = ['effbench', *sys.argv[1:]]\n"
        "from effbench import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'numpy', 'scipy', 'effbench.sweep.local',\n"
        "    'effbench.gate.workers', 'effbench.records.store'} & set(sys.modules)\n"
        "heavy |= {'rich.console'} & set(sys.modules) if sys.argv[1] != '--help' else set()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_help_takes_a_fraction_of_importing_torch():
    """CPU time, which other processes do not change much."""

    def cpu_s(*command: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert cpu_s("-m", "effbench", "--help") < 0.5 * cpu_s("-c", "import torch")


def test_list_prints_options_defaults_order_and_source(here):
    text = here("list", "mechanisms", "fastformer").stdout
    for part in ("interaction=product, add, concat  (default product)", "order in N: N\n", "Wu", "sharing="):
        assert part in text
    for what in ("mechanisms", "tasks", "presets", "probes"):
        entries = json.loads(here("list", what, "--format", "json").stdout)
        assert all(entry["name"] and entry["summary"] for entry in entries)
    assert json.loads(here("list", "tasks", "listops", "--format", "json").stdout)["name"] == "listops"


def test_dry_run_prints_every_cell_and_an_estimate_and_writes_nothing(here):
    done = here("run", *SMALL, "-m", "vanilla", "--probe", "time,flops", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 2 * 2 * 2 + 1
    assert lines[-1].startswith("8 cells, about")
    assert not Path("results").exists()


@pytest.mark.slow
def test_run_show_and_plot_end_to_end(plugin, here, monkeypatch):
    """The run is a process of its own; the commands that read its results are called here."""
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
        "--seq-len", "32,64", "--mode", "forward", "--probe", "time,memory",
        "--out", "out", "--verbose",
    )  # fmt: skip
    assert done.returncode == 0, "one of three crashed, and at one of two lengths: a result"
    assert "mine.py:Mine" in done.stdout
    assert "crashed" in done.stdout
    assert "out/plots/time.png" in done.stdout
    assert (Path("out/plots/memory.png")).read_bytes().startswith(b"\x89PNG")
    rows = json.loads(here("show", "out", "--format", "json").stdout)
    assert len(rows) == 3 * 2
    mine = [row for row in rows if row["mechanism"] == "mine.py:Mine"]
    assert {row["options"] for row in mine} == {"scale=2.0"}
    for row in mine:
        assert row["time_s"] > 0
        assert row["peak_bytes"] >= 4 * 16 * row["seq_len"]
    broken = [row for row in rows if "Segfault" in row["mechanism"] and row["seq_len"] == 64]
    assert {row["status"] for row in broken} == {"crashed"}
    assert "vanilla" in here("show", "out", "--rows", "--format", "latex").stdout
    raw = here("show", "out", "--raw", "--format", "csv").stdout
    assert "probe" in raw.splitlines()[0].split(",")
    assert here("plot", "out", "--kind", "time", "--out", "one.svg").stdout.strip() == "one.svg"
    lines = here("plot", "out", "--kind", "time", "--style", "paper", "--out", "figures").stdout.splitlines()
    assert lines[0] == "figures/time.pdf"
    assert lines[1].startswith("  one attention layer on "), "what a title would say is there for the caption"
    assert b"/FontFile2" in Path("figures/time.pdf").read_bytes(), "fonts of type 42, not 3"
    refused = here("plot", "out", "--kind", "accuracy")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    monkeypatch.setattr("effbench.cli.run.draw", lambda *arguments: [])
    again = here("run", "--config", "out/sweep.toml", "--out", "out", "--strict")
    assert "0 cells to measure" in again.stderr
    assert again.returncode == 6, "a row that crashed, under --strict"
    shown = here("show", "out").stdout
    assert "forward: time per call" in shown
    assert here("show", "out", "--summary").stdout == shown, "the summary is what show prints"


def test_results_are_shown_in_every_format(here):
    results("out", cost_records(("vanilla", "linear"), (128, 256)))
    for form in ("csv", "markdown", "latex"):
        assert "vanilla" in here("show", "out", "--rows", "--format", form).stdout
    for form in ("csv", "json", "markdown", "latex"):
        summary = here("show", "out", "--summary", "--format", form).stdout
        assert "time per call" in summary
        assert form != "latex" or summary.count("tabular") < 20
    for form in ("csv", "json", "latex"):
        assert "vanilla" in here("show", "out", "--complexity", "--format", form).stdout


def test_a_reader_that_stops_early_is_no_error():
    code = "import sys; sys.stdout.close()"
    done = subprocess.run(
        f"{sys.executable} -m effbench list mechanisms | {sys.executable} -c '{code}'",
        shell=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr


def test_a_mechanism_that_never_works_is_exit_code_6_and_nothing_measured_is_5(here, executor):
    small = [*SMALL, "--probe", "time", "--mode", "forward", "--seq-len", "64", "-m", "linear"]
    executor({("linear", "forward", 64): ("crashed", "it raises")})
    broken = here("run", *small, "-m", "vanilla")
    assert broken.returncode == 6
    assert "crashed" in broken.stdout
    executor({("linear", "forward", 64): ("incorrect", "it has the wrong shape")})
    wrong = here("run", *small, "--quiet")
    assert wrong.returncode == 6
    assert (wrong.stdout, wrong.stderr) == ("", "")
    executor({("linear", "forward", 64): ("unsupported", "only 32 tokens fit")})
    refused = here("run", *small, "--no-resume")
    assert refused.returncode == 5
    assert "only 32 tokens fit" in " ".join(refused.stdout.split())


def test_ctrl_c_is_exit_code_130_and_a_fault_is_1(here, executor):
    executor(interrupt_at=2)
    done = here("run", *SMALL, "--probe", "time", "--out", "out")
    assert done.returncode == 130
    assert "interrupted; what was measured is in out" in done.stderr
    fake = executor()
    fake.start = lambda: (_ for _ in ()).throw(StoreFull("cannot write: the disk is full"))
    done = here("run", *SMALL, "--probe", "time", "--out", "out", "--quiet")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "effbench: cannot write: the disk is full")


@pytest.mark.parametrize(
    ("rows", "strict", "code"),
    [
        ([("a", "ok", True)], False, 0),
        ([], False, 0),
        ([("a", "ok", True), ("a", "crashed", False)], False, 0),
        ([("a", "ok", True), ("a", "crashed", False)], True, 6),
        ([("a", "crashed", True)], True, 6),
        ([("a", "ok", True), ("b", "incorrect", False)], False, 6),
        ([("a", "oom", False), ("b", "timeout", False)], False, 5),
        ([("a", "ok", True), ("b", "oom", False)], True, 0),
        ([("a", "interrupted", False)], False, 5),
    ],
)
def test_the_exit_code_of_a_run(rows, strict, code):
    assert of_run(rows, strict=strict) == code


def test_every_exit_code_is_documented():
    text = (Path(__file__).parents[1] / "docs" / "exit-codes.md").read_text()
    for code in Exit:
        assert f"| {int(code)} |" in text
    for command in cli.COMMANDS:
        assert f"`{command}`" in text


def test_help_has_groups_and_forms_of_values(here):
    for flag in ("-h", "--help"):
        text = here("run", flag).stdout
        for panel in ("What to measure", "Shape of a call", "Measuring", "Limits", "Output"):
            assert panel in text
        for form in ("NAME[:option=value,...]", "N,...", "TIME", "SIZE", "SHARE", "DIR"):
            assert form in text
        assert "<str>" not in text


def test_list_alone_lists_everything(here):
    done = here("list")
    assert done.returncode == 0
    for what in ("mechanisms: ", "recommenders: ", "tasks: ", "presets: ", "probes: "):
        assert what in done.stdout
    assert set(json.loads(here("list", "--format", "json").stdout)) == {
        "mechanisms",
        "recommenders",
        "tasks",
        "presets",
        "probes",
    }


def test_a_shell_completes_commands_and_names():
    def completed(line: str) -> str:
        environment = {
            **os.environ, "_EFFBENCH_COMPLETE": "complete_bash", "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1), "_TYPER_COMPLETE_ARGS": line,
        }  # fmt: skip
        code = (
            "import sys; sys.argv = ['effbench']; from effbench.cli.app import app; app(prog_name='effbench')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
        )
        assert "Traceback" not in done.stderr
        return done.stdout

    assert "run" in completed("effbench r").split()
    assert "fastformer" in completed("effbench run -m fast").split()
    assert "quick" in completed("effbench run --preset qu").split()


def results(folder: str, *groups) -> None:
    """A results folder of made-up records."""
    store = Store(Path(folder))
    store.create()
    for record in (record for group in groups for record in group):
        store.write(record)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_output_that_is_not_utf_8_is_written_all_the_same(encoding, monkeypatch):
    results("out", cost_records(("vanilla", "linear"), (128, 256)))
    monkeypatch.setenv("COLUMNS", "90")
    for arguments in (["show", "out"], ["show", "out", "--rows"], ["run", "-h"]):
        printed = io.BytesIO()
        monkeypatch.setattr(sys, "argv", ["effbench", *arguments])
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        sys.stdout.flush()
        text = printed.getvalue().decode(encoding)
        assert text
        assert "us" in text or arguments[0] != "show" or encoding != "ascii"


def test_columns_is_honoured_in_a_pipe_and_narrow_tables_are_cut_into_parts(here, monkeypatch):
    results("out", cost_records(("vanilla", "linear"), (128, 256)), accuracy_records(("vanilla", "linear")))
    monkeypatch.delenv("COLUMNS", raising=False)
    whole = here("show", "out", "--rows").stdout
    assert max(map(len, whole.splitlines())) > 120, "nothing is cut in a pipe"
    for columns in (80, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        rows = here("show", "out", "--rows").stdout
        others = (
            [here("show", "out").stdout, here("show", "out", "--complexity").stdout] if columns == 80 else []
        )
        for text in (rows, *others):
            assert max(map(len, text.splitlines())) <= columns
        for name in ("time_s", "memory", "flops", "accuracy_low"):
            assert f" {name} " in f"{rows} ".replace("\n", " \n")
        assert rows.count("mechanism") > 1, "each part names its rows"


def test_a_dry_run_needs_no_data(here):
    done = here("run", "--preset", "imdb", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[-1].startswith("18 cells, about")
    assert lines[-2].startswith("not checked: the data of imdb")
    refused = here("run", "--preset", "imdb", "--dry-run", "--data-dir", "nowhere")
    assert refused.returncode == 2


def test_options_without_a_task_or_a_preset_train_nothing_and_say_so(here):
    for options in (["-m", "vanilla", "--seq-len", "512"], ["--repeats", "1"], ["--d-model", "64"]):
        done = here("run", *options, "--dry-run")
        assert done.returncode == 0
        assert "training" not in done.stdout
        assert done.stderr.count("only costs are measured") == 1
        assert "--task lookup" in done.stderr
        assert "--preset quick" in done.stderr
    silent = here("run", "-m", "linear", "--seq-len", "3000", "--probe", "time", "--dry-run")
    assert silent.stderr == ""
    assert silent.stdout.splitlines()[-1].startswith("10 cells, about")


def test_trainings_that_are_asked_for_are_made(here):
    of_quick = ["--preset", "quick"]
    for options, task in (([], "lookup"), (of_quick, "lookup"), (["--task", "listops:train=100"], "listops")):
        done = here("run", *options, "--dry-run")
        assert f"{task} training" in done.stdout
        assert done.stderr == ""


def test_a_length_that_is_asked_of_trainings_too_is_said_with_its_cost(here):
    done = here("run", "--preset", "quick", "-m", "linear", "--seq-len", "1000", "--dry-run")
    assert "--seq-len is also that of 3 trainings on lookup, at 1000 tokens, about " in done.stderr
    assert "on average" not in done.stderr, "the rows are as long as is asked"
    short = "listops:max_depth=3,max_args=3,min_length=8,train=100,validation=10,test=10"
    done = here("run", "--probe", "accuracy", "--task", short, "--seq-len", "1000", "--dry-run")
    assert done.stderr.count("tokens on average") == 1
    assert "rows have 10 of 1,000 tokens on average" in done.stderr


def test_trainings_longer_than_the_time_limit_are_said(here):
    """Of a training of 100 rows and one of very many, only the latter takes longer than 2 min."""
    words = ["run", "--seq-len", "512", "-m", "linear", "--probe", "accuracy", "--repeats", "1"]
    words += ["--task", "listops:train=100", "--task", "listops:train=2000000", "--dry-run", "--timeout"]
    said = here(*words, "2m").stderr
    assert "careful: 1 of 2 trainings may not end within the time limit of one measurement, 120 s" in said
    enough = said.rpartition("--timeout ")[2].removesuffix(".\n")
    assert enough.endswith("h")
    assert here(*words, enough).stderr == ""


def test_one_is_not_plural(here):
    options = ["--mode", "forward", "--repeats", "1", "--max-repeats", "1"]
    done = here("run", "-m", "linear", "--seq-len", "16", "--probe", "time", *options, "--dry-run")
    assert done.stdout.splitlines()[-1].startswith("1 cell, about")

"""Check, measure and bring home everything that needs a CUDA device, in stages: `make gpu`.

    python benchmarks/gpu.py OUT [--device cuda] [--stages machine,tests] [--small]

Each stage has a time limit, a log OUT/NAME.log and its results in OUT/NAME; OUT/stages.json says how it
ended. A stage that was completed is not run again: after an interruption, run the same command again. A stage
that lacks a package says so, and the others go on. ``--small`` has small shapes and few mechanisms; with
``--device cpu`` it tries the script itself where there is no GPU. docs/gpu.md has the details.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which

ROOT = Path(__file__).resolve().parents[1]
EFFBENCH = [sys.executable, "-m", "effbench"]
# Modules that effbench's commands import, with the names of their packages.
NEEDED = {
    "typer": "typer", "rich": "rich", "pandas": "pandas", "pyarrow": "pyarrow", "numpy": "numpy",
    "scipy": "scipy", "matplotlib": "matplotlib", "PIL": "pillow", "tomli_w": "tomli-w",
}  # fmt: skip
FEW = ["linear", "fastformer"]
OURS = [
    "vanilla", "fastformer", "linformer", "longformer", "bigbird", "linear", "performer", "cosformer",
    "poolingformer", "nystromformer", "fnet", "luna", "retention:causal=true", "gla:causal=true",
    "deltanet:causal=true", "mamba2:causal=true", "hyena:causal=true", "sinks:causal=true",
]  # fmt: skip
# FlexAttention compiles a kernel for every shape: an audit, which has dozens, would take minutes.
SLOW_TO_AUDIT = {"longformer", "bigbird", "sinks:causal=true"}
# A module of ten equal maps, and one of eleven: a tenth more work.
STACK = """
import torch
class Stack(torch.nn.Module):
    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__()
        self.maps = torch.nn.ModuleList(torch.nn.Linear(d_model, d_model) for _ in range({maps}))
    def forward(self, x, mask=None):
        for one in self.maps:
            x = one(x)
        return x
"""


@dataclass(frozen=True)
class Run:
    """The settings of a run: the device, whether the shapes are small, and the folder of the stage."""

    device: str
    small: bool
    out: Path


@dataclass(frozen=True)
class Command:
    """A command: its words, the folder that it runs in, and the exit code of success."""

    words: Sequence[str]
    folder: Path = ROOT
    code: int = 0


@dataclass(frozen=True)
class Stage:
    """A stage: its time limit, its commands, and the modules and programs that they need."""

    name: str
    about: str
    limit_s: int
    commands: Callable[[Run], list[Command]]
    needs: Sequence[str] = tuple(NEEDED)


@dataclass(frozen=True)
class Ending:
    """The result of a stage; ``status`` is done, failed, stopped (time limit) or lacking (a package)."""

    stage: str
    status: str
    seconds: float
    note: str = ""


def sweep(run: Run, *arguments: str, budget_s: int) -> Command:
    """Return the command of a sweep on the run's device that ends by itself within the budget."""
    return Command([*EFFBENCH, "run", *arguments, "--device", run.device, "--budget", f"{budget_s}s"])


def mechanisms(names: Sequence[str]) -> list[str]:
    """Return the options that name mechanisms."""
    return [part for name in names for part in ("-m", name)]


def _machine(run: Run) -> list[Command]:
    ceiling = ["--seq-len", "512", "--probe", "time,flops", "--repeats", "1", "--dtype", "float32,bfloat16"]
    smi = [Command(["nvidia-smi", "-q"])] if run.device != "cpu" else []
    return [
        Command([*EFFBENCH, "doctor", "--device", run.device]),
        sweep(run, "-m", "linear", *ceiling, "--out", str(run.out), budget_s=40),
        *smi,
    ]


def _tests(run: Run) -> list[Command]:
    chosen = ["-m", "gpu"] if run.device != "cpu" else ["-m", "gpu", "tests/test_numbers_and_devices.py"]
    return [Command([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen])]


def _checks(run: Run) -> list[Command]:
    names = FEW if run.small else OURS
    shape = ["--seq-len", "64" if run.small else "512", "--d-model", "64" if run.small else "256"]
    short = ["--probe", "time", "--seconds", "0.01s", "--repeats", "1", "--dtype", "float32,bfloat16"]
    audited = [name for name in names if name not in SLOW_TO_AUDIT]
    bounds = ["--seq-len", "1024", "--timeout", "40s", "--device", run.device]
    return [
        sweep(run, *mechanisms(names), *shape, *short, "--out", str(run.out), budget_s=100),
        *(
            Command([*EFFBENCH, "audit", *audited, *bounds, "--dtype", dtype])
            for dtype in ("float32", "bfloat16")
        ),
    ]


def _preset(run: Run) -> list[Command]:
    if run.small:
        shape = ["--seq-len", "64,128", "--d-model", "64", "--heads", "4", "--seconds", "0.02s"]
        return [sweep(run, "--preset", "gpu", *mechanisms(FEW), *shape, "--out", str(run.out), budget_s=60)]
    return [sweep(run, "--preset", "gpu", "--seq-len", "512:131072:x4", "--out", str(run.out), budget_s=450)]


def _paper(run: Run) -> list[Command]:
    if run.small:
        shape = ["--seq-len", "64,128", "--batch-tokens", "256", "--d-model", "64", "--heads", "4"]
        shape += [*mechanisms(FEW), "--seconds", "0.02s"]
        return [sweep(run, "--preset", "paper-efficiency", *shape, "--out", str(run.out), budget_s=60)]
    fewer = ["--seconds", "0.2s", "--probe", "time,memory"]
    return [sweep(run, "--preset", "paper-efficiency", *fewer, "--out", str(run.out), budget_s=280)]


def _training(run: Run) -> list[Command]:
    task = (
        "listops:max_depth=3,max_args=3,min_length=8,train=12000,validation=500,test=2000,epochs=3,lr=0.003"
    )
    if run.small:
        task = "listops:max_depth=2,max_args=3,min_length=4,train=200,validation=50,test=50,epochs=1"
    shape = ["--seq-len", "64", "--batch-size", "64", "--d-model", "64", "--heads", "4", "--layers", "2"]
    words = [
        "-m",
        "fastformer",
        "--probe",
        "accuracy",
        "--task",
        task,
        "--repeats",
        "1",
        "--dtype",
        "bfloat16",
    ]
    return [sweep(run, *words, *shape, "--out", str(run.out), budget_s=80)]


def _gate(run: Run) -> list[Command]:
    folders = {name: run.out / name for name in ("base", "same", "slower")}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stack.py").write_text(STACK.format(maps=11 if name == "slower" else 10))
        subprocess.run(["git", "init", "-q", str(folder)], check=True)  # the gate's head is a repository
    shape = ["--seq-len", "64" if run.small else "2048", "--d-model", "64" if run.small else "1024"]
    words = ["gate", "--quiet", "--base", str(folders["base"]), "-m", "stack.py:Stack", "--mode", "forward"]
    words += [*shape, "--device", run.device, "--budget", "22s", "--floor", "1us"]
    return [
        Command([*EFFBENCH, *words, "--json", str(run.out / f"{name}.json")], folders[name], code)
        for name, code in (("same", 0), ("slower", 3))
    ]


STAGES = (
    Stage("machine", "card, driver, clocks, peak and bandwidth; effbench doctor", 90, _machine),
    Stage("tests", "the tests marked gpu", 240, _tests, (*NEEDED, "pytest")),
    Stage("checks", "laws, references and audits of the mechanisms, in float32 and bfloat16", 240, _checks),
    Stage("preset", "the preset gpu", 480, _preset),
    Stage("paper", "the paper's Figure 2, as the preset paper-efficiency", 300, _paper),
    Stage("training", "one real training in bfloat16", 90, _training),
    Stage("gate", "the gate against an equal base and a planted tenth", 60, _gate, (*NEEDED, "git")),
)  # fmt: skip


def lacking(stage: Stage) -> list[str]:
    """Return the packages that a stage needs and this Python does not have."""
    missing = [name for name in stage.needs if find_spec(name) is None and which(name) is None]
    return [NEEDED.get(name, name) for name in missing]


def play(stage: Stage, run: Run) -> Ending:
    """Run a stage's commands until one fails or the time is over; keep what they print."""
    if missing := lacking(stage):
        return Ending(stage.name, "lacking", 0.0, f"needs {', '.join(missing)}")
    start = time.monotonic()
    with (run.out.parent / f"{stage.name}.log").open("w") as log:
        for command in stage.commands(run):
            left_s = stage.limit_s - (time.monotonic() - start)
            code = _code(command, log.fileno(), left_s)
            if code is None:
                return Ending(stage.name, "stopped", time.monotonic() - start, f"after {stage.limit_s} s")
            if code != command.code:
                words = " ".join(command.words[:4])
                note = f"exit code {code}, not {command.code}: {words} ...; see {stage.name}.log"
                return Ending(stage.name, "failed", time.monotonic() - start, note)
    return Ending(stage.name, "done", time.monotonic() - start)


def _code(command: Command, log: int, left_s: float) -> int | None:
    """Return a command's exit code; None if it was stopped, with all that it started."""
    places = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    try:
        process = subprocess.Popen(
            command.words, cwd=command.folder, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    except OSError as error:
        os.write(log, f"{command.words[0]}: {error}\n".encode())
        return 127
    try:
        return process.wait(timeout=max(left_s, 0.0))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages that are not done, and print a table of how each ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    names = [stage.name for stage in STAGES]
    parser.add_argument("--stages", default=",".join(names), help=f"of {', '.join(names)}")
    asked = parser.parse_args(arguments)
    chosen = asked.stages.split(",")
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"unknown stage {unknown[0]!r}; there are {', '.join(names)}")
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    file = out / "stages.json"
    ended = {one["stage"]: Ending(**one) for one in json.loads(file.read_text())} if file.exists() else {}
    for stage in STAGES:
        if stage.name in chosen and (stage.name not in ended or ended[stage.name].status != "done"):
            print(f"{stage.name}: {stage.about} (at most {stage.limit_s} s)", flush=True)
            ended[stage.name] = play(stage, Run(asked.device, asked.small, out / stage.name))
            file.write_text(json.dumps([asdict(one) for one in ended.values()], indent=1))
    print(f"\n{'stage':<10} {'ended':<8} {'seconds':>8}  note")
    for one in ended.values():
        print(f"{one.stage:<10} {one.status:<8} {one.seconds:>8.0f}  {one.note}")
    print(f"results: {out}")
    return 0 if all(one.status == "done" for one in ended.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

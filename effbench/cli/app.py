"""The commands: parse, call, print. What is heavy is imported inside the command that needs it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from effbench import __version__
from effbench.common.exits import Exit, of_run
from effbench.common.spec import PROBES, UsageError
from effbench.common.wording import plural
from effbench.show.terminal import speak_any_encoding, width_for_sentences
from effbench.show.terminal import width as terminal_width

if TYPE_CHECKING:
    from effbench.common.spec import Job
    from effbench.gate.report import Report
    from effbench.show.blocks import Block
    from effbench.sweep.executor import Executor
    from effbench.sweep.sweep import Sweep


class Command(TyperCommand):
    """A command that takes no empty value: an unset variable of a shell must not turn into a default."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse empty arguments and values of options before anything is read."""
        for place, text in enumerate(args):
            before = args[place - 1] if place else ""
            if not text.strip():
                what = before if before.startswith("-") and "=" not in before else "an argument"
                raise UsageError(f"{what} is empty")
            name, sign, value = text.partition("=")
            if name.startswith("--") and sign and not value.strip():
                raise UsageError(f"{name} is empty")
        return super().parse_args(ctx, args)

    def get_help_option(self, ctx: Any) -> Any:
        """``--help`` without a type beside it, like every other flag."""
        found = super().get_help_option(ctx)
        if found is not None:
            found.metavar = ""
        return found


app = typer.Typer(
    name="effbench",
    help="Which attention mechanism at this sequence length, on this machine, and at what cost in accuracy?",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_PROBE_HELP = {
    "time": "seconds per call: warmed up, every sample kept, median with an interval over repeats",
    "memory": "peak bytes that one call holds at once, from the allocator's events",
    "flops": "floating-point operations of the matrix products that one call executes",
    "accuracy": "score on the test part of a task after training an encoder around the mechanism",
}


class ListWhat(StrEnum):
    """The kinds of things that ``effbench list`` lists."""

    MECHANISMS = "mechanisms"
    TASKS = "tasks"
    PRESETS = "presets"
    PROBES = "probes"


def _flag(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """An option without a value."""
    return typer.Option(*names, metavar="", help=help, rich_help_panel=panel, **more)


def _value(metavar: str, help: str, panel: str | None = None, *names: str, **more: Any) -> Any:
    """An option with a value; ``metavar`` is the form of the value in --help."""
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, **more)


def _mechanism_names(incomplete: str) -> list[str]:
    from effbench.common import registry

    return [name for name in registry.names("mechanism") if name.startswith(incomplete)]


def _task_names(incomplete: str) -> list[str]:
    from effbench.common import registry

    return [name for name in registry.names("task") if name.startswith(incomplete)]


def _preset_names(incomplete: str) -> list[str]:
    from effbench.sweep.sweep import presets

    return [name for name in presets() if name.startswith(incomplete)]


# Options that several commands take. The panels are the headings of --help.
_WHAT, _SHAPE, _MEASURING = "What to measure", "Shape of a call", "Measuring"
_LIMITS, _OUTPUT, _DECIDING = "Limits", "Output", "Deciding"
Mechanisms = Annotated[
    list[str] | None,
    _value(
        "NAME[:option=value,...]",
        "A mechanism; repeat for more. Also path/to/file.py:Class or package.module:Class.",
        _WHAT,
        "--mechanism",
        "-m",
        autocompletion=_mechanism_names,
    ),
]
SeqLen = Annotated[
    str | None,
    _value("N,...|N:N:xK", "Lengths: 128,512 or 512:16384:x2.", _SHAPE),
]
BatchSize = Annotated[str | None, _value("N,...", "Sequences per call.", _SHAPE)]
BatchTokens = Annotated[
    str | None,
    _value("N,...", "Instead of --batch-size: tokens per call.", _SHAPE),
]
DModel = Annotated[str | None, _value("N,...", "Model width.", _SHAPE)]
Heads = Annotated[
    str | None,
    _value("N,...", "Attention heads; must divide the width.", _SHAPE),
]
Layers = Annotated[str | None, _value("N,...", "Blocks of an encoder.", _SHAPE)]
Dtype = Annotated[
    str | None,
    _value("DTYPE,...", "float32, float64, bfloat16, float16.", _SHAPE),
]
Device = Annotated[str | None, _value("DEVICE,...", "cpu, cuda or cuda:N.", _SHAPE)]
Mode = Annotated[str | None, _value("MODE,...", "forward, train.", _WHAT)]
Scope = Annotated[
    str | None,
    _value("SCOPE,...", "attention (one layer), encoder.", _WHAT),
]
Threads = Annotated[
    str | None,
    _value("N,...", "Threads of an operation. Default: all cores.", _MEASURING),
]
Allocator = Annotated[
    str | None,
    _value("NAME", "kept (freed memory is reused) or system (the C library's default).", _MEASURING),
]
DataDir = Annotated[
    Path | None,
    _value("DIR", "Folder of the task's files.", _WHAT),
]
Folders = Annotated[list[Path], typer.Argument(metavar="DIR", help="Results folders.")]
Strict = Annotated[
    bool, _flag("--strict", help="Exit code 6 if any row crashed or is incorrect.", panel=_OUTPUT)
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"effbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, _flag("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Which attention mechanism at this length, on this machine, and at what cost in accuracy?"""


@app.command(cls=Command)
def run(
    preset: Annotated[
        str | None,
        _value(
            "NAME", "A sweep that comes with effbench. Default: quick.", _WHAT, autocompletion=_preset_names
        ),
    ] = None,
    config: Annotated[Path | None, _value("FILE.toml", "A sweep of your own.", _WHAT)] = None,
    mechanism: Mechanisms = None,
    mode: Mode = None,
    scope: Scope = None,
    probe: Annotated[
        str | None,
        _value("PROBE,...", "time, memory, flops, accuracy.", _WHAT),
    ] = None,
    task: Annotated[
        list[str] | None,
        _value(
            "NAME[:option=value,...]",
            "A task to measure accuracy on; repeat for more.",
            _WHAT,
            autocompletion=_task_names,
        ),
    ] = None,
    data_dir: DataDir = None,
    seq_len: SeqLen = None,
    batch_size: BatchSize = None,
    batch_tokens: BatchTokens = None,
    d_model: DModel = None,
    heads: Heads = None,
    layers: Layers = None,
    dtype: Dtype = None,
    device: Device = None,
    repeats: Annotated[
        str | None,
        _value("N", "Fresh processes (and seeds).", _MEASURING),
    ] = None,
    seconds: Annotated[
        str | None,
        _value("TIME", "Sampling time of a process. Default: 0.5s.", _MEASURING),
    ] = None,
    precision: Annotated[
        str | None,
        _value("SHARE", "Target half-width of a time's interval. Default: 2%.", _MEASURING),
    ] = None,
    max_repeats: Annotated[
        str | None,
        _value("N", "Repeats at most, where it is wider. Default: 10.", _MEASURING),
    ] = None,
    threads: Threads = None,
    allocator: Allocator = None,
    seed: Annotated[
        str | None,
        _value("N", "Seed of order, weights and data. Default: 0.", _MEASURING),
    ] = None,
    isolate: Annotated[
        str,
        _value("HOW", "process (a fresh one for each measurement) or inline (for a debugger).", _MEASURING),
    ] = "process",
    timeout: Annotated[
        str | None,
        _value("TIME", "Limit of one measurement: 60s, 5m.", _LIMITS),
    ] = None,
    memory_limit: Annotated[
        str | None,
        _value("SIZE", "Limit of one measurement: 8GiB.", _LIMITS),
    ] = None,
    budget: Annotated[
        str | None,
        _value("TIME", "Limit of the whole run: 10m. It can be resumed.", _LIMITS),
    ] = None,
    out: Annotated[
        Path | None,
        _value("DIR", "Results folder. Default: results/NAME.", _OUTPUT),
    ] = None,
    resume: Annotated[
        bool,
        _flag(
            "--resume/--no-resume",
            help="Keep what is measured, or measure all anew.",
            panel=_OUTPUT,
        ),
    ] = True,
    dry_run: Annotated[
        bool,
        _flag("--dry-run", help="Print what would run and an estimate.", panel=_OUTPUT),
    ] = False,
    strict: Strict = False,
    quiet: Annotated[bool, _flag("--quiet", "-q", help="No progress, no summary.", panel=_OUTPUT)] = False,
    verbose: Annotated[
        bool, _flag("--verbose", "-v", help="A line for every record.", panel=_OUTPUT)
    ] = False,
) -> None:
    """Measure a sweep; with no options, the preset quick: six mechanisms, 128 to 4096 tokens."""
    axes = {
        "mechanism": mechanism or None,
        "seq_len": seq_len,
        "batch_size": batch_size,
        "batch_tokens": batch_tokens,
        "d_model": d_model,
        "heads": heads,
        "layers": layers,
        "dtype": dtype,
        "device": device,
        "mode": mode,
        "scope": scope,
        "probe": probe,
        "task": task or None,
        "repeats": repeats,
        "seconds": seconds,
        "precision": precision,
        "max_repeats": max_repeats,
        "threads": threads,
        "allocator": allocator,
    }
    sweep = _resolve(preset, config, axes, timeout, memory_limit, budget, seed)
    folder = out or Path("results") / sweep.name
    if isolate not in ("process", "inline"):
        raise UsageError(f"isolate {isolate!r} is not one of process, inline")
    if seq_len is not None and not quiet:
        _warn_of_training_lengths(sweep, asked=probe is not None or bool(task))
    if dry_run:
        _print_plan(sweep, folder, data_dir, resume)
        return
    raise typer.Exit(_run(sweep, folder, data_dir, resume, _executor(isolate), quiet, verbose, strict))


def _warn_of_training_lengths(sweep: Sweep, *, asked: bool) -> None:
    """Say what a length means for trainings; ``asked``: trainings were asked for by name."""
    trained = [cell for cell in sweep.cells() if cell.probe == "accuracy"]
    if not trained:
        return
    lengths = sorted({cell.seq_len for cell in trained})
    span = f"{lengths[0]} tokens" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]} tokens"
    tasks = ", ".join(sorted({str(cell.task) for cell in trained}))
    said = (
        f"effbench: careful: --seq-len is also the length of {plural(len(trained), 'training')} on {tasks}, "
        f"at {span}: shorter examples do not become longer by it, and the estimate of a training's time can "
        "be far off"
    )
    advice = "" if asked else ". Leave trainings out with --probe time,memory,flops"
    print(f"{said}{advice}.", file=sys.stderr)


@app.command(cls=Command)
def show(
    folders: Folders,
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help="table, csv, json, markdown, latex.")
    ] = "table",
    summary: Annotated[
        bool,
        _flag("--summary", help="The tables that a run ends with; csv and json give rows without it."),
    ] = False,
    rows: Annotated[bool, _flag("--rows", help="One row per configuration, with all columns.")] = False,
    raw: Annotated[bool, _flag("--raw", help="One row per record: repeats and probes not merged.")] = False,
    complexity: Annotated[
        bool,
        _flag("--complexity", help="Growth with N against what is declared, and crossover lengths."),
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="MECHANISM", help="Trainings against this one, paired by seed; all: every pair."
        ),
    ] = None,
) -> None:
    """Print results: the tables that a run ends with, or rows."""
    from effbench.show import blocks, tables

    if format not in blocks.FORMATS:
        raise UsageError(f"format {format!r} is not one of {', '.join(blocks.FORMATS)}")
    kinds = {"--summary": summary, "--rows": rows, "--raw": raw, "--complexity": complexity,
             "--compare": compare is not None}  # fmt: skip
    asked = [name for name, given in kinds.items() if given]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} are different tables: give one of them")
    if rows or raw or (not asked and format in ("csv", "json")):
        text = tables.render(_load(folders, raw=raw), format, terminal_width())
        sys.stdout.write(text.rstrip("\n") + "\n")
    elif compare is not None:
        _print_comparison(folders, compare, format)
    elif complexity:
        _print_complexity(folders, format)
    else:
        from effbench.show.overview import overview

        _print_blocks(overview(_load(folders, raw=False), _load(folders, raw=True)), format)


def _print_blocks(found: list[Block], format: str) -> None:
    from effbench.show import blocks

    if format == "table":
        _console().print(blocks.renderable(found))
    else:
        print(blocks.as_text(found, format).rstrip("\n"))


def _print_comparison(folders: list[Path], against: str, format: str) -> None:
    from effbench.show import comparison_tables as seeds
    from effbench.show import tables

    raw = _load(folders, raw=True)
    if format in ("csv", "json"):
        print(tables.render(seeds.comparison(raw, against), format).rstrip("\n"))
    else:
        _print_blocks(seeds.comparison_blocks(raw, against), format)


def _print_complexity(folders: list[Path], format: str) -> None:
    from effbench.show import complexity_tables as complexity

    raw = _load(folders, raw=True)
    if format in ("csv", "json"):
        print((complexity.as_json if format == "json" else complexity.as_csv)(raw).rstrip("\n"))
    else:
        _print_blocks(complexity.complexity_blocks(raw), format)


@app.command(cls=Command)
def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="A results folder: what is compared against.")],
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="Another, of the same machine.")],
    threshold: Annotated[str, _value("SHARE", "Slowdowns above this are reported.", _DECIDING)] = "5%",
    floor: Annotated[str, _value("TIME", "Slowdowns of less time per call are not.", _DECIDING)] = "10us",
    strict: Annotated[
        bool, _flag("--strict", help="Exit code 4 also where a time cannot be judged.", panel=_DECIDING)
    ] = False,
    format: Annotated[str, _value("FORMAT", "table, json, markdown.", _OUTPUT)] = "table",
    plot: Annotated[
        Path | None, _value("FILE", "Draw ratios and intervals: .png, .svg, .pdf.", _OUTPUT)
    ] = None,
) -> None:
    """Compare two results folders of one machine cell by cell: 3 if slower or grown, 6 if one failed."""
    from effbench.gate import stored
    from effbench.sweep.sweep import parse_share, parse_time_s

    _check_outputs({"plot": plot})
    if format not in ("table", "json", "markdown"):
        raise UsageError(f"format {format!r} is not one of table, json, markdown")
    share, floor_s = parse_share("threshold", threshold), parse_time_s(floor)
    if base.resolve() == head.resolve():  # all would be the same, whatever it holds
        raise UsageError(f"BASE and HEAD are the same folder, {str(base)!r}: name two")
    found = stored.compare(base, head, threshold=share, floor_s=floor_s)
    _save_forest(found, plot)
    if format == "json":
        print(json.dumps(found.to_json(), indent=2))
    elif format == "markdown":
        from effbench.show.gate_tables import markdown

        print(markdown(found).rstrip("\n"))
    else:
        from effbench.show.gate_tables import gate_tables

        _console().print(gate_tables(found))
    if code := found.exit_code(strict=strict):
        raise typer.Exit(code)


@app.command(cls=Command)
def paper(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="table4, figure2, figure3, figure4; table5, table6, table7.")
    ],
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR", help="Results folders. Default: the paper alone."),
    ] = None,
    format: Annotated[str, _value("FORMAT", "table, markdown, latex, csv, json.")] = "table",
    lengths: Annotated[
        str | None, _value("WHICH", "paper (the Transformer at its shorter one, the default) or equal.")
    ] = None,
) -> None:
    """Set results beside what the Fastformer paper reports, and say which differences are reproduced."""
    from effbench.common import registry
    from effbench.records.analyse.published import LENGTHS, SCORED, WHAT
    from effbench.show.paper_tables import FORMATS, report

    if what not in WHAT:
        raise UsageError(registry.unknown("table or figure", what, WHAT, "there are"))
    if format not in FORMATS:
        raise UsageError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if lengths is not None and lengths not in LENGTHS:
        raise UsageError(f"lengths {lengths!r} is not one of {', '.join(LENGTHS)}")
    if lengths is not None and (what not in SCORED or not folders):
        raise UsageError(f"--lengths goes with folders and one of {', '.join(SCORED)}")
    raw = _load(folders, raw=True) if folders else None
    sys.stdout.write(report(what, raw, format=format, lengths=lengths or "paper").rstrip("\n") + "\n")


@app.command(cls=Command)
def plot(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Results folders.")],
    kind: Annotated[
        str | None,
        _value(
            "KIND,...",
            "time, tokens, memory, flops, roofline, accuracy, tradeoff, bubble, curves, recall, figure2, "
            "ablation. Default: all.",
        ),
    ] = None,
    out: Annotated[
        Path | None, _value("FILE|DIR", "A folder, or one picture's file. Default: DIR/plots.")
    ] = None,
    format: Annotated[str, _value("FORMAT", "png, svg, pdf; a file's suffix wins.")] = "png",
) -> None:
    """Draw complexity curves, accuracies and the accuracy-speed-memory chart."""
    from effbench.show import plots

    kinds = tuple(kind.split(",")) if kind else None
    for each in kinds or ():
        if each not in plots.KINDS:
            raise UsageError(f"kind {each!r} is not one of {', '.join(plots.KINDS)}")
    frame, raw = _load(folders, raw=False), _load(folders, raw=True)
    if raw.empty:
        print("no results")
        return
    for path in _draw(frame, raw, out or folders[0] / "plots", kinds, format):
        print(path)


@app.command(cls=Command)
def audit(
    mechanism: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MECHANISM",
            help="NAME[:option=value,...] or path/to/file.py:Class. Default: all installed.",
        ),
    ] = None,
    d_model: Annotated[str, _value("N", "Model width.", _SHAPE)] = "64",
    heads: Annotated[str, _value("N", "Attention heads; must divide the width.", _SHAPE)] = "4",
    seq_len: Annotated[str, _value("N", "The longest length that is tried.", _SHAPE)] = "2048",
    timeout: Annotated[str | None, _value("TIME", "Limit of one mechanism: 60s, 5m.", _LIMITS)] = None,
    format: Annotated[str, _value("FORMAT", "table, json.")] = "table",
) -> None:
    """Is a mechanism what it says it is? Checks its laws, gradients and declared costs; 6 if a line fails."""
    from effbench.common import registry
    from effbench.common.spec import Cell, Job, spec_label
    from effbench.sweep.sweep import Sweep, parse_seconds, parse_whole

    if format not in ("table", "json"):
        raise UsageError(f"format {format!r} is not one of table, json")
    width, split = parse_whole("d_model", d_model), parse_whole("heads", heads)
    if width % split:
        raise UsageError(f"heads {split} does not divide d_model {width}")
    longest = parse_whole("seq_len", seq_len)
    limits = Sweep(name="audit", timeout_s=parse_seconds(timeout) if timeout else None).limits("audit")
    asked = dict.fromkeys(mechanism or registry.names("mechanism"))
    cells = [
        Cell(
            mechanism=name, options=options, probe="audit", mode="train", seq_len=longest,
            d_model=width, heads=split, seconds=0.0,
        )
        for name, options in (registry.parse(text, "mechanism") for text in asked)
    ]  # fmt: skip
    executor = _executor("process")
    audits: dict[str, list[dict[str, Any]]] = {}
    try:
        for cell in cells:
            label = spec_label(cell.mechanism, cell.options)
            print(f"{label} ...", file=sys.stderr)
            audits[label] = _findings(executor, Job(cell=cell, limits=limits))
    finally:
        executor.close()
    if format == "json":
        print(json.dumps([{"mechanism": k, "findings": v} for k, v in audits.items()], indent=2))
    else:
        from effbench.show.audit_table import audit_tables

        _console().print(audit_tables(audits))
    if any(finding["verdict"] == "fail" for findings in audits.values() for finding in findings):
        raise typer.Exit(Exit.BROKEN)


def _findings(executor: Executor, job: Job) -> list[dict[str, Any]]:
    """The lines of an audit; one in their place where the process ended before, naming what it checked."""
    begun: list[str] = []
    record = executor.run(job, lambda fraction, line: begun.append(line))
    if record.status == "ok":
        return list(json.loads(str(record.values["findings"])))
    verdict = "n/a" if record.status == "unsupported" else "fail"
    reason = f"{record.status}: {record.reason}" + (f"; while checking {begun[-1]!r}" if begun else "")
    return [{"name": "audit", "verdict": verdict, "reason": reason, "number": None}]


@app.command(cls=Command)
def doctor(
    threads: Annotated[str | None, _value("N", "Threads of an operation. Default: all cores.")] = None,
    format: Annotated[str, _value("FORMAT", "table, json.")] = "table",
    strict: Annotated[bool, _flag("--strict", help="Exit code 4 if the machine is unfit.")] = False,
) -> None:
    """Can this machine measure? Its clock, noise, load and limits, and what difference it can tell."""
    from effbench.show.doctor_table import as_json, report
    from effbench.sweep.diagnosis import examine, findings, verdict
    from effbench.sweep.local import LocalExecutor
    from effbench.sweep.sweep import parse_whole

    if format not in ("table", "json"):
        raise UsageError(f"format {format!r} is not one of table, json")
    count = None if threads is None else parse_whole("threads", threads)
    executor = LocalExecutor()

    def progress(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    try:
        seen = examine(executor, threads=count, progress=progress)
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
    except RuntimeError as error:  # the workload does not run here: that is an answer too
        progress("")
        _fail(str(error), Exit.FAULT)
    finally:
        executor.close()
        progress("")
    if format == "json":
        print(as_json(seen))
    else:
        _console().print(report(seen))
    if strict and verdict(findings(seen))[0] == "unfit":
        raise typer.Exit(Exit.UNDECIDED)


@app.command(cls=Command)
def gate(
    base: Annotated[
        str, _value("REF|DIR", "What to compare the working tree with: a revision or a folder.", _WHAT)
    ],
    mechanism: Mechanisms = None,
    mode: Mode = None,
    scope: Scope = None,
    config: Annotated[
        Path | None,
        _value("FILE.toml", "Settings. Default: pyproject.toml's tool.effbench.gate.", _WHAT),
    ] = None,
    exact_only: Annotated[
        bool,
        _flag("--exact-only", help="FLOPs, memory, parameters and operations alone; no times.", panel=_WHAT),
    ] = False,
    seq_len: SeqLen = None,
    batch_size: BatchSize = None,
    batch_tokens: BatchTokens = None,
    d_model: DModel = None,
    heads: Heads = None,
    layers: Layers = None,
    dtype: Dtype = None,
    device: Device = None,
    threads: Annotated[str | None, _value("N", "Threads of an operation. Default: 1.", _MEASURING)] = None,
    allocator: Allocator = None,
    threshold: Annotated[
        str | None, _value("SHARE", "Slowdowns above this are reported. Default: 5%.", _DECIDING)
    ] = None,
    floor: Annotated[
        str | None,
        _value("TIME", "Slowdowns of less time per call are not. Default: 10us.", _DECIDING),
    ] = None,
    error: Annotated[
        str | None,
        _value("SHARE", "Chance that any interval of the gate misses. Default: 1%.", _DECIDING),
    ] = None,
    strict: Annotated[
        bool, _flag("--strict", help="Exit code 4 also where a time cannot be judged.", panel=_DECIDING)
    ] = False,
    budget: Annotated[
        str | None, _value("TIME", "Limit of the whole gate: 90s, 3m. Default: 2m.", _LIMITS)
    ] = None,
    json_file: Annotated[
        Path | None, _value("FILE|-", "All that was found; - prints it instead.", _OUTPUT, "--json")
    ] = None,
    plot_file: Annotated[
        Path | None, _value("FILE", "A forest plot: .png, .svg, .pdf.", _OUTPUT, "--plot")
    ] = None,
    junit: Annotated[Path | None, _value("FILE", "JUnit XML.", _OUTPUT)] = None,
    markdown: Annotated[Path | None, _value("FILE", "A table in Markdown.", _OUTPUT)] = None,
    quiet: Annotated[bool, _flag("--quiet", "-q", help="No progress.", panel=_OUTPUT)] = False,
) -> None:
    """Is the working tree slower than a revision? Exit code 3 if so, confirmed; 6 if it is broken.

    Defaults: 512 and 2048 tokens, forward and train, one attention layer, batch 1, d_model 256, 16 heads.
    """
    from effbench.gate.checkout import checked_out, working_tree
    from effbench.gate.judge import judge
    from effbench.gate.paths import inside
    from effbench.gate.settings import read
    from effbench.gate.workers import WorkerDied

    outputs = {
        "json": json_file,
        "plot": plot_file,
        "junit": junit,
        "markdown": markdown,
    }
    _check_outputs(outputs)
    flags = {
        "mechanism": mechanism or None,
        "seq_len": seq_len,
        "mode": mode,
        "batch_size": batch_size,
        "batch_tokens": batch_tokens,
        "d_model": d_model,
        "heads": heads,
        "layers": layers,
        "scope": scope,
        "dtype": dtype,
        "device": device,
        "threads": threads,
        "allocator": allocator,
        "threshold": threshold,
        "floor": floor,
        "error": error,
        "budget": budget,
        "time": False if exact_only else None,
    }
    listener = (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    try:
        here = Path.cwd()
        head = working_tree(here)
        settings = read(head.root, config, flags, here)
        # dotted names are looked for where they were written, as the paths of files are
        place = here if mechanism else config.absolute().parent if config else head.root
        with checked_out(head, base) as tree:
            report = judge(settings, head, tree, inside=inside(place, head.root), listener=listener)
    except KeyboardInterrupt:
        print("interrupted; nothing was judged, and nothing stays behind", file=sys.stderr)
        raise typer.Exit(130) from None
    except WorkerDied as error:
        raise WorkerDied(error.side, f"the {error.side}'s process ended: {error}") from None
    undelivered = _deliver(report, outputs)
    raise typer.Exit(report.exit_code(strict=strict) or int(undelivered))


def _check_outputs(outputs: dict[str, Path | None]) -> None:
    """Refuse what could not be written before anything is measured."""
    taken: dict[Path, str] = {}
    for name, path in outputs.items():
        if path is None or (name == "json" and str(path) == "-"):
            continue
        if str(path) == "-":
            raise UsageError(f"--{name} '-': only --json can be printed; name a file")
        if (other := taken.setdefault(path.absolute(), name)) != name:
            raise UsageError(f"--{name} {str(path)!r}: --{other} is written there too")
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise UsageError(
                f"--{name} {str(path)!r}: {'is a folder' if path.is_dir() else 'its folder is not there'}"
            )
        if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise UsageError(f"--{name} {str(path)!r}: this user may not write there")
        if name == "plot":
            from effbench.show.plots import check_suffix

            check_suffix(path)


def _save_forest(report: Report, path: Path | None) -> None:
    """Draw the forest plot where it is asked for; without times there is none, and that is said."""
    if path is None:
        return
    if not report.comparisons:
        print(f"effbench: no times were compared, so that there is no plot {str(path)!r}", file=sys.stderr)
        return
    from effbench.show import plots
    from effbench.show.gate_plot import forest

    plots.save(forest(report), path)


def _deliver(report: Report, outputs: dict[str, Path | None]) -> bool:
    """Print a report, and write it in every form that was asked for; whether some could not be written."""
    from effbench.show import gate_tables

    plain = outputs.get("json")
    if plain is not None and str(plain) == "-":
        print(json.dumps(report.to_json(), indent=2))
    else:
        _console().print(gate_tables.gate_tables(report))
    texts: dict[str, Callable[[], str]] = {
        "json": lambda: json.dumps(report.to_json(), indent=2),
        "junit": lambda: gate_tables.junit(report),
        "markdown": lambda: gate_tables.markdown(report),
    }
    failed = False

    def write(name: str, path: Path, work: Callable[[], object]) -> None:
        nonlocal failed
        try:
            work()
        except OSError as error:  # a full disk, or a folder that is gone by now: the verdict stands
            print(f"effbench: {name} {str(path)!r}: {error.strerror or error}", file=sys.stderr)
            failed = True

    for name, text in texts.items():
        path = outputs.get(name)
        if path is not None and (name, str(path)) != ("json", "-"):
            write(f"--{name}", path, partial(path.write_text, text() + "\n", encoding="utf-8"))
    if plot := outputs.get("plot"):
        write("--plot", plot, partial(_save_forest, report, plot))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        place = Path(summary)
        write("GITHUB_STEP_SUMMARY", place, partial(_append, place, gate_tables.markdown(report) + "\n"))
    return failed


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


@app.command("list", cls=Command)
def list_(
    what: Annotated[
        ListWhat | None, typer.Argument(help="mechanisms, tasks, presets or probes; all without one")
    ] = None,
    name: Annotated[str | None, typer.Argument(help="One of them, in detail.")] = None,
    format: Annotated[str, _value("FORMAT", "table, json.")] = "table",
) -> None:
    """List what there is; with a name, its options, defaults, declared order in N and source."""
    if format not in ("table", "json"):
        raise UsageError(f"format {format!r} is not one of table, json")
    if what is None:
        _print_everything(format)
        return
    entries = [_entry(what, each) for each in _names(what, name)]
    if format == "json":
        print(json.dumps(entries if name is None else entries[0], indent=2))
    elif name is None:
        width = max((len(entry["name"]) for entry in entries), default=0)
        for entry in entries:
            print(f"{entry['name']:<{width}}  {entry['summary']}")
    else:
        _print_entry(entries[0])


def _print_everything(format: str) -> None:
    """The names of each kind, and where to read on."""
    found = {kind.value: list(_names(kind, None)) for kind in ListWhat}
    if format == "json":
        print(json.dumps(found, indent=2))
        return
    for kind, names in found.items():
        print(f"{kind}: {', '.join(names)}")
    print("effbench list KIND says more of each, effbench list KIND NAME of one.")


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    from effbench.gate.workers import WorkerDied
    from effbench.records.store import StoreFull
    from effbench.sweep.local import ServerDied

    speak_any_encoding()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also where SIGINT is ignored
    try:
        app()
    except UsageError as error:
        _fail(str(error), Exit.USAGE)
    except (StoreFull, ServerDied, WorkerDied) as error:
        _fail(str(error), Exit.FAULT)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _fail(text: str, code: int) -> None:
    print(f"effbench: {text}", file=sys.stderr)
    sys.exit(code)


def _resolve(
    preset: str | None,
    config: Path | None,
    axes: dict[str, Any],
    timeout: str | None,
    memory_limit: str | None,
    budget: str | None,
    seed: str | None,
) -> Sweep:
    """The sweep that the flags describe, under a name of its own if they change what is measured."""
    from dataclasses import replace

    from effbench.sweep.sweep import Sweep, parse_bytes, parse_seconds, parse_whole

    if preset and config:
        raise UsageError("give --preset or --config, not both")
    sweep = Sweep.load(config) if config else Sweep.preset(preset or "quick")
    given = {key: value for key, value in axes.items() if value is not None}
    changed = sweep.override(given) if given else sweep
    if timeout is not None:
        changed = replace(changed, timeout_s=parse_seconds(timeout))
    if memory_limit is not None:
        changed = replace(changed, memory_bytes=parse_bytes(memory_limit))
    if seed is not None:
        changed = replace(changed, seed=parse_whole("seed", seed, least=0)).renamed(changed, f"seed {seed}")
    if budget is not None:  # how far to go this time, not what to measure
        changed = replace(changed, budget_s=parse_seconds(budget))
    changed.cells()  # raises for what cannot be a cell, before anything starts
    return changed


def _executor(isolate: str) -> Executor:
    if isolate == "inline":
        from effbench.sweep.inline import InlineExecutor

        return InlineExecutor()
    from effbench.sweep.local import LocalExecutor

    return LocalExecutor()


def _run(
    sweep: Sweep,
    folder: Path,
    data_dir: Path | None,
    resume: bool,
    executor: Executor,
    quiet: bool,
    verbose: bool,
    strict: bool,
) -> Exit:
    """Measure, print the tables and draw the pictures; the exit code."""
    from rich.console import Console

    from effbench.records.store import Store, raw_frame
    from effbench.show.progress import TerminalProgress
    from effbench.sweep.loop import records_of
    from effbench.sweep.loop import run as measure

    progress = TerminalProgress(Console(stderr=True), quiet=quiet, verbose=verbose)
    try:
        with progress:
            frame = measure(
                sweep, folder, data_dir=data_dir, resume=resume, executor=executor, listener=progress
            )
    except KeyboardInterrupt:
        print(
            f"interrupted; what was measured is in {folder}. Run the same command again for the rest.",
            file=sys.stderr,
        )
        raise typer.Exit(Exit.INTERRUPTED) from None
    store = Store(folder)
    drawn = _draw(_load([folder], raw=False), raw_frame(store.read()[0]), folder / "plots")
    code = of_run(_outcomes(frame), strict=strict)
    if quiet:
        return code
    from effbench.show import overview

    found = overview.overview(frame, raw_frame(records_of(sweep, store)))
    _print_blocks(found, "table")
    if left := progress.statuses["interrupted"]:
        print(f"{plural(left, 'cell')} not reached: the budget ended. The same command goes on with them.")
    others = len(_load([folder], raw=False)) - len(frame)
    more = f"; {plural(others, 'row')} of other sweeps too" if others else ""
    print(f"results: {folder}  (results.csv, results.parquet, raw.csv{more}; effbench show {folder})")
    for path in drawn:
        print(f"plot: {path}")
    return code


def _outcomes(frame: Any) -> Iterator[tuple[str, str, bool]]:
    """(mechanism, status, whether anything was measured) of each row of a summary."""
    from effbench.records.analyse.summary import label

    measured = frame[["time_s", "peak_bytes", "flops", "train_seconds"]].notna().any(axis=1)
    names = [label(m, o) for m, o in zip(frame["mechanism"], frame["options"], strict=True)]
    yield from zip(names, frame["status"], measured, strict=True)


def _print_plan(sweep: Sweep, folder: Path, data_dir: Path | None, resume: bool) -> None:
    from effbench.records.store import Store
    from effbench.show.progress import describe
    from effbench.sweep.estimate import Estimate
    from effbench.sweep.loop import plan

    found = plan(sweep, Store(folder), data_dir=data_dir, resume=resume, check_data=data_dir is not None)
    estimate = Estimate(found.done)
    seconds = [estimate.seconds(job.cell) for job in found.jobs]
    for job, expected in zip(found.jobs, seconds, strict=True):
        cell = job.cell
        shape = f"B={cell.batch_size} d_model={cell.d_model} heads={cell.heads} layers={cell.layers}"
        print(f"{describe(cell):<50} {cell.scope:<9} {shape}  about {expected:.1f} s")
    done = f", {len(found.done)} more are measured already" if found.done else ""
    for line in found.unchecked:
        print(f"not checked: {line}")
    minutes = f"about {sum(seconds) / 60:.1f} min"
    print(f"{plural(len(found.jobs), 'cell')}, {minutes}{done}; results would go to {folder}")


def _draw(
    frame: Any, raw: Any, out: Path, kinds: tuple[str, ...] | None = None, format: str = "png"
) -> list[Path]:
    """Draw kinds, or all there is data for, into a folder, or one into the file that ``out`` names."""
    from effbench.show import plots

    if out.suffix:
        if kinds is None or len(kinds) != 1:
            raise UsageError(f"{str(out)!r} is one file: name the one --kind to draw")
        figures = plots.draw(frame, raw, kinds[0])
        if len(figures) != 1:
            raise UsageError(
                f"{kinds[0]} takes {len(figures)} pictures, a shape each: give a folder as --out"
            )
        return [plots.save(figures[0][1], out)]
    figures = (
        [pair for each in kinds for pair in plots.draw(frame, raw, each)]
        if kinds
        else plots.draw_all(frame, raw)
    )
    return [plots.save(figure, out / f"{name}.{format}") for name, figure in figures]


def _load(folders: list[Path], *, raw: bool) -> Any:
    import warnings

    from effbench.records.store import load

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = load(folders, raw=raw)
    for warning in caught if raw else ():
        print(f"effbench: {warning.message}", file=sys.stderr)
    return frame


def _console() -> Any:
    from rich.console import Console

    return Console(width=width_for_sentences(), highlight=False)


def _names(what: ListWhat, name: str | None) -> Sequence[str]:
    from effbench.common import registry
    from effbench.sweep.sweep import presets

    if what is ListWhat.MECHANISMS or what is ListWhat.TASKS:
        return [name] if name else registry.names("mechanism" if what is ListWhat.MECHANISMS else "task")
    there: Sequence[str] = presets() if what is ListWhat.PRESETS else PROBES
    if name is not None and name not in there:
        raise UsageError(registry.unknown(what.value.rstrip("s"), name, there, "there are"))
    return [name] if name else there


def _entry(what: ListWhat, name: str) -> dict[str, Any]:
    from effbench.common import registry
    from effbench.sweep.sweep import Sweep

    if what is ListWhat.PROBES:
        return {"name": name, "summary": _PROBE_HELP[name]}
    if what is ListWhat.PRESETS:
        sweep = Sweep.preset(name)
        return {"name": name, "summary": sweep.description, "toml": sweep.to_toml()}
    plugin = registry.find(name, "mechanism" if what is ListWhat.MECHANISMS else "task")
    entry: dict[str, Any] = {"name": name, "summary": plugin.summary}
    if what is ListWhat.MECHANISMS:
        entry["order_in_n"] = None if plugin.order is None else str(plugin.order)
    entry["source"] = plugin.source
    entry["class"] = f"{plugin.module}:{plugin.class_name}"
    entry["options"] = (
        None
        if plugin.parameters is None
        else [
            {
                "name": p.name,
                "type": p.kind,
                "default": p.default,
                "required": p.required,
                "choices": list(p.choices),
            }
            for p in plugin.parameters
        ]
    )
    return entry


def _print_entry(entry: dict[str, Any]) -> None:
    print(f"{entry['name']}: {entry['summary']}")
    if "toml" in entry:
        print(f"\n{entry['toml'].rstrip()}")
    if "class" not in entry:
        return
    if "order_in_n" in entry:
        order = entry["order_in_n"]
        print(f"  declared order in N: {order or 'not declared'}")
    print(f"  source: {entry['source'] or 'not stated'}")
    print(f"  class: {entry['class']}")
    if entry["options"] is None:
        print("  options: cannot be told from its source; they are checked when it is built")
        return
    print("  options:" if entry["options"] else "  options: none")
    for option in entry["options"]:
        kind = ", ".join(map(str, option["choices"])) or option["type"]
        default = "required" if option["required"] else f"default {option['default']}"
        print(f"    {option['name']}={kind}  ({default})")


if __name__ == "__main__":
    main()

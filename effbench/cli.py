"""The commands: parse, call, print. What is heavy is imported inside the command that needs it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effbench import __version__
from effbench.spec import PROBES, UsageError

if TYPE_CHECKING:
    from effbench.execute.base import Executor
    from effbench.gate.report import Report
    from effbench.spec import Job
    from effbench.sweep import Sweep

app = typer.Typer(
    name="effbench",
    help="Which attention mechanism at this sequence length, on this machine, and at what cost in accuracy?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_PROBE_HELP = {
    "time": "seconds per call: warmed up, every sample kept, median with a bootstrap interval over repeats",
    "memory": "peak bytes that one call holds at once, from the allocator's events",
    "flops": "floating-point operations of the matrix products that one call executes",
    "accuracy": "score on the test part of a task after training an encoder around the mechanism",
}


class ListWhat(StrEnum):
    """What ``effbench list`` lists."""

    MECHANISMS = "mechanisms"
    TASKS = "tasks"
    PRESETS = "presets"
    PROBES = "probes"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"effbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Which attention mechanism at this length, on this machine, and at what cost in accuracy?"""


@app.command()
def run(
    preset: Annotated[str | None, typer.Option(help="A sweep that comes with effbench [quick].")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="A sweep of your own.")] = None,
    mechanism: Annotated[
        list[str] | None,
        typer.Option(
            "--mechanism",
            "-m",
            metavar="NAME[:option=value,...]",
            help="A mechanism; repeat for more. Also path/to/file.py:Class or package.module:Class.",
        ),
    ] = None,
    seq_len: Annotated[str | None, typer.Option(help="128,512 or 512:16384:x2")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Sequences a call.")] = None,
    batch_tokens: Annotated[
        str | None, typer.Option(help="Tokens a call at every length, instead of --batch-size.")
    ] = None,
    d_model: Annotated[str | None, typer.Option(help="Model width.")] = None,
    heads: Annotated[str | None, typer.Option(help="Attention heads; must divide d_model.")] = None,
    layers: Annotated[str | None, typer.Option(help="Blocks of an encoder.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float64, bfloat16, float16")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N")] = None,
    mode: Annotated[str | None, typer.Option(help="forward,train")] = None,
    scope: Annotated[str | None, typer.Option(help="attention (one layer), encoder")] = None,
    probe: Annotated[str | None, typer.Option(help="time,memory,flops,accuracy")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:option=value,...]", help="What accuracy is measured on."),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the task's files are.")] = None,
    repeats: Annotated[str | None, typer.Option(help="Fresh processes (and seeds) a cell.")] = None,
    seconds: Annotated[str | None, typer.Option(help="How long a time cell samples at most [0.5].")] = None,
    precision: Annotated[
        str | None, typer.Option(help="Half-width of a time's interval that is asked for [2%].")
    ] = None,
    max_repeats: Annotated[
        str | None, typer.Option(help="Go on to so many repeats where the interval is wider [10].")
    ] = None,
    threads: Annotated[str | None, typer.Option(help="Threads of an operation [all cores].")] = None,
    allocator: Annotated[
        str | None, typer.Option(help="kept (freed memory is reused), system (the C library's default)")
    ] = None,
    timeout: Annotated[str | None, typer.Option(help="Limit a cell: 60s, 5m.")] = None,
    memory_limit: Annotated[str | None, typer.Option(help="Limit a cell: 8GiB.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Limit the whole run: 10m. The rest can be resumed.")
    ] = None,
    seed: Annotated[str | None, typer.Option(help="Seed of the order, the weights and the data [0].")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Results folder [results/NAME].")] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Keep what is measured, or measure all anew.")
    ] = True,
    isolate: Annotated[
        str, typer.Option(help="process (a fresh one a cell), inline (for a debugger)")
    ] = "process",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells and an estimate, run none.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="A line for every record.")] = False,
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
    sweep, changed = _resolve(preset, config, axes, timeout, memory_limit, budget, seed)
    folder = out or Path("results") / (_variant(sweep) if changed else sweep.name)
    if isolate not in ("process", "inline"):
        raise UsageError(f"isolate {isolate!r} is not one of process, inline")
    if dry_run:
        _print_plan(sweep, folder, data_dir, resume)
        return
    _run(sweep, folder, data_dir, resume, _executor(isolate), quiet, verbose)


@app.command()
def show(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Results folders.")],
    format: Annotated[str, typer.Option(help="table, csv, json, markdown, latex")] = "table",
    raw: Annotated[
        bool, typer.Option("--raw", help="One row a record: no repeats or probes merged.")
    ] = False,
    summary: Annotated[bool, typer.Option("--summary", help="The tables that a run ends with.")] = False,
    complexity: Annotated[
        bool,
        typer.Option("--complexity", help="Growth with N against what is declared, and crossover lengths."),
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="MECHANISM", help="Trainings against this one, paired by seed; all: every pair."
        ),
    ] = None,
) -> None:
    """Print results: one row a cell, repeats summarised."""
    from effbench.show import tables

    if format not in tables.FORMATS:
        raise UsageError(f"format {format!r} is not one of {', '.join(tables.FORMATS)}")
    if summary and (raw or format != "table"):
        raise UsageError("--summary is a table of its own: it goes with neither --raw nor --format")
    if compare is not None:
        _print_comparison(folders, compare, format, raw or summary or complexity)
        return
    if complexity:
        _print_complexity(folders, format, raw or summary)
        return
    frame = _load(folders, raw=raw)
    if summary:
        _console().print(tables.summary_tables(frame, _load(folders, raw=True)))
        return
    sys.stdout.write(tables.render(frame, format).rstrip("\n") + "\n")


def _print_comparison(folders: list[Path], against: str, format: str, other: bool) -> None:
    from effbench.show import seeds, tables

    if other:
        raise UsageError("--compare is a table of its own: it goes with --format alone")
    raw = _load(folders, raw=True)
    if format == "table":
        _console().print(seeds.comparison_tables(raw, against))
    else:
        print(tables.render(seeds.comparison(raw, against), format).rstrip("\n"))


def _print_complexity(folders: list[Path], format: str, other: bool) -> None:
    from effbench.show.complexity import as_json, complexity_tables

    if other or format not in ("table", "json"):
        raise UsageError("--complexity is a table of its own: it goes with --format table or json alone")
    raw = _load(folders, raw=True)
    if format == "json":
        print(as_json(raw))
    else:
        _console().print(complexity_tables(raw))


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="A results folder: what is compared against.")],
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="Another, of the same machine.")],
    threshold: Annotated[str, typer.Option(help="How much slower is a slowdown: 5%.")] = "5%",
    floor: Annotated[
        str, typer.Option(help="The threshold is at least so much time a call: 10us, 1.5ms.")
    ] = "10us",
    format: Annotated[str, typer.Option(help="table, json, markdown")] = "table",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw ratios and intervals: .png, .svg, .pdf.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 6 if a cell failed, 4 if one could not be judged.")
    ] = False,
) -> None:
    """Compare two results folders of one machine cell by cell; 3 if one is slower or a figure grew."""
    from effbench.gate import stored
    from effbench.sweep import parse_share, parse_time_s

    if format not in ("table", "json", "markdown"):
        raise UsageError(f"format {format!r} is not one of table, json, markdown")
    found = stored.compare(
        base, head, threshold=parse_share("threshold", threshold), floor_s=parse_time_s(floor)
    )
    _save_forest(found, plot)
    if format == "json":
        print(json.dumps(found.to_json(), indent=2))
    elif format == "markdown":
        from effbench.gate.exports import markdown

        print(markdown(found).rstrip("\n"))
    else:
        from effbench.show.gate import gate_tables

        _console().print(gate_tables(found))
    if code := found.exit_code(strict=strict):
        raise typer.Exit(code)


@app.command()
def paper(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="table4, figure2, figure3, figure4; table5, table6, table7.")
    ],
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR...]", help="Results folders [the paper's alone].")
    ] = None,
    format: Annotated[str, typer.Option(help="table, markdown, csv, json")] = "table",
    lengths: Annotated[
        str | None, typer.Option(help="paper (the Transformer at its shorter one) or equal [paper]")
    ] = None,
) -> None:
    """Set results beside what the Fastformer paper reports, and say which differences are reproduced."""
    from effbench import registry
    from effbench.analyse.published import LENGTHS, SCORED, WHAT
    from effbench.show.paper import FORMATS, report

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


@app.command()
def plot(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Results folders.")],
    kind: Annotated[
        str | None,
        typer.Option(
            help="time,tokens,memory,flops,roofline,accuracy,tradeoff,bubble,curves,recall,figure2,"
            "ablation [all]"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="A folder [DIR/plots], or one picture's file.")
    ] = None,
    format: Annotated[str, typer.Option(help="png, svg, pdf; a file's suffix wins.")] = "png",
) -> None:
    """Draw complexity curves, accuracies and the accuracy-speed-memory chart."""
    from effbench.show import plots

    kinds = tuple(kind.split(",")) if kind else None
    for each in kinds or ():
        if each not in plots.KINDS:
            raise UsageError(f"kind {each!r} is not one of {', '.join(plots.KINDS)}")
    frame, raw = _load(folders, raw=False), _load(folders, raw=True)
    for path in _draw(frame, raw, out or folders[0] / "plots", kinds, format):
        print(path)


@app.command()
def audit(
    mechanism: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MECHANISM...",
            help="NAME[:option=value,...], path/to/file.py:Class or package.module:Class [all installed].",
        ),
    ] = None,
    d_model: Annotated[str, typer.Option(help="Model width.")] = "64",
    heads: Annotated[str, typer.Option(help="Attention heads; must divide d_model.")] = "4",
    seq_len: Annotated[str, typer.Option(help="The longest length that is tried.")] = "2048",
    timeout: Annotated[str | None, typer.Option(help="Limit a mechanism: 60s, 5m.")] = None,
    format: Annotated[str, typer.Option(help="table, json")] = "table",
) -> None:
    """Is a mechanism what it says it is? Checks its laws, gradients and declared costs; 6 if a line fails."""
    from effbench import registry
    from effbench.spec import Cell, Job, spec_label
    from effbench.sweep import Sweep, parse_seconds, parse_whole

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
        from effbench.show.audit import audit_tables

        _console().print(audit_tables(audits))
    if any(finding["verdict"] == "fail" for findings in audits.values() for finding in findings):
        raise typer.Exit(6)


def _findings(executor: Executor, job: Job) -> list[dict[str, Any]]:
    """The lines of an audit; one in their place where the process ended before, naming what it checked."""
    begun: list[str] = []
    record = executor.run(job, lambda fraction, line: begun.append(line))
    if record.status == "ok":
        return list(json.loads(str(record.values["findings"])))
    verdict = "n/a" if record.status == "unsupported" else "fail"
    reason = f"{record.status}: {record.reason}" + (f"; while checking {begun[-1]!r}" if begun else "")
    return [{"name": "audit", "verdict": verdict, "reason": reason, "number": None}]


@app.command()
def doctor(
    threads: Annotated[str | None, typer.Option(help="Threads of an operation [all cores].")] = None,
    format: Annotated[str, typer.Option(help="table, json")] = "table",
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 4 if the machine is unfit.")] = False,
) -> None:
    """Can this machine measure? Its clock, noise, load and limits, and what difference it can tell."""
    from effbench.doctor import examine, findings, verdict
    from effbench.execute.local import LocalExecutor
    from effbench.show.doctor import as_json, report
    from effbench.sweep import parse_whole

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
        raise typer.Exit(130) from None
    except RuntimeError as error:  # the workload does not run here: that is an answer too
        progress("")
        _fail(str(error), 1)
    finally:
        executor.close()
        progress("")
    if format == "json":
        print(as_json(seen))
    else:
        _console().print(report(seen))
    if strict and verdict(findings(seen))[0] == "unfit":
        raise typer.Exit(4)


@app.command()
def gate(
    base: Annotated[
        str,
        typer.Option(
            metavar="REF|DIR", help="What to compare the working tree with: a revision or a folder."
        ),
    ],
    mechanism: Annotated[
        list[str] | None,
        typer.Option(
            "--mechanism",
            "-m",
            metavar="NAME[:option=value,...]",
            help="A mechanism of this repository; repeat for more. Also path/to/file.py:Class.",
        ),
    ] = None,
    seq_len: Annotated[str | None, typer.Option(help="128,512 or 512:16384:x2 [512,2048]")] = None,
    mode: Annotated[str | None, typer.Option(help="forward,train [both]")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Sequences a call [1].")] = None,
    batch_tokens: Annotated[
        str | None, typer.Option(help="Tokens a call at every length, instead of --batch-size.")
    ] = None,
    d_model: Annotated[str | None, typer.Option(help="Model width [256].")] = None,
    heads: Annotated[str | None, typer.Option(help="Attention heads; must divide d_model [16].")] = None,
    layers: Annotated[str | None, typer.Option(help="Blocks of an encoder.")] = None,
    scope: Annotated[str | None, typer.Option(help="attention (one layer), encoder")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float64, bfloat16, float16")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N")] = None,
    threads: Annotated[str | None, typer.Option(help="Threads of an operation [1].")] = None,
    allocator: Annotated[str | None, typer.Option(help="kept, system")] = None,
    threshold: Annotated[
        str | None, typer.Option(help="A slowdown is what is surely more than this [5%].")
    ] = None,
    floor: Annotated[
        str | None, typer.Option(help="Less than this a call is no slowdown, whatever its share [10us].")
    ] = None,
    error: Annotated[
        str | None, typer.Option(help="Chance that any interval of the whole gate misses its truth [1%].")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Limit of the whole gate: 90s, 3m [2m].")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Settings [pyproject.toml's tool.effbench.gate].")
    ] = None,
    exact_only: Annotated[
        bool, typer.Option("--exact-only", help="FLOPs, memory, parameters and operations alone; no times.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE|-", help="All that was found; - prints it instead.")
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="A forest plot: png, svg, pdf.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="A table in Markdown.")] = None,
    pytest_benchmark: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The head's times as pytest-benchmark writes them.")
    ] = None,
    action_benchmark: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For github-action-benchmark: customSmallerIsBetter.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 4 where a cell cannot be judged, 6 where one fails.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Is the working tree slower than a revision? Exit code 3 if so, confirmed; never on a point estimate."""
    from effbench.gate.checkout import checked_out, working_tree
    from effbench.gate.judge import judge
    from effbench.gate.settings import read

    outputs = {
        "json": json_file,
        "plot": plot_file,
        "junit": junit,
        "markdown": markdown,
        "pytest-benchmark": pytest_benchmark,
        "action-benchmark": action_benchmark,
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
    head = working_tree(Path.cwd())
    settings = read(head.root, config, flags)
    listener = (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    try:
        with checked_out(head, base) as tree:
            report = judge(settings, head, tree, listener=listener)
    except KeyboardInterrupt:
        print("interrupted; the base's worktree is gone, nothing was judged", file=sys.stderr)
        raise typer.Exit(130) from None
    _deliver(report, outputs)
    raise typer.Exit(report.exit_code(strict=strict))


def _check_outputs(outputs: dict[str, Path | None]) -> None:
    """Refuse what could not be written before anything is measured."""
    for name, path in outputs.items():
        if path is None or str(path) == "-":
            continue
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
    """Draw the forest plot where it is asked for; without times there is none."""
    if path is not None and report.lines:
        from effbench.show import plots
        from effbench.show.gate import forest

        plots.save(forest(report), path)


def _deliver(report: Report, outputs: dict[str, Path | None]) -> None:
    """Print a report, and write it in every form that was asked for."""
    from effbench.gate import exports
    from effbench.show.gate import gate_tables

    plain = outputs.get("json")
    if plain is not None and str(plain) == "-":
        print(json.dumps(report.to_json(), indent=2))
    else:
        _console().print(gate_tables(report))
    texts: dict[str, Callable[[], str]] = {
        "json": lambda: json.dumps(report.to_json(), indent=2),
        "junit": lambda: exports.junit(report),
        "markdown": lambda: exports.markdown(report),
        "pytest-benchmark": lambda: json.dumps(exports.pytest_benchmark(report), indent=2),
        "action-benchmark": lambda: json.dumps(exports.github_action_benchmark(report), indent=2),
    }
    for name, text in texts.items():
        path = outputs.get(name)
        if path is not None and str(path) != "-":
            path.write_text(text() + "\n", encoding="utf-8")
    _save_forest(report, outputs.get("plot"))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with open(summary, "a", encoding="utf-8") as file:
            file.write(exports.markdown(report) + "\n")


@app.command("list")
def list_(
    what: Annotated[ListWhat, typer.Argument(help="mechanisms, tasks, presets or probes")],
    name: Annotated[str | None, typer.Argument(help="One of them, in detail.")] = None,
    format: Annotated[str, typer.Option(help="table, json")] = "table",
) -> None:
    """List what there is; with a name, its options, defaults, declared order in N and source."""
    if format not in ("table", "json"):
        raise UsageError(f"format {format!r} is not one of table, json")
    entries = [_entry(what, each) for each in _names(what, name)]
    if format == "json":
        print(json.dumps(entries if name is None else entries[0], indent=2))
    elif name is None:
        width = max((len(entry["name"]) for entry in entries), default=0)
        for entry in entries:
            print(f"{entry['name']:<{width}}  {entry['summary']}")
    else:
        _print_entry(entries[0])


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    from effbench.execute.local import ServerDied
    from effbench.gate.workers import WorkerDied
    from effbench.store import StoreFull

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also where SIGINT is ignored
    try:
        app()
    except UsageError as error:
        _fail(str(error), 2)
    except (StoreFull, ServerDied, WorkerDied) as error:
        _fail(str(error), 1)
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
) -> tuple[Sweep, bool]:
    """The sweep that the flags describe, and whether they changed what the preset or file says."""
    from dataclasses import replace

    from effbench.sweep import Sweep, parse_bytes, parse_seconds, parse_whole

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
        changed = replace(changed, seed=parse_whole("seed", seed, least=0))
    different = changed != sweep
    if budget is not None:  # how far to go this time, not what to measure
        changed = replace(changed, budget_s=parse_seconds(budget))
    changed.cells()  # raises for what cannot be a cell, before anything starts
    return changed, different


def _variant(sweep: Sweep) -> str:
    """A folder of its own for a preset that flags have changed."""
    from dataclasses import replace

    text = replace(sweep, budget_s=None, timeout_s=None, memory_bytes=None).to_toml()
    return f"{sweep.name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _executor(isolate: str) -> Executor:
    if isolate == "inline":
        from effbench.execute.inline import InlineExecutor

        return InlineExecutor()
    from effbench.execute.local import LocalExecutor

    return LocalExecutor()


def _run(
    sweep: Sweep,
    folder: Path,
    data_dir: Path | None,
    resume: bool,
    executor: Executor,
    quiet: bool,
    verbose: bool,
) -> None:
    from rich.console import Console

    from effbench.loop import run as measure
    from effbench.show.progress import TerminalProgress
    from effbench.store import Store, raw_frame

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
        raise typer.Exit(130) from None
    raw = raw_frame(Store(folder).read()[0])  # what is damaged there has been said by now
    drawn = _draw(frame, raw, folder / "plots")
    if quiet:
        return
    from effbench.show import tables

    _console().print(tables.summary_tables(frame, raw))
    left = progress.statuses["interrupted"]
    if left:
        print(f"{left} cells are left: the budget ended. Run the same command again for them.")
    print(f"results: {folder}  (results.csv, results.parquet, raw.csv; effbench show {folder})")
    for path in drawn:
        print(f"plot: {path}")


def _print_plan(sweep: Sweep, folder: Path, data_dir: Path | None, resume: bool) -> None:
    from effbench.estimate import Estimate
    from effbench.loop import plan
    from effbench.show.progress import describe
    from effbench.store import Store

    found = plan(sweep, Store(folder), data_dir=data_dir, resume=resume)
    estimate = Estimate(found.done)
    seconds = [estimate.seconds(job.cell) for job in found.jobs]
    for job, expected in zip(found.jobs, seconds, strict=True):
        cell = job.cell
        shape = f"B={cell.batch_size} d_model={cell.d_model} heads={cell.heads} layers={cell.layers}"
        print(f"{describe(cell):<50} {cell.scope:<9} {shape}  about {expected:.1f} s")
    done = f", {len(found.done)} more are measured already" if found.done else ""
    print(f"{len(found.jobs)} cells, about {sum(seconds) / 60:.1f} min{done}; results would go to {folder}")


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

    from effbench.store import load

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = load(folders, raw=raw)
    for warning in caught if raw else ():
        print(f"effbench: {warning.message}", file=sys.stderr)
    return frame


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 100, highlight=False)


def _names(what: ListWhat, name: str | None) -> Sequence[str]:
    from effbench import registry
    from effbench.sweep import presets

    if what is ListWhat.MECHANISMS or what is ListWhat.TASKS:
        return [name] if name else registry.names("mechanism" if what is ListWhat.MECHANISMS else "task")
    there: Sequence[str] = presets() if what is ListWhat.PRESETS else PROBES
    if name is not None and name not in there:
        raise UsageError(registry.unknown(what.value.rstrip("s"), name, there, "there are"))
    return [name] if name else there


def _entry(what: ListWhat, name: str) -> dict[str, Any]:
    from effbench import registry
    from effbench.sweep import Sweep

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

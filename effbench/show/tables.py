"""Tables: one row a cell in five formats, and the matrices that a run ends with."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from effbench.analyse.drift import doubts
from effbench.analyse.summary import PRIORS, label
from effbench.show import units
from effbench.spec import UsageError

FORMATS = ("table", "csv", "json", "markdown", "latex")
# A row's shape: cells are compared only within one.
SHAPE = ["scope", "batch_size", "d_model", "heads", "layers", "dtype", "device", "threads", "allocator"]

_PRETTY: dict[str, Callable[[float], str]] = {
    **dict.fromkeys(("time_s", "time_low_s", "time_high_s", "train_seconds", "seconds"), units.seconds),
    **dict.fromkeys(("peak_bytes", "peak_rss_bytes", "saved_bytes", "parameter_bytes"), units.size),
    **dict.fromkeys(("rss_growth_bytes", "bytes_moved"), units.size),
    **dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high"), units.share),
    **dict.fromkeys(("roof_share", "uncounted_share"), units.share),
    **dict.fromkeys(("flops_per_s", "roof_flops_per_s"), lambda value: units.count(value, "FLOP/s")),
    **dict.fromkeys(("macro_f1", "macro_f1_low", "macro_f1_high", *PRIORS), units.share),
    **dict.fromkeys(
        ("flops", "flops_analytic", "flops_useful", "flops_other"), lambda value: units.count(value, "FLOP")
    ),
    "tokens_per_s": units.count,
    "parameters": units.count,
}
_SHORT = {"batch_size": "batch", "d_model": "d", "tokens_per_s": "tokens/s", "peak_bytes": "memory"}
# Work that nothing counts, and a speed above what the machine was seen to do: worth a warning from here on.
UNCOUNTED, ABOVE_THE_ROOF = 0.02, 1.1
_WIDE = ("code", "machine", "data")


def render(frame: pd.DataFrame, format: str) -> str:
    """The frame as text; csv and json hold plain SI numbers, the others are rounded for reading.

    Raises UsageError for an unknown format.
    """
    if format not in FORMATS:
        raise UsageError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if format == "csv":
        return str(frame.to_csv(index=False))
    if format == "json":
        return json.dumps([plain(row) for row in frame.to_dict(orient="records")], indent=1)
    constant, varying = _split(frame)
    head = [f"{name}: {value}" for name, value in constant.items()]
    cells = [[_written(column, value) for column, value in zip(varying, row, strict=True)]
             for row in varying.itertuples(index=False)]  # fmt: skip
    names = [_SHORT.get(str(name), str(name)) for name in varying]
    if format == "markdown":
        lines = [_markdown_row(names), _markdown_row(["---"] * len(names)), *map(_markdown_row, cells)]
        return "\n".join([*head, "", *lines])
    if format == "latex":
        return _latex(head, names, cells)
    return _terminal(head, names, cells)


def summary_tables(frame: pd.DataFrame, raw: pd.DataFrame | None = None) -> RenderableType:
    """Matrices of mechanisms by lengths for each shape, accuracies, and what they say in words.

    The fastest of a length is marked ``*``, and so is everything that cannot be told apart from it: whose
    time, pair by pair of repeats, is not surely longer. ``~`` marks a time whose interval is wider than was
    asked, or which did not settle. ``raw`` tells how the machine behaved meanwhile.
    """
    if frame.empty:
        return Text("no results")
    careful = [*mixtures(frame), *_contradictions(frame), *([] if raw is None else doubts(raw))]
    parts: list[RenderableType] = [Text(f"Careful: {line}", "red") for line in careful]
    cost = frame[frame["task"] == ""]
    for shape, group in cost.groupby([*SHAPE, "machine"], sort=False):
        parts += _cost_tables(group, dict(zip([*SHAPE, "machine"], shape, strict=True)))
    trained = frame[frame["task"] != ""]
    keys = [*SHAPE, "machine", "task"]
    for key, group in trained.groupby(keys, sort=False):
        parts.append(_accuracy_table(group, dict(zip(keys, key, strict=True))))
    parts += _reasons(frame)
    return Group(*parts)


def what_was_measured(shape: Mapping[str, Any]) -> str:
    """``one attention layer`` or ``an encoder of 2 blocks``."""
    return (
        "one attention layer" if shape["scope"] == "attention" else f"an encoder of {shape['layers']} blocks"
    )


def of_shape(frame: pd.DataFrame, shape: Mapping[str, Any]) -> pd.DataFrame:
    """The rows that have these values in these columns."""
    inside = pd.Series(True, index=frame.index)
    for name, value in shape.items():
        inside &= frame[name] == value
    return frame[inside]


def each_row(frame: pd.DataFrame) -> list[Any]:
    """The rows as named tuples; their fields have no types that a checker could know."""
    return list(frame.itertuples())


def fastest(rows: pd.DataFrame) -> list[str]:
    """Of rows at one length, the labels of the smallest median and of what cannot be told apart from it."""
    # a row whose memory or FLOPs failed still has its time: leaving it out would crown another
    timed = rows[rows["time_s"].notna() & (rows["status"] != "incorrect")]
    if timed.empty:
        return []
    best = timed.loc[timed["time_s"].idxmin()]
    if (timed["time_ratio"] == 1).sum() == 1:
        tied = timed[timed["time_ratio_low"] <= 1]
    else:  # rows of several folders, which share no repeats: only their intervals can be compared
        tied = timed[timed["time_low_s"] <= best["time_high_s"]]
    return [label(row.mechanism, row.options) for row in each_row(tied.sort_values("time_s"))]


def in_words(rows: pd.DataFrame) -> str:
    """Who is fastest at each length of one mode, neighbouring lengths with the same answer joined."""
    runs: list[tuple[int, int, list[str]]] = []
    for n, cells in rows.groupby("seq_len"):
        names = fastest(cells) or ["none"]
        if runs and sorted(runs[-1][2]) == sorted(names):
            runs[-1] = (runs[-1][0], n, runs[-1][2])
        else:
            runs.append((n, n, names))
    said = []
    for first, last, names in runs:
        where = f"at {first}" if first == last else f"from {first} to {last}"
        verb = "is fastest" if len(names) == 1 else "cannot be told apart as fastest"
        verb = "was timed" if names == ["none"] else verb
        said.append(f"{', '.join(names)} {verb} {where}")
    return "; ".join(said)


def _cost_tables(group: pd.DataFrame, shape: dict[str, object]) -> list[RenderableType]:
    repeats = sorted(set(group.loc[group["time_s"].notna(), "repeats"]))
    machine = group["machine"].iloc[0]
    title = (
        f"{what_was_measured(shape)}, batch {shape['batch_size']}, d_model {shape['d_model']}, "
        f"{shape['heads']} heads, {shape['dtype']}, {shape['device']}, {shape['threads']} threads, "
        f"{shape['allocator']} allocator; {machine}"
        + (f"; {'-'.join(map(str, repeats))} repeats" if repeats else "")
    )
    parts: list[RenderableType] = [Text(f"\n{title}", "bold")]
    modes = [mode for mode in ("forward", "train") if mode in set(group["mode"])]
    for column, caption, pretty in (
        ("time_s", "time a call", units.seconds),
        ("peak_bytes", "peak memory", units.size),
        ("flops", "FLOPs", units.count),
    ):
        for mode in modes:
            rows = group[group["mode"] == mode]
            if rows[column].notna().any():
                parts.append(_matrix(rows, column, f"{mode}: {caption}", pretty))
                if column == "time_s":
                    parts.append(Text(f"{mode}: {in_words(rows)}."))
                    parts += _noise_in_words(rows, mode)
    return parts


def _noise_in_words(rows: pd.DataFrame, mode: str) -> list[Text]:
    """Which times not to lean on, and why; one line for all that are merely wide."""
    noisy = rows[rows["time_s"].notna() & rows["noisy"].fillna("").astype(bool)]
    wide = noisy[~noisy["noisy"].str.contains("while it runs|settle")]
    lines = []
    if len(wide):
        half = (wide["time_high_s"] - wide["time_low_s"]) / 2 / wide["time_s"]
        lines.append(
            f"{mode}: ~ {len(wide)} of {rows['time_s'].notna().sum()} times are known less well than asked, "
            f"to {_percent(half.median())} in the median and {_percent(half.max())} at worst."
        )
    for row in each_row(noisy.drop(wide.index)):
        lines.append(f"{mode}: ~ {label(row.mechanism, row.options)} at {row.seq_len}: {row.noisy}.")
    return [Text(line, "yellow") for line in lines]


def _matrix(rows: pd.DataFrame, column: str, title: str, pretty: Callable[[float], str]) -> Table:
    table = Table(title=escape(title), title_justify="left", pad_edge=False, box=None, padding=(0, 1))
    table.add_column("mechanism", overflow="fold")  # two labels cut alike could not be told apart
    lengths = sorted(rows["seq_len"].unique())
    for n in lengths:
        table.add_column(units.length(n), justify="right")
    winners = {n: fastest(rows[rows["seq_len"] == n]) if column == "time_s" else [] for n in lengths}
    for (mechanism, options), line in rows.groupby(["mechanism", "options"], sort=False):
        name = label(mechanism, options)
        cells = [escape(name)]
        for n in lengths:
            found = line[line["seq_len"] == n]
            cells.append(_cell(found, column, pretty, name in winners[n]))
        table.add_row(*cells)
    return table


def _cell(found: pd.DataFrame, column: str, pretty: Callable[[float], str], winner: bool) -> str:
    if found.empty:
        return ""
    row = found.iloc[0]
    if pd.isna(row[column]):
        return f"[red]{row['status']}[/]" if row["status"] != "ok" else ""
    text = pretty(float(row[column])).replace(" ", "\N{NO-BREAK SPACE}")
    text = f"~{text}" if column == "time_s" and row["noisy"] else text
    return f"[bold]{text}*[/]" if winner else text


def _accuracy_table(group: pd.DataFrame, key: dict[str, object]) -> Table:
    priors = [
        f"{name.removeprefix('prior_').replace('_', ' ')} {units.share(float(group[name].dropna().iloc[0]))}"
        for name in PRIORS
        if group[name].notna().any()
    ]
    title = (
        f"\n{key['task']}: test accuracy, an encoder of {key['layers']} blocks, d_model {key['d_model']}, "
        f"{key['heads']} heads, batch {key['batch_size']}; {key['machine']}"
    )
    caption = f"to be read against: {', '.join(priors)}" if priors else None
    table = Table(
        title=escape(title), caption=caption, title_justify="left", caption_justify="left", pad_edge=False,
        box=None, padding=(0, 1), title_style="bold",
    )  # fmt: skip
    f1 = bool(group["macro_f1"].notna().any())
    columns = ["mechanism", "length", "accuracy", "95 % interval", *(["macro F1"] if f1 else [])]
    for name in (*columns, "seeds", "trained in", "tokens/s", "memory"):
        first = name == "mechanism"
        table.add_column(
            name,
            justify="left" if first else "right",
            no_wrap=not first,
            overflow="fold" if first else "crop",
        )
    for row in each_row(group.sort_values(["seq_len", "accuracy"], ascending=[True, False])):
        if pd.isna(row.accuracy):
            table.add_row(
                escape(label(row.mechanism, row.options)), str(row.seq_len), f"[red]{row.status}[/]"
            )
            continue
        table.add_row(
            escape(label(row.mechanism, row.options)),
            units.length(row.seq_len),
            units.share(row.accuracy),
            f"{100 * row.accuracy_low:.1f} to {100 * row.accuracy_high:.1f}",
            *(["" if pd.isna(row.macro_f1) else units.share(row.macro_f1)] if f1 else []),
            str(row.repeats),
            units.seconds(row.train_seconds),
            units.count(row.tokens_per_s),
            units.size(row.peak_bytes),
        )
    return table


def _reasons(frame: pd.DataFrame) -> list[RenderableType]:
    """Each failure once, with where it happened."""
    failed = frame[frame["status"] != "ok"]
    lines: list[RenderableType] = []
    for row in each_row(failed):
        what = f"{label(row.mechanism, row.options)} {row.task or row.mode} N={row.seq_len}"
        lines.append(
            Text(f"{row.status}: {what}: {row.reason}", "red" if row.status != "skipped" else "yellow")
        )
    return [Text(""), *lines] if lines else []


def mixtures(frame: pd.DataFrame) -> list[str]:
    """What makes rows not comparable: several machines, versions of effbench, or of one mechanism."""
    found = []
    machines = sorted(frame["machine"].unique())
    if len(machines) > 1:
        found.append(f"measured on {len(machines)} machines: {'; '.join(machines)}")
    # version-measuring-plugin: see effbench.fingerprint
    measuring = sorted({code.rpartition("-")[0] for code in frame["code"]})
    if len(measuring) > 1:
        found.append(f"measured by {len(measuring)} versions of effbench: {', '.join(measuring)}")
        return found
    for (mechanism, _), codes in frame.groupby(["mechanism", "task"])["code"]:
        if codes.nunique() > 1:
            found.append(f"{mechanism} was measured in {codes.nunique()} versions of its own sources")
    return found


def _percent(half: float) -> str:
    """A half-width in words: beyond its own size a time is hardly known at all."""
    return f"{100 * half:.0f} %" if half < 1 else "no better than a factor of 2"


def _contradictions(frame: pd.DataFrame) -> list[str]:
    """Where a mechanism declares another cost than was counted, or work was seen that nothing counts."""
    found = []
    above = frame[frame["roof_share"] > ABOVE_THE_ROOF]
    if len(above):
        most = above.loc[above["roof_share"].idxmax()]
        found.append(
            f"{len(above)} calls are faster than the machine's measured ceiling allows ({most['mechanism']} "
            f"at {most['seq_len']} {most['roof_share']:.1f} times): it is too low, or a cache helped more"
        )
    for (mechanism, options, mode), rows in frame.groupby(["mechanism", "options", "mode"], sort=False):
        name = label(str(mechanism), str(options))
        wrong = rows[rows["flops_analytic"].notna() & (rows["flops_analytic"] != rows["flops"])]
        if len(wrong):
            row = wrong.iloc[0]
            found.append(
                f"{name} declares {units.count(row['flops_analytic'])} FLOPs for {mode} at {row['seq_len']}, "
                f"{units.count(row['flops'])} were counted ({len(wrong)} lengths differ)"
            )
        unseen = float(rows["uncounted_share"].max())
        if unseen > UNCOUNTED:
            found.append(
                f"{name}, {mode}: {100 * unseen:.0f} % of its work is in operations that nothing counts"
            )
    return found


def _split(frame: pd.DataFrame) -> tuple[dict[str, str], pd.DataFrame]:
    """(columns with one value throughout, the frame of the others without empty columns)."""
    constant: dict[str, str] = {}
    keep = []
    for name in frame.columns:
        written = {_written(name, value) for value in frame[name]}
        if written <= {""}:
            continue
        if len(written) == 1 and len(frame) > 1 and name not in ("mechanism", "status"):
            constant[name] = written.pop()
        elif not str(name).startswith("samples_"):
            keep.append(name)
    return constant, frame[keep]


def _written(column: object, value: object) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        pretty = _PRETTY.get(str(column))
        return pretty(float(value)) if pretty else f"{value:.6g}"
    return str(value)


def plain(row: Mapping[Any, object]) -> dict[str, object]:
    """A row for JSON: None for what was not measured."""
    return {
        str(name): None if isinstance(value, float) and pd.isna(value) else value
        for name, value in row.items()
    }


def _terminal(head: Sequence[str], names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name not in (*_WIDE, "reason"))
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    wide = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else _natural_width(table)
    out = io.StringIO()
    console = Console(file=out, width=wide, highlight=False, color_system=None)
    for line in head:
        console.print(Text(line))
    console.print(table)
    return out.getvalue()


def _natural_width(table: Table) -> int:
    """Into a pipe or a file a table is as wide as it is: nothing is cut."""
    return Console(width=10_000).measure(table).maximum + 1


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


_LATEX = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}", "µ": r"\textmu{}", "×": r"$\times$"}  # fmt: skip


def _latex(head: Sequence[str], names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A booktabs table; what is the same in all rows stands above it as comments."""

    def row(values: Sequence[str]) -> str:
        return " & ".join("".join(_LATEX.get(sign, sign) for sign in value) for value in values) + r" \\"

    return "\n".join(
        [
            *(f"% {' '.join(line.split())}" for line in head),
            rf"\begin{{tabular}}{{{'l' * len(names)}}}",
            r"\toprule",
            row(names),
            r"\midrule",
            *map(row, cells),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )

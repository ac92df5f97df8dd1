"""Growth with N compared with the declared order, and crossover lengths, as tables and sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from effbench.common.wording import plural
from effbench.records.analyse.complexity import QUANTITIES, TOLERANCE, WIDEST, exponents, is_known
from effbench.records.analyse.crossover import crossovers
from effbench.records.analyse.summary import label
from effbench.show.blocks import Block
from effbench.show.tables import SHAPE, each_row, of_shape, plain, what_was_measured

_TITLES = {"time_s": "time", "peak_bytes": "peak memory", "flops": "FLOPs", "state_bytes": "state"}
_GROUPS = [*SHAPE, "machine"]
_LEGEND = (
    "N^a [95 % confidence interval of a], fitted to the longest lengths; agrees: the whole interval is "
    f"within {TOLERANCE} of the declared exponent; not known: the interval is {WIDEST} wide or wider"
)


def complexity_blocks(raw: pd.DataFrame) -> list[Block]:
    """Return for each shape and mode a table of exponents, the disagreements in words, and the crossovers."""
    crossings = crossovers(raw)
    blocks = []
    for shape, exponents_block in _by_shape(raw, crossings):
        pairs = sorted(each_row(of_shape(crossings, shape)), key=_kind)
        statements = ["crossovers:", *(f"  {row.statement}" for row in pairs)]
        none = ["no crossovers: fewer than two mechanisms were timed"]
        blocks += [exponents_block, Block(notes=statements if pairs else none)]
    nothing = ["no growth rates and no crossovers: fewer than three lengths were measured"]
    return blocks or [Block(notes=nothing)]


def exponent_blocks(raw: pd.DataFrame) -> list[Block]:
    """Return for each shape and mode a table of exponents, and the disagreements in words."""
    return [block for _, block in _by_shape(raw)]


def _by_shape(raw: pd.DataFrame, *others: pd.DataFrame) -> Iterator[tuple[dict[str, Any], Block]]:
    """Yield each shape and mode of the exponents, and of ``others``, with its table of exponents."""
    fits = {quantity: exponents(raw, quantity) for quantity in QUANTITIES}
    for key, _ in pd.concat([*fits.values(), *others]).groupby([*_GROUPS, "mode"], sort=False):
        shape = dict(zip([*_GROUPS, "mode"], key, strict=True))
        yield shape, _block(_title(shape), {name: of_shape(fit, shape) for name, fit in fits.items()})


def as_csv(raw: pd.DataFrame) -> str:
    """Return the exponents of all quantities, one per row, then the crossovers, in plain numbers."""
    fits = pd.concat([exponents(raw, name).assign(quantity=name) for name in QUANTITIES], ignore_index=True)
    return f"# exponents\n{fits.to_csv(index=False)}\n# crossovers\n{crossovers(raw).to_csv(index=False)}"


def as_json(raw: pd.DataFrame) -> str:
    """``{"exponents": {quantity: [...]}, "crossovers": [...]}`` in plain numbers; null if unknown."""
    tables = {
        "exponents": {quantity: _records(exponents(raw, quantity)) for quantity in QUANTITIES},
        "crossovers": _records(crossovers(raw)),
    }
    return json.dumps(tables, indent=1)


def _records(frame: pd.DataFrame) -> list[dict[str, object]]:
    return [plain(row) for row in frame.astype(object).to_dict(orient="records")]


def _title(shape: dict[str, Any]) -> str:
    return (
        f"{shape['mode']}, {what_was_measured(shape)}, batch {shape['batch_size']}, "
        f"d_model {shape['d_model']}, {plural(int(shape['heads']), 'head')}, {shape['dtype']}, "
        f"{plural(int(shape['threads']), 'thread')}; {shape['machine']}"
    )


def _block(title: str, fits: dict[str, pd.DataFrame]) -> Block:
    # a generation holds its state, not the peak of a step; a mechanism declares how it grows
    other = "peak_bytes" if len(fits["state_bytes"]) else "state_bytes"
    shown = [quantity for quantity in QUANTITIES if quantity != other]
    head = [
        "mechanism",
        *(name for quantity in shown for name in (_TITLES[quantity], f"{_TITLES[quantity]}, declared")),
    ]
    exponents_of: dict[str, dict[str, tuple[str, str]]] = {}
    for quantity, fit in fits.items():
        for row in each_row(fit):
            exponents_of.setdefault(label(row.mechanism, row.options), {})[quantity] = (
                _exponent(row),
                _claim(row),
            )
    rows = []
    for name, written in exponents_of.items():
        pairs = [written.get(quantity, ("", "")) for quantity in shown]
        rows.append([name, *(text for pair in pairs for text in pair)])
    if not rows:
        return Block(title=title, notes=["no growth rates: fewer than three lengths were measured"])
    return Block(
        title=title,
        head=head,
        rows=rows,
        notes=[_LEGEND],
        warnings=_disagreements(fits),
        left=tuple(range(0, len(head), 2)),
    )


def _exponent(row: Any) -> str:
    if not is_known(row):
        return "not known"
    exact = row.exponent_high == row.exponent_low
    interval = "" if exact else f" [{row.exponent_low:.2f}, {row.exponent_high:.2f}]"
    return f"N^{row.exponent:.2f}{interval}"


def _claim(row: Any) -> str:
    mark = {
        "grows faster": "NO, faster",
        "grows slower": "slower",
    }
    return f"{row.declared} {mark.get(row.verdict, row.verdict)}" if row.verdict else "not declared"


def _disagreements(fits: dict[str, pd.DataFrame]) -> list[str]:
    """Return statements about exponents that are not as declared, or still changing with N."""
    statements = []
    for fit in fits.values():
        for row in each_row(fit):
            if row.verdict in ("grows faster", "grows slower") or "still changing" in row.statement:
                statements.append(row.statement)
    return statements


def _kind(row: Any) -> int:
    """Sort key: crossovers, then pairs with a faster mechanism at both ends, then inconclusive pairs."""
    if pd.notna(row.crossover):
        return 0
    return 1 if pd.notna(row.faster_before) and pd.notna(row.faster_after) else 2

"""Target json: the summary and its provenance for a documentation page; docs/export.md describes the form."""

from __future__ import annotations

import json
import math
from typing import Any

from effbench import __version__
from effbench.common.columns import column
from effbench.show.export.configurations import Configuration, configurations
from effbench.show.export.selection import FOLDER, Selection

FORMAT = "effbench export 1"
_ORIGIN = "origin"


def text(selection: Selection) -> bytes:
    """Return one JSON object. It may stand inside a script of an HTML page: ``<`` is written as an escape."""
    rows = configurations(selection)
    origins: dict[tuple[str, ...], dict[str, str]] = {}
    numbers = {key: str(place) for place, key in enumerate(dict.fromkeys(_where(row) for row in rows))}
    for row in rows:
        origins[_where(row)] = dict(row.origin)
    names = [
        str(name) for name in selection.rows if str(name) != FOLDER and selection.rows[name].notna().any()
    ]
    plain = selection.rows.to_dict(orient="records")
    page: dict[str, Any] = {
        "format": FORMAT,
        "effbench": __version__,
        "units": {name: column(name).unit for name in names},
        "origins": {numbers[key]: origin for key, origin in origins.items()},
        "configurations": [
            {
                "id": row.key,
                "label": row.label,
                _ORIGIN: numbers[_where(row)],
                "started": None if row.started is None else row.started.isoformat(),
                "ended": None if row.ended is None else row.ended.isoformat(),
                **{name: _plain(values[name]) for name in names},
            }
            for row, values in zip(rows, plain, strict=True)
        ],
    }
    written = json.dumps(page, indent=1, ensure_ascii=False, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        written = written.replace(sign, f"\\u{ord(sign):04x}")
    return f"{written}\n".encode()


def _where(row: Configuration) -> tuple[str, ...]:
    return tuple(row.origin.values())


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

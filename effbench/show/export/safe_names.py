"""Names that every target takes: a letter, then letters, digits and underscores; no two alike."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MOST = 200  # characters; MLflow takes 250 with a prefix


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """Return name -> a name of ASCII letters, digits and ``_`` that begins with a letter.

    Other characters become ``_``. Of two names that are alike then, the later one gets a number.
    """
    safe: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_]", "_", name)[:_MOST]
        base = base if base[:1].isalpha() else f"x{base}"
        new, number = base, 2
        while new in taken:
            new, number = f"{base}_{number}", number + 1
        taken.add(new)
        safe[name] = new
    return safe

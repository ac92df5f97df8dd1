"""The terminal or pipe that tables are printed to: its width, and characters that its encoding lacks."""

from __future__ import annotations

import codecs
import os
import shutil
import sys

_ASCII = {
    "µ": "u", "μ": "u", "×": "x", "±": "+-", "–": "-", "—": "-", "…": "...", "→": "->", "²": "^2",
    "\N{NO-BREAK SPACE}": " ", "ö": "o", "ä": "a", "ü": "u",
}  # fmt: skip
_PLAIN_WIDTH = 100


def width() -> int | None:
    """Return the width in columns: $COLUMNS, or the terminal's; None for a pipe, which needs no cuts."""
    if os.environ.get("COLUMNS", "").isdecimal() or sys.stdout.isatty():
        return max(20, shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns)
    return None


def width_for_sentences() -> int:
    """Return the width at which to break sentences: as ``width``, but 100 columns for a pipe."""
    return width() or _PLAIN_WIDTH


def speak_any_encoding() -> None:
    """Replace characters that standard output or error cannot encode with similar ASCII ones."""
    codecs.register_error("effbench", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="effbench")


def _nearest(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    unknown = error.object[error.start : error.end]
    return "".join(_ASCII.get(character, "?") for character in unknown), error.end

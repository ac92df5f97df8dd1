"""The terminal or pipe that tables are printed to: its width, and signs that its encoding lacks."""

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
    """Columns to print in: $COLUMNS, else the terminal's; None into a pipe, where nothing need be cut."""
    if os.environ.get("COLUMNS", "").isdecimal() or sys.stdout.isatty():
        return max(20, shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns)
    return None


def width_for_sentences() -> int:
    """The same where sentences have to be broken: 100 columns into a pipe."""
    return width() or _PLAIN_WIDTH


def speak_any_encoding() -> None:
    """Write signs that standard output or error cannot encode by the nearest ASCII, and never fail."""
    codecs.register_error("effbench", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="effbench")


def _nearest(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_ASCII.get(sign, "?") for sign in error.object[error.start : error.end]), error.end

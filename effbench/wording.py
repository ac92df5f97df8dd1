"""Words that both tables and messages need: plurals, and texts cut to a line. Standard library only."""

from __future__ import annotations

MOST_CHARACTERS = 300


def plural(count: int, noun: str, several: str = "") -> str:
    """``1 cell``, ``2 cells``; ``several`` is the plural where it is no ``s``."""
    return f"{count} {noun}" if count == 1 else f"{count} {several or noun + 's'}"


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text in one line of at most ``most`` characters, its middle left out where it is longer."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    end = most // 3
    return f"{line[: most - end - 5]} ... {line[-end:]}"

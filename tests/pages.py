"""The code blocks of the documentation's pages, and the command lines in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]


@dataclass(frozen=True)
class Block:
    """A code block: its page, its first line there, its language, and the paragraph before it."""

    page: str
    line: int
    language: str
    text: str
    before: str


@dataclass(frozen=True)
class Example:
    """A command line of a page; ``output`` is what the page shows of its output, None if it shows none."""

    block: Block
    line: int
    command: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.block.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    """Yield the code blocks of a page, fenced and indented ones, in lists and quotes too."""
    before = ""
    for token in MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8")):
        if token.type == "inline":
            before = token.content
        elif token.type in ("fence", "code_block"):
            assert token.map is not None
            first = token.map[0] + (2 if token.type == "fence" else 1)
            yield Block(page, first, token.info.strip(), token.content, before)


def examples(pages: list[str] = PAGES) -> Iterator[Example]:
    """Yield every line of a code block that begins with ``effbench `` or ``$ effbench ``."""
    for block in (block for page in pages for block in blocks(page)):
        lines = block.text.splitlines()
        for number, line in enumerate(lines):
            if match := re.match(r"(\$ )?(effbench(?: .*)?)$", line):
                after = "\n".join(lines[number + 1 :]).split("\n$ ")[0] if match[1] else ""
                yield Example(block, block.line + number, match[2], after.strip("\n") or None)


def written(page: str, language: str) -> list[str]:
    """Return the blocks of a page in this language."""
    return [block.text for block in blocks(page) if block.language == language]

"""What the site takes from the code: the commands, the installed classes, and the files of the examples.

A page marks a place by a comment, such as ``<!-- commands -->``, which a code host does not show.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import typer
from sphinx.application import Sphinx

from effbench.cli.app import app as commands_app
from effbench.common import registry


def commands() -> str:
    """Return Markdown that describes every command with all of its arguments and options, as --help does."""
    group: Any = typer.main.get_command(commands_app)
    root = typer.Context(group, info_name="effbench")
    parts = []
    for name in group.list_commands(root):
        command = group.get_command(root, name)
        context = typer.Context(command, info_name=name, parent=root)
        parts.append(f"## {name}\n\n{command.help}\n\n```text\n{command.get_usage(context)}\n```\n")
        panels: dict[str, list[str]] = {}
        for parameter in command.get_params(context):
            written = parameter.get_help_record(context)
            if written is None or "--help" in parameter.opts:
                continue
            usual = "Options" if parameter.param_type_name == "option" else "Arguments"
            rows = panels.setdefault(getattr(parameter, "rich_help_panel", None) or usual, [])
            rows.append(f"| `{_cell(written[0])}` | {_cell(written[1])} |")
        for panel, rows in panels.items():
            parts.append("\n".join([f"| {panel} | |", "| --- | --- |", *rows, ""]))
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def mechanisms() -> str:
    """Return Markdown that describes the class of every installed mechanism."""
    return "\n".join(_classes("mechanism"))


def recommenders() -> str:
    """Return Markdown that describes the class of every installed recommender."""
    return "\n".join(_classes("recommender"))


def tasks() -> str:
    """Return Markdown that describes the class of every installed task."""
    return "\n".join(_classes("task"))


def _classes(kind: registry.Kind) -> Iterator[str]:
    for name in registry.names(kind):
        plugin = registry.find(name, kind)
        yield f"### {name}\n\n```{{eval-rst}}\n.. autoclass:: {plugin.module}.{plugin.class_name}\n```\n"


FILLED: dict[str, Callable[[], str]] = {
    "commands": commands,
    "mechanisms": mechanisms,
    "recommenders": recommenders,
    "tasks": tasks,
}


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace each marker of a page by what it names."""
    for name, made in FILLED.items():
        marker = f"<!-- {name} -->"
        if marker in source[0]:
            source[0] = source[0].replace(marker, made())
    source[0] = re.sub(r"<!-- code (\S+) -->", r"```{literalinclude} \1\n:language: python\n```", source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

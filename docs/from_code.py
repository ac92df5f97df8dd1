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

_CODE = r"""<details><summary>The code of <code>docs/\1</code></summary>

```{literalinclude} \1
:language: python
```

</details>"""


def commands() -> str:
    """Return Markdown that describes every command with all of its arguments and options, as --help does."""
    group: Any = typer.main.get_command(commands_app)
    root = typer.Context(group, info_name="effbench")
    described = [(name, group.get_command(root, name)) for name in group.list_commands(root)]
    rows = [f"| [`{name}`](#{name}) | {_cell(each.help.split(chr(10))[0])} |" for name, each in described]
    return "\n".join(
        [*_table("command", rows), *(line for each in described for line in _command(*each, root))]
    )


def _command(name: str, command: Any, root: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=name, parent=root)
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield from (f"## {name}", "", command.help, "", f"```text\n{usage}\n```", "")
    panels: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        written = parameter.get_help_record(context)
        if written is not None and "--help" not in parameter.opts:
            usual = "Options" if parameter.param_type_name == "option" else "Arguments"
            rows = panels.setdefault(getattr(parameter, "rich_help_panel", None) or usual, [])
            rows.append(f"| `{_cell(written[0])}` | {_cell(written[1])} |")
    for panel, rows in panels.items():
        yield from _table(panel, rows)


def _table(head: str, rows: list[str]) -> list[str]:
    return ["{.options}", f"| {head} | |", "| --- | --- |", *rows, ""]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def classes(kind: registry.Kind) -> str:
    """Return Markdown that describes the class of everything of this kind that is installed."""
    names = sorted(registry.names(kind), key=lambda name: (":" in name, name))
    return "\n".join(_class(registry.find(name, kind)) for name in names)


def _class(plugin: registry.Plugin) -> str:
    facts = [f"Source: {plugin.source}."] if plugin.source else []
    facts += [f"Time grows as {plugin.order}."] if plugin.order is not None else []
    facts += [f"Needs `{plugin.install}`."] if plugin.install else []
    # a task takes its options from annotated fields, which its constructor's signature does not show
    taken = plugin.parameters if plugin.kind == "task" else None
    options = ", ".join(f"{each.name}: {each.kind} = {each.default!r}" for each in taken or ())
    signature = f"(*, {options})" if options else ""
    target = f"{plugin.module}.{plugin.class_name}{signature}"
    directive = f"```{{eval-rst}}\n.. autoclass:: {target}\n```"
    return "\n".join([f"### {plugin.name}", "", " ".join(facts), "", directive, ""])


FILLED: dict[str, Callable[[], str]] = {
    "commands": commands,
    "mechanisms": lambda: classes("mechanism"),
    "recommenders": lambda: classes("recommender"),
    "tasks": lambda: classes("task"),
}


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace each marker of a page by what it names, and links to files beside docs/ by downloads."""
    for name, made in FILLED.items():
        marker = f"<!-- {name} -->"
        if marker in source[0]:
            source[0] = source[0].replace(marker, made())
    source[0] = re.sub(r"<!-- code (\S+) -->", _CODE, source[0])
    source[0] = re.sub(r"\[([^]]+)\]\((\.\./[^)]+\.md)\)", r"{download}`\1 <\2>`", source[0])


def readable(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, _: Any) -> Any:
    """Write ``...`` for the default of a field that a function makes: Sphinx cannot read ``<factory>``."""
    return (signature.replace("<factory>", "..."), _) if signature else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", fill)
    app.connect("autodoc-process-signature", readable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

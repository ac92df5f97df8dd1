"""``effbench list``: the mechanisms, recommenders, tasks, presets and probes that are installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from effbench.cli.options import TABLE_OR_JSON, Format, one_of
from effbench.common import registry
from effbench.common.probes import PROBES
from effbench.common.spec import UsageError

KINDS = ("mechanisms", "recommenders", "tasks", "presets", "probes")
_PLUGINS: dict[str, registry.Kind] = {
    "mechanisms": "mechanism",
    "recommenders": "recommender",
    "tasks": "task",
}


def _kinds(incomplete: str) -> list[str]:
    return [kind for kind in KINDS if kind.startswith(incomplete)]


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="KIND",
            help="mechanisms, recommenders, tasks, presets or probes. Default: the names of all.",
            autocompletion=_kinds,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of them, to be described in detail.")
    ] = None,
    format: Format = "table",
) -> None:
    """List what is installed; with a name, its options, defaults, declared order in N and source."""
    one_of("format", format, TABLE_OR_JSON)
    if kind is None:
        _print_everything(format)
        return
    if kind not in KINDS:
        raise UsageError(registry.unknown("kind", kind, KINDS, "there are"))
    entries = [_entry(kind, entry) for entry in _names(kind, name)]
    if format == "json":
        print(json.dumps(entries if name is None else entries[0], indent=2))
    elif name is None:
        width = max((len(entry["name"]) for entry in entries), default=0)
        for entry in entries:
            print(f"{entry['name']:<{width}}  {entry['summary']}")
    else:
        _print_entry(entries[0])


def _print_everything(format: str) -> None:
    """Print the names of each kind."""
    names = {kind: list(_names(kind, None)) for kind in KINDS}
    if format == "json":
        print(json.dumps(names, indent=2))
        return
    for kind, entries in names.items():
        print(f"{kind}: {', '.join(entries)}")
    print("effbench list KIND prints a line about each; effbench list KIND NAME prints the details of one.")


def _names(kind: str, name: str | None) -> Sequence[str]:
    if kind in _PLUGINS:
        return [name] if name else registry.names(_PLUGINS[kind])
    installed: Sequence[str] = list(PROBES)
    if kind == "presets":
        from effbench.sweep.sweep import presets

        installed = presets()
    if name is not None and name not in installed:
        raise UsageError(registry.unknown(kind.rstrip("s"), name, installed, "there are"))
    return [name] if name else installed


def _entry(kind: str, name: str) -> dict[str, Any]:
    if kind == "probes":
        return {"name": name, "summary": PROBES[name].summary}
    if kind == "presets":
        from effbench.sweep.sweep import Sweep

        sweep = Sweep.preset(name)
        return {"name": name, "summary": sweep.description, "toml": sweep.to_toml()}
    plugin = registry.find(name, _PLUGINS[kind])
    entry: dict[str, Any] = {"name": name, "summary": plugin.summary}
    if kind == "mechanisms":
        entry["order_in_n"] = None if plugin.order is None else str(plugin.order)
    entry["source"] = plugin.source
    entry["class"] = f"{plugin.module}:{plugin.class_name}"
    entry["options"] = (
        None
        if plugin.parameters is None
        else [
            {
                "name": p.name,
                "type": p.kind,
                "default": p.default,
                "required": p.required,
                "choices": list(p.choices),
            }
            for p in plugin.parameters
        ]
    )
    return entry


def _print_entry(entry: dict[str, Any]) -> None:
    print(f"{entry['name']}: {entry['summary']}")
    if "toml" in entry:
        print(f"\n{entry['toml'].rstrip()}")
    if "class" not in entry:
        return
    if "order_in_n" in entry:
        order = entry["order_in_n"]
        print(f"  declared order in N: {order or 'not declared'}")
    print(f"  source: {entry['source'] or 'not stated'}")
    print(f"  class: {entry['class']}")
    if entry["options"] is None:
        print("  options: not readable from its source; they are checked when it is built")
        return
    print("  options:" if entry["options"] else "  options: none")
    for option in entry["options"]:
        kind = ", ".join(map(str, option["choices"])) or option["type"]
        default = "required" if option["required"] else f"default {option['default']}"
        print(f"    {option['name']}={kind}  ({default})")

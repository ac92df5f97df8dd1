"""The mechanisms of this package among those that are installed."""

from __future__ import annotations

from effbench.common import registry
from effbench.common.plugin_source import Plugin


def our_mechanisms() -> list[Plugin]:
    """The plug-ins of ``baselines/attention/``, the control ``pointwise`` included."""
    found = [registry.find(name, "mechanism") for name in registry.names("mechanism")]
    return [plugin for plugin in found if plugin.module.startswith("baselines.attention.")]

"""Names that a shell completes."""

from __future__ import annotations


def mechanism_names(incomplete: str) -> list[str]:
    """Return the installed mechanisms whose names begin like this."""
    from effbench.common import registry

    return _beginning(registry.names("mechanism"), incomplete)


def model_names(incomplete: str) -> list[str]:
    """Return the installed mechanisms, then the recommenders, whose names begin like this."""
    from effbench.common import registry

    return _beginning(registry.names("mechanism") + registry.names("recommender"), incomplete)


def task_names(incomplete: str) -> list[str]:
    """Return the installed tasks whose names begin like this."""
    from effbench.common import registry

    return _beginning(registry.names("task"), incomplete)


def preset_names(incomplete: str) -> list[str]:
    """Return the presets whose names begin like this."""
    from effbench.sweep.sweep import presets

    return _beginning(presets(), incomplete)


def _beginning(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]

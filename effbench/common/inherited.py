"""The environment that child processes inherit, without the places that git hands to its hooks."""

from __future__ import annotations

import os

# `git rev-parse --local-env-vars` without the settings among them (GIT_CONFIG_PARAMETERS, GIT_CONFIG_COUNT,
# which may hold safe.directory), and what else names a place.
PLACES = frozenset({
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_ATTR_SOURCE", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR",
    "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE", "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
})  # fmt: skip


def environment() -> dict[str, str]:
    """This process's environment without what git hands to its hooks; git's settings stay."""
    return {name: value for name, value in os.environ.items() if name not in PLACES}

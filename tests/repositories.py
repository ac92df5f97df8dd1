"""Repositories for tests, and what lies in them: git with its defaults, whatever hook the tests run in."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from effbench.common.processes import environment


def git(folder: Path, *arguments: str) -> str:
    """What git prints, with no settings but its defaults and an author."""
    settings = (
        "user.name=a", "user.email=a@example.org", "init.defaultBranch=main", "protocol.file.allow=always",
    )  # fmt: skip
    return subprocess.run(
        ["git", *(word for setting in settings for word in ("-c", setting)), *arguments],
        cwd=folder, check=True, capture_output=True, text=True,
        env={**environment(), "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"},
    ).stdout  # fmt: skip


def commit(folder: Path, message: str = "x") -> str:
    """A commit of all that is there; its name."""
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD").strip()


def everything(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every name below a folder, with kind and rights, time and contents.

    But for the time of a split index's shared part, which git renews whenever it reads it, lest it expires.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        about, inside = path.lstat(), ""
        if path.is_symlink():
            inside = os.readlink(path)
        elif path.is_file():
            inside = hashlib.sha256(path.read_bytes()).hexdigest()
        timed = not path.is_dir() and not path.name.startswith("sharedindex.")
        found[path.relative_to(folder).as_posix()] = (
            about.st_mode,
            about.st_mtime_ns if timed else 0,
            inside,
        )
    return found

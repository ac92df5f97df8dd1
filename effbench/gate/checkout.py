"""The base of a gate as a folder: a git worktree that goes away with us, or a folder that was given."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.spec import UsageError

_KEEPER = Path(__file__).with_name("keeper.py")


@dataclass(frozen=True, kw_only=True)
class Tree:
    """One side's code: its folder, and how to speak of it."""

    root: Path
    label: str
    commit: str = ""
    dirty: bool = False

    def to_dict(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"label": self.label, "commit": self.commit, "dirty": self.dirty}


def working_tree(start: Path) -> Tree:
    """The working tree that ``start`` lies in. Raises UsageError outside of a git repository."""
    root = _git(start, "rev-parse", "--show-toplevel")
    if root is None:
        raise UsageError(
            f"{str(start)!r} is in no git repository: run the gate where the mechanisms' code is"
        )
    commit = _git(start, "rev-parse", "--verify", "--quiet", "HEAD^{commit}") or ""
    changed = bool(_git(start, "status", "--porcelain"))
    return Tree(root=Path(root), label="working tree", commit=commit, dirty=changed)


@contextlib.contextmanager
def checked_out(head: Tree, base: str) -> Iterator[Tree]:
    """The base's tree while the context lasts: the folder ``base``, or a worktree of the revision ``base``.

    A revision wins over a folder of the same name, unless it is written as a path (``./main``). The worktree
    is removed when the context ends, and by a process of its own when this one is killed. Raises UsageError
    where ``base`` is neither.
    """
    commit = None if base.startswith(("./", "../", "/")) else _commit(head.root, base)
    if commit is None:
        place = Path(base)
        if not place.is_dir():
            raise UsageError(f"base {base!r} is neither a revision of {str(head.root)!r} nor a folder")
        found = _git(place, "rev-parse", "--verify", "--quiet", "HEAD^{commit}") or ""
        yield Tree(root=place.resolve(), label=base, commit=found)
        return
    place = Path(tempfile.mkdtemp(prefix="effbench-gate-")).resolve()
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_KEEPER), str(head.root), str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        # without the repository's hooks, which are made for people
        done = subprocess.run(
            ["git", "-C", str(head.root), "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach",
             "--quiet", str(place), commit],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise UsageError(f"git cannot check out {base!r}: {_last_line(done.stderr)}")
        yield Tree(root=place, label=base, commit=commit)
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait()


def _commit(root: Path, revision: str) -> str | None:
    if revision.startswith("-"):
        raise UsageError(f"base {revision!r} is not a revision")
    return _git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where it fails. Raises UsageError where there is no git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UsageError("the gate needs git, which is not on the PATH") from None
    return done.stdout.strip() if done.returncode == 0 else None


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"

"""The base of a gate as a folder: a commit's files in a temporary folder, or a folder of the user."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.common.spec import UsageError
from effbench.gate import git
from effbench.gate.git import Refused, Repository
from effbench.gate.submodules import check_out_submodules

_KEEPER = Path(__file__).with_name("keeper.py")


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The code of one side: its folder, and its names for the report.

    ``repository`` is the repository of which it is the working tree, if it is one. ``notes`` are sentences
    for the reader about its check-out.
    """

    root: Path
    label: str
    commit: str = ""
    dirty: bool = False
    repository: Repository | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a report."""
        return {"label": self.label, "commit": self.commit, "dirty": self.dirty}


def working_tree(start: Path) -> Tree:
    """Return the working tree that contains ``start``.

    Raises UsageError outside of a git repository, and if git cannot read it.
    """
    repository = git.find(start)
    notes = [
        f"{place} was not used: this folder is in the repository {str(repository.root)!r}"
        for place in git.unused_places(repository)
    ]
    return _tree(repository, "working tree", tuple(notes))


def _tree(repository: Repository, label: str, notes: tuple[str, ...] = ()) -> Tree:
    try:
        return Tree(
            root=repository.root,
            label=label,
            commit=repository.commit("HEAD") or "",
            dirty=repository.changed(),
            repository=repository,
            notes=notes,
        )
    except Refused as refused:
        raise UsageError(f"git cannot read {str(repository.root)!r}: {refused}") from None


@contextlib.contextmanager
def checked_out(head: Tree, base: str) -> Iterator[Tree]:
    """Provide the tree of the base: the folder ``base``, or the files of the revision ``base``.

    A revision wins over a folder of the same name, unless the folder is written as a path (``./main``). The
    files of a revision go into a temporary folder with its own index, so that nothing in the repository
    changes. The folder is removed when the context ends; a separate process removes it if this one is killed.

    Raises UsageError if ``base`` is empty, neither a revision nor a folder, the working tree itself, or
    incomplete in this clone.
    """
    if not base.strip():
        raise UsageError(f"base {base!r} is empty: name a revision or a folder")
    if base.startswith(("-", "^")):
        raise UsageError(f"base {base!r} is not a revision")
    repository = head.repository or git.find(head.root)
    commit = None if base.startswith(("./", "../", "/")) else _commit(repository, base)
    if commit is None:
        yield _folder(repository, base)
        return
    with _temporary() as place:
        tree = place / "tree"
        tree.mkdir()
        notes = _write(repository, commit, base, tree, place)
        if commit == head.commit and not head.dirty:
            notes.append("base and working tree are the same code: any difference comes from the machine")
        yield Tree(root=tree, label=base, commit=commit, notes=tuple(notes))


def _commit(repository: Repository, base: str) -> str | None:
    try:
        return repository.commit(base)
    except Refused as refused:
        if Path(base).is_dir():  # not a valid name of a revision, but a folder
            return None
        raise UsageError(f"base {base!r}: message of git: {refused}") from None


def _folder(repository: Repository, base: str) -> Tree:
    """Return the tree of the folder ``base``, with its commit if it is a working tree itself."""
    root = Path(base).resolve()
    if not root.is_dir():
        raise UsageError(_missing(repository, base))
    if root == repository.root.resolve():
        raise UsageError(f"base {base!r} is the working tree itself: there is nothing to compare it with")
    if not (root / ".git").exists():
        return Tree(root=root, label=base)
    try:
        return _tree(git.at(root), base)
    except (Refused, UsageError) as refused:  # it is still a folder of code
        return Tree(
            root=root, label=base, notes=(f"the commit of the base {base!r} is not known: {refused}",)
        )


def _missing(repository: Repository, base: str) -> str:
    """Say why ``base`` is no revision, and what the user can do."""
    message = f"base {base!r} is neither a revision of {str(repository.root)!r} nor a folder"
    if named := repository.names(base):
        message = f"base {base!r} names {named}, which is no commit in {str(repository.root)!r}"
    remote, _, branch = base.partition("/")
    if branch and remote in repository.ask("remote").splitlines():
        message += (
            f"; if it is a branch of {remote}, fetch it: "
            f"git fetch {remote} +refs/heads/{branch}:refs/remotes/{base}"
        )
    if repository.shallow():
        message += (
            "; this clone is shallow and lacks older commits: git fetch --unshallow "
            "(with actions/checkout: fetch-depth: 0)"
        )
    return message


def _write(repository: Repository, commit: str, base: str, tree: Path, place: Path) -> list[str]:
    """Write the files of the commit and its submodules into ``tree``; return notes for the reader."""
    try:
        index = place / "index"
        warning = repository.check_out(commit, tree, index)
        notes = [f"git's warning on checking out {base!r}: {warning}"] if warning else []
        return notes + check_out_submodules(repository, commit, base, tree, index)
    except Refused as refused:
        remedy = ""
        if repository.partial():
            remedy = f"; this clone is partial: git archive {commit} > /dev/null fetches the missing objects"
        raise UsageError(f"git cannot check out {base!r}: {refused}{remedy}") from None


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    """Provide a folder that is removed when the context or this process ends."""
    try:
        place = Path(tempfile.mkdtemp(prefix="effbench-gate-")).resolve()
    except OSError as error:
        raise UsageError(f"the base needs a temporary folder, and none can be made: {error}") from None
    try:
        keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_KEEPER), str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        place.rmdir()
        raise
    try:
        yield place
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait()

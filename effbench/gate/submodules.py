"""The submodules of a base, taken from the user's clone: nothing is fetched."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from effbench.common.spec import UsageError
from effbench.gate import git
from effbench.gate.git import Refused, Repository


def check_out_submodules(
    repository: Repository, commit: str, base: str, tree: Path, index: Path, inside: str = ""
) -> list[str]:
    """Write the files of a commit's submodules, recursively, into ``tree``; return notes for the reader.

    ``repository`` has the commit, ``index`` lists what was written to ``tree``, and ``inside`` is the path of
    both in the base. A submodule that is not checked out in the working tree is left out of the base too, so
    that both sides have the same. Raises UsageError if a commit is not in this clone, and Refused if git
    fails.
    """
    listed = repository.links() if repository.root.is_dir() else {}
    empty = {path for path in listed if not _has_files(repository.root / path)}
    notes = [
        f"the submodule {inside + path!r} is not checked out in the working tree, and therefore left out of "
        f"the base; to check it out: git submodule update --init {shlex.quote(inside + path)}"
        for path in sorted(empty)
    ]
    links = repository.links(index)
    names = repository.link_names(commit) if links else {}
    for number, (path, wanted) in enumerate(sorted(links.items())):
        if path in empty:
            continue
        place = repository.root / path
        stores = _stores(repository, path, names.get(path))
        own = next((store for store in stores if store.has(wanted)), None)
        if own is None:
            raise UsageError(_lacking(base, inside + path, wanted, place if _has_files(place) else None))
        goal, own_index = tree / path, index.with_name(f"{index.name}-{number}")
        warning = own.check_out(wanted, goal, own_index)
        notes += (
            [f"git's warning on checking out the submodule {inside + path!r}: {warning}"] if warning else []
        )
        notes += check_out_submodules(own, wanted, base, goal, own_index, f"{inside}{path}/")
    return notes


def _has_files(place: Path) -> bool:
    return place.is_dir() and any(place.iterdir())


def _stores(repository: Repository, path: str, name: str | None) -> Iterator[Repository]:
    """Yield the places that may hold a submodule's objects: its working tree, then git's own folders."""
    place = repository.root / path
    if (place / ".git").exists():
        with contextlib.suppress(Refused):  # then it has no objects, and the next place is tried
            yield git.at(place)
    # the name comes from a commit and must not lead out of git's folder
    if name and not name.startswith("/") and ".." not in PurePosixPath(name).parts:
        for kept in (repository.folder / "modules" / name, repository.common / "modules" / name):
            if kept.is_dir():
                yield Repository(root=place, folder=kept, common=kept)


def _lacking(base: str, path: str, commit: str, place: Path | None) -> str:
    problem = f"base {base!r} needs commit {commit} of the submodule {path!r}, which is not in this clone"
    if place is not None:
        return f"{problem}: git -C {shlex.quote(str(place))} fetch origin {commit}"
    return (
        f"{problem}: git worktree add DIR {shlex.quote(base)} && "
        "git -C DIR submodule update --init --recursive, then give --base DIR"
    )

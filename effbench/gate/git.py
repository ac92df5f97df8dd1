"""Every call of git: a user's repository is read, and never written to.

What git hands to the hooks that it runs (GIT_DIR, GIT_INDEX_FILE and their kin) names places of the commit
that is being made. A call of ours that inherited them would work on the user's index, so they are dropped.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from effbench.common.processes import environment
from effbench.common.spec import UsageError

# No lock on the index to refresh it, no question, no network (a partial clone would fetch, and keep, what it
# lacks), and messages in English.
_QUIET = {
    "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "",
    "LANGUAGE": "C",
}  # fmt: skip
# No hooks; no daemon; no index that is split into the repository's folder.
_SETTINGS = (
    f"core.hooksPath={os.devnull}", "core.fsmonitor=false", "core.untrackedCache=false",
    "core.splitIndex=false", "submodule.recurse=false",
)  # fmt: skip
_MARK = re.compile(r"^(fatal|error|warning): ")
_SAID_LINES = 4  # of what git says, in a message


class Refused(RuntimeError):
    """git failed; the text is what it said, in one line."""

    def __init__(self, said: str, code: int) -> None:
        super().__init__(said)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository with a working tree. All folders are absolute.

    ``root`` is the working tree's, ``folder`` git's own for this working tree, and ``common`` that which all
    of the repository's working trees share.
    """

    root: Path
    folder: Path
    common: Path

    def ask(self, *arguments: str) -> str:
        """The output of a git command. Raises Refused if it fails."""
        where = self.root if self.root.is_dir() else self.folder  # a submodule may have no working tree
        return _run([f"--git-dir={self.folder}", f"--work-tree={where}", *arguments], where)[0]

    def commit(self, revision: str) -> str | None:
        """The commit that a revision names, None if there is none. Raises Refused where git cannot tell."""
        return self.names(f"{revision}^{{commit}}")

    def names(self, revision: str) -> str | None:
        """The object that a revision names, there or not, or None. Raises Refused where git cannot tell."""
        try:
            said = self.ask("rev-parse", "--verify", "--quiet", revision)
        except Refused as refused:
            if refused.code == 1:  # what --quiet leaves of "there is none"
                return None
            raise
        return said if re.fullmatch(r"[0-9a-f]{40,64}", said) else None  # "^main" names none

    def has(self, commit: str) -> bool:
        """True if this clone has the commit."""
        try:
            self.ask("cat-file", "-e", f"{commit}^{{commit}}")
        except Refused:
            return False
        return True

    def changed(self) -> bool:
        """Whether the working tree's files differ from its commit. Raises Refused where git cannot tell."""
        return bool(self.ask("status", "--porcelain", "--no-renames"))  # looking for renames reads more blobs

    def shallow(self) -> bool:
        """Whether its history is cut off."""
        return self.ask("rev-parse", "--is-shallow-repository") == "true"

    def partial(self) -> bool:
        """Whether the clone leaves out objects, to fetch them when they are needed."""
        try:
            return bool(self.ask("config", "--get-regexp", r"^remote\..*\.promisor$"))
        except Refused:
            return False

    def check_out(self, commit: str, place: Path, index: Path) -> str:
        """Write a commit's files into the empty folder ``place`` as ``git checkout`` would.

        Submodules stay empty. ``index`` is a file to be made, where git keeps what it wrote. Returns what git
        warned of, "" if of nothing. Raises Refused where it fails.
        """
        _, said = _run(
            [f"--git-dir={self.folder}", f"--work-tree={place}", "read-tree", "--no-sparse-checkout",
             "--no-recurse-submodules", "--reset", "-u", commit],
            place, {"GIT_INDEX_FILE": str(index)}, ("core.sparseCheckout=false", "index.sparse=false"),
        )  # fmt: skip
        return said

    def links(self, index: Path | None = None) -> dict[str, str]:
        """The submodules of an index, the working tree's own by default: their commits by path."""
        more = {} if index is None else {"GIT_INDEX_FILE": str(index)}
        # a working tree of its own, since a submodule's settings name one that may not be there
        places = [f"--git-dir={self.folder}", f"--work-tree={self.folder}"]
        listed, _ = _run([*places, "ls-files", "--stage", "-z"], self.folder, more)
        entries = (entry.partition("\t") for entry in listed.split("\0") if entry)
        return {path: told.split()[1] for told, _, path in entries if told.startswith("160000 ")}

    def link_names(self, commit: str) -> dict[str, str]:
        """The names of a commit's submodules by path, as its .gitmodules has them. Raises Refused."""
        if not self.ask("ls-tree", commit, "--", ".gitmodules"):
            return {}
        pattern = r"^submodule\..*\.path$"
        try:
            listed = self.ask("config", "--blob", f"{commit}:.gitmodules", "-z", "--get-regexp", pattern)
        except Refused as refused:
            if refused.code == 1:  # no submodule is named
                return {}
            raise
        found = (entry.partition("\n") for entry in listed.split("\0") if entry)
        return {path: key.removeprefix("submodule.").removesuffix(".path") for key, _, path in found}


def find(start: Path) -> Repository:
    """The repository whose working tree ``start`` lies in, by the folder, or else by GIT_DIR.

    Raises UsageError with what git said where there is none that it would use.
    """
    try:
        return at(start)
    except Refused as refused:
        named = {
            name: os.path.abspath(os.environ[name])
            for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR")
            if os.environ.get(name)
        }
        if "GIT_DIR" not in named:
            if "not a git repository" in str(refused):
                raise UsageError(
                    f"{str(start)!r} is in no git repository: run the gate where the mechanisms' code is"
                ) from None
            raise UsageError(f"git does not take {str(start)!r} for a working tree: {refused}") from None
    try:
        return at(start, named)
    except Refused as refused:
        said = f"and git does not take GIT_DIR={named['GIT_DIR']}: {refused}"
        raise UsageError(f"{str(start)!r} is in no git repository, {said}") from None


def unused_places(repository: Repository) -> list[str]:
    """Of GIT_DIR and GIT_WORK_TREE what names another place than the repository's, as ``NAME=value``."""
    used = {"GIT_DIR": repository.folder, "GIT_WORK_TREE": repository.root}
    return [
        f"{name}={os.environ[name]}"
        for name, place in used.items()
        if os.environ.get(name) and os.path.realpath(os.environ[name]) != os.path.realpath(place)
    ]


def at(start: Path, places: Mapping[str, str] | None = None) -> Repository:
    """The repository that git finds from ``start``, or by ``places``. Raises Refused where it finds none."""

    def ask(what: str) -> Path:
        return Path(start, _run(["-C", str(start), "rev-parse", what], None, places)[0]).absolute()

    root, folder, common = map(ask, ("--show-toplevel", "--absolute-git-dir", "--git-common-dir"))
    return Repository(root=root, folder=folder, common=common.resolve())


def _run(
    arguments: list[str],
    where: Path | None,
    places: Mapping[str, str] | None = None,
    settings: tuple[str, ...] = (),
) -> tuple[str, str]:
    """(what git prints, what it warns of). Raises Refused where it fails, and UsageError without git."""
    settled = [word for setting in (*_SETTINGS, *settings) for word in ("-c", setting)]
    try:
        done = subprocess.run(
            ["git", *settled, *arguments],
            cwd=where, env={**environment(), **_QUIET, **(places or {})}, stdin=subprocess.DEVNULL,
            capture_output=True, check=False,
        )  # fmt: skip
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.filename == "git":
            raise UsageError("the gate needs git, which is not on the PATH") from None
        raise UsageError(f"the gate needs git, which cannot be run: {error}") from None
    said = _said(os.fsdecode(done.stderr))
    if done.returncode:
        raise Refused(said or f"exit code {done.returncode}", done.returncode)
    return os.fsdecode(done.stdout).removesuffix("\n"), said


def _said(text: str) -> str:
    """The lines of a message in one, from the first that git marks as its own."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [i for i, line in enumerate(lines) if _MARK.match(line)]
    told = lines[marked[0] :][:_SAID_LINES] if marked else []
    return " ".join(_MARK.sub("", line) for line in told)

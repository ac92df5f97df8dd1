"""All calls of git: the user's repository is read and never written to.

The variables that git passes to hooks (GIT_DIR, GIT_INDEX_FILE and the like) belong to the commit in
progress. A call that inherited them would work on the user's index, so they are dropped.
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

# No lock on the index to refresh it, no prompt, no network (a partial clone would fetch and keep missing
# objects), and messages in English.
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
_MESSAGE_LINES = 4  # of git's output, in a message


class Refused(RuntimeError):
    """git failed; the text is its message in one line."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository with a working tree. All folders are absolute.

    ``root`` is the working tree, ``folder`` git's own folder for it, and ``common`` the folder that all
    working trees of the repository share.
    """

    root: Path
    folder: Path
    common: Path

    def ask(self, *arguments: str) -> str:
        """Return the output of a git command. Raises Refused if it fails."""
        where = self.root if self.root.is_dir() else self.folder  # a submodule may have no working tree
        return _run([f"--git-dir={self.folder}", f"--work-tree={where}", *arguments], where)[0]

    def commit(self, revision: str) -> str | None:
        """Return the commit that a revision names, or None. Raises Refused if git fails."""
        return self.names(f"{revision}^{{commit}}")

    def names(self, revision: str) -> str | None:
        """Return the object that a revision names, present or not, or None. Raises Refused if git fails."""
        try:
            name = self.ask("rev-parse", "--verify", "--quiet", revision)
        except Refused as refused:
            if refused.code == 1:  # with --quiet: there is none
                return None
            raise
        return name if re.fullmatch(r"[0-9a-f]{40,64}", name) else None  # "^main" names none

    def has(self, commit: str) -> bool:
        """True if this clone has the commit."""
        try:
            self.ask("cat-file", "-e", f"{commit}^{{commit}}")
        except Refused:
            return False
        return True

    def changed(self) -> bool:
        """True if the working tree's files differ from its commit. Raises Refused if git fails."""
        return bool(self.ask("status", "--porcelain", "--no-renames"))  # looking for renames reads more blobs

    def shallow(self) -> bool:
        """True if the history is cut off."""
        return self.ask("rev-parse", "--is-shallow-repository") == "true"

    def partial(self) -> bool:
        """True if the clone leaves out objects and fetches them when they are needed."""
        try:
            return bool(self.ask("config", "--get-regexp", r"^remote\..*\.promisor$"))
        except Refused:
            return False

    def check_out(self, commit: str, place: Path, index: Path) -> str:
        """Write a commit's files into the empty folder ``place`` as ``git checkout`` would.

        Submodules stay empty. ``index`` is a new file in which git lists what it wrote. Returns git's
        warnings in one line, or "". Raises Refused if git fails.
        """
        _, warning = _run(
            [f"--git-dir={self.folder}", f"--work-tree={place}", "read-tree", "--no-sparse-checkout",
             "--no-recurse-submodules", "--reset", "-u", commit],
            place, {"GIT_INDEX_FILE": str(index)}, ("core.sparseCheckout=false", "index.sparse=false"),
        )  # fmt: skip
        return warning

    def links(self, index: Path | None = None) -> dict[str, str]:
        """Return the commits of an index's submodules by path; by default of the working tree's index."""
        more = {} if index is None else {"GIT_INDEX_FILE": str(index)}
        # an explicit working tree, since the one in a submodule's settings may not exist
        places = [f"--git-dir={self.folder}", f"--work-tree={self.folder}"]
        listed, _ = _run([*places, "ls-files", "--stage", "-z"], self.folder, more)
        entries = (entry.partition("\t") for entry in listed.split("\0") if entry)
        return {path: entry.split()[1] for entry, _, path in entries if entry.startswith("160000 ")}

    def link_names(self, commit: str) -> dict[str, str]:
        """Return the names of a commit's submodules by path, from its .gitmodules. Raises Refused."""
        if not self.ask("ls-tree", commit, "--", ".gitmodules"):
            return {}
        pattern = r"^submodule\..*\.path$"
        try:
            listed = self.ask("config", "--blob", f"{commit}:.gitmodules", "-z", "--get-regexp", pattern)
        except Refused as refused:
            if refused.code == 1:  # no submodule is named
                return {}
            raise
        entries = (entry.partition("\n") for entry in listed.split("\0") if entry)
        return {path: key.removeprefix("submodule.").removesuffix(".path") for key, _, path in entries}


def find(start: Path) -> Repository:
    """Return the repository whose working tree contains ``start``, or else that of GIT_DIR.

    Raises UsageError with git's message if git finds none.
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
            raise UsageError(f"git does not accept {str(start)!r} as a working tree: {refused}") from None
    try:
        return at(start, named)
    except Refused as refused:
        raise UsageError(
            f"{str(start)!r} is in no git repository, and git does not accept "
            f"GIT_DIR={named['GIT_DIR']}: {refused}"
        ) from None


def unused_places(repository: Repository) -> list[str]:
    """Return GIT_DIR and GIT_WORK_TREE as ``NAME=value`` where they name another repository than this."""
    used = {"GIT_DIR": repository.folder, "GIT_WORK_TREE": repository.root}
    return [
        f"{name}={os.environ[name]}"
        for name, place in used.items()
        if os.environ.get(name) and os.path.realpath(os.environ[name]) != os.path.realpath(place)
    ]


def at(start: Path, places: Mapping[str, str] | None = None) -> Repository:
    """Return the repository that git finds from ``start`` or by ``places``. Raises Refused if none."""

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
    """Return (output, message) of git. Raises Refused if git fails, and UsageError if there is no git."""
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
    message = _message(os.fsdecode(done.stderr))
    if done.returncode:
        raise Refused(message or f"exit code {done.returncode}", done.returncode)
    return os.fsdecode(done.stdout).removesuffix("\n"), message


def _message(text: str) -> str:
    """Git's message in one line, from the first line that git marks as an error or a warning."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [i for i, line in enumerate(lines) if _MARK.match(line)]
    message = lines[marked[0] :][:_MESSAGE_LINES] if marked else []
    return " ".join(_MARK.sub("", line) for line in message)

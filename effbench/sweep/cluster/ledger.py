"""The ledger of a results folder: which cells were handed to which Slurm job, one file per submission."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from effbench.common import files
from effbench.common.exits import Fault
from effbench.common.files import why
from effbench.common.spec import UsageError
from effbench.common.strict_json import parse_json
from effbench.sweep.cluster.bundles import Bundle, Need

CLUSTER = "cluster"  # the folder of the ledger, inside the results folder
JOBS = "jobs"  # in it: what submitit hands over, and the output of each job
PREFIX = "effbench-"  # of the names of jobs in the queue
_CANCELLED = "cancelled"  # in the ledger's folder: the sweep was cancelled


@dataclass(frozen=True, kw_only=True)
class Handed:
    """A bundle in the ledger: its label, the key of its block, and the keys of its planned cells."""

    label: str
    block: str
    keys: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Bundles that were handed to Slurm as one array.

    It is written before sbatch is called, without ``job``, the number that sbatch then returns: if the
    command is killed in between, the queue is asked for the submission's ``name``. ``made_s`` is a time since
    1970.
    """

    name: str
    need: Need
    handed: tuple[Handed, ...]
    made_s: float
    job: str = ""

    def job_of(self, place: int) -> str:
        """Return the number of a bundle's job, as squeue prints it."""
        return f"{self.job}_{place}" if len(self.handed) > 1 else self.job


class Ledger:
    """The submissions of one results folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / CLUSTER

    def exists(self) -> bool:
        """True if something was submitted for this results folder."""
        return files.is_dir(self.folder)

    def intend(self, bundles: Sequence[Bundle]) -> Submission:
        """Write down what is submitted next and return it; it has no job yet."""
        handed = tuple(
            Handed(label=bundle.label, block=bundle.block, keys=bundle.planned) for bundle in bundles
        )
        name = f"{PREFIX}{uuid.uuid4().hex[:12]}"
        return self.write(Submission(name=name, need=bundles[0].need, handed=handed, made_s=time.time()))

    def write(self, submission: Submission) -> Submission:
        """Write a submission, in the place of an earlier form of it. Raises Fault if the disk is full."""
        path = self.folder / f"{submission.name}.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.replace(path, json.dumps(asdict(submission)).encode())
        except OSError as error:
            raise Fault(f"cannot write {path}: {why(error)}") from error
        return submission

    def forget(self, submission: Submission) -> None:
        """Remove a submission that Slurm refused."""
        (self.folder / f"{submission.name}.json").unlink(missing_ok=True)

    def read(self) -> list[Submission]:
        """Return all submissions, the oldest first. Raises UsageError for a damaged file, with its name."""
        paths = files.entries(self.folder) if self.exists() else []
        found = []
        for path in paths:
            if path.suffix == ".json" and not path.name.startswith("."):
                try:
                    found.append(_read(path))
                except UsageError:
                    if path.exists():  # else it was forgotten meanwhile
                        raise
        return sorted(found, key=lambda submission: (submission.made_s, submission.name))

    def cancel(self) -> None:
        """Tell the command that submits for this folder, if one runs, to end. Raises Fault."""
        try:
            files.replace(self.folder / _CANCELLED, b"")
        except OSError as error:
            raise Fault(f"cannot write {self.folder / _CANCELLED}: {why(error)}") from error

    def go_on(self) -> None:
        """Take back ``cancel``."""
        (self.folder / _CANCELLED).unlink(missing_ok=True)

    def is_cancelled(self) -> bool:
        """True if ``cancel`` was called and not taken back."""
        return (self.folder / _CANCELLED).exists()


def _read(path: Path) -> Submission:
    try:
        data: Any = parse_json(files.read_text(path, most=256 * 2**20))
        handed = tuple(
            Handed(label=str(h["label"]), block=str(h["block"]), keys=tuple(map(str, h["keys"])))
            for h in data["handed"]
        )
        return Submission(
            name=str(data["name"]),
            need=Need(**data["need"]),
            handed=handed,
            made_s=float(data["made_s"]),
            job=str(data["job"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a submission of effbench: {error}") from None

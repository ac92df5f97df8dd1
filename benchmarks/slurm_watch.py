"""A log of a sweep on Slurm while it runs: its records with checksums, its submissions, and the queue."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm_cluster import Cluster

EVERY_S = 0.25
QUEUE_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A content of a record file: when it was seen first, its checksum, the record's status and host."""

    at_s: float
    checksum: str
    status: str
    host: str


class Watch:
    """Looks at a results folder and at the queue several times a second, in a thread."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.records: dict[str, list[Seen]] = defaultdict(list)  # by file name, each content once
        self.submissions: dict[str, dict[str, Any]] = {}  # by name, those that were forgotten too
        self.alive: dict[tuple[str, int], tuple[float, float]] = {}  # (name, place): first and last seen
        self.unanswered = 0  # calls of squeue
        self._folder, self._cluster = folder, cluster
        self._marks: dict[str, tuple[int, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def finished(self) -> int:
        """Return how many cells have a final record now."""
        return sum(seen[-1].status != "interrupted" for seen in list(self.records.values()))

    def _watch(self) -> None:
        asked_s = 0.0
        while not self._stop.wait(EVERY_S):
            self._look()
            if time.monotonic() - asked_s > QUEUE_EVERY_S:
                asked_s = time.monotonic()
                self._ask()

    def _look(self) -> None:
        for path in self._folder.glob("records/[!.]*.json"):
            try:
                status = path.stat()
                mark = status.st_ino, status.st_mtime_ns
                if self._marks.get(path.name) == mark:
                    continue
                content = path.read_bytes()
            except OSError:  # it is being replaced
                continue
            self._marks[path.name] = mark
            record = json.loads(content)["record"]
            checksum = hashlib.sha256(content).hexdigest()
            host = str(record["machine"].get("host", ""))
            if checksum not in {seen.checksum for seen in self.records[path.name]}:
                self.records[path.name].append(
                    Seen(at_s=time.time(), checksum=checksum, status=record["status"], host=host)
                )
        for path in self._folder.glob("cluster/[!.]*.json"):
            try:
                self.submissions[path.stem] = json.loads(path.read_text())
            except OSError:  # it was forgotten
                continue

    def _ask(self) -> None:
        now = time.time()
        form = ["squeue", "-h", "-r", "-o", "%i|%j"]
        answer = self._cluster.ask(*form)
        if not answer and not self._cluster.ask("scontrol", "ping").count("UP"):
            self.unanswered += 1
        for line in answer.splitlines():
            job, name = line.split("|")
            place = int(job.partition("_")[2] or 0)
            first, _ = self.alive.get((name, place), (now, now))
            self.alive[name, place] = first, now

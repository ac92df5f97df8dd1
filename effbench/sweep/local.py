"""Measure on this machine: a fresh process per cell, forked from a server that has torch imported."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from effbench.common import host, registry
from effbench.common.blame import fault_place
from effbench.common.exits import Fault
from effbench.common.processes import Messages, compiler_settings, environment, last_line, send
from effbench.common.spec import Job, Record, Status, record_from, to_json
from effbench.common.wording import one_line, plural
from effbench.sweep.executor import Progress

_START_S = 120.0
_KILL_GRACE_S = 10.0


class ServerDied(Fault):
    """The fork server itself ended; the text is the last line that it printed."""


class LocalExecutor:
    """One fork server, started on demand and replaced when it dies; one child at a time.

    What torch.compile builds is kept in a temporary folder until the server ends, so that of the repeats of
    a cell only the first one compiles, and none finds the code of an earlier sweep. ``variables`` are added
    to the environment of the server.
    """

    def __init__(self, variables: Mapping[str, str] = MappingProxyType({})) -> None:
        self._variables = variables
        self._server: subprocess.Popen[bytes] | None = None
        self._answers: Messages | None = None
        # the compiler makes it, so that a run that is killed before leaves nothing
        self._built = Path(tempfile.gettempdir(), f"effbench-compiled-{uuid.uuid4().hex}")

    def start(self) -> dict[str, Any]:
        """Start the server and wait for its greeting. Raises ServerDied with its last line."""
        self._server = subprocess.Popen(
            [sys.executable, "-m", "effbench.measured.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment(), **compiler_settings(str(self._built)), **self._variables},
            start_new_session=True,  # Ctrl-C in the terminal is for us, not for what we measure
        )
        assert self._server.stdout is not None
        self._answers = Messages(self._server.stdout.fileno())
        message = self._read(time.monotonic() + _START_S)
        if message is None:
            self.close()
            raise ServerDied(f"the measuring process did not start within {_START_S:.0f} s")
        return dict(message["hello"])

    def run(self, job: Job, progress: Progress) -> Record:
        """Measure in a child of the server; a child is killed when its time is over."""
        unmeasured = Record.of(job, "crashed", machine=host.identity())
        clock = time.monotonic()
        try:
            if self._server is None:
                self.start()
            record, ending, timed_out = self._converse(job, progress, clock + job.limits.timeout_s)
        except ServerDied as error:
            self.close()
            record, ending, timed_out = None, {"signal": 0, "code": None, "log": str(error)}, False
        seconds = time.monotonic() - clock
        if record is None:
            status, reason = _verdict(job, ending, timed_out)
            values = {"peak_rss_bytes": ending["max_rss_bytes"]} if "max_rss_bytes" in ending else {}
            facts = {**unmeasured.machine, **({"gpu": ending["gpu"]} if "gpu" in ending else {})}
            return replace(
                unmeasured, status=status, reason=reason, values=values, machine=facts, seconds=seconds
            )
        if record.status == "oom":
            record = replace(
                record, reason=f"out of memory within {_gib(job.limits.memory_bytes)}: {record.reason}"
            )
        values = {**record.values, "peak_rss_bytes": ending["max_rss_bytes"]}
        if left := ending.get("left"):
            effects = [
                str(values.get("side_effects") or ""),
                f"it leaves {plural(left, 'process', 'processes')} running, ended with the cell",
            ]
            values["side_effects"] = "; ".join(filter(None, effects))
        return replace(record, values=values, started=unmeasured.started, seconds=seconds)

    def close(self) -> None:
        """End the server and its child, if there is one."""
        server, self._server = self._server, None
        if server is None:
            return
        for stream in (server.stdin, server.stdout, server.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            server.wait(timeout=_KILL_GRACE_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(self._built, ignore_errors=True)

    def _converse(
        self, job: Job, progress: Progress, deadline: float
    ) -> tuple[Record | None, dict[str, Any], bool]:
        """Return (the child's record or None, how it ended, True if its time was over)."""
        self._send({"job": json.loads(to_json(job))})
        record: Record | None = None
        timed_out = False
        gpu: dict[str, str] = {}
        while True:
            message = self._read(deadline)
            if message is None:
                if timed_out:
                    raise ServerDied("the measuring process did not answer after its child was killed")
                timed_out = True
                deadline = time.monotonic() + _KILL_GRACE_S
                self._send({"kill": True})
            elif "progress" in message:
                progress(*message["progress"])
            elif "gpu" in message:
                gpu = message
            elif "record" in message:
                record = record_from(message["record"])
            elif "exit" in message:
                return record, {**message["exit"], **gpu}, timed_out

    def _send(self, message: dict[str, Any]) -> None:
        assert self._server is not None
        assert self._server.stdin is not None
        try:
            send(self._server.stdin.fileno(), message)
        except BrokenPipeError:
            raise ServerDied(self._last_words()) from None

    def _read(self, deadline: float) -> dict[str, Any] | None:
        """Return the server's next message, or None at the deadline."""
        assert self._answers is not None
        try:
            message = self._answers.next(deadline)
        except TimeoutError:
            return None
        except EOFError:
            raise ServerDied(self._last_words()) from None
        assert isinstance(message, dict)
        return message

    def _last_words(self) -> str:
        assert self._server is not None
        assert self._server.stderr is not None
        self._server.kill()
        words = last_line(self._server.stderr.read().decode("utf-8", "replace"))
        return f"the measuring process ended: {words or 'no message'}"


def _verdict(job: Job, ending: dict[str, Any], timed_out: bool) -> tuple[Status, str]:
    """Return (status, reason) of a child that ended without a record."""
    log = ending["log"]
    if timed_out:
        return "timeout", f"still running after {job.limits.timeout_s:g} s"
    rss = f"at {_gib(ending['max_rss_bytes'])} of resident memory" if "max_rss_bytes" in ending else ""
    number = ending["signal"]
    if number == signal.SIGKILL:
        return "oom", f"killed from outside {rss}, most likely by the kernel for want of memory"
    if "bad_alloc" in log:
        return "oom", f"out of memory within {_gib(job.limits.memory_bytes)}, {rss}"
    if number:
        name = signal.Signals(number).name
        at = fault_place(log, registry.home(job.cell.mechanism))
        return "crashed", f"{name} ({signal.strsignal(number)}){f' at {at}' if at else ''}"
    last = one_line(last_line(log)) or "no message"
    if ending["code"] is None:
        return "crashed", last
    return "crashed", f"the process left with exit code {ending['code']}: {last}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"

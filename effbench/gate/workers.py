"""The gate's end of nursery and workers: start one on a folder of code, ask it, end it whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from effbench.common.exits import Fault
from effbench.common.inherited import environment
from effbench.common.spec import Cell, to_json

_SCRIPT = Path(__file__).parents[1] / "measured" / "side.py"
_START_S = 120.0
_LOG_TAIL_BYTES = 2000


class WorkerDied(Fault):
    """A worker ended or did not answer in time; the text says which way, ``side`` whose it was."""

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(reason)
        self.side = side


class NoAnswer(WorkerDied):
    """A worker did not answer in time."""


class Nursery:
    """A process that has torch and effbench imported and forks workers; see effbench.measured.side.

    ``inside`` is a folder of every worker's root whose modules come before the root's own, "" for none.
    """

    def __init__(self, inside: str = "") -> None:
        self._inside = inside
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._link, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C in the terminal is for us
                # a mechanism's own calls of git are not to work on a hook's index either
                env={**environment(), "OMP_WAIT_POLICY": "passive", "PYTHONDONTWRITEBYTECODE": "1"},
            )
        self._ready = False

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fork(self, side: str, root: Path, descriptors: Sequence[int]) -> int:
        """The number of a new process that stands for ``root``. Raises WorkerDied if there is none."""
        return int(self._ask(side, {"fork": str(root), "inside": self._inside}, descriptors)["pid"])

    def status(self, side: str, pid: int) -> int | None:
        """The exit code of a worker that has closed its pipe, None if it still runs; forget it then."""
        found = self._ask(side, {"wait": pid})["status"]
        return None if found is None else int(found)

    def close(self) -> None:
        """End it, and with it every worker."""
        self._link.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _ask(self, side: str, message: dict[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        try:
            if not self._ready:
                self._read()
                self._ready = True
            socket.send_fds(self._link, [json.dumps(message).encode() + b"\n"], descriptors)
            return self._read()
        except (OSError, EOFError) as error:
            said = _last_line(self._log)
            raise WorkerDied(side, said or f"the process that forks workers ended: {error}") from None

    def _read(self) -> dict[str, Any]:
        self._link.settimeout(_START_S)
        said = b""
        while not said.endswith(b"\n"):
            chunk = self._link.recv(65536)
            if not chunk:
                raise EOFError("its link closed")
            said += chunk
        return dict(json.loads(said))


class Worker:
    """One process with the code of one side; ``ask`` is a method call on effbench.measured.side.Side."""

    def __init__(self, nursery: Nursery, side: str, root: Path) -> None:
        self.side = side
        self._nursery = nursery
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._pending = b""
        self._reaped = False
        try:
            self._pid = nursery.fork(side, root, (commands, answers, self._log.fileno()))
        except BaseException:
            os.close(self._commands)
            os.close(self._answers)
            self._log.close()
            raise
        finally:
            os.close(commands)
            os.close(answers)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def greet(self) -> None:
        """Wait until it is ready."""
        self._answer(_START_S)

    def ask(self, what: str, *arguments: Any, timeout_s: float = _START_S) -> Any:
        """The answer of the worker's method ``what``. Raises WorkerDied if it ends or takes longer."""
        data = json.dumps([what, arguments]).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._commands, data) :]
        except BrokenPipeError:
            raise WorkerDied(self.side, self._last_words()) from None
        return self._answer(timeout_s)

    def build(self, cells: Sequence[Cell], *, check: bool, timeout_s: float) -> list[str]:
        """Make the cells' calls; for each "" or why it cannot be made."""
        plain = [json.loads(to_json(cell)) for cell in cells]
        allocator = cells[0].allocator
        return list(self.ask("build", plain, allocator, check, timeout_s=timeout_s))

    def close(self) -> None:
        """End the process and what it started; the nursery is not asked, who may be amid an answer."""
        for descriptor in (self._commands, self._answers):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if not self._reaped:  # then it is there, as a zombie at least, and the number still its own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)
        self._log.close()

    def _answer(self, timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise NoAnswer(self.side, f"no answer within {timeout_s:.0f} s")
                chunk = os.read(self._answers, 65536)
                if not chunk:
                    raise WorkerDied(self.side, self._last_words())
                self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        return json.loads(line)

    def _last_words(self) -> str:
        code = self._nursery.status(self.side, self._pid)
        if code is None:
            return "its pipe closed"
        self._reaped = True
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        said = _last_line(self._log)
        return f"{ending}: {said}" if said else ending


def _last_line(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _LOG_TAIL_BYTES))
    lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""

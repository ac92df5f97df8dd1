"""The gate's end of nursery and workers: start one on a folder of code, call it, and end it in any case."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from effbench.common.exits import Fault
from effbench.common.processes import Messages, environment, kill_group, last_line, send, tail
from effbench.common.spec import Cell, to_json

# This effbench, and not one that a compared folder may hold, nor the folder itself.
_HOME = str(Path(__file__).resolve().parents[2])
_NURSERY = """
import sys
sys.path.insert(0, sys.argv[1])
from effbench.measured import nursery
sys.path.remove(sys.argv[1])
nursery.main(int(sys.argv[2]))
"""
_START_S = 120.0


class WorkerDied(Fault):
    """A worker ended or did not answer in time; the text is the reason, ``side`` its side."""

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(reason)
        self.side = side


class NoAnswer(WorkerDied):
    """A worker did not answer in time."""


class Nursery:
    """A process that has torch and effbench imported and forks workers; see effbench/measured/nursery.py.

    ``inside`` is a folder in every worker's root whose modules come before the root's own, "" for none.
    """

    def __init__(self, inside: str = "") -> None:
        self._inside = inside
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._link, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _NURSERY, _HOME, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C in the terminal is for the gate
                # without a hook's index, which a mechanism's own calls of git would use
                env={**environment(), "OMP_WAIT_POLICY": "passive", "PYTHONDONTWRITEBYTECODE": "1"},
            )
        self._answers = Messages(self._link.fileno())
        self._ready = False

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fork(self, side: str, root: Path, descriptors: Sequence[int]) -> int:
        """Fork a worker for the code in ``root``; return its process number. Raises WorkerDied."""
        return int(self._ask(side, {"fork": str(root), "inside": self._inside}, descriptors)["pid"])

    def status(self, side: str, pid: int) -> int | None:
        """Return the exit code of a worker that has closed its pipe, None if it still runs.

        Ask once: the system then gives the process number to others.
        """
        status = self._ask(side, {"wait": pid})["status"]
        return None if status is None else int(status)

    def close(self) -> None:
        """End it and all of its workers."""
        self._link.close()
        kill_group(self._process.pid)
        self._process.wait()
        self._log.close()

    def _ask(self, side: str, message: dict[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        try:
            if not self._ready:
                self._answer()
                self._ready = True
            socket.send_fds(self._link, [json.dumps(message).encode() + b"\n"], descriptors)
            return self._answer()
        except (OSError, EOFError) as error:
            last = last_line(tail(self._log))
            raise WorkerDied(side, last or f"the process that forks workers ended: {error}") from None

    def _answer(self) -> dict[str, Any]:
        return dict(self._answers.next(time.monotonic() + _START_S))


class Worker:
    """One process with the code of one side; ``ask`` calls a method of effbench.measured.side.Side."""

    def __init__(self, nursery: Nursery, side: str, root: Path) -> None:
        self.side = side
        self._nursery = nursery
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        commands, self._commands = os.pipe()
        reading, answers = os.pipe()
        self._answers = Messages(reading)
        self._reaped = False
        try:
            self._pid = nursery.fork(side, root, (commands, answers, self._log.fileno()))
        except BaseException:
            os.close(self._commands)
            os.close(reading)
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
        """Call the worker's method ``what`` and return its answer.

        Raises NoAnswer if it takes longer than ``timeout_s``, WorkerDied if the worker ends.
        """
        try:
            send(self._commands, [what, arguments])
        except BrokenPipeError:
            raise WorkerDied(self.side, self._last_words()) from None
        return self._answer(timeout_s)

    def build(self, cells: Sequence[Cell], *, check: bool, timeout_s: float) -> list[str]:
        """Build the cells' calls; return "" for each, or the reason why it cannot be built."""
        plain = [json.loads(to_json(cell)) for cell in cells]
        allocator = cells[0].allocator
        return list(self.ask("build", plain, allocator, check, timeout_s=timeout_s))

    def close(self) -> None:
        """End the process and its group, without asking the nursery, which may be busy with an answer."""
        for descriptor in (self._commands, self._answers.descriptor):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        if not self._reaped:  # until then its number belongs to no other process
            kill_group(self._pid)
        self._log.close()

    def _answer(self, timeout_s: float) -> Any:
        try:
            return self._answers.next(time.monotonic() + timeout_s)
        except TimeoutError:
            raise NoAnswer(self.side, f"no answer within {timeout_s:.0f} s") from None
        except EOFError:
            raise WorkerDied(self.side, self._last_words()) from None

    def _last_words(self) -> str:
        code = self._nursery.status(self.side, self._pid)
        if code is None:
            return "its pipe closed"
        self._reaped = True
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        last = last_line(tail(self._log))
        return f"{ending}: {last}" if last else ending

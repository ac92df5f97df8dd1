"""The gate's end of its workers: start one on a folder of code, ask it, end it whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from effbench.spec import Cell, to_json

_SCRIPT = Path(__file__).with_name("side.py")
_START_S = 120.0
_LOG_TAIL_BYTES = 2000


class WorkerDied(RuntimeError):
    """A worker ended or did not answer in time; the text says which way, ``side`` whose it was."""

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(reason)
        self.side = side


class Worker:
    """One process that imports the code of one side; ``ask`` is a method call on effbench.gate.side.Side."""

    def __init__(self, side: str, root: Path) -> None:
        self.side = side
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._pending = b""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT), str(root), str(commands), str(answers)],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(commands, answers),
                start_new_session=True,  # Ctrl-C in the terminal is for us
                env={**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONDONTWRITEBYTECODE": "1"},
            )
        finally:
            os.close(commands)
            os.close(answers)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def greet(self) -> str:
        """Wait until it has imported what it needs; its torch's version."""
        return str(self._answer(_START_S)["hello"])

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
        """End the process and what it started."""
        for descriptor in (self._commands, self._answers):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _answer(self, timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise WorkerDied(self.side, f"no answer within {timeout_s:.0f} s")
                chunk = os.read(self._answers, 65536)
                if not chunk:
                    raise WorkerDied(self.side, self._last_words())
                self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        return json.loads(line)

    def _last_words(self) -> str:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "its pipe closed"
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_TAIL_BYTES))
        lines = [line for line in self._log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{ending}: {lines[-1].strip()}" if lines else ending

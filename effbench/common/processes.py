"""Child processes: their environment, messages through pipes, logs, and ends. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NoReturn

# `git rev-parse --local-env-vars` without the settings among them (GIT_CONFIG_PARAMETERS, GIT_CONFIG_COUNT,
# which may hold safe.directory), and other variables that name a place.
PLACES = frozenset({
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_ATTR_SOURCE", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR",
    "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE", "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
})  # fmt: skip
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CHUNK_BYTES = 65536


def environment() -> dict[str, str]:
    """Return this process's environment without the places that git hands to its hooks; its settings stay."""
    return {name: value for name, value in os.environ.items() if name not in PLACES}


def compiler_settings(folder: str) -> dict[str, str]:
    """Return the variables with which torch.compile keeps what it builds in ``folder``, and forks nothing."""
    return {"TORCHINDUCTOR_CACHE_DIR": folder, "TORCHINDUCTOR_COMPILE_THREADS": "1"}


class Messages:
    """JSON messages, one per line, that are read from a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._pending = b""

    def __iter__(self) -> Iterator[Any]:
        """Yield messages as they come, until the other end closes."""
        while self.ready() or self.fill():
            if self.ready():
                yield self.pop()

    def next(self, deadline: float) -> Any:
        """Return the next message. Raises TimeoutError at ``deadline``, EOFError at the end.

        ``deadline`` is a time of ``time.monotonic``, in seconds.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self.descriptor, selectors.EVENT_READ)
            while not self.ready():
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError("timed out")
                if not self.fill():
                    raise EOFError("its pipe closed")
        return self.pop()

    def ready(self) -> bool:
        """Return True if a whole message has been read."""
        return b"\n" in self._pending

    def fill(self) -> bool:
        """Read what there is, and wait if there is nothing; False at the end."""
        return self.add(os.read(self.descriptor, _CHUNK_BYTES))

    def add(self, data: bytes) -> bool:
        """Take bytes that were read from the descriptor elsewhere; False if there are none."""
        self._pending += data
        return bool(data)

    def pop(self) -> Any:
        """Return the first message that has been read."""
        line, self._pending = self._pending.split(b"\n", 1)
        return json.loads(line)


def send(descriptor: int, message: Any) -> None:
    """Write the message as one line of JSON to a file descriptor."""
    write_all(descriptor, json.dumps(message).encode() + b"\n")


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes to a file descriptor, however many a single write takes."""
    while data:
        data = data[os.write(descriptor, data) :]


def tail(log: IO[bytes], most: int = 4000) -> str:
    """Return the last ``most`` bytes of a log as text."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - most))
    return log.read().decode("utf-8", "replace")


def last_line(text: str) -> str:
    """Return the last line that is not blank, "" if there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def kill_group(process: int) -> None:
    """Kill the process and its group, if they are there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


def adopt_orphans() -> None:
    """Make processes whose parent ended children of this one, so that none is lost; Linux only."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have this process killed when the one that started it ends; Linux only."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def stand_alone(log: int) -> None:
    """Give a forked process a session of its own, no input, and the descriptor ``log`` for its output."""
    os.setsid()
    die_with_parent()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def leave_after(work: Callable[[], object]) -> NoReturn:
    """Do the work of a forked process and end it, so that it never returns into its parent's loop.

    The exit code is 0, or 1 if ``work`` raised; the error then goes to standard error.
    """
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:
        with contextlib.suppress(Exception):
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

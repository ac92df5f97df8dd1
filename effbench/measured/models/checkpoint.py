"""The state of a training in one file, so that a killed run continues with the same numbers."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from effbench.common import files

State = dict[str, Any]

# Least seconds between two writes without an evaluation, and greatest share of the time spent on writing.
EVERY_S = 30.0
SHARE = 0.05
_MAGIC = b"effbench checkpoint 1\n"
_DIGEST_BYTES = 32
# Expected time of the first write, before one was timed: flushing, and bytes to a slow disk.
_FLUSH_S = 0.01
_BYTES_PER_S = 200e6


class Checkpoint:
    """A checkpoint file: read once, then replaced again and again; it is complete at any moment.

    ``belongs`` is a text that identifies the training. A file that was written for another text, or whose
    digest does not fit its bytes, is ignored; ``note`` gives the reason, and also an error in writing. The
    moments of writing depend on the time alone (``clock`` in seconds) and have no influence on the training.
    ``spent_s`` is the time spent on writing in this process.
    """

    def __init__(
        self,
        path: Path,
        belongs: str,
        *,
        every_s: float = EVERY_S,
        share: float = SHARE,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.path, self.spent_s = path, 0.0
        self._ignored_because = self._unwritten_because = ""
        self._belongs = hashlib.sha256(belongs.encode()).digest()
        self._every_s, self._share, self._clock = every_s, share, clock
        self._began = self._wrote = clock()
        self._cost_s: float | None = None

    @property
    def note(self) -> str:
        """A warning about the file for the person who reads the progress; empty if there is none."""
        return ", ".join(text for text in (self._ignored_because, self._unwritten_because) if text)

    def read(self) -> State | None:
        """Return the saved state, on the CPU; None (and a ``note``, if there is a file) if none is usable."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.ignore(f"it cannot be read ({error.strerror or error})")
            return None
        start = len(_MAGIC) + 2 * _DIGEST_BYTES
        belongs, digest = data[len(_MAGIC) : start - _DIGEST_BYTES], data[start - _DIGEST_BYTES : start]
        if not data.startswith(_MAGIC) or hashlib.sha256(belongs + data[start:]).digest() != digest:
            self.ignore("it is damaged or not a checkpoint of this version")
            return None
        if belongs != self._belongs:
            self.ignore("it belongs to another cell, code, data or machine")
            return None
        try:
            state = torch.load(io.BytesIO(memoryview(data)[start:]), map_location="cpu", weights_only=True)
        except Exception as error:  # another torch wrote it; the errors have no common class
            self.ignore(f"torch cannot read it ({type(error).__name__})")
            return None
        assert isinstance(state, dict)
        return state

    def ignore(self, why: str) -> None:
        """Note why the file is not used."""
        self._ignored_because = f"training anew: ignored the checkpoint, {why}"

    def due(self, *, evaluated: bool, size: int) -> bool:
        """True if it is time to write: after an evaluation, or long after the last write.

        ``size`` is the number of bytes that would be written; False while writing would take too large a
        share of the time.
        """
        now = self._clock()
        if not evaluated and now - self._wrote < self._every_s:
            return False
        cost_s = _FLUSH_S + size / _BYTES_PER_S if self._cost_s is None else self._cost_s
        return self.spent_s + cost_s <= self._share * (now - self._began)

    def write(self, state: State) -> None:
        """Replace the file by ``state``: write another file beside it, flush it to the disk, rename it.

        A disk error costs the checkpoint and does not end the training: ``note`` reports it.
        """
        began = self._clock()
        partial = self.path.with_name(f"{self.path.name}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # always the same name, so that killed trainings leave one half-written file at most
            with files.replacing(self.path, partial) as file:
                head = _MAGIC + self._belongs
                file.write(head + bytes(_DIGEST_BYTES))
                body = _Hashed(file, self._belongs)
                torch.save(state, body)  # type: ignore[arg-type]
                body.check()
                file.seek(len(head))
                file.write(body.digest())
            self._unwritten_because = ""
        except OSError as error:
            self._unwritten_because = f"no checkpoint: cannot write {self.path} ({error.strerror or error})"
        self._wrote = self._clock()
        self._cost_s = self._wrote - began
        self.spent_s += self._cost_s


class _Hashed:
    """A writer for torch.save that passes bytes on to a file and computes their digest.

    torch does not survive an error while it writes, so the error is kept until ``check`` raises it.
    """

    def __init__(self, file: IO[bytes], salt: bytes) -> None:
        self._file, self._hash = file, hashlib.sha256(salt)
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write the next bytes."""
        self._hash.update(data)
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Do nothing: the file is flushed once it is complete."""

    def check(self) -> None:
        """Raise the error of an earlier write, if there was one."""
        if self._error is not None:
            raise self._error

    def digest(self) -> bytes:
        """Return the digest of the salt and all bytes written."""
        return self._hash.digest()

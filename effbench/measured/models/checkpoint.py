"""The state of a training in one file, so that a killed run goes on with the same numbers."""

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

# So often at most between evaluations, and never so often that writing takes a larger share of the time.
EVERY_S = 30.0
SHARE = 0.05
_MAGIC = b"effbench checkpoint 1\n"
_DIGEST_BYTES = 32
# What a first write is expected to take, before one was timed: flushing, and bytes to a slow disk.
_FLUSH_S = 0.01
_BYTES_PER_S = 200e6


class Checkpoint:
    """A checkpoint file: read once, then written over and over, whole at any moment.

    ``belongs`` says what the training is of: a file that was written for another text is not used, nor is
    one whose digest does not fit its bytes; ``note`` then says why, and what went wrong in writing. When to
    write depends on the time alone (``clock`` in seconds), so that it must not change what is trained.
    ``spent_s`` is what writing took in this process.
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
        """What a person should know about the file, "" if nothing."""
        return ", ".join(text for text in (self._ignored_because, self._unwritten_because) if text)

    def read(self) -> State | None:
        """What was saved, on the CPU; None, with a ``note`` if there is a file, where there is nothing."""
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
        except (
            Exception
        ) as error:  # it is as it was written, but this torch does not read it: of no one class
            self.ignore(f"torch cannot read it ({type(error).__name__})")
            return None
        assert isinstance(state, dict)
        return state

    def ignore(self, why: str) -> None:
        """Say why the file is not used."""
        self._ignored_because = f"training anew: ignored the checkpoint, {why}"

    def due(self, *, evaluated: bool, size: int) -> bool:
        """Whether to write now: after an evaluation, or long after the last time, if the time allows it.

        ``size`` in bytes is what would be written.
        """
        now = self._clock()
        if not evaluated and now - self._wrote < self._every_s:
            return False
        cost_s = _FLUSH_S + size / _BYTES_PER_S if self._cost_s is None else self._cost_s
        return self.spent_s + cost_s <= self._share * (now - self._began)

    def write(self, state: State) -> None:
        """Replace the file by ``state``: beside it, flushed to the disk, renamed.

        A disk that does not take it costs the checkpoint and not the training: ``note`` says so.
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
    """What torch.save writes to: passes on to a file and digests.

    torch does not survive an error while it writes: it is kept until ``check`` raises it.
    """

    def __init__(self, file: IO[bytes], salt: bytes) -> None:
        self._file, self._hash = file, hashlib.sha256(salt)
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Take the next bytes."""
        self._hash.update(data)
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """The file is flushed once it is whole."""

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error

    def digest(self) -> bytes:
        """Of all that was written, after the salt."""
        return self._hash.digest()

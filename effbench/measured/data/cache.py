"""Prepared data on disk: one file per key, with a digest, written so that no reader sees half a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effbench.common.files import replacing
from effbench.common.machine import cache_dir

Arrays = dict[str, NDArray[Any]]

# A file is this line, a digest of the key and all that follows, and an .npz archive.
_MAGIC = b"effbench prepared data 1\n"
_DIGEST_BYTES = 32


def cached(
    name: str,
    key: Mapping[str, object],
    make: Callable[[], Arrays],
    confirm: Callable[[], None] | None = None,
) -> Arrays:
    """Return the arrays that ``make()`` returns, from disk if they were made for this key before.

    ``key`` must have everything that the arrays depend on, a version number of the code included, as plain
    JSON. ``confirm`` is called after they are made and before they are kept: it raises if the key has become
    wrong. A damaged file is made anew. Where no file can be written, the next caller makes the arrays again.
    """
    text = json.dumps(dict(key), sort_keys=True)
    path = cache_dir() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"
    arrays = _read(path, text)
    if arrays is None:
        arrays = make()
        if confirm is not None:
            confirm()
        with contextlib.suppress(OSError):  # the next caller makes them again, with the same numbers
            _write(path, text, arrays)
    return arrays


def _read(path: Path, key: str) -> Arrays | None:
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC) + _DIGEST_BYTES)
            digest = hashlib.blake2b(key.encode(), digest_size=_DIGEST_BYTES)
            while chunk := file.read(2**20):
                digest.update(chunk)
            if head != _MAGIC + digest.digest():
                return None
            file.seek(len(head))
            stored = np.load(file, allow_pickle=False)
            return {name: stored[name] for name in stored.files}
    except OSError:
        return None


def _write(path: Path, key: str, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(_MAGIC + bytes(_DIGEST_BYTES))
        np.savez(file, **arrays)  # type: ignore[arg-type]
        digest = hashlib.blake2b(key.encode(), digest_size=_DIGEST_BYTES)
        file.seek(len(_MAGIC) + _DIGEST_BYTES)
        while chunk := file.read(2**20):
            digest.update(chunk)
        file.seek(len(_MAGIC))
        file.write(digest.digest())

"""Prepared data on disk: one .npz a key, written so that a reader never sees half a file."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effbench.machine import cache_dir
from effbench.spec import UsageError

Arrays = dict[str, NDArray[Any]]


def cached(name: str, key: Mapping[str, object], make: Callable[[], Arrays]) -> Arrays:
    """The arrays that ``make()`` returns, from disk if they were made for this key before.

    ``key`` must hold everything that the arrays depend on, a version number of the code included, as plain
    JSON. A file that cannot be read in full (it has a checksum for each array) is made anew.
    """
    text = json.dumps(dict(key), sort_keys=True)
    path = cache_dir() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"
    arrays = _read(path)
    if arrays is None:
        arrays = make()
        _write(path, arrays)
    return arrays


def _read(path: Path) -> Arrays | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                return None
            file.seek(0)
            stored = np.load(file, allow_pickle=False)
            return {name: stored[name] for name in stored.files}
    # What a cut, overwritten or bit-flipped archive raises, by where the damage is.
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error):
        return None


def _write(path: Path, arrays: Arrays) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(
            f"cannot write prepared data to {path.parent}: {error.strerror}; set XDG_CACHE_HOME to a folder"
        ) from None

"""Pathfinder: tell whether two discs are on one contour, in images drawn or read from LRA's files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Literal

import numpy as np

from effbench.common.extent import Extent
from effbench.common.files import entries, is_dir, read_bytes, refuse_special
from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.baseline_scores import prior
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.examples import Examples, Splits
from effbench.measured.data.grey_png import FILE_BYTES, DamagedImage, OtherImage, grey_levels
from effbench.measured.data.pathfinder_dashes import SIDES, Bytes, Ints, shape_of
from effbench.measured.data.pathfinder_images import BLOCK, images
from effbench.measured.data.reading import decoded, folder_of, lines, unchanged
from effbench.measured.tasks.base import Classification, LastRead, require

FOLDERS = {
    "baseline": "curv_baseline",
    "intermediate": "curv_contour_length_9",
    "hard": "curv_contour_length_14",
}
LEVELS = 256
ORIGINS = ("auto", "generated", "files")

_VERSION = 1  # of the generator and the reader: raise it when their output changes
_FEWEST = 10  # images of a difficulty
_LENGTHS = ", ".join(str(side * side) for side in SIDES)


class Pathfinder(Classification):
    """Tell whether two discs are on the same dashed contour (Long Range Arena's Pathfinder), 2 classes.

    An image of side² grey levels is read row by row; its side is 32, 64 or 128 as seq_len is 1024, 4096 or
    16384. ``contour`` is the difficulty: contours of 6, 9 or 14 dashes (LRA reports 14). Without a data
    folder ``train``, ``validation`` and ``test`` images are drawn as the original generator draws them, with
    LRA's settings; the defaults are LRA's sizes.

    With a data folder LRA's release is read instead: ``pathfinder<side>/<difficulty>/metadata/<n>.npy``,
    which is text, and the PNG files that it names. Empty files are left out and counted in ``empty_images``.
    The images are divided 80/10/10 by the seed and then cut to the sizes. ``data=generated`` draws images
    also with a data folder.
    """

    source = "Linsley et al. 2018 (arXiv 1805.08315); Tay et al. 2021, Long Range Arena (arXiv 2011.04006)"

    contour: Literal["baseline", "intermediate", "hard"] = "hard"
    train: int = 160_000
    validation: int = 20_000
    test: int = 20_000
    data_: Literal["auto", "generated", "files"] = "auto"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Examples of the training, validation and test parts."""
        return self.train, self.validation, self.test

    @cached_property
    def _releases(self) -> LastRead[_Release]:
        return LastRead(_read)

    def check_options(self) -> None:
        """Refuse unknown difficulties and empty parts."""
        super().check_options()
        require(self.contour in FOLDERS, f"contour is {self.contour!r}, not {', '.join(FOLDERS)}")
        require(min(self.sizes) >= 1, "train, validation and test must each be at least 1")
        require(self.data_ in ORIGINS, f"data is {self.data_!r}, not auto, generated or files")

    def fingerprint(self, data_dir: Path | None) -> str:
        """Read LRA's files of this difficulty at every side that is there, if the task uses them."""
        if not self._from_files(data_dir):
            return ""
        folders = {_difficulty(data_dir, side, self.contour) for side in SIDES}
        there = sorted(filter(is_dir, folders)) or [min(folders)]  # reading says what is missing
        fingerprints = []
        for folder in there:
            release = self._releases.anew(folder)
            _images(release)
            fingerprints.append(release.fingerprint)
        return hashlib.sha256("".join(fingerprints).encode()).hexdigest()[:16]

    def check_length(self, seq_len: int, data_dir: Path | None) -> None:
        """Refuse a length that is no square image's, or whose images the files do not have."""
        side = _side(seq_len)
        if self._from_files(data_dir):
            self._images_of(_difficulty(data_dir, side, self.contour), side)

    def extent(self, seq_len: int, seed: int, data_dir: Path | None) -> Extent:
        """Return the images of each part, all of ``seq_len`` levels."""
        sizes = list(self.sizes)
        if self._from_files(data_dir):
            parts, _ = self._divided(
                _difficulty(data_dir, _side(seq_len), self.contour), _side(seq_len), seed
            )
            sizes = [len(part) for part in parts]
        return self.extent_of(*(np.broadcast_to(seq_len, size) for size in sizes))

    def prepare(self, seq_len: int, seed: int, data_dir: Path | None) -> None:
        """Draw the images."""
        if not self._from_files(data_dir):
            for part in range(3):
                self._drawn(part, _side(seq_len), seed)

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Return images of ``seq_len`` levels drawn with ``seed``, or the files' divided by it."""
        side = _side(seq_len)
        facts: dict[str, int] = {}
        if self._from_files(data_dir):
            parts, facts["empty_images"] = self._divided(
                _difficulty(data_dir, side, self.contour), side, seed
            )
        else:
            parts = [self._drawn(part, side, seed) for part in range(3)]
        train, validation, test = parts
        return Splits(
            train=train,
            validation=validation,
            test=test,
            vocab_size=LEVELS + 1,
            classes=2,
            priors={"majority": prior(train, test)},
            facts=facts,
        )

    def _from_files(self, data_dir: Path | None) -> bool:
        if self.data_ == "files" and data_dir is None:
            raise UsageError(
                "pathfinder:data=files needs --data-dir DIR, with pathfinder32/" + FOLDERS[self.contour]
            )
        return self.data_ != "generated" and data_dir is not None

    def _drawn(self, part: int, side: int, seed: int) -> Examples:
        """Draw a part with a seed sequence of its own: its images do not depend on the others' sizes."""
        shape, count = shape_of(side, self.contour), self.sizes[part]
        key = {
            "version": _VERSION,
            "block": BLOCK,
            "seed": seed,
            "part": part,
            "count": count,
            **asdict(shape),
        }

        def make() -> Arrays:
            pixels, labels = images(count, shape, (seed, part))
            return {"pixels": pixels, "labels": labels}

        arrays = cached("pathfinder", key | asdict(shape), make)
        return _examples(arrays["pixels"], arrays["labels"])

    def _divided(self, folder: Path, side: int, seed: int) -> tuple[list[Examples], int]:
        arrays, empty = self._images_of(folder, side)
        pixels, labels = arrays["pixels"], arrays["labels"]
        order = np.random.default_rng(seed).permutation(len(labels))
        tenth = len(labels) // 10
        ends = (len(labels) - 2 * tenth, len(labels) - tenth, len(labels))
        parts = []
        for first, end, size in zip((0, *ends), ends, self.sizes, strict=False):
            rows = order[first:end][:size]
            parts.append(_examples(pixels[rows], labels[rows]))
        return parts, empty

    def _images_of(self, folder: Path, side: int) -> tuple[Arrays, int]:
        """Return the folder's images, if they have this side and can be divided, and how many are empty."""
        release = self._releases.of(folder)
        arrays = _images(release)
        count, height, _ = arrays["pixels"].shape
        if height != side:
            raise UsageError(
                f"{folder}: its images have {height} x {height} pixels; seq_len {side * side} means "
                f"{side} x {side}"
            )
        if count < _FEWEST:
            raise UsageError(f"{folder}: {count} images, and 80/10/10 needs at least {_FEWEST}")
        return arrays, release.empty


def _side(seq_len: int) -> int:
    side = isqrt(seq_len)
    if side * side != seq_len or side not in SIDES:
        raise UsageError(f"pathfinder: seq_len is {seq_len}, not {_LENGTHS}, a square image's levels")
    return side


def _examples(pixels: Bytes, labels: Ints) -> Examples:
    """Return images [n, side, side] as rows of tokens: level v is token v + 1, since 0 is padding."""
    size = pixels.shape[1] * pixels.shape[2]
    tokens = pixels.reshape(-1).astype(np.uint16)
    tokens += 1
    return Examples(tokens=tokens, starts=np.arange(len(pixels) + 1) * size, labels=labels)


# LRA's files.


@dataclass(frozen=True, kw_only=True)
class _Release:
    """A difficulty's images that are not empty: the place that names each, its file and label."""

    folder: Path
    rows: list[tuple[str, Path, int]]
    empty: int
    fingerprint: str


def _difficulty(data_dir: Path | None, side: int, contour: str) -> Path:
    name = f"pathfinder{side}"
    folder = folder_of(data_dir, f"lra_release/lra_release/{name}", name, f"lra_samples/{name}")
    assert folder is not None
    return folder / FOLDERS[contour]


def _images(release: _Release) -> Arrays:
    """Return pixels [n, side, side] and labels [n] of the images that are not empty."""
    key = {"version": _VERSION, "digest": release.fingerprint}
    again = unchanged(release.fingerprint, lambda: _read(release.folder).fingerprint, release.folder)
    return cached("pathfinder-files", key, lambda: _pixels(release), again)


def _read(folder: Path | None) -> _Release:
    """Read all files of a difficulty's folder, without decoding the images."""
    assert folder is not None
    lists = [path for path in _listed(folder / "metadata") if path.suffix == ".npy"]
    lists.sort(key=lambda path: (int(path.stem) if re.fullmatch("[0-9]{1,9}", path.stem) else -1, path.name))
    if not lists:
        raise UsageError(
            f"{folder / 'metadata'}: no <n>.npy file there; pathfinder reads those of LRA's release and the "
            "images that they name (pathfinder:data=generated needs no files)"
        )
    digest = hashlib.sha256()
    rows, empty = [], 0
    for path in lists:
        for where, name, label in _metadata(path):
            content = _image_bytes(where, folder / name)
            digest.update(f"{name} {label} {len(content)} ".encode())
            digest.update(content)
            if content:
                rows.append((where, folder / name, label))
            else:
                empty += 1
    if not rows:
        raise UsageError(f"{folder}: of the {empty} images named in metadata/ all are empty")
    return _Release(folder=folder, rows=rows, empty=empty, fingerprint=digest.hexdigest()[:16])


def _listed(folder: Path) -> list[Path]:
    return entries(folder) if is_dir(folder) else []


def _image_bytes(where: str, path: Path) -> bytes:
    try:
        refuse_special(path)
        return read_bytes(path, FILE_BYTES)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _metadata(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield (file and line, image's path inside the folder, label) of each row of a metadata file."""
    for number, line in lines(path):
        where = f"{path}:{number}"
        if not line.isascii() or b"\0" in line:
            raise UsageError(
                f"{where}: not text; expected lines 'imgs/0 sample_0.png 0 <label> ...', as in LRA's release"
            )
        fields = decoded(line, where).split()
        if len(fields) < 4:
            raise UsageError(f"{where}: {len(fields)} fields, not 'imgs/0 sample_0.png 0 <label> ...'")
        if fields[3] not in ("0", "1"):
            raise UsageError(f"{where}: field 4, the label, is {shown(fields[3])}, not 0 or 1")
        yield where, f"{fields[0]}/{fields[1]}", int(fields[3])


def _pixels(release: _Release) -> Arrays:
    """Decode every image: all have the first one's side."""
    sides: tuple[int, ...] = SIDES
    pixels = np.empty(0, dtype=np.uint8)
    for i, (where, path, _) in enumerate(release.rows):
        try:
            levels = grey_levels(_image_bytes(where, path), sides)
        except DamagedImage as error:
            raise UsageError(f"{where}: {path} is not a whole PNG image: {error}") from None
        except OtherImage as error:
            raise UsageError(f"{where}: {path}: {error}") from None
        if i == 0:
            sides = (len(levels),)
            pixels = np.empty((len(release.rows), *levels.shape), dtype=np.uint8)
        pixels[i] = levels
    return {"pixels": pixels, "labels": np.array([label for _, _, label in release.rows], dtype=np.int64)}

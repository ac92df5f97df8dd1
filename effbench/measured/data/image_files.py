"""CIFAR-10 and Fashion-MNIST as grey images with a label: every format of their files, and the hub."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import pickletools
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effbench.common.files import is_file, why
from effbench.common.spec import UsageError
from effbench.measured.data.cache import Arrays
from effbench.measured.data.examples import Integers
from effbench.measured.data.reading import content, folder_of

SIDE = 32
CLASSES = 10
HUB = "uoft-cs/cifar10"
SYSTEM_FASHION = Path("/usr/share/datasets/fashion-mnist")  # the folder of Debian's dataset-fashion-mnist

BINARY = ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin")
PICKLED = ("cifar-10-batches-py", "cifar-10-python.tar.gz", "")
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
IDX = {"train": "train", "test": "t10k"}
VERSION = 1  # of the readers and the conversion to grey: raise it when their output changes

_BATCH_BYTES = 256 * 2**20  # of one of the files that hold images: the largest has 47 MB
_ROW = 1 + 3 * SIDE * SIDE  # bytes of an image in the binary version, its label first
_FASHION_SIDE = 28
_IDX_IMAGES, _IDX_LABELS = 0x803, 0x801  # magic numbers: unsigned bytes in 3 dimensions, in 1

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images not read yet: a digest of all bytes, and a reader of {train,test}_pixels and _labels."""

    digest: str
    read: Callable[[], Arrays]


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file's name for messages, and its content."""

    name: str
    content: bytes


def _digest(files: Sequence[_File]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.content).digest())
    return digest.hexdigest()[:16]


def grey(rgb: Pixels) -> Pixels:
    """Turn red, green and blue levels [..., 3] into grey ones [...]: ITU-R 601's luma by TensorFlow's rule.

    rgb_to_grayscale takes levels to [0, 1] and back by multiplying with 255.5 and cutting off, in float32.
    """
    luma: NDArray[np.float32] = (rgb.astype(np.float32) / np.float32(255)) @ np.array(
        [0.2989, 0.587, 0.114], dtype=np.float32
    )
    return (luma * np.float32(255.5)).astype(np.uint8)


def _check_labels(labels: Integers, where: str, header: int | None = None, stride: int = 1) -> None:
    """Raise UsageError for a wrong label; ``header`` and ``stride`` tell its byte in the file, if any."""
    wrong = np.flatnonzero((labels < 0) | (labels >= CLASSES))
    if len(wrong):
        row = int(wrong[0])
        place = "" if header is None else f" (byte {header + row * stride})"
        raise UsageError(
            f"{where}: the label of image {row + 1}{place} is {labels[row]}, not 0 to {CLASSES - 1}"
        )


def cifar(data_dir: Path | None) -> ImageSet:
    """Return CIFAR-10 from the data folder, or from the hub without one.

    Raises UsageError where it is not there.
    """
    folder = folder_of(data_dir, "cifar-10", "cifar10", "lra-image")
    if folder is None:
        return _hub()
    for kind in (BINARY, PICKLED):
        files = _batches(folder, *kind)
        if files:
            reader = _binary if kind is BINARY else _pickled
            return ImageSet(digest=_digest(files), read=partial(_joined, files, reader))
    raise UsageError(
        f"{folder}: CIFAR-10 is not there: none of {BINARY[0]}/, {BINARY[1]}, {PICKLED[0]}/, {PICKLED[1]} "
        "(lra-image:dataset=fashion-mnist reads another set)"
    )


def _batches(folder: Path, name: str, archive: str, suffix: str) -> list[_File]:
    """Return the six files of one version from its folder, ``folder`` or its archive; [] without them."""
    names = [f"{batch}{suffix}" for batch in BATCHES]
    inside = next((f for f in (folder / name, folder) if any(is_file(f / n) for n in names)), None)
    if inside is not None:
        return [_File(name=str(inside / n), content=content(inside / n, _BATCH_BYTES)) for n in names]
    path = folder / archive
    if not is_file(path):
        return []
    members: dict[str, bytes] = {}
    unpacked = io.BytesIO(content(path))
    try:
        with tarfile.open(fileobj=unpacked, mode="r|") as tar:  # "|": never back, where a damaged one circles
            for member in tar:
                file = tar.extractfile(member) if member.isreg() and _base(member) in names else None
                if file is not None:
                    members[_base(member)] = file.read()
    except Exception as error:  # a damaged archive raises nearly anything
        raise UsageError(f"{path}: cannot be unpacked: {why(error)}") from None
    for n in names:
        if n not in members:
            raise UsageError(f"{path}: there is no {n} in it")
    return [_File(name=f"{path}:{n}", content=members[n]) for n in names]


def _base(member: tarfile.TarInfo) -> str:
    return member.name.rpartition("/")[2]


def _joined(files: Sequence[_File], reader: Callable[[_File], tuple[Pixels, Integers]]) -> Arrays:
    parts = [reader(file) for file in files]
    return {
        "train_pixels": np.concatenate([pixels for pixels, _ in parts[:-1]]),
        "train_labels": np.concatenate([labels for _, labels in parts[:-1]]),
        "test_pixels": parts[-1][0],
        "test_labels": parts[-1][1],
    }


def _binary(file: _File) -> tuple[Pixels, Integers]:
    """Return (grey pixels, labels) of rows of a label and 1,024 bytes each of red, green and blue."""
    if not file.content or len(file.content) % _ROW:
        raise UsageError(
            f"{file.name}: {len(file.content)} bytes are not a whole number of images of {_ROW} bytes"
        )
    rows = np.frombuffer(file.content, dtype=np.uint8).reshape(-1, _ROW)
    labels = rows[:, 0].astype(np.int64)
    _check_labels(labels, file.name, header=0, stride=_ROW)
    return _grey_planes(rows[:, 1:]), labels


def _grey_planes(planes: Pixels) -> Pixels:
    """Turn [n, 3 * 32 * 32], one plane per colour, into grey [n, 32, 32]."""
    return grey(np.moveaxis(planes.reshape(-1, 3, SIDE, SIDE), 1, -1))


class _ArraysOnly(pickle.Unpickler):
    """A reader of arrays and plain values that refuses a file which names anything else to call."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return _dtype if name == "dtype" else np.ndarray
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _reconstruct
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array of pixels needs")


def _dtype(kind: object, *_: object) -> np.dtype[np.uint8]:
    if kind not in (b"u1", "u1"):
        raise pickle.UnpicklingError(f"an array has type {kind!r}, not bytes (u1)")
    return np.dtype(np.uint8)


def _reconstruct(*_: object) -> NDArray[np.uint8]:
    return np.empty(0, dtype=np.uint8)  # its shape and content follow in the file


def _pickled(file: _File) -> tuple[Pixels, Integers]:
    """Return (grey pixels, labels) of a pickled dictionary with b"data" [n, 3072] and b"labels"."""
    try:
        _refuse_large_memo(file.content)
        batch = _ArraysOnly(io.BytesIO(file.content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UsageError(f"{file.name}: not a batch of CIFAR-10's Python version: {why(error)}") from None
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= set(batch):
        raise UsageError(f"{file.name}: not a dictionary with b'data' and b'labels'")
    data, labels = batch[b"data"], batch[b"labels"]
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.shape[1:] != (_ROW - 1,)
        or not len(data)
    ):
        shape = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise UsageError(f"{file.name}: b'data' is {shape}, not uint8 [n, {_ROW - 1}]")
    if not isinstance(labels, list) or len(labels) != len(data) or {type(label) for label in labels} != {int}:
        raise UsageError(f"{file.name}: b'labels' is not a list of {len(data)} integers, one an image")
    numbers = np.array(labels)
    _check_labels(numbers, file.name)
    return _grey_planes(data), numbers


def _refuse_large_memo(content: bytes) -> None:
    """Raise where a number in the pickle would make the unpickler allocate up to 2^32 places."""
    for operation, argument, place in pickletools.genops(content):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(content):
            raise pickle.UnpicklingError(f"byte {place}: place {argument} of its memory")


def _hub() -> ImageSet:
    instead = f"or pass --data-dir DIR with {BINARY[0]}/ or {PICKLED[0]}/"
    try:
        from datasets import load_dataset
    except ImportError:
        raise UsageError(
            f"lra-image needs CIFAR-10: pip install 'effbench[data]' to download it, {instead}"
        ) from None
    arrays: Arrays = {}
    digest = hashlib.sha256()
    for split in ("train", "test"):
        try:
            rows = load_dataset(HUB, split=split)
            pixels, labels = np.stack([np.asarray(image) for image in rows["img"]]), np.array(rows["label"])
        except Exception as error:  # the library and its transports have no common class of errors
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"lra-image: {HUB} cannot be loaded ({type(error).__name__}: {reason}); check the network, "
                f"{instead}"
            ) from None
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (SIDE, SIDE, 3):
            raise UsageError(
                f"{HUB} {split}: images are {pixels.dtype} {list(pixels.shape)}, not [n, 32, 32, 3]"
            )
        _check_labels(labels, f"{HUB} {split}")
        digest.update(pixels.tobytes() + labels.astype(np.uint8).tobytes())
        arrays |= {f"{split}_pixels": grey(pixels), f"{split}_labels": labels}
    return ImageSet(digest=digest.hexdigest()[:16], read=lambda: arrays)


def fashion(data_dir: Path | None) -> ImageSet:
    """Return Fashion-MNIST from the data folder or Debian's package, padded to 32 x 32 pixels.

    Raises UsageError where it is not there.
    """
    own = folder_of(data_dir, "fashion-mnist", "fashion_mnist", "lra-image")
    folders = [folder for folder in (own, SYSTEM_FASHION) if folder is not None]
    kinds = ("images-idx3", "labels-idx1")
    names = {(split, kind): f"{prefix}-{kind}-ubyte" for split, prefix in IDX.items() for kind in kinds}
    for folder in folders:
        paths = {key: _idx_file(folder, name) for key, name in names.items()}
        if any(paths.values()):
            break
    else:
        raise UsageError(
            f"{' and '.join(map(str, folders))}: there is no {names['train', kinds[0]]} (or .gz); pass "
            "--data-dir DIR with Fashion-MNIST's four files, or install Debian's dataset-fashion-mnist"
        )
    files: dict[tuple[str, str], _File] = {}
    for key, path in paths.items():
        if path is None:
            raise UsageError(f"{folder}: there is no {names[key]} (or .gz)")
        files[key] = _File(name=str(path), content=content(path, _BATCH_BYTES))

    def read() -> Arrays:
        arrays: Arrays = {}
        for split in IDX:
            images, labels = files[split, kinds[0]], files[split, kinds[1]]
            pixels = _idx(images, _IDX_IMAGES, (_FASHION_SIDE, _FASHION_SIDE))
            numbers = _idx(labels, _IDX_LABELS, ()).astype(np.int64)
            if len(numbers) != len(pixels):
                raise UsageError(f"{labels.name}: {len(numbers)} labels for {len(pixels)} images")
            _check_labels(numbers, labels.name, header=8)
            margin = (SIDE - _FASHION_SIDE) // 2
            arrays[f"{split}_pixels"] = np.pad(pixels, ((0, 0), (margin, margin), (margin, margin)))
            arrays[f"{split}_labels"] = numbers
        return arrays

    return ImageSet(digest=_digest(list(files.values())), read=read)


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((path for suffix in ("", ".gz") if is_file(path := folder / f"{name}{suffix}")), None)


def _idx(file: _File, magic: int, shape: tuple[int, ...]) -> Pixels:
    """Return [n, *shape] of an idx file: big-endian 32-bit magic number and sizes, then unsigned bytes."""
    header = 4 * (2 + len(shape))
    if len(file.content) < header:
        raise UsageError(f"{file.name}: {len(file.content)} bytes, less than the header of {header}")
    first, count, *sizes = np.frombuffer(file.content, dtype=">u4", count=2 + len(shape)).tolist()
    if first != magic:
        raise UsageError(f"{file.name}: the magic number is {first:#x}, not {magic:#x}")
    if tuple(sizes) != shape:
        raise UsageError(
            f"{file.name}: images of {'x'.join(map(str, sizes))}, not {'x'.join(map(str, shape))}"
        )
    expected = header + count * math.prod(shape)
    if count == 0 or len(file.content) != expected:
        raise UsageError(f"{file.name}: {len(file.content)} bytes, not the {expected} that {count} rows take")
    return np.frombuffer(file.content, dtype=np.uint8, offset=header).reshape(count, *shape)

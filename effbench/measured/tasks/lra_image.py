"""Images as sequences of grey pixels: CIFAR-10 as in Long Range Arena, or Fashion-MNIST."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from effbench.common.extent import Extent
from effbench.common.spec import UsageError
from effbench.measured.data.baseline_scores import pixel_logreg, prior
from effbench.measured.data.cache import Arrays, cached
from effbench.measured.data.examples import Examples, Integers, Splits, stratified_order
from effbench.measured.data.image_files import CLASSES, SIDE, VERSION, Pixels, cifar, fashion
from effbench.measured.tasks.base import LastRead, Sized, require

SIDES = (32, 16, 8)  # seq_len 1024, 256 and 64
LEVELS = 256
SETS = {"cifar10": cifar, "fashion-mnist": fashion}

_BASELINE_VERSION = 2  # of the linear model


class GreyImage(Sized):
    """Classify an image from its grey pixels in reading order (Long Range Arena's Image), 10 classes.

    ``dataset=cifar10`` reads from the data folder CIFAR-10's binary version (cifar-10-batches-bin or
    cifar-10-binary.tar.gz) or its Python version (cifar-10-batches-py or cifar-10-python.tar.gz); without a
    data folder, ``uoft-cs/cifar10`` through the ``datasets`` library. Grey is LRA's, which is TensorFlow's
    rgb_to_grayscale: 0.2989 R + 0.587 G + 0.114 B. ``dataset=fashion-mnist`` is not in LRA: it reads
    {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz], or those of Debian's package dataset-fashion-mnist
    where the data folder has none, and pads 28x28 pixels with two black ones on each side.

    Level v has id v + 1. seq_len must be 1024, 32x32 pixels; or 256 or 64, for which each 2x2 or 4x4 pixels
    are averaged. The last tenth of the official training part, in the files' order, is for validation (LRA
    takes the last tenth of its own order). ``train``, ``validation`` and ``test`` images are drawn from
    their parts, stratified by class (0: all).

    Compare scores with the baseline score ``logreg_pixels``: logistic regression on the pixels of 10,000
    training images.
    """

    source = "Krizhevsky 2009, CIFAR-10; Tay et al. 2021, Long Range Arena (arXiv 2011.04006)"

    dataset: Literal["cifar10", "fashion-mnist"] = "cifar10"

    def check_options(self) -> None:
        """Refuse other data sets too."""
        super().check_options()
        require(self.dataset in SETS, f"dataset is {self.dataset!r}, not cifar10 or fashion-mnist")

    def fingerprint(self, data_dir: Path | None) -> str:
        """Read every image, so that errors in the files show before anything is measured."""
        arrays, digest = self._images.anew(data_dir)
        self._rows(arrays, 0)
        return digest

    def check_length(self, seq_len: int, data_dir: Path | None) -> None:
        """Refuse a length that no image has."""
        _side(seq_len)

    def extent(self, seq_len: int, seed: int, data_dir: Path | None) -> Extent:
        """Return the images of each part, all of ``seq_len`` pixels."""
        rows = self._rows(self._images.of(data_dir)[0], seed)
        return self.extent_of(
            *(np.broadcast_to(seq_len, len(rows[part])) for part in ("train", "validation", "test"))
        )

    def prepare(self, seq_len: int, seed: int, data_dir: Path | None) -> None:
        """Compute the baseline score."""
        self.data(seq_len, seed, data_dir)

    def data(self, seq_len: int, seed: int, data_dir: Path | None) -> Splits:
        """Return images of exactly ``seq_len`` pixels; ``seed`` draws the subsets."""
        side = _side(seq_len)
        arrays, digest = self._images.of(data_dir)
        rows = self._rows(arrays, seed)

        def part(split: str, chosen: Integers) -> Examples:
            pixels = shrink(arrays[f"{split}_pixels"][chosen], side)
            return Examples(
                tokens=pixels.reshape(-1).astype(np.int16) + 1,
                starts=np.arange(len(chosen) + 1) * seq_len,
                labels=arrays[f"{split}_labels"][chosen],
            )

        train, validation, test = (
            part(split, rows[name])
            for split, name in (("train", "train"), ("train", "validation"), ("test", "test"))
        )
        key = {
            "version": _BASELINE_VERSION,
            "images": VERSION,
            "digest": digest,
            "seed": seed,
            "sizes": self.sizes,
            "seq_len": seq_len,
        }
        linear = cached(
            "lra-image-prior",
            key,
            lambda: {"accuracy": np.array(pixel_logreg(train, validation, test, LEVELS))},
        )
        return Splits(
            train=train,
            validation=validation,
            test=test,
            vocab_size=LEVELS + 1,
            classes=CLASSES,
            priors={"majority": prior(train, test), "logreg_pixels": float(linear["accuracy"])},
        )

    @cached_property
    def _images(self) -> LastRead[tuple[Arrays, str]]:
        return LastRead(self._read)

    def _read(self, data_dir: Path | None) -> tuple[Arrays, str]:
        """Return ({train,test}_pixels [n, 32, 32] and _labels [n], digest of all bytes)."""
        images = SETS[self.dataset](data_dir)
        key = {"version": VERSION, "dataset": self.dataset, "digest": images.digest}
        return cached("lra-image", key, images.read), images.digest

    def _rows(self, arrays: Arrays, seed: int) -> dict[str, Integers]:
        """Return the rows of each part; train and validation are of the official training part."""
        official = len(arrays["train_labels"])
        first = official * 9 // 10
        parts = {
            "train": (arrays["train_labels"][:first], 0),
            "validation": (arrays["train_labels"][first:], first),
            "test": (arrays["test_labels"], 0),
        }
        rows: dict[str, Integers] = {}
        for i, (name, (labels, offset)) in enumerate(parts.items()):
            count = self.sizes[name] or len(labels)
            if not 1 <= count <= len(labels):
                raise UsageError(
                    f"lra-image: {name}={count} is not 1 to {len(labels)}, the images that {self.dataset} "
                    "has for it"
                )
            order = stratified_order(labels, np.random.default_rng((seed, i)))
            rows[name] = offset + np.sort(order[:count])
        return rows


def _side(seq_len: int) -> int:
    side = math.isqrt(seq_len)
    if side not in SIDES or side * side != seq_len:
        allowed = ", ".join(f"{s * s} ({s}x{s})" for s in SIDES)
        raise UsageError(f"lra-image: seq_len {seq_len} is not the pixels of an image: {allowed}")
    return side


def shrink(pixels: Pixels, side: int) -> Pixels:
    """Average square blocks of pixels [n, 32, 32] -> [n, side, side]; halves are rounded up."""
    block = SIDE // side
    if block == 1:
        return pixels
    sums = pixels.reshape(-1, side, block, side, block).sum(axis=(2, 4), dtype=np.uint32)
    means: Pixels = ((2 * sums + block * block) // (2 * block * block)).astype(np.uint8)
    return means

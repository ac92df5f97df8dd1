"""Pathfinder: its images against their own geometry and the original generator's, and LRA's files."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from effbench.common.spec import UsageError
from effbench.measured.data.examples import Examples
from effbench.measured.data.pathfinder_dashes import disc_picture, shape_of
from effbench.measured.data.pathfinder_images import (
    BLOCK,
    Drawn,
    _Drawing,
    draw,
    images,
)
from effbench.measured.tasks.pathfinder import FOLDERS, Pathfinder

SAMPLES = Path(__file__).parents[1].parent / "shared" / "data" / "lra_samples" / "pathfinder32"
SMALL = {"contour": "baseline", "train": 20, "validation": 6, "test": 6}
with_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="the sample of LRA's Pathfinder files is not beside the repository"
)


@cache
def drawn(contour: Literal["baseline", "intermediate", "hard"], side: int = 32) -> Drawn:
    return draw(shape_of(side, contour), np.random.default_rng(20))


def discs(image: np.ndarray) -> list[tuple[int, int]]:
    """Where a disc fits under the image: its centres by sight alone, for side 32."""
    disc = disc_picture(32, 1.5, 16, 16)[12:21, 12:21].astype(float)
    core = disc > 80
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image.astype(float), 4), (9, 9))
    # The lightest pixel is at most 1.2 times as light as a disc, and has level 255.
    fits = (windows[:, :, core] >= 0.83 * disc[core] - 1).all(axis=-1)
    labelled, count = ndimage.label(fits, np.ones((3, 3)))
    return [(round(y), round(x)) for y, x in ndimage.center_of_mass(fits, labelled, np.arange(1, count + 1))]


# The geometry.


@pytest.mark.parametrize(("contour", "side"), [("hard", 32), ("baseline", 32), ("baseline", 64)])
def test_the_label_follows_from_the_masks(contour, side):
    block = drawn(contour, side)
    for i in range(BLOCK):
        # A dash and the next are at most two pixels apart.
        near = [ndimage.binary_dilation(mask > 76, np.ones((3, 3))) for mask in block.contours[i]]
        pieces = [ndimage.label(mask, np.ones((3, 3)))[0] for mask in near]
        for piece, start, end in zip(pieces, block.starts[i], block.ends[i], strict=True):
            assert piece[*start] == piece[*end] > 0  # a contour's own mask joins its start and end
        origin = [c for c in range(2) if (block.starts[i, c] == block.discs[i, 0]).all()]
        terminal = [c for c in range(2) if (block.ends[i, c] == block.discs[i, 1]).all()]
        assert len(origin) == 1  # contours start at different pixels
        assert (origin[0] in terminal) if block.labels[i] else (1 - origin[0] in terminal)


def test_discs_are_seen_where_they_are_said_to_be():
    block = drawn("hard")
    seen = [
        {tuple(disc) for disc in where.tolist()} == set(discs(image))
        for where, image in zip(block.discs, block.images, strict=True)
    ]
    assert np.mean(seen) > 0.9  # two discs that touch are one piece


def test_contours_overlap_only_where_the_newest_dash_is_not_in_the_way_yet():
    drawing = _Drawing(shape_of(32, "hard"), 1, np.random.default_rng(3))
    _, dashes, ends = drawing._contours(24)
    rows, length = np.arange(24), dashes.shape[2]
    masks = np.zeros((2, length, 24, drawing.width**2), dtype=np.uint8)
    for c in range(2):
        for i in range(length):
            drawing._stamp(masks[c, i], rows, ends[:, c, i], drawing.tables.masks[dashes[:, c, i]])
    overlapping = set()
    for c, i in np.ndindex(2, length):
        for d, j in np.ndindex(2, length):
            if (masks[c, i].astype(int) + masks[d, j] >= 459).any():
                overlapping.add((c, i, d, j))
    allowed = {(c, i, c, j) for c in range(2) for i in range(length) for j in (i - 1, i, i + 1)}
    allowed |= {(0, i, 1, j) for i in range(length) for j in (i - 1, i)}
    allowed |= {(d, j, c, i) for c, i, d, j in allowed}
    assert overlapping <= allowed


def test_a_distractor_grows_only_where_nothing_is():
    drawing = _Drawing(shape_of(32, "hard"), 1, np.random.default_rng(4))
    masks, _, _ = drawing._contours(BLOCK)
    last = drawing._distractor_seeds(masks)
    new, grown = drawing._extend(masks.copy(), last)
    new = new.take(grown)
    own = np.zeros_like(masks)
    drawing._stamp(own, new.window, new.end, drawing.tables.masks[drawing.tables.dash[new.angle]])
    assert len(new.window) > 5
    assert (masks.astype(int) + own).max() < 459


@pytest.mark.parametrize(("contour", "most"), [("baseline", 10), ("hard", 5)])
def test_some_distractors_find_room_and_are_stamped(contour, most):
    block = drawn(contour)
    pieces = [
        ndimage.label(ndimage.binary_dilation(mask > 76, np.ones((3, 3))), np.ones((3, 3)))[1]
        for mask in block.distractors
    ]
    assert 0.5 < np.mean(pieces) < most
    assert max(pieces) <= most


def test_labels_are_a_fair_coin():
    labels = np.concatenate([drawn("hard").labels, drawn("baseline").labels, drawn("baseline", 64).labels])
    assert stats.binomtest(int(labels.sum()), len(labels)).pvalue > 0.01


# Random states.


def test_an_image_depends_on_the_seed_and_its_index_alone():
    shape = shape_of(32, "baseline")
    pixels, labels = images(BLOCK + 5, shape, (1, 0))
    again, same_labels = images(7, shape, (1, 0))
    assert (pixels[:7] == again).all()
    assert (labels[:7] == same_labels).all()
    other, _ = images(7, shape, (2, 0))
    every = {image.tobytes() for image in (*pixels, *other)}
    assert len(every) == BLOCK + 5 + 7


@pytest.mark.slow
def test_parts_share_no_image_and_do_not_depend_on_each_others_size():
    splits = Pathfinder(**SMALL).data(1024, 5, None)
    smaller = Pathfinder(**{**SMALL, "train": 3}).data(1024, 5, None)
    assert (splits.test.tokens == smaller.test.tokens).all()
    assert (splits.train.tokens[: 3 * 1024] == smaller.train.tokens).all()
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [20, 6, 6]
    assert len({part.row(i).tobytes() for part in parts for i in range(len(part))}) == 32
    assert splits.vocab_size == 257
    assert splits.train.tokens.min() == 1  # black; 0 is padding
    assert splits.train.tokens.max() == 256
    common = int(splits.train.labels.mean() > 0.5)
    assert splits.priors == {"majority": (splits.test.labels == common).mean()}
    batch = Pathfinder(**SMALL).batch(splits.train, np.arange(4))
    assert batch["tokens"].shape == (4, 1024)
    assert batch["mask"].all()


def test_images_of_another_side_than_32():
    for side in (64, 128):
        block = draw(shape_of(side, "baseline"), np.random.default_rng(0), count=3)
        assert block.images.shape == (3, side, side)
        assert (block.images.max(axis=(1, 2)) == 255).all()


# The original generator's images.


def sample(contour: str) -> tuple[np.ndarray, np.ndarray]:
    folder = SAMPLES / FOLDERS[contour]
    lines = [line.split() for line in (folder / "metadata" / "0.npy").read_text().splitlines()]
    return (
        np.stack([np.asarray(Image.open(folder / line[0] / line[1])) for line in lines]),
        np.array([int(line[3]) for line in lines]),
    )


def statistics(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """A number an image, by name."""
    levels = pixels.astype(float)
    where = [discs(image) for image in pixels]
    lit = pixels > 20
    rows = np.arange(32)
    values = {
        "mean": levels.mean(axis=(1, 2)),
        "lit": lit.sum(axis=(1, 2)),
        "discs": np.array([len(centres) for centres in where]),
        "distance": np.array([math.dist(*centres) if len(centres) == 2 else 0 for centres in where]),
        "row": (lit.sum(axis=2) * rows).sum(axis=1) / lit.sum(axis=(1, 2)),
        "column": (lit.sum(axis=1) * rows).sum(axis=1) / lit.sum(axis=(1, 2)),
    }
    edges = (1, 3, 6, 20, 60, 100, 140, 180, 220, 255, 256)
    for low, high in pairwise(edges):
        values[f"levels {low}-{high - 1}"] = ((pixels >= low) & (pixels < high)).sum(axis=(1, 2))
    return values


@with_samples
@pytest.mark.slow
@pytest.mark.parametrize("contour", ["baseline", "hard"])
def test_images_are_like_the_originals(contour):
    theirs, labels = sample(contour)
    ours = drawn(contour)
    for label in (0, 1):
        left = statistics(theirs[labels == label])
        right = statistics(ours.images[ours.labels == label])
        p_values = {name: stats.ks_2samp(left[name], right[name]).pvalue for name in left}
        assert min(p_values.values()) > 0.05 / len(p_values) / 4, p_values  # 4 families: Bonferroni


@with_samples
def test_the_comparison_sees_another_number_of_distractors():
    theirs = statistics(sample("baseline")[0])
    ours = statistics(drawn("hard").images)
    assert stats.ks_2samp(theirs["lit"], ours["lit"]).pvalue < 1e-9


# LRA's files.


@with_samples
def test_lra_sample_files():
    task = Pathfinder(contour="hard")
    fingerprint = task.fingerprint(SAMPLES.parents[1])  # the data folder of all tasks
    assert fingerprint == task.fingerprint(SAMPLES) != ""
    splits = task.data(1024, 0, SAMPLES.parents[1])
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [240, 30, 30]
    assert splits.facts == {"empty_images": 0}
    pixels, labels = sample("hard")
    known = {image.tobytes(): label for image, label in zip(pixels, labels, strict=True)}
    read = {}
    for part in (splits.train, splits.validation, splits.test):
        for i in range(len(part)):
            read[(part.row(i) - 1).astype(np.uint8).tobytes()] = part.labels[i]
    assert read == known
    assert len(Pathfinder(contour="baseline", train=50).data(1024, 0, SAMPLES).train) == 50


def write_release(folder: Path, lists: dict[str, str] | None = None, side: int = 32) -> Path:
    """Twenty images of two lists in LRA's format, with labels by turns."""
    inside = folder / "pathfinder32" / FOLDERS["hard"]
    (inside / "metadata").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(2):
        (inside / "imgs" / str(number)).mkdir(parents=True)
        rows = []
        for i in range(10):
            level = rng.integers(256, size=(side, side), dtype=np.uint8)
            Image.fromarray(level).save(inside / "imgs" / str(number) / f"sample_{i}.png")
            rows.append(f"imgs/{number} sample_{i}.png {i} {i % 2} 1.0 14 4 2 0.5 1 1\n")
        (inside / "metadata" / f"{number}.npy").write_text("".join(rows))
    for name, text in (lists or {}).items():
        (inside / "metadata" / name).write_text(text)
    return inside


def rows_of(*parts: Examples) -> list[bytes]:
    return sorted(part.row(i).tobytes() for part in parts for i in range(len(part)))


def test_files_are_divided_by_the_seed_and_empty_images_skipped(tmp_path):
    inside = write_release(tmp_path)
    task = Pathfinder()
    before = task.fingerprint(tmp_path)
    (inside / "imgs" / "1" / "sample_2.png").write_bytes(b"")
    assert task.fingerprint(tmp_path) != before
    one, other = (task.data(1024, seed, tmp_path) for seed in (0, 1))
    for splits in (one, other):
        assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [17, 1, 1]
        assert splits.facts == {"empty_images": 1}
    assert rows_of(one.train) != rows_of(other.train)
    assert rows_of(one.train, one.validation, one.test) == rows_of(other.train, other.validation, other.test)
    assert rows_of(one.train) == rows_of(task.data(1024, 0, tmp_path).train)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("imgs/0 sample_0.png 0\n", r"1.npy:1: 3 fields, not 'imgs/0"),
        ("imgs/0 sample_0.png 0 2 1.0\n", r"1.npy:1: field 4, the label, is '2', not 0 or 1"),
        ("imgs/0 sample_0.png 0 0\nimgs/0 sample_77.png 0 1\n", r"1.npy:2: .*sample_77.png: No such file"),
    ],
)
def test_errors_in_metadata_name_file_and_line(tmp_path, text, words):
    write_release(tmp_path, {"1.npy": text})
    with pytest.raises(UsageError, match=words):
        Pathfinder().fingerprint(tmp_path)


def test_errors_in_files_name_them(tmp_path):
    inside = write_release(tmp_path)
    image = inside / "imgs" / "1" / "sample_3.png"
    whole = image.read_bytes()
    for bad in (whole[: len(whole) // 2], b"not an image"):
        image.write_bytes(bad)
        with pytest.raises(UsageError, match=r"1.npy:4: .*sample_3.png is not a whole PNG"):
            Pathfinder().data(1024, 0, tmp_path)
    Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(image)
    with pytest.raises(
        UsageError, match=r"1.npy:4: .*32 x 32 pixels of 8-bit RGB, not 32 x 32 of 8-bit grey"
    ):
        Pathfinder().data(1024, 0, tmp_path)
    np.save(inside / "metadata" / "1.npy", np.full(3, -1.0))
    with pytest.raises(UsageError, match=r"1.npy:1: not text; expected lines"):
        Pathfinder().fingerprint(tmp_path)


def test_images_of_another_side_are_refused(tmp_path):
    write_release(tmp_path, side=16)
    with pytest.raises(UsageError, match=r"0.npy:1: .*16 x 16 pixels of 8-bit grey, not 32 x 32"):
        Pathfinder().data(1024, 0, tmp_path)


def test_files_or_generated(tmp_path):
    with pytest.raises(UsageError, match="--data-dir"):
        Pathfinder(data="files").fingerprint(None)
    with pytest.raises(UsageError, match=r"curv_contour_length_14/metadata: no <n>.npy file"):
        Pathfinder().fingerprint(tmp_path)
    assert Pathfinder(data="generated").fingerprint(tmp_path) == Pathfinder().fingerprint(None) == ""
    with pytest.raises(UsageError, match="seq_len is 1000, not 1024, 4096, 16384"):
        Pathfinder().data(1000, 0, None)


@pytest.mark.parametrize(
    "options", [{"contour": "easy"}, {"train": 0}, {"data": "guessed"}, {"lr": 0.0}, {"patience": 0}]
)
def test_wrong_options_raise_value_error(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Pathfinder(**options)

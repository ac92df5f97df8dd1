"""Long Range Arena's tasks: bytes, pixels and pairs are what the files say, and a wrong file is named."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import os
import pickle
import sys
import tarfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from effbench.common import registry
from effbench.common.spec import UsageError
from effbench.measured.data import image_files
from effbench.measured.data.baseline_scores import best_threshold
from effbench.measured.data.examples import Examples
from effbench.measured.data.image_files import BATCHES, grey
from effbench.measured.data.text_pairs import FILES, Pairs, paired, pairs_of
from effbench.measured.models.training import Objective, Recipe, train
from effbench.measured.models.two_towers import TwoTowers
from effbench.measured.tasks.listops import ListOps
from effbench.measured.tasks.lra_image import GreyImage, shrink
from effbench.measured.tasks.lra_text import ByteText
from effbench.measured.tasks.retrieval import Retrieval

DATA = Path(__file__).parents[1].parent / "shared" / "data"


def text_of(examples: Examples, i: int) -> bytes:
    return bytes((examples.row(i) - 1).tolist())


def sides_of(part: Examples) -> tuple[Examples, Examples]:
    assert isinstance(part, Pairs)
    return part.sides


def gzip_of(path: Path) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


# Text.


def write_reviews(folder: Path, count: int = 40) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        rows = [
            {"label": i % 2, "text": f"{split} {i} " + ("good ä film" if i % 2 else "bad <br /> film")}
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_text_is_its_bytes_cut(tmp_path):
    folder = write_reviews(tmp_path / "imdb")
    task = ByteText(validation=10)
    whole = task.data(64, 0, folder)
    written = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    assert [text_of(whole.test, i) for i in range(40)] == [row["text"].encode() for row in written]
    assert whole.test.labels.tolist() == [row["label"] for row in written]
    cut = task.data(7, 0, folder)
    assert [text_of(cut.test, i) for i in range(40)] == [row["text"].encode()[:7] for row in written]
    assert whole.vocab_size == 257
    assert min(whole.train.tokens) >= 1


def test_text_is_found_in_a_data_folder_of_many_and_kept(tmp_path, monkeypatch):
    write_reviews(tmp_path / "many" / "imdb")
    task = ByteText(validation=10)
    digest = task.fingerprint(tmp_path / "many")
    assert digest == task.fingerprint(tmp_path / "many" / "imdb")

    def unread(data_dir: Path) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("effbench.measured.tasks.imdb.texts", unread)
    assert task.fingerprint(tmp_path / "many") == digest


def test_text_divides_by_class_and_seed(tmp_path):
    folder = write_reviews(tmp_path / "imdb")
    task = ByteText(train=20, validation=10, test=16)
    parts, other = task.data(64, 0, folder), task.data(64, 1, folder)
    for part, size in ((parts.train, 20), (parts.validation, 10), (parts.test, 16)):
        assert np.bincount(part.labels).tolist() == [size // 2] * 2
    texts = {text_of(p, i) for p in (parts.train, parts.validation) for i in range(len(p))}
    assert len(texts) == 30
    assert np.array_equal(parts.train.tokens, task.data(64, 0, folder).train.tokens)
    assert not np.array_equal(parts.train.tokens, other.train.tokens)


def test_text_priors_read_words_and_nothing_after_the_cut(tmp_path):
    folder = write_reviews(tmp_path / "imdb")
    assert ByteText(validation=10).data(64, 0, folder).priors == {"majority": 0.5, "tfidf_logreg": 1.0}
    # "train 1" and "test 1" have not one informative byte
    assert ByteText(validation=10).data(4, 0, folder).priors["tfidf_logreg"] == 0.5


def test_text_counts_test_reviews_seen_in_training(tmp_path):
    folder = write_reviews(tmp_path / "imdb")
    (folder / "test.jsonl").write_text((folder / "train.jsonl").read_text())
    assert ByteText(validation=10).data(64, 0, folder).facts == {"test_texts_in_train": 30}


def test_text_says_what_is_wrong(tmp_path):
    folder = write_reviews(tmp_path / "imdb", 12)
    with pytest.raises(UsageError, match=r"validation=10 and train=3 together exceed the 12 reviews"):
        ByteText(validation=10, train=3).fingerprint(folder)
    with pytest.raises(UsageError, match=r"test=13 exceeds the 12 reviews"):
        ByteText(validation=2, test=13).fingerprint(folder)
    (folder / "train.jsonl").write_text('{"label": 1, "text": "a"}\n{"label": 7, "text": "a"}\n')
    with pytest.raises(UsageError, match=r"train.jsonl:2: column 'label' is 7"):
        ByteText(validation=1).fingerprint(folder)
    (folder / "train.jsonl").write_text("")
    with pytest.raises(UsageError, match=r"train.jsonl:1: the train part is empty"):
        ByteText(validation=1).fingerprint(folder)


# Images.


def pictures(seed: int, count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """(planes [count, 3072], labels [count]) of every class."""
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(count, 3072), dtype=np.uint8), rng.permutation(np.arange(count) % 10)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, which is what CIFAR-10's files hold."""

    write: Callable[[bytes], object]
    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)

    def save_str(self, value: str) -> None:
        self.save_bytes(value.encode())

    dispatch[bytes] = save_bytes
    dispatch[str] = save_str


def python2(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def python3(value: object) -> bytes:
    return pickle.dumps(value, protocol=4)


def write_cifar(folder: Path, kind: str) -> Path:
    """The six files of 20 images each, in one of the forms in which they are published."""
    inner = folder / ("cifar-10-batches-bin" if kind.startswith("bin") else "cifar-10-batches-py")
    inner.mkdir(parents=True)
    for seed, name in enumerate(BATCHES):
        planes, labels = pictures(seed)
        if kind.startswith("bin"):
            rows = np.concatenate((labels[:, None].astype(np.uint8), planes), axis=1)
            (inner / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            dump = python2 if "2" in kind else python3
            batch = {b"batch_label": b"one of six", b"labels": labels.tolist(), b"data": planes}
            (inner / name).write_bytes(dump(batch))
    if kind.endswith("tar"):
        name = "cifar-10-binary.tar.gz" if kind.startswith("bin") else "cifar-10-python.tar.gz"
        with tarfile.open(folder / name, "w:gz") as tar:
            tar.add(inner, arcname=inner.name)
        for path in inner.iterdir():
            path.unlink()
        inner.rmdir()
    return folder


def same_images(left: Examples, right: Examples) -> bool:
    return np.array_equal(left.tokens, right.tokens) and np.array_equal(left.labels, right.labels)


@pytest.mark.parametrize("kind", ["bin", "bin tar", "py2", "py3", "py2 tar"])
def test_cifar_is_the_same_from_every_format(tmp_path, kind):
    folder = write_cifar(tmp_path / "data", kind)
    assert GreyImage().fingerprint(folder) != ""
    splits = GreyImage().data(1024, 0, folder)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [90, 10, 20]
    planes, labels = pictures(5)  # the test batch
    assert splits.test.labels.tolist() == labels.tolist()
    red, green, blue = planes[3].reshape(3, 32, 32).astype(float)
    expected = np.floor((0.2989 * red + 0.587 * green + 0.114 * blue) / 255 * 255.5)
    found = splits.test.row(3).reshape(32, 32) - 1
    assert np.abs(found - expected).max() <= 1  # float32 beside a whole number
    assert (found == expected).mean() > 0.99
    # the last tenth, in the files' order: the second half of the fifth batch
    assert sorted(splits.validation.labels) == sorted(pictures(4)[1][10:])


def test_the_python_folder_may_be_given_itself_and_under_a_task_name(tmp_path):
    found = write_cifar(tmp_path / "cifar10", "py2")
    digests = {GreyImage().fingerprint(f) for f in (tmp_path, found, found / "cifar-10-batches-py")}
    assert len(digests) == 1


def test_grey_is_tensorflows():
    """Whole levels stay; the weights sum to 0.9999; what is not whole is cut off, not rounded."""
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(grey(np.stack([levels] * 3, axis=-1)), levels)
    assert grey(np.array([255, 0, 0], dtype=np.uint8)) == 76  # 76.37
    assert grey(np.array([0, 3, 8], dtype=np.uint8)) == 2  # 2.673 * 255.5 / 255


def test_shrinking_averages_blocks():
    image = np.arange(1024, dtype=np.uint16).reshape(1, 32, 32) % 256
    found = shrink(image.astype(np.uint8), 16)
    blocks = [[image[0, i : i + 2, j : j + 2].mean() for j in range(0, 32, 2)] for i in range(0, 32, 2)]
    assert np.array_equal(found[0], np.floor(np.array(blocks) + 0.5))
    assert shrink(np.full((2, 32, 32), 255, dtype=np.uint8), 8).tolist() == np.full((2, 8, 8), 255).tolist()


def test_image_subsets_keep_their_parts_and_depend_on_the_seed(tmp_path):
    folder = write_cifar(tmp_path / "data", "bin")
    task = GreyImage(train=30, validation=5, test=10)
    splits = task.data(64, 0, folder)
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [30, 5, 10]
    assert np.bincount(splits.train.labels).min() >= 2
    everything = GreyImage().data(64, 0, folder)
    for name in ("train", "validation", "test"):
        part, whole = getattr(splits, name), getattr(everything, name)
        rows = {whole.row(i).tobytes() for i in range(len(whole))}
        assert {part.row(i).tobytes() for i in range(len(part))} <= rows
    assert same_images(splits.train, task.data(64, 0, folder).train)
    assert not same_images(splits.train, task.data(64, 1, folder).train)
    with pytest.raises(UsageError, match=r"validation=11 is not 1 to 10"):
        GreyImage(validation=11).fingerprint(folder)


def test_image_prior_is_a_linear_model(tmp_path):
    folder = write_idx(tmp_path / "fashion-mnist", informative=True)
    priors = GreyImage(dataset="fashion-mnist").data(256, 0, folder).priors
    assert priors["majority"] == pytest.approx(0.1)
    assert priors["logreg_pixels"] == 1.0


@pytest.mark.parametrize("seq_len", [1000, 900, 4096, 16, 1023])
def test_a_length_that_is_no_image_is_refused(tmp_path, seq_len):
    with pytest.raises(UsageError, match=rf"seq_len {seq_len} is not .* 1024 \(32x32\), 256 \(16x16\)"):
        GreyImage().data(seq_len, 0, tmp_path)


def damage_binary(name: str, change):
    def act(folder: Path) -> None:
        path = folder / "cifar-10-batches-bin" / name
        content = bytearray(path.read_bytes())
        changed = change(content)
        path.write_bytes(content if changed is None else changed)

    return act


def set_byte(place: int, value: int):
    def change(content: bytearray) -> None:
        content[place] = value

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            damage_binary("data_batch_2.bin", lambda c: c[:-1]),
            r"data_batch_2.bin: 61459 bytes are not a whole",
        ),
        (damage_binary("test_batch.bin", lambda c: b""), r"test_batch.bin: 0 bytes"),
        (
            damage_binary("data_batch_3.bin", set_byte(3073 * 2, 10)),
            r"data_batch_3.bin: the label of image 3 \(byte 6146\) is 10, not 0 to 9",
        ),
        (lambda f: (f / "cifar-10-batches-bin/data_batch_5.bin").unlink(), r"data_batch_5.bin: No such file"),
    ],
)
def test_cifar_binary_errors_name_the_file_and_the_byte(tmp_path, damage, words):
    folder = write_cifar(tmp_path / "data", "bin")
    damage(folder)
    with pytest.raises(UsageError, match=words):
        GreyImage().fingerprint(folder)


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


PLANES = np.zeros((2, 3072), dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps(Harmful()), r"it asks for (posix|nt).system"),
        (pickle.dumps({b"data": np.array([Harmful()]), b"labels": [1]}, protocol=4), r"it asks for|has type"),
        (python2({b"data": PLANES.astype(np.int64), b"labels": [1, 2]}), r"an array has type b'i8'"),
        (python2({b"data": PLANES, b"labels": [1, 2]})[:-500], r"not a batch of CIFAR-10's Python version"),
        (b"", r"not a batch"),
        (python3([1]), r"not a dictionary with b'data'"),
        (python3({b"data": PLANES}), r"not a dictionary with b'data' and b'labels'"),
        (python3({b"data": PLANES[:, :-1], b"labels": [1, 2]}), r"b'data' is uint8 \[2, 3071\]"),
        (python3({b"data": [1], b"labels": [1]}), r"b'data' is list"),
        (python3({b"data": PLANES, b"labels": [1]}), r"b'labels' is not a list of 2 integers"),
        (python3({b"data": PLANES, b"labels": [1, "2"]}), r"b'labels' is not a list of 2 integers"),
        (python3({b"data": PLANES, b"labels": [1, -1]}), r"the label of image 2 is -1, not 0 to 9"),
    ],
)
def test_cifar_pickles_are_read_safely_and_their_errors_named(tmp_path, content, words):
    folder = write_cifar(tmp_path / "data", "py3")
    (folder / "cifar-10-batches-py" / "data_batch_4").write_bytes(content)
    with pytest.raises(UsageError, match=rf"data_batch_4: .*{words}|data_batch_4: {words}"):
        GreyImage().fingerprint(folder)
    assert not Path("harmed").exists()


def test_cifar_archives_that_are_cut_or_lack_a_file_are_named(tmp_path):
    folder = write_cifar(tmp_path / "data", "bin tar")
    path = folder / "cifar-10-binary.tar.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"cifar-10-binary.tar.gz: cannot be unpacked"):
        GreyImage().fingerprint(folder)
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(UsageError, match=r"cifar-10-binary.tar.gz: there is no data_batch_1.bin in it"):
        GreyImage().fingerprint(folder)
    with pytest.raises(UsageError, match=r"none of cifar-10-batches-bin/, cifar-10-binary.tar.gz"):
        GreyImage().fingerprint(tmp_path)


def hub(load) -> types.ModuleType:
    module = types.ModuleType("datasets")
    vars(module)["load_dataset"] = load
    return module


def test_cifar_from_the_hub(tmp_path, monkeypatch):
    def load(name: str, split: str) -> dict[str, list[object]]:
        assert name == "uoft-cs/cifar10"
        found = [pictures(seed) for seed in ((5,) if split == "test" else range(5))]
        planes = np.concatenate([p for p, _ in found]).reshape(-1, 3, 32, 32)
        return {"img": list(np.moveaxis(planes, 1, -1)), "label": [int(n) for _, ls in found for n in ls]}

    monkeypatch.setitem(sys.modules, "datasets", hub(load))
    assert GreyImage().fingerprint(None)
    from_files = GreyImage().data(256, 0, write_cifar(tmp_path / "data", "bin"))
    from_hub = GreyImage().data(256, 0, None)
    for name in ("train", "validation", "test"):
        assert same_images(getattr(from_hub, name), getattr(from_files, name))


def test_cifar_without_the_library_or_the_network_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'effbench\[data\]'.*--data-dir DIR"):
        GreyImage().fingerprint(None)

    def load(name: str, split: str) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setitem(sys.modules, "datasets", hub(load))
    with pytest.raises(UsageError, match=r"Couldn't reach the Hub.*network.*--data-dir DIR"):
        GreyImage().fingerprint(None)


def idx(values: np.ndarray) -> bytes:
    header = np.array([0x800 + values.ndim, *values.shape], dtype=">u4")
    return header.tobytes() + values.astype(np.uint8).tobytes()


def write_idx(folder: Path, informative: bool = False) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 100), ("t10k", 30)):
        labels = rng.permutation(np.arange(count) % 10)
        images = rng.integers(60 if informative else 256, size=(count, 28, 28))
        if informative:
            images[np.arange(count), 2 * labels + 3] = 255
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def test_fashion_mnist_is_padded_and_may_be_packed(tmp_path):
    folder = write_idx(tmp_path / "fashion-mnist")
    splits = GreyImage(dataset="fashion-mnist").data(1024, 0, tmp_path)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [90, 10, 30]
    found = splits.test.row(7).reshape(32, 32) - 1
    content = (folder / "t10k-images-idx3-ubyte").read_bytes()[16:]
    expected = np.frombuffer(content, dtype=np.uint8).reshape(-1, 28, 28)[7]
    assert np.array_equal(found[2:30, 2:30], expected)
    assert found.sum() == expected.sum(dtype=np.int64)  # black around it
    for path in list(folder.iterdir()):
        gzip_of(path)
    assert same_images(splits.train, GreyImage(dataset="fashion-mnist").data(1024, 0, tmp_path).train)


def test_fashion_mnist_of_the_system_is_found_when_the_folder_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "SYSTEM_FASHION", tmp_path / "system")
    task = GreyImage(dataset="fashion-mnist")
    for data_dir in (None, tmp_path):
        with pytest.raises(UsageError, match=r"there is no train-images-idx3-ubyte.*dataset-fashion-mnist"):
            task.fingerprint(data_dir)
    write_idx(tmp_path / "system")
    assert task.fingerprint(None) == task.fingerprint(tmp_path) != ""
    (tmp_path / "system" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UsageError, match=r"there is no t10k-labels-idx1-ubyte \(or .gz\)"):
        task.fingerprint(None)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train-images-idx3-ubyte", b"\0\0\x08", "3 bytes, less than the header of 16"),
        ("train-images-idx3-ubyte", idx(np.zeros(100)) + bytes(8), "the magic number is 0x801, not 0x803"),
        ("train-images-idx3-ubyte", idx(np.zeros((100, 32, 28))), "images of 32x28, not 28x28"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((30, 28, 28)))[:-1], "23535 bytes, not the 23536 that 30"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((0, 28, 28))), "that 0 rows take"),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(29)), "29 labels for 30 images"),
        ("train-labels-idx1-ubyte", idx(np.arange(100) % 11), r"image 11 \(byte 18\) is 10, not 0 to 9"),
    ],
)
def test_idx_errors_name_the_file_and_what_was_expected(tmp_path, name, content, words):
    folder = write_idx(tmp_path / "fashion-mnist")
    (folder / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{name}: .*{words}|{name}: {words}"):
        GreyImage(dataset="fashion-mnist").fingerprint(folder)
    (folder / f"{name}.gz").write_bytes(b"\x1f\x8b not packed")
    (folder / name).unlink()
    with pytest.raises(UsageError, match=rf"{name}.gz: cannot be unpacked"):
        GreyImage(dataset="fashion-mnist").fingerprint(folder)


# Retrieval.


def write_aan(folder: Path, rows: list[bytes] | None = None, **changed: list[bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in FILES.items():
        made = [f"{i % 2}.0\tP{i}\tQ{i}\t{part} {i}\tsecond text {i}".encode() for i in range(12)]
        (folder / name).write_bytes(b"".join(row + b"\n" for row in changed.get(part, rows or made)))
    return folder


def test_aan_rows_become_pairs_of_bytes(tmp_path):
    folder = write_aan(tmp_path / "lra_release" / "lra_release" / "tsv_data")
    assert Retrieval().fingerprint(tmp_path) == Retrieval().fingerprint(folder) != ""
    splits = Retrieval().data(64, 0, tmp_path)
    for part, pairs in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        first, second = sides_of(pairs)
        assert [text_of(first, i) for i in range(12)] == [f"{part} {i}".encode() for i in range(12)]
        assert [text_of(second, i) for i in range(12)] == [f"second text {i}".encode() for i in range(12)]
        assert pairs.labels.tolist() == [i % 2 for i in range(12)]
    first, second = sides_of(Retrieval().data(5, 0, tmp_path).test)
    assert (text_of(first, 3), text_of(second, 3)) == (b"test ", b"secon")
    few = Retrieval(train=6, test=4).data(64, 0, tmp_path)
    assert np.bincount(few.train.labels).tolist() == [3, 3]
    assert len(few.test) == 4
    assert len(few.validation) == 12


def test_aan_quotation_marks_are_text_unless_asked_for(tmp_path):
    row = b'1\ta\tb\t"one ""two""\tthree\nfour\x85"\tplain "five"'
    plain = write_aan(tmp_path / "plain", [b'0\ta\tb\t"one"\ttwo', b'1.0\ta\tb\t"open\tshut"\r'])
    sides = sides_of(Retrieval().data(64, 0, plain).train)
    assert [text_of(side, 0) for side in sides] == [b'"one"', b"two"]
    assert [text_of(side, 1) for side in sides] == [b'"open', b'shut"']
    quoted = write_aan(tmp_path / "quoted", [b"0\ta\tb\tc\td", row, b"0\ta\tb\te\tf"])
    train = Retrieval(quoting=True).data(64, 0, quoted).train
    assert train.labels.tolist() == [0, 1, 0]
    assert [text_of(side, 1) for side in sides_of(train)] == [b'one "two"\tthree\nfour\x85', b'plain "five"']
    assert [text_of(side, 2) for side in sides_of(train)] == [b"e", b"f"]
    with pytest.raises(UsageError, match=r"new_aan_pairs.train.tsv:3: 2 columns, not 5"):
        Retrieval().fingerprint(quoted)


def test_aan_texts_may_be_longer_than_a_csv_field(tmp_path):
    long = b"x" * 200_000
    folder = write_aan(tmp_path, [b"0\ta\tb\tc\td", b'1\ta\tb\t"' + long + b'"\td'])
    csv.field_size_limit(131_072)  # the library's default, whatever ran before
    assert Retrieval(quoting=True).data(150_000, 0, folder).test.lengths.tolist() == [1, 150_000]
    assert csv.field_size_limit() == 131_072


@pytest.mark.parametrize("quoting", [False, True])
@pytest.mark.parametrize(
    ("row", "words"),
    [
        (b"1\ta\tb\tc", r"new_aan_pairs.eval.tsv:2: 4 columns, not 5: label, id1, id2, text1, text2"),
        (b"1\ta\tb\tc\td\te", r"new_aan_pairs.eval.tsv:2: 6 columns"),
        (b"", r"new_aan_pairs.eval.tsv:2: [01] columns"),
        (b"2\ta\tb\tc\td", r"new_aan_pairs.eval.tsv:2: column label is '2', not 0 or 1"),
        (b"0.5\ta\tb\tc\td", r"new_aan_pairs.eval.tsv:2: column label is '0.5'"),
        (b"nan\ta\tb\tc\td", r"new_aan_pairs.eval.tsv:2: column label is 'nan'"),
        (b"label\tid1\tid2\ttext1\ttext2", r"new_aan_pairs.eval.tsv:2: column label is 'label'"),
    ],
)
def test_aan_errors_name_file_line_and_column(tmp_path, row, words, quoting):
    folder = write_aan(tmp_path / "aan", validation=[b"0\ta\tb\tc\td", row, b"1\ta\tb\tc\td"])
    with pytest.raises(UsageError, match=words):
        Retrieval(quoting=quoting).fingerprint(folder)


def test_aan_says_what_is_missing(tmp_path):
    with pytest.raises(UsageError, match=r"needs --data-dir DIR with new_aan_pairs.train.tsv"):
        Retrieval().fingerprint(None)
    folder = write_aan(tmp_path / "aan")
    with pytest.raises(UsageError, match=r"test=13 exceeds the 12 pairs of new_aan_pairs.test.tsv"):
        Retrieval(test=13).fingerprint(folder)
    (folder / "new_aan_pairs.test.tsv").write_bytes(b"")
    with pytest.raises(UsageError, match=r"new_aan_pairs.test.tsv:1: the file is empty"):
        Retrieval().fingerprint(folder)
    (folder / "new_aan_pairs.test.tsv").unlink()
    with pytest.raises(UsageError, match=r"new_aan_pairs.test.tsv: No such file"):
        Retrieval().fingerprint(folder)
    open_mark = [b"0\ta\tb\tc\td", b'0\ta\tb\t"never closed\td', b"0\ta\tb\tc\td"]
    with pytest.raises(UsageError, match=r"new_aan_pairs.train.tsv:2: 4 columns"):
        Retrieval(quoting=True).fingerprint(write_aan(tmp_path / "open", open_mark))


OPENERS: dict[str, Callable[..., Any]] = {".jsonl": open, ".jsonl.xz": lzma.open, ".jsonl.gz": gzip.open}
GROUPS = ("cars", "space", "hockey")
WORDS = {"cars": "engine wheel", "space": "moon orbit", "hockey": "goal ice"}


def write_posts(folder: Path, suffix: str = ".jsonl", count: int = 120, **changed: Sequence[object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        made = [
            {"label": GROUPS[i % 3], "text": f"{split} {i} {WORDS[GROUPS[i % 3]]} {'long ' * (i % 7)}"}
            for i in range(count)
        ]
        with OPENERS[suffix](folder / f"{split}{suffix}", "wb") as file:
            for row in changed.get(split, made):
                file.write((row if isinstance(row, str) else json.dumps(row)).encode() + b"\n")
    return folder


def group_of(text: bytes) -> str:
    return next(group for group, words in WORDS.items() if words.encode() in text)


def number_of(text: bytes) -> tuple[bytes, bytes]:
    split, number = text.split()[:2]
    return split, number


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.xz", ".jsonl.gz"])
def test_posts_are_paired_by_group_and_stay_in_their_part(tmp_path, suffix):
    folder = write_posts(tmp_path / "newsgroups20", suffix)
    task = Retrieval(dataset="newsgroups")
    assert task.fingerprint(tmp_path) == task.fingerprint(folder) != ""
    splits = task.data(100, 0, tmp_path)
    posts = []
    for pairs, count in ((splits.train, 108), (splits.validation, 12), (splits.test, 120)):
        assert len(pairs) == count
        assert pairs.labels.mean() == 0.5
        first, second = ([text_of(side, i) for i in range(count)] for side in sides_of(pairs))
        assert len({number_of(text) for text in first}) == count  # each post once
        for a, b, label in zip(first, second, pairs.labels, strict=True):
            assert (group_of(a) == group_of(b)) == (label == 1)
            assert number_of(a) != number_of(b)
        posts.append({number_of(text) for text in first + second})
    assert len(set.union(*posts)) == sum(map(len, posts))
    assert np.array_equal(splits.train.tokens, task.data(100, 0, folder).train.tokens)
    assert not np.array_equal(splits.train.tokens, task.data(100, 1, folder).train.tokens)


def test_any_number_of_pairs_may_be_drawn(tmp_path):
    folder = write_posts(tmp_path)
    task = Retrieval(dataset="newsgroups", train=500, validation=30, test=8)
    splits = task.data(100, 0, folder)
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [500, 30, 8]
    assert splits.train.labels.sum() == 250


def test_a_text_that_occurs_again_is_left_out(tmp_path):
    rows = [{"label": GROUPS[i % 3], "text": f"test {i} {WORDS[GROUPS[i % 3]]}"} for i in range(12)]
    train = [{"label": GROUPS[i % 3], "text": f"train {i} {WORDS[GROUPS[i % 3]]}"} for i in range(60)]
    folder = write_posts(tmp_path, train=train + train[:5], test=rows + train[:9] + rows)
    splits = Retrieval(dataset="newsgroups").data(100, 0, folder)
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [54, 6, 12]


def test_partners_are_drawn_evenly():
    groups = np.repeat([0, 2, 3], [4, 3, 5])  # group 1 has no post here
    first, second, labels = paired(groups, 24_000, np.random.default_rng(0))
    assert (first != second).all()
    assert ((groups[first] == groups[second]) == (labels == 1)).all()
    for post in range(12):
        for label, partners in ((1, groups == groups[post]), (0, groups != groups[post])):
            partners = partners & (np.arange(12) != post)
            counts = np.bincount(second[(first == post) & (labels == label)], minlength=12)
            assert counts[~partners].sum() == 0
            expected = counts.sum() / partners.sum()
            assert np.abs(counts[partners] - expected).max() < 5 * expected**0.5


POST = {"label": "cars", "text": "a"}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{", r"train.jsonl:2: not JSON"),
        ("[1]", r"train.jsonl:2: not a JSON object but list"),
        ({"label": "cars"}, r"train.jsonl:2: the column 'text' is missing; it has label"),
        ({"label": 3, "text": "a"}, r"train.jsonl:2: column 'label' is int, not text"),
    ],
)
def test_post_errors_name_file_line_and_column(tmp_path, bad, words):
    with pytest.raises(UsageError, match=words):
        Retrieval(dataset="newsgroups").fingerprint(write_posts(tmp_path, train=[POST, bad, POST]))


def test_posts_say_what_is_missing(tmp_path):
    task = Retrieval(dataset="newsgroups")
    with pytest.raises(UsageError, match=r"needs --data-dir DIR with train.jsonl"):
        task.fingerprint(None)
    with pytest.raises(UsageError, match=r"there is no train.jsonl \(or"):
        task.fingerprint(tmp_path)
    with pytest.raises(UsageError, match=r"test.jsonl:1: there is no post"):
        task.fingerprint(write_posts(tmp_path / "empty", test=[]))
    with pytest.raises(UsageError, match=r"the 3 posts for validation cannot be paired"):
        task.fingerprint(write_posts(tmp_path / "few", count=30))
    packed = write_posts(tmp_path / "packed", ".jsonl.xz") / "test.jsonl.xz"
    packed.write_bytes(packed.read_bytes()[:-40])
    with pytest.raises(UsageError, match=r"test.jsonl.xz:\d+: cannot be unpacked"):
        task.fingerprint(packed.parent)


def test_cosine_prior_finds_pairs_that_share_words(tmp_path):
    folder = write_posts(tmp_path)
    priors = Retrieval(dataset="newsgroups").data(200, 0, folder).priors
    assert priors["majority"] == 0.5
    assert priors["tfidf_cosine"] > 0.8
    assert Retrieval(dataset="newsgroups").data(4, 0, folder).priors["tfidf_cosine"] == 0.5


def test_best_threshold_against_trying_all():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(1, 12))
        values, labels = rng.integers(5, size=n) / 4, rng.integers(2, size=n)
        tried = [-np.inf, *(values + 0.1), np.inf]
        best = max(((values > t) == (labels == 1)).mean() for t in tried)
        found = best_threshold(values, labels)
        assert ((values > found) == (labels == 1)).mean() == best


def some_pairs(lengths: list[tuple[int, int]]) -> Pairs:
    rng = np.random.default_rng(0)

    def side(sizes: list[int]) -> Examples:
        return Examples(
            tokens=rng.integers(1, 257, size=sum(sizes)),
            starts=np.concatenate(([0], np.cumsum(sizes))),
            labels=np.arange(len(sizes)) % 2,
        )

    return pairs_of(side([a for a, _ in lengths]), side([b for _, b in lengths]))


def test_a_batch_of_pairs_holds_every_token_of_both_sides():
    pairs = some_pairs([(3, 5), (1, 1), (0, 2), (7, 4)])
    assert pairs.lengths.tolist() == [5, 1, 2, 7]
    batch = Retrieval().batch(pairs, np.array([3, 0, 2]))
    assert batch["tokens"].shape == batch["mask"].shape == (3, 2, 7)
    assert int(batch["mask"].sum()) == 7 + 4 + 3 + 5 + 0 + 2
    for i, row in enumerate((3, 0, 2)):
        for j, side in enumerate(pairs.sides):
            length = len(side.row(row))
            assert batch["tokens"][i, j, :length].tolist() == side.row(row).tolist()
            assert batch["mask"][i, j].tolist() == [k < length for k in range(7)]
            assert not batch["tokens"][i, j, length:].any()
    assert batch["labels"].tolist() == [1, 0, 0]
    cut = pairs.take(np.array([0, 3]), longest=4)
    assert cut.lengths.tolist() == [4, 4]
    assert cut.sides[0].lengths.tolist() == [3, 4]


def test_a_full_batch_is_full_on_both_sides(tmp_path):
    splits = Retrieval().data(64, 0, write_aan(tmp_path))
    full = Retrieval().full_batch(splits, 3, 10)
    assert full["tokens"].shape == (3, 2, 10)
    assert full["mask"].all()
    assert 1 <= full["tokens"].min() <= full["tokens"].max() < 257


class Mean(nn.Module):
    """Mixes: each token gets the mean of the row's real tokens."""

    def forward(self, x, mask=None):
        weights = mask[..., None].to(x.dtype)
        return ((x * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)).expand_as(x)


def towers(**options) -> TwoTowers:
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "classes": 2, "max_len": 12, "d_model": 16, "layers": 1, **options}
    return TwoTowers(Mean, **sizes).eval()


@pytest.mark.parametrize("padded", [0, 1])
def test_padding_of_either_side_changes_nothing(padded):
    model = towers().double()
    tokens = torch.randint(1, 257, (3, 2, 8))
    mask = torch.ones(3, 2, 8, dtype=torch.bool)
    mask[:, padded, 5:] = False
    longer = torch.cat((tokens, torch.randint(1, 257, (3, 2, 4))), dim=-1)
    longer[:, padded, 5:] = torch.randint(1, 257, (3, 7))
    extended = torch.cat((mask, torch.zeros(3, 2, 4, dtype=torch.bool)), dim=-1)
    assert torch.allclose(model(tokens, mask), model(longer, extended), atol=1e-12)


def test_sides_share_one_encoder_and_order_counts():
    model = towers()
    tokens = torch.randint(1, 257, (4, 2, 6))
    mask = torch.ones(4, 2, 6, dtype=torch.bool)
    alone = [model.encode(tokens[:, i], mask[:, i]) for i in (0, 1)]
    expected = model.compare(
        torch.cat((alone[0], alone[1], alone[0] * alone[1], alone[0] - alone[1]), dim=-1)
    )
    assert torch.allclose(model(tokens, mask), expected, atol=1e-6)
    assert not torch.allclose(model(tokens.flip(1), mask), expected, atol=1e-6)
    # a pair's logits depend on that pair alone
    assert torch.allclose(model(tokens[:1], mask[:1]), expected[:1], atol=1e-6)


def test_the_gradient_reaches_both_sides_and_no_padding():
    model = towers()
    tokens = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
    mask = torch.tensor([[[True, True, False], [True, True, False]]])
    model(tokens, mask)[:, 0].sum().backward()
    assert isinstance(model.tokens, nn.Embedding)
    assert model.tokens.weight.grad is not None
    reached = model.tokens.weight.grad.abs().sum(dim=1)
    assert (reached[[1, 2, 4, 5]] > 0).all()
    assert (reached[[0, 3, 6]] == 0).all()
    assert all(p.grad is not None for p in model.parameters())


def test_retrieval_builds_the_towers_and_scores_them(tmp_path):
    task = Retrieval(dropout=0.3)
    splits = task.data(16, 0, write_aan(tmp_path))
    model = task.model(Mean, splits=splits, seq_len=16, d_model=16, layers=2)
    assert isinstance(model, TwoTowers)
    full = task.full_batch(splits, 2, 16)
    task.loss(model, full).backward()
    model.eval()
    batches = [task.batch(splits.test, np.arange(7)), task.batch(splits.test, np.arange(7, 12))]
    scores = task.score(model, batches)
    assert scores["examples"] == 12
    assert scores["accuracy"] == scores["correct"] / 12


@pytest.mark.slow
def test_towers_learn_whether_two_texts_share_their_letter():
    rng = np.random.default_rng(0)
    letters = rng.integers(1, 4, size=(400, 1)) + np.zeros((400, 4), dtype=np.int64)
    same = rng.integers(2, size=400)
    others = (letters - 1 + np.where(same, 0, rng.integers(1, 3, size=400))[:, None]) % 3 + 1

    def side(rows: np.ndarray) -> Examples:
        return Examples(tokens=rows.reshape(-1), starts=np.arange(401) * 4, labels=same)

    pairs = pairs_of(side(letters), side(others))
    task, model = Retrieval(), towers(vocab_size=4)
    learn, hold = pairs.take(np.arange(320)), pairs.take(np.arange(320, 400))

    def score() -> dict[str, float]:
        return task.score(model, [task.batch(hold, np.arange(80))])

    train(
        model,
        Objective(
            batch=lambda rows: task.batch(learn, rows),
            lengths=learn.lengths,
            loss=task.loss,
            score=score,
            metric="accuracy",
        ),
        Recipe(epochs=8, lr=3e-2, patience=8),
        batch_size=32,
        seed=0,
        progress=lambda done, line: None,
    )
    with torch.no_grad():
        assert score()["accuracy"] > 0.95


# What they have in common.


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ByteText, {"train": -1}),
        (ByteText, {"validation": 0}),
        (ByteText, {"test": -1}),
        (ByteText, {"epochs": 0}),
        (GreyImage, {"dataset": "mnist"}),
        (GreyImage, {"train": -1}),
        (GreyImage, {"validation": -1}),
        (GreyImage, {"lr": 0.0}),
        (Retrieval, {"dataset": "arxiv"}),
        (Retrieval, {"quoting": True, "dataset": "newsgroups"}),
        (Retrieval, {"test": -1}),
        (Retrieval, {"dropout": 1.0}),
    ],
)
def test_wrong_options_raise_value_error(kind, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        kind(**options)


@pytest.mark.parametrize("name", ["lra-text", "lra-image", "retrieval"])
def test_their_schema_is_read(name):
    plugin = registry.find(name, "task")
    assert plugin.parameters is not None
    assert {"train", "validation", "test", "epochs", "lr"} <= {p.name for p in plugin.parameters}
    assert "Long Range Arena" in plugin.summary
    assert plugin.source


def test_listops_is_found_in_a_data_folder_of_many(tmp_path):
    folder = tmp_path / "lra_release" / "lra_release" / "listops-1000"
    folder.mkdir(parents=True)
    for part in ("train", "val", "test"):
        (folder / f"basic_{part}.tsv").write_text("Source\tTarget\n( ( [MAX 4 ) 3 ) ]\t4\n")
    assert ListOps().fingerprint(tmp_path) == ListOps().fingerprint(folder) != ""
    assert ListOps().data(16, 0, tmp_path).test.labels.tolist() == [4]


needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the test data is not beside the repository")


@needs_data
@pytest.mark.slow
def test_local_posts_make_balanced_pairs():
    task = Retrieval(dataset="newsgroups", train=400, validation=100, test=200)
    splits = task.data(256, 0, DATA)
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [400, 100, 200]
    assert splits.test.labels.mean() == 0.5
    assert splits.train.lengths.max() == 256
    assert 0.5 <= splits.priors["tfidf_cosine"] < 0.75


@needs_data
def test_local_listops_sample_is_found():
    assert len(ListOps().data(2000, 0, DATA).test) == 50

"""Tasks: what the data must be, where it may come from, and how a wrong file is named."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import statistics
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effbench.common import registry
from effbench.common.machine import cache_dir
from effbench.common.spec import UsageError
from effbench.measured.data.baseline_scores import prior
from effbench.measured.data.cache import cached
from effbench.measured.data.examples import Examples, stratified_order
from effbench.measured.data.listops_trees import TOKENS, Shape, evaluate, generate
from effbench.measured.data.scoring import classification_scores
from effbench.measured.tasks.imdb import IMDB, RATINGS
from effbench.measured.tasks.listops import FILES, ListOps

SAMPLES = Path(__file__).parents[1].parent / "shared" / "data" / "lra_samples" / "listops"
OPENERS: dict[str, Callable[..., Any]] = {".jsonl": open, ".jsonl.xz": lzma.open, ".jsonl.gz": gzip.open}
SMALL = {"train": 60, "validation": 20, "test": 20}


def independent_value(tokens: list[str]) -> int:
    """A recursive reading of the expression, sharing nothing with the code under test."""
    apply: dict[str, Callable[[list[int]], int]] = {
        "[MIN": min,
        "[MAX": max,
        "[MED": lambda values: int(statistics.median(values)),
        "[SM": lambda values: sum(values) % 10,
    }

    def read(i: int) -> tuple[int, int]:
        if tokens[i].isdigit():
            return int(tokens[i]), i + 1
        values: list[int] = []
        operator, i = tokens[i], i + 1
        while tokens[i] != "]":
            value, i = read(i)
            values.append(value)
        return apply[operator](values), i + 1

    value, end = read(0)
    assert end == len(tokens)
    return value


def depth_and_arguments(tokens: list[str]) -> tuple[int, set[int]]:
    deepest = 1
    counts: list[int] = []
    arguments: set[int] = set()
    for token in tokens:
        if token == "]":
            arguments.add(counts.pop())
            continue
        if counts:
            counts[-1] += 1
        deepest = max(deepest, len(counts) + 1)
        if token.startswith("["):
            counts.append(0)
    return deepest, arguments


def words(examples: Examples, i: int) -> list[str]:
    return [TOKENS[token] for token in examples.row(i)]


def rows(examples: Examples) -> set[bytes]:
    return {examples.row(i).tobytes() for i in range(len(examples))}


def same(left: Examples, right: Examples) -> bool:
    return all(
        np.array_equal(getattr(left, name), getattr(right, name)) for name in ("tokens", "starts", "labels")
    )


@pytest.mark.parametrize(
    ("depth", "args", "least", "most"),
    [(2, 5, 1, 64), (3, 3, 8, 64), (5, 2, 6, 40), (10, 10, 32, 128), (10, 10, 8, 32), (10, 3, 4, 12)],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_tree_has_its_value_and_its_shape(depth, args, least, most, seed):
    shape = Shape(max_depth=depth, max_args=args, min_length=least, max_length=most)
    found = generate(200, shape, np.random.default_rng(seed))
    assert len(found) == 200
    assert ((found.lengths > least) & (found.lengths < most)).all()
    assert len(rows(found)) == 200
    for i in range(200):
        tokens = words(found, i)
        assert found.labels[i] == independent_value(tokens) == evaluate(tokens)
        deepest, arguments = depth_and_arguments(tokens)
        assert deepest <= depth
        assert arguments <= set(range(2, args + 1))


def test_the_sampler_is_lras():
    """Against the recursive definition: the share of each operator, count of arguments and length agree."""
    rng = np.random.default_rng(5)

    def size(depth: int) -> int:  # tokens of a random tree
        if depth == 4 or rng.random() > 0.25:
            return 1
        return 2 + sum(size(depth + 1) for _ in range(rng.integers(2, 7)))

    expected = [n for n in (size(1) for _ in range(40_000)) if 12 < n < 64]
    found = generate(
        4000, Shape(max_depth=4, max_args=6, min_length=12, max_length=64), np.random.default_rng(0)
    )
    error = np.std(expected) * np.sqrt(1 / len(expected) + 1 / 4000)
    assert abs(found.lengths.mean() - np.mean(expected)) < 4 * error
    operators = np.bincount(found.tokens, minlength=16)[1:5]
    assert abs(operators / operators.sum() - 0.25).max() < 0.02
    digits = np.bincount(found.tokens, minlength=16)[6:]
    assert abs(digits / digits.sum() - 0.1).max() < 0.01


LRA = {"max_depth": 10, "max_args": 10, "min_length": 500}


@pytest.mark.slow
def test_priors_at_lra_settings():
    """Majority 17.5 % and root operator 37.3 %: 1,500 test trees, four standard errors."""
    priors = ListOps(**LRA, train=3000, validation=1, test=1500).data(2000, 0, None).priors
    assert priors["majority"] == pytest.approx(0.175, abs=4 * (0.175 * 0.825 / 1500) ** 0.5)
    assert priors["root operator"] == pytest.approx(0.373, abs=4 * (0.373 * 0.627 / 1500) ** 0.5)


def test_prior_learns_from_training_only():
    def part(labels: list[int], clues: list[int]) -> Examples:
        return Examples(tokens=np.array(clues), starts=np.arange(len(labels) + 1), labels=np.array(labels))

    train = part([0, 0, 0, 1, 1, 2], [1, 1, 1, 2, 2, 2])
    test = part([0, 1, 1, 0], [1, 2, 2, 3])
    assert prior(train, test) == 0.5
    assert prior(train, test, lambda p: p.tokens) == 1.0  # a clue never seen is answered with the majority


def test_listops_parts_share_no_tree_and_depend_on_the_seed_alone():
    task = ListOps(max_depth=3, max_args=4, min_length=8, **SMALL)
    first, again, other = (task.data(48, seed, None) for seed in (0, 0, 1))
    assert [len(part) for part in (first.train, first.validation, first.test)] == [60, 20, 20]
    assert len(rows(first.train) | rows(first.validation) | rows(first.test)) == 100
    for name in ("train", "validation", "test"):
        assert same(getattr(first, name), getattr(again, name))
        assert not same(getattr(first, name), getattr(other, name))
    assert first.classes == 10
    assert first.vocab_size == 16
    assert first.train.tokens.min() > 0


def test_listops_fills_three_quarters_of_seq_len_at_least():
    lengths = ListOps(**SMALL).data(80, 0, None).train.lengths
    assert lengths.min() > 60
    assert lengths.max() < 80


@pytest.mark.parametrize(
    ("options", "seq_len", "words"),
    [
        ({"max_depth": 2, "max_args": 3, "min_length": 8}, 64, "no tree has more than 8"),
        ({"max_depth": 2, "max_args": 2, "min_length": 1}, 64, "different trees"),
        ({"min_length": 70}, 64, "change min_length"),
    ],
)
def test_listops_says_when_there_are_no_such_trees(options, seq_len, words):
    with pytest.raises(UsageError, match=words):
        ListOps(train=800, validation=1, test=1, **options).data(seq_len, 0, None)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("[MAX 1", "not closed"),
        ("", "no tree"),
        ("1 2", "ends at token 1 of 2"),
        ("]", "closes nothing"),
        ("[MAX ]", "closes nothing"),
        ("[TOP 1 ]", "token 1 is"),
        ("[MAX 11 ]", "token 2 is"),
    ],
)
def test_evaluate_refuses(tokens, words):
    with pytest.raises(ValueError, match=words):
        evaluate(tokens.split())


@pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="the sample of LRA's ListOps files is not beside the repository"
)
def test_lra_sample_files():
    task = ListOps()
    fingerprint = task.fingerprint(SAMPLES)  # evaluates every row
    assert fingerprint == task.fingerprint(SAMPLES) != ""
    splits = task.data(2000, 0, SAMPLES)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [200, 50, 50]
    for i in range(50):
        assert splits.test.labels[i] == independent_value(words(splits.test, i))
    assert 500 < splits.test.lengths.min() < splits.test.lengths.max() < 2000
    with pytest.raises(UsageError, match=r"basic_train.tsv:\d+: \d+ tokens.*seq_len 512"):
        task.data(512, 0, SAMPLES)


def write_tsv(folder: Path, **changed: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in FILES:
        text = changed.get(name.removeprefix("basic_").removesuffix(".tsv"))
        rows = "( ( ( [MAX 4 ) 3 ) ] )\t4\n( ( ( [SM 9 ) 3 ) ] )\t2\n"
        (folder / name).write_text(f"Source\tTarget\n{rows}" if text is None else text)
    return folder


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Target\tSource\n", r"basic_val.tsv:1: the header is"),
        ("Source\tTarget\n", r"basic_val.tsv:2: there is no row"),
        ("Source\tTarget\n( [MAX 4 ) ]\t4\n[MAX 4 ]\n", r"basic_val.tsv:3: 1 columns"),
        (
            "Source\tTarget\n[MAX 4 3 ]\t3\n",
            r"basic_val.tsv:2: column Target is 3, but Source evaluates to 4",
        ),
        ("Source\tTarget\n[MAX 4 3 ]\tx\n", r"basic_val.tsv:2: column Target is 'x'"),
        ("Source\tTarget\n[MAX 4 x ]\t4\n", r"basic_val.tsv:2: column Source: token 3 is 'x'"),
    ],
)
def test_lra_files_errors_name_file_line_and_column(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        ListOps().fingerprint(write_tsv(tmp_path / "lra", val=text))


def test_lra_files_or_generated(tmp_path):
    folder = write_tsv(tmp_path / "lra")
    splits = ListOps().data(16, 0, folder)
    assert words(splits.train, 1) == ["[SM", "9", "3", "]"]
    assert splits.train.labels.tolist() == [4, 2]
    generated = ListOps(data="generated", max_depth=3, **SMALL)
    assert generated.fingerprint(folder) == ""
    assert len(generated.data(64, 0, folder).train) == 60
    with pytest.raises(UsageError, match="--data-dir"):
        ListOps(data="files").fingerprint(None)
    (folder / "basic_test.tsv").unlink()
    with pytest.raises(UsageError, match=r"basic_test.tsv: No such file"):
        ListOps().fingerprint(folder)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ListOps, {"max_depth": 1}),
        (ListOps, {"max_args": 1}),
        (ListOps, {"min_length": 0}),
        (ListOps, {"test": 0}),
        (ListOps, {"data": "guessed"}),
        (ListOps, {"epochs": 0}),
        (IMDB, {"classes": "stars"}),
        (IMDB, {"train": -1}),
        (IMDB, {"validation": 0}),
        (IMDB, {"vocabulary": 0}),
        (IMDB, {"lr": 0.0}),
        (IMDB, {"dropout": 1.0}),
        (IMDB, {"patience": 0}),
    ],
)
def test_wrong_options_raise_value_error(kind, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        kind(**options)


def test_options_are_read_from_the_source():
    assert registry.parse("listops:max_depth=3,min_length=none,data=generated", "task") == (
        "listops",
        {"data": "generated", "max_depth": 3, "min_length": None},
    )
    assert registry.parse("imdb:classes=rating,dropout=0.5", "task")[1] == {
        "classes": "rating",
        "dropout": 0.5,
    }
    assert registry.find("imdb", "task").source.startswith("Maas")


def test_tasks_import_without_heavy_libraries():
    modules = ", ".join(sorted({entry.module for entry in entry_points(group="effbench.tasks")}))
    heavy = "{'torch', 'sklearn', 'tokenizers', 'pandas', 'pyarrow'}"
    code = f"import sys, {modules}; sys.exit(' '.join({heavy} & set(sys.modules)) or None)"
    subprocess.run([sys.executable, "-c", code], check=True)


# The cache.


def test_cache_keeps_what_was_made_until_its_key_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    made = []

    def make():
        made.append(1)
        return {"a": np.arange(5), "b": np.array([len(made)])}

    first = cached("thing", {"version": 1}, make)
    assert cached("thing", {"version": 1}, make)["b"] == first["b"] == 1
    assert cached("thing", {"version": 2}, make)["b"] == 2
    assert cache_dir() == tmp_path / "kept" / "effbench"
    assert sorted(path.suffix for path in cache_dir().iterdir()) == [".npz", ".npz"]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "npy"])
def test_a_damaged_cache_file_is_made_anew(damage):
    expected = np.arange(5000)
    cached("thing", {}, lambda: {"a": expected})
    (path,) = cache_dir().glob("*.npz")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 0x10
    elif damage == "npy":
        np.save(path.with_suffix(".npy"), expected)
        content = bytearray(path.with_suffix(".npy").read_bytes())
    else:
        content = {"empty": bytearray(), "cut": content[: len(content) // 2], "text": bytearray(b"text")}[
            damage
        ]
    path.write_bytes(content)
    assert np.array_equal(cached("thing", {}, lambda: {"a": expected + 1})["a"], expected + 1)
    assert np.array_equal(cached("thing", {}, lambda: {"a": expected + 2})["a"], expected + 1)


def test_a_cache_that_cannot_be_written_costs_time_and_no_result(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for number in (1, 2):
        assert cached("thing", {}, partial(dict, a=np.array([number])))["a"] == number


def test_a_failed_write_leaves_no_file(monkeypatch):
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert cached("thing", {}, lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
    assert list(cache_dir().iterdir()) == []


# IMDB.


def reviews(count: int, seed: int) -> list[dict[str, object]]:
    """Sorted by label and id, as the official files are; positive reviews say good more often than bad."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        label = int(i >= count // 2)
        rating = int(rng.choice(RATINGS[4:] if label else RATINGS[:4]))
        text = " ".join(rng.choice(["good", "bad", "the", "film", "It's", "so<br /><br />so"], size=12))
        found.append({"id": f"{i % (count // 2)}_{rating}", "label": label, "rating": rating, "text": text})
    return found


def write_json_lines(folder: Path, suffix: str = ".jsonl", **changed: Sequence[object]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, seed in (("train", 0), ("test", 1)):
        rows = changed.get(split, reviews(40, seed))
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        with OPENERS[suffix](folder / f"{split}{suffix}", "wb") as file:
            file.write(text.encode())
    return folder


def write_folders(folder: Path) -> Path:
    for split, seed in (("train", 0), ("test", 1)):
        for review in reviews(40, seed):
            part = folder / "aclImdb" / split / ("pos" if review["label"] else "neg")
            part.mkdir(parents=True, exist_ok=True)
            (part / f"{review['id']}.txt").write_text(str(review["text"]))
    return folder


def small_imdb(**options) -> IMDB:
    return IMDB(**{"validation": 10, **options})


@pytest.mark.parametrize("classes", ["polarity", "rating"])
def test_imdb_is_the_same_from_every_format(tmp_path, classes):
    task = small_imdb(classes=classes)
    raw = write_folders(tmp_path / "raw")
    sources = [raw, raw / "aclImdb"]
    sources += [write_json_lines(tmp_path / s[1:], s) for s in (".jsonl", ".jsonl.xz", ".jsonl.gz")]
    assert all(task.fingerprint(source) for source in sources)
    found = [task.data(16, 0, source) for source in sources]
    for splits in found[1:]:
        for name in ("train", "validation", "test"):
            assert same(getattr(splits, name), getattr(found[0], name))
    assert found[0].classes == (2 if classes == "polarity" else 8)
    assert found[0].train.labels.max() < found[0].classes


def test_imdb_divides_by_class_and_seed(tmp_path):
    folder = write_json_lines(tmp_path / "imdb")
    splits = small_imdb(train=20, test=10).data(8, 0, folder)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [20, 10, 10]
    for part in (splits.train, splits.validation, splits.test):
        assert np.bincount(part.labels).tolist() == [len(part) // 2] * 2
        assert part.lengths.max() <= 8
        assert part.tokens.min() >= 1
        assert part.tokens.max() < splits.vocab_size
    assert same(splits.train, small_imdb(train=20, test=10).data(8, 0, folder).train)
    assert not same(splits.train, small_imdb(train=20, test=10).data(8, 1, folder).train)
    assert splits.priors["majority"] == 0.5


def test_imdb_vocabulary_comes_from_training_reviews_alone(tmp_path):
    train = [{"label": i % 2, "text": "common common frequent"} for i in range(12)]
    test = [{"label": i % 2, "text": "common frequent testonly testonly"} for i in range(4)]
    folder = write_json_lines(tmp_path / "imdb", train=train, test=test)
    splits = IMDB(validation=2).data(16, 0, folder)
    assert splits.vocab_size == 4  # padding, unknown, common, frequent
    assert splits.test.row(0).tolist() == [2, 3, 1, 1]
    limited = IMDB(validation=2, vocabulary=1).data(16, 0, folder)
    assert limited.vocab_size == 3
    assert limited.test.row(0).tolist() == [2, 1, 1, 1]


def test_imdb_counts_test_texts_seen_in_training(tmp_path):
    train = [{"label": i % 2, "text": f"review {i}"} for i in range(12)]
    folder = write_json_lines(tmp_path / "imdb", train=train, test=train[:4])
    facts = IMDB(validation=2, train=10).data(16, 0, folder).facts
    assert 2 <= facts["test_texts_in_train"] <= 4  # at most two of the four may be in the validation part


GOOD = [{"label": i % 2, "rating": (1, 10)[i % 2], "text": "a b"} for i in range(12)]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{", r"train.jsonl:3: not JSON"),
        ("", r"train.jsonl:3: not JSON"),
        ("[1]", r"train.jsonl:3: not a JSON object but list"),
        ({"label": 1}, r"train.jsonl:3: the column 'text' is missing; it has label"),
        ({"text": "a"}, r"train.jsonl:3: the column 'label' is missing"),
        ({"label": 2, "text": "a"}, r"train.jsonl:3: column 'label' is 2, not 0"),
        ({"label": "1", "text": "a"}, r"train.jsonl:3: column 'label' is '1'"),
        ({"label": True, "text": "a"}, r"train.jsonl:3: column 'label' is True"),
        ({"label": 1, "text": None}, r"train.jsonl:3: column 'text' is NoneType"),
        ({"label": 1, "text": "a", "rating": 5}, r"train.jsonl:3: column 'rating' is 5, not one of 1, 2"),
        ({"label": 1, "text": "a", "rating": 2}, r"train.jsonl:3: column 'rating' is 2, but .* positive"),
    ],
)
def test_imdb_errors_name_file_line_and_column(tmp_path, bad, words):
    folder = write_json_lines(tmp_path / "imdb", train=[*GOOD[:2], bad, *GOOD])
    with pytest.raises(UsageError, match=words):
        small_imdb(validation=2).fingerprint(folder)


def test_imdb_missing_things_are_named(tmp_path):
    with pytest.raises(UsageError, match="neither train.jsonl"):
        IMDB().fingerprint(tmp_path)
    folder = write_json_lines(tmp_path / "imdb", test=[])
    with pytest.raises(UsageError, match=r"test.jsonl:1: the test part is empty"):
        small_imdb().fingerprint(folder)
    (folder / "test.jsonl").unlink()
    with pytest.raises(UsageError, match=r"no test.jsonl"):
        small_imdb().fingerprint(folder)
    unrated = [{key: row[key] for key in ("label", "text")} for row in GOOD]
    folder = write_json_lines(tmp_path / "unrated", train=[*GOOD[:4], *unrated], test=GOOD)
    small_imdb(validation=2).fingerprint(folder)
    with pytest.raises(UsageError, match=r"train.jsonl:5: .*'rating', which is missing"):
        small_imdb(validation=2, classes="rating").fingerprint(folder)
    with pytest.raises(UsageError, match="exceed the 16 reviews"):
        small_imdb(validation=16).fingerprint(folder)
    packed = write_json_lines(tmp_path / "packed", ".jsonl.xz")
    (packed / "test.jsonl.xz").write_bytes((packed / "test.jsonl.xz").read_bytes()[:-40])
    with pytest.raises(UsageError, match=r"test.jsonl.xz:\d+: cannot be unpacked"):
        small_imdb().fingerprint(packed)


def test_imdb_folder_errors_name_the_file(tmp_path):
    root = write_folders(tmp_path) / "aclImdb"
    (root / "train" / "pos" / "nine.txt").write_text("x")
    with pytest.raises(UsageError, match=r"nine.txt: its name is not <id>_<rating>.txt"):
        small_imdb().fingerprint(tmp_path)
    (root / "train" / "pos" / "nine.txt").rename(root / "train" / "pos" / "99_2.txt")
    with pytest.raises(UsageError, match=r"99_2.txt: the rating in its name is 2, but .* positive"):
        small_imdb().fingerprint(tmp_path)
    (root / "train" / "pos" / "99_2.txt").rename(root / "train" / "pos" / "99_9.txt")
    (root / "train" / "pos" / "99_9.txt").write_bytes(b"\xff\xff")
    with pytest.raises(UsageError, match=r"99_9.txt: not UTF-8"):
        small_imdb().fingerprint(tmp_path)


def hub(load) -> types.ModuleType:
    module = types.ModuleType("datasets")
    vars(module)["load_dataset"] = load
    return module


def test_imdb_from_the_hub(monkeypatch):
    def load(name: str, split: str) -> dict[str, list[object]]:
        assert name == "stanfordnlp/imdb"
        found = reviews(40, {"train": 0, "test": 1}[split])
        return {column: [row[column] for row in found] for column in ("text", "label")}

    monkeypatch.setitem(sys.modules, "datasets", hub(load))
    assert small_imdb().fingerprint(None)
    assert len(small_imdb().data(16, 0, None).train) == 30
    with pytest.raises(UsageError, match=r"stanfordnlp/imdb train row 0: .*rating"):
        small_imdb(classes="rating").fingerprint(None)


def test_imdb_without_the_library_or_the_network_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'effbench\[data\]'.*--data-dir DIR"):
        IMDB().fingerprint(None)

    def load(name: str, split: str) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setitem(sys.modules, "datasets", hub(load))
    with pytest.raises(UsageError, match=r"Couldn't reach the Hub.*network.*--data-dir DIR"):
        IMDB().fingerprint(None)


def test_every_beginning_of_a_stratified_order_has_the_classes_in_proportion():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    order = stratified_order(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(1000))
    for count in (10, 100, 500):
        shares = np.bincount(labels[order[:count]], minlength=3) / count
        assert np.abs(shares - [0.6, 0.3, 0.1]).max() <= 2 / count


def test_scores_of_hand_made_answers():
    scores = classification_scores(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]))
    assert scores["accuracy"] == 0.5
    assert scores["correct"] == 2
    assert scores["examples"] == 4
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 0.5 + 0) / 3)

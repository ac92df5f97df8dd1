"""Tasks that read texts as words: what is read from each format, how it is divided, and what is refused."""

from __future__ import annotations

import gzip
import json
import lzma
import sys
import types
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effbench.common import registry
from effbench.common.machine import cache_dir
from effbench.common.spec import UsageError
from effbench.measured.data.baseline_scores import tfidf_logreg
from effbench.measured.data.examples import Examples, Splits
from effbench.measured.data.text_sets import reservoir
from effbench.measured.tasks import imdb
from effbench.measured.tasks.amazon import HUB as AMAZON_HUB
from effbench.measured.tasks.amazon import AmazonElectronics
from effbench.measured.tasks.base import confirm
from effbench.measured.tasks.imdb import IMDB
from effbench.measured.tasks.mind_topics import MINDTopics
from effbench.measured.tasks.newsgroups import Newsgroups
from effbench.measured.tasks.polarity import Polarity
from effbench.measured.tasks.text import TextClassification

DATA = Path(__file__).parents[1].parent / "shared" / "data"
OPENERS: dict[str, Callable[..., Any]] = {"": open, ".xz": lzma.open, ".gz": gzip.open}
GROUPS = ("alt.atheism", "rec.autos", "sci.space")
CATEGORIES = ("sports", "news", "autos")
WORDS = ("engine", "orbit", "belief", "the", "of", "and", "It's", "good!")


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = path.suffix if path.suffix in OPENERS else ""
    with OPENERS[packed](path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return path


def a_text(rng: np.random.Generator, own: str) -> str:
    """Eight words, among them one of the class more often than not."""
    return " ".join([own] * int(rng.integers(0, 3)) + rng.choice(WORDS, size=6).tolist())


def messages(count: int, seed: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed)
    own = dict(zip(GROUPS, WORDS, strict=False))
    return [(group := GROUPS[i % len(GROUPS)], a_text(rng, own[group])) for i in range(count)]


def json_text(rows: Sequence[object]) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def newsgroups_lines(folder: Path, packed: str = "", train: Sequence[object] | None = None) -> Path:
    for part, seed in (("train", 0), ("test", 1)):
        rows = [{"label": label, "text": text} for label, text in messages(60, seed)]
        write(folder / f"{part}.jsonl{packed}", json_text(train if train and part == "train" else rows))
    return folder


def newsgroups_folders(folder: Path) -> Path:
    for part, seed in (("train", 0), ("test", 1)):
        for number, (label, text) in enumerate(messages(60, seed)):
            head = "From: someone\nSubject: headeronly engine\n\n"
            write(folder / f"20news-bydate-{part}" / label / f"{1000 + number}", head + text)
    return folder


def polarity_texts() -> dict[str, str]:
    """name -> text of one review for every 25 numbers and polarity."""
    rng = np.random.default_rng(0)
    return {
        f"{label}/cv{number:03}_{number + 7}.txt": a_text(rng, label)
        for label in ("pos", "neg")
        for number in range(0, 1000, 25)
    }


def polarity_zip(folder: Path, texts: Mapping[str, str | bytes] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "movie_reviews.zip", "w") as archive:
        archive.writestr("movie_reviews/README", "not a review")
        for name, text in (texts or polarity_texts()).items():
            archive.writestr(f"movie_reviews/{name}", text)
    return folder


def polarity_folders(folder: Path) -> Path:
    for name, text in polarity_texts().items():
        write(folder / "txt_sentoken" / name, text)
    return folder


def amazon_rows(count: int, columns: tuple[str, str] = ("reviewText", "overall")) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    return [
        {"asin": f"B{i}", columns[0]: a_text(rng, WORDS[i % 5]), columns[1]: float(i % 5 + 1)}
        for i in range(count)
    ]


def news_rows(count: int, first: int = 0) -> list[str]:
    rng = np.random.default_rng(first)
    return [
        "\t".join(
            (f"N{i}", CATEGORIES[i % 3], "sub", f'The "{WORDS[i % 3]}', a_text(rng, "so"), "", "[]", "[]")
        )
        for i in range(first, first + count)
    ]


def mind_folder(folder: Path, train: list[str] | None = None) -> Path:
    write(folder / "train" / "news.tsv", "\n".join(train or news_rows(60)) + "\n")
    write(folder / "MINDsmall_dev" / "MINDsmall_dev" / "news.tsv.xz", "\n".join(news_rows(40, 40)) + "\n")
    return folder


def small(kind: type[TextClassification], **options: object) -> TextClassification:
    sizes = {AmazonElectronics: {"train": 40, "validation": 10, "test": 10}, MINDTopics: {}}
    return kind(**{**sizes.get(kind, {"validation": 9}), **options})


def amazon_folder(folder: Path) -> Path:
    write(folder / "reviews_Electronics_5.json", json_text(amazon_rows(80)))
    return folder


MADE: dict[type[TextClassification], Callable[[Path], Path]] = {
    Newsgroups: newsgroups_lines,
    Polarity: polarity_folders,
    AmazonElectronics: amazon_folder,
    MINDTopics: mind_folder,
}
KINDS = pytest.mark.parametrize("kind", list(MADE), ids=lambda kind: kind.name)


def equal(left: Splits, right: Splits) -> bool:
    return all(
        np.array_equal(getattr(getattr(left, part), name), getattr(getattr(right, part), name))
        for part in ("train", "validation", "test")
        for name in ("tokens", "starts", "labels")
    )


def rows(examples: Examples) -> list[bytes]:
    return [examples.row(i).tobytes() for i in range(len(examples))]


# Laws of all of them.


@KINDS
def test_parts_are_in_proportion_and_depend_on_the_seed_alone(kind, tmp_path):
    task, folder = small(kind), MADE[kind](tmp_path / "data")
    fingerprint = task.fingerprint(folder)
    splits, other = task.data(64, 0, folder), task.data(64, 1, folder)
    assert fingerprint == task.fingerprint(folder) != ""
    assert equal(splits, task.data(64, 0, folder))
    assert not equal(splits, other)
    for part in (splits.train, splits.validation, splits.test):
        shares = np.bincount(part.labels, minlength=splits.classes) / len(part)
        assert np.abs(shares - 1 / splits.classes).max() <= 2 / len(part)
        assert 1 <= part.tokens.min() <= part.tokens.max() < splits.vocab_size
        assert part.lengths.max() <= 64
    assert task.data(5, 0, folder).test.lengths.max() == 5
    assert splits.vectors is None
    assert set(splits.priors) == {"majority", "tfidf_logreg", "tfidf_logreg_macro_f1"}


@KINDS
def test_no_text_is_in_two_parts(kind, tmp_path, monkeypatch):
    """Every text is made unlike all others; ids are words, since all words stand in some text twice."""
    count = iter(range(10**6))
    monkeypatch.setattr(sys.modules[__name__], "a_text", lambda rng, own: f"own{next(count)} " * 2)
    task, folder = small(kind), MADE[kind](tmp_path / "data")
    corpus = task._corpus(folder)
    division = task._divide(corpus, 0)
    parts = [set(corpus.hashes[r].tolist()) for r in (division.train, division.validation, division.test)]
    assert len(parts[0] | parts[1] | parts[2]) == sum(map(len, parts))
    assert sum(map(len, parts)) == len(division.train) + len(division.validation) + len(division.test)
    assert [len(part) for part in parts][1:] == [len(division.validation), len(division.test)]


@KINDS
def test_same_content_is_prepared_once_and_a_changed_byte_anew(kind, tmp_path):
    task = small(kind)
    first = MADE[kind](tmp_path / "first")
    before = task.fingerprint(first)
    assert before == task.fingerprint(MADE[kind](tmp_path / "second"))
    assert len(list(cache_dir().glob("*.npz"))) == 1
    file = next(path for path in sorted(first.rglob("*")) if path.is_file())
    with OPENERS[file.suffix if file.suffix in OPENERS else ""](file, "rb") as handle:
        content = handle.read()
    word = next(word.encode() for word in WORDS if word.encode() in content)
    write(file, content.replace(word, word[:-1] + b"X", 1))
    assert task.fingerprint(first) != before
    assert len(list(cache_dir().glob("*.npz"))) == 2


@KINDS
def test_a_folder_of_the_tasks_name_is_found_among_others(kind, tmp_path):
    MADE[kind](tmp_path / kind.name)
    (tmp_path / "listops").mkdir()
    assert small(kind).fingerprint(tmp_path) == small(kind).fingerprint(tmp_path / kind.name)


@KINDS
def test_an_empty_folder_is_named_with_what_belongs_there(kind, tmp_path):
    with pytest.raises(UsageError, match=f"^{tmp_path}: there is n"):
        small(kind).fingerprint(tmp_path)


@KINDS
def test_no_training_pays_for_the_baseline_score(kind, tmp_path, monkeypatch):
    task, folder = small(kind), MADE[kind](tmp_path / "data")
    task.prepare(16, 0, folder)
    monkeypatch.setattr("effbench.measured.tasks.text.tfidf_logreg", None)
    assert task.data(16, 0, folder).priors == task.data(8, 0, folder).priors
    with pytest.raises(TypeError):
        task.data(16, 1, folder)  # other rows, another baseline score


def test_a_training_reads_the_files_once(tmp_path, monkeypatch):
    task, folder = small(Newsgroups), newsgroups_lines(tmp_path / "n")
    confirm(task, folder, task.fingerprint(folder))
    monkeypatch.setattr(Newsgroups, "texts_in", None)
    assert len(task.data(16, 0, folder).test) == 60
    monkeypatch.undo()
    write(folder / "test.jsonl", json_text([{"label": GROUPS[0], "text": "a"}]))
    assert task.fingerprint(folder) != ""
    assert len(task.data(16, 0, folder).test) == 1  # a new fingerprint reads anew


@KINDS
def test_too_many_rows_are_refused_with_the_sizes(kind, tmp_path):
    folder = MADE[kind](tmp_path / "data")
    with pytest.raises(UsageError, match=r"validation=900 .*exceed the \d+ "):
        small(kind, validation=900).fingerprint(folder)


@pytest.mark.parametrize("kind", [IMDB, *MADE], ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    ("name", "value"),
    [("train", -1), ("validation", 0), ("test", -1), ("vocabulary", 0), ("vectors", ""), ("lr", 0.0)],
)
def test_wrong_options_raise_value_error(kind, name, value):
    with pytest.raises(ValueError, match=name):
        kind(**{name: value})


def test_wrong_folds_raise_value_error():
    for fold in (-1, 10):
        with pytest.raises(ValueError, match="fold"):
            Polarity(fold=fold)


def test_options_are_read_from_the_source():
    assert registry.parse("polarity:fold=3,vectors=package", "task")[1] == {"fold": 3, "vectors": "package"}
    assert registry.parse("mind-topics:validation=none,train=50", "task")[1] == {
        "train": 50,
        "validation": None,
    }
    for name in (IMDB.name, *(kind.name for kind in MADE)):
        plugin = registry.find(name, "task")
        assert plugin.source
        assert plugin.parameters is not None
        assert {p.name: p.default for p in plugin.parameters}["vectors"] == "none"


# Words, vectors, baseline scores.


def test_words_are_those_of_the_tasks_docstring(tmp_path):
    train = [
        {"label": GROUPS[i % 3], "text": "It's SO<br /><br />good! 3.5 É — don't ''x''"} for i in range(8)
    ]
    corpus = Newsgroups(validation=2)._corpus(newsgroups_lines(tmp_path / "n", train=train))
    assert [corpus.lexicon[word] for word in corpus.examples.row(0)] == [
        "it's", "so", "good", "!", "3", "5", "é", "don't", "x",
    ]  # fmt: skip


def stand_in(table: dict[str, float]) -> types.ModuleType:
    module = types.ModuleType("effbench.measured.data.vectors")
    asked: list[tuple[list[str], str, int]] = []

    def initial(words: list[str], vectors: str, seed: int) -> np.ndarray:
        asked.append((list(words), vectors, seed))
        return np.array([[table.get(word, -1.0), seed] for word in words], dtype=np.float32)

    vars(module).update(asked=asked, initial=initial, fingerprint=lambda vectors: f"of-{vectors}")
    return module


def test_vectors_stand_at_their_words_ids(tmp_path, monkeypatch):
    module = stand_in({"the": 5.0, "engine": 6.0})
    monkeypatch.setitem(sys.modules, "effbench.measured.data.vectors", module)
    folder = newsgroups_lines(tmp_path / "n")
    plain, task = small(Newsgroups), small(Newsgroups, vectors="package")
    assert task.fingerprint(folder) == plain.fingerprint(folder) + "-of-package"
    splits = task.data(16, 3, folder)
    assert equal(splits, plain.data(16, 3, folder))
    words, named, seed = module.asked[-1]
    assert (named, seed) == ("package", 3)
    assert splits.vectors is not None
    assert splits.vectors.shape == (splits.vocab_size, 2)
    assert splits.vectors.dtype == np.float32
    assert splits.vectors[0].tolist() == [0.0, 0.0]
    assert splits.vectors[1].tolist() == [-1.0, 3.0]
    assert splits.vectors[1 + words.index("the"), 0] == 5.0
    # A test text's ids, taken back to words, are its words.
    label, text = messages(60, 1)[0]
    again = [words[token - 1] for token in splits.test.row(0)]
    assert again == text.lower().replace("!", " !").split()
    assert GROUPS[splits.test.labels[0]] == label


def test_check_refuses_vectors_that_cannot_be_read(tmp_path):
    pytest.importorskip("effbench.measured.data.vectors")
    with pytest.raises(UsageError, match="nowhere.txt"):
        small(Newsgroups, vectors="nowhere.txt").fingerprint(newsgroups_lines(tmp_path / "n"))


def test_the_baseline_score_beats_the_majority_and_learns_order(tmp_path):
    rng = np.random.default_rng(0)

    def part(count: int) -> tuple[list[str], np.ndarray]:
        labels = np.arange(count) % 2
        # The same words in either class: only their order tells.
        found = [
            " ".join([*rng.choice(["a", "b", "c"], 4), *(("not", "bad") if y else ("bad", "not"))])
            for y in labels
        ]
        return found, labels

    parts = {name: part(count) for name, count in (("train", 80), ("validation", 20), ("test", 40))}
    accuracy, macro_f1 = tfidf_logreg(
        {n: p[0] for n, p in parts.items()}, {n: p[1] for n, p in parts.items()}, "t"
    )
    assert accuracy == macro_f1 == 1.0


def test_the_baseline_score_is_above_the_majority_class(tmp_path):
    priors = small(Newsgroups).data(4, 0, newsgroups_lines(tmp_path / "n")).priors
    assert priors["majority"] == pytest.approx(1 / 3)
    assert priors["tfidf_logreg"] > 0.5


def test_texts_without_a_shared_word_are_refused():
    with pytest.raises(UsageError, match="no word stands in two of the 2 training texts"):
        tfidf_logreg(
            {"train": ["x", "y"], "validation": ["x"], "test": ["y"]},
            {"train": np.arange(2), "validation": np.arange(1), "test": np.arange(1)},
            "t",
        )


def test_training_on_one_class_is_refused(tmp_path):
    one = [{"label": GROUPS[0], "text": "a b"}] * 20
    folder = newsgroups_lines(tmp_path / "n", train=one)
    write(folder / "test.jsonl", json_text(one))
    with pytest.raises(UsageError, match=r"train.jsonl:\d+: .*fewer than two classes.* alt.atheism"):
        small(Newsgroups).fingerprint(folder)


def test_reservoir_is_even_ordered_and_repeatable():
    hits = np.zeros(20)
    for start in range(400):  # other rows meet the same draws: shift them
        kept = reservoir(((row + start) % 20 for row in range(20)), 5)
        hits[kept] += 1
        assert kept == reservoir(((row + start) % 20 for row in range(20)), 5)
    assert hits.tolist() == [100.0] * 20
    kept = reservoir(range(10_000), 2_000)
    assert kept == sorted(kept)
    assert len(set(kept)) == 2_000
    thousands = np.bincount(np.array(kept) // 1000, minlength=10)
    assert np.abs(thousands - 200).max() < 4 * (200 * 0.9) ** 0.5
    assert reservoir(range(3), 5) == [0, 1, 2]


# IMDB's texts.


def test_imdb_texts_come_in_the_order_of_the_source(tmp_path):
    for part in ("train", "test"):
        write(
            tmp_path / f"{part}.jsonl", json_text([{"label": i % 2, "text": f"{part} {i}"} for i in range(4)])
        )
    found, digest = imdb.texts(tmp_path)
    assert found["test"] == ([f"test {i}" for i in range(4)], [0, 1, 0, 1])
    assert found["train"][0][3] == "train 3"
    assert digest == imdb.texts(tmp_path)[1] != ""
    write(tmp_path / "test.jsonl", "")
    with pytest.raises(UsageError, match=r"test.jsonl:1: the test part is empty"):
        imdb.texts(tmp_path)


# 20 Newsgroups.


def test_newsgroups_are_the_same_from_every_format(tmp_path):
    task = small(Newsgroups)
    lines = [newsgroups_lines(tmp_path / f"lines{packed}", packed) for packed in OPENERS]
    found = [task.data(16, 0, folder) for folder in lines]
    assert equal(found[0], found[1])
    assert equal(found[0], found[2])
    raw = task.data(16, 0, newsgroups_folders(tmp_path / "raw"))  # by group, so other rows are drawn
    assert sorted(raw.test.labels) == sorted(found[0].test.labels)
    assert (raw.classes, len(raw.train)) == (found[0].classes, len(found[0].train)) == (3, 51)


def test_newsgroups_lose_their_headers(tmp_path):
    folder = newsgroups_folders(tmp_path / "raw")
    write(folder / "20news-bydate-train" / GROUPS[0] / "1", b"From: a\r\n\r\nfirst\r\n\r\ncaf\xe9")
    corpus = small(Newsgroups)._corpus(folder)
    assert [corpus.lexicon[word] for word in corpus.examples.row(0)] == ["first", "café"]
    assert "headeronly" not in corpus.lexicon


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{", r"train.jsonl:3: not JSON"),
        ({"text": "a"}, r"train.jsonl:3: the column 'label' is missing; it has text"),
        ({"label": 3, "text": "a"}, r"train.jsonl:3: column 'label' is 3, not the name of a group"),
        ({"label": "", "text": "a"}, r"train.jsonl:3: column 'label' is ''"),
        ({"label": "a", "text": 5}, r"train.jsonl:3: column 'text' is int, not text"),
        ({"label": "a", "text": "\ud800"}, r"train.jsonl:3: column 'text' holds half of a surrogate pair"),
    ],
)
def test_newsgroups_errors_name_file_line_and_column(tmp_path, bad, words):
    good = [{"label": label, "text": text} for label, text in messages(12, 0)]
    with pytest.raises(UsageError, match=words):
        small(Newsgroups).fingerprint(newsgroups_lines(tmp_path / "n", train=[*good[:2], bad, *good]))


def test_newsgroups_that_training_lacks_and_missing_parts_are_named(tmp_path):
    folder = newsgroups_lines(tmp_path / "n")
    write(folder / "test.jsonl", json_text([{"label": "rec.auto", "text": "a"}]))
    with pytest.raises(
        UsageError, match=r"test.jsonl:1: the class is 'rec.auto', not one of alt.atheism, rec.a"
    ):
        small(Newsgroups).fingerprint(folder)
    (folder / "test.jsonl").unlink()
    with pytest.raises(UsageError, match="there is no test.jsonl"):
        small(Newsgroups).fingerprint(folder)
    raw = newsgroups_folders(tmp_path / "raw")
    (raw / "20news-bydate-test").rename(raw / "moved")
    with pytest.raises(UsageError, match="20news-bydate-test: there is no such folder"):
        small(Newsgroups).fingerprint(raw)
    (raw / "20news-bydate-test").mkdir()
    with pytest.raises(UsageError, match="20news-bydate-test: the test part is empty"):
        small(Newsgroups).fingerprint(raw)


def hub(load: Callable[..., object]) -> types.ModuleType:
    module = types.ModuleType("datasets")
    vars(module)["load_dataset"] = load
    return module


def test_newsgroups_from_the_hub(tmp_path, monkeypatch):
    def load(name: str, split: str) -> dict[str, list[str]]:
        assert name == "SetFit/20_newsgroups"
        found = messages(60, {"train": 0, "test": 1}[split])
        return {"text": [text for _, text in found], "label_text": [label for label, _ in found]}

    monkeypatch.setitem(sys.modules, "datasets", hub(load))
    task = small(Newsgroups)
    assert task.fingerprint(None)
    assert equal(task.data(16, 0, None), task.data(16, 0, newsgroups_lines(tmp_path / "n")))


@pytest.mark.parametrize("kind", [Newsgroups, AmazonElectronics], ids=lambda kind: kind.name)
def test_without_the_library_or_the_network_it_is_said_what_to_do(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'effbench\[data\]'.*--data-dir DIR"):
        kind().fingerprint(None)

    def load(*args: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setitem(sys.modules, "datasets", hub(load))
    with pytest.raises(UsageError, match=r"Couldn't reach the Hub.*network.*--data-dir DIR"):
        kind().fingerprint(None)


@pytest.mark.parametrize("kind", [Polarity, MINDTopics], ids=lambda kind: kind.name)
def test_without_a_hub_the_official_location_is_named(kind):
    with pytest.raises(UsageError, match=r"--data-dir DIR.*https://"):
        kind().fingerprint(None)


# Polarity.


def test_polarity_is_the_same_from_zip_and_folders(tmp_path):
    raw = polarity_folders(tmp_path / "raw")
    sources = [raw, raw / "txt_sentoken", polarity_zip(tmp_path / "zip")]
    found = [small(Polarity).data(16, 0, source) for source in sources]
    assert equal(found[0], found[1])
    assert equal(found[0], found[2])


def test_polarity_tests_on_its_last_two_hundreds_or_on_a_fold(tmp_path):
    folder = polarity_folders(tmp_path / "raw")
    corpus = small(Polarity)._corpus(folder)
    tests = [
        corpus.numbers[small(Polarity, fold=fold)._divide(corpus, 0).test] for fold in (None, *range(10))
    ]
    assert sorted(tests[0]) == sorted([*range(800, 1000, 25)] * 2)
    for fold in range(10):
        assert set(tests[1 + fold] // 100) == {fold}
    assert len(np.concatenate(tests[1:])) == len(corpus.numbers)
    names = np.array(corpus.names)
    assert names.tolist() == ["neg", "pos"]
    assert names[corpus.examples.labels[0]] == "neg"
    assert "pos" in [corpus.lexicon[w] for w in corpus.examples.tokens[corpus.examples.starts[40] :]]


def test_polarity_errors_name_the_file(tmp_path):
    folder = polarity_folders(tmp_path / "raw")
    bad = write(folder / "txt_sentoken" / "pos" / "cv12.txt", "a")
    with pytest.raises(UsageError, match=r"cv12.txt: its name is not cvNNN_"):
        small(Polarity).fingerprint(folder)
    bad.unlink()
    write(folder / "txt_sentoken" / "pos" / "cv012_1.txt", b"\xff")
    with pytest.raises(UsageError, match=r"pos/cv012_1.txt: not UTF-8"):
        small(Polarity).fingerprint(folder)
    for path in (folder / "txt_sentoken" / "neg").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match=r"neg: there is no cvNNN_"):
        small(Polarity).fingerprint(folder)
    (folder / "txt_sentoken" / "neg").rmdir()
    with pytest.raises(UsageError, match=r"neg: there is no such folder"):
        small(Polarity).fingerprint(folder)
    low = {name: text for name, text in polarity_texts().items() if name[6] < "8"}
    with pytest.raises(UsageError, match=r"polarity: none of the \d+ reviews found is of the test part"):
        small(Polarity).fingerprint(polarity_zip(tmp_path / "low", low))


def test_polarity_zip_errors_name_the_member(tmp_path):
    texts = polarity_texts()
    folder = polarity_zip(tmp_path / "a", {**texts, "pos/cv001_1.txt": b"\xff"})
    with pytest.raises(UsageError, match=r"movie_reviews.zip:movie_reviews/pos/cv001_1.txt: not UTF-8"):
        small(Polarity).fingerprint(folder)
    only = {name: text for name, text in texts.items() if name.startswith("pos")}
    with pytest.raises(UsageError, match=r"movie_reviews.zip: there is no neg/cvNNN"):
        small(Polarity).fingerprint(polarity_zip(tmp_path / "b", only))
    path = polarity_zip(tmp_path / "c") / "movie_reviews.zip"
    content = bytearray(path.read_bytes())
    content[content.index(texts["neg/cv000_7.txt"].encode())] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"neg/cv000_7.txt: cannot be unpacked"):
        small(Polarity).fingerprint(tmp_path / "c")
    path.write_bytes(content[:500])
    with pytest.raises(UsageError, match=r"movie_reviews.zip: cannot be unpacked"):
        small(Polarity).fingerprint(tmp_path / "c")
    write(tmp_path / "c" / "other.zip", "")
    with pytest.raises(UsageError, match=r"2 .zip files, not one: movie_reviews.zip, other.zip"):
        small(Polarity).fingerprint(tmp_path / "c")


# Amazon.


def test_amazon_is_the_same_from_every_format(tmp_path, monkeypatch):
    recent = amazon_rows(80, ("text", "rating"))

    def load(kind: str, *, data_files: str, split: str, streaming: bool) -> object:
        assert (kind, data_files, split, streaming) == ("json", AMAZON_HUB, "train", True)
        return iter(recent)

    monkeypatch.setitem(sys.modules, "datasets", hub(load))
    task = small(AmazonElectronics, train=60)
    folders = [tmp_path / str(i) for i in range(4)]
    write(folders[0] / "reviews_Electronics_5.json", json_text(amazon_rows(80)))
    write(folders[1] / "reviews_Electronics.json.gz", json_text(amazon_rows(80)))
    write(folders[2] / "Electronics.jsonl", json_text(recent))
    write(folders[3] / "Electronics.jsonl.xz", json_text(recent))
    found = [task.data(16, 0, folder) for folder in (*folders, None)]
    for splits in found[1:]:
        assert equal(splits, found[0])
    assert (found[0].classes, len(found[0].train)) == (5, 60)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert equal(task.data(16, 0, None), found[0])  # the stream was kept


def test_amazon_samples_reviews_with_text_from_the_whole_file(tmp_path):
    rows = amazon_rows(600)
    for row in rows[::2]:
        row["reviewText"] = " "
    folder = write(tmp_path / "a" / "reviews_Electronics.json", json_text(rows)).parent
    task = small(AmazonElectronics)
    sample = list(task.texts_in(folder).read("whole"))
    assert len(sample) == 60
    assert all(review.text.strip() for review in sample)
    where = [next(i for i, row in enumerate(rows) if row["reviewText"] == review.text) for review in sample]
    assert where == sorted(where)
    assert max(where) > 500
    with pytest.raises(UsageError, match=r"test=10 together exceed the 300 reviews with text"):
        small(AmazonElectronics, train=300).fingerprint(folder)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{'overall': 5}", r"reviews_Electronics.json:3: not JSON"),
        ("7", r"reviews_Electronics.json:3: not a JSON object but int"),
        ({"overall": 5.0}, r"reviews_Electronics.json:3: the column 'reviewText' is missing; it has overall"),
        ({"text": "a"}, r"reviews_Electronics.json:3: the column 'rating' is missing; it has text"),
        ({"reviewText": "a", "overall": 6.0}, r".json:3: column 'overall' is 6.0, not 1 to 5 stars"),
        ({"reviewText": "a", "overall": 2.5}, r".json:3: column 'overall' is 2.5"),
        ({"reviewText": "a", "overall": True}, r".json:3: column 'overall' is True"),
        ({"reviewText": ["a"], "overall": 1}, r".json:3: column 'reviewText' is list, not text"),
    ],
)
def test_amazon_errors_name_file_line_and_column(tmp_path, bad, words):
    good = amazon_rows(80)
    folder = write(tmp_path / "a" / "reviews_Electronics.json", json_text([*good[:2], bad, *good])).parent
    with pytest.raises(UsageError, match=words):
        small(AmazonElectronics).fingerprint(folder)


def test_amazon_refuses_two_files_and_a_cut_one(tmp_path):
    folder = tmp_path / "a"
    path = write(folder / "reviews_Electronics_5.json.gz", json_text(amazon_rows(80)))
    write(folder / "Electronics.jsonl", "")
    with pytest.raises(UsageError, match=r"2 files of reviews, not one: Electronics.jsonl, reviews_E"):
        small(AmazonElectronics).fingerprint(folder)
    (folder / "Electronics.jsonl").unlink()
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UsageError, match=r"5.json.gz:\d+: cannot be unpacked"):
        small(AmazonElectronics).fingerprint(folder)


# MIND.


def test_mind_joins_its_files_by_news_id(tmp_path):
    corpus = small(MINDTopics)._corpus(mind_folder(tmp_path / "m"))
    assert len(corpus.examples) == 80  # 60 and 40, of which 20 in both
    assert corpus.names == ["autos", "news", "sports"]
    assert [corpus.lexicon[word] for word in corpus.examples.row(0)][:2] == [
        "the",
        "engine",
    ]  # quotes are text
    splits = small(MINDTopics).data(16, 0, tmp_path / "m")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [64, 8, 8]


def test_mind_drops_categories_of_one_news_from_all_parts(tmp_path):
    rows = [*news_rows(60), "N98\tvideo\tsub\tlone\t\t\t[]\t[]", "N99\tkids\tsub\tlone\t\t\t[]\t[]"]
    splits = small(MINDTopics).data(16, 0, mind_folder(tmp_path / "m", rows))
    assert splits.classes == 3
    assert splits.facts["texts_of_rare_classes"] == 2
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 80
    for part in (splits.train, splits.validation, splits.test):
        assert set(part.labels) == {0, 1, 2}
    one = [row.replace("\tsports\t", "\tnews\t").replace("\tautos\t", "\tnews\t") for row in news_rows(60)]
    folder = write(tmp_path / "one" / "news.tsv", "\n".join(one)).parent
    with pytest.raises(UsageError, match=r"fewer than two classes of 2 or more; .* found are news"):
        small(MINDTopics).fingerprint(folder)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("N9\tnews\tsub\ttitle", r"news.tsv:3: 4 columns, not 8: news id, category"),
        ("", r"news.tsv:3: 1 columns, not 8"),
        ("\tnews\ts\tt\ta\tu\t[]\t[]", r"news.tsv:3: column 'news id' is ''"),
        ("N9\t \ts\tt\ta\tu\t[]\t[]", r"news.tsv:3: column 'category' is ' '"),
        ("N0\tvideo\ts\tt\ta\tu\t[]\t[]", r"news.tsv:3: .* news N0 is 'video', but 'sports' at .*news.tsv:1"),
        ("N9\tnews\ts\t\udcff\ta\tu\t[]\t[]", r"news.tsv:3: not UTF-8"),
    ],
)
def test_mind_errors_name_file_line_and_column(tmp_path, bad, words):
    text = "\n".join([*news_rows(2), bad, *news_rows(40, 10)])
    folder = write(tmp_path / "m" / "news.tsv", text.encode(errors="surrogateescape")).parent
    with pytest.raises(UsageError, match=words):
        small(MINDTopics).fingerprint(folder)


# Real files.


def real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / name).is_dir(), reason=f"{name} is not beside the repository")


@real("movie_reviews_polarity2")
@pytest.mark.slow
def test_real_polarity():
    splits = Polarity(train=300, validation=50, test=100).data(512, 0, DATA)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [300, 50, 100]
    assert splits.priors["majority"] == 0.5
    assert splits.priors["tfidf_logreg"] > 0.75
    assert splits.train.lengths.mean() > 450  # nearly all reviews are longer than 512 words


@real("newsgroups20")
@pytest.mark.slow
def test_real_newsgroups():
    source = Newsgroups().texts_in(DATA)
    groups = {part: [text.label for text in source.read(part)] for part in source.parts}
    assert {part: len(found) for part, found in groups.items()} == {"train": 11_293, "test": 7_528}
    assert len(set(groups["train"])) == len(set(groups["test"])) == 20


@real("imdb")
@pytest.mark.slow
def test_real_imdb_texts():
    found, _ = imdb.texts(DATA)
    for part in ("train", "test"):
        assert np.bincount(found[part][1]).tolist() == [12_500, 12_500]
    assert 1250 < np.mean([len(text.encode()) for text in found["train"][0]]) < 1400


@real("amazon-games-mind")
def test_real_file_in_minds_format_has_one_category():
    with pytest.raises(UsageError, match=r"fewer than two classes of 2 or more; .* found are games"):
        MINDTopics().fingerprint(DATA / "amazon-games-mind")

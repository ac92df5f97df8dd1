"""Articles and summaries are what their files say, in any format, and a wrong file is named."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import changed, complaint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effbench.common.machine import cache_dir
from effbench.common.spec import UsageError
from effbench.measured.data import byte_pairs, summary_texts
from effbench.measured.data.byte_pairs import LARGEST, SMALLEST, BytePairs, trained
from effbench.measured.data.source_targets import SPECIAL, SourceTargets
from effbench.measured.data.stories import story
from effbench.measured.data.summary_files import PARTS, find
from effbench.measured.data.summary_texts import Summaries, read_summaries

DATA = Path(__file__).parents[1].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the test data is not beside the repository")

VOCABULARY = 300
Rows = list[tuple[str, str]]


def rows_of(part: str, count: int = 4) -> Rows:
    return [
        (f"The {part} story {i} began here. It has “{i * 7}” words .", f"Story {i} .\nOf {part} .")
        for i in range(count)
    ]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".xz":
        content = lzma.compress(content)
    path.write_bytes(content)
    return path


def json_text(rows: Rows, names: tuple[str, str] = ("article", "abstract")) -> str:
    return "".join(json.dumps({"id": 1, **dict(zip(names, row, strict=True))}) + "\n" for row in rows)


def json_files(folder: Path, rows: dict[str, Rows] | None = None, end: str = ".jsonl") -> Path:
    for part in PARTS:
        write(folder / f"{part}{end}", json_text((rows or {}).get(part, rows_of(part))))
    return folder


def csv_files(folder: Path) -> Path:
    for part, name in zip(PARTS, ("train_sample", "val", "TEST"), strict=True):
        text = io.StringIO()
        table = csv.writer(text)
        table.writerows([("", "id", "article", "highlights"), *(("0", "x", *row) for row in rows_of(part))])
        write(folder / f"{name}.csv", text.getvalue())
    return folder


def parquet_files(folder: Path) -> Path:
    for part in PARTS:
        rows = rows_of(part)
        halves = (rows[:3], rows[3:])
        for i, half in enumerate(halves):
            columns = dict(zip(("article", "highlights"), zip(*half, strict=True), strict=True))
            path = folder / "3.0.0" / f"{part}-{i:05}-of-00002.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({**columns, "id": ["x"] * len(half)}), path)
    write(folder / "README.md", "train")
    return folder


def marked_files(folder: Path) -> Path:
    """The files of Cohan et al.: lists of sentences, those of the abstract between marks."""
    for part, name in zip(PARTS, ("train", "val", "test"), strict=True):
        rows = [
            {
                "article_id": "1",
                "article_text": [article],
                "abstract_text": [f"<S> {line} </S>" for line in summary.split("\n")],
            }
            for article, summary in rows_of(part)
        ]
        write(folder / f"{name}.txt", "".join(json.dumps(row) + "\n" for row in rows))
    return folder


def a_story(article: str, summary: str) -> str:
    """The body in paragraphs, highlights without their full stops."""
    highlights = "".join(f"\n@highlight\n\n{line.removesuffix(' .')}\n" for line in summary.split("\n"))
    return article.removesuffix(" .").replace(". It", ".\n\nIt") + "\n" + highlights


def story_folders(folder: Path) -> Path:
    for part, name in zip(PARTS, ("train", "val", "test"), strict=True):
        for i, row in enumerate(rows_of(part)):
            write(folder / name / f"{i}.story", a_story(*row))
    return folder


def listed_stories(folder: Path) -> Path:
    """The stories of both newspapers, and the addresses of each part."""
    for part, name in zip(PARTS, ("all_train", "all_val", "all_test"), strict=True):
        addresses = []
        for i, row in enumerate(rows_of(part)):
            # so numbered that the stories' names rise with i
            address = next(
                url
                for j in range(10_000)
                if hashlib.sha1((url := f"http://{part}/{j}").encode()).hexdigest()[0] == "37bf"[i]
            )
            addresses.append(address)
            stem = hashlib.sha1(address.encode()).hexdigest()
            write(folder / "cnn" / "stories" / f"{stem}.story", a_story(*row))
        write(folder / "url_lists" / f"{name}.txt", "\n".join(addresses))
    return folder


FORMS: dict[str, Callable[[Path], Path]] = {
    "json": json_files,
    "packed": lambda folder: json_files(folder, end=".jsonl.xz"),
    "csv": csv_files,
    "parquet": parquet_files,
    "marked": marked_files,
    "stories": story_folders,
    "listed": listed_stories,
}


def read(folder: Path, vocabulary: int = VOCABULARY, **options: str) -> Summaries:
    return read_summaries(folder, vocabulary, **options)[0]


def written(data: Summaries, part: str) -> Rows:
    decode = data.byte_pairs.decode
    pairs = data.parts[part]
    return [(decode(pairs.source(i)), decode(pairs.target(i))) for i in range(len(pairs))]


@pytest.mark.parametrize("form", FORMS)
def test_every_format_has_the_same_texts(form, tmp_path):
    data = read(FORMS[form](tmp_path / "data"))
    for part in PARTS:
        assert written(data, part) == rows_of(part)
    for part in ("validation", "test"):
        documents = data.documents[part]
        assert list(zip(documents.articles, documents.summaries, strict=True)) == rows_of(part)
        assert len(documents) == 4
    assert data.documents["test"].digest == read(json_files(tmp_path / "again")).documents["test"].digest


def test_any_two_columns_can_be_named(tmp_path):
    for part in PARTS:
        write(tmp_path / f"{part}.jsonl.gz", json_text(rows_of(part), ("body", "title")))
    assert written(read(tmp_path, article="body", summary="title"), "test") == rows_of("test")
    both = "the columns are article='body' and summary='': name both of them, or neither"
    with pytest.raises(UsageError, match=both):
        read(tmp_path, article="body")
    with pytest.raises(UsageError, match=r"train.jsonl.gz:1: the column 'text' is missing; it has id, body"):
        read(tmp_path, article="body", summary="text")
    with pytest.raises(UsageError, match=r"gz:1: the columns are id, body, title, without a usual pair"):
        read(tmp_path)


def test_other_columns_have_another_digest(tmp_path):
    for part in PARTS:
        rows = [{"article": a, "abstract": s, "short": s[:5]} for a, s in rows_of(part)]
        write(tmp_path / f"{part}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    usual, short = find(tmp_path), find(tmp_path, "article", "short")
    assert usual.digest() == find(tmp_path).digest() != short.digest()
    assert written(read(tmp_path, article="article", summary="short"), "test")[1][1] == "Story"


def test_parts_without_a_file_are_every_tenth_training_pair(tmp_path):
    rows = rows_of("train", 25)
    write(tmp_path / "train.jsonl", json_text(rows))
    data = read(tmp_path)
    assert written(data, "validation") == rows[8::10]
    assert written(data, "test") == rows[9::10]
    assert written(data, "train") == [row for i, row in enumerate(rows) if i % 10 < 8]
    write(tmp_path / "test.jsonl", json_text(rows_of("test")))
    data = read(tmp_path)
    assert written(data, "test") == rows_of("test")
    assert len(data.parts["train"]) == 23


def test_a_folder_of_stories_without_parts_is_divided(tmp_path):
    for i, row in enumerate(rows_of("train", 20)):
        write(tmp_path / "stories" / f"{i:02}.story", a_story(*row))
    data = read(tmp_path)
    assert [len(data.parts[part]) for part in PARTS] == [16, 2, 2]


def test_empty_texts_are_left_out_and_double_ones_kept_and_both_counted(tmp_path):
    train = rows_of("train")
    test = [train[1], *rows_of("test"), (train[0][0], "Another summary")]
    train[2:2] = [("  \n ", "A summary"), ("An article", " \n\n "), ("", "")]
    data = read(json_files(tmp_path, {"train": train, "test": test}))
    assert data.facts["empty_articles"] == 2
    assert data.facts["empty_summaries"] == 1
    assert data.facts["test_articles_in_train"] == 2
    assert data.facts["validation_articles_in_train"] == 0
    assert written(data, "train") == rows_of("train")
    assert written(data, "test") == test
    assert data.facts["training_summary_words"] == 6


def test_what_is_cut_is_counted(tmp_path):
    pairs = read(json_files(tmp_path)).parts["train"]
    longest = int(pairs.source_lengths.max())
    assert pairs.truncated(longest, 10_000) == {"source_truncated_share": 0, "target_truncated_share": 0}
    assert pairs.truncated(1, 1) == {"source_truncated_share": 1, "target_truncated_share": 1}
    cut = pairs.take(np.array([2, 0]), 5, 3)
    assert cut.source_lengths.tolist() == [5, 5]
    assert cut.lengths.tolist() == [8, 8]
    assert cut.source(0).tolist() == pairs.source(2)[:5].tolist()
    assert cut.target(1).tolist() == pairs.target(0)[:3].tolist()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=6), st.data())
def test_taken_pairs_are_those_asked_for(sizes, data):
    starts = [np.concatenate(([0], np.cumsum([size[side] for size in sizes]))) for side in (0, 1)]
    tokens = [np.arange(SPECIAL, SPECIAL + start[-1]) for start in starts]
    pairs = SourceTargets(
        sources=tokens[0], source_starts=starts[0], targets=tokens[1], target_starts=starts[1]
    )
    rows = np.array(data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1)))
    longest = data.draw(st.integers(0, 7))
    taken = pairs.take(rows, longest, longest)
    assert len(taken) == len(rows)
    for i, row in enumerate(rows):
        assert taken.source(i).tolist() == pairs.source(row)[:longest].tolist()
        assert taken.target(i).tolist() == pairs.target(row)[:longest].tolist()
    assert (taken.target_lengths <= longest).all()


def test_a_second_reading_comes_from_the_cache(tmp_path, monkeypatch):
    folder = json_files(tmp_path / "data")
    first, digest = read_summaries(folder, VOCABULARY)
    with monkeypatch.context() as patch:
        patch.setattr(summary_texts, "_kept", None)
        second, again = read_summaries(folder, VOCABULARY)
    assert digest == again
    assert second.facts == first.facts
    assert second.documents == first.documents
    assert written(second, "train") == written(first, "train")
    write(folder / "test.jsonl", json_text(rows_of("other")))
    third, other = read_summaries(folder, VOCABULARY)
    assert other != digest
    assert written(third, "test") == rows_of("other")
    assert read(folder, VOCABULARY + 1).vocab_size <= VOCABULARY + 1
    assert len(list(cache_dir().glob("summaries-*.npz"))) == 3


# Byte pairs.


@pytest.fixture(scope="module")
def pairs() -> BytePairs:
    return trained([row[0] for row in rows_of("train", 40)], 300)


@given(st.text())
def test_ids_give_their_text_back(pairs, text):
    (ids,) = pairs.encode([text])
    assert pairs.decode(ids) == text
    assert all(SPECIAL <= token < pairs.size for token in ids)
    assert pairs.decode([0, 1, *ids, 2, 0]) == text
    assert pairs.encode([text, text + "a"])[0] == ids


@given(st.lists(st.integers(0, SMALLEST)))
def test_any_ids_have_a_text(pairs, ids):
    pairs.decode(ids).encode()


def test_frequent_words_are_one_token_and_no_text_is_special(pairs):
    (ids,) = pairs.encode([" story"])
    assert len(ids) == 1
    for text in ("<pad>", "<s>", "</s>", "[PAD]", "<|endoftext|>"):
        assert len(pairs.encode([text])[0]) > 1


def test_training_is_a_function_of_the_texts(pairs):
    texts = [row[0] for row in rows_of("train", 40)]
    code = (
        "import sys, json; from effbench.measured.data.byte_pairs import trained; "
        "print(trained(json.load(sys.stdin), 300).written)"
    )
    path = os.pathsep.join(sys.path)
    out = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(texts),
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == pairs.written.strip()
    assert trained(texts, LARGEST).size < LARGEST  # fewer pairs occur twice


@pytest.mark.parametrize("size", [0, SMALLEST - 1, LARGEST + 1])
def test_an_impossible_vocabulary_is_refused(size):
    with pytest.raises(ValueError, match=f"vocabulary must be 259 to 65,536, got {size}"):
        trained(["a"], size)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_thread_is_left_behind(pairs, monkeypatch):
    monkeypatch.setenv(byte_pairs._THREADS, "true")
    before = len(list(Path("/proc/self/task").iterdir()))
    trained(["a text of words"] * 100, 300).encode(["a text of words"] * 100)
    assert len(list(Path("/proc/self/task").iterdir())) == before
    assert threading.active_count() <= before
    assert os.environ[byte_pairs._THREADS] == "true"


# Stories.


def test_a_story_gets_the_full_stops_that_it_lacks(tmp_path):
    text = "By . A man\n\nHe said: 'no'\n\nIt ended.\n\n@highlight\n\nFirst\n\n@highlight\nSecond!\n"
    path = write(tmp_path / "a.story", text.replace("\n", "\r\n"))
    assert story(path) == ("By . A man . He said: 'no' It ended.", "First .\nSecond!")
    assert story(write(tmp_path / "b.story", "")) == ("", "")


def test_a_listed_story_that_is_missing_is_named(tmp_path):
    listed_stories(tmp_path)
    lists = tmp_path / "url_lists"
    write(lists / "all_val.txt", (lists / "all_val.txt").read_text() + "\nhttp://nowhere\n")
    with pytest.raises(UsageError, match=r"all_val.txt:5: there is no [0-9a-f]{40}.story, of 'http://now"):
        read(tmp_path)
    write(lists / "all_val.txt", "\n")
    with pytest.raises(UsageError, match=r"all_val.txt:1: no address is listed"):
        read(tmp_path)
    (lists / "all_val.txt").unlink()
    with pytest.raises(UsageError, match=r"url_lists: there are 2 of the lists all_train.txt, all_val.txt,"):
        read(tmp_path)


# What is refused.


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"article": "a", "abstract": "b"', r"not JSON: Expecting ',' delimiter at column 33"),
        ("", "not JSON"),
        ("[1]", "not a JSON object but list"),
        ('{"article": "a"}', r"the columns are article, without a usual pair \(article and highlights, "),
        ("{}", "the columns are none, without"),
        ('{"article": null, "abstract": "b"}', "column 'article' is NoneType, not text"),
        ('{"article": 3, "abstract": "b"}', "column 'article' is int, not text"),
        ('{"article": "a", "abstract": ["b", 4]}', "column 'abstract' is int, not text"),
        (r'{"article": "a\ud800", "abstract": "b"}', "column 'article' holds half of a surrogate pair"),
        ('{"article": "a", "article": "c", "abstract": "b"}', "not JSON: the key 'article' stands twice"),
    ],
)
def test_a_wrong_line_is_named(line, words, tmp_path):
    path = json_files(tmp_path) / "validation.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UsageError, match=rf"validation.jsonl:5: {words}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "1: the file is empty"),
        ("id,article\n1,a\n", "1: the columns are id, article, without"),
        ("article,highlights,article\na,b,c\n", "1: there are several columns 'article'"),
        ("article,highlights\na,b\na\n", "3: 1 column, not 2 as in the header"),
        ('article,highlights\n"a\nb",c\nx,y,z\n', "4: 3 columns, not 2"),
        ('article,highlights\na,b\n"a"b,c\n', "3: ',' expected after '\"'"),
        ('article,highlights\na,b\n"a,b\n', "3: unexpected end of data"),
        ("article,highlights\na,\udcff\n", "2: not UTF-8 text"),
    ],
)
def test_a_wrong_row_of_csv_is_named(text, words, tmp_path):
    csv_files(tmp_path)
    (tmp_path / "val.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=rf"val.csv:{words}"):
        read(tmp_path)


def test_long_fields_of_csv_are_read_and_a_mark_that_is_not_closed_is_not(tmp_path, monkeypatch):
    csv_files(tmp_path)
    write(tmp_path / "val.csv", f"article,highlights\n{'a b ' * 40_000},c\nd,e\n")
    before = csv.field_size_limit()
    assert len(read(tmp_path).documents["validation"].articles[0]) == 159_999
    assert csv.field_size_limit() == before
    monkeypatch.setattr("effbench.measured.data.summary_files.LINE_BYTES", 2**10)
    write(tmp_path / "val.csv", 'article,highlights\na,b\n"c,d\n' + "e,f\n" * 1000)
    with pytest.raises(
        UsageError, match=r"val.csv:3: the row has more than 2 KiB; is a quotation mark not c"
    ):
        read(tmp_path)
    write(tmp_path / "val.csv", f"article,highlights\n{'a' * 1025},b\n")
    with pytest.raises(UsageError, match=r"val.csv:2: column 'article' has more than 1 KiB"):
        read(tmp_path)


def test_a_wrong_parquet_file_is_named(tmp_path):
    parquet_files(tmp_path)
    path = tmp_path / "3.0.0" / "test-00001-of-00002.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(UsageError, match=r"test-00001-of-00002.parquet: cannot be read as parquet after ro"):
        read(tmp_path)
    pq.write_table(pa.table({"article": ["a", None], "highlights": ["b", "c"]}), path)
    with pytest.raises(UsageError, match=r"of-00002.parquet: row 2: column 'article' is NoneType, not text"):
        read(tmp_path)
    pq.write_table(pa.table({"article": ["a"], "id": ["b"]}), path)
    with pytest.raises(UsageError, match=r"of-00002.parquet: the columns are article, id, without a usual"):
        read(tmp_path)
    path.unlink()
    with pytest.raises(UsageError, match=r"3.0.0: 1 of the 2 files of the test part: test-00000-of-00002"):
        read(tmp_path)


def test_a_part_of_one_pair_is_refused(tmp_path):
    json_files(tmp_path, {"test": [*rows_of("test", 1), ("An article", "")]})
    words = r"test.jsonl: the test part has 1 article with a summary, not at least 2 \(1 rows of all parts"
    with pytest.raises(UsageError, match=words):
        read(tmp_path)
    (tmp_path / "test.jsonl").unlink()
    words = r"train.jsonl: the test part drawn from it has 0 articles with a summary, not at least 2$"
    with pytest.raises(UsageError, match=words):
        read(tmp_path)


def test_what_to_read_must_be_clear(tmp_path):
    with pytest.raises(UsageError, match=r"there is no training part of articles and summaries \(none\)"):
        read(tmp_path)
    write(tmp_path / "a" / "test.jsonl", json_text(rows_of("test")))
    write(tmp_path / "a" / "train_notes.txt", "nothing")
    with pytest.raises(UsageError, match=r"there is no training part of articles and summaries \(only test"):
        read(tmp_path)
    json_files(tmp_path / "a")
    assert len(read(tmp_path).parts["train"]) == 4
    json_files(tmp_path / "b")
    with pytest.raises(UsageError, match=r"2 folders have articles: a, b; name one of them"):
        read(tmp_path)
    write(tmp_path / "a" / "val.jsonl", json_text(rows_of("validation")))
    words = r"a: 2 files could be the validation part: val.jsonl, validation.jsonl; keep one"
    with pytest.raises(UsageError, match=words):
        read(tmp_path / "a")
    with pytest.raises(UsageError, match=r"cannot list the folder"):
        read(tmp_path / "nowhere")


def test_files_that_change_while_they_are_read_are_not_kept(tmp_path, monkeypatch):
    folder = json_files(tmp_path / "data")
    original = byte_pairs.trained

    def meanwhile(texts, size):
        pairs = original(texts, size)
        write(folder / "test.jsonl", json_text(rows_of("other")))
        return pairs

    monkeypatch.setattr(byte_pairs, "trained", meanwhile)
    with pytest.raises(UsageError, match="the files changed while they were read; run it again"):
        read(folder)


@pytest.mark.parametrize("form", ["json", "csv", "parquet", "stories"])
def test_a_damaged_file_is_read_or_refused_in_one_line(form, tmp_path):
    folder = FORMS[form](tmp_path / "data")
    path = next(path for path in sorted(folder.rglob("*")) if path.is_file() and "train" in str(path))
    whole = path.read_bytes()

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(changed(whole))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        complaint(lambda: [*find(folder).read("train")], path)

    check()


@pytest.mark.slow
@needs_data
def test_the_data_beside_the_repository_is_read():
    pubmed = find(DATA / "sumpubmed")
    assert {part: sum(1 for _ in pubmed.read(part)) for part in PARTS} == {
        "train": 1000,
        "validation": 150,
        "test": 150,
    }
    sample = read(DATA / "cnn_dailymail_sample", 1000)
    assert [len(sample.parts[part]) for part in PARTS] == [80, 10, 10]
    assert sample.vocab_size == 1000
    assert sample.documents["test"].summaries[0].count("\n") >= 1

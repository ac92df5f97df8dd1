"""MIND's impressions are what its files say, in any form of these, and a wrong file is named."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from damage import changed, complaint
from hypothesis import HealthCheck, given, settings
from test_text_tasks import write

from effbench.common.machine import cache_dir
from effbench.common.spec import UsageError
from effbench.measured.data import behaviours, mind_rows
from effbench.measured.data.behaviours import Impressions, Mind, held_out_users, read_mind
from effbench.measured.data.recommending_baselines import recommending_baselines, tfidf_profile

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "amazon-games-mind"
TIME = "11/15/2019 9:05:58 AM"
NEWS = {"N1": 'The "first" title', "N2": "A second title", "N3": "", "N4": "Fourth's title, the last"}
TRAIN = [
    ("1", "U1", "N1 N2", "N3-1 N4-0"),
    ("2", "U2", "", "N1-0 N2-1 N3-0"),
    ("3", "U1", "N4 N3 N1", "N2-0 N1-0"),
    ("4", "U3", "N2", "N2-1"),
]
DEV = [("1", "U3", "N2 N1", "N4-1 N1-0"), ("2", "U9", "N1", "N5-0 N4-1 N2-1")]
TEST = [("1", "U3", "N2 N4", "N4 N1"), ("2", "U8", "N1", "N4")]

Rows = list[tuple[str, str, str, str]]


def news_text(news: dict[str, str]) -> str:
    return "".join(f"{name}\tnews\tworld\t{title}\tabstract\turl\t[]\t[]\n" for name, title in news.items())


def rows_text(rows: Rows) -> str:
    return "".join("\t".join([*row[:2], TIME, *row[2:]]) + "\n" for row in rows)


def write_part(folder: Path, rows: Rows, news: dict[str, str] = NEWS, packed: str = "") -> Path:
    write(folder / f"behaviors.tsv{packed}", rows_text(rows))
    write(folder / f"news.tsv{packed}", news_text(news))
    return folder


def write_mind(folder: Path) -> Path:
    write_part(folder / "train", TRAIN)
    write_part(folder / "dev", DEV, {"N4": NEWS["N4"], "N5": "A fifth title"})
    return folder


def zip_of(folder: Path, path: Path, inside: str = "") -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._behaviors.tsv", "no behaviours")
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{inside}{file.name}")
    shutil.rmtree(folder)


def rows_of(part: Impressions) -> list[tuple[str, int, list[int], list[int], list[int]]]:
    """Each impression: id, user, history, candidates, labels."""
    return [
        (
            part.ids[i].decode(),
            int(part.users[i]),
            part.history[part.history_starts[i] : part.history_starts[i + 1]].tolist(),
            part.candidates[part.candidate_starts[i] : part.candidate_starts[i + 1]].tolist(),
            part.labels[part.candidate_starts[i] : part.candidate_starts[i + 1]].tolist(),
        )
        for i in range(len(part))
    ]


WANTED = {
    "train": [
        ("1", 0, [1, 2], [3, 4], [1, 0]),
        ("2", 1, [], [1, 2, 3], [0, 1, 0]),
        ("3", 0, [4, 3, 1], [2, 1], [0, 0]),
        ("4", 2, [2], [2], [1]),
    ],
    "dev": [("1", 2, [2, 1], [4, 1], [1, 0]), ("2", 3, [1], [5, 4, 2], [0, 1, 1])],
}


def read(folder: Path) -> Mind:
    return read_mind(folder)[0]


def check(mind: Mind) -> None:
    assert {part: rows_of(found) for part, found in mind.parts.items()} == WANTED
    assert mind.titles.written() == [
        "", "the first title", "a second title", "", "fourth's title the last", "a fifth title",
    ]  # fmt: skip


# What is read.


def test_impressions_and_titles_are_those_of_the_files(tmp_path):
    mind = read(write_mind(tmp_path))
    check(mind)
    assert mind.evaluated == "dev"
    assert mind.facts == {"news_without_title": 1, "news_with_other_titles": 0}
    train = mind.parts["train"]
    assert train.facts() == {"without_history": 1, "without_labels": 0, "all_or_none_clicked": 2}
    assert train.contrasted.tolist() == [True, True, False, False]
    assert train.clicks.tolist() == [1, 1, 0, 1]
    assert train.lengths.tolist() == [2, 0, 3, 1]
    assert mind.occurs(train).tolist() == [False, True, True, True, True, False]


def packed_parts(folder: Path) -> None:
    write_part(folder / "train", TRAIN, packed=".xz")
    write_part(folder / "valid" / "inner", DEV, {**NEWS, "N5": "A fifth title"}, packed=".gz")


def released_folders(folder: Path) -> None:
    for outer, inner in (("train", "MINDsmall_train"), ("dev", "MINDsmall_dev")):
        (folder / f"MINDsmall_{outer}").mkdir()
        shutil.move(write_mind(folder / "made") / outer, folder / f"MINDsmall_{outer}" / inner)
        shutil.rmtree(folder / "made")


def zips(folder: Path) -> None:
    write_mind(folder / "made")
    zip_of(folder / "made" / "train", folder / "MINDsmall_train.zip")
    zip_of(folder / "made" / "dev", folder / "MINDsmall_dev.zip", "MINDsmall_dev/")


def one_zip(folder: Path) -> None:
    write_mind(folder / "made")
    with zipfile.ZipFile(folder / "mind.zip", "w") as archive:
        for file in (folder / "made").rglob("*.tsv"):
            archive.write(file, f"mind/{file.relative_to(folder / 'made')}")
    shutil.rmtree(folder / "made")


def news_elsewhere(folder: Path) -> None:
    write_mind(folder)
    (folder / "news").mkdir()
    (folder / "dev" / "news.tsv").rename(folder / "news" / "news.tsv")


def linked(folder: Path) -> None:
    write_mind(folder / "made")
    for part in ("train", "dev"):
        (folder / f"my_{part}").symlink_to(folder / "made" / part)
    (folder / "made" / "train" / "around").symlink_to(folder)
    (folder / "MIND").symlink_to(folder / "nowhere")


def other_line_ends(folder: Path) -> None:
    write_mind(folder)
    path = folder / "train" / "behaviors.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n").rstrip())
    for name in ("N1 N2\t", "N2-1 N3-0\r"):
        path.write_bytes(path.read_bytes().replace(name.encode(), f"{name[:-1]} {name[-1]}".encode()))


@pytest.mark.parametrize(
    "make", [packed_parts, released_folders, zips, one_zip, news_elsewhere, linked, other_line_ends]
)
def test_every_form_of_the_files_is_the_same_data(make, tmp_path):
    make(tmp_path)
    check(read(tmp_path))


def test_blocks_of_lines_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(mind_rows, "_BLOCK_BYTES", 1)
    check(read(write_mind(tmp_path)))


def test_impressions_without_labels_are_for_predictions_alone(tmp_path):
    write_part(write_mind(tmp_path) / "MINDlarge_test", TEST)
    mind = read(tmp_path)
    assert rows_of(mind.parts["test"]) == [("1", 2, [2, 4], [4, 1], [-1, -1]), ("2", 4, [1], [4], [-1])]
    assert mind.parts["test"].facts()["without_labels"] == 2
    assert mind.evaluated == "dev"
    write_part(tmp_path / "MINDlarge_test", DEV, {**NEWS, "N5": ""})
    assert read(tmp_path).evaluated == "test"
    shutil.rmtree(tmp_path / "dev")
    mind = read(tmp_path)
    assert mind.evaluated == "test"
    assert list(mind.parts) == ["train", "test"]


def test_news_that_occur_again_are_one_row_with_the_first_title(tmp_path):
    write_mind(tmp_path)
    write(
        tmp_path / "dev" / "news.tsv", news_text({"N2": NEWS["N2"], "N4": "Another", "N5": "A fifth title"})
    )
    mind = read(tmp_path)
    check(mind)
    assert mind.facts["news_with_other_titles"] == 1


def test_it_is_read_once_and_again_after_a_change(tmp_path, monkeypatch):
    _, digest = read_mind(write_mind(tmp_path / "data"))
    with mock.patch.object(behaviours, "read_behaviours", side_effect=AssertionError):
        mind, again = read_mind(tmp_path / "data")
        assert again == digest
        check(mind)
        (tmp_path / "data" / "dev").rename(tmp_path / "data" / "test")  # the same bytes are another part
        with pytest.raises(AssertionError):
            read_mind(tmp_path / "data")
    assert read_mind(tmp_path / "data")[1] != digest


def test_what_changes_while_it_is_read_is_refused_and_not_kept(tmp_path, monkeypatch):
    folder = write_mind(tmp_path / "data")

    def change(*arguments):
        write_part(folder / "dev", DEV[:1])
        return mind_rows.read_behaviours(*arguments)

    monkeypatch.setattr(behaviours, "read_behaviours", change)
    with pytest.raises(UsageError, match="data: the files changed while they were read"):
        read_mind(folder)
    assert not list(cache_dir().glob("*"))


# What is made of it.


def test_rows_are_taken_with_the_latest_of_their_history(tmp_path):
    train = read(write_mind(tmp_path)).parts["train"]
    assert rows_of(train.take(np.array([2, 1, 2]), longest_history=2)) == [
        ("3", 0, [3, 1], [2, 1], [0, 0]),
        ("2", 1, [], [1, 2, 3], [0, 1, 0]),
        ("3", 0, [3, 1], [2, 1], [0, 0]),
    ]
    assert rows_of(train.take(np.arange(4))) == WANTED["train"]
    nothing = train.take(np.array([], dtype=int))
    assert len(nothing) == len(nothing.contrasted) == len(nothing.lengths) == 0
    assert set(nothing.facts().values()) == {0}


def test_titles_are_tokens_of_the_commonest_words_of_the_given_rows(tmp_path):
    titles = read(write_mind(tmp_path)).titles
    ids = titles.vocabulary(np.array([False, True, True, True, True, False]), 10)
    # twice or more in rows 1 to 4: title, the
    known = {titles.lexicon[word]: int(ids[word]) for word in np.flatnonzero(ids > 1)}
    assert known == {"title": 2, "the": 3}
    assert titles.tokens(ids, 3).tolist() == [
        [0, 0, 0], [3, 1, 2], [1, 1, 2], [0, 0, 0], [1, 2, 3], [1, 1, 2],
    ]  # fmt: skip
    assert titles.tokens(ids, 4)[4].tolist() == [1, 2, 3, 1]
    assert titles.vocabulary(np.zeros(6, dtype=bool), 10).tolist() == [1] * len(titles.lexicon)


def test_users_are_held_out_whole(tmp_path):
    users = np.repeat(np.arange(50), np.arange(50) % 5 + 1)
    n = len(users)
    one = np.arange(n + 1)
    train = Impressions(
        history=one[:n], history_starts=one, candidates=one[:n], candidate_starts=one,
        labels=np.ones(n, dtype=np.int8), users=users, ids=one[:n].astype("S"),
    )  # fmt: skip
    for count in (0, 1, 40):
        rest, held = held_out_users(train, count, np.random.default_rng(0))
        assert sorted([*rest, *held]) == list(range(n))
        assert not set(users[rest]) & set(users[held])
        assert count <= len(held) < count + 5 or count == len(held) == 0
    again = [held_out_users(train, 40, np.random.default_rng(seed))[1].tolist() for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]
    with pytest.raises(UsageError, match="validation=150 leaves no user to train on: .* 150 impressions"):
        held_out_users(train, n, np.random.default_rng(0))


def test_baseline_scores_of_impressions_worked_out_by_hand(tmp_path):
    mind = read(write_mind(tmp_path))
    scores = recommending_baselines(mind.titles, mind.parts["train"], mind.parts["dev"])
    assert {name: score["impressions"] for name, score in scores.items()} == dict.fromkeys(scores, 2)
    assert scores["random"]["auc"] == 0.5
    # Clicks: N1 2, N2 3, N3 2, N4 1, N5 0. So N4 is below N1, then N2 > N4 > N5.
    assert scores["popularity"]["auc"] == (0 + 1) / 2
    # Clicked of shown: N1 0 of 2, N2 2 of 3, N4 0 of 1, N5 0 of 0. So N4 ties N1, then N4 ties N5.
    assert scores["click_rate"]["auc"] == (1 / 2 + 3 / 4) / 2
    # Inverse document frequencies ln(5 / (1 + titles)) + 1 of the four training titles, one of them empty:
    # title 1.223, the 1.511, all others 1.916. The history of the second is N1: the, first, title.
    profile = tfidf_profile(mind.titles, mind.parts["train"], mind.parts["dev"])
    assert profile[2:] == pytest.approx([0.241, 0.415, 0.184], abs=5e-4)
    assert profile[1] > profile[0]  # the history of the first has its other candidate
    assert scores["tfidf"]["auc"] == (0 + 1 / 2) / 2


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason=f"there is no {DATA}")
def test_the_baseline_scores_of_the_games_are_those_published_with_them():
    mind = read(DATA)
    assert {part: len(found) for part, found in mind.parts.items()} == {"train": 33_627, "dev": 4_000}
    assert mind.parts["train"].lengths.mean() == pytest.approx(7.0, abs=0.05)
    scores = recommending_baselines(mind.titles, mind.parts["train"], mind.parts["dev"])
    assert scores["popularity"]["auc"] == pytest.approx(0.486, abs=0.005)
    assert scores["tfidf"]["auc"] == pytest.approx(0.761, abs=0.005)
    assert scores["tfidf"]["mrr"] == pytest.approx(0.469, abs=0.005)
    assert scores["tfidf"]["ndcg5"] == pytest.approx(0.489, abs=0.005)


# What is refused.


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("9\tU1\tN1\tN2-1 N1-0", r"5: 4 columns, not 5: impression id, user id, time, history, impressions"),
        ("", r"5: 1 columns, not 5"),
        (f"9\tU1\t{TIME}\tN1\tN2-1\tN3", r"5: 6 columns, not 5"),
        (f"\tU1\t{TIME}\tN1\tN2-1 N1-0", r"5: column 'impression id' is '', not 1 to 64 printable"),
        (f"9 9\tU1\t{TIME}\tN1\tN2-1 N1-0", r"5: column 'impression id' is '9 9'"),
        (f"9\t{'U' * 65}\t{TIME}\tN1\tN2-1 N1-0", r"5: column 'user id' is 'UUU"),
        (f"3\tU1\t{TIME}\tN1\tN2-1 N1-0", r"5: column 'impression id' is '3' again, as in line 3"),
        (f"9\tU1\t{TIME}\tN1 N77\tN2-1", r"5: column 'history' names 'N77', which no news.tsv has"),
        (f"9\tU1\t{TIME}\tN88\tN2-1", r"5: column 'history' names 'N88', which no news.tsv has"),
        (f"9\tU1\t{TIME}\tN1  N2\tN2-1", r"5: column 'history' names '', which no news.tsv has"),
        (f"9\tU1\t{TIME}\tN1\tN2-1 N77-0", r"5: column 'impressions' names 'N77', which no news.tsv has"),
        (f"9\tU1\t{TIME}\tN1\tN2-1 N77", r"5: column 'impressions' names 'N77', which no news.tsv has"),
        (f"9\tU1\t{TIME}\tN1\tN2-1 N1-2", r"5: column 'impressions' labels 'N1' '2', which is neither 0"),
        (f"9\tU1\t{TIME}\tN1\tN2-1 N1-", r"5: column 'impressions' labels 'N1' '', which is neither 0"),
        (f"9\tU1\t{TIME}\tN1\tN2-1 N1-1.0", r"5: column 'impressions' labels 'N1' '1.0'"),
        (f"9\tU1\t{TIME}\tN1\tN2-1 N1-0-1", r"5: column 'impressions' names 'N1-0', which no news.tsv has"),
        (f"9\tU1\t{TIME}\tN1\tN2-1 N1", r"5: column 'impressions' has news with and without a label"),
        (f"9\tU1\t{TIME}\tN1\t ", r"5: column 'impressions' is empty"),
        (f"9\tU1\t{TIME}\tN1\t\udcff-1", r"5: column 'impressions' names '\ufffd', which no"),
    ],
)
def test_a_wrong_line_of_behaviours_is_named(row, words, tmp_path):
    path = write_mind(tmp_path) / "train" / "behaviors.tsv"
    path.write_bytes(path.read_bytes() + row.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(UsageError, match=rf"train/behaviors.tsv:{words}"):
        read_mind(tmp_path)
    dev = tmp_path / "dev" / "behaviors.tsv"
    zip_of(tmp_path / "train", tmp_path / "train.zip", "inner/")
    with pytest.raises(UsageError, match=rf"train.zip:inner/behaviors.tsv:{words}"):
        read_mind(tmp_path)
    assert dev.exists()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("N9\tnews\tsub\ttitle", r"3: 4 columns, not 8: news id, category"),
        ("\tnews\ts\tt\ta\tu\t[]\t[]", r"3: column 'news id' is ''"),
        ("N 9\tnews\ts\tt\ta\tu\t[]\t[]", r"3: column 'news id' is 'N 9'"),
        ("N9\tnews\ts\t\udcff\ta\tu\t[]\t[]", r"3: column 'title': not UTF-8"),
    ],
)
def test_a_wrong_line_of_news_is_named(row, words, tmp_path):
    path = write_mind(tmp_path) / "dev" / "news.tsv"
    path.write_bytes(path.read_bytes() + row.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(UsageError, match=rf"dev/news.tsv:{words}"):
        read_mind(tmp_path)


def test_missing_empty_and_ambiguous_files_are_named(tmp_path, monkeypatch):
    def refused(words: str) -> None:
        with pytest.raises(UsageError, match=words):
            read_mind(folder)

    folder = tmp_path / "data"
    folder.mkdir()
    refused(r"data: there is no behaviors.tsv \(or .xz, .gz, or in a .zip\) for train")
    write_part(folder / "train", TRAIN)
    refused(r"data: there is no behaviors.tsv .* for dev or test")
    write_mind(folder)
    write_part(folder / "small" / "train", TRAIN)
    refused(r"these are train behaviours, and so are .*; keep one")
    (folder / "small").rename(tmp_path / "small")
    write_part(folder / "more", TRAIN)
    refused(r"more/behaviors.tsv: no folder or zip around it has train, dev, valid or test in its name")
    (folder / "more").rename(folder / "test_and_dev")
    refused(r"test_and_dev/behaviors.tsv: the name 'test_and_dev' tells two parts: dev and test")
    shutil.rmtree(folder / "test_and_dev")
    (folder / "dev" / "behaviors.tsv").write_text("")
    refused(r"dev/behaviors.tsv:1: the file is empty")
    write(
        folder / "dev" / "behaviors.tsv", rows_text([("1", "U1", "", "N1-1"), ("2", "U1", "", "N1-0 N2-0")])
    )
    refused(r"dev/behaviors.tsv: no impression has both a clicked candidate and another one")
    write_part(folder / "train", TEST)
    refused(r"train/behaviors.tsv: no impression has both a clicked candidate and another one")
    write_mind(folder)
    monkeypatch.setattr(mind_rows, "MOST_NEWS", 3)
    refused(r"train/news.tsv:4: there are more than 3 news up to here")
    for part in ("train", "dev"):
        (folder / part / "news.tsv").unlink()
    refused(r"data: there is no news.tsv \(or .xz, .gz, or in a .zip\)")


def test_a_zip_that_cannot_be_unpacked_is_named(tmp_path):
    zips(tmp_path)
    path = tmp_path / "MINDsmall_train.zip"
    good = path.read_bytes()
    path.write_bytes(good[:200])
    with pytest.raises(UsageError, match=r"MINDsmall_train.zip: cannot be unpacked: File is not a zip file"):
        read_mind(tmp_path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("behaviors.tsv", rows_text(TRAIN))
        archive.writestr("news.tsv", news_text(NEWS))
    with pytest.raises(
        UsageError, match=r"train.zip:news.tsv:1: cannot be unpacked: .* method 14, not deflate"
    ):
        read_mind(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", ["train/behaviors.tsv", "dev/news.tsv", "train/behaviors.tsv.gz", "MINDsmall_train.zip"]
)
def test_any_damage_is_read_or_refused_by_name(file, tmp_path):
    if file.endswith(".zip"):
        zips(tmp_path)
    else:
        write_part(tmp_path / "train", TRAIN, packed=file.partition(".tsv")[2])
        write_part(tmp_path / "dev", DEV, {**NEWS, "N5": ""})
    path = tmp_path / file
    good = path.read_bytes()

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(changed(good))
    def law(content):
        path.write_bytes(content)
        complaint(lambda: read_mind(tmp_path), path, tmp_path)

    law()

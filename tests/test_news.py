"""The task of news recommendation: its batches are what the files say, and its models learn from clicks."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from test_behaviours import DEV, NEWS, TRAIN, write_part

import effbench
from effbench.common.ranking import impression_scores
from effbench.common.spec import UsageError
from effbench.measured.data.behaviours import Impressions
from effbench.measured.data.clicks import Clicks, clicks_of
from effbench.measured.data.examples import padded
from effbench.measured.tasks.news import NewsRecommendation, NewsSplits
from effbench.sweep.inline import InlineExecutor
from effbench.sweep.sweep import Sweep

TOPICS = ("chess", "tennis", "opera")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_part(
        tmp_path / "train", [*TRAIN, ("5", "U7", "N1 N2", "N3-1 N2-1 N4-0"), ("6", "U8", "N4", "N1-0 N2-1")]
    )
    write_part(tmp_path / "dev", DEV, {"N4": NEWS["N4"], "N5": "A fifth title"})
    return tmp_path


def topical(folder: Path, users: int = 60, seed: int = 0) -> Path:
    """Write MIND's files in which every user clicks news of one topic alone."""
    rng = np.random.default_rng(seed)
    news = {f"N{i}": f"{TOPICS[i % 3]} story number {i % 7}" for i in range(1, 91)}
    by_topic = [[name for name in news if int(name[1:]) % 3 == topic] for topic in range(3)]

    def rows(first: int) -> list[tuple[str, str, str, str]]:
        made = []
        for user in range(users):
            topic = user % 3
            others = [name for other in range(3) if other != topic for name in by_topic[other]]
            shown = [
                f"{rng.choice(by_topic[topic])}-1",
                *(f"{name}-0" for name in rng.choice(others, 4, replace=False)),
            ]
            rng.shuffle(shown)
            history = rng.choice(by_topic[topic], rng.integers(1, 6))
            made.append((str(first + user), f"U{user}", " ".join(history), " ".join(shown)))
        return made

    write_part(folder / "train", rows(1) + rows(1 + users) + rows(1 + 2 * users), news)
    write_part(folder / "dev", rows(1), news)
    return folder


def task(**options: object) -> NewsRecommendation:
    return NewsRecommendation(**{"validation": 1, "title": 4, **options})


def test_a_click_stands_beside_negatives_of_its_own_impression(small: Path):
    splits = task().data(2, 0, small)
    clicks = splits.train
    assert isinstance(clicks, Clicks)
    impressions = clicks.impressions
    rows = np.repeat(np.arange(len(clicks)), 20)
    random = np.random.default_rng(0).random(clicks.negatives_of(rows), dtype=np.float32)
    drawn = clicks.candidates(rows, 3, random)
    for row, candidates in zip(rows, drawn, strict=True):
        of = clicks.impression[row]
        shown = slice(*impressions.candidate_starts[of : of + 2])
        labels = impressions.labels[shown]
        clicked, others = (
            impressions.candidates[shown][labels == 1],
            impressions.candidates[shown][labels == 0],
        )
        assert candidates[0] in clicked
        assert set(candidates[1:]) <= set(others)
        # without replacement as far as there are enough
        assert len(set(candidates[1:])) == min(3, len(set(others)))
    # every click with a negative beside it is an example, and nothing else
    starts = impressions.candidate_starts
    wanted = sum(
        int((impressions.labels[a:b] == 1).sum())
        for a, b in itertools.pairwise(starts)
        if (impressions.labels[a:b] == 0).any()
    )
    assert len(clicks) == wanted > 0


def test_a_validation_part_that_cannot_be_scored_is_refused(tmp_path: Path):
    write_part(tmp_path / "train", [("1", "U1", "N1", "N2-1 N4-0"), *(
        (str(i), f"U{i}", "N1", "N2-0 N4-0") for i in range(2, 40)
    )])  # fmt: skip
    write_part(tmp_path / "dev", DEV, {"N4": NEWS["N4"], "N5": "A fifth title"})
    with pytest.raises(UsageError, match="no impression of the validation part has both .*3 impressions"):
        task(validation=3).fingerprint(tmp_path)


def test_negatives_are_drawn_evenly():
    impressions = Impressions(
        history=np.array([1]), history_starts=np.array([0, 1]), candidates=np.arange(1, 8),
        candidate_starts=np.array([0, 7]), labels=np.array([1, 0, 0, 0, 0, 0, 0], dtype=np.int8),
        users=np.array([0]), ids=np.array([b"1"]),
    )  # fmt: skip
    clicks = clicks_of(impressions)
    rows = np.zeros(6000, dtype=np.int64)
    random = np.random.default_rng(1).random(clicks.negatives_of(rows), dtype=np.float32)
    counts = np.bincount(clicks.candidates(rows, 2, random)[:, 1:].ravel(), minlength=8)
    assert counts[:2].sum() == 0
    np.testing.assert_allclose(counts[2:] / len(rows), 2 / 6, atol=0.03)


def test_a_batch_is_what_the_files_say(small: Path):
    of = task(test=0)
    splits = of.data(2, 0, small)
    batch = of.batch(splits.test, np.array([1, 0]))
    # dev's second impression, then its first, with the latest two of each history
    titles = [splits.news.titles[row] for row in batch["history"][0][batch["mask"][0]]]
    assert titles == ["the first title"]
    assert [splits.news.titles[row] for row in batch["candidates"][0]] == [
        "a fifth title", "fourth's title the last", "a second title",
    ]  # fmt: skip
    assert batch["labels"].tolist() == [[0, 1, 1], [1, 0, -1]]
    assert batch["candidates"][1, 2] == 0
    assert batch["mask"].tolist() == [[True, False], [True, True]]
    full = of.full_batch(splits, 3, 2)
    assert full["history"].shape == (3, 2)
    assert full["candidates"].shape == (3, 5)
    assert full["history"].min() >= 1


def test_padding_behind_ragged_rows():
    values, mask = padded(np.array([5, 6, 7]), np.array([0, 2, 2, 3]), np.array([2, 1, 0]), fill=-1)
    assert values.tolist() == [[7, -1], [-1, -1], [5, 6]]
    assert mask.tolist() == [[True, False], [False, False], [True, True]]
    assert padded(np.empty(0, np.int64), np.array([0, 0]), np.array([0]))[0].tolist() == [[0]]


class Known(torch.nn.Module):
    """A recommender whose score of a candidate is the number of its row."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.news_rows = rows
        self.none = torch.nn.Parameter(torch.zeros(1))

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.float()

    def score(self, history: torch.Tensor, mask: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        return candidates


def test_scores_are_those_of_the_impressions_in_any_batches(small: Path):
    of = task()
    splits = of.data(50, 0, small)
    part = splits.test
    each = impression_scores(part.candidates.astype(float), part.labels, part.candidate_starts)
    for batches in ([[0, 1]], [[1], [0]]):
        found = of.score(Known(len(splits.news)), (of.batch(part, np.array(rows)) for rows in batches))
        assert found["auc"] == pytest.approx(np.nanmean(each["auc"]))
        assert found["ndcg10"] == pytest.approx(np.nanmean(each["ndcg10"]))
        assert found["auc_low"] <= found["auc"] <= found["auc_high"]
        assert found["impressions"] == 2


def test_users_of_the_validation_part_are_in_no_other(tmp_path: Path):
    splits = task(validation=30).data(5, 3, topical(tmp_path))
    assert isinstance(splits, NewsSplits)
    trained, held_out = set(splits.train.impressions.users), set(splits.validation.users)
    assert not trained & held_out
    assert 30 <= len(splits.validation) < 40
    again = task(validation=30).data(5, 3, tmp_path)
    np.testing.assert_array_equal(splits.validation.users, again.validation.users)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"dataset": "adressa"}, "dataset is 'adressa', not mind or amazon-games"),
        ({"negatives": 0}, "negatives must be at least 1, got 0"),
        ({"title": 0}, "title must be at least 1, got 0"),
        ({"train": -1}, "train must be at least 0 (all), got -1"),
        ({"vectors": ""}, "vectors is empty"),
    ],
)
def test_options_that_no_recommendation_has(options, complaint):
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(").replace(")", r"\)")):
        task(**options)


def test_parts_larger_than_the_files_are_refused(small: Path):
    with pytest.raises(UsageError, match="news: test=9 exceeds the 2 impressions that there are"):
        task(test=9).fingerprint(small)
    with pytest.raises(UsageError, match="--data-dir"):
        task().fingerprint(None)


@pytest.mark.slow
def test_a_sweep_learns_which_topic_a_user_reads(tmp_path: Path):
    topical(tmp_path / "data")
    toml = (
        '[[grid]]\nmechanism = ["fastformer", "linear", "nrms", "mean-words"]\nprobe = "accuracy"\n'
        'task = "news:validation=20,title=4,epochs=6,lr=0.02,dropout=0,patience=6"\nseq_len = 5\n'
        "batch_size = 32\nd_model = 16\nheads = 2\nlayers = 1\nthreads = 1\nrepeats = 1\n"
    )
    sweep = Sweep.from_toml(toml, "test", "topics")
    frame = effbench.run(sweep, tmp_path / "out", data_dir=tmp_path / "data", executor=InlineExecutor())
    assert frame["status"].tolist() == ["ok"] * 4
    assert (frame["auc"] > 0.85).all()
    assert (frame["auc_low"] <= frame["auc"]).all()
    assert (frame["auc"] <= frame["auc_high"]).all()
    assert set(frame["auc_interval"]) == {"bootstrap over users"}
    assert frame["prior_random"].tolist() == pytest.approx([0.5] * 4)
    raw = effbench.load(tmp_path / "out", raw=True)
    assert set(raw["test_impressions"]) == {60}

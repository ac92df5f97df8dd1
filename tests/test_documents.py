"""Differences paired by document: equal stays equal, shifts are found, what cannot be paired is said."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from frames import ORIGIN, accuracy_records, raw

from effbench.common.bootstrap import resampled_sums
from effbench.common.spec import Cell, Record, UsageError
from effbench.records.analyse import documents
from effbench.records.analyse.documents import compare_documents
from effbench.records.analyse.seeds import compare, holm
from effbench.show.blocks import as_text
from effbench.show.comparison_tables import comparison, comparison_blocks
from effbench.show.tables import render

TASK = "summarization:dataset=sumpubmed"
Scores = dict[str, list[Any]]  # of each document [n], by mechanism and repeat


def trained(scores: Scores, score: str = "rouge1", seed: int = 0, **more: Any) -> list[Record]:
    """Trainings that scored documents; the first score is the metric, ``loss_nats`` has no documents."""
    records = []
    for mechanism, lines in scores.items():
        for repeat, line in enumerate(lines):
            values: dict[str, float | int | str | None] = {
                "metric": "rouge1", "scores": ",".join(dict.fromkeys(("rouge1", score, "loss_nats"))),
                "rouge1": 0.4, "test_loss_nats": 3.0 + repeat,
            }  # fmt: skip
            values["rouge1" if score == "rouge1" else f"test_{score}"] = float(
                np.mean(line if len(line) else 0.4)
            )
            cell = Cell(
                mechanism=mechanism, probe="accuracy", scope="encoder", mode="train", seq_len=64, seed=seed,
                task="summarization", task_options={"dataset": "sumpubmed"}, repeat=repeat,
            )  # fmt: skip
            samples = {f"test_{score}_by_document": tuple(map(float, line))} if len(line) else {}
            records.append(Record(cell=cell, status="ok", values=values, samples=samples, **(ORIGIN | more)))
    return records


def drawn(seed: int = 0, n: int = 150, seeds: int = 2, **shifts: float) -> Scores:
    """Scores around those of the documents, which differ far more than the mechanisms."""
    rng = np.random.default_rng(seed)
    of_documents = rng.beta(4, 6, n)
    shifts = {"fastformer": 0.0} | shifts
    return {
        name: [np.clip(of_documents + shift + rng.normal(0, 0.03, n), 0, 1) for _ in range(seeds)]
        for name, shift in shifts.items()
    }


def by_name(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {str(row["mechanism"]): dict(row) for row in frame.to_dict(orient="records")}


def test_equal_systems_do_not_differ_and_a_shift_is_found():
    scores = drawn(vanilla=0.0, linear=-0.02, bigbird=0.02)
    scores["twin"] = scores["fastformer"][::-1]  # the same scores by other seeds
    rows = by_name(compare_documents(raw(trained(scores)), score="rouge1"))
    assert rows["vanilla"]["low"] < 0 < rows["vanilla"]["high"]
    assert rows["vanilla"]["verdict"] == documents.NOT_SIGNIFICANT
    assert [rows["twin"][key] for key in ("difference", "low", "high", "p")] == [0, 0, 0, 1]
    for name, shift, verdict in (("linear", -0.02, "lower"), ("bigbird", 0.02, "higher")):
        assert rows[name]["low"] < shift < rows[name]["high"]
        assert rows[name]["verdict"] == verdict
        assert rows[name]["low"] * rows[name]["high"] > 0
    assert {(row["documents"], row["seeds"], row["comparisons"]) for row in rows.values()} == {(150, 2, 4)}
    corrected, _ = holm([row["p"] for row in rows.values()])
    assert [row["p_holm"] for row in rows.values()] == corrected


def test_the_same_shift_of_every_document_is_found():
    scores = drawn(n=120, seeds=1)
    scores["linear"] = [scores["fastformer"][0] + 0.01]
    row = by_name(compare_documents(raw(trained(scores)), score="rouge1"))["linear"]
    assert [row[key] for key in ("difference", "low", "high")] == pytest.approx([0.01] * 3)
    assert row["verdict"] == "higher"


def test_it_is_the_bootstrap_of_the_mean_over_shared_seeds():
    scores = drawn(linear=0.01, seeds=3)
    scores["fastformer"].pop()  # the third seed has no partner
    row = by_name(compare_documents(raw(trained(scores)), score="rouge1"))["linear"]
    each = np.mean(scores["linear"][:2], axis=0) - np.mean(scores["fastformer"], axis=0)
    means = resampled_sums(each[:, None])[:, 0] / 150
    assert row["seeds"] == 2
    assert row["difference"] == pytest.approx(each.mean())
    assert [row["low"], row["high"]] == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_pairing_by_document_makes_the_interval_narrow():
    scores = drawn(linear=0.01, seeds=1)
    row = by_name(compare_documents(raw(trained(scores)), score="rouge1"))["linear"]
    other = {**scores, "linear": [np.random.default_rng(9).permutation(scores["linear"][0])]}
    apart = by_name(compare_documents(raw(trained(other)), score="rouge1"))["linear"]
    assert apart["difference"] == pytest.approx(row["difference"])
    assert row["high"] - row["low"] < 0.5 * (apart["high"] - apart["low"])


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say_with_enough_documents():
    """Of 400 tables of four equal mechanisms 5 % are wrong; with few documents more intervals would be."""
    missed: dict[int, Any] = {}
    for n, trials in ((10, 100), (documents.FEWEST, 400)):
        groups = (trained(drawn(trial, n, 1, linear=0.0, vanilla=0.0, luna=0.0)) for trial in range(trials))
        tables = [compare_documents(raw(group), score="rouge1") for group in groups]
        missed[n] = np.mean([(table["low"] > 0) | (table["high"] < 0) for table in tables])
        wrong = np.mean([table["verdict"].isin(["higher", "lower"]).any() for table in tables])
    assert missed[10] > 0.08, "the reason why few documents have no verdict"
    assert missed[documents.FEWEST] == pytest.approx(0.05, abs=0.02)
    assert 0.01 <= wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_every_comparison_of_a_large_table_can_be_significant():
    scores = drawn(n=100, seeds=1)
    scores |= {f"m{place}": [scores["fastformer"][0] + 0.01 * (1 + place)] for place in range(9)}
    every = compare_documents(raw(trained(scores)), score="rouge1", against=None)
    assert len(every) == 45
    assert (every["p_holm"] < 0.05).all()
    back = {(row["against"], row["mechanism"]): row for row in every.to_dict(orient="records")}
    for name, row in by_name(compare_documents(raw(trained(scores)), score="rouge1")).items():
        assert row["difference"] == pytest.approx(-back[name, "fastformer"]["difference"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"linear": [[0.5] * 149, [0.5] * 150]}, "149 and 150 documents cannot be paired"),
        ({"linear": [[0.5] * 120, [0.5] * 120]}, "120 and 150 documents cannot be paired"),
        ({"linear": [[], []]}, documents.NO_SCORES),
    ],
)
def test_documents_that_cannot_be_paired_are_said(change, reason):
    scores = drawn(vanilla=0.02) | change
    rows = by_name(compare_documents(raw(trained(scores)), score="rouge1"))
    assert rows["linear"]["verdict"] == reason
    assert all(math.isnan(rows["linear"][key]) for key in ("documents", "difference", "low", "high", "p"))
    assert rows["vanilla"]["verdict"] == "higher", "the others are compared"
    text = as_text(comparison_blocks(raw(trained(scores)), "fastformer"), "markdown")
    assert (
        f"1 of 2 differences significant (bootstrap over documents, Holm over 2); the others: {reason}"
        in text
    )
    assert text.count("| linear |") == 3


def test_other_seeds_and_other_data_are_not_paired():
    scores = drawn(linear=0.02)
    ours, theirs = ({name: scores[name]} for name in ("fastformer", "linear"))
    apart = compare_documents(raw(trained(ours), trained(theirs, seed=1)), score="rouge1")
    assert list(apart["verdict"]) == ["no seed in common"]
    both = raw(trained(scores), trained(scores, seed=1))
    assert list(compare_documents(both, score="rouge1")["verdict"]) == [documents.SEVERAL_DATA]
    other = raw(trained(ours, data="one"), trained(theirs, data="another"))
    assert compare_documents(other, score="rouge1").empty


def test_few_documents_have_an_interval_and_no_verdict():
    scores = drawn(n=documents.FEWEST - 1, linear=0.1)
    row = by_name(compare_documents(raw(trained(scores)), score="rouge1"))["linear"]
    assert 0 < row["low"] < row["difference"] < row["high"]
    assert math.isnan(row["p"])
    assert row["verdict"] == documents.TOO_FEW


def test_trainings_without_documents_have_no_rows():
    assert compare_documents(raw(accuracy_records()), score="accuracy").empty
    assert compare_documents(raw([]), score="rouge1").empty
    frame = raw(trained(drawn(linear=0.0)))
    assert compare_documents(frame, score="loss_nats").empty
    with pytest.raises(UsageError, match="'luna' is not among the trainings: fastformer, linear"):
        compare_documents(frame, score="rouge1", against="luna")


@pytest.mark.parametrize(("score", "column"), [("rouge1", "rouge1"), ("chrf", "test_chrf")])
def test_any_score_of_documents_has_a_table_and_columns(score, column):
    frame = raw(trained(drawn(linear=0.02), score), accuracy_records(("fastformer", "linear")))
    blocks = comparison_blocks(frame, "fastformer")
    (block,) = [block for block in blocks if block.title.startswith("paired by document")]
    assert f"{TASK}: {score} in points" in block.title
    assert any("variation between seeds is not included" in note for note in block.notes)
    (row,) = block.rows
    expected = by_name(compare_documents(frame, score=score))["linear"]
    assert row[0] == "linear"
    assert row[1] == f"{100 * expected['difference']:+.2f}"
    assert row[-3:] == ["150", "2", "higher"]
    exported = pd.read_csv(io.StringIO(render(comparison(frame, "fastformer"), "csv")))
    with_documents = exported[exported["by_document_documents"].notna()]
    assert list(with_documents["metric"]) == [column]
    assert with_documents["by_document_low"].iloc[0] == pytest.approx(expected["low"])
    assert with_documents["by_document_difference"].iloc[0] == pytest.approx(
        with_documents["difference"].iloc[0]
    )
    assert json.loads(render(comparison(frame, "all"), "json"))


def test_scores_without_documents_keep_their_columns():
    frame = raw(accuracy_records())
    assert list(comparison(frame, "fastformer").columns) == list(compare(frame).columns)
    assert not any("document" in block.title for block in comparison_blocks(frame, "fastformer"))

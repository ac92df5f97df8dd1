"""ROUGE and its intervals are what their definitions say, and the baselines are what they claim to be."""

from __future__ import annotations

import csv
import json
import lzma
from importlib import metadata
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from effbench.common.spec import UsageError
from effbench.measured.data import summary_baselines
from effbench.measured.data.rouge import (
    METRICS,
    bootstrapped,
    difference,
    mean_rouge,
    rouge_scores,
    words_of,
)
from effbench.measured.data.summary_baselines import first_words, greedy, lead, oracle, sentences

DATA = Path(__file__).parents[1].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the test data is not beside the repository")

words = st.lists(st.sampled_from(["ab", "cd", "ef", "gh", "ij", "kl"]), max_size=9)
texts = st.lists(words.map(" ".join), max_size=6).map("\n".join)


def scored(reference: str, summary: str) -> dict[str, float]:
    return {name: float(values[0]) for name, values in rouge_scores([reference], [summary]).items()}


def test_scores_worked_out_by_hand():
    # words 4 and 5, of which a, b, c are shared; pairs 3 and 4, of which (a, b) is shared; the LCS is a b c
    assert scored("aa bb cc dd", "aa bb xx cc yy") == {
        "rouge1": pytest.approx(2 * 3 / 9),
        "rouge2": pytest.approx(2 * 1 / 7),
        "rouge_l": pytest.approx(2 * 3 / 9),
        "rouge_lsum": pytest.approx(2 * 3 / 9),
    }
    # swapped sentences: the LCS of the whole is one sentence, but each line finds its own
    swapped = scored("aa bb\ncc dd", "cc dd\naa bb")
    assert swapped["rouge_l"] == pytest.approx(0.5)
    assert swapped["rouge_lsum"] == pytest.approx(1)
    assert swapped["rouge2"] == pytest.approx(2 / 3)


def test_words_are_lower_case_stemmed_and_without_signs():
    assert words_of()("The Relations, of running-dogs <cit> 3′ é") == [
        "the", "relat", "of", "run", "dog", "cit", "3",
    ]  # fmt: skip
    assert scored("he relates!", "HE relating") == dict.fromkeys(METRICS, pytest.approx(1))


@given(texts, texts)
def test_stems_that_are_remembered_change_no_score(reference, summary):
    from rouge_score.rouge_scorer import RougeScorer

    theirs = RougeScorer(list(METRICS.values()), use_stemmer=True).score(reference, summary)
    ours = scored(reference, summary)
    assert ours == {name: theirs[key].fmeasure for name, key in METRICS.items()}
    assert scored(reference, reference) == dict.fromkeys(METRICS, 1) or len(reference.split()) < 2


def test_an_empty_summary_scores_nothing():
    assert scored("aa bb", "") == dict.fromkeys(METRICS, 0)
    assert scored("aa bb", ".\n!") == dict.fromkeys(METRICS, 0)


def test_intervals_hold_the_mean_and_shrink_with_more_documents():
    rng = np.random.default_rng(0)
    few, many = ({"rouge1": rng.random(n)} for n in (50, 5000))
    for by_document in (few, many):
        mean, low, high = bootstrapped(by_document)["rouge1"]
        assert low < mean < high
        assert mean == pytest.approx(by_document["rouge1"].mean())
    widths = [np.ptp(bootstrapped(each)["rouge1"][1:]) for each in (few, many)]
    expected = 2 * 1.96 * few["rouge1"].std() / np.sqrt(50)
    assert widths[0] == pytest.approx(expected, rel=0.15)
    assert widths[1] < widths[0] / 5
    scores = mean_rouge(few)
    assert [scores[f"rouge1{end}"] for end in ("", "_low", "_high")] == list(bootstrapped(few)["rouge1"])
    assert scores["rouge1_interval"] == "bootstrap over documents"
    assert all(np.isnan(bootstrapped({"rouge1": np.empty(0)})["rouge1"]))


def test_two_systems_are_compared_document_by_document():
    rng = np.random.default_rng(1)
    base = rng.random(200)
    first, second = {"rouge1": base + 0.01 + rng.normal(0, 0.01, 200)}, {"rouge1": base}
    mean, low, high = difference(first, second)["rouge1"]
    assert 0 < low < mean < high  # unpaired, the documents' own spread would hide it
    alone = bootstrapped(second)["rouge1"]
    assert high - low < (alone[2] - alone[1]) / 10
    assert difference(second, first)["rouge1"] == pytest.approx((-mean, -high, -low))
    assert difference(first, first)["rouge1"] == (0, 0, 0)
    with pytest.raises(ValueError, match="200 and 199 documents cannot be paired"):
        difference(first, {"rouge1": base[1:]})


def test_a_missing_package_is_one_line():
    from effbench.measured.data import rouge

    rouge._scorer.cache_clear()
    missing = mock.patch.object(metadata, "version", side_effect=metadata.PackageNotFoundError)
    line = r"ROUGE needs the package rouge-score: pip install 'effbench\[summarization\]'$"
    with missing, pytest.raises(UsageError, match=line):
        rouge_scores(["aa"], ["aa"])


# Baselines.


def test_sentences_end_at_lines_and_after_end_marks():
    text = "A first one. A second!  A third? No 3.14 end\n\n  by itself. "
    assert sentences(text) == ["A first one.", "A second!", "A third?", "No 3.14 end", "by itself."]
    assert lead(text) == "A first one.\nA second!\nA third?"
    assert first_words(text, 4) == "A first one.\nA"
    assert first_words(text, 0) == lead("") == ""


@given(st.text(max_size=80), st.integers(0, 30))
def test_first_words_are_those_of_the_text(text, count):
    assert first_words(text, count).split() == text.split()[:count]


def f1_sum(reference: str, summary: str) -> float:
    scores = scored(reference, summary)
    return scores["rouge1"] + scores["rouge2"]


@given(st.lists(words.filter(bool), min_size=1, max_size=6), words)
def test_the_greedy_search_counts_as_rouge_does(split, reference):
    """Sentences end with a word of their own, so that no pair across two of them matches."""
    ended = [[*sentence, f"end{i}"] for i, sentence in enumerate(split)]
    chosen, score = greedy(ended, reference)
    extract = [" ".join(ended[i]) for i in chosen]
    assert score == pytest.approx(f1_sum(" ".join(reference), "\n".join(extract)))
    # the plain search: one sentence at a time, while the score grows
    picked: list[int] = []
    best = 0.0
    while True:
        tried = {
            i: f1_sum(" ".join(reference), "\n".join(" ".join(ended[j]) for j in sorted([*picked, i])))
            for i in range(len(ended))
            if i not in picked
        }
        if not tried or max(tried.values()) <= best + 1e-12:
            break
        best = max(tried.values())
        picked.append(next(i for i in tried if tried[i] >= best - 1e-12))
    assert score == pytest.approx(best)
    assert chosen == sorted(picked)


def test_the_oracle_finds_the_reference_among_other_sentences():
    article = "Nothing here. The cat sat there.\nWho knows? A dog came by."
    assert oracle(article, "a dog came by\nthe cat sat there", words_of()) == (
        "The cat sat there.\nA dog came by."
    )
    assert oracle(article, "xx yy", words_of()) == ""
    assert oracle("", "xx", words_of()) == ""


def test_baselines_are_computed_once(monkeypatch):
    articles = ["One cat. Two dogs. Three birds. Four mice."] * 2
    references = ["four mice", "one cat\ntwo dogs"]
    counts = {"first_2_words": 2}
    before = summary_baselines.summary_baselines(articles, references, "digest", counts)
    assert list(before) == ["lead_3", "first_2_words", "oracle"]
    assert before["oracle"]["rouge1"].tolist() == [1, 1]
    assert before["first_2_words"]["rouge1"].tolist() == pytest.approx([0, 2 / 3])

    def never(*_):
        raise AssertionError("scored again")

    monkeypatch.setattr(summary_baselines, "rouge_scores", never)
    after = summary_baselines.summary_baselines(articles, references, "digest", counts)
    np.testing.assert_equal(after, before)
    with pytest.raises(AssertionError, match="scored again"):
        summary_baselines.summary_baselines(articles, references, "digest", {"first_2_words": 3})


def percent(references: list[str], summaries: list[str]) -> list[float]:
    scores = rouge_scores(references, summaries)
    return [100 * float(scores[name].mean()) for name in ("rouge1", "rouge2", "rouge_l")]


@needs_data
def test_lead_3_of_the_sample_of_cnn_dailymail():
    with (DATA / "cnn_dailymail_sample" / "train_sample.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = percent([row["highlights"] for row in rows], [lead(row["article"]) for row in rows])
    assert found == pytest.approx([28.7, 11.8, 19.0], abs=0.05)


@pytest.mark.slow
@needs_data
def test_the_first_200_words_of_sumpubmed():
    with lzma.open(DATA / "sumpubmed" / "test.jsonl.xz", "rt") as file:
        rows = [json.loads(line) for line in file]
    found = percent([row["abstract"] for row in rows], [first_words(row["article"], 200) for row in rows])
    assert found == pytest.approx([39.1, 9.6, 18.1], abs=0.05)

"""Selective copying: what every row must be, how rows are drawn, and what answers score that copy nothing."""

from __future__ import annotations

from itertools import permutations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from effbench.common.spec import UsageError
from effbench.measured.data.copy_rows import CopyShape, copy_parts, copy_priors
from effbench.measured.data.source_targets import SPECIAL, SourceTargets

PLACEMENTS = ["segments", "free"]
every_placement = pytest.mark.parametrize("placement", PLACEMENTS)


def shape(**changed):
    return CopyShape(
        **{
            "length": 22,
            "items": 4,
            "values": 5,
            "noise": 3,
            "places": 99,
            "placement": "segments",
            **changed,
        }
    )


def rows_of(part: SourceTargets) -> list[tuple[list[int], list[int]]]:
    return [(part.source(i).tolist(), part.target(i).tolist()) for i in range(len(part))]


def places_of(part: SourceTargets, of: CopyShape) -> np.ndarray:
    """The places of the items in each source, [rows, items]."""
    is_item = part.sources.reshape(-1, of.length) < SPECIAL + of.values
    return is_item.nonzero()[1].reshape(len(part), of.items)


@given(
    items=st.integers(1, 6),
    more=st.integers(0, 40),
    values=st.integers(1, 20),
    noise=st.integers(1, 20),
    placement=st.sampled_from(PLACEMENTS),
    seed=st.integers(0, 9),
)
def test_a_target_is_the_items_of_its_source_in_order(items, more, values, noise, placement, seed):
    of = shape(length=items + more, items=items, values=values, noise=noise, placement=placement)
    part = copy_parts({"train": min(20, of.possible() // 2)}, of, seed)["train"]
    assert of.vocab == SPECIAL + values + noise
    for source, target in rows_of(part):
        assert len(source) == items + more
        assert len(target) == items
        assert all(SPECIAL <= token < of.vocab for token in source)
        assert [token for token in source if token < SPECIAL + values] == target


def test_items_stand_only_at_evenly_spaced_positions():
    for placement in PLACEMENTS:
        of = shape(length=40, places=10, placement=placement)
        assert of.positions.tolist() == [*range(0, 40, 4)]
        found = places_of(copy_parts({"train": 400}, of, 0)["train"], of)
        assert set(found.ravel().tolist()) == set(of.positions.tolist())
    assert shape(length=9, places=10).positions.tolist() == [*range(9)]


@pytest.mark.parametrize("length", [20, 22, 4])
def test_each_segment_has_one_item(length):
    of = shape(length=length)
    segments = np.split(np.arange(length), of.bounds[1:-1])
    assert np.concatenate(segments).tolist() == list(range(length))
    assert len(segments) == of.items
    sizes = {len(segment) for segment in segments}
    assert max(sizes) - min(sizes) <= 1
    for places in places_of(copy_parts({"train": 300}, of, 0)["train"], of):
        assert all(place in segment for place, segment in zip(places, segments, strict=True))


def test_places_in_segments_are_uniform_and_independent():
    of = shape(length=9, items=3)
    found = places_of(copy_parts({"train": 5400}, of, 1)["train"], of)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 27
    assert chisquare(counts).pvalue > 1e-3


def test_free_places_are_any_subset_all_alike():
    of = shape(length=7, items=3, placement="free")
    found = places_of(copy_parts({"train": 7000}, of, 2)["train"], of)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == comb(7, 3)
    assert chisquare(counts).pvalue > 1e-3


@every_placement
def test_values_and_noise_are_uniform(placement):
    of = shape(placement=placement)
    part = copy_parts({"train": 5000}, of, 3)["train"]
    items = np.bincount(part.targets, minlength=of.vocab)
    assert items[:SPECIAL].sum() == items[SPECIAL + of.values :].sum() == 0
    assert chisquare(items[SPECIAL : SPECIAL + of.values]).pvalue > 1e-3
    noise = np.bincount(part.sources, minlength=of.vocab)[SPECIAL + of.values :]
    assert len(noise) == of.noise
    assert chisquare(noise).pvalue > 1e-3
    first, last = part.targets.reshape(-1, of.items)[:, [0, -1]].T - SPECIAL
    assert chisquare(np.bincount(first * of.values + last, minlength=of.values**2)).pvalue > 1e-3


@every_placement
def test_no_source_occurs_twice_and_no_other_can(placement):
    """Half of all sources are drawn; the possible ones are counted here one by one."""
    of = shape(length=5, items=2, values=2, noise=2, placement=placement)
    ids = range(SPECIAL, of.vocab)
    every = [row for row in product(ids, repeat=5) if sum(token < SPECIAL + 2 for token in row) == 2]
    if placement == "segments":
        first = of.bounds[1]
        every = [row for row in every if sum(token < SPECIAL + 2 for token in row[:first]) == 1]
    assert of.possible() == len(every)
    half = len(every) // 2
    parts = copy_parts({"train": half - 20, "validation": 9, "test": 11}, of, 4)
    assert [len(part) for part in parts.values()] == [half - 20, 9, 11]
    found = [tuple(source) for part in parts.values() for source, _ in rows_of(part)]
    assert len(set(found)) == half
    assert set(found) <= set(every)
    with pytest.raises(UsageError, match=f"{half + 1} different rows .* {len(every)} different sources"):
        copy_parts({"train": half, "test": 1}, of, 4)


@every_placement
def test_the_seed_decides_the_rows_and_a_later_part_changes_no_earlier_one(placement):
    of = shape(placement=placement)
    sizes = {"train": 60, "validation": 20, "test": 30}
    one, same, other = (copy_parts(sizes, of, seed) for seed in (1, 1, 2))
    fewer = copy_parts(sizes | {"test": 5}, of, 1)
    for part in sizes:
        assert rows_of(one[part]) == rows_of(same[part])
        assert rows_of(one[part]) != rows_of(other[part])
    assert rows_of(one["train"]) == rows_of(fewer["train"])
    assert rows_of(one["validation"]) == rows_of(fewer["validation"])


def test_baseline_scores_are_what_such_answers_score():
    of = shape(values=3)
    parts = copy_parts({"train": 400, "test": 150}, of, 5)
    priors = copy_priors(parts["train"], parts["test"])
    trained, wanted = ([target for _, target in rows_of(parts[name])] for name in ("train", "test"))
    columns = list(zip(*trained, strict=True))
    answer = [max(sorted(set(column)), key=column.count) for column in columns]

    def mean_of_orders(score):
        return np.mean([score(order, target) for target in wanted for order in permutations(target)])

    def agreement(one, other):
        return np.mean([a == b for a, b in zip(one, other, strict=True)])

    def equal(one, other):
        return list(one) == list(other)

    for name, score in (("exact_match", equal), ("token_accuracy", agreement)):
        assert {name_: scores[name] for name_, scores in priors.items()} == {
            "majority": pytest.approx(np.mean([score(answer, target) for target in wanted])),
            "any_order": pytest.approx(mean_of_orders(score)),
        }


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"items": 0}, "items must be at least 1, got 0"),
        ({"values": 0}, "values must be at least 1, got 0"),
        ({"noise": -1}, "noise must be at least 1, got -1"),
        ({"length": 3}, "3 tokens have no room for 4 items"),
        ({"noise": 70_000}, "at most 65533, got 70005"),
        ({"places": 3}, r"places must be at least items \(4\), got 3"),
        ({"placement": "ends"}, "placement is 'ends', not segments or free"),
    ],
)
def test_a_wrong_number_is_named(changed, complaint):
    with pytest.raises(ValueError, match=complaint):
        shape(**changed)

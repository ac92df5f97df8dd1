"""choose recommends nothing outside the limits or the records, and names no winner without evidence."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from frames import ORIGIN, SIX, accuracy_records, cost_records, raw
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.cli import app as cli
from effbench.common.exits import Exit
from effbench.common.spec import Cell, Record, UsageError
from effbench.records.analyse.choice import (
    DOMINATED,
    FAILED,
    FRONT,
    OUTSIDE,
    Choice,
    Most,
    choose,
    dominated,
)
from effbench.records.analyse.choice_setting import Untold
from effbench.records.analyse.summary import summarise
from effbench.records.store import Store
from effbench.show import units
from effbench.show.choice_text import as_json, choice_blocks, notes, recommendation

LENGTHS = (128, 512, 2048)
TRAINED = {
    "test_examples": 100,
    "tokens_per_s": 1e4,
    "peak_bytes": 10**6,
    "parameters": 10,
    "train_seconds": 1.0,
}


def cost(
    mechanism: str,
    time_s: Callable[[int], float],
    memory: Callable[[int], float] = lambda n: 1000.0 * n,
    *,
    lengths: Iterable[int] = LENGTHS,
    repeats: int = 3,
    noise: float = 0.01,
    seed: int = 0,
    facts: Mapping[str, Any] | None = None,
    **shape: Any,
) -> list[Record]:
    """Records of times and memory by formula; repeats differ by ``noise``."""
    rng = np.random.default_rng([seed, *mechanism.encode()])
    origin = {**ORIGIN, "machine": {**ORIGIN["machine"], **(facts or {})}}
    found = []
    for n in lengths:
        for repeat in range(repeats):
            times = time_s(n) * np.exp(noise * rng.normal()) * np.ones(5)
            cell = Cell(mechanism=mechanism, probe="time", seq_len=n, repeat=repeat, **shape)
            samples = {"time_s": tuple(times), "control_s": (1e-4,) * 5}
            found.append(Record(cell=cell, status="ok", samples=samples, **origin))
        cell = Cell(mechanism=mechanism, probe="memory", seq_len=n, **shape)
        found.append(Record(cell=cell, status="ok", values={"peak_bytes": int(memory(n))}, **origin))
    return found


def scored(scores: Mapping[str, list[float]], **setting: Any) -> list[Record]:
    """Trainings of a task: scores by mechanism and repeat."""
    of: dict[str, Any] = {"task": "imdb", "seq_len": 256, "d_model": 64, "heads": 4, "batch_size": 32}
    return [
        Record(
            cell=Cell(
                mechanism=name, repeat=repeat, probe="accuracy", scope="encoder", mode="train", **of | setting
            ),
            status="ok", values={**TRAINED, "accuracy": score}, **ORIGIN,
        )
        for name, line in scores.items() for repeat, score in enumerate(line)
    ]  # fmt: skip


def text_of(choice: Choice) -> str:
    return "\n".join(
        text
        for block in choice_blocks(choice)
        for text in (block.title, *block.notes, *(" ".join(row) for row in block.rows), *block.warnings)
    )


def places(choice: Choice) -> dict[str, str]:
    return dict(zip(choice.rows["label"], choice.rows["place"], strict=True))


CLEAR = [
    *cost("a", lambda n: 1e-6 * n, lambda n: 900 * n),
    *cost("b", lambda n: 1.5e-6 * n, lambda n: 500 * n),
    *cost("c", lambda n: 3e-6 * n, lambda n: 2000 * n),
]
TIE = [
    *cost("a", lambda n: 1e-6 * n, lambda n: 1000 * n),
    *cost("b", lambda n: 1.003e-6 * n, lambda n: 600 * n),
]


@given(
    st.lists(
        st.tuples(*[st.one_of(st.integers(0, 3).map(float), st.just(float("nan")))] * 3),
        min_size=1, max_size=8,
    )
)  # fmt: skip
def test_the_pareto_front_is_that_of_brute_force(points):
    rows = pd.DataFrame(points, columns=["time_s", "memory_bytes", "score"]).assign(
        label=[f"m{i}" for i in range(len(points))]
    )
    found = dominated(rows)

    def beats(other: tuple[float, ...], own: tuple[float, ...]) -> bool:
        signed = [(o, m) if i < 2 else (-o, -m) for i, (o, m) in enumerate(zip(other, own, strict=True))]
        if any(np.isnan(o) != np.isnan(m) for o, m in signed):
            return False
        known = [(o, m) for o, m in signed if not np.isnan(o)]
        return all(o <= m for o, m in known) and any(o < m for o, m in known)

    for i, own in enumerate(points):
        assert bool(found[f"m{i}"]) == any(beats(other, own) for other in points)
        if found[f"m{i}"]:
            assert beats(points[int(found[f"m{i}"][1:])], own)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1, 9), st.floats(1, 9)), min_size=2, max_size=5),
    st.one_of(st.none(), st.floats(1, 9)),
    st.one_of(st.none(), st.floats(1, 4)),
    st.one_of(st.none(), st.floats(1, 9)),
)
def test_limits_hold_for_whatever_is_recommended(mechanisms, memory, factor, time_s):
    names = [f"m{i}" for i in range(len(mechanisms))]
    records = [
        cost(name, lambda n, t=t: t, lambda n, b=b: 1000 * b, lengths=(128,))  # type: ignore[misc]
        for name, (t, b) in zip(names, mechanisms, strict=True)
    ]
    most = Most(memory_bytes=memory and 1000 * memory, time_factor=factor, time_s=time_s)
    choice = choose(raw(*records), seq_len=128, most=most)
    rows = choice.rows
    fits = (rows["memory_bytes"] <= (most.memory_bytes or 1e9)) & (rows["time_s"] <= (time_s or 1e9))
    if factor:
        fastest = rows[fits].set_index("label")
        fits &= rows["pool_ratio"] <= factor
        assert fastest.empty or fastest.loc[choice.pool_quickest, "time_s"] == fastest["time_s"].min()
    assert (fits == rows["place"].isin([FRONT, DOMINATED])).all()
    assert (~fits == (rows["place"] == OUTSIDE)).all()
    assert set(choice.recommended) <= set(rows.loc[fits, "label"])
    assert bool(choice.recommended) == bool(fits.any())
    assert choice.exit_code() == (Exit.DONE if fits.any() else Exit.NOTHING)
    for row in rows[~fits].itertuples():
        assert (
            "limit"
            in next(m for m in json.loads(as_json(choice))["mechanisms"] if m["label"] == row.label)["why"]
        )


def test_a_clear_winner_is_named_with_the_next_and_its_interval():
    choice = choose(raw(CLEAR), seq_len=512)
    assert list(choice.recommended) == ["a"]
    assert places(choice) == {"a": FRONT, "b": FRONT, "c": DOMINATED}
    first, why = recommendation(choice)[:2]
    assert first == "Recommended: a."
    ratio = choice.row("b")["time_ratio"]
    assert f"b, the next, takes {units.ratio(ratio)} times (" in why
    assert ratio == pytest.approx(1.5, rel=0.05)


def test_mechanisms_that_cannot_be_told_apart_are_not_ranked_by_time():
    choice = choose(raw(TIE), seq_len=512)
    assert set(choice.tied) == {"a", "b"}
    assert list(choice.recommended) == ["b"], "the memory decides"
    said = " ".join(recommendation(choice))
    assert "cannot be told apart in time" in said
    assert "b holds 40 % less memory than a, the next." in said
    assert "fastest" not in said
    same = [*cost("a", lambda n: 1e-6 * n), *cost("b", lambda n: 1.003e-6 * n)]
    both = choose(raw(same), seq_len=512)
    assert set(both.recommended) == {"a", "b"}
    assert "take either" in " ".join(recommendation(both))
    assert "recommended too" in text_of(both)


def test_a_dominated_mechanism_can_still_be_as_fast():
    records = [*cost("a", lambda n: 1e-6 * n, lambda n: 500 * n), *cost("b", lambda n: 1.03e-6 * n)]
    choice = choose(raw(records), seq_len=512)
    assert places(choice) == {"a": FRONT, "b": DOMINATED}
    assert set(choice.tied) == {"a", "b"}
    assert list(choice.recommended) == ["a"]
    assert "It is the fastest" not in text_of(choice)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"repeats": 1}, "one repeat has no confidence interval"),
        ({"facts": {"others_cores": 2.0, "machine_cores": 2}}, "measured beside other load"),
    ],
)
def test_no_winner_is_named_where_the_times_do_not_allow_it(change, why):
    records = [
        *cost("a", lambda n: 1e-6 * n, **change),
        *cost("b", lambda n: 9e-6 * n, lambda n: n, **change),
    ]
    choice = choose(raw(records), seq_len=512)
    assert choice.exit_code() == Exit.UNDECIDED
    assert not choice.recommended
    assert why in recommendation(choice)[0]
    assert places(choice) == {"a": FRONT, "b": FRONT}, "the figures are shown all the same"
    alone = choose(raw(records), seq_len=512, most=Most(memory_bytes=1000))
    assert list(alone.recommended) == ["b"], "a limit can decide without times"
    assert "the only mechanism within the limits" in text_of(alone)


@given(st.floats(0.5, 2.5), st.floats(0.5, 2.5), st.integers(128, 2048))
@settings(max_examples=6, deadline=None)
def test_interpolation_is_exact_on_power_laws(time_power, memory_power, n):
    records = [
        *cost("a", lambda n: 1e-6 * n**time_power, lambda n: 1000 * n, noise=0.0),
        *cost("b", lambda n: 2e-5 * n**1.0, lambda n: 1e6 * n**memory_power, noise=0.0),
    ]
    choice = choose(raw(records), seq_len=n)
    a, b = choice.row("a"), choice.row("b")
    assert a["time_s"] == pytest.approx(1e-6 * n**time_power)
    assert b["memory_bytes"] == pytest.approx(1e6 * n**memory_power, rel=1e-6)
    slower, quicker = (a, b) if choice.quickest == "b" else (b, a)
    assert slower["time_ratio"] == pytest.approx(slower["time_s"] / quicker["time_s"])
    said = f"interpolated between {128 if n < 512 else 512} and {512 if n < 512 else 2048}"
    assert (said in " ".join(notes(choice))) == (n not in LENGTHS)
    assert (choice.between is None) == (n in LENGTHS)


def test_an_interpolated_interval_is_as_wide_as_the_wider_neighbour():
    records = [
        *cost("a", lambda n: 1e-6 * n, lengths=(128,), noise=0.001),
        *cost("a", lambda n: 1e-6 * n, lengths=(512,), noise=0.2, seed=1),
        *cost("b", lambda n: 2e-6 * n, noise=0.001, lengths=(128, 512)),
    ]

    def width(n: int, column: str) -> float:
        row = choose(raw(records), seq_len=n).row("b" if column == "time_ratio" else "a")
        unit = "" if column == "time_ratio" else "_s"
        return float(np.log(row[f"{column}_high{unit}"] / row[f"{column}_low{unit}"]))

    for column in ("time", "time_ratio"):
        assert width(512, column) > width(128, column)
        assert width(200, column) == pytest.approx(width(512, column))


@pytest.mark.parametrize("n", [127, 2049, 10**6])
def test_nothing_is_told_outside_the_measured_lengths(n):
    with pytest.raises(Untold, match="128 to 2048"):
        choose(raw(CLEAR), seq_len=n)
    with pytest.raises(Untold, match="mode train"):
        choose(raw(CLEAR), seq_len=512, mode="train")
    with pytest.raises(Untold):
        choose(raw([]), seq_len=512)


@pytest.mark.parametrize("probe", ["time", "memory"])
@pytest.mark.parametrize("status", ["oom", "timeout", "incorrect", "skipped"])
def test_what_failed_is_left_out_with_its_reason(probe, status):
    records = [
        replace(own, status=status, reason="too much", samples={}, values={})
        if (own.cell.mechanism, own.cell.probe, own.cell.seq_len) == ("a", probe, 512)
        else own
        for own in CLEAR
    ]
    for n in (512, 600, 300):
        choice = choose(raw(records), seq_len=n)
        assert list(choice.recommended) == ["b"]
        assert places(choice)["a"] == FAILED
        assert f"{status} at 512: " in text_of(choice)
        assert "too much" in text_of(choice)
    assert list(choose(raw(records), seq_len=2048).recommended) == ["a"]


def test_a_probe_that_does_not_matter_excludes_nothing_and_a_missing_length_does():
    lost = Cell(mechanism="a", probe="flops", seq_len=512)
    records = [*CLEAR, Record(cell=lost, status="crashed", reason="no", **ORIGIN)]
    assert list(choose(raw(records), seq_len=512).recommended) == ["a"]
    fewer = [own for own in CLEAR if own.cell.mechanism != "a" or own.cell.seq_len != 512]
    for n in (512, 600):
        choice = choose(raw(fewer), seq_len=n)
        assert "not measured at 512" in choice.row("a")["why"]
        assert list(choice.recommended) == ["b"]


def test_without_any_costs_nothing_is_recommended():
    failed = [replace(own, status="oom", reason="big", samples={}, values={}) for own in CLEAR]
    choice = choose(raw(failed), seq_len=512)
    assert choice.exit_code() == Exit.NOTHING
    assert set(places(choice).values()) == {FAILED}
    assert "none has measured costs" in recommendation(choice)[0]


def test_the_order_of_records_does_not_matter():
    scores = scored({"a": [0.8, 0.82, 0.81], "b": [0.9, 0.91, 0.89]})
    records = [*CLEAR, *scores]
    answers = set()
    for seed in range(4):
        random.Random(seed).shuffle(records)
        answers.add(as_json(choose(raw(records), seq_len=700, most=Most(points=0.2, time_factor=2.0))))
    assert len(answers) == 1


def test_numbers_are_those_of_the_summary():
    frame = raw(cost_records(SIX, (128, 512)))
    choice = choose(frame, seq_len=512, mode="train")
    summary = summarise(frame)
    rows = summary[(summary["mode"] == "train") & (summary["seq_len"] == 512)].set_index("mechanism")
    mine = choice.rows.set_index("label").loc[rows.index]
    for column in ("time_s", "time_low_s", "time_high_s"):
        assert np.array_equal(mine[column], rows[column])
    assert np.array_equal(mine["memory_bytes"], rows["peak_bytes"])
    for column in ("time_ratio", "time_ratio_low", "time_ratio_high"):
        assert np.allclose(mine[column], rows[column])


def test_json_has_the_numbers_of_the_table():
    scores = scored({"a": [0.8, 0.82, 0.81], "b": [0.9, 0.91, 0.89]})
    choice = choose(raw(CLEAR, scores), seq_len=512, most=Most(memory_bytes=1e6))
    answer = json.loads(as_json(choice))
    assert answer["recommended"] == list(choice.recommended) == ["a"]
    assert answer["limits"]["memory_bytes"] == 1e6
    assert answer["scores_of"]["seq_len"] == 256
    by_label = {own["label"]: own for own in answer["mechanisms"]}
    _, front, others = choice_blocks(choice)
    for row in (*front.rows, *others.rows):
        own = by_label[row[0]]
        assert row[1].replace("\N{NO-BREAK SPACE}", " ").strip("~*") == units.seconds(own["time_s"])
        memory = row[3 if row in front.rows else 2]
        assert memory.replace("\N{NO-BREAK SPACE}", " ") == units.size(own["memory_bytes"])
    for row in front.rows:
        own = by_label[row[0]]
        assert row[2].startswith(units.ratio(own["time_ratio"]))
        assert row[4] == units.share(own["score"])
        assert row[6] == f"{own['seeds']:.0f}"
    assert [row[3] for row in others.rows] == [by_label[row[0]]["why"] for row in others.rows]
    assert {row[0] for row in front.rows} == {n for n, own in by_label.items() if own["place"] == FRONT}
    assert answer["sentences"] == [*choice_blocks(choice)[0].notes, *front.notes]


def test_settings_are_never_mixed():
    records = [*CLEAR, *cost("a", lambda n: 1e-3, batch_size=4), *cost("c", lambda n: 1e-4, batch_size=4)]
    with pytest.raises(UsageError, match=r"2 settings .*--batch-size \(1, 4\)"):
        choose(raw(records), seq_len=512)
    choice = choose(raw(records), seq_len=512, where={"batch_size": 4})
    assert set(places(choice)) == {"a", "c"}
    assert list(choice.recommended) == ["c"]
    with pytest.raises(UsageError, match="batch_size 3 was not measured; measured: 1, 4"):
        choose(raw(records), seq_len=512, where={"batch_size": 3})
    elsewhere = [replace(own, machine={"name": "Other, 4 cores"}) for own in CLEAR]
    with pytest.raises(UsageError, match="--machine"):
        choose(raw(CLEAR, elsewhere), seq_len=512)
    named = choose(raw(CLEAR, elsewhere), seq_len=512, where={"machine": "other"})
    assert named.setting["machine"] == "Other, 4 cores"
    apart = [
        *cost("a", lambda n: 1e-3, lengths=(128,)),
        *cost("a", lambda n: 1e-3, lengths=(512,), batch_size=4),
    ]
    with pytest.raises(Untold, match="in 2 settings"):
        choose(raw(apart), seq_len=256)


def test_the_interval_of_a_share_ends_at_100_percent():
    choice = choose(raw(CLEAR, scored({"a": [0.7, 0.99, 0.98], "b": [0.9, 0.91, 0.92]})), seq_len=512)
    assert re.search(r"\b100\.0 %", text_of(choice))
    assert not re.search(r"\b1[1-9]\d\.\d %|\b10[1-9]\.\d %", text_of(choice))


def in_folders(*groups: list[Record]) -> pd.DataFrame:
    return pd.concat([raw(own).assign(folder=f"f{i}") for i, own in enumerate(groups)], ignore_index=True)


def test_folders_are_joined_and_a_configuration_in_two_is_refused():
    with pytest.raises(UsageError, match="measured more than once"):
        choose(in_folders(CLEAR, CLEAR), seq_len=512)
    far = cost("d", lambda n: 1e-9 * n)
    choice = choose(in_folders(CLEAR, far), seq_len=512)
    assert list(choice.recommended) == ["d"]
    row = choice.row("a")
    quickest = choice.row("d")
    assert row["time_ratio_low"] == pytest.approx(row["time_low_s"] / quickest["time_high_s"])
    near = cost("d", lambda n: 0.95e-6 * n, lambda n: 2000 * n)
    apart = choose(in_folders(CLEAR, near), seq_len=512)
    assert {"a", "d"} <= set(apart.tied), "times of two runs share no repeats"


SCORES = {"a": [0.80, 0.81, 0.80, 0.82], "b": [0.90, 0.91, 0.90, 0.92], "elsewhere": [0.99] * 4}


def test_of_a_score_that_is_better_if_lower_the_lowest_is_best():
    named: dict[str, Any] = {**TRAINED, "metric": "bits_per_byte", "scores": "bits_per_byte"}
    bits = [
        replace(own, values={**named, "bits_per_byte": 1 / float(own.values["accuracy"] or 1)})
        for own in scored(SCORES)
    ]
    higher, lower = (choose(raw(CLEAR, found), seq_len=512) for found in (scored(SCORES), bits))
    assert places(higher) == places(lower)
    assert {name: own["against"] for name, own in higher.worse.items()} == {
        name: own["against"] for name, own in lower.worse.items()
    }
    known = higher.rows["score_difference"].notna()
    assert known.equals(lower.rows["score_difference"].notna())
    assert (lower.rows["score_difference"][known] >= 0).all()
    assert (lower.rows["score_difference_low"][known] <= lower.rows["score_difference_high"][known]).all()


def test_a_limit_on_the_score_excludes_and_its_setting_is_said():
    frame = raw(CLEAR, scored(SCORES))
    free = choose(frame, seq_len=512)
    assert list(free.recommended) == ["a"]
    assert "-10.00 points" in text_of(free)
    assert "significant" in text_of(free)
    assert "Scores are of imdb at length 256, width 64" in text_of(free)
    assert "trained, but not among the costs: elsewhere" in text_of(free)
    tight = choose(frame, seq_len=512, most=Most(points=0.01))
    assert list(tight.recommended) == ["b"]
    assert places(tight) == {"a": OUTSIDE, "b": FRONT, "c": OUTSIDE}
    assert "10.00 points below b" in text_of(tight)
    assert "no score" in text_of(tight)
    assert "best validation score at the end" not in text_of(free)
    short = [replace(own, values={**own.values, "best_epoch": 3.0, "epochs": 3.0}) for own in scored(SCORES)]
    assert "best validation score at the end" in text_of(choose(raw(CLEAR, short), seq_len=512))
    exact = choose(frame, seq_len=512, most=Most(points=0.10))
    assert places(exact)["a"] == FRONT, "the limit itself is within the limit"
    assert "not certain" not in text_of(exact), "every seed has the same difference"


def test_a_limit_inside_an_interval_is_said_to_be_uncertain():
    close = [*cost("a", lambda n: 1e-6 * n), *cost("b", lambda n: 1.19e-6 * n, lambda n: 10 * n)]
    choice = choose(raw(close), seq_len=512, most=Most(time_factor=1.2))
    assert choice.row("b")["unsure"] == "time_factor "
    scores = scored({"a": [0.80, 0.90, 0.85], "b": [0.86, 0.85, 0.87]})
    choice = choose(raw(close, scores), seq_len=512, most=Most(points=0.05))
    assert list(choice.recommended) == ["a"]
    assert "It is not certain that a is within the limits" in text_of(choice)
    between = choose(raw(CLEAR), seq_len=300, most=Most(memory_bytes=400_000))
    assert "It is not certain that a is within the limits: memory 264 KiB (112 KiB to 450 KiB)" in text_of(
        between
    )
    assert "not certain" not in text_of(choose(raw(CLEAR), seq_len=512, most=Most(memory_bytes=400_000)))
    one = choose(raw(close, scored({"a": [0.8], "b": [0.81]})), seq_len=512, most=Most(points=0.05))
    assert "(no interval), limit 5" in text_of(one)


def test_a_noisy_time_between_two_lengths_names_the_lengths():
    frame = raw(cost("a", lambda n: 1e-6 * n, noise=0.3), cost("b", lambda n: 1e-4 * n))
    between = text_of(choose(frame, seq_len=300))
    assert re.search(r"The time of a is noisy \(~\): at 128: ± [^;]*; at 512: ± [^;]*\.", between)
    at = text_of(choose(frame, seq_len=512))
    assert re.search(r"The time of a is noisy \(~\): ± [^;]*, target ± 5 %\.", at)


def test_the_score_decides_between_equal_times_only_if_it_is_significant():
    better = scored({"a": [0.90, 0.91, 0.90, 0.92], "b": [0.80, 0.811, 0.80, 0.822]})
    choice = choose(raw(TIE, better), seq_len=512)
    assert list(choice.recommended) == ["a"], "b holds less memory and scores worse"
    assert "b scores worse than a: -9.9" in text_of(choice)
    noisy = scored({"a": [0.90, 0.70, 0.95], "b": [0.80, 0.85, 0.75]})
    assert list(choose(raw(TIE, noisy), seq_len=512).recommended) == ["b"]


def test_trainings_of_several_settings_are_not_mixed():
    more = [*scored(SCORES), *scored(SCORES, seq_len=512, task="listops"), *scored(SCORES, seq_len=1024)]
    frame = raw(CLEAR, more)
    with pytest.raises(UsageError, match=r"--task \(imdb; listops\) and --task-seq-len"):
        choose(frame, seq_len=700, most=Most(points=0.01))
    left_out = choose(frame, seq_len=700)
    assert left_out.scores is None
    assert "Scores are left out: there are trainings of 3 settings" in text_of(left_out)
    chosen = choose(frame, seq_len=700, task="imdb", task_seq_len=1024)
    assert chosen.scores is not None
    assert chosen.scores.setting["seq_len"] == 1024
    same = choose(frame, seq_len=512)
    assert same.scores is not None
    assert same.scores.setting["task"] == "listops", "the length of the costs is preferred"
    for task, n, taken in (
        ("imdb", 700, 1024),
        ("imdb", 300, 256),
        ("imdb", 512, 1024),
        ("listops", 700, 512),
    ):
        near = choose(frame, seq_len=n, task=task)
        assert near.scores is not None
        assert near.scores.setting["seq_len"] == taken, "the nearest length, of equally near ones the longer"
    for wrong in ({"task": "nowhere"}, {"task_seq_len": 5}):
        with pytest.raises(UsageError, match="has no trainings"):
            choose(frame, seq_len=512, **wrong)
    with pytest.raises(UsageError, match="no trainings in these folders"):
        choose(raw(CLEAR), seq_len=512, most=Most(points=0.01))


def test_decoding_counts_the_state():
    records = []
    for own in cost("a", lambda n: 1e-6, mode="decode"):
        records.append(replace(own, values={**own.values, "state_bytes": 5000}))
    choice = choose(raw(records), seq_len=512, mode="decode")
    assert choice.row("a")["memory_bytes"] == 512 * 1000 + 5000
    assert "the state" in text_of(choice)


def told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    """Return the exit code, the output and the errors of a command."""
    monkeypatch.setattr("sys.argv", ["effbench", "choose", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def folder(tmp_path):
    store = Store(tmp_path / "results")
    store.create()
    for record in (*CLEAR, *scored(SCORES)):
        store.write(record)
    return str(store.folder)


def test_the_command_answers_in_every_format(folder, capsys, monkeypatch):
    code, table, errors = told(capsys, monkeypatch, folder, "--seq-len", "512")
    assert (code, errors) == (0, "")
    assert "Recommended: a." in table
    code, markdown, _ = told(capsys, monkeypatch, folder, "--seq-len", "512", "--format", "markdown")
    assert code == 0
    assert "| mechanism | time per call |" in markdown
    for within in ("1.2", "20%"):
        arguments = ("--seq-len", "512", "--format", "json", "--time-within", within, "--memory", "4GiB")
        code, text, _ = told(capsys, monkeypatch, folder, *arguments, "--accuracy-within", "15%")
        limits = json.loads(text)["limits"]
        assert limits == {"memory_bytes": 2**32, "time_s": None, "time_factor": 1.2, "points": 0.15}
    code, text, _ = told(
        capsys, monkeypatch, folder, "--seq-len", "512", "--time-within", "5ms", "--format", "json"
    )
    assert json.loads(text)["limits"]["time_s"] == 0.005


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--seq-len", "512", "--memory", "100B"], 5),
        (["--seq-len", "512", "--time-within", "1us"], 5),
        (["--seq-len", "4096"], 4),
        (["--seq-len", "512", "--mode", "decode"], 4),
        (["--seq-len", "512", "--mode", "sideways"], 2),
        (["--seq-len", "0"], 2),
        (["--seq-len", "512,1024"], 2),
        ([], 2),
        (["--seq-len", "512", "--memory", "much"], 2),
        (["--seq-len", "512", "--time-within", "0.5"], 2),
        (["--seq-len", "512", "--time-within", "5 parsecs"], 2),
        (["--seq-len", "512", "--time-within", "%"], 2),
        (["--seq-len", "512", "--time-within", "-5%"], 2),
        (["--seq-len", "512", "--accuracy-within", "2"], 2),
        (["--seq-len", "512", "--task", "nowhere"], 2),
        (["--seq-len", "512", "--d-model", "77"], 2),
        (["--seq-len", "512", "--threads", "x"], 2),
        (["--seq-len", "512", "--machine", "Babbage"], 2),
        (["--seq-len", "512", "--format", "latex"], 2),
    ],
)
def test_exit_codes_and_one_line_of_complaint(folder, capsys, monkeypatch, arguments, code):
    ended, out, errors = told(capsys, monkeypatch, folder, *arguments)
    assert ended == code
    if code == 5:
        assert "No mechanism is recommended" in out
    else:
        assert errors.startswith("effbench: ")
        assert errors.count("\n") == 1
        assert out == ""


def test_accuracy_of_another_folder_is_combined_by_label(tmp_path, capsys, monkeypatch):
    folders = []
    for name, records in (("costs", CLEAR), ("scores", [*scored(SCORES), *accuracy_records(("a", "b"))])):
        store = Store(tmp_path / name)
        store.create()
        for record in records:
            store.write(record)
        folders.append(str(store.folder))
    arguments = ("--seq-len", "512", "--accuracy-within", "1%", "--format", "json")
    code, _, errors = told(capsys, monkeypatch, *folders, *arguments)
    assert (code, "--task (imdb; listops)" in errors) == (2, True)
    code, text, _ = told(capsys, monkeypatch, *folders, *arguments, "--task", "imdb")
    assert (code, json.loads(text)["recommended"]) == (0, ["b"])


def test_every_place_of_a_row_is_one_of_four():
    most = [Most(), Most(memory_bytes=300_000), Most(time_factor=1.2), Most(time_s=1e-3)]
    for limits, n in itertools.product(most, (128, 300)):
        choice = choose(raw(CLEAR), seq_len=n, most=limits)
        assert set(places(choice).values()) <= {FRONT, DOMINATED, OUTSIDE, FAILED}
        assert len(choice.rows) == 3, "nothing is lost"

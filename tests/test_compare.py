"""Two stored results folders compared: what the verdicts promise, what is refused, what is only noted."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import frames
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from effbench.cli import app as cli
from effbench.common.machine import BUSY_CORES
from effbench.common.spec import Cell, Record, Status, UsageError
from effbench.common.values import parse_time_s
from effbench.gate.decide import judge
from effbench.gate.stored import compare
from effbench.gate.unpaired import difference

FACTS = {"name": "Test CPU, 2 cores, 8 GiB", "torch": "2.13.0", "python": "3.11.7", "cpu_capability": "AVX2"}
CODE = "0.1.0-aaaaaaaa-bbbbbbbb"
# What a machine told whose runs hardly differ.
STEADY = {"runs": 40, "control_s": 1e-4, "time_sd": 1e-5, "time_degrees": 40.0, "own_sd": 1e-5}
STEADY["own_degrees"] = 40.0
OPPOSITE = {"slower": "faster", "faster": "slower"}


def timed(
    mechanism: str = "vanilla", scale: float = 1.0, repeats: int = 6, spread: float = 0.005, **shape: Any
) -> list[Record]:
    """Times of one cell around ``scale`` milliseconds; processes differ by ``spread``, and calls by 1 %."""
    rng = np.random.default_rng(len(mechanism) + repeats)
    made = []
    for repeat in range(repeats):
        times = 1e-3 * scale * math.exp(rng.normal(0, spread)) * np.exp(rng.normal(0, 0.01, 25))
        made.append(
            Record(
                cell=Cell(mechanism=mechanism, probe="time", repeat=repeat, **{"seq_len": 128, **shape}),
                status="ok",
                samples={"time_s": tuple(map(float, times)), "control_s": (1e-4,) * len(times)},
                values={"allocator_in_force": "kept"},
                machine={**FACTS, "others_cores": 0.02, "load_1min": 1.0, "history": STEADY},
                code=CODE,
                started=f"2026-01-02T03:04:{repeat:02}+00:00",
                seconds=1.0,
            )
        )
    return made


def counted(probe: str = "memory", **values: float) -> Record:
    """The record of a memory or flops cell."""
    cell = Cell(mechanism="vanilla", probe=probe, mode="train", seq_len=128)
    return Record(cell=cell, status="ok", values=values, machine=FACTS, code=CODE)


def failed(record: Record, status: Status = "crashed", reason: str = "signal 11") -> Record:
    return replace(record, status=status, reason=reason, samples={}, values={})


def on(records: Iterable[Record], **facts: object) -> list[Record]:
    return [replace(record, machine={**record.machine, **facts}) for record in records]


def verdicts(report):
    return {only.cell.label: only.verdict for only in report.comparisons}


def known(number: float | None) -> float:
    assert number is not None
    return number


# The statistics.


def drawn(
    rng: np.random.Generator, repeats: int, spread: float = 0.01, shift: float = 0.0
) -> list[list[float]]:
    """Times of a cell: each process has a speed of its own, which its few calls know well."""
    return [np.exp(shift + rng.normal(0, spread) + rng.normal(0, 0.001, 5)).tolist() for _ in range(repeats)]


@pytest.mark.parametrize(("here", "there"), [(2, 20), (3, 3), pytest.param(3, 10, marks=pytest.mark.slow)])
def test_equal_code_is_called_different_no_more_often_than_promised(here, there):
    rng = np.random.default_rng(here * there)
    folders, cells, error = 200, 3, 0.05
    missed = 0
    for _ in range(folders):
        intervals = [difference(drawn(rng, here), drawn(rng, there), error / cells) for _ in range(cells)]
        missed += any(not interval.low <= 1 <= interval.high for interval in intervals)
    assert missed <= stats.binom.ppf(0.999, folders, error)


def test_intervals_are_not_wide_for_nothing():
    rng = np.random.default_rng(3)
    intervals = [difference(drawn(rng, 10), drawn(rng, 10, shift=math.log(1.2)), 0.01 / 6) for _ in range(20)]
    assert sum(judge(interval, 0.05)[0] == "slower" for interval in intervals) == 20
    assert sum(interval.low <= 1.2 <= interval.high for interval in intervals) >= 19


sides = st.lists(
    st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=6), min_size=2, max_size=6
)  # of very different times, since no law here needs a likely one


@settings(max_examples=30)
@given(base=sides, head=sides, factor=st.floats(0.01, 100.0), error=st.floats(1e-5, 0.2))
def test_laws_of_the_interval(base, head, factor, error):
    ratio = difference(base, head, error)
    back = difference(head, base, error)
    assert math.isfinite(ratio.low)
    assert math.isfinite(ratio.high)
    assert ratio.low <= ratio.ratio <= ratio.high
    for one, other in ((ratio.ratio, back.ratio), (ratio.low, back.high), (ratio.high, back.low)):
        assert one * other == pytest.approx(1)
    fewest = min(len(base), len(head)) - 1
    assert fewest * (1 - 1e-9) <= ratio.degrees <= 2 * fewest * (1 + 1e-9)
    # in another unit nothing changes, and a slower head moves the ratio by as much
    scaled_base, scaled_head = ([[factor * t for t in series] for series in side] for side in (base, head))
    unit = difference(scaled_base, scaled_head, error)
    assert unit.ratio == pytest.approx(ratio.ratio, rel=1e-6)
    moved = difference(base, scaled_head, error)
    assert moved.ratio == pytest.approx(factor * ratio.ratio, rel=1e-6)
    assert difference(base, base, error).ratio == 1
    assert difference(base, head, error / 2).high >= ratio.high


def test_one_process_has_no_interval():
    with pytest.raises(ValueError, match="at least two"):
        difference([[1.0, 1.1]], [[1.0], [1.1]], 0.01)


# Folders.


def test_a_folder_against_itself_is_the_same_in_all(folder):
    records = frames.cost_records(["vanilla", "linear"], [128, 512], noise=0.001, repeats=8)
    quiet = folder("a", on(records, history=STEADY))
    report = compare(quiet, quiet)
    assert {only.verdict for only in report.comparisons} == {"same"}
    assert {only.ratio for only in report.comparisons} == {1.0}
    assert (
        len(report.comparisons)
        == len({(x.cell.label, x.cell.mode, x.cell.seq_len) for x in report.comparisons})
        == 8
    )
    assert report.exit_code(strict=True) == 0
    assert all(figure.base == figure.head and not figure.fails for figure in report.figures)
    # error is split over the cells
    assert sum(known(each.error) for each in report.comparisons) == pytest.approx(0.01)


def test_with_too_much_spread_a_folder_against_itself_is_not_slower(folder):
    loud = folder("a", frames.cost_records(["vanilla", "linear"], [128, 512], noise=0.5, repeats=3))
    report = compare(loud, loud)
    assert {only.verdict for only in report.comparisons} == {"inconclusive"}
    assert report.exit_code() == 0
    assert report.exit_code(strict=True) == 4
    assert any("8 of 8 configurations are inconclusive with 3 repeats" in note for note in report.notes)


def test_swapping_the_folders_inverts_ratios_and_verdicts(folder):
    names = {"one": 1.2, "three": 1.0, "seventeen": 1 / 1.2, "some": 1.06}
    a = folder("a", [r for name in names for r in timed(name, 1.0, 7)])
    b = folder("b", [r for name, scale in names.items() for r in timed(name, scale, 5)])
    forth, back = compare(a, b), compare(b, a)
    assert verdicts(forth) == {
        "one": "slower", "three": "same", "seventeen": "faster", "some": "inconclusive"
    }  # fmt: skip
    for there, here in zip(forth.comparisons, back.comparisons, strict=True):
        assert known(there.ratio) * known(here.ratio) == pytest.approx(1)
        assert known(there.low) * known(here.high) == pytest.approx(1)
        assert here.verdict == OPPOSITE.get(there.verdict, there.verdict)
        assert (there.base_s, there.head_s) == (here.head_s, here.base_s)
    assert forth.exit_code() == back.exit_code() == 3


def test_a_short_time_is_held_to_the_floor(folder):
    a, b = folder("a", timed()), folder("b", timed(scale=1.2))
    (only,) = compare(a, b, floor_s=500e-6).comparisons
    assert only.verdict == "same"
    assert only.threshold == pytest.approx(500e-6 / known(only.base_s))
    (only,) = compare(a, b).comparisons
    assert only.verdict == "slower"
    assert only.threshold == 0.05
    assert 1.15 < known(only.low) < known(only.ratio) < known(only.high) < 1.25
    assert (only.rounds, only.calls) == (6, 300)


def test_a_folder_that_is_none_is_refused(folder, tmp_path):
    a = folder("a", timed())
    with pytest.raises(UsageError, match="is not a results folder"):
        compare(a, tmp_path)
    for pair, message in ((("", a), "base '' is empty"), ((a, " "), "head ' ' is empty")):
        with pytest.raises(UsageError, match=message):
            compare(*pair)


@pytest.mark.parametrize(
    ("fact", "value", "message"),
    [
        ("name", "Other CPU, 8 cores", "machine Test CPU, 2 cores, 8 GiB in .*a, Other CPU, 8 cores in .*b"),
        ("cpu_capability", "AVX512", "instruction set AVX2 in .*a, AVX512 in .*b"),
    ],
)
def test_other_machines_are_refused(folder, fact, value, message):
    a, other = folder("a", timed()), on(timed(), **{fact: value})
    with pytest.raises(UsageError, match=message):
        compare(a, folder("b", other))
    mixed = folder("mixed", [*timed("linear"), *other])
    for pair in ((a, mixed), (mixed, a)):
        with pytest.raises(UsageError, match=r"mixed holds records of several machines \(.* and "):
            compare(*pair)


def test_another_gpu_is_another_machine_and_none_is_no_fact(folder):
    card: dict[str, Any] = {"device": "cuda", "mechanism": "linear"}
    a = folder("a", [*timed(), *on(timed(**card), gpu="One")])
    b = folder("b", [*timed(), *on(timed(**card), gpu="Two")])
    assert set(verdicts(compare(a, folder("c", timed()))).values()) == {"same", "gone"}
    with pytest.raises(UsageError, match="GPU One in .*a, Two in .*b"):
        compare(a, b)


def test_trainings_are_not_compared_and_refuse_nothing(folder):
    trained = on(frames.accuracy_records(["vanilla"]), name="Other CPU, 8 cores")
    assert len(compare(folder("a", timed()), folder("b", [*timed(), *trained])).comparisons) == 1


def test_what_only_one_run_has_is_new_or_gone(folder):
    both, ours, theirs = timed(), timed("fastformer"), timed("linear")
    a, b = folder("a", [*both, *theirs]), folder("b", [*both, *ours])
    assert verdicts(compare(a, b)) == {"vanilla": "same", "fastformer": "new", "linear": "gone"}
    apart = compare(folder("c", theirs), folder("d", ours))
    assert verdicts(apart) == {"fastformer": "new", "linear": "gone"}
    assert apart.exit_code() == 5
    assert compare(folder("e", []), folder("f", [])).exit_code() == 5


@pytest.mark.parametrize(
    "change", [{"threads": 2}, {"device": "cuda"}, {"batch_size": 2}, {"dtype": "float64"}, {"layers": 2}]
)
def test_other_shapes_are_other_cells(folder, change):
    report = compare(folder("a", timed()), folder("b", timed(**change)))
    assert sorted(only.verdict for only in report.comparisons) == ["gone", "new"]


def test_other_seeds_and_sampling_times_are_the_same_cell(folder):
    report = compare(folder("a", timed()), folder("b", timed(seed=7, seconds=3.0, precision=0.1)))
    assert verdicts(report) == {"vanilla": "same"}


def test_failures_are_said_on_the_side_where_they_happened(folder):
    whole, broken = timed(), [failed(record) for record in timed()]
    some = [*timed()[:-1], failed(timed()[-1], "timeout", "60 s")]
    a, b, c = folder("a", whole), folder("b", broken), folder("c", some)
    seen = {
        pair: (only.verdict, only.reason)
        for pair in ((a, b), (b, a), (b, b), (a, c), (c, a))
        for only in compare(*pair).comparisons
    }
    assert seen[a, b] == ("failed", "crashed: signal 11")
    assert seen[b, a] == ("base-failed", "the base failed: crashed: signal 11")
    assert seen[b, b] == ("failed", "crashed: signal 11; so did the base")
    assert seen[a, c] == ("failed", "1 of 6 repeats: timeout: 60 s")
    assert seen[c, a] == ("same", ""), "five repeats of the base are enough to judge the head by"
    both = folder("d", [*whole, *timed("linear")])
    for strict in (False, True):
        for pair in ((a, b), (b, b), (both, b), (a, c)):
            assert compare(*pair).exit_code(strict=strict) == 6
        assert compare(b, a).exit_code(strict=strict) == 4, "the base did not run it: that is no pass"


def test_what_was_interrupted_is_as_if_it_was_not_asked_for(folder):
    stopped = [failed(record, "interrupted", "budget") for record in timed()]
    a, b = folder("a", timed()), folder("b", stopped)
    gone, new = compare(a, b).comparisons[0], compare(b, a).comparisons[0]
    assert (gone.verdict, new.verdict) == ("gone", "new")
    assert gone.reason == new.reason == "the other run was interrupted before it"
    assert compare(b, b).comparisons == ()
    assert compare(a, folder("c", [*timed()[:-1], stopped[-1]])).comparisons[0].verdict == "same"


@pytest.mark.parametrize(
    ("here", "there", "lacking"), [(1, 6, "base"), (6, 1, "head"), (1, 1, "base and head")]
)
def test_one_repeat_is_inconclusive_and_says_what_to_run(folder, here, there, lacking):
    report = compare(folder("a", timed(repeats=here)), folder("b", timed(scale=3.0, repeats=there)))
    (only,) = report.comparisons
    assert only.verdict == "inconclusive"
    assert only.reason == f"one repeat in {lacking}: run it again with --repeats 3 or more"
    assert only.ratio is None
    assert known(only.head_s) > 2 * known(only.base_s)
    assert report.exit_code() == 0


def test_cells_that_cannot_be_judged_spend_no_error(folder):
    a = folder("a", [*timed(), *timed("linear", repeats=1), *timed("gone")])
    b = folder("b", [*timed(), *timed("linear", repeats=1)])
    assert [each.error for each in compare(a, b, error=0.02).comparisons if each.error] == [0.02]


@pytest.mark.parametrize("side", ["base", "head"])
def test_a_busy_machine_is_unfit(folder, side):
    few = on(timed(), others_cores=BUSY_CORES)
    busy = on(timed(scale=2.0), others_cores=BUSY_CORES + 0.1)
    once = [*on(timed(scale=2.0)[:2], others_cores=2.0), *timed(scale=2.0)[2:]]  # the median is quiet
    pair = (busy, few) if side == "base" else (few, busy)
    (only,) = compare(folder("a", pair[0]), folder("b", pair[1])).comparisons
    assert only.verdict == "unfit"
    assert only.reason == f"other processes kept 0.6 cores busy while the {side} was measured"
    assert known(only.low) < known(only.ratio) < known(only.high), "what was seen is shown all the same"
    assert verdicts(compare(folder("c", few), folder("d", once))) == {"vanilla": "slower"}


def test_another_allocator_in_force_or_mixed_code_is_unfit(folder):
    a = folder("a", timed())
    plain = [replace(r, values={"allocator_in_force": "system (no mallopt)"}) for r in timed(scale=2.0)]
    (only,) = compare(a, folder("b", plain)).comparisons
    assert (only.verdict, "kept in the base, system (no mallopt) in the head" in only.reason) == (
        "unfit",
        True,
    )
    mixed = [replace(timed()[0], code="0.1.0-aaaaaaaa-cccccccc"), *timed()[1:]]
    (only,) = compare(folder("c", mixed), a).comparisons
    assert (only.verdict, "repeats of the base are of different code" in only.reason) == ("unfit", True)


# What is only noted.


def noted(report, text):
    return sum(text in note for note in report.notes) == 1


def test_the_same_code_is_taken_for_the_control_that_it_is(folder):
    other = [replace(r, code="0.1.0-aaaaaaaa-cccccccc") for r in timed("linear")]
    a = folder("a", [*timed(), *timed("linear")])
    report = compare(a, folder("b", [*timed(scale=1.3), *other]))
    assert noted(report, "1 of 2 configurations ran the same code in both: 1 of them are slower or faster")
    assert noted(report, "ratio of 1.300 comes from the machine")
    assert not noted(report, "effbench itself or torch")
    older = [replace(r, code="0.1.0-dddddddd-bbbbbbbb") for r in timed()]
    report = compare(a, folder("c", older))
    assert noted(report, "effbench itself or torch differs between the runs")
    assert not noted(report, "ran the same code")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"torch": "2.12.1"}, "torch: 2.13.0 in the base, 2.12.1 in the head"),
        ({"python": "3.12.1"}, "Python: 3.11.7 in the base, 3.12.1 in the head"),
        ({"load_1min": 2.5}, "the load average was 1.0 in the base, 2.5 in the head"),
        ({"frequency_hz": 2.2e9}, "the clock was 2e+09 Hz in the base, 2.2e+09 Hz in the head"),
        ({"steal_s": 0.05}, "stolen time was 0.0% of a core in the base, 5.0% of a core in the head"),
    ],
)
def test_what_else_differs_is_noted(folder, facts, message):
    base = on(timed(), frequency_hz=2e9, steal_s=0.0)
    a = folder("a", base)
    report = compare(a, folder("b", on(base, **facts)))
    assert noted(report, message)
    assert verdicts(report) == {"vanilla": "same"}
    assert set(facts) & {"torch", "python"} <= {"torch", "python"} - set(report.machine)
    assert not any(noted(compare(a, a), words) for words in ("the load", "the clock", "stolen", "torch:"))


def test_damaged_files_are_named(folder):
    a, b = folder("a", timed()), folder("b", timed())
    (b / "records" / "half.json").write_text('{"checksum"')
    report = compare(a, b)
    assert noted(report, "half.json: damaged")
    assert noted(report, "made at different times")
    assert verdicts(report) == {"vanilla": "same"}


# Exact figures.


def test_what_grows_beyond_one_unit_of_memory_fails_and_what_shrinks_does_not(folder):
    def report(**head):
        base: dict[str, Any] = {"peak_bytes": 1000, "saved_bytes": 500, "parameters": 64}
        return compare(
            folder("a", [*timed(), counted(**base)]), folder("b", [*timed(), counted(**base | head)])
        )

    assert report().exit_code() == 0
    assert report(peak_bytes=1064, saved_bytes=564).exit_code() == 0
    more = report(peak_bytes=1065, saved_bytes=499)
    assert {f.name: f.fails for f in more.figures} == {
        "peak_bytes": True, "saved_bytes": False, "parameters": False
    }  # fmt: skip
    assert more.exit_code() == 3
    assert report(parameters=65).exit_code() == 3
    assert report(peak_bytes=1, saved_bytes=1, parameters=1).exit_code() == 0


def test_another_torch_may_count_otherwise(folder):
    a = folder("a", [*timed(), counted("flops", flops=100, parameters=3), counted(parameters=3)])
    b = folder("b", [*timed(), *on([counted("flops", flops=101, parameters=3)], torch="2.12.1")])
    for pair in ((a, b), (b, a)):
        report = compare(*pair)
        assert [figure.name for figure in report.figures] == ["flops", "parameters"]
        assert not any(figure.fails for figure in report.figures)
        assert {"torch 2." in figure.detail for figure in report.figures} == {True}
        assert report.exit_code() == 0


def test_of_several_records_of_a_figure_the_newest_counts(folder):
    old, new = counted(peak_bytes=10), counted(peak_bytes=20)
    new = replace(new, cell=replace(new.cell, seed=1))
    for order in (("2026-01-01", "2026-01-02"), ("2026-01-02", "2026-01-01")):
        both = [replace(r, started=day) for r, day in zip((old, new), order, strict=True)]
        name = "".join(order)
        (figure,) = compare(folder(f"a{name}", [old]), folder(f"b{name}", both)).figures
        assert figure.head == (20 if order[1] > order[0] else 10)


def test_a_figure_that_could_not_be_had_says_why(folder):
    cell = counted(peak_bytes=10)
    a, b = folder("a", [cell]), folder("b", [failed(cell, "oom", "8 GiB")])
    (lost,) = compare(a, b).figures
    assert (lost.base, lost.head, lost.fails, lost.detail) == (10, None, False, "the head failed: oom: 8 GiB")
    (figure,) = compare(b, a).figures
    assert (figure.base, figure.head, figure.fails) == (None, 10, False)
    assert (compare(a, b).exit_code(), compare(b, a).exit_code()) == (6, 4)
    assert compare(a, folder("c", timed())).figures == ()
    broken = folder("d", [failed(cell)])
    (neither,) = compare(broken, broken).figures
    assert neither.detail == "the base failed: crashed: signal 11; the head failed: crashed: signal 11"
    assert compare(broken, broken).exit_code() == 6
    once = folder("e", [cell, replace(failed(cell), cell=replace(cell.cell, repeat=1))])
    assert compare(a, once).exit_code() == 6, "one of two repeats of the head failed"


def test_a_figure_that_only_one_run_knows_of(folder):
    old, new = counted(peak_bytes=10), counted(peak_bytes=10, saved_bytes=4)
    a, b = folder("a", [old]), folder("b", [new])
    assert [figure.name for figure in compare(a, b).figures] == ["peak_bytes"]
    assert compare(a, b).exit_code() == 0, "an older run did not count it"
    assert [figure.detail for figure in compare(b, a).figures] == ["", "the head has none"]
    assert compare(b, a).exit_code() == 6


@pytest.mark.parametrize("status", ["oom", "timeout", "unsupported", "skipped"])
def test_the_same_limit_in_both_runs_is_nothing_that_broke(folder, status):
    ended = [failed(record, status, "8 GiB") for record in (*timed("linear"), counted(peak_bytes=3))]
    both = folder("a", [*timed(), *ended])
    report = compare(both, both)
    assert verdicts(report) == {"vanilla": "same", "linear": "inconclusive"}
    assert report.comparisons[0].reason == f"in both runs: {status}: 8 GiB"
    assert (report.exit_code(), report.exit_code(strict=True)) == (0, 4)
    alone = folder("b", ended)
    assert compare(alone, alone).exit_code() == 5, "nothing was compared"
    other = folder("c", [failed(record, "crashed") for record in ended])
    assert compare(alone, other).exit_code() == 6


# The command.


def command(capsys, monkeypatch, *arguments: object):
    monkeypatch.setattr(sys, "argv", ["effbench", "compare", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_the_command_prints_the_report_and_ends_with_its_code(folder, capsys, monkeypatch):
    a, b = folder("a", timed()), folder("b", timed(scale=1.2))
    code, out, err = command(capsys, monkeypatch, a, b, "--format", "json")
    data = json.loads(out)
    assert (code, err) == (3, "")
    assert (data["schema"], data["kind"], data["comparisons"][0]["verdict"]) == (
        "effbench-gate-2", "compare", "slower"
    )  # fmt: skip
    assert (data["base"]["label"], data["head"]["label"], data["base"]["records"]) == (str(a), str(b), 6)
    assert command(capsys, monkeypatch, b, a, "--format", "json")[0] == 0
    options = ("--threshold", "30%", "--floor", "1.5us", "--format", "json", "--strict")
    code, out, _ = command(capsys, monkeypatch, a, b, *options)
    assert (code, json.loads(out)["settings"]) == (0, {"threshold": 0.3, "floor_s": 1.5e-6, "error": 0.01})
    once = folder("once", timed(repeats=1))
    assert command(capsys, monkeypatch, a, once, "--format", "json", "--strict")[0] == 4
    assert command(capsys, monkeypatch, a, folder("d", []), "--format", "json")[0] == 5


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["a", "nowhere"], "'nowhere' is not a results folder"),
        (["a", "a"], "BASE and HEAD are the same folder"),
        (["a", "a/../a"], "BASE and HEAD are the same folder"),
        (["a", "nowhere", "--plot", "no/such/folder.png"], "its folder is not there"),
        (["a", "nowhere", "--plot", "plot.jpg"], "does not end in .png"),
        (["a", "nowhere", "--threshold", ""], "--threshold is empty"),
        (["a", "nowhere", "--floor", ""], "--floor is empty"),
        (["a", "nowhere", "--format", ""], "--format is empty"),
        (["a", "a", "--threshold", "5"], "threshold '5' is not a share"),
        (["a", "a", "--floor", "little"], "'little' is not a time; write 10us"),
        (["a", "a", "--format", "csv"], "format 'csv' is not one of table, json, markdown"),
    ],
)
def test_wrong_usage_is_one_line(folder, capsys, monkeypatch, arguments, complaint):
    a = folder("a", timed())
    where = [str(a.parent / word) if word.startswith("a") else word for word in arguments]
    code, out, err = command(capsys, monkeypatch, *where)
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10us", 1e-5), ("10 µs", 1e-5), ("1.5ms", 1.5e-3), ("90s", 90), ("10m", 600), ("1h", 3600), ("2", 2)],
)
def test_short_times_are_read(text, seconds):
    assert parse_time_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["0us", "0", "-1ms", "10 us s", "ms", "10ns", ""])
def test_what_is_no_short_time_is_refused(text):
    with pytest.raises(UsageError, match="is not a time"):
        parse_time_s(text)

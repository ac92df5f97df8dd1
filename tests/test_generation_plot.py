"""The picture of sequence-to-sequence trainings: its points are the records' values, what lacks is named."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from frames import SIX, generation_records, raw

from effbench.common.spec import Status
from effbench.records.analyse.statistics import mean_interval
from effbench.records.analyse.summary import summarise
from effbench.show import plots
from effbench.show.palette import looks

LENGTHS = (128, 512, 2048)
FAILED: dict[tuple[str, int], Status] = {("vanilla", 2048): "oom", ("bigbird", 512): "timeout"}
PANELS = {"exact": "Test exact match", "encode_s": "Time to encode", "decode_tokens_per_s": "Greedy search"}


def drawn(records):
    frame = raw(records)
    ((name, figure),) = plots.draw(frame, frame, "generation")
    assert name == "generation"
    return figure


def panel(figure, title):
    (axes,) = [axes for axes in figure.axes if axes.get_title().startswith(title)]
    return axes


def line(axes, name):
    (found,) = [line for line in axes.lines if line.get_label() == name]
    return found


def values(records, mechanism, length, column):
    return [
        r.values[column]
        for r in records
        if (r.cell.mechanism, r.cell.seq_len, r.status) == (mechanism, length, "ok")
    ]


def without(records, *names, mechanism=None, length=None):
    """The records without values or samples of these names, of one mechanism or length if given."""
    return [
        r if mechanism not in (None, r.cell.mechanism) or length not in (None, r.cell.seq_len) else replace(
            r,
            values={name: value for name, value in r.values.items() if name not in names},
            samples={name: series for name, series in r.samples.items() if name not in names},
        )
        for r in records
    ]  # fmt: skip


@pytest.mark.parametrize("mechanism", ["vanilla", "fastformer"])
def test_points_are_the_means_over_seeds_and_bars_their_intervals(mechanism):
    records = generation_records(fail=FAILED)
    figure = drawn(records)
    for column, title in (("exact_match", PANELS["exact"]), *list(PANELS.items())[1:]):
        log = column != "exact_match"
        axes = panel(figure, title)
        (bars,) = [c for c in axes.collections if c.get_gid() == f"bars-{mechanism}"]
        points = dict(zip(LENGTHS, zip(*line(axes, mechanism).get_data(), strict=True), strict=True))
        for length, bar in zip(LENGTHS, bars.get_segments(), strict=False):
            x, y = points[length]
            found = values(records, mechanism, length, column)
            assert x == pytest.approx(length, rel=0.04)
            if not found:
                assert math.isnan(y), "a line has a gap where all seeds failed"
                continue
            mean, low, high = mean_interval([math.log(v) if log else v for v in found])
            assert y == pytest.approx(math.exp(mean) if log else mean)
            assert bar[:, 1] == pytest.approx(np.exp([low, high]) if log else [max(0, low), min(1, high)])
            assert axes.get_ylim()[0] < y < axes.get_ylim()[1]


def test_speeds_of_a_beam_are_those_at_the_longest_length_that_most_mechanisms_have():
    records = generation_records(("vanilla", "linear", "fnet"), fail=FAILED)
    axes = panel(drawn(records), "Beam search at N = 2048")
    assert {line.get_label() for line in axes.lines} == {"linear", "fnet"}
    mine = [r for r in records if r.cell.mechanism == "linear" and r.cell.seq_len == 2048]
    expected = np.exp(np.mean([np.log(r.samples["width_tokens_per_s"]) for r in mine], axis=0))
    assert line(axes, "linear").get_ydata() == pytest.approx(expected)
    assert line(axes, "linear").get_xdata() == pytest.approx([1, 2, 5, 10], rel=0.04)
    fewer = without(records, "width_tokens_per_s", mechanism="fnet", length=2048)
    figure = drawn(fewer)  # one of three has them at the longest length
    assert {line.get_label() for line in panel(figure, "Beam search at N = 512").lines} == {
        "vanilla", "linear", "fnet",
    }  # fmt: skip


def test_baselines_follow_the_length_and_are_named_with_their_value_at_the_longest():
    axes = panel(drawn(generation_records()), PANELS["exact"])
    (first,) = [line for line in axes.lines if line.get_gid() == "baseline-first tokens"]
    assert first.get_ydata() == pytest.approx([64 / 128, 64 / 128, 64 / 512, 64 / 2048, 64 / 2048])
    assert {"first tokens 3.1 %", "majority 2 %"} <= {text.get_text() for text in axes.texts}


def test_what_has_no_point_is_named_with_the_reason():
    records = generation_records([name for name in (*SIX, "fnet") if name != "linear"], fail=FAILED)
    records += generation_records(("linear",), lengths=(128,))
    records = without(records, "encode_s", mechanism="longformer")
    records = without(records, "beam_width", mechanism="linformer", length=2048)
    figure = drawn(records)
    caption = " ".join(figure.get_suptitle().split())
    for words in (
        "vanilla at 2048 tokens (oom)",
        "bigbird at 512 tokens (timeout)",
        "longformer (no time to encode recorded)",
        "linformer at 2048 tokens (no speed of beam search recorded)",
        "linear at 2048 tokens (not measured)",
        "x at the upper edge: failed (oom, timeout)",
    ):
        assert words in caption
    assert "fastformer" not in caption
    for title in PANELS.values():
        marks = [m for m in panel(figure, title).lines if str(m.get_gid()).startswith("failed-")]
        assert len(marks) == 2


def test_a_length_at_which_one_seed_failed_has_the_point_of_the_others():
    records = generation_records(("vanilla",))
    first = records.index(next(r for r in records if r.cell.seq_len == 2048))
    records[first] = replace(records[first], status="oom", values={}, samples={})
    figure = drawn(records)
    y = line(panel(figure, PANELS["exact"]), "vanilla").get_ydata()[-1]
    assert y == pytest.approx(np.mean(values(records, "vanilla", 2048, "exact_match")))
    assert "oom" not in figure.get_suptitle()


@pytest.mark.parametrize(
    ("lost", "gone"),
    [
        (("encode_s",), "Time"),
        (("decode_tokens_per_s",), "Greedy"),
        (("beam_width", "width_tokens_per_s"), "Beam"),
    ],
)
def test_a_panel_without_values_is_left_out(lost, gone):
    every, fewer = (
        [axes.get_title().replace("\n", " ") for axes in drawn(records).axes]
        for records in (generation_records(), without(generation_records(), *lost))
    )
    assert len(every) == 4
    assert fewer == [title for title in every if not title.startswith(gone)]


def test_one_length_and_one_seed_are_points_beside_each_other():
    figure = drawn(generation_records(lengths=(512,), seeds=1, beams=()))
    for axes in figure.axes:
        found = [line for line in axes.lines if not line.get_gid()]
        places = [float(line.get_xdata()[0]) for line in found]
        assert len(set(places)) == len(found) == 6
        assert min(places) > axes.get_xlim()[0]
        assert max(places) < axes.get_xlim()[1]
    assert "one seed: no confidence interval" in figure.get_suptitle()


def test_the_order_of_records_changes_nothing(tmp_path):
    records = generation_records(fail=FAILED)
    shuffled = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    files = [
        plots.save(drawn(each), tmp_path / f"{place}.svg").read_bytes()
        for place, each in enumerate((records, shuffled))
    ]
    assert files[0] == files[1]
    styles = looks(raw(records))
    for axes in drawn(shuffled).axes:
        for name in styles:
            for found in [line for line in axes.lines if line.get_label() == name]:
                assert (found.get_color(), found.get_marker()) == (
                    styles[name]["color"],
                    styles[name]["marker"],
                )


def test_each_task_and_setting_has_a_figure_and_lengths_may_differ_in_batch_size():
    records = [r for n in LENGTHS for r in generation_records(lengths=(n,), batch_size=8192 // n)]
    assert line(panel(drawn(records), "Time"), "linear").get_xdata() == pytest.approx(LENGTHS, rel=0.04)
    other = generation_records(task="summarization") + generation_records(d_model=128)
    frame = raw(records, other)
    assert [name for name, _ in plots.draw(frame, frame, "generation")] == [
        f"generation-{place}" for place in (1, 2, 3)
    ]


def test_it_is_drawn_by_itself_where_there_is_data():
    frame = raw(generation_records(("vanilla", "linear"), seeds=2))
    assert "generation" in [name for name, _ in plots.draw_all(summarise(frame), frame)]

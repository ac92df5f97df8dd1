"""Tables and plots: what they say is what the frame holds; nothing is hidden, nothing claimed beyond it."""

from __future__ import annotations

import io
import itertools
import json
from functools import cache
from typing import Any

import frames
import numpy as np
import pandas as pd
import pytest
from frames import SIX, Failures, accuracy_records, cost_records, raw
from rich.console import Console

from effbench.common.spec import UsageError
from effbench.records.analyse.complexity import exponents
from effbench.records.analyse.crossover import crossovers
from effbench.records.analyse.summary import summarise
from effbench.records.analyse.winners import fastest, in_words
from effbench.show import plots, tables, units
from effbench.show.blocks import FORMATS, as_text, renderable
from effbench.show.complexity_tables import complexity_blocks
from effbench.show.look import NothingToDraw
from effbench.show.overview import overview

FAILS: Failures = {
    ("vanilla", "train", 4096): ("oom", "out of memory within 1 GiB"),
    ("bigbird", "forward", 2048): ("timeout", "still running after 60 s"),
    ("linear", "train", 128): ("crashed", "SIGSEGV"),
}
LONG = [f"my_package.mechanisms:Attention{i}" for i in range(12)]
# As few lengths and mechanisms as each frame needs to show its case; "six" is the usual one.
FEW = (128, 512, 2048)
RAWS = {
    "six": raw(cost_records(), accuracy_records()),
    "failures": raw(cost_records(("vanilla", "bigbird", "linear"), (128, 512, 2048, 4096), fail=FAILS)),
    "one length": raw(cost_records(lengths=(512,)), accuracy_records(SIX[:3], lengths=(128, 256, 512))),
    "one mechanism": raw(cost_records(("vanilla",), FEW), accuracy_records(("vanilla",), seeds=1)),
    "twelve": raw(
        cost_records(LONG, FEW, repeats=2, options={"window": 128, "global_tokens": 3}),
        accuracy_records(LONG),
    ),
    "two shapes": raw(
        cost_records(SIX[:2], (128, 512)), cost_records(SIX[:2], (128, 512), batch_size=3),
        accuracy_records(SIX[:2]), accuracy_records(SIX[:2], task="imdb"),
    ),
    "long task": raw(
        accuracy_records(SIX[:2], task="listops:dropout=0.0,epochs=3,lr=0.003,max_args=3,max_depth=3"),
        accuracy_records(
            SIX[:2], lengths=(64, 128), task="listops:" + ",".join(f"option{i}={i}" for i in range(20))
        ),
    ),
    "forward only": raw(cost_records(SIX[:3], FEW, modes=("forward",))),
    "all failed": raw(cost_records(("vanilla",), (128, 256), fail={
        ("vanilla", mode, n): ("crashed", "no") for mode in ("forward", "train") for n in (128, 256)})),
}  # fmt: skip
every_frame = pytest.mark.parametrize("name", RAWS)


@cache
def summary(name: str) -> pd.DataFrame:
    return summarise(RAWS[name])


draw = plots.draw


@cache  # the figures are only looked at
def figures(name: str, kind: str) -> dict[str, Any]:
    return dict(draw(summary(name), RAWS[name], kind))


def nothing_to_draw(name: str, kind: str) -> str:
    try:
        figures(name, kind)
    except NothingToDraw as error:
        return str(error)
    return ""


def report(frame: pd.DataFrame, raw: pd.DataFrame | None = None):
    return renderable(overview(frame, raw))


def text_of(what, width=100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(what)
    return out.getvalue()


@every_frame
def test_csv_and_json_hold_the_frame(name):
    frame = summary(name)
    csv = pd.read_csv(io.StringIO(tables.render(frame, "csv")), keep_default_na=False, na_values=[""])
    assert list(csv.columns) == list(frame.columns)
    rows = json.loads(tables.render(frame, "json"))
    assert len(csv) == len(rows) == len(frame)
    for column in ("time_s", "peak_bytes", "accuracy"):
        values = frame[column].to_numpy(dtype=float)
        np.testing.assert_array_equal(csv[column].to_numpy(dtype=float), values)
        np.testing.assert_array_equal([np.nan if r[column] is None else r[column] for r in rows], values)
    assert [row["status"] for row in rows] == list(frame["status"])


@every_frame
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_shows_every_row(name, format):
    small = ("one mechanism", "long task", "all failed")
    for frame in [summary(name), *([RAWS[name]] if name in small else [])]:
        text = tables.render(frame, format)
        for mechanism in set(frame["mechanism"]):
            assert mechanism.replace("_", r"\_") in text if format == "latex" else mechanism in text


def test_markdown_and_latex_have_a_line_a_row_and_escape():
    frame = summarise(raw(cost_records(("a_b|c&d",), (128, 256), modes=("forward",))))
    markdown = tables.render(frame, "markdown").splitlines()
    assert sum("a_b\\|c&d" in line for line in markdown) == 2
    latex = tables.render(frame, "latex")
    assert latex.count(r"a\_b|c\&d") == 2
    assert r"\toprule" in latex
    with pytest.raises(UsageError, match="format 'xls' is not one of table, csv"):
        tables.render(frame, "xls")


@every_frame
def test_the_summary_fits_100_columns_and_names_every_failure(name):
    frame = summary(name)
    text = text_of(report(frame))
    assert max(len(line) for line in text.splitlines()) <= 100
    for row in frame[frame.status != "ok"].itertuples():
        assert f"{row.status}: {row.mechanism}" in text
        assert row.reason.split(":")[-1].strip()[:20] in text


def test_a_winner_is_claimed_only_where_intervals_part():
    frame = summary("six")
    rows = frame[(frame["mode"] == "forward") & (frame["seq_len"] == 512) & (frame.task == "")].copy()
    rows["time_s"] = [1.0, 1.02, 2.0, 2.0, 2.0, 2.0]
    rows["time_ratio"] = rows["time_s"]
    rows["time_ratio_low"] = [1.0, 1.005, 1.9, 1.9, 1.9, 1.9]
    rows["time_ratio_high"] = rows["time_ratio"] ** 2 / rows["time_ratio_low"]
    assert len(fastest(rows)) == 1
    rows["time_ratio_low"] = [1.0, 0.99, 1.9, 1.9, 1.9, 1.9]
    rows["time_ratio_high"] = rows["time_ratio"] ** 2 / rows["time_ratio_low"]
    names = fastest(rows)
    assert len(names) == 2
    assert "are fastest at 512, without a significant difference" in in_words(rows)
    assert text_of(report(rows)).count("*") == 2
    joined = pd.concat([rows, rows.assign(folder="other")], ignore_index=True)
    joined["time_low_s"], joined["time_high_s"] = joined["time_s"] * 0.99, joined["time_s"] * 1.005
    assert set(fastest(joined)) == {names[0]}, "without pairs the intervals decide"


def test_words_join_lengths_with_the_same_answer():
    frame = summarise(raw(cost_records(("vanilla", "fastformer"), (64, 128, 256), noise=0.0)))
    words = in_words(frame[frame["mode"] == "forward"])
    assert words == "vanilla is fastest at 64; fastformer is fastest from 128 to 256"


def test_mixed_code_and_machines_are_said_and_plugins_of_their_own_are_not():
    def summary(**changes) -> str:
        mixed = raw(cost_records(("vanilla", "linear"), (128, 512), repeats=1, modes=("forward",)))
        for column, value in changes.items():
            mixed.loc[mixed.mechanism == "linear", column] = value
        return text_of(report(summarise(mixed)))

    assert "Warning: measured by 2 versions of effbench" in summary(code="0.1.0-cccc-bbbb")
    assert "Warning: measured on 2 machines" in summary(machine="Other CPU")
    assert "Warning" not in summary(code="0.1.0-aaaa-dddd"), "a mechanism has sources of its own"
    changed = raw(cost_records(("vanilla",), (128, 512), repeats=1, modes=("forward",)))
    changed.loc[changed.seq_len > 128, "code"] = "0.1.0-aaaa-dddd"
    assert "Warning: vanilla was measured in 2 versions of its own" in text_of(report(summarise(changed)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.seconds(0.00321), "3.21 ms"),
        (units.seconds(0.0999999), "100 ms"),
        (units.seconds(12.34), "12.3 s"),
        (units.size(7 * 2**20), "7.00 MiB"),
        (units.size(0), "0"),
        (units.count(1.23e9, "FLOP"), "1.23 GFLOP"),
        (units.share(0.875), "87.5 %"),
        (units.length(4096), "4k"),
        (units.length(1000), "1000"),
    ],
)
def test_units(text, expected):
    assert text == expected


@every_frame
def test_every_kind_draws_what_there_is(name):
    for kind in plots.KINDS:
        if reason := nothing_to_draw(name, kind):
            assert reason.startswith(f"there is nothing to draw for {kind}: ")
        else:
            assert {each.split("-")[0] for each in figures(name, kind)} == {kind}
    with pytest.raises(UsageError, match="kind 'pie' is not one of"):
        plots.draw(summary(name), RAWS[name], "pie")


def test_all_kinds_are_those_that_there_is_data_for(monkeypatch):
    monkeypatch.setattr(
        plots, "draw", lambda frame, raw, kind, inches: list(figures("two shapes", kind).items())
    )
    drawn = [each for each, _ in plots.draw_all(summary("two shapes"), RAWS["two shapes"])]
    costs, scores = ("time", "tokens", "memory", "flops"), ("accuracy", "tradeoff", "bubble")
    assert drawn == [f"{kind}-{number}" for kind in (*costs, *scores) for number in (1, 2)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *itertools.product(("six", "one length", "one mechanism"), ("time", "accuracy")),
        *itertools.product(("failures", "forward only", "twelve"), ("time",)),
        *itertools.product(("twelve", "long task"), ("accuracy", "tradeoff")),
    ],
)
def test_no_legend_covers_data_and_no_title_is_cut(name, kind):
    for figure in figures(name, kind).values():
        figure.draw_without_rendering()
        width, height = figure.bbox.size
        title = figure._suptitle.get_window_extent()
        assert title.x0 >= 0
        assert title.x1 <= width
        for axes in figure.axes:
            legend = axes.get_legend()
            if legend is not None:
                box = legend.get_window_extent()
                assert not box.overlaps(axes.get_window_extent())
                assert box.x0 >= -2
                assert box.x1 <= width + 2
                assert 0 <= box.y0 < height


def test_each_failure_is_a_cross_at_the_upper_edge():
    (figure,) = figures("failures", "time").values()
    crosses = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "x"]
    assert sorted(line.get_gid() for line in crosses) == ["failed-crashed", "failed-oom", "failed-timeout"]
    assert all(line.get_ydata()[0] > 0.95 for line in crosses)
    assert "oom" in figure.get_suptitle()


def test_slopes_are_in_the_legend():
    (figure,) = figures("six", "flops").values()
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "vanilla  $N^{2.00}$" in labels
    assert len(labels) == len(SIX)


def test_growth_beyond_what_is_declared_is_in_the_legend():
    records = raw(cost_records(("vanilla", "linear"), modes=("forward",), noise=0.002))
    records["declared_order"] = "N"
    ((_, figure),) = plots.draw(summarise(records), records, "time")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    labels = {t.get_text().split("  ")[0]: t.get_text() for t in legend.get_texts()}
    assert labels["vanilla"].endswith("(declared N)")
    assert "declared" not in labels["linear"]


@pytest.mark.parametrize(("rivals", "marks"), [("abc", 3), ("abcd", 0)])
def test_crossovers_are_marked_only_where_they_are_few(rivals, marks, monkeypatch):
    monkeypatch.setattr(frames, "ORDER", dict.fromkeys(rivals, 2.0))
    records = raw(cost_records((*rivals, "linear"), (32, 64, 128, 256, 512), modes=("forward",), noise=1e-3))
    assert crossovers(records)["crossover"].notna().sum() == len(rivals)
    ((_, figure),) = plots.draw(summarise(records), records, "time")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    found = [text.get_text() for text in legend.get_texts() if "faster" in text.get_text()]
    assert [text.rpartition(" from ")[0] for text in sorted(found)] == [
        f"linear faster than {name}" for name in rivals[:marks]
    ]
    lengths = [float(text.rpartition(" ")[2]) for text in found]
    assert lengths == sorted(lengths), "in the order in which the lines are met"
    assert all(32 < length < 512 for length in lengths)


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_saving_is_by_suffix_and_repeatable(tmp_path, monkeypatch, suffix, magic):
    monkeypatch.setattr(plots, "DPI", 40)
    written = []
    for attempt in ("a", "b"):
        ((_, figure),) = plots.draw(summary("forward only"), RAWS["forward only"], "memory")
        path = plots.save(figure, tmp_path / attempt / f"memory{suffix}")
        written.append(path.read_bytes())
    assert written[0].startswith(magic)
    assert written[0] == written[1]
    with pytest.raises(UsageError, match="does not end in .png, .svg, .pdf"):
        plots.save(figure, tmp_path / "memory.gif")


def without(probe: str, mechanism: str, lengths=(128, 256, 512)) -> pd.DataFrame:
    """Two mechanisms, forward; one of them could not run one of its probes."""
    frame = raw(cost_records(("vanilla", "fastformer"), lengths, modes=("forward",)))
    lost = (frame["probe"] == probe) & (frame["mechanism"] == mechanism)
    frame.loc[lost, ["status", "reason"]] = ["timeout", "slow"]
    frame.loc[lost, ["time_s", "peak_bytes", "flops"]] = np.nan
    return frame


def test_the_fastest_stays_the_fastest_when_another_probe_of_it_failed():
    rows = summarise(without("memory", "fastformer"))
    assert in_words(rows) == "fastformer is fastest from 128 to 512"


def test_a_length_that_nobody_reached_is_not_bridged():
    fails: Failures = {(m, "forward", 256): ("crashed", "no") for m in ("vanilla", "fastformer")}
    records = cost_records(
        ("vanilla", "fastformer"), (128, 256, 512), fail=fails, modes=("forward",), noise=0.0
    )
    assert "no winner is named at 256: no mechanism was timed" in in_words(summarise(raw(records)))


def test_each_machine_has_tables_of_its_own():
    here = raw(cost_records(("vanilla", "linear"), (128, 256)))
    there = here.assign(machine="Other CPU")
    text = text_of(report(summarise(pd.concat([here, there], ignore_index=True))))
    assert text.count("forward: time per call") == 2


def test_long_labels_are_shown_whole():
    text = text_of(report(summary("twelve")), 80)
    assert "…" not in text


def test_a_line_break_in_a_value_cannot_leave_a_latex_comment():
    fails: Failures = {
        ("vanilla", mode, n): ("crashed", "a\nb") for mode in ("forward", "train") for n in (128, 256)
    }
    latex = tables.render(summarise(raw(cost_records(("vanilla",), (128, 256), fail=fails))), "latex")
    assert "% reason: a b" in latex.splitlines()


def test_a_measured_value_has_no_cross_and_a_failed_panel_stays():
    frame = without("time", "fastformer")
    ((_, figure),) = plots.draw(summarise(frame), frame, "memory")
    assert not [line for axes in figure.axes for line in axes.lines if line.get_marker() == "x"]
    fails: Failures = {("vanilla", "train", n): ("oom", "no") for n in (128, 256)}
    frame = raw(cost_records(("vanilla",), (128, 256), fail=fails))
    ((_, figure),) = plots.draw(summarise(frame), frame, "time")
    assert [axes.get_title() for axes in figure.axes] == ["forward", "train"]


def test_memory_is_read_in_bytes_and_zeros_do_not_break_a_plot():
    (figure,) = figures("forward only", "memory").values()
    figure.draw_without_rendering()
    assert any("iB" in tick.get_text() for tick in figure.axes[0].get_yticklabels())
    frame = raw(cost_records(SIX[:2], FEW, repeats=1, modes=("forward",)), accuracy_records(SIX[:2]))
    frame.loc[frame["probe"] == "flops", "flops"] = 0.0
    ((_, figure),) = plots.draw(summarise(frame), frame, "flops")
    figure.draw_without_rendering()
    frame["peak_bytes"] = np.nan
    with pytest.raises(UsageError, match="nothing to draw for tradeoff"):
        plots.draw(summarise(frame), frame, "tradeoff")


def test_noisy_times_are_marked_in_tables_and_hollow_in_plots():
    frame = raw(cost_records(("vanilla", "linear"), (128, 256, 512, 1024), noise=0.0))
    frame.loc[(frame["mechanism"] == "linear") & (frame["seq_len"] == 512), "trend"] = 0.3
    rows = summarise(frame)
    text = text_of(report(rows, frame))
    assert text.count("~") == 4, "in the cell and in the sentence, forward and train"
    assert "linear at 512: slows down by 30 % while it runs" in text
    ((_, figure),) = plots.draw(rows, frame, "time")
    filled = [c for axes in figure.axes for c in axes.collections if len(c.get_facecolor())]
    offsets = [np.asarray(c.get_offsets()) for c in filled]
    assert [xy[:, 0].tolist() for xy in offsets if xy.size and xy.shape[1] == 2].count([512.0]) == 2


CEILING: dict[str, Any] = {
    "peak_flops_per_s": 1e14,
    "samples_bandwidth_at_bytes": [1e6, 1e9],
    "samples_bandwidth_bytes_per_s": [1e13, 1e12],
}


def with_ceiling(frame):
    """The frame as if its FLOPs cells held bytes moved and the machine's ceiling."""
    flops = frame["probe"] == "flops"
    frame.loc[flops, "bytes_moved"] = frame.loc[flops, "seq_len"] * 1e4
    frame["peak_flops_per_s"] = np.where(flops, CEILING["peak_flops_per_s"], np.nan)
    for name in ("samples_bandwidth_at_bytes", "samples_bandwidth_bytes_per_s"):
        frame[name] = [CEILING[name] if each else None for each in flops]
    return frame


def test_the_roofline_shows_every_point_under_its_roof():
    frame = with_ceiling(raw(cost_records(lengths=FEW, repeats=1)))
    rows = summarise(frame)
    assert rows.roof_share.notna().all()
    ((name, figure),) = plots.draw(rows, frame, "roofline")
    assert name == "roofline"
    figure.draw_without_rendering()
    assert [axes.get_title() for axes in figure.axes] == ["forward", "train"]
    for axes in figure.axes:
        drawn = {series.get_label(): series for series in axes.lines}
        assert set(SIX) <= set(drawn)
        low, high = axes.get_ylim()
        for mechanism in SIX:
            points = np.asarray(drawn[mechanism].get_ydata())
            assert len(points) == 3
            assert (low < points).all()
            assert (points < high).all()
    forward = frame[frame["mode"] == "forward"]
    ((_, figure),) = plots.draw(rows[rows["mode"] == "forward"], forward, "roofline")
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.size[0]
    with pytest.raises(UsageError, match="nothing to draw for roofline: no row has a value of roof_share"):
        plots.draw(summary("six"), RAWS["six"], "roofline")


def test_contradictions_and_a_changing_machine_are_said():
    frame = with_ceiling(raw(cost_records(("vanilla", "linear"), (128, 512, 4096), noise=0.001)))
    frame["flops_analytic"] = frame["flops"]
    assert "Warning" not in text_of(report(summarise(frame), frame))
    wrong = frame.copy()
    wrong.loc[(wrong["mechanism"] == "linear") & (wrong["mode"] == "train"), "flops_analytic"] *= 2
    text = text_of(report(summarise(wrong), wrong), 400)
    assert "linear declares 25.6 M FLOPs for train at 128, 12.8 M were counted (3 lengths differ)" in text
    unseen = frame.copy()
    train = (unseen["mechanism"] == "linear") & (unseen["mode"] == "train")
    unseen.loc[train & (unseen["probe"] == "flops"), "flops_left_out"] = "mine::attend (2 calls)"
    unseen.loc[train & (unseen["probe"] == "memory"), "memory_left_out"] = "other processes (1 call)"
    text = text_of(report(summarise(unseen), unseen), 400)
    where = "at 4096 and 2 shorter lengths"
    assert f"Warning: linear, train: FLOPs without mine::attend (2 calls) {where}" in text
    assert f"Warning: linear, train: peak memory without other processes (1 call) {where}" in text
    assert text.count("Warning") == 2
    slow = frame.copy()
    slow["others_cores"], slow["seconds"], slow["started"] = 1.0, 1.0, "2026-01-01T10:00:00+00:00"
    late = (slow["repeat"] == 2) & (slow["probe"] == "time")
    slow.loc[late, "time_s"] *= 1.1
    slow.loc[late, "samples_time_s"] = slow.loc[late, "samples_time_s"].map(lambda s: [1.1 * t for t in s])
    text = text_of(report(summarise(slow), slow), 400)
    assert "repeat 3 (10:00 to 10:00 UTC) was 10 % slower than the others, over 12 cells" in text
    assert "other processes kept 1.0 cores busy" in text


def test_one_repeat_names_no_winner_and_one_mechanism_has_no_contest():
    frame = summarise(raw(cost_records(SIX[:3], FEW, repeats=1)))
    text = text_of(report(frame))
    assert "*" not in text
    assert "forward: no winner is named from 128 to 2048: one repeat has no confidence interval." in text
    assert frame[["time_low_s", "time_high_s"]].isna().all().all()
    assert frame.loc[frame["time_ratio"] != 1, "time_ratio_low"].isna().all()
    alone = text_of(report(summarise(raw(cost_records(("vanilla",), FEW)))))
    assert "fastest" not in alone
    assert "winner" not in alone
    assert "*" not in alone


def test_every_noisy_time_is_counted_and_its_other_reasons_are_named():
    frame = summarise(raw(cost_records(("linear", "vanilla"), (128, 256), modes=("forward",))))
    wide, drift = "± 12.0 %, target ± 5 %", "slows down by 9 % while it runs"
    frame["noisy"] = [wide, f"± a factor of 2 or more, target ± 5 %; {drift}", drift, ""]
    text = " ".join(as_text(overview(frame), "markdown").split())
    assert (
        "forward: 3 of 4 times are noisy (~); 2 intervals too wide: median ± a factor of 2 or more, worst "
        "± a factor of 2 or more, target ± 5 %." in text
    )
    names = [f"{row.mechanism} at {row.seq_len}" for row in frame.iloc[[1, 2]].itertuples()]
    assert f"forward: noisy (~): {', '.join(names)}: {drift}." in text
    frame["noisy"] = [wide, "", "", ""]
    text = " ".join(as_text(overview(frame), "markdown").split())
    assert "forward: 1 of 4 times is noisy (~): median ± 12 %, worst ± 12 %, target ± 5 %." in text


def test_an_exponent_that_noise_hides_is_not_printed():
    frame = raw(cost_records(("vanilla",), (128, 256, 512), modes=("forward",), noise=0.0))
    for place, factor in ((0, 1.0), (1, 9.0), (2, 0.1)):  # each repeat of the longest length says otherwise
        wild = (frame["probe"] == "time") & (frame["seq_len"] == 512) & (frame["repeat"] == place)
        frame.loc[wild, "time_s"] *= factor
        frame.loc[wild, "samples_time_s"] = frame.loc[wild, "samples_time_s"].map(
            lambda series, factor=factor: [factor * value for value in series]
        )
    (row,) = exponents(frame, "time_s").itertuples()
    assert row.statement.startswith(
        "vanilla, forward: the growth from 128 to 512 is not known (95 % interval"
    )
    assert "| not known" in as_text(complexity_blocks(frame), "markdown")
    ((_, figure),) = plots.draw(summarise(frame), frame, "time")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["vanilla  $N^?$"]
    assert "N^?: not known" in figure.get_suptitle()


@pytest.mark.parametrize("spread", [0.01, 0.05, 0.25, 0.6])
def test_an_exponent_is_named_only_where_its_interval_is_narrower_than_half(spread):
    frame = raw(cost_records(("vanilla",), (128, 256, 512), modes=("forward",), noise=0.0))
    frame["declared_order"] = "N"
    for repeat, factor in enumerate((1 - spread, 1.0, 1 + spread)):
        mine = (frame["probe"] == "time") & (frame["seq_len"] == 512) & (frame["repeat"] == repeat)
        frame.loc[mine, "samples_time_s"] = frame.loc[mine, "samples_time_s"].map(
            lambda series, factor=factor: [factor * value for value in series]
        )
        frame.loc[mine, "time_s"] *= factor
    (row,) = exponents(frame, "time_s").itertuples()
    named = row.exponent_high - row.exponent_low < 0.5
    assert named == (spread < 0.1), "both cases are tried"
    ((_, figure),) = plots.draw(summarise(frame), frame, "time")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    drawn = legend.get_texts()[0].get_text()
    table = complexity_blocks(frame)[0].rows[0][1]
    for text in (row.statement, drawn, table):
        assert (f"{row.exponent:.2f}" in text) == named
    if row.verdict == "grows faster":  # what is known is still said
        assert "(declared N)" in drawn
        assert "faster than declared" in row.statement


def test_one_length_is_drawn_as_bars_with_their_intervals_sorted_by_value():
    for kind, column in (("time", "time_s"), ("memory", "peak_bytes"), ("flops", "flops")):
        (figure,) = figures("one length", kind).values()
        assert [axes.get_title() for axes in figure.axes] == ["forward", "train"]
        assert all("at 512 tokens" in axes.get_xlabel() for axes in figure.axes)
        rows = summary("one length")
        for axes in figure.axes:
            mine = rows[(rows["mode"] == axes.get_title()) & rows[column].notna() & (rows["task"] == "")]
            values = dict(zip(mine["mechanism"], mine[column], strict=True))
            bars = {bar.get_gid().removeprefix("bar-"): bar for bar in axes.patches}
            assert {name: bar.get_width() for name, bar in bars.items()} == pytest.approx(values)
            if axes is figure.axes[0]:  # the others have the same rows
                names = [text.get_text() for text in axes.get_yticklabels()]
                assert sorted(names) == sorted(SIX)
                assert [values[name] for name in names] == sorted(values.values(), reverse=True)
            if kind == "time":
                ends = {tuple(segment[:, 0]) for c in axes.collections for segment in c.get_segments()}
                assert ends == set(zip(mine["time_low_s"], mine["time_high_s"], strict=True))


def test_a_failure_has_its_status_in_the_place_of_a_bar():
    fails = raw(cost_records(SIX[-2:], (512,), fail={("linear", "train", 512): ("oom", "no")}))
    ((_, figure),) = plots.draw(summarise(fails), fails, "time")
    assert len(figure.axes[1].patches) == 1
    assert "oom" in [text.get_text() for text in figure.axes[1].texts]


def test_scores_at_one_length_are_dots_and_their_baselines_rows():
    one = raw(accuracy_records(lengths=(128,)))
    ((_, figure),) = plots.draw(summarise(one), one, "accuracy")
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert {"majority", "root operator"} < set(names)


def test_long_labels_of_dots_are_wrapped_and_leave_the_axis_its_width():
    options = ",".join(f"{name}=64" for name in ("folder", "pieces", "query", "tuned", "user", "window"))
    frame = raw(accuracy_records(("vanilla", "linear"), lengths=(128,))).assign(options=options)
    ((_, figure),) = plots.draw(summarise(frame), frame, "accuracy")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert min(box.x0 for box in boxes) >= 0
    names = {text.get_text().replace("\n", "") for text in axes.get_yticklabels()}
    assert {f"vanilla:{options}", f"linear:{options}", "majority", "root operator"} == names
    assert axes.get_window_extent().width > 3 * figure.dpi


@pytest.mark.parametrize("format", ["csv", "json", "markdown", "latex"])
def test_the_summary_has_every_format(format):
    text = as_text(overview(summary("failures"), RAWS["failures"]), format)
    for name in ("vanilla", "bigbird", "linear"):
        assert name in text
    assert "oom" in text
    if format == "latex":
        widest = max(line.count("&") for line in text.splitlines())
        assert widest <= 12, "no column for each of a record's values"
        assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") >= 6
    if format == "json":
        assert {"title", "columns", "rows", "notes", "warnings"} == set(json.loads(text)[0])

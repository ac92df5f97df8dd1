"""No text of a figure is over another or outside the figure: of committed results, on every page."""

from __future__ import annotations

from functools import cache

import frames
import pandas as pd
import pytest
from figure_texts import RESULTS, drawn_texts, mistakes
from frames import cost_records, raw
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import effbench
from effbench.common.spec import Option
from effbench.records.analyse.summary import summarise
from effbench.show import plots
from effbench.show.plots.sheet import Sheet

# Each kind that the committed results have data for, from folders that are quick to summarise. The widths
# take turns: the full check is tests/figure_texts.py.
OF_SUMMARY = (
    ("fastformers", "time", 6.9),
    ("fastformers", "roofline", 3.3),
    ("decode", "decode", 3.3),
    ("decode", "prefill", None),
    ("copying-mini", "tradeoff", 3.3),
    ("paper-sharing-mini", "accuracy", 3.3),
)
OF_RECORDS = (
    ("mqar-mini", "bubble", 6.9),
    ("mqar-mini", "recall", 3.3),
    ("mqar-mini", "state", 6.9),
    ("paper-sharing-mini", "curves", None),
    ("paper-sharing-mini", "ablation", 3.3),
    ("paper-summarization-mini", "generation", 3.3),
    ("paper-efficiency-mini", "figure2", None),
)


@cache
def records_of(name: str) -> pd.DataFrame:
    records = effbench.load(RESULTS / name, raw=True)
    return records[records["batch_size"] == 1] if name == "decode" else records


@cache
def summary_of(name: str) -> pd.DataFrame:
    return summarise(records_of(name))


@pytest.mark.parametrize(("name", "kind", "width"), [*OF_SUMMARY, *OF_RECORDS])
def test_no_text_of_a_committed_figure_is_over_another_or_cut(name, kind, width):
    frame = summary_of(name) if (name, kind, width) in OF_SUMMARY else records_of(name)
    _, figure = plots.draw(frame, records_of(name), kind, width)[0]
    assert mistakes(figure) == []
    assert width is None or figure.get_figwidth() == width


@pytest.mark.parametrize("width", [None, 3.3])
@pytest.mark.parametrize("name", ["one length", "crossovers"])
def test_bars_and_crossovers_have_room_for_their_texts(name, width, monkeypatch):
    rivals = ("a", "b", "a_mechanism_with_a_long_name")
    monkeypatch.setattr(frames, "ORDER", dict.fromkeys(rivals, 2.0))
    lengths = (512,) if name == "one length" else (32, 64, 128, 256, 512)
    fails: frames.Failures = {("a", "train", 512): ("oom", "no")}
    options: dict[str, Option] = {"window": 64, "global_tokens": 16} if name == "one length" else {}
    records = raw(cost_records((*rivals, "linear"), lengths, noise=1e-3, fail=fails, options=options))
    ((_, figure),) = plots.draw(summarise(records), records, "time", width)
    assert mistakes(figure) == []
    if name == "crossovers":
        legend = figure.axes[0].get_legend()
        assert legend is not None
        words = [text.get_text() for text in legend.get_texts()]
        assert sum("linear faster than" in text for text in words) == len(rivals)


@pytest.mark.parametrize("width", [None, 3.3])
def test_a_generation_at_one_length_is_a_bar_chart_of_times_and_states(width):
    records = records_of("decode")
    records = records[records["seq_len"] == 1024]
    frame = summarise(records)
    ((_, figure),) = plots.draw(frame, records, "decode", width)
    assert mistakes(figure) == []
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "time of a step after 1k tokens",
        "state after 1k tokens",
    ]
    for axes, column in zip(figure.axes, ("time_s", "state_bytes"), strict=True):
        assert sorted(bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)) == sorted(
            frame[column].dropna()
        )


def test_the_check_sees_a_text_that_is_over_another_and_one_that_is_cut():
    figure = Sheet(1, wide=4, tall=2)
    figure.text(0.5, 0.5, "here")
    figure.text(0.5, 0.5, "and there")
    figure.text(0.98, 0.1, "outside")
    assert mistakes(figure) == ["'outside' leaves the figure", "'here' is over 'and there'"]


def test_a_figure_for_a_paper_has_small_letters_and_a_caption_in_the_place_of_its_title():
    name = "paper-efficiency-mini"
    ((_, usual),), ((_, figure),) = (
        plots.draw(records_of(name), records_of(name), "figure2", width) for width in (None, 3.3)
    )
    assert figure.get_suptitle().split() == usual.get_suptitle().split()
    titles = [next(t for t in one.texts if t.get_text() == one.get_suptitle()) for one in (usual, figure)]
    assert [title.get_visible() for title in titles] == [True, False]
    assert {text.get_fontsize() for text in drawn_texts(figure)} <= {7.0, 8.0}


def own(frame: pd.DataFrame, raw: pd.DataFrame) -> list[Figure]:
    return [Figure(figsize=(6.6, 3.0))]


def test_a_figure_that_is_no_sheet_gets_the_width_too(monkeypatch):
    monkeypatch.setattr(plots, "KINDS", {"own": f"{__name__}:own"})
    ((_, figure),) = plots.draw(pd.DataFrame(), pd.DataFrame(), "own", 3.3)
    assert tuple(figure.get_size_inches()) == pytest.approx((3.3, 1.5))


@pytest.mark.parametrize("width", [None, 3.3])
def test_names_with_dollar_signs_are_written_as_they_are(width):
    names = ("a$b$:Mine", "c$:Mine")
    records = raw(cost_records(names, (128, 512), modes=("forward",)), frames.accuracy_records(names))
    for kind in ("memory", "tradeoff"):
        ((_, figure),) = plots.draw(summarise(records), records, kind, width)
        texts = [text for text in drawn_texts(figure) if ":Mine" in text.get_text()]
        assert {text.get_text().replace(r"\$", "$").split("  ")[0] for text in texts} == set(names)

"""Pictures of trainings and of the paper's figures: drawn is what was measured, named without overlap."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from frames import ORIGIN, cost_records, generation_records, raw

from effbench.common.spec import Cell, Record, UsageError
from effbench.records.analyse.load import comparable
from effbench.records.analyse.pairs import by_pair
from effbench.records.analyse.statistics import mean_interval
from effbench.records.analyse.summary import label, summarise
from effbench.records.analyse.uncertainty import noise_of, ratio_interval
from effbench.show import look, plots
from effbench.show.plots import ablation, label_layout, relative_time
from effbench.show.plots import trainings as trainings_module
from effbench.show.plots.baseline_lines import baseline_scores

SIX = ("vanilla", "fastformer", "linformer", "longformer", "bigbird", "linear")
LONG = tuple(f"my_package.mechanisms:Attention{i}" for i in range(12))
VARIANTS = (
    "",
    "interaction=concat",
    "interaction=add",
    "sharing=none",
    "sharing=query-value",
    "sharing=head-wise",
)
PRIORS = {"prior_majority": 0.5, "prior_tfidf_logreg": 0.87, "prior_root_operator": 0.83}


def trainings(
    mechanisms=SIX,
    seeds=3,
    task="imdb",
    length=256,
    curves=True,
    failed=(),
    options=("",),
    task_options=None,
    **shape,
):
    """Records of trainings; what they measured is drawn at random, the same at each call."""
    rng = np.random.default_rng(0)
    records = []
    for place, (mechanism, given) in enumerate(itertools.product(mechanisms, options)):
        for repeat in range(seeds):
            cell = Cell(
                mechanism=mechanism,
                options=dict(part.split("=") for part in given.split(",") if part),
                probe="accuracy", scope="encoder", mode="train", task=task, task_options=task_options or {},
                seq_len=length, repeat=repeat, layers=2,
                **{"batch_size": 32, "d_model": 64, "heads": 4} | shape,
            )  # fmt: skip
            if mechanism in failed:
                records.append(Record(cell=cell, status="oom", reason="out of memory", **ORIGIN))
                continue
            accuracy = 0.82 + 0.01 * (place % 6) + 0.004 * rng.normal()
            evaluations = np.arange(1, (6 if repeat == 1 else 8) + 1)  # the second seed stops early
            values = {
                "accuracy": accuracy,
                "test_macro_f1": accuracy - 0.03 + 0.002 * rng.normal(),
                "tokens_per_s": 1e4 * (1 + place / 4) * (1 + 0.03 * rng.normal()),
                "peak_bytes": (14 - place) * 2**24,
                "train_seconds": 10.0,
                **PRIORS,
            }
            samples = {
                "validation_accuracy": tuple(accuracy - 0.3 * np.exp(-evaluations / 2)),
                "train_loss": tuple(0.3 + 0.02 * place + 0.6 * np.exp(-evaluations / 3)),
            }
            if curves:
                samples["curve_epoch"] = tuple(evaluations / 4)
                samples["curve_seconds"] = tuple(evaluations * (10.0 + place + 0.1 * repeat))
            records.append(Record(cell=cell, status="ok", values=values, samples=samples, **ORIGIN))
    return records


def recalls(widths=(32, 64), shapes=((64, 4), (128, 8)), **more):
    return [
        record if record.status != "ok" else replace(
            record,
            values={**record.values, "accuracy": record.values["accuracy"] * d / 64, "prior_slot": 1 / pairs},
        )
        for d in widths
        for length, pairs in shapes
        for record in trainings(
            ("vanilla", "linear"), task="mqar", length=length, task_options={"pairs": pairs}, d_model=d,
            batch_size=4096 // length, **more,
        )
    ]  # fmt: skip


def states(widths=(32, 64, 128), mechanisms=("vanilla", "linear", "fastformer", "fnet"), **more):
    """fnet has no state; that of fastformer is small."""
    size = {"vanilla": lambda d: 2048 * d, "linear": lambda d: 8 * d * d, "fastformer": lambda d: 16 * d}
    return [
        record if record.status != "ok" or (name := record.cell.mechanism) not in size else replace(
            record,
            values={**record.values, "accuracy": record.values["accuracy"] - 10 / d,
                    "state_bytes": size[name](d)},
        )
        for d in widths
        for record in trainings(mechanisms, task="mqar", d_model=d, heads=1, **more)
    ]  # fmt: skip


def constant_tokens(mechanisms=SIX, lengths=(128, 512, 2048), **more):
    return [r for n in lengths for r in cost_records(mechanisms, (n,), batch_size=2**14 // n, **more)]


def variants(**more):
    return [
        record
        for task, length in (("amazon", 512), ("mind-topics", 1024))
        for record in trainings(("fastformer",), options=VARIANTS, task=task, length=length, **more)
    ]


FRAMES = {
    "trainings": raw(trainings(failed=("bigbird",))),
    "one seed": raw(trainings(seeds=1, curves=False)),
    "long names": raw(trainings(LONG)),
    "recall": raw(recalls(), recalls(shapes=((256, 16),), failed=("vanilla",))),
    "states": raw(states(), states((256,), failed=("linear",))),
    "many states": raw(states(mechanisms=("vanilla", "linear", "fastformer", *LONG))),
    "generations": raw(generation_records(fail={("vanilla", 2048): "oom", ("bigbird", 512): "timeout"})),
    "one length": raw(generation_records(LONG, (512,), seeds=1)),
    "variants": raw(variants(), trainings(length=128)),
    "times": raw(constant_tokens(fail={("vanilla", "train", 2048): ("oom", "no")})),
}
every_picture = pytest.mark.parametrize(
    ("name", "kind"),
    [
        *itertools.product(("trainings", "one seed", "long names"), ("bubble", "curves")),
        ("recall", "recall"),
        ("states", "state"),
        ("many states", "state"),
        ("generations", "generation"),
        ("one length", "generation"),
        ("variants", "ablation"),
        ("times", "figure2"),
    ],
)


@cache  # the figures are only looked at
def named(name, kind):
    return dict(plots.draw(FRAMES[name], FRAMES[name], kind))  # these kinds read the raw frame only


def drawn(name, kind):
    return list(named(name, kind).values())


def by_gid(figure, gid):
    return [artist for axes in figure.axes for artist in axes.get_children() if artist.get_gid() == gid]


def of(name, mechanism, **where):
    """The records of a mechanism, by its label."""
    frame = FRAMES[name]
    frame = frame[
        [label(m, o) == mechanism for m, o in zip(frame["mechanism"], frame["options"], strict=True)]
    ]
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame[frame["status"] == "ok"]


@every_picture
def test_names_stand_in_the_picture_and_on_no_other(name, kind):
    figure = drawn(name, kind)[0]
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    boxes = {figure._suptitle: figure._suptitle.get_window_extent()}
    legends = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        for text in [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label, *ticks_in_view(axes)]:
            if text.get_text() and text.get_visible():
                boxes[text] = text_box(text)
    boxes |= {text: text.get_window_extent() for text in legends if text.get_text()}
    low, high = (0, width), (0, height)
    for box in boxes.values():
        assert low[0] - 1 <= box.x0 <= box.x1 <= low[1] + 1
        assert high[0] - 1 <= box.y0 <= box.y1 <= high[1] + 1
    for (a, one), (b, other) in itertools.combinations(boxes.items(), 2):
        shared = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(shared) <= 1.5, f"{a.get_text()!r} on {b.get_text()!r}"


def ticks_in_view(axes):
    (left, right), (bottom, top) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    across = [t for t in axes.get_xticklabels() if left <= t.get_position()[0] <= right]
    return across + [t for t in axes.get_yticklabels() if bottom <= t.get_position()[1] <= top]


def text_box(text):
    """Of the letters alone: the box of an annotation includes its leader."""
    from matplotlib.text import Text

    return Text.get_window_extent(text)


def test_a_bubble_stands_at_the_means_with_bars_over_seeds_and_an_area_of_its_memory():
    (figure,) = drawn("trainings", "bubble")
    areas = {}
    for mechanism in SIX:
        found = by_gid(figure, f"bubble-{mechanism}")
        if mechanism == "bigbird":
            assert not found
            continue
        mine = of("trainings", mechanism)
        ((speed, score),) = found[0].get_offsets()
        mean, low, high = mean_interval(list(mine["accuracy"]))
        assert score == pytest.approx(mean)
        assert speed == pytest.approx(math.exp(np.log(mine["tokens_per_s"]).mean()))
        (bar,) = by_gid(figure, f"accuracy-{mechanism}")
        assert bar.get_segments()[0][:, 1] == pytest.approx([low, high])
        (bar,) = by_gid(figure, f"speed-{mechanism}")
        logs = mean_interval(list(np.log(mine["tokens_per_s"])))
        assert bar.get_segments()[0][:, 0] == pytest.approx(np.exp(logs[1:]))
        areas[mechanism] = found[0].get_sizes()[0] / mine["peak_bytes"].iloc[0]
        low, high = figure.axes[0].get_ylim()
        assert low < score < high
    assert np.ptp(list(areas.values())) < 1e-12
    assert "not drawn: bigbird (oom)" in figure.get_suptitle()
    assert "95 % confidence interval (Student's t, 3 seeds)" in figure.get_suptitle()


def test_bits_per_byte_are_numbers_with_whole_bars_and_no_percentages():
    records = [
        replace(
            record,
            values={
                **{name: value for name, value in record.values.items() if not name.startswith("prior_")},
                "metric": "bits_per_byte", "bits_per_byte": 2 + record.values["accuracy"],
                "prior_unigram": 2.84,
            },
        )
        for record in trainings()
    ]  # fmt: skip
    frame = raw(records)
    ((_, figure),) = plots.draw(frame, frame, "bubble")
    mine = frame[frame["mechanism"] == "vanilla"]["bits_per_byte"]
    (bar,) = by_gid(figure, "accuracy-vanilla")
    assert bar.get_segments()[0][:, 1] == pytest.approx(mean_interval(list(mine))[1:])
    axes = figure.axes[0]
    assert axes.yaxis.get_major_formatter()(2.5) == "2.50"
    assert "unigram 2.84" in {text.get_text() for text in axes.texts}


def test_the_legend_of_sizes_has_the_scale_of_the_bubbles():
    (figure,) = drawn("trainings", "bubble")
    handle = figure.legends[0].legend_handles[-1]
    largest = max(by_gid(figure, f"bubble-{m}")[0].get_sizes()[0] for m in SIX if m != "bigbird")
    assert handle.get_markersize() == pytest.approx(largest**0.5), (
        "scatter takes the square of a marker's size"
    )


def test_priors_are_lines_where_they_are_near_and_named_with_an_arrow_where_they_are_far():
    (figure,) = drawn("trainings", "bubble")
    assert [line.get_ydata()[0] for line in by_gid(figure, "baseline-tfidf logreg")] == [0.87]
    assert not by_gid(figure, "baseline-majority")
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"tfidf logreg 87 %", "↓ majority 50 %"} <= texts


@pytest.mark.parametrize("kind", ["bubble", "curves"])
def test_one_seed_has_no_interval_and_the_caption_says_so(kind):
    (figure,) = drawn("one seed", kind)
    assert "one seed" in figure.get_suptitle()
    for prefix in ("accuracy", "speed", "band"):
        assert not by_gid(figure, f"{prefix}-vanilla")


@pytest.mark.parametrize("seeds", [2, 3])
def test_two_seeds_show_their_range_and_more_an_interval_in_every_kind(seeds):
    frame = raw(trainings(("vanilla", "linear"), seeds=seeds))
    mine = frame.loc[frame["mechanism"] == "vanilla", "accuracy"]
    ends = (mine.min(), mine.max()) if seeds == 2 else mean_interval(list(mine))[1:]
    for kind in ("bubble", "tradeoff", "accuracy"):
        ((_, figure),) = plots.draw(summarise(frame), frame, kind)
        assert ("range of 2 runs" in figure.get_suptitle()) == (seeds == 2)
        assert ("95 % confidence interval" in figure.get_suptitle()) == (seeds > 2)
        lines = [line for axes in figure.axes for c in axes.collections for line in segments(c)]
        assert any(np.allclose(np.sort(line[:, 0 if kind == "accuracy" else 1]), ends) for line in lines)


def segments(collection):
    return collection.get_segments() if hasattr(collection, "get_segments") else []


def test_a_caption_names_what_its_bars_are():
    assert trainings_module.seeds_note([2, 2]) == "bars: range of 2 runs"
    both = trainings_module.seeds_note([5, 2, 3, 1])
    assert both == (
        "bars: 95 % confidence interval (Student's t, 3 to 5 seeds), or range of 2 runs; no bars: one seed"
    )


def test_curves_are_means_over_seeds_in_a_band_from_the_lowest_to_the_highest():
    (figure,) = drawn("trainings", "curves")
    assert [axes.get_xlabel() for axes in figure.axes[2:]] == [
        "training time in seconds (mean over seeds)", "epoch",
    ]  # fmt: skip
    mine = of("trainings", "linear")
    for axes, column in ((figure.axes[1], "validation_accuracy"), (figure.axes[3], "train_loss")):
        series = np.stack([np.asarray(s[:6]) for s in mine[f"samples_{column}"]])
        (line,) = [line for line in axes.lines if line.get_label() == "linear"]
        assert line.get_ydata() == pytest.approx(series.mean(axis=0))
        assert line.get_xdata() == pytest.approx(np.arange(1, 7) / 4)
        (band,) = [c for c in axes.collections if c.get_gid() == "band-linear"]
        edge = band.get_paths()[0].vertices[:, 1]
        assert (edge.min(), edge.max()) == pytest.approx((series.min(), series.max()))
        (rest,) = [line for line in axes.lines if line.get_gid() == "rest-linear"]
        left = [np.asarray(s) for s in mine[f"samples_{column}"] if len(s) == 8]
        assert rest.get_ydata()[1:] == pytest.approx(np.mean(left, axis=0)[6:])
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "linear"]
    seconds = np.mean([np.asarray(s[:6]) for s in mine["samples_curve_seconds"]], axis=0)
    assert line.get_xdata() == pytest.approx(seconds)
    assert "minimum to maximum over 3 seeds" in figure.get_suptitle()


def test_records_without_epochs_are_drawn_against_the_number_of_the_evaluation():
    (figure,) = drawn("one seed", "curves")
    assert figure.axes[1].get_xlabel() == "evaluation number"
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "linear"]
    assert list(line.get_xdata()) == [1, 2, 3, 4, 5, 6, 7, 8]
    mixed = raw(trainings(("vanilla",)), trainings(("linear",), curves=False))
    ((_, figure),) = plots.draw(mixed, mixed, "curves")
    assert [axes.get_xlabel() for axes in figure.axes[1:]] == ["evaluation number"]


def test_recall_has_a_panel_a_length_and_number_of_pairs_and_widths_across():
    (figure,) = drawn("recall", "recall")
    assert [axes.get_title() for axes in figure.axes] == [
        "N = 64, 4 pairs",
        "N = 128, 8 pairs",
        "N = 256, 16 pairs",
    ]
    (line,) = [line for line in figure.axes[1].lines if line.get_label() == "linear"]
    scores = [of("recall", "linear", seq_len=128, d_model=d)["accuracy"] for d in (32, 64)]
    assert list(line.get_xdata()) == [32, 64]
    assert line.get_ydata() == pytest.approx([s.mean() for s in scores])
    (bars,) = [c for c in figure.axes[1].collections if c.get_gid() == "bars-linear"]
    for bar, score in zip(bars.get_segments(), scores, strict=True):
        _, low, high = mean_interval(list(score))
        assert bar[:, 1] == pytest.approx([max(0, low), min(1, high)])
    chance = [line.get_ydata()[0] for line in by_gid(figure, "baseline-slot")]
    assert chance == [1 / 4, 1 / 8, 1 / 16]
    assert len(by_gid(figure, "failed-oom")) == 2
    assert "oom" in figure.get_suptitle()


def test_recall_at_one_width_is_drawn_against_the_pairs_of_each_length():
    frame = raw(recalls(widths=(64,), shapes=((64, 4), (64, 8), (128, 8), (128, 16))))
    ((_, figure),) = plots.draw(frame, frame, "recall")
    assert [axes.get_title() for axes in figure.axes] == ["N = 64", "N = 128"]
    lines = [line for axes in figure.axes for line in axes.lines if line.get_label() == "linear"]
    assert [np.asarray(line.get_xdata()).tolist() for line in lines] == [[4, 8], [8, 16]]


def test_figure2_is_the_ratio_to_fastformer_paired_by_repeat_beside_the_papers():
    (figure,) = drawn("times", "figure2")
    assert [axes.get_title() for axes in figure.axes] == ["inference", "training"]
    timed = FRAMES["times"]
    noise = noise_of(comparable(timed[(timed["probe"] == "time") & (timed["status"] == "ok")]))
    for axes, mode in zip(figure.axes, ("forward", "train"), strict=True):
        (line,) = [line for line in axes.lines if line.get_label() == "linear"]
        (bars,) = [c for c in axes.collections if c.get_gid() == "bars-linear"]
        for n, y, bar in zip(line.get_xdata(), line.get_ydata(), bars.get_segments(), strict=True):
            ours, base = (
                by_pair(rows)
                for rows in (
                    of("times", m, mode=mode, seq_len=n, probe="time") for m in ("linear", "fastformer")
                )
            )
            ratio, low, high = ratio_interval(ours, base, noise)
            assert y == pytest.approx(ratio)
            assert bar[:, 1] == pytest.approx([low, high])
        assert line.get_linestyle() == "-"
    (theirs,) = [line for line in figure.axes[0].lines if line.get_label() == "vanilla (paper)"]
    assert theirs.get_ydata() == pytest.approx([122 / 13.1, 241 / 13.0, 604 / 13.2])
    assert theirs.get_markerfacecolor() == "white"
    assert theirs.get_linestyle() != "-"
    (ours,) = [line for line in figure.axes[0].lines if line.get_label() == "vanilla"]
    assert ours.get_color() == theirs.get_color()
    assert len(by_gid(figure, "failed-oom")) == 1


def test_figure2_needs_no_published_times():
    (figure,) = relative_time.relative_times(FRAMES["times"], {})
    assert not figure.legends
    assert not [line for line in figure.axes[0].lines if "(paper)" in str(line.get_label())]
    alone = {"inference": {"fastformer": {128: 2.0, 256: 2.0}, "other": {128: 8.0, 256: 4.0, 512: 1.0}}}
    (figure,) = relative_time.relative_times(FRAMES["times"], alone)
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "other (paper)"]
    assert np.asarray(line.get_ydata()).tolist() == [4.0, 2.0], "a length without fastformer has no ratio"
    assert "other (paper)" in {text.get_text() for text in figure.axes[0].texts}


def test_ablation_bars_end_at_the_means_on_an_axis_whose_cut_is_seen_and_said():
    figures = named("variants", "ablation")
    assert list(figures) == ["ablation-interaction", "ablation-sharing"]
    for name, figure in figures.items():
        option = name.split("-")[1]
        for axes, (metric, task) in zip(
            figure.axes, itertools.product(ablation.METRICS, ("amazon", "mind-topics")), strict=True
        ):
            bars = {bar.get_gid(): bar for bar in axes.patches}
            assert list(bars) == [f"bar-{value}" for value in ablation.ABLATIONS[option]]
            base = axes.get_ylim()[0]
            breaks = [line for line in axes.lines if line.get_gid() == "break"]
            assert base > 0
            assert len(breaks) == len(bars)
            assert f"axis starts at {look.percent(base)}" in axes.get_ylabel()
            for value in ablation.ABLATIONS[option]:
                used = value in ("product", "layer-wise")
                mine = of("variants", "fastformer" if used else f"fastformer:{option}={value}", task=task)
                bar = bars[f"bar-{value}"]
                assert bar.get_y() == base
                assert bar.get_y() + bar.get_height() == pytest.approx(mine[metric].mean())
            whiskers = sorted(p.vertices[:, 1].tolist() for c in axes.collections for p in c.get_paths())
            expected = sorted(
                list(mean_interval(list(group))[1:])
                for _, group in FRAMES["variants"][FRAMES["variants"]["task"] == task]
                .groupby("options")[metric] if option in _ or not _
            )  # fmt: skip
            assert np.allclose(whiskers, expected)
        assert "axes do not start at 0" in figure.get_suptitle()


def test_published_differences_are_hollow_and_set_on_our_score_of_the_used_variant():
    figure = named("variants", "ablation")["ablation-interaction"]
    axes = figure.axes[0]
    ours = of("variants", "fastformer", task="amazon")["accuracy"].mean()
    marks = {line.get_gid(): line for line in axes.lines if str(line.get_gid()).startswith("published-")}
    assert marks["published-concat"].get_ydata()[0] == pytest.approx(ours + 0.6447 - 0.6613)
    assert marks["published-product"].get_ydata()[0] == pytest.approx(ours)
    assert marks["published-add"].get_markerfacecolor() == "white"
    assert [t.get_text().split("\n")[-1] for t in axes.get_xticklabels()] == ["(64.5)", "(65.2)", "(66.1)"]
    assert not ablation.ablations(FRAMES["variants"], {})[0].legends


def test_other_options_of_fastformer_are_no_variant():
    assert ablation._variant("") == {"interaction": "product", "sharing": "layer-wise"}
    assert ablation._variant("interaction=add,sharing=layer-wise") == {"interaction": "add"}
    assert ablation._variant("interaction=add,sharing=none") == {}
    assert ablation._variant("causal=true") == {}


@pytest.mark.parametrize(
    ("kind", "records", "missing"),
    [
        ("bubble", cost_records(("vanilla",), (128,)), "no record is of the probe accuracy"),
        ("bubble", trainings(("vanilla",), failed=("vanilla",)), "no training has accuracy and tokens_per_s"),
        ("curves", [replace(r, samples={}) for r in trainings()], "no training has samples of validation_"),
        ("recall", trainings(), "no record is of the task mqar"),
        ("recall", recalls(failed=("vanilla", "linear")), "no training has accuracy"),
        ("state", trainings(), "no training has accuracy and state_bytes"),
        ("generation", cost_records(("vanilla",), (128,)), "no record is of the probe accuracy"),
        ("generation", trainings(), "no training has encode_s, decode_tokens_per_s or samples of beam_width"),
        ("generation", trainings(failed=SIX), "no training has accuracy"),
        ("figure2", trainings(), "no forward or train pass was timed at d_model 256"),
        ("figure2", cost_records(("vanilla",), (128, 256), repeats=1), "no two lengths have the same batch"),
        ("figure2", constant_tokens(("vanilla", "linear"), repeats=1), "no length has both a time"),
        ("figure2", constant_tokens(("fastformer",), repeats=1), "no length has both a time"),
        ("ablation", trainings(("vanilla",)), "no training is of fastformer"),
        ("ablation", trainings(("fastformer",)), "no task has scores of two variants"),
    ],
)  # fmt: skip
def test_what_a_picture_lacks_is_said(kind, records, missing):
    frame = raw(records)
    with pytest.raises(look.NothingToDraw, match=f"nothing to draw for {kind}: .*{missing}"):
        plots.draw(frame, frame, kind)


def test_every_new_kind_is_drawn_by_itself_where_there_is_data():
    assert issubclass(look.NothingToDraw, UsageError)
    alone = raw(trainings(("fastformer",), options=("", "sharing=none"), task="mqar", seeds=2, length=64))
    kinds = {name.split("-")[0] for name, _ in plots.draw_all(summarise(alone), alone)}
    assert kinds == {"accuracy", "tradeoff", "bubble", "curves", "recall", "ablation"}


def test_keep_apart_moves_no_more_than_it_must():
    heights = [10.0, 10.0, 10.0]
    assert label_layout.keep_apart([20, 50, 80], heights, 0, 100) == [20, 50, 80]
    assert label_layout.keep_apart([50, 50, 90], heights, 0, 100) == [45, 55, 90]
    assert label_layout.keep_apart([2, 3, 99], heights, 0, 100) == [5, 15, 95]
    rng = np.random.default_rng(0)
    wanted = list(rng.uniform(0, 100, 9))
    found = label_layout.keep_apart(wanted, [10.0] * 9, 0, 100)
    assert np.diff(sorted(found)).min() >= 10 - 1e-9
    assert np.argsort(found).tolist() == np.argsort(wanted).tolist()
    assert 5 <= min(found) <= max(found) <= 95


def test_a_sweep_at_constant_tokens_is_drawn_as_figure_2_and_not_as_pictures_of_one_length():
    constant = raw(constant_tokens(("fastformer", "linear"), (128, 512), repeats=1, modes=("forward",)))
    assert [name for name, _ in plots.draw_all(summarise(constant), constant)] == ["figure2"]
    one_batch = raw(cost_records(SIX[:2], (128, 512), repeats=1, modes=("forward",)))
    assert {"time", "memory"} <= {name for name, _ in plots.draw_all(summarise(one_batch), one_batch)}


def test_a_macro_f1_is_no_line_among_accuracies():
    trained = FRAMES["trainings"].assign(prior_tfidf_logreg_macro_f1=0.86)
    assert baseline_scores(trained) == baseline_scores(FRAMES["trainings"])

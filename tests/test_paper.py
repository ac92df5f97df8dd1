"""The paper's numbers and ours compared: the data file is the paper's, verdicts follow from the records."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from frames import accuracy_records, cost_records, raw
from scipy import stats

from effbench.cli import app as cli
from effbench.common import registry
from effbench.common.spec import Record, UsageError
from effbench.records.analyse import published as paper
from effbench.records.analyse.load import comparable
from effbench.records.analyse.seeds import compare
from effbench.records.analyse.statistics import agreement, welch
from effbench.records.analyse.uncertainty import noise_of, ratio_interval
from effbench.records.store import Store, load
from effbench.show.paper_tables import FORMATS, report

FIGURE_2 = Path(__file__).parents[1].parent / "shared" / "data" / "paper" / "fig2.csv"
SEVEN = ("vanilla", "longformer", "bigbird", "linformer", "linear", "poolingformer", "fastformer")


def trained(
    mechanisms=SEVEN, lengths=(128,), seeds: int = 5, task: str = "newsgroups", noise: float = 0.01, **options
) -> list[Record]:
    """Trainings with a macro-F and with noise of their own; options are the cells'."""
    rng = np.random.default_rng(0)
    records = []
    for record in accuracy_records(mechanisms, lengths, seeds, task):
        accuracy = record.values["accuracy"]
        assert isinstance(accuracy, float)
        score = accuracy + noise * rng.normal()
        values = {**record.values, "accuracy": score, "test_macro_f1": 0.9 * score, "train_examples": 2000}
        cell = dataclasses.replace(record.cell, options=options) if options else record.cell
        records.append(dataclasses.replace(record, cell=cell, values=values))
    return records


def fill(records: list[Record]) -> None:
    """A results folder ``filled`` with these records."""
    store = Store(Path("filled"))
    store.create()
    for record in records:
        store.write(record)


def summarized(mechanisms=SEVEN, task: str = "summarization:dataset=pubmed", **more: Any) -> list[Record]:
    """Trainings with scores of summaries, of which ROUGE-L is below half of ROUGE-1."""
    records = []
    for record in trained(mechanisms, task=task, **more):
        rouge1 = record.values["accuracy"]
        assert isinstance(rouge1, float)
        values: dict[str, float | int | str | None] = {
            "metric": "rouge1", "scores": "rouge1,rouge2,rouge_l,rouge_lsum,loss_nats", "rouge1": rouge1,
            "test_rouge2": 0.3 * rouge1, "test_rouge_l": 0.45 * rouge1, "test_rouge_lsum": 0.9 * rouge1,
            "test_loss_nats": 3.0, "train_examples": 1000,
        }  # fmt: skip
        records.append(dataclasses.replace(record, values=values))
    return records


def one(frame: pd.DataFrame, name: str, metric: str = "accuracy") -> pd.Series:
    (row,) = frame[(frame["name"] == name) & (frame["metric"] == metric)].to_dict(orient="records")
    return pd.Series(row)


# the data file


def test_figure_2_is_the_digitized_one():
    if not FIGURE_2.exists():
        pytest.skip(f"the digitized figure is not at {FIGURE_2}")
    lines = {row["name"]: row for row in paper.published()["figure2"]["row"]}
    with FIGURE_2.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(lines)
    for row in rows:
        ours = dict(
            zip(paper.published()["figure2"]["lengths"], lines[row["model"]][row["panel"]], strict=False)
        )
        assert ours == {int(n): float(t) for n, t in row.items() if n.isdigit() and t}


def test_every_row_is_an_installed_mechanism_and_every_dataset_a_task():
    for what in (*paper.SCORED, *paper.TIMED):
        for row in paper.published()[what]["row"]:
            if "mechanism" in row:
                kind = registry.model_kind(row["mechanism"])
                assert row["mechanism"].partition(":")[0] in registry.names(kind)
                if kind == "mechanism":
                    registry.parse(row["mechanism"], kind)
    defaults = paper.published()["defaults"]
    fastformer = registry.load(registry.find("fastformer", "mechanism"))(16, 2, max_len=8)
    assert defaults == {name: getattr(fastformer, name) for name in defaults}
    for entry in paper.published()["datasets"].values():
        for task in (entry["task"], *entry["stand_ins"]):
            registry.parse(task, "task")
    for task, usual in paper.published()["task_defaults"].items():
        name, _, value = usual.partition("=")
        assert getattr(registry.load(registry.find(task, "task")), name) == value


def test_panels_of_the_ablations_carry_table_4s_scores():
    """The rows that Figures 3 and 4 are compared against are Table 4's Fastformer, dataset by dataset."""
    table = paper.published_scores("table4").set_index(["dataset", "metric", "name"])["published"]
    for what in ("figure3", "figure4"):
        against = paper.published()[what]["against"]
        figure = paper.published_scores(what)
        for row in figure[figure["name"] == against].itertuples():
            assert row.published == table[row.dataset, row.metric, "Fastformer"]
        assert len(figure) == 3 * 2 * len(paper.published()[what]["row"])


def test_published_differences_are_welchs():
    row = one(paper.published_scores("table4").query("dataset == 'MIND'"), "Poolingformer")
    expected = stats.ttest_ind_from_stats(0.8246, 0.0024, 5, 0.8234, 0.0019, 5, equal_var=False)
    test = welch(0.8246 - 0.8234, 0.0024, 0.0019, 5)
    assert test["p"] == pytest.approx(expected.pvalue)
    assert row["published_difference"] == pytest.approx(0.0012)
    assert row[["published_low", "published_high"]].tolist() == pytest.approx([test["low"], test["high"]])
    equal = welch(0.01, 0.02, 0.02, 5)  # equal spreads and sizes: Student's with 8 degrees of freedom
    assert equal["high"] - 0.01 == pytest.approx(stats.t.ppf(0.975, 8) * 0.02 * math.sqrt(2 / 5))


# scores beside scores


def test_ours_is_the_seeds_own_comparison():
    compared = paper.compare_scores("table4", raw(trained()))
    assert set(compared["dataset"]) == {"MIND"}
    assert list(compared[compared["metric"] == "accuracy"]["ours"]) == list(SEVEN)
    for metric, column in paper.metrics("table4").items():
        ours = compare(raw(trained()), metric=column).set_index("mechanism")
        for name in ("vanilla", "linear"):
            row = compared[(compared["ours"] == name) & (compared["metric"] == metric)].iloc[0]
            for mine, theirs in (
                ("difference", "difference"),
                ("difference_low", "low"),
                ("p_holm", "p_holm"),
            ):
                assert row[mine] == ours.loc[name, theirs]
    assert one(compared, "Fastformer")["outcome"] == ""


def test_the_transformer_has_its_own_length_or_all_have_one():
    rows = raw(trained(lengths=(128, 256)))
    lengths = {row.name_: row.seq_len for row in _rows(paper.compare_scores("table4", rows))}
    assert lengths.pop("Transformer") == 128
    assert set(lengths.values()) == {256}
    equal = paper.compare_scores("table4", rows, "equal")
    assert set(equal["seq_len"]) == {256}
    # in the paper all read 512 of Amazon's tokens
    amazon = paper.compare_scores("table4", raw(trained(lengths=(128, 256), task="amazon")))
    assert set(amazon["seq_len"]) == {256}
    # most mechanisms first, then the longest
    some = raw(trained(lengths=(128,)), trained(("fastformer", "linear"), lengths=(256,)))
    assert set(paper.compare_scores("table4", some, "equal")["seq_len"].dropna()) == {128}
    assert one(paper.compare_scores("table4", some), "Linear Transformer")["seq_len"] == 256


def test_summaries_are_compared_by_the_rouge_l_of_sentences():
    records = summarized()
    compared = paper.compare_scores("table6", raw(records))
    assert set(compared["dataset"]) == {"PubMed"}
    assert list(dict.fromkeys(compared["metric"])) == ["rouge1", "rouge2", "rouge_lsum"]
    row = one(compared, "Poolingformer", "rouge_lsum")
    mine = [record for record in records if record.cell.mechanism == "poolingformer"]
    assert row["mean"] == pytest.approx(np.mean([record.values["test_rouge_lsum"] for record in mine]))
    assert row["published"] == pytest.approx(0.3463)
    text = " ".join(report("table6", raw(records)).split())
    for part in (
        "ROUGE-L: paper", "with our ROUGE-Lsum", "2 layers, d_model 256, 16 heads, batch 32",
        "truncated to 4096 tokens (Transformer: 512)", "108.5k articles", "ROUGE-2: difference",
    ):  # fmt: skip
        assert part in text
    assert "is not the paper's" not in text


@pytest.mark.parametrize(
    ("task", "dataset", "other"),
    [
        ("summarization:dataset=cnn-dailymail,epochs=8", "CNN/DM", ""),
        ("summarization:epochs=8", "CNN/DM", ""),
        ("summarization:beams=5,dataset=pubmed", "PubMed", ""),
        ("summarization:dataset=sumpubmed,epochs=8", "PubMed", "summarization:dataset=sumpubmed"),
        ("summarization:dataset=arxiv", None, ""),
    ],
)
def test_a_summarization_with_more_options_has_its_dataset(task, dataset, other):
    assert paper.dataset_of(task, "table6") == dataset
    assert paper.dataset_of(task, "table4") is None
    assert (paper.stand_in(task) or "") == other
    name, _, options = task.partition(":")
    given = dict(pair.split("=") for pair in options.split(","))
    records = [
        dataclasses.replace(record, cell=dataclasses.replace(record.cell, task=name, task_options=given))
        for record in summarized()
    ]
    if dataset is None:
        with pytest.raises(UsageError, match="no training to compare with table6"):
            report("table6", raw(records))
        return
    text = " ".join(report("table6", raw(records)).split())
    assert (f"{other} is not the paper's {dataset} data" in text) == bool(other)
    assert f"paper: {dataset}; ours: {task}{' (a stand-in)' if other else ''}, 1,000 training" in text


def test_the_transformer_may_read_less_of_an_article():
    rows = raw(summarized(lengths=(128, 512)))
    lengths = {row.name_: row.seq_len for row in _rows(paper.compare_scores("table6", rows))}
    assert lengths.pop("Transformer") == 128
    assert set(lengths.values()) == {512}
    assert set(paper.compare_scores("table6", rows, "equal")["seq_len"]) == {512}


def _rows(frame: pd.DataFrame) -> list[Any]:
    return list(frame.rename(columns={"name": "name_"}).itertuples())


@pytest.mark.parametrize(
    ("published", "published_p", "ours", "p", "expected"),
    [
        (-0.01, 0.01, -0.02, 0.01, "reproduced"),
        (-0.01, 0.01, 0.02, 0.01, "contrary"),
        (-0.01, 0.01, -0.02, 0.2, "inconclusive"),
        (-0.01, 0.01, -0.02, math.nan, "inconclusive"),
        (-0.01, 0.2, -0.02, 0.01, "not significant in the paper"),
        (0.0, math.nan, -0.02, 0.01, "not significant in the paper"),
        (-0.01, math.nan, -0.02, 0.01, "reproduced"),
        (-0.01, math.nan, 0.02, 0.01, "contrary"),
    ],
)
def test_outcomes(published, published_p, ours, p, expected):
    assert paper.outcome(published, published_p, ours, p) == expected


def test_one_seed_reproduces_nothing():
    compared = paper.compare_scores("table4", raw(trained(seeds=1)))
    assert set(compared["outcome"]) <= {"", "inconclusive", "not significant in the paper"}
    text = report("table4", raw(trained(seeds=1)))
    assert "With one seed the training noise is unknown" in text
    assert "0 reproduced; 0 contrary" in text
    text = report("table4", raw([*trained(("fastformer", "linear")), *trained(("linformer",), seeds=1)]))
    assert "With one seed in common the noise is unknown (Linformer)." in text
    assert "--repeats" not in text


@pytest.mark.parametrize(("what", "axis"), [("figure3", "interaction"), ("figure4", "sharing")])
def test_ablations_are_told_apart_by_their_option_alone(what, axis):
    default = paper.published()["defaults"][axis]
    values = [row["mechanism"].partition("=")[2] or default for row in paper.published()[what]["row"]]
    records = [
        trained(("fastformer",), noise=0.01 * (1 + place), **({axis: value} if value != default else {}))
        for place, value in enumerate(values)
    ]
    compared = paper.compare_scores(what, raw(*records))
    accuracy = compared[compared["metric"] == "accuracy"]
    assert [label.partition("=")[2] or default for label in accuracy["ours"]] == values
    assert accuracy["difference"].notna().sum() == len(values) - 1
    # the same, with the default written out
    written = raw(*records[:-1], trained(("fastformer",), noise=0.01 * len(values), **{axis: default}))
    assert list(paper.compare_scores(what, written)["difference"].dropna()) == list(
        compared["difference"].dropna()
    )
    table = paper.compare_scores("table4", raw(*records))
    assert list(table[table["ours"] != ""]["name"].unique()) == ["Fastformer"]


def test_options_are_the_settings_of_a_row_but_two_of_them_are_too_many():
    wide = trained(("linformer",), k=64)
    assert (
        one(paper.compare_scores("table4", raw(trained(("fastformer",)), wide)), "Linformer")["ours"]
        == "linformer:k=64"
    )
    with pytest.raises(
        UsageError, match="2 mechanisms could be Linformer in table4: linformer, linformer:k=64"
    ):
        paper.compare_scores("table4", raw(trained(), wide))
    causal = trained(("linformer",), causal=True)
    assert (
        one(paper.compare_scores("table4", raw(trained(("fastformer",)), causal)), "Linformer")["ours"] == ""
    )


def test_the_authors_block_is_another_model_than_the_papers_row():
    theirs = trained(("fastformer",), variant="official")
    named = trained(("fastformer",), sharing="published")
    for ours, expected in ((trained(("fastformer",)), "fastformer"), (named, "fastformer:sharing=published")):
        assert one(paper.compare_scores("table4", raw(ours, theirs)), "Fastformer")["ours"] == expected


def test_settings_stand_apart():
    small, other = trained(), trained(task="polarity")
    compared = paper.compare_scores("table4", raw(small, other))
    assert set(zip(compared["task"], compared["dataset"], strict=True)) == {
        ("newsgroups", "MIND"),
        ("polarity", "IMDB"),
    }
    wide = [
        dataclasses.replace(r, cell=dataclasses.replace(r.cell, d_model=128)) for r in trained(("linear",))
    ]
    compared = paper.compare_scores("table4", raw(trained(("fastformer",)), wide))
    assert compared["difference"].isna().all()
    assert "not both trained in this setting" in report("table4", raw(trained(("fastformer",)), wide))


# ranks


def test_rank_agreement_of_many_rows_is_that_of_students_t():
    rng = np.random.default_rng(0)
    theirs, ours = rng.normal(size=(2, 30)).tolist()
    ranks = agreement(theirs, ours)  # 30! orders are too many to try
    assert ranks["spearman"] == pytest.approx(stats.spearmanr(theirs, ours).statistic)
    assert ranks["spearman_p"] == pytest.approx(stats.spearmanr(theirs, ours).pvalue)
    assert ranks["spearman_least"] == pytest.approx(0.361, abs=1e-3)  # tables of r at 28 degrees of freedom


def test_rank_agreement_is_exact():
    order = [3.0, 1.0, 2.0, 4.0, 5.0, 7.0, 6.0]
    ranks = agreement(order, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert ranks["spearman"] == pytest.approx(stats.spearmanr(order, range(7)).statistic)
    assert ranks["kendall"] == pytest.approx(stats.kendalltau(order, range(7)).statistic)
    assert ranks["spearman_least"] == pytest.approx(0.7857, abs=1e-4), (
        "the critical value in tables for n = 7"
    )
    perfect = agreement([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0])
    assert perfect["spearman_p"] == pytest.approx(2 / math.factorial(4))
    assert math.isnan(perfect["spearman_least"]), "four mechanisms cannot show a correlation"
    assert agreement([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])["spearman"] == pytest.approx(-1)
    for few in ([0.1, 0.2], [0.1, 0.1, 0.1]):
        assert math.isnan(agreement(list(map(float, range(len(few)))), few)["spearman"])


# times


def test_ratios_are_paired_and_held_against_the_figure():
    records = cost_records(lengths=(128, 512, 700), repeats=4)
    compared = paper.compare_times(raw(records))
    assert set(compared["seq_len"]) == {128, 512}, "700 is not in the figure"
    assert set(compared["mode"]) == {"forward", "train"}
    times = {
        name: {
            ("", "", r.cell.repeat): r.samples["time_s"] for r in records
            if (r.cell.mechanism, r.cell.mode, r.cell.seq_len, r.cell.probe) == (name, "forward", 512, "time")
        }
        for name in ("vanilla", "fastformer")
    }  # fmt: skip
    (row,) = compared.query("mode == 'forward' and seq_len == 512 and name == 'Transformer'").to_dict(
        "records"
    )
    frame = raw(records)
    noise = noise_of(comparable(frame[frame["probe"] == "time"]))
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == pytest.approx(
        ratio_interval(times["vanilla"], times["fastformer"], noise)
    )
    assert row["published_ratio"] == 604 / 13.2
    assert row["factor"] == row["ratio"] / row["published_ratio"]
    assert row["factor_low"] < row["factor"] < row["factor_high"]


def test_times_say_what_was_constant():
    constant = [
        record for n in (128, 512) for record in cost_records(lengths=(n,), repeats=2, batch_size=65536 // n)
    ]
    text = report("figure2", raw(constant))
    assert "batch x length is 65,536 at every length (as in the paper)" in text
    assert "batch x length is not constant, 65,536 in the paper" in report(
        "figure2", raw(cost_records(lengths=(128, 512)))
    )
    assert "the unit is unknown" in text


# what cannot be


@pytest.mark.parametrize(
    ("what", "frame", "complaint"),
    [
        ("table4", raw(trained(task="listops")), "no training to compare with table4"),
        ("table4", raw(trained(task="listops")), "the folders have trainings of bigbird, .* on listops"),
        ("table4", raw(cost_records(lengths=(128,))), "no training to compare with table4"),
        ("table4", raw([]), "no training to compare with table4"),
        ("figure3", raw(trained(("linear",))), "no training to compare with figure3"),
        ("figure2", raw(trained()), "no times to compare with figure2"),
        ("figure2", raw([]), "no times to compare with figure2"),
        ("figure2", raw(cost_records(lengths=(100,))), "no times to compare with figure2"),
        ("figure2", raw(cost_records(("vanilla",))), "no times to compare with figure2"),
        ("figure2", raw(*[cost_records(lengths=(128,))] * 2), "was timed more than once"),
        ("table4", raw(trained(), trained()), "was measured more than once"),
    ],
)  # fmt: skip
def test_records_without_a_counterpart_are_refused(what, frame, complaint):
    with pytest.raises(UsageError, match=complaint):
        report(what, frame)


def test_a_failure_is_named():
    lost = dataclasses.replace(
        trained(("linear",))[0], status="oom", reason="out of memory within 1 GiB", values={}
    )
    text = report("table4", raw(trained(("fastformer", "vanilla")), [lost]))
    assert "oom: linear newsgroups N=128, repeat 0: out of memory within 1 GiB" in text


# the report


def test_trainings_that_were_too_short_are_named_for_each_dataset():
    short = raw(trained()).assign(best_epoch=3.0, epochs=3.0)
    long = raw(trained(task="imdb:classes=rating")).assign(best_epoch=1.5, epochs=3.0)
    text = report("table4", pd.concat([short, long], ignore_index=True), format="markdown")
    assert "- newsgroups: 35 of 35 trainings had the best validation score at the end" in text
    assert text.count("best validation score at the end") == 1
    assert "best validation score at the end" not in report("table4", long, format="markdown")


def test_a_table_without_a_counterpart_says_so():
    (alone,) = paper.ALONE
    text = " ".join(report(alone, raw(trained())).split())
    assert text == " ".join(report(alone, None).split())
    assert "effbench compares no results with table7" in text


@pytest.mark.parametrize("what", paper.WHAT)
@pytest.mark.parametrize("format", FORMATS)
def test_the_paper_alone_in_every_format(what, format):
    text = report(what, None, format=format)
    names = [row["name"] for row in paper.published()[what]["row"]]
    if format == "json":
        exported = json.loads(text)
        assert exported["caveats"]
        assert exported["source"]["arxiv"] == "2108.09084"
        assert exported["rows"]
    assert all(name in text for name in names)
    if format in ("table", "markdown"):
        assert "2108.09084 v5" in text
        assert all(" ".join(caveat.split()[:3]) in text for caveat in paper.published()[what]["caveats"])


def test_every_number_and_the_setting_are_in_the_report():
    records = raw(trained(("vanilla", "linear", "fastformer")))
    frame = paper.compare_scores("table4", records)
    for format in ("table", "markdown"):
        text = report("table4", records, format=format)
        for part in ("newsgroups (a stand-in), 2,000 training examples, 2 layers, d_model 64", "5 seeds",
                     "not scores", "Transformer read at most 512", "80.90 ± 0.20"):  # fmt: skip
            assert part in " ".join(text.split())
        assert f"{100 * frame['mean'].iloc[0]:.2f}" in text
    rows = pd.read_csv(io.StringIO(report("table4", records, format="csv")))
    np.testing.assert_allclose(rows["mean"], frame["mean"])
    exported = json.loads(report("table4", records, format="json"))
    assert [row["difference"] for row in exported["rows"]] == [
        None if math.isnan(d) else d for d in frame["difference"]
    ]
    assert [order["n"] for order in exported["ranks"]] == [3, 3]
    unequal = [*trained(("vanilla",), seeds=2), *trained(("linear",), seeds=3), *trained(("fastformer",))]
    assert " 2 to 5 seeds;" in " ".join(report("table4", raw(unequal)).split())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["tabel4"], "unknown table or figure 'tabel4'; did you mean 'table4'?"),
        (["table4", "nowhere"], "nowhere"),
        (["table5", "nowhere"], "nowhere"),
        (["table4", "."], "not a results folder"),
        (["table4", "filled"], "no training to compare with table4"),
        (["figure2", "filled"], "no times to compare with figure2"),
        (["table4", "--format", "xls"], "format 'xls' is not one of table, markdown, latex, csv, json"),
        (["table4", "filled", "--lengths", "long"], "lengths 'long' is not one of paper, equal"),
        (["figure2", "filled", "--lengths", "equal"], "--lengths goes with folders and one of table4"),
        (["table4", "--lengths", "equal"], "--lengths goes with folders"),
    ],
)
def test_wrong_usage_is_one_line(arguments, complaint, monkeypatch, capsys):
    fill(accuracy_records(("vanilla",), seeds=1, task="listops"))
    monkeypatch.setattr(sys, "argv", ["effbench", "paper", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_the_command_prints_the_report(monkeypatch, capsys):
    fill(trained(("linear", "fastformer"), seeds=2))
    for format in ("table", "csv"):
        monkeypatch.setattr(sys, "argv", ["effbench", "paper", "table4", "filled", "--format", format])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        shown = capsys.readouterr().out
        assert shown.rstrip("\n") == report("table4", load("filled", raw=True), format=format).rstrip("\n")


@pytest.mark.slow
def test_a_run_is_compared_with_the_paper(monkeypatch, capsys):
    """Two mechanisms and two seeds on a few made-up reviews, through the command line."""
    words = ("dull", "fine")
    reviews = [{"label": i % 2, "text": f"a {words[i % 2]} film {i} " * 6} for i in range(60)]
    Path("data").mkdir()
    for part in ("train", "test"):
        Path("data", f"{part}.jsonl").write_text("".join(json.dumps(review) + "\n" for review in reviews))

    def effbench(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["effbench", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return str(capsys.readouterr().out)

    grid = """
[[grid]]
mechanism = "{}"
seq_len = {}
probe = "accuracy"
task = "imdb:validation=10,epochs=1"
batch_size = 16
d_model = 16
heads = 2
layers = 1
repeats = 2
"""
    Path("small.toml").write_text(
        'name = "small"' + grid.format("vanilla", 8) + grid.format("fastformer", 16)
    )
    effbench(
        "run", "--config", "small.toml", "--data-dir", "data", "--out", "out", "--executor", "inline", "-q"
    )
    exported = json.loads(effbench("paper", "table4", "out", "--format", "json"))
    rows = {row["name"]: row for row in exported["rows"] if row["metric"] == "accuracy"}
    assert (rows["Transformer"]["seq_len"], rows["Fastformer"]["seq_len"]) == (8, 16)
    assert rows["Transformer"]["seeds_in_common"] == 2
    ours = load("out", raw=True)
    mean = ours[(ours["mechanism"] == "fastformer") & (ours["seq_len"] == 16)]["accuracy"].mean()
    assert rows["Fastformer"]["mean"] == pytest.approx(mean)
    text = report("table4", ours)
    assert "paper: IMDB; ours: imdb:epochs=1,validation=10, 50 training examples, 1 layer," in text
    assert "imdb is not the paper's IMDB data" in text

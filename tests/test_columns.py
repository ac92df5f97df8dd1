"""One schema of columns: known ones, and what a task of anybody's adds, from the record to every table."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import effbench
from effbench.common import columns
from effbench.records.analyse.scores import metric_of, scores_of, with_score
from effbench.records.analyse.summary import summarise
from effbench.show import comparison_tables as seeds
from effbench.show import plots
from effbench.show.blocks import as_text
from effbench.show.overview import overview
from effbench.show.progress import TerminalProgress
from effbench.sweep.inline import InlineExecutor
from effbench.sweep.sweep import Sweep

TASKS = Path(__file__).parent / "plugin_tasks.py"


def sweep(task: str, seeds: int = 2) -> Sweep:
    toml = (
        '[[grid]]\nmechanism = ["linear", "fastformer"]\nprobe = "accuracy"\n'
        f'task = "{TASKS}:{task}"\nseq_len = 8\nbatch_size = 16\nd_model = 8\nheads = 2\nlayers = 1\n'
        f"threads = 1\nrepeats = {seeds}\n"
    )
    return Sweep.from_toml(toml, "test", "ranking")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the plug-in's task, with what a terminal said meanwhile."""
    out = tmp_path_factory.mktemp("ranking") / "out"
    said = io.StringIO()
    with TerminalProgress(Console(file=said, width=200)) as progress:
        effbench.run(sweep("Ranking"), out, executor=InlineExecutor(), listener=progress)
    (out / "said.txt").write_text(said.getvalue())
    return out


def test_a_tasks_metric_and_priors_reach_progress_and_results(folder):
    said = (folder / "said.txt").read_text()
    assert said.count(" auc in ") == 4
    frame = pd.read_csv(folder / "results.csv")
    assert frame["metric"].tolist() == ["auc", "auc"]
    assert frame["auc"].between(0, 1).all()
    assert (frame["auc_low"] <= frame["auc"]).all()
    assert frame["auc_interval"].tolist() == ["t over 2 seeds"] * 2
    assert frame["loss_nats"].tolist() == [0.25, 0.25]
    assert frame["prior_sum_of_tokens"].tolist() == [0.75, 0.75]
    assert frame["accuracy"].isna().all()
    assert list(pd.read_parquet(folder / "results.parquet").columns) == list(frame.columns)


def test_its_tables_name_the_metric(folder):
    frame, raw = effbench.load(folder), effbench.load(folder, raw=True)
    text = as_text(overview(frame, raw), "markdown")
    assert "test auc" in text
    assert "| mechanism | length | auc | 95 % CI | loss nats |" in text
    assert "0.250" in text
    assert "baseline scores: sum of tokens 75.0 %" in text
    compared = seeds.comparison(raw, "linear")
    assert set(compared["metric"]) == {"auc", "test_loss_nats"}
    assert "auc in points" in as_text(seeds.comparison_blocks(raw, "linear"), "markdown")


def test_its_pictures_name_the_metric(folder):
    frame, raw = effbench.load(folder), effbench.load(folder, raw=True)
    drawn = dict(plots.draw_all(frame, raw))
    assert {"accuracy", "tradeoff", "bubble", "curves"} <= set(drawn)
    for name, figure in drawn.items():
        figure.draw_without_rendering()
        axes = [text for a in figure.axes for text in (a.get_xlabel(), a.get_ylabel())]
        assert any("auc" in text for text in axes), name
        assert not any("accuracy" in text for text in axes), name


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("NoMetric", "task NoMetric: its metric is 'recall', its scores are auc, loss_nats, examples"),
        ("TakenName", "task TakenName: a score cannot be called 'time_s'"),
    ],
)
def test_scores_that_do_not_fit_are_refused_with_the_reason(tmp_path, task, reason):
    frame = effbench.run(sweep(task, seeds=1), tmp_path / "out", executor=InlineExecutor())
    assert set(frame["status"]) == {"crashed"}
    assert frame["reason"].str.contains(reason, regex=False).all()


def test_names_carry_units():
    units = {
        "time_s": "seconds", "peak_bytes": "bytes", "accuracy": "share", "auc_low": "number",
        "prior_anything": "share", "prior_loss_nats": "number", "prior_unigram": "number",
        "tokens_per_s": "per_s",
        "state_bytes": "bytes", "waiting_s": "seconds", "padding_share": "share", "auc_interval": "text",
        "macro_f1_high": "share", "something": "number",
    }  # fmt: skip
    assert {name: columns.column(name).unit for name in units} == units
    assert columns.score_unit("auc") == "share"
    assert columns.score_unit("loss_nats") == "number"
    names = columns.of_summary(["auc"], ["prior_x"])
    assert len(names) == len(set(names))
    assert names.index("macro_f1_interval") < names.index("auc") < names.index("prior_x")
    assert names.index("prior_x") < names.index("train_seconds")


def test_records_of_earlier_versions_name_no_scores():
    raw = pd.DataFrame(
        {
            "probe": ["accuracy"] * 2, "status": ["ok"] * 2, "task": ["imdb"] * 2,
            "accuracy": [0.5, 0.6], "test_macro_f1": [0.4, 0.5],
        }
    )  # fmt: skip
    assert scores_of(raw) == {"accuracy": "accuracy", "macro_f1": "test_macro_f1"}
    assert metric_of(raw) == "accuracy"
    assert with_score(raw)["score"].tolist() == [0.5, 0.6]
    assert scores_of(raw.drop(columns="test_macro_f1")) == {"accuracy": "accuracy"}
    assert summarise(raw.iloc[:0]).empty

"""Click-through rates: scores are scikit-learn's, tables are what they say, and models become calibrated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score  # type: ignore[import-untyped]
from test_news import small, topical

import effbench
from effbench.cli import main
from effbench.common.spec import UsageError
from effbench.measured.data.behaviour_table import TableColumns, read_table
from effbench.measured.data.click_scores import (
    calibration_bins,
    click_intervals,
    click_scores,
    probabilities,
)
from effbench.measured.tasks.ctr import ClickThrough
from effbench.show import plots
from effbench.sweep.inline import InlineExecutor
from effbench.sweep.sweep import Sweep

__all__ = ["small"]  # a fixture

COLUMNS = TableColumns(user="", history="history", item="item", label="label")
TRAIN = pd.DataFrame(
    {
        "user": ["a", "b", "a", "c"],
        "history": ["i1 i2", "", "i2|i3", "i9"],
        "item": ["i3", "i1", "i2", "i1"],
        "label": [1, 0, 0, 1],
    }
)
TEST = pd.DataFrame({"user": ["d", "a"], "history": ["i1", "i3"], "item": ["i4", "i2"], "label": [0, 1]})


def predictions(count: int, seed: int = 0, digits: int = 1):
    """Log odds with ties, labels that follow them, and users."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-1, 1.5, count).round(digits)
    labels = (rng.random(count) < probabilities(log_odds)).astype(np.int8)
    return log_odds, labels, rng.integers(count // 8, size=count)


def write_table(folder: Path, train: pd.DataFrame = TRAIN, test: pd.DataFrame = TEST) -> Path:
    folder.mkdir(exist_ok=True)
    train.to_csv(folder / "train.csv", index=False)
    test.to_csv(folder / "test.csv", index=False)
    return folder


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn(seed):
    log_odds, labels, _ = predictions(3000, seed)
    found = click_scores(log_odds, labels)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, log_odds))
    assert found["log_loss_nats"] == pytest.approx(log_loss(labels, probabilities(log_odds)))
    best = np.full(len(labels), labels.mean())
    expected = 1 - found["log_loss_nats"] / log_loss(labels, best)
    assert found["information_gain"] == pytest.approx(expected)


def test_the_best_constant_gains_nothing_and_is_calibrated():
    _, labels, _ = predictions(500)
    rate = labels.mean()
    found = click_scores(np.full(len(labels), np.log(rate / (1 - rate))), labels)
    wanted = {"auc": 0.5, "information_gain": 0, "calibration_error": 0}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-9)
    sure = click_scores(np.where(labels == 1, 800.0, -800.0), labels)  # no logarithm of zero
    assert sure == pytest.approx(
        {"auc": 1, "log_loss_nats": 0, "information_gain": 1, "calibration_error": 0}
    )
    assert click_scores(np.full(len(labels), 3.0), labels)["information_gain"] < 0


def test_bins_hold_all_candidates_evenly_and_in_any_order():
    log_odds, labels, _ = predictions(4000, digits=6)
    bins = calibration_bins(log_odds, labels)
    assert len(bins["candidates"]) == 15
    assert bins["candidates"].sum() == 4000
    np.testing.assert_allclose(bins["candidates"], 4000 / 15, atol=2)
    assert (np.diff(bins["predicted"]) > 0).all()
    assert (bins["candidates"] * bins["observed"]).sum() == pytest.approx(labels.sum())
    order = np.random.default_rng(1).permutation(4000)
    again = calibration_bins(log_odds[order], labels[order])
    np.testing.assert_allclose(again["observed"], bins["observed"])
    # labels that follow the predictions: the error is noise, and that of doubled odds is not
    doubled = click_scores(2 * log_odds, labels)["calibration_error"]
    assert click_scores(log_odds, labels)["calibration_error"] < 0.03 < doubled


def test_equal_predictions_share_a_bin():
    labels = np.array([0, 1] * 20)
    assert calibration_bins(np.zeros(40), labels)["observed"].tolist() == [0.5]
    bins = calibration_bins(np.repeat([0.0, 1.0], 20), labels)
    assert bins["candidates"].tolist() == [20, 20]


def test_intervals_are_those_of_a_bootstrap_over_users():
    log_odds, labels, users = predictions(1600)
    found = click_intervals(log_odds, labels, users)
    rows = [np.flatnonzero(users == user) for user in np.unique(users)]
    rng = np.random.default_rng(0)
    samples: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(400):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        for name, value in click_scores(log_odds[drawn], labels[drawn]).items():
            if name in samples:
                samples[name].append(value)
    for name, (low, high) in found.items():
        wanted = np.percentile(samples[name], (2.5, 97.5))
        np.testing.assert_allclose((low, high), wanted, atol=0.15 * (wanted[1] - wanted[0]))
        assert low < click_scores(log_odds, labels)[name] < high


def test_every_candidate_is_an_example(small: Path):
    task = ClickThrough(validation=2, title=4)
    splits = task.data(2, 0, small)
    part = splits.train
    batch = task.batch(part, np.arange(len(part)))
    shown = batch["labels"] >= 0
    assert int(shown.sum()) == len(part.candidates) == splits.facts["train_candidates"]
    assert batch["candidates"][shown].tolist() == part.candidates.tolist()
    assert splits.facts["train_click_share"] == pytest.approx((part.labels == 1).mean())

    class Constant(torch.nn.Module):
        def forward(self, history, mask, candidates):
            return torch.zeros(candidates.shape)

    assert float(task.loss(Constant(), batch)) == pytest.approx(np.log(2))
    full = task.full_batch(splits, 3, 2)
    assert full["candidates"].shape == full["labels"].shape == (3, np.diff(part.candidate_starts).max())


@pytest.mark.parametrize("form", ["csv", "parquet", "lists"])
def test_a_table_is_read_as_impressions(tmp_path: Path, form):
    write_table(tmp_path)
    if form != "csv":
        for part in ("train", "test"):
            table = pd.read_csv(tmp_path / f"{part}.csv", keep_default_na=False)
            if form == "lists":
                table["history"] = table["history"].str.split(r"[ |]+", regex=True)
                table["history"] = [[name for name in names if name] for names in table["history"]]
            table.to_parquet(tmp_path / f"{part}.parquet")
            (tmp_path / f"{part}.csv").unlink()
    mind, _ = read_table(tmp_path, COLUMNS)
    train, test = mind.parts["train"], mind.parts["test"]
    names = mind.titles.written()
    assert names[0] == ""
    assert [names[row] for row in train.candidates] == ["i3", "i1", "i2", "i1"]
    assert [names[row] for row in train.history] == ["i1", "i2", "i2", "i3", "i9"]
    assert train.lengths.tolist() == [2, 0, 2, 1]
    assert train.labels.tolist() == [1, 0, 0, 1]
    assert train.users[0] == train.users[2] == test.users[1]
    assert len({*train.users, *test.users}) == 4
    assert train.facts()["without_history"] == 1
    # an id that the training part has twice has a token of its own
    own = mind.vocabulary(train, 10)
    assert {mind.titles.lexicon[word] for word in np.flatnonzero(own > 1)} == {"i1", "i2", "i3"}


def test_a_table_may_have_titles_and_other_names(tmp_path: Path):
    names = {"history": "clicks", "label": "y", "user": "who"}
    write_table(tmp_path, TRAIN.rename(columns=names), TEST.rename(columns=names))
    items = pd.DataFrame(
        {"item": ["i1", "i2", "i3", "i4", "i9", "i1"], "title": [*"abc", "", "a b", "other"]}
    )
    items.to_csv(tmp_path / "items.csv", index=False)
    columns = TableColumns(user="who", history="clicks", item="item", label="y")
    mind, digest = read_table(tmp_path, columns)
    assert mind.titles.written() == ["", "a", "b", "c", "", "a b"]
    assert mind.facts == {"news_without_title": 1, "news_with_other_titles": 1}
    assert mind.parts["train"].users[0] == mind.parts["train"].users[2]
    anonymous, other = read_table(write_table(tmp_path / "b", TRAIN.drop(columns="user"),
                                              TEST.drop(columns="user")), COLUMNS)  # fmt: skip
    assert len({*anonymous.parts["train"].users, *anonymous.parts["test"].users}) == 6
    assert other != digest


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ({"label": [0, 1, 2, 0]}, "train.csv: row 3: column 'label' is '2', neither 0 nor 1"),
        ({"label": [0, 1, 2**62, 0]}, f"train.csv: row 3: column 'label' is '{2**62}', neither 0 nor 1"),
        ({"label": [1, 1, 1, 1]}, "train.csv: column 'label' is 1 in all 4 rows, not 0 and 1"),
        ({"item": ["i1", "", "i2", "i3"]}, "train.csv: row 2: column 'item' has ''"),
        ({"item": ["i1", "i 2", "i2", "i3"]}, "train.csv: row 2: column 'item' has 'i 2'"),
        ({"history": ["", "", "i1 \x01", ""]}, "train.csv: row 3: column 'history' has '\\\\x01'"),
        ({"user": ["a", "b", "c", ""]}, "train.csv: row 4: column 'user' has ''"),
    ],
)
def test_a_wrong_table_is_refused_with_its_place(tmp_path: Path, damage, complaint):
    write_table(tmp_path, TRAIN.assign(**damage))
    with pytest.raises(UsageError, match=complaint):
        read_table(tmp_path, COLUMNS)


def test_tables_that_are_no_tables(tmp_path: Path):
    def refused(complaint: str) -> None:
        with pytest.raises(UsageError, match=complaint):
            read_table(tmp_path, COLUMNS)

    write_table(tmp_path, TRAIN.drop(columns="history"))
    refused("train.csv: there is no column 'history', only user, item, label")
    write_table(tmp_path, TRAIN.drop(columns="user"))
    refused("train.csv: there is no column 'user'")
    write_table(tmp_path, TRAIN[["user", "history", "item", "item", "label"]])
    refused("train.csv: the table has several columns 'item'")
    write_table(tmp_path, test=TEST.iloc[:0])
    refused("test.csv: the table has no rows")
    (tmp_path / "test.csv").write_bytes(b"")
    refused("test.csv: cannot be read as CSV")
    (tmp_path / "test.csv").write_text("user,history,item,label\na,i1,i2\n")
    refused("test.csv: cannot be read as CSV: .*4 columns, got 3")
    (tmp_path / "test.csv").unlink()
    refused("there is no test.csv .* or test.parquet")
    (tmp_path / "test.parquet").write_bytes(b"PAR1 no more")
    refused("test.parquet: cannot be read as Parquet")
    TEST.assign(item=[1.5, 2.0]).to_parquet(tmp_path / "test.parquet")
    refused("test.parquet: column 'item' is of type double, not text or integers")
    write_table(tmp_path)
    refused("test.parquet: test.csv is there too; keep one")
    (tmp_path / "test.parquet").unlink()
    pd.DataFrame({"item": ["i1"], "title": ["a"]}).to_csv(tmp_path / "items.csv", index=False)
    refused("train.csv: row 1: column 'history' names 'i2', which the table of items lacks")


def test_a_wrong_label_ends_the_command_in_one_line(tmp_path: Path, monkeypatch, capsys):
    write_table(tmp_path / "data", TRAIN.assign(label=[0, 1, 2, 0]))
    command = (
        "effbench run -m mean-words --probe accuracy --seq-len 5 --task ctr:dataset=table "
        f"--data-dir {tmp_path / 'data'} --out {tmp_path / 'out'}"
    )
    monkeypatch.setattr("sys.argv", command.split())
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "row 3: column 'label' is '2', neither 0 nor 1" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"dataset": "adressa"}, "dataset is 'adressa', not mind, amazon-games or table"),
        ({"split": "days"}, "split is 'days', not files or users"),
        ({"item": ""}, "item is empty, not the name of a column"),
        ({"item": "label"}, "user, history, item and label must be different columns"),
    ],
)
def test_options_that_no_task_of_clicks_has(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        ClickThrough(**options)


def test_users_are_left_out_for_the_test_part(tmp_path: Path):
    splits = ClickThrough(split="users", validation=20, test=25).data(5, 0, topical(tmp_path))
    users = [set(part.users) for part in (splits.train, splits.validation, splits.test)]
    assert not users[0] & users[1]
    assert not users[0] & users[2]
    assert not users[1] & users[2]
    assert len(splits.test) == 25
    few = topical(tmp_path / "few", users=2)
    with pytest.raises(UsageError, match="validation=20 leaves no user to train on"):
        ClickThrough(split="users", validation=20).fingerprint(few)


def world(folder: Path, rows: int) -> Path:
    """Write tables in which a click is likely, not certain, if the item has the last click's topic."""
    rng = np.random.default_rng(0)
    folder.mkdir()

    def part(rows: int) -> pd.DataFrame:
        topic, shown = rng.integers(3, size=(2, rows))
        history = [" ".join(f"i{10 * of + n}" for n in rng.integers(10, size=4)) for of in topic]
        clicked = rng.random(rows) < np.where(topic == shown, 0.8, 0.1)
        item = [f"i{10 * of + rng.integers(10)}" for of in shown]
        return pd.DataFrame({"history": history, "item": item, "label": clicked.astype(int)})

    part(rows).to_csv(folder / "train.csv", index=False)
    part(rows // 2).to_parquet(folder / "test.parquet")
    return folder


@pytest.mark.slow
def test_models_of_a_planted_world_are_calibrated_and_drawn(tmp_path: Path):
    toml = (
        '[[grid]]\nmechanism = ["fastformer", "mean-words"]\nprobe = "accuracy"\n'
        'task = "ctr:dataset=table,validation=300,title=2,epochs=6,lr=0.02,dropout=0,patience=6"\n'
        "seq_len = 5\nbatch_size = 32\nd_model = 16\nheads = 2\nlayers = 1\nthreads = 1\nrepeats = 1\n"
    )
    sweep = Sweep.from_toml(toml, "test", "clicks")
    data = world(tmp_path / "ctr", 2000)
    frame = effbench.run(sweep, tmp_path / "out", data_dir=data.parent, executor=InlineExecutor())
    assert frame["status"].tolist() == ["ok"] * 2
    # the best possible predictions: log odds of .8 and .1
    best = (0.5004 + 2 * 0.3251) / 3
    assert (frame["log_loss_nats"] < 0.25 * frame["prior_base_rate_log_loss_nats"] + 0.75 * best).all()
    assert (frame["auc"] > 0.8).all()
    assert (frame["calibration_error"] < 0.08).all()
    assert (frame["auc_low"] < frame["auc"]).all()
    assert (frame["information_gain_high"] > frame["information_gain"]).all()
    assert set(frame["auc_interval"]) == {"bootstrap over users"}
    assert frame["prior_base_rate"].tolist() == [0.5] * 2
    raw = effbench.load(tmp_path / "out", raw=True)
    assert [sum(counts) for counts in raw["samples_test_bin_candidates"]] == [1000] * 2
    ((name, figure),) = plots.draw(frame, raw, "reliability")
    assert name == "reliability"
    drawn = [line for line in figure.axes[0].get_lines() if line.get_gid() != "perfect"]
    assert len(drawn) == 3  # two models and logistic regression
    heights = np.asarray(drawn[0].get_ydata(), dtype=float)
    np.testing.assert_allclose(heights, raw["samples_test_bin_observed"][0])
    plots.save(figure, tmp_path / "reliability.png")
    # lines of other scores than the metric would be far from it
    (_, scores), *_ = plots.draw(frame, raw, "accuracy")
    lines = {line.get_gid() for line in scores.axes[0].get_lines()}
    assert {"baseline-base rate", "baseline-logreg"} <= lines
    assert "baseline-logreg log loss nats" not in lines

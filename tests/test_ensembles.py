"""Predictions of trainings, and ensembles: the mean of their scores, written, scored and recorded."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_news import small, topical  # noqa: F401  # small is a fixture

import effbench
from effbench.cli import main
from effbench.common import predictions
from effbench.common.predictions import Predictions
from effbench.common.ranking import impression_scores, mean_scores
from effbench.common.spec import UsageError
from effbench.measured.tasks.news import NewsRecommendation
from effbench.records.ensembles import ensembles
from effbench.records.packing import pack
from effbench.records.store import Store
from effbench.sweep.inline import InlineExecutor
from effbench.sweep.planning import plan
from effbench.sweep.sweep import Sweep

SWEEP = """
[[grid]]
mechanism = ["mean-words", "fastformer"]
probe = "accuracy"
task = "news:title=4,validation=6,epochs=1,lr=0.02"
seq_len = 5
batch_size = 16
d_model = 8
heads = 2
layers = 1
repeats = 2
threads = 1
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path, Sweep]:
    """Return (data, results with predictions, sweep)."""
    data, out = topical(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("results") / "out"
    sweep = Sweep.from_toml(SWEEP, "test", "ranking")
    effbench.run(sweep, out, data_dir=data, predictions=True, executor=InlineExecutor())
    return data, out, sweep


def written(out: Path) -> dict[tuple[str, int], Predictions]:
    store = Store(out)
    cells = [record.cell for record in store.read()[0]]
    return {(c.label, c.repeat): predictions.read(store.predictions(c) / "dev.npz") for c in cells}


def test_predictions_are_in_the_files_order_and_give_the_scores_of_the_record(trained):
    data, out, _ = trained
    splits = NewsRecommendation(title=4, validation=6).data(5, 0, data)
    for record in Store(out).read()[0]:
        own = written(out)[record.cell.label, record.cell.repeat]
        assert own.ids.tolist() == splits.test.ids.tolist()
        assert own.labels.tolist() == splits.test.labels.tolist()
        means = mean_scores(impression_scores(own.scores, own.labels, own.starts))
        assert means["auc"] == pytest.approx(record.values["auc"], abs=1e-6)
        assert means["mrr"] == pytest.approx(record.values["test_mrr"], abs=1e-6)
        lines = (Store(out).predictions(record.cell) / "dev.txt").read_text().splitlines()
        assert [line.split()[0].encode() for line in lines] == own.ids.tolist()
        for row, line in enumerate(lines):
            ranks = [int(rank) for rank in line.split()[1].strip("[]").split(",")]
            scores = own.scores[own.starts[row] : own.starts[row + 1]]
            assert sorted(ranks) == list(range(1, len(scores) + 1))
            assert [r for _, r in sorted(zip(-scores, ranks, strict=True))] == sorted(ranks)


def test_a_training_without_its_predictions_is_made_again_and_others_are_not(trained, tmp_path):
    data, out, sweep = trained
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    store = Store(copy)
    assert not plan(sweep, store, data_dir=data, predictions=True).jobs
    gone = store.read()[0][0].cell
    store.drop_predictions(gone)
    assert [job.cell for job in plan(sweep, store, data_dir=data, predictions=True).jobs] == [gone]
    assert not plan(sweep, store, data_dir=data).jobs
    # a training without --predictions leaves none of an older one behind
    effbench.run(sweep, copy, data_dir=data, resume=False, executor=InlineExecutor())
    assert not any(store.predictions(record.cell).exists() for record in store.read()[0])


def test_a_test_part_without_labels_is_predicted_too(small, tmp_path):  # noqa: F811
    rows = (small / "dev" / "behaviors.tsv").read_text().splitlines()
    train = small / "train" / "behaviors.tsv"  # every user has an impression that can be scored
    lines = [row for row in train.read_text().splitlines() if "-1" in row and "-0" in row]
    train.write_text("\n".join(lines) + "\n")
    shutil.copytree(small / "dev", small / "test")
    unlabelled = [
        "\t".join((*row.split("\t")[:-1], " ".join(c[:-2] for c in row.split("\t")[-1].split())))
        for row in rows
    ]
    (small / "test" / "behaviors.tsv").write_text("\n".join(unlabelled) + "\n")
    out = tmp_path / "out"
    sweep = Sweep.from_toml(SWEEP.replace("validation=6", "validation=1"), "test", "ranking")
    sweep = sweep.override({"mechanism": ["mean-words"], "repeats": "2"})
    effbench.run(sweep, out, data_dir=small, predictions=True, executor=InlineExecutor())
    store = Store(out)
    for record in store.read()[0]:
        assert record.status == "ok", record.reason
        dev, test = (predictions.read(store.predictions(record.cell) / f"{p}.npz") for p in ("dev", "test"))
        assert test.ids.tolist() == dev.ids.tolist()
        assert (test.labels == -1).all()
        assert np.array_equal(test.scores, dev.scores)
    (mean,) = ensembles(store)
    assert (store.predictions(mean.cell) / "test.txt").is_file()


def test_a_test_part_with_labels_is_predicted(tmp_path):
    data = topical(tmp_path / "data", users=12)
    shutil.copytree(data / "dev", data / "test")
    sweep = Sweep.from_toml(SWEEP, "test", "ranking").override({"mechanism": ["mean-words"], "repeats": "1"})
    effbench.run(sweep, tmp_path / "out", data_dir=data, predictions=True, executor=InlineExecutor())
    store = Store(tmp_path / "out")
    (record,) = store.read()[0]
    assert sorted(path.name for path in store.predictions(record.cell).iterdir()) == ["test.npz", "test.txt"]
    assert not plan(sweep, store, data_dir=data, predictions=True).jobs


def test_an_ensemble_is_the_mean_of_the_scores(trained, capsys, monkeypatch, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(trained[1], out)
    members = written(out)
    records = {record.cell.label: record for record in ensembles(Store(out))}
    assert set(records) == {"mean-words:ensemble=2", "fastformer:ensemble=2"}
    for label, record in records.items():
        of = [own for (name, _), own in members.items() if name == label.partition(":")[0]]
        scores = (of[0].scores + of[1].scores) / 2
        means = mean_scores(impression_scores(scores, of[0].labels, of[0].starts))
        assert record.values["auc"] == pytest.approx(means["auc"], abs=1e-6)
        low, high = (float(record.values[name] or 0) for name in ("auc_low", "auc_high"))
        assert low <= means["auc"] <= high
        mean = predictions.read(Store(out).predictions(record.cell) / "dev.npz")
        np.testing.assert_allclose(mean.scores, scores, rtol=1e-6)
    pack(out)
    arguments = ["effbench", "ensemble", str(out), "-m", "fastformer"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ending:
        main()
    assert not ending.value.code
    assert "predictions: " in capsys.readouterr().out
    kept = [r for r in Store(out).read()[0] if "ensemble" in r.cell.options]
    assert [r.cell.label for r in kept] == ["fastformer:ensemble=2"]
    summary = effbench.load(out)
    assert set(summary.loc[summary["options"] == "ensemble=2", "repeats"]) == {1}
    # an ensemble is no member of another one
    assert {r.cell.label for r in ensembles(Store(out))} == set(records)


def test_what_cannot_be_joined_is_refused(trained, tmp_path):
    _, out, _ = trained
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    store = Store(copy)
    with pytest.raises(UsageError, match="'nrms' has no predictions in .*mean-words"):
        ensembles(store, ["nrms"])
    records = [r for r in store.read()[0] if r.cell.label == "mean-words"]
    path = store.predictions(records[0].cell) / "dev.npz"
    own = predictions.read(path)
    dataclasses.replace(own, labels=1 - own.labels).write(path.parent, "dev")
    with pytest.raises(UsageError, match="are of different candidates"):
        ensembles(store)
    for content in (b"", path.read_bytes()[:100], b"no archive"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"dev.npz holds no predictions"):
            ensembles(store)
    own.write(path.parent, "dev")
    store.write(dataclasses.replace(records[0], code="other"))
    with pytest.raises(UsageError, match="are of different code or data"):
        ensembles(store)
    for record in store.read()[0]:
        store.drop_predictions(record.cell)
    with pytest.raises(UsageError, match="run the sweep with --predictions"):
        ensembles(store)
    imdb = Sweep.from_toml(SWEEP.replace("news:title=4,validation=6,", "listops:"), "test", "other")
    imdb = imdb.override({"mechanism": ["fastformer"]})
    with pytest.raises(UsageError, match="the task listops:.* writes no predictions"):
        plan(imdb, Store(tmp_path / "none"), predictions=True)
    costs = Sweep.preset("quick").override({"probe": "time"})
    with pytest.raises(UsageError, match="--predictions: the sweep has no training"):
        plan(costs, Store(tmp_path / "none"), predictions=True)

"""Lengths are real: tasks fill what is asked, or the mean length is recorded, and said where it is short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from frames import accuracy_records
from test_damaged_files import READERS
from test_summary_files import json_files

import effbench
from effbench.common import registry
from effbench.common.extent import mostly_padding
from effbench.common.spec import Record, UsageError
from effbench.measured.data.listops_trees import Shape
from effbench.measured.data.source_targets import SourceTargets
from effbench.measured.data.text_pairs import Pairs
from effbench.measured.models.batches import Count
from effbench.measured.tasks.base import Task
from effbench.measured.tasks.copying import Copying
from effbench.measured.tasks.listops import ListOps
from effbench.measured.tasks.lookup import Lookup
from effbench.measured.tasks.lra_image import GreyImage
from effbench.measured.tasks.mqar import MQAR
from effbench.measured.tasks.pathfinder import Pathfinder
from effbench.measured.tasks.summarization import Summarization
from effbench.records.analyse.summary import summarise
from effbench.records.frame import raw_frame
from effbench.show import plots
from effbench.show.blocks import as_text
from effbench.show.overview import overview
from effbench.sweep.inline import InlineExecutor
from effbench.sweep.sweep import Sweep

SMALL = {"train": 40, "validation": 10, "test": 30}
GENERATED: dict[str, tuple[Task, tuple[int, ...]]] = {
    "listops": (ListOps(**SMALL), (8, 16, 64, 600, 2000)),
    "mqar": (MQAR(**SMALL), (16, 64, 1024)),
    "lookup": (Lookup(**SMALL), (8, 65, 1000)),
    "copying": (Copying(**SMALL), (8, 64, 1000)),
    "pathfinder": (Pathfinder(contour="baseline", **SMALL), (1024,)),
}
FILES = {"amazon", "ctr", "imdb", "lra-image", "lra-text", "mind-topics", "news", "newsgroups", "polarity"}
FILES |= {"retrieval", "summarization", "masked-language", "causal-language"}
SHORT = "tokens on average"


def read_by_the_model(task: Task, part) -> float:
    """Return the mean real tokens of a row of a part, as a model gets them in batches."""
    count = Count()
    for rows in np.array_split(np.arange(len(part)), 3):
        list(count.of([task.batch(part, rows)]))
    assert count.mean is not None
    return count.mean


def test_these_are_all_tasks():
    assert set(GENERATED) | FILES == set(registry.names("task"))


@pytest.mark.parametrize(
    ("name", "seq_len"), [(name, n) for name, (_, lengths) in GENERATED.items() for n in lengths]
)
def test_a_task_that_generates_its_rows_fills_the_length(name, seq_len):
    task = GENERATED[name][0]
    task.check_length(seq_len, None)
    splits = task.data(seq_len, 0, None)
    for part in (splits.train, splits.test):
        assert 0.75 * seq_len <= read_by_the_model(task, part) <= seq_len
    extent = task.extent(seq_len, 0, None)
    assert extent is not None
    assert (extent.train, extent.validation, extent.test) == (40, 10, 30)
    assert extent.tokens == pytest.approx(read_by_the_model(task, splits.test), rel=0.1)


@pytest.mark.parametrize("seq_len", [64, 256])
def test_a_mixture_is_as_long_as_its_rows_are(seq_len):
    task = MQAR(mix="based", vocab=512, **SMALL)
    splits, extent = task.data(seq_len, 0, None), task.extent(seq_len, 0, None)
    assert extent is not None
    assert extent.passes is not None
    assert extent.tokens == pytest.approx(read_by_the_model(task, splits.test))
    assert extent.passes[0][1] == pytest.approx(read_by_the_model(task, splits.train), rel=0.05)
    assert (extent.train, extent.test) == (len(splits.train), len(splits.test))


@pytest.mark.parametrize("name", READERS)
def test_the_extent_of_files_is_that_of_the_data(name, tmp_path):
    task, make, _ = READERS[name]
    make(tmp_path / "data")
    seq_len = 1024 if isinstance(task, GreyImage | Pathfinder) else 12
    check_extent(task, seq_len, tmp_path / "data", rel=0.1 if name == "retrieval posts" else 1e-6)


def test_the_extent_of_summaries_is_that_of_the_data(tmp_path):
    json_files(tmp_path / "data")
    task = Summarization(dataset="files", vocabulary=300, max_length=8)
    for seq_len in (4, 2000):
        check_extent(task, seq_len, tmp_path / "data", rel=1e-6)


def check_extent(task: Task, seq_len: int, folder: Path, rel: float) -> None:
    """``rel``: the pairs of some are drawn later."""
    task.fingerprint(folder)
    task.check_length(seq_len, folder)
    extent, splits = task.extent(seq_len, 0, folder), task.data(seq_len, 0, folder)
    parts = splits.train, splits.validation, splits.test
    assert extent is not None
    assert (extent.train, extent.validation, extent.test) == tuple(map(len, parts))
    assert extent.tokens == pytest.approx(read_by_the_model(task, splits.test), rel=rel)
    batch = task.batch(splits.train, np.arange(len(splits.train)))
    counted = [int(batch[name].sum()) for name in ("mask", "target_mask") if name in batch]
    assert counted == tokens_of(splits.train), "the throughput of a training counts these"


def tokens_of(part) -> list[int]:
    """Return the tokens of a part, and those to write, if there are any, with the end of each row."""
    if isinstance(part, SourceTargets):
        return [int(part.source_lengths.sum()), int(part.target_lengths.sum()) + len(part)]
    if isinstance(part, Pairs):
        return [sum(int(side.lengths.sum()) for side in part.sides)]
    return [int(part.lengths.sum())]


def test_lras_own_trees_are_asked_for_by_their_options():
    given = Shape.of(2000, 10, 10, 500)
    assert given == Shape(max_depth=10, max_args=10, min_length=500, max_length=2000)
    (cell, *_) = [c for c in Sweep.preset("lra").cells() if c.task == "listops"]
    task = ListOps(**{**cell.task_options, **SMALL})
    assert task._shape(cell.seq_len) == given
    lengths = task.data(cell.seq_len, 0, None).train.lengths
    assert lengths.min() > 500
    assert 0.5 <= lengths.mean() / 2000 <= 0.6


def test_trees_that_cannot_fill_the_length_are_refused_unless_a_length_is_given():
    with pytest.raises(UsageError, match="no tree has more than 48"):
        ListOps(max_depth=3, max_args=3).check_length(64, None)
    short = ListOps(max_depth=3, max_args=3, min_length=8)
    short.check_length(64, None)
    assert mostly_padding(64, short.extent(64, 0, None).tokens)


def test_every_length_has_a_depth():
    depths = [Shape.of(n, None, 10).max_depth for n in range(5, 5000)]
    assert depths == sorted(depths)
    for args in (2, 3, 6, 50):
        assert 2 <= Shape.of(4096, None, args).max_depth <= 4096 / 3 + 1


def test_a_training_records_the_mean_length_of_its_rows(tmp_path):
    sweep = Sweep.from_toml(
        '[[grid]]\nmechanism = "linear"\nprobe = "accuracy"\nlayers = 1\nd_model = 8\nheads = 2\n'
        'task = ["listops:train=32,validation=8,test=16,epochs=1", '
        '"listops:max_depth=2,max_args=3,min_length=4,train=32,validation=8,test=16,epochs=1"]\n'
        "seq_len = 24\nbatch_size = 8\nthreads = 1\nrepeats = 1\n",
        "test",
        "test",
    )
    frame = effbench.run(sweep, tmp_path / "out", executor=InlineExecutor())
    assert (frame["status"] == "ok").all(), frame["reason"].tolist()
    means = frame.set_index("task")["mean_tokens"]
    full, short = (
        ListOps(**cell.task_options).data(24, 0, None).test.lengths.mean() for cell in sweep.cells()
    )
    assert sorted(means) == pytest.approx(sorted([full, short]))
    assert as_text(overview(frame), "markdown").count(SHORT) == 1
    for row in effbench.load(tmp_path / "out", raw=True).to_dict(orient="records"):
        (options,) = (cell.task_options for cell in sweep.cells() if cell.task_label == row["task"])
        trained_on = ListOps(**options).data(24, 0, None).train.lengths.sum()
        assert row["tokens_per_s"] * sum(row["samples_step_s"]) == pytest.approx(trained_on)
    assert (tmp_path / "out" / "results.csv").read_text().count("mean_tokens") == 1


def records(mean_tokens: float | None) -> list[Record]:
    made = accuracy_records(("vanilla", "linear"), lengths=(64, 3000), seeds=1)
    if mean_tokens is None:
        return made
    means = {64: 60.0, 3000: mean_tokens}
    return [Record(**{**vars(r), "values": {**r.values, "mean_tokens": means[r.cell.seq_len]}}) for r in made]


@pytest.mark.parametrize(
    ("mean_tokens", "said"), [(None, False), (1500.0, False), (1499.0, True), (11.2, True)]
)
def test_tables_say_when_and_only_when_more_than_half_is_padding(mean_tokens, said):
    raw = raw_frame(records(mean_tokens))
    text = as_text(overview(summarise(raw), raw), "markdown")
    assert text.count(SHORT) == said, "the other length is not padded"
    if said:
        assert f"rows have {mean_tokens:,.0f} of 3,000 tokens on average" in text


@pytest.mark.slow
@pytest.mark.parametrize(("mean_tokens", "said"), [(1500.0, False), (1499.0, True)])
def test_plots_say_when_and_only_when_more_than_half_is_padding(mean_tokens, said):
    raw = raw_frame(records(mean_tokens))
    frame = summarise(raw)
    for kind in ("accuracy", "tradeoff", "bubble"):
        titles = [figure.get_suptitle() for _, figure in plots.draw(frame, raw, kind)]
        assert any("mostly padding" in title for title in titles) == said
        assert not any("mostly padding" in title for title in titles if "at 64 tokens" in title)
    ((_, figure),) = plots.draw(frame, raw, "accuracy", 3.4)
    axes = "".join(axis.get_xlabel().replace("\n", " ") for axis in figure.axes)
    assert ("mostly padding" in axes) == said, "in a paper the title is hidden"


def test_mean_lengths_are_optional_in_frames_of_any_version():
    old, new = (summarise(raw_frame(records(mean))) for mean in (None, 11.2))
    assert list(old.columns) == list(new.columns)
    assert old["mean_tokens"].isna().all()

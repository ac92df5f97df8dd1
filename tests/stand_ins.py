"""What the names in the documentation's examples stand for in a test: files, data and results folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from pages import ROOT, written
from repositories import commit, git
from test_news import topical
from test_summary_files import csv_files, json_files

import effbench
from effbench.common import weights
from effbench.common.spec import Cell
from effbench.measured.data.byte_pairs import SMALLEST, trained
from effbench.sweep.inline import InlineExecutor

REFERENCE = ROOT / "results" / "reference"
# The results folder that an example's name of one stands for, by the first words of the example that match.
# "trained" is a small one that is measured here. Where no words match, results/NAME is the committed folder
# of that name, and SMALL if there is none.
SMALL = "fastformers"
RESULTS = {
    "effbench ensemble ": "trained",
    "effbench paper table5 ": "trained",
    "effbench plot results/click-rates-mini ": "trained",
    "effbench paper table4 ": "paper-classification-mini",
    "effbench paper table6 ": "paper-summarization-mini",
    "effbench plot DIR --kind generation": "copying-mini",
    "effbench unpack ": SMALL,
}
TRAINED = """
[[grid]]
mechanism = "linear"
probe = "accuracy"
task = "{task}:title=4,validation=6,epochs=1"
seq_len = 5
batch_size = 64
d_model = 8
heads = 2
layers = 1
repeats = {repeats}
threads = 1
"""


def write_data(folder: Path) -> Path:
    """Write a data folder that holds a little of every data set that an example names; return it."""
    reviews = [{"label": i % 2, "rating": (2, 9)[i % 2], "text": f"text {i}"} for i in range(14_000)]
    posts = [{"label": f"group{i % 20}", "text": f"text {i}"} for i in range(4_000)]
    for name, rows in (("imdb", reviews), ("newsgroups", posts)):
        (folder / name).mkdir(parents=True)
        for part in ("train", "test"):
            (folder / name / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    topical(folder / "mind", users=1200)
    shutil.copytree(folder / "mind", folder / "amazon-games-mind")
    json_files(folder / "sumpubmed")
    csv_files(folder / "cnn_dailymail")
    return folder


def measure_trained(folder: Path) -> Path:
    """Train small models of news recommendation, with predictions, and of clicks; return their results."""
    data, results = topical(folder / "data"), folder / "results"
    for task, repeats in (("news", 2), ("ctr", 1)):
        sweep = effbench.Sweep.from_toml(TRAINED.format(task=task, repeats=repeats), "test", task)
        effbench.run(sweep, results, data_dir=data, predictions=task == "news", executor=InlineExecutor())
    return results


def put_files(folder: Path) -> None:
    """Put the files that examples name into the working folder."""
    shutil.copytree(ROOT / "docs" / "examples", folder / "docs" / "examples")
    source = (ROOT / "docs" / "examples" / "mechanism.py").read_text(encoding="utf-8")
    mine = source + "".join(
        f'\n\nclass {name}(MeanGate):\n    """Mine."""\n' for name in ("MyAttention", "Mine")
    )
    for name in ("path/to/mine.py", "mine.py", "attn.py", "mypackage/attn.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(mine)
    (folder / "mypackage" / "__init__.py").touch()
    (folder / "mine.toml").write_text(written("docs/sweep-file.md", "toml")[0])
    (folder / "plm").mkdir()  # a folder of a pre-trained encoder, as far as a plan looks into it
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / "plm" / name).write_text("{}")
    put_weights(folder / "fastformer.safetensors")


def put_weights(path: Path) -> None:
    """Write a file of weights as far as a plan reads it: the header and the byte pairs."""
    try:
        from safetensors.numpy import save_file
    except ImportError:  # the examples that need it are skipped
        return
    cell = Cell(
        mechanism="fastformer", probe="accuracy", task="masked-language", seq_len=256, d_model=128, heads=4,
        layers=2,
    )  # fmt: skip
    kept = {weights.BYTE_PAIRS: trained(["a text"], SMALLEST).written}
    save_file({"none": np.zeros(1)}, path, metadata=weights.header(cell, kept))


def put_repository(folder: Path) -> None:
    """Make the working folder a repository with two commits on its branch main, and a checkout beside it."""
    (folder / "pyproject.toml").write_text(written("docs/gate.md", "toml")[0])
    git(folder, "init", "--quiet")
    commit(folder)
    (folder / "changed").touch()
    commit(folder)
    shutil.copytree(folder, folder.parent / "other-checkout")


def put_results(folder: Path, words: list[str], trained: Path) -> None:
    """Copy the results folders that a command names into the working folder, under these names."""
    command = " ".join(words)
    usual = next((name for start, name in RESULTS.items() if command.startswith(start)), None)
    named = {word for word, before in zip(words, ["", *words], strict=False) if before != "--out"}
    for name in {word for word in named if word == "DIR" or word.startswith("results/")}:
        source = trained if usual == "trained" else REFERENCE / (usual or SMALL)
        if usual is None and (REFERENCE / Path(name).name).is_dir():
            source = REFERENCE / Path(name).name
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("plots"))

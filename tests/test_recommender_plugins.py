"""Recommenders as plug-ins: found, told from mechanisms, and refused where they cannot be measured."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from news import D_MODEL, HEADS, clicks, small_news

from baselines.recommenders.nrms import NRMS
from effbench import Recommender, Sweep, UsageError
from effbench.common import registry
from effbench.common.spec import Cell, Option
from effbench.measured.mechanism import Unsupported
from effbench.measured.workload import recommender_maker
from effbench.records.store import Store
from effbench.sweep.axes import read_grid
from effbench.sweep.fingerprint import code_of
from effbench.sweep.planning import plan

EXAMPLE_SOURCE = Path(__file__).parents[1] / "docs" / "examples" / "recommender.py"
EXAMPLE = f"{EXAMPLE_SOURCE}:LargestWords"
TASK = f"{Path(__file__).parent}/plugin_tasks.py:Ranking"


def _recommending(folder: Path) -> str:
    """Write a task that trains recommenders, and return its name."""
    text = (
        Path(TASK.rpartition(":")[0]).read_text() + "\n\nclass Recommends(Ranking):\n    recommends = True\n"
    )
    (folder / "tasks.py").write_text(text)
    return f"{folder}/tasks.py:Recommends"


def cell(name: str, **options: Option) -> Cell:
    return Cell(
        mechanism=name, options=options, probe="accuracy", task=TASK, seq_len=6, d_model=D_MODEL, heads=HEADS
    )


def trained(*names: str, **axes: object) -> Sweep:
    grid = {"mechanism": list(names), "seq_len": 8, "probe": "accuracy", "task": TASK, **axes}
    return Sweep(name="trained", grids=(read_grid(grid, Path()),))


def test_ours_are_described_from_their_source():
    for name in registry.names("recommender"):
        plugin = registry.find(name, "recommender")
        assert plugin.kind == "recommender"
        assert plugin.parameters is not None
        assert "causal" not in {p.name for p in plugin.parameters}
        assert plugin.summary
        assert plugin.source
        assert issubclass(registry.load(plugin), Recommender)


def test_a_name_in_the_place_of_a_mechanism_is_told_by_its_group():
    assert registry.model("nrms").kind == "recommender"
    assert registry.model("vanilla").kind == "mechanism"
    assert registry.model_kind("nrms:ids=true") == "recommender"
    assert registry.model_kind("fastformer:variant=official") == "mechanism"


def test_a_class_of_a_file_is_told_by_its_base_class(tmp_path, plugin):
    assert registry.model(EXAMPLE).kind == "recommender"
    assert [p.name for p in registry.model(EXAMPLE).parameters or ()] == ["title"]
    assert registry.model(plugin("Empty")).kind == "mechanism"
    assert registry.model(plugin("Plain")).kind == "mechanism"
    (tmp_path / "mine.py").write_text(
        "import effbench\nfrom baselines.recommenders.nrms import NRMS\n"
        "class Own(effbench.Recommender):\n"
        "    def __init__(self, news, d_model, heads, *, max_len, dropout, gain: float = 1.0): ...\n"
        "class Child(Own): ...\nclass Other(NRMS): ...\nclass Odd(Missing): ...\n"
        "class Short(effbench.Recommender):\n    def __init__(self, news, *, max_len): ...\n"
    )
    kinds = {
        name: registry.model_kind(f"{tmp_path}/mine.py:{name}") for name in ("Own", "Child", "Other", "Odd")
    }
    assert kinds == {"Own": "recommender", "Child": "recommender", "Other": "recommender", "Odd": "mechanism"}
    assert [p.name for p in registry.model(f"{tmp_path}/mine.py:Child").parameters or ()] == ["gain"]
    assert registry.model(f"{tmp_path}/mine.py:Other").parameters is None
    with pytest.raises(UsageError, match=r"must accept \(news, d_model, heads, \*, max_len, dropout"):
        registry.model(f"{tmp_path}/mine.py:Short")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nrsm", "unknown recommender 'nrsm'; did you mean 'nrms'"),
        ("fastfromer", "unknown mechanism 'fastfromer'; did you mean 'fastformer'"),
        ("nrms:causal=true", "unknown option of nrms 'causal'; its options: ids, query, title"),
        ("plm-nr", "plm-nr needs the option folder=str"),
        ("mine.py:A", "there is no file 'mine.py'"),
    ],
)
def test_what_a_user_got_wrong_is_said(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        trained(text).cells()


def test_a_cell_of_a_recommender_has_one_layer_and_costs_are_refused():
    cells = trained("nrms", "nrms:ids=true", EXAMPLE, "vanilla", layers=[2, 3]).cells()
    layers = [(c.label.rpartition("/")[2], c.layers) for c in cells]
    assert {count for label, count in layers if label != "vanilla"} == {1}
    assert {count for label, count in layers if label == "vanilla"} == {2, 3}
    with pytest.raises(UsageError, match="nrms is a recommender: .*no cell of the probe time"):
        trained("nrms", probe=["time", "accuracy"]).cells()
    with pytest.raises(UsageError, match="nrms is a recommender"):
        registry.parse("nrms", "mechanism")  # as the audit and the gate ask


def test_a_task_that_is_none_of_recommendation_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nrms is a recommender: .* not with .*:Ranking"):
        plan(trained("vanilla", "nrms"), Store(tmp_path / "out"))
    planned = plan(trained("vanilla", "nrms", task=_recommending(tmp_path)), Store(tmp_path / "out"))
    assert {job.cell.mechanism for job in planned.jobs} == {"vanilla", "nrms"}


def test_a_cell_makes_its_recommender():
    news = small_news()
    make = recommender_maker(cell("nrms", query=20))
    assert make is not None
    model = make(news, max_len=6, dropout=0.1)
    assert isinstance(model, NRMS)
    assert model.pool_words.hidden.out_features == 20
    assert recommender_maker(cell("vanilla")) is None
    wrong = recommender_maker(cell("nrms", query=0))
    assert wrong is not None
    with pytest.raises(Unsupported, match="nrms:query=0: query must be at least 1, got 0"):
        wrong(news, max_len=6, dropout=0.1)


def test_the_example_recommends():
    news = small_news()
    make = recommender_maker(cell(EXAMPLE, title=3))
    assert make is not None
    model = make(news, max_len=6, dropout=0.0).eval()
    history, mask, candidates = clicks(news, 4, 0)
    with torch.no_grad():
        scores = model(history, mask, candidates)
        table = model.encode(torch.arange(len(news)))
        assert torch.allclose(scores, model.score(table[history], mask, table[candidates]))
    assert not table[0].any()


def test_a_recommender_without_its_library_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(registry, "versions", lambda plugin: dict.fromkeys(plugin.requires))
    with pytest.raises(Unsupported, match=r"plm-nr needs transformers, .*pip install 'effbench\[plm\]'"):
        recommender_maker(cell("plm-nr", folder="x"))


def test_a_run_needs_the_folders_that_options_name_and_their_content_is_part_of_the_code(tmp_path):
    folder = tmp_path / "encoder"
    sweep = trained(f"plm-nr:folder={folder}", task=_recommending(tmp_path))

    def refused() -> str:
        with pytest.raises(UsageError) as refusal:
            plan(sweep, Store(tmp_path / "out"))
        return str(refusal.value)

    assert refused().startswith("plm-nr: folder=")
    assert refused().endswith("there is no such folder")
    folder.mkdir()
    assert "the folder has no file config.json" in refused()
    (folder / "config.json").write_text("{}")
    assert "the folder has no file *.safetensors or pytorch_model*.bin" in refused()
    planned = plan(sweep, Store(tmp_path / "out"), check_data=False)
    assert any("*.safetensors" in reason for reason in planned.unchecked)
    assert not (tmp_path / "out").exists()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "vocab.txt").write_text("a\n")
    job = plan(sweep, Store(tmp_path / "out")).jobs[0]
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "README.md").write_text("is not read")
    assert code_of(replace(job.cell, options={"folder": str(other)})) == job.code
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    (changed / "model.safetensors").write_bytes(b"other weights")
    assert code_of(replace(job.cell, options={"folder": str(changed)})) != job.code


def test_folders_that_a_plugin_reads_are_literals(tmp_path):
    path = tmp_path / "own.py"
    text = EXAMPLE_SOURCE.read_text()
    path.write_text(text.replace('source = "none: an example"', 'reads = {"title": "config.json"}'))
    with pytest.raises(UsageError, match="reads of LargestWords is "):
        registry.find(f"{path}:LargestWords", "recommender")

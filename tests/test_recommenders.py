"""The laws of every recommender: padding, batches, empty histories, and that all learn what words tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from news import D_MODEL, HEADS, MAX_LEN, MODELS, TITLE, build, clicks, small_news
from torch.nn.functional import cross_entropy

from baselines.recommenders.fim import FIM
from baselines.recommenders.mean_words import MeanWords
from baselines.recommenders.nrms import NRMS
from effbench import AdditivePooling, News, NewsIds, TitleWords
from effbench.measured.models import title_words
from effbench.measured.probes.correctness import Incorrect
from effbench.measured.probes.recommender_laws import check_recommender

models = pytest.mark.parametrize("name", MODELS)
NEWS = small_news()


pytestmark = pytest.mark.usefixtures("one_thread")


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@models
@torch.no_grad()
def test_scoring_the_batch_is_scoring_the_table(name):
    model = build(name, NEWS)
    history, mask, candidates = clicks(NEWS, 8, 1)
    table = model.encode(torch.arange(len(NEWS)))
    scores = model(history, mask, candidates)
    assert scores.shape == (8, 5)
    close(scores, model.score(table[history], mask, table[candidates]))


@models
@torch.no_grad()
def test_padding_of_a_history_changes_nothing(name):
    model = build(name, NEWS)
    history, mask, candidates = clicks(NEWS, 8, 2)
    scores = model(history, mask, candidates)
    rubbish = torch.where(mask, history, torch.randint(len(NEWS), history.shape))
    close(model(rubbish, mask, candidates), scores)
    short = mask.sum(1) <= 3
    close(model(history[short, :3], mask[short, :3], candidates[short]), scores[short])
    table = model.encode(torch.arange(len(NEWS)))
    kept = table[history].masked_fill(~mask.view(*mask.shape, *[1] * (table.ndim - 1)), torch.nan)
    close(model.score(kept, mask, table[candidates]), scores)


@models
@torch.no_grad()
def test_a_wider_table_and_the_vectors_of_padding_change_nothing(name):
    history, mask, candidates = clicks(NEWS, 8, 3)
    scores = build(name, NEWS)(history, mask, candidates)
    if not name.startswith("fim"):  # its volume has the table's width, and its linear map the volume's
        wide = replace(NEWS, tokens=np.pad(NEWS.tokens, ((0, 0), (0, 5))))
        close(build(name, wide)(history, mask, candidates), scores)
    vectors = np.random.default_rng(0).normal(size=(NEWS.vocab_size, D_MODEL)).astype(np.float32)
    other = vectors.copy()
    other[0] = 7
    first, second = (
        build(name, replace(NEWS, vectors=v))(history, mask, candidates) for v in (vectors, other)
    )
    close(first, second)


@models
@torch.no_grad()
def test_a_row_does_not_depend_on_the_others(name, monkeypatch):
    model = build(name, NEWS)
    history, mask, candidates = clicks(NEWS, 6, 4)
    scores = model(history, mask, candidates)
    alone = [model(history[i : i + 1], mask[i : i + 1], candidates[i : i + 1]) for i in range(6)]
    close(torch.cat(alone), scores)
    close(torch.cat([model(history, mask, candidates[:, i : i + 1]) for i in range(5)], dim=1), scores)
    monkeypatch.setattr(title_words, "TOKENS", 20)
    monkeypatch.setattr("baselines.recommenders.fim.PART", 1)
    close(model(history, mask, candidates), scores)


@models
def test_an_empty_history_and_row_0_are_finite(name):
    model = build(name, NEWS)
    history, mask, candidates = clicks(NEWS, 4, 5)
    mask[:2] = False
    candidates[0, 0] = 0
    scores = model(history, mask, candidates)
    assert scores.isfinite().all()
    scores[:, 1].sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@models
def test_every_parameter_has_a_finite_gradient(name):
    model = build(name, NEWS, dropout=0.2).train()
    scores = model(*clicks(NEWS, 8, 6))
    cross_entropy(scores, torch.zeros(8, dtype=torch.int64)).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@models
@torch.no_grad()
def test_the_order_of_clicks_matters_where_the_model_says_so(name):
    model = build(name, NEWS)
    history, _, candidates = clicks(NEWS, 4, 7)
    history[:] = torch.arange(1, MAX_LEN + 1)
    mask = torch.ones_like(history, dtype=torch.bool)
    scores, turned = model(history, mask, candidates), model(history.flip(1), mask, candidates)
    assert torch.allclose(scores, turned) == MODELS[name][2]


@pytest.mark.slow
@models
def test_it_learns_which_words_a_user_reads(name):
    model = build(name, NEWS, dropout=0.1).float().train()
    history, mask, candidates = clicks(NEWS, 512, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    torch.manual_seed(0)
    for step in range(60):
        rows = torch.arange(64) + 64 * (step % 8)
        loss = cross_entropy(
            model(history[rows], mask[rows], candidates[rows]), torch.zeros(64, dtype=torch.int64)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = (model(*clicks(NEWS, 200, 9)).argmax(dim=1) == 0).float().mean()
    assert right > 0.5  # of 5 candidates


def test_a_news_is_encoded_once_for_a_batch(monkeypatch):
    model = build("nrms", NEWS)
    asked: list[torch.Tensor] = []
    encode = model.encode

    def watched(rows: torch.Tensor) -> torch.Tensor:
        asked.append(rows)
        return encode(rows)

    monkeypatch.setattr(model, "encode", watched)
    history, mask, candidates = clicks(NEWS, 8, 1)
    model(history, mask, candidates)
    real = set(history[mask].tolist()) | set(candidates.flatten().tolist())
    assert sorted(asked[0].tolist()) == sorted(real | {0})


def test_the_last_clicks_are_those_that_are_kept():
    torch.manual_seed(0)
    model = FIM(NEWS, D_MODEL, HEADS, max_len=6, dropout=0.0, filters=4, history=2).double().eval()
    history, mask, candidates = clicks(NEWS, 3, 1)
    history[:], mask[:] = torch.tensor([1, 2, 3, 4, 5, 6]), True
    mask[1, 4:] = False
    mask[2] = torch.tensor([True, False, False, True, False, True])
    last = torch.tensor([[5, 6], [3, 4], [4, 6]])
    with torch.no_grad():
        close(
            model(history, mask, candidates), model(last, torch.ones_like(last, dtype=torch.bool), candidates)
        )


def test_ids_are_for_news_of_the_training_behaviours():
    ids = NewsIds(NEWS, D_MODEL)
    vectors = ids(torch.arange(len(NEWS)))
    known = torch.from_numpy(NEWS.trained).clone()
    known[0] = False
    assert torch.equal(vectors.any(dim=1), known)
    assert len(torch.unique(vectors[known], dim=0)) == int(known.sum())
    assert sum(p.numel() for p in ids.parameters()) == D_MODEL * (int(known.sum()) + 1)


def test_first_weights_are_the_vectors_of_the_news():
    vectors = np.random.default_rng(0).normal(size=(NEWS.vocab_size, 5)).astype(np.float32)
    vectors[0] = 0
    news = replace(NEWS, vectors=vectors)
    words = TitleWords(news, D_MODEL, mapped=False)
    got, mask = words(torch.arange(len(NEWS)), TITLE)
    assert np.array_equal(got.detach().numpy(), vectors[NEWS.tokens])
    assert np.array_equal(mask.numpy(), NEWS.tokens != 0)
    assert words.width == 5
    assert TitleWords(news, D_MODEL)(torch.arange(3), 2)[0].shape == (3, 2, D_MODEL)
    assert MeanWords(news, D_MODEL, HEADS, max_len=3, dropout=0.0).encode(torch.arange(3)).shape == (
        3,
        D_MODEL,
    )


def test_nrms_is_its_definition():
    """Attention and pooling written out for one title, without heads in one tensor."""
    torch.manual_seed(0)
    model = NRMS(NEWS, D_MODEL, HEADS, max_len=4, dropout=0.2).double().eval()
    row = int(NEWS.lengths.argmax())
    words = model.words.embedding(model.words.tokens[row][: NEWS.lengths[row]])
    q, k, v = (
        part.unflatten(-1, (HEADS, -1)) for part in model.attend_words.qkv(words).split(D_MODEL, dim=-1)
    )
    heads = [(q[:, h] @ k[:, h].T / (D_MODEL / HEADS) ** 0.5).softmax(dim=-1) @ v[:, h] for h in range(HEADS)]
    attended = torch.cat(heads, dim=-1)
    pool = model.pool_words
    weights = pool.score(torch.tanh(pool.hidden(attended))).softmax(dim=0)
    close(model.encode(torch.tensor([row]))[0], (weights * attended).sum(dim=0))


def test_a_query_of_the_pooling_may_have_its_own_width():
    torch.manual_seed(0)
    plain = AdditivePooling(8)
    torch.manual_seed(0)
    same, wide = AdditivePooling(8, 8), AdditivePooling(8, 200)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), same.parameters(), strict=True))
    assert wide.hidden.weight.shape == (200, 8)
    assert wide(torch.randn(2, 3, 8)).shape == (2, 8)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tokens": NEWS.tokens[:-1]}, "are not one table"),
        ({"trained": NEWS.trained[:-1]}, "are not one table"),
        ({"tokens": NEWS.tokens + 1}, "row 0"),
        ({"tokens": NEWS.tokens[:, ::-1]}, "padding must come after"),
        ({"vectors": np.zeros((3, 2), dtype=np.float32)}, "3 vectors for a vocabulary of"),
    ],
)
def test_a_table_of_news_that_does_not_fit_is_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(NEWS, **change)


def test_news_without_words_are_a_table_too():
    news = News(
        titles=["", "?"], tokens=np.zeros((2, 0), dtype=int), vocab_size=2, trained=np.ones(2, dtype=bool)
    )
    model = NRMS(news, D_MODEL, HEADS, max_len=2, dropout=0.0)
    assert model(
        torch.ones(1, 2, dtype=torch.int64),
        torch.ones(1, 2, dtype=torch.bool),
        torch.ones(1, 1, dtype=torch.int64),
    ).isfinite()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"heads": 3}, "heads"),
        ({"max_len": 0}, "max_len"),
        ({"dropout": 1.0}, "dropout"),
        ({"title": -1}, "title"),
        ({"query": 0}, "query"),
    ],
)
def test_wrong_options_are_refused(options, complaint):
    given = {"heads": HEADS, "max_len": 3, "dropout": 0.0, **options}
    with pytest.raises(ValueError, match=complaint):
        NRMS(NEWS, D_MODEL, **given)


@models
def test_models_pass_the_check_before_a_training_and_broken_ones_do_not(name):
    model = build(name, NEWS)
    check_recommender(model)
    forward = model.forward

    def broken(complaint: str, replaced: Callable[..., torch.Tensor]) -> None:
        model.forward = replaced  # type: ignore[method-assign]
        with pytest.raises(Incorrect, match=complaint):
            check_recommender(model)

    def centred(scores: torch.Tensor) -> torch.Tensor:
        return scores + scores.mean(dim=0)

    broken("have the shape", lambda *rows: forward(*rows)[:, :1])
    broken("not finite", lambda h, m, c: forward(h, m, c).where(m.any(1)[:, None], torch.nan))
    broken("in the padding of a history", lambda h, m, c: forward(h, m, c) + h.sum(1)[:, None])
    broken("one more place of padding", lambda h, m, c: forward(h, m, c) * m.shape[1])
    broken("depend on the other rows", lambda h, m, c: centred(forward(h, m, c)))
    broken("differs from forward", lambda *rows: 1 - forward(*rows))

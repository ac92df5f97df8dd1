"""Models and the training loop: padding, sharing, determinism, stopping, and the accuracy probe."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from effbench.mechanism import Mechanism, Unsupported
from effbench.models.classifier import AdditivePooling, Classifier
from effbench.models.encoder import Encoder, FeatureDropout
from effbench.models.training import Diverged, Recipe, shuffled_batches, sorted_batches, train
from effbench.probes.accuracy import measure_accuracy
from effbench.spec import Cell
from effbench.tasks import Classification, Examples, Splits
from effbench.tasks.listops import ListOps


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads, and lose much where others use the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class MaskedMean(Mechanism):
    """Every token receives a linear map of the mean of all real tokens."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.linear = nn.Linear(d_model, d_model)

    def forward(self, x, mask=None):
        mask = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        kept = x.masked_fill(~mask[..., None], 0.0)
        mean = kept.sum(dim=1, keepdim=True) / mask.sum(dim=1).clamp_min(1)[:, None, None]
        return self.linear(mean).expand_as(x)


class Shared(MaskedMean):
    shares_layers = True


class NaNAtPadding(MaskedMean):
    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        return out if mask is None else out.masked_fill(~mask[..., None], math.nan)


def make(kind=MaskedMean, d_model=8):
    return lambda: kind(d_model, 2, max_len=32)


def classifier(kind=MaskedMean, dropout=0.0):
    return Classifier(
        make(kind), vocab_size=12, classes=3, max_len=32, d_model=8, layers=2, dropout=dropout
    ).double()


class Occurs(Classification):
    """Does token 2 occur? Rows of 3 to 10 tokens."""

    def __init__(self, *, epochs: int = 8, lr: float = 1e-2, dropout: float = 0.0, patience: int = 8):
        super().__init__(epochs=epochs, lr=lr, dropout=dropout, patience=patience)

    def check(self, data_dir):
        return ""

    def data(self, seq_len, seed, data_dir):
        rng = np.random.default_rng(seed)

        def part(count: int) -> Examples:
            lengths = rng.integers(3, 11, size=count)
            starts = np.concatenate(([0], np.cumsum(lengths)))
            labels = rng.integers(2, size=count)
            tokens = rng.integers(3, 9, size=starts[-1])
            tokens[starts[:-1][labels == 1] + rng.integers(3, size=(labels == 1).sum())] = 2
            return Examples(tokens=tokens, starts=starts, labels=labels)

        return Splits(train=part(256), validation=part(64), test=part(64), vocab_size=9, classes=2, priors={})


def fit(task, *, seed=0, score=None, recipe=None, model=None, loss=None, **changed):
    """Train on Occurs; (model, history)."""
    splits = task.data(10, 0, None)
    torch.manual_seed(seed)
    model = model or task.model(make(), splits=splits, seq_len=10, d_model=8, layers=1)

    def validation():
        batches = (
            task.batch(splits.validation, rows) for rows in sorted_batches(splits.validation.lengths, 100)
        )
        return task.score(model, batches)["accuracy"]

    history = train(
        model,
        loss=loss or task.loss,
        batch=lambda rows: task.batch(splits.train, rows),
        lengths=splits.train.lengths,
        score=score or validation,
        recipe=recipe or task.recipe(),
        batch_size=32,
        seed=seed,
        progress=changed.get("progress", lambda fraction, text: None),
    )
    return model, history


# Models.


@pytest.mark.parametrize("kind", [MaskedMean, Shared, NaNAtPadding])
def test_padding_never_changes_the_logits(kind):
    model = classifier(kind).eval()
    tokens = torch.randint(1, 12, (4, 9))
    expected = model(tokens)
    garbage = torch.cat([tokens, torch.randint(0, 12, (4, 7))], dim=1)
    mask = torch.arange(16).expand(4, 16) < 9
    torch.testing.assert_close(model(garbage, mask), expected)


@pytest.mark.parametrize("kind", [MaskedMean, NaNAtPadding])
def test_a_row_of_padding_is_finite_forward_and_backward(kind):
    model = classifier(kind)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [False] * 5])
    logits = model(torch.randint(1, 12, (3, 5)), mask)
    assert logits.isfinite().all()
    if kind is MaskedMean:
        logits.sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def test_pooling_ignores_padding_even_if_it_is_not_finite():
    pooling = AdditivePooling(8).double()
    x = torch.randn(3, 6, 8, dtype=torch.float64)
    mask = torch.arange(6).expand(3, 6) < torch.tensor([[4], [1], [0]])
    expected = torch.stack([pooling(x[:1, :4])[0], x[1, 0], torch.zeros(8, dtype=torch.float64)])
    torch.testing.assert_close(pooling(x.masked_fill(~mask[..., None], math.inf), mask), expected)


def test_encoder_shares_one_mechanism_when_asked():
    def parameters(kind, layers):
        return sum(p.numel() for p in Encoder(make(kind), d_model=8, layers=layers).parameters())

    own = sum(p.numel() for p in MaskedMean(8, 2, max_len=32).parameters())
    assert parameters(MaskedMean, 3) - parameters(Shared, 3) == 2 * own
    assert parameters(MaskedMean, 1) == parameters(Shared, 1)
    made = []
    Encoder(lambda: made.append(1) or Shared(8, 2, max_len=32), d_model=8, layers=3)
    assert len(made) == 1


def test_encoder_takes_floats_and_any_length():
    encoder = Encoder(make(), d_model=8, layers=2)
    for length in (1, 7, 32):
        assert encoder(torch.randn(2, length, 8)).shape == (2, length, 8)
    with pytest.raises(ValueError, match="layers"):
        Encoder(make(), d_model=8, layers=0)


def test_feature_dropout_drops_a_feature_at_all_positions():
    dropout = FeatureDropout(0.5)
    x = torch.ones(50, 4, 20)
    dropped = dropout(x)
    assert (dropped == dropped[:, :1]).all()
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert 0.4 < (dropped == 0).double().mean() < 0.6
    assert dropout.eval()(x) is x


# Batches.


@pytest.mark.parametrize(("rows", "size"), [(1, 8), (100, 8), (640, 16), (1000, 16)])
def test_an_epoch_has_every_row_once(rows, size):
    lengths = np.random.default_rng(0).integers(1, 50, size=rows)
    batches = list(shuffled_batches(lengths, size, np.random.default_rng(1)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(rows))
    assert len(batches) == math.ceil(rows / size)
    assert max(map(len, batches)) <= size


@pytest.mark.parametrize("tokens", [1, 60, 500, 10_000])
def test_sorted_batches_have_every_row_once_and_stay_in_budget(tokens):
    lengths = np.random.default_rng(0).integers(0, 50, size=200)
    batches = list(sorted_batches(lengths, tokens))
    assert sorted(np.concatenate(batches).tolist()) == list(range(200))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= tokens
    assert len(batches) < 200 or tokens < 60


def test_batches_are_trimmed_to_their_longest_row():
    task = Occurs()
    part = task.data(10, 0, None).train
    rows = np.array([3, 1, 7])
    batch = task.batch(part, rows)
    assert batch["tokens"].shape == batch["mask"].shape == (3, part.lengths[rows].max())
    for i, row in enumerate(rows):
        assert batch["tokens"][i][batch["mask"][i]].tolist() == part.row(row).tolist()
        assert batch["mask"][i].sum() == part.lengths[row]
        assert (batch["tokens"][i][~batch["mask"][i]] == 0).all()
    assert batch["labels"].tolist() == part.labels[rows].tolist()


# The loop.


def test_it_learns_what_can_be_learnt_and_says_how():
    _, history = fit(Occurs())
    assert max(history.validation) > 0.95
    assert history.train_loss[-1] < 0.3 * history.train_loss[0]
    assert len(history.step_s) == history.epochs * 8
    assert history.tokens == history.epochs * Occurs().data(10, 0, None).train.lengths.sum()
    assert history.tokens_per_s == pytest.approx(history.tokens / sum(history.step_s))


def test_same_seed_same_curve():
    recipe = Recipe(epochs=3, lr=1e-2)
    (_, first), (_, again), (_, other) = (fit(Occurs(dropout=0.2), seed=s, recipe=recipe) for s in (0, 0, 1))
    assert first.train_loss == again.train_loss
    assert first.validation == again.validation
    assert first.train_loss != other.train_loss


def test_stops_early_with_the_weights_that_scored_best():
    task = Occurs()
    torch.manual_seed(0)
    model = task.model(make(), splits=task.data(10, 0, None), seq_len=10, d_model=8, layers=1)
    states, scripted = [], iter([0.3, 0.8, 0.8, 0.7, 0.9])

    def score():
        assert not model.training
        assert not torch.is_grad_enabled()
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(scripted)

    _, history = fit(task, model=model, score=score, recipe=Recipe(epochs=9, lr=1e-2, patience=2))
    assert history.validation == (0.3, 0.8, 0.8, 0.7)
    assert history.stopped == "patience"
    assert history.best_epoch == 2
    assert history.epochs == 4
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, states[1][name])
    assert any(not torch.equal(states[1][name], states[3][name]) for name in states[1])


def test_stops_when_its_seconds_are_over_and_evaluates_inside_an_epoch():
    _, history = fit(Occurs(), recipe=Recipe(epochs=9, evaluations=4, seconds=0.0))
    assert history.stopped == "seconds"
    assert history.epochs == 0.25
    _, history = fit(Occurs(), recipe=Recipe(epochs=1, evaluations=4))
    assert history.stopped == "epochs"
    assert len(history.validation) == len(history.train_loss) == 4


def test_gradients_are_clipped():
    task = Occurs()
    large = fit(
        task, recipe=Recipe(epochs=1, clip=0.5), loss=lambda model, batch: 1000 * task.loss(model, batch)
    )[0]
    norm = torch.stack([p.grad.norm() for p in large.parameters()]).norm()
    assert norm == pytest.approx(0.5, rel=1e-3)


def test_a_number_that_is_not_finite_ends_it_with_the_step():
    task = Occurs()
    calls = itertools.count(1)

    def loss(model, batch):
        return task.loss(model, batch) * (math.nan if next(calls) == 3 else 1.0)

    with pytest.raises(Diverged, match=r"the loss is nan at training step 3; try a lower lr than 0.01"):
        fit(task, loss=loss)

    def steep(model, batch):
        value = task.loss(model, batch)
        return value + (value * 0).sqrt()  # value finite, slope infinite

    with pytest.raises(Diverged, match=r"gradient's norm is nan at training step 1"):
        fit(task, loss=steep)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_learning_rate_rises_then_falls_or_stays(schedule):
    recipe = Recipe(schedule=schedule, warmup=0.2)
    factors = [recipe.lr_factor(step, 100) for step in range(100)]
    assert factors[:20] == sorted(factors[:20])
    assert 0 < factors[0] <= 0.05 + 1e-9
    assert max(factors) == factors[20] == 1.0
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[-1] == (1.0 if schedule == "constant" else pytest.approx(0.0, abs=1e-3))


def test_progress_moves_forward_and_names_loss_score_and_speed():
    lines = []
    fit(Occurs(), recipe=Recipe(epochs=3), progress=lambda fraction, text: lines.append((fraction, text)))
    fractions = [fraction for fraction, _ in lines]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert all(word in lines[-1][1] for word in ("epoch 3.0", "loss 0.", "validation", "tokens/s"))


# The probe.


def cell(**changed):
    return Cell(
        **{
            "mechanism": "masked-mean",
            "probe": "accuracy",
            "scope": "encoder",
            "mode": "train",
            "task": "listops",
            "seq_len": 32,
            "batch_size": 16,
            "d_model": 8,
            "heads": 2,
            "layers": 2,
            **changed,
        }
    )


def probe(task, **changed):
    return measure_accuracy(
        task, make_mechanism=make(), cell=cell(**changed), data_dir=None, progress=lambda fraction, text: None
    )


def test_accuracy_probe_measures_a_cell():
    task = ListOps(max_depth=3, max_args=3, train=64, validation=32, test=40, epochs=2)
    samples, values = probe(task)
    assert values["accuracy"] == values["test_correct"] / values["test_examples"]
    assert values["test_examples"] == 40
    assert values["validation_accuracy"] == max(samples["validation_accuracy"])
    assert 0 < values["prior_majority"] < 1
    assert 0 < values["prior_root_operator"] < 1
    assert values["epochs"] == 2
    assert values["stopped"] == "epochs"
    assert values["train_examples"] == 64
    assert values["tokens_per_s"] > 0
    assert values["train_seconds"] > sum(samples["step_s"])
    assert len(samples["step_s"]) == 8
    assert len(samples["train_loss"]) == len(samples["validation_accuracy"]) == 2
    assert values["peak_bytes"] > 16 * 32 * 8 * 4  # more than one activation of a full batch
    assert all(type(value) in (int, float, str) for value in values.values())


def test_repeats_share_the_data_and_vary_the_training():
    task = ListOps(max_depth=3, max_args=3, train=64, validation=32, test=40, epochs=1)
    (first, values), (second, others), (again, _) = (probe(task, repeat=repeat) for repeat in (0, 1, 0))
    assert values["prior_root_operator"] == others["prior_root_operator"]
    assert first["train_loss"] != second["train_loss"]
    assert first["train_loss"] == again["train_loss"]


def test_accuracy_is_of_float32_training():
    with pytest.raises(Unsupported, match="bfloat16"):
        probe(ListOps(), dtype="bfloat16")


def test_the_probe_scores_what_the_task_can_learn():
    _, values = probe(Occurs(), seq_len=10, batch_size=32)
    assert values["accuracy"] > 0.9

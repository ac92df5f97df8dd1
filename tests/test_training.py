"""Models and the training loop: padding, sharing, determinism, stopping, and the accuracy probe."""

from __future__ import annotations

import itertools
import math
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from effbench import Mechanism, Unsupported
from effbench.common.spec import Cell
from effbench.measured.data.examples import Examples, Splits
from effbench.measured.models.batches import shuffled_batches, sorted_batches
from effbench.measured.models.checkpoint import Checkpoint
from effbench.measured.models.classifier import AdditivePooling, Classifier
from effbench.measured.models.encoder import Encoder, FeatureDropout
from effbench.measured.models.training import Diverged, Objective, Recipe, train
from effbench.measured.probes.accuracy import measure_accuracy
from effbench.measured.tasks.base import Classification
from effbench.measured.tasks.listops import ListOps

pytestmark = pytest.mark.usefixtures("one_thread")


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

    def fingerprint(self, data_dir):
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
        if score is not None:
            return {"accuracy": score()}
        batches = (
            task.batch(splits.validation, rows) for rows in sorted_batches(splits.validation.lengths, 100)
        )
        return task.score(model, batches)

    history = train(
        model,
        Objective(
            batch=lambda rows: task.batch(splits.train, rows),
            lengths=splits.train.lengths,
            loss=loss or task.loss,
            score=validation,
            metric="accuracy",
        ),
        recipe or task.recipe(),
        batch_size=32,
        seed=seed,
        progress=changed.get("progress", lambda fraction, text: None),
        checkpoint=changed.get("checkpoint"),
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

    def recorded():
        made.append(Shared(8, 2, max_len=32))
        return made[-1]

    Encoder(recorded, d_model=8, layers=3)
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


@pytest.mark.parametrize("bucketed", [True, False])
@pytest.mark.parametrize(("rows", "size"), [(1, 8), (100, 8), (640, 16), (1000, 16)])
def test_an_epoch_has_every_row_once(rows, size, bucketed):
    lengths = np.random.default_rng(0).integers(1, 50, size=rows)
    batches = list(shuffled_batches(lengths, size, np.random.default_rng(1), bucketed=bucketed))
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
    assert max(map(len, sorted_batches(np.zeros(200, dtype=int), tokens))) <= max(1, tokens)


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
    first, again, other = (fit(Occurs(dropout=0.2), seed=s, recipe=recipe) for s in (0, 0, 1))
    assert numbers(*first) == numbers(*again)
    assert first[1].train_loss != other[1].train_loss
    assert first[1].step_loss != other[1].step_loss


@pytest.mark.parametrize("what", ["model", "order and dropout"])
def test_each_thing_that_is_drawn_comes_from_the_seed(what):
    """Weights from torch's state before, order and dropout from ``seed``: each alone changes the curve."""
    task, recipe = Occurs(dropout=0.2), Recipe(epochs=1, lr=1e-2)

    def curve(model_seed, seed):
        torch.manual_seed(model_seed)
        model = task.model(make(), splits=task.data(10, 0, None), seq_len=10, d_model=8, layers=1)
        return fit(task, model=model, seed=seed, recipe=recipe)[1].step_loss

    other = curve(1, 0) if what == "model" else curve(0, 1)
    assert curve(0, 0) == curve(0, 0) != other


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
    assert history.validation == [0.3, 0.8, 0.8, 0.7]
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


@pytest.mark.parametrize(("scale", "clip"), [(1000.0, 0.5), (1000.0, 2.0), (1.0, 1e6)])
def test_gradients_are_clipped(scale, clip, monkeypatch):
    """At every step to the bound where they exceed it; else they are left as they are."""
    task, norms, before = Occurs(), [], []
    real_step, real_clip = torch.optim.AdamW.step, nn.utils.clip_grad_norm_

    def norm_of(parameters):
        return float(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm())

    def step(self, *arguments):
        norms.append(norm_of([p for group in self.param_groups for p in group["params"]]))
        return real_step(self, *arguments)

    def clipping(parameters, most):
        parameters = list(parameters)
        before.append(norm_of(parameters))
        return real_clip(parameters, most)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clipping)
    fit(task, recipe=Recipe(epochs=1, clip=clip), loss=lambda model, batch: scale * task.loss(model, batch))
    assert len(norms) == 8
    assert norms == pytest.approx([min(clip, norm) for norm in before], rel=1e-3)
    assert (max(before) > clip) == (scale > 1)


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


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_each_step_is_made_with_the_rate_of_the_schedule(schedule, monkeypatch):
    rates, recipe = [], Recipe(epochs=3, lr=0.02, schedule=schedule, warmup=0.25, evaluations=2)
    real = torch.optim.AdamW.step

    def step(self, *arguments):
        rates.append({group["lr"] for group in self.param_groups})
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    _, history = fit(Occurs(), recipe=recipe)
    rising = [0.02 * (i + 1) / 6 for i in range(6)]
    falling = [0.02 * (1 + math.cos(math.pi * i / 18)) / 2 for i in range(18)]
    expected = rising + (falling if schedule == "cosine" else [0.02] * 18)
    assert [rate for (rate,) in rates] == pytest.approx(expected)
    assert history.learning_rate == pytest.approx([expected[step - 1] for step in history.curve_step])


def test_a_parameter_is_trained_at_its_own_share_of_the_rate(monkeypatch):
    task, rates = Occurs(), []
    real = torch.optim.AdamW.step

    def step(self, *arguments):
        rates.append({id(p): group["lr"] for group in self.param_groups for p in group["params"]})
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    model = task.model(make(), splits=task.data(10, 0, None), seq_len=10, d_model=8, layers=1)
    encoder = model.get_submodule("encoder")
    slow = {id(p) for p in encoder.parameters()}
    for parameter in encoder.parameters():
        parameter.lr_factor = 0.25  # type: ignore[attr-defined]
    _, history = fit(task, model=model, recipe=Recipe(epochs=1, lr=0.02))
    assert slow < rates[0].keys() == {id(p) for p in model.parameters()}
    for at in rates:
        own, others = ({rate for p, rate in at.items() if (p in slow) is chosen} for chosen in (True, False))
        assert len(own) == len(others) == 1
        assert own.pop() == pytest.approx(0.25 * max(others))
    assert history.learning_rate[-1] == max(rates[-1].values())


def test_curves_say_when_and_add_up():
    _, history = fit(Occurs(), recipe=Recipe(epochs=2, evaluations=2))
    assert history.curve_step == [4, 8, 12, 16]
    assert history.curve_epoch == [0.5, 1.0, 1.5, 2.0]
    assert list(history.curve_seconds) == sorted(history.curve_seconds)
    assert sum(history.step_s) < history.curve_seconds[-1] <= history.seconds
    means = np.array(history.step_loss).reshape(4, 4).mean(axis=1)
    assert history.train_loss == pytest.approx(means.tolist())
    assert history.scores["accuracy"] == history.validation
    assert len(history.scores["macro_f1"]) == 4


def test_more_evaluations_than_steps_is_one_a_step():
    _, history = fit(Occurs(), recipe=Recipe(epochs=1, evaluations=20, patience=20))
    assert history.curve_step == list(range(1, 9))


@pytest.mark.parametrize("bucketed", [True, False])
def test_batches_are_drawn_anew_in_every_epoch(bucketed):
    lengths = np.random.default_rng(0).integers(1, 50, size=640)
    rng = np.random.default_rng(1)
    first, second = (list(shuffled_batches(lengths, 16, rng, bucketed=bucketed)) for _ in range(2))
    assert {frozenset(rows.tolist()) for rows in first} != {frozenset(rows.tolist()) for rows in second}


def test_padding_share_is_that_of_the_batches():
    task = Occurs(epochs=1)
    lengths = task.data(10, 0, None).train.lengths
    shares = {}
    for bucketed in (True, False):
        _, history = fit(task, recipe=Recipe(epochs=1, bucketed=bucketed))
        batches = list(shuffled_batches(lengths, 32, np.random.default_rng(0), bucketed=bucketed))
        positions = sum(len(rows) * lengths[rows].max() for rows in batches)
        assert history.padding_share == pytest.approx(1 - lengths.sum() / positions)
        shares[bucketed] = history.padding_share
    assert 0 <= shares[True] < 0.5 * shares[False]


def test_progress_moves_forward_and_names_loss_score_speed_and_what_is_left():
    messages = []
    fit(Occurs(), recipe=Recipe(epochs=3), progress=lambda fraction, text: messages.append((fraction, text)))
    assert "at most 0 s left" in messages[-1][1]
    fractions = [fraction for fraction, _ in messages]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert all(word in messages[-1][1] for word in ("epoch 3.0 of 3", "loss 0.", "validation", "tokens/s"))


# Checkpoints.


class Killed(BaseException):
    """Nothing may catch it: as good as SIGKILL inside one process."""


def numbers(model, history) -> str:
    """All that does not depend on the clock, and the weights, as text in which every bit counts."""
    timed = {"step_s", "evaluation_s", "resumed"}
    kept = {k: v for k, v in asdict(history).items() if "second" not in k and k not in timed}
    return repr(kept) + str([(name, value.tolist()) for name, value in model.state_dict().items()])


def eager(path, belongs="this", **changed):
    """A checkpoint that is written after every step."""
    return Checkpoint(path, belongs, **{"every_s": 0.0, "share": math.inf, **changed})


RESUMED = Recipe(epochs=3, lr=1e-2, evaluations=2)  # of 8 steps each


def fit_killed(path, *, at=None, in_score=None, belongs="this", **changed):
    """Train Occurs with a checkpoint; killed in the 1-based step ``at`` of this process, or evaluation."""
    task, steps = Occurs(dropout=0.2), itertools.count(1)

    def loss(model, batch):
        if next(steps) == at:
            raise Killed
        return task.loss(model, batch)

    class Task(Occurs):
        evaluations_made = itertools.count(1)

        def score(self, model, batches):
            if next(self.evaluations_made) == in_score:
                raise Killed
            return super().score(model, batches)

    return fit(Task(dropout=0.2), recipe=RESUMED, loss=loss, checkpoint=eager(path, belongs), **changed)


@cache
def uninterrupted() -> str:
    """The numbers of a training that was not killed and had no checkpoint."""
    return numbers(*fit(Occurs(dropout=0.2), recipe=RESUMED))


@cache
def left_behind() -> bytes:
    """The checkpoint of a training that was killed in its 12th step."""
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(Killed):
            fit_killed(Path(folder) / "cell.pt", at=12)
        return (Path(folder) / "cell.pt").read_bytes()


@pytest.mark.parametrize("kills", [[1], [6], [8], [9], [24], [1, 3, 3, 9]])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, kills):
    path = tmp_path / "folder" / "cell.pt"
    for at in kills:
        with pytest.raises(Killed):
            fit_killed(path, at=at)
    model, history = fit_killed(path)
    assert numbers(model, history) == uninterrupted()
    assert history.resumed == len(kills) - list(itertools.takewhile(lambda at: at == 1, kills)).count(1)
    assert len(history.step_s) == len(history.step_loss) == 24
    assert list(history.curve_seconds) == sorted(history.curve_seconds)


@pytest.mark.parametrize("evaluation", [1, 6])
def test_killed_in_an_evaluation_it_goes_on_from_before(tmp_path, evaluation):
    with pytest.raises(Killed):
        fit_killed(tmp_path / "cell.pt", in_score=evaluation)
    assert numbers(*fit_killed(tmp_path / "cell.pt")) == uninterrupted()


def test_killed_after_its_end_it_trains_no_more(tmp_path):
    first = fit_killed(tmp_path / "cell.pt")
    again = fit_killed(tmp_path / "cell.pt", at=1)
    assert numbers(*again) == numbers(*first)
    assert again[1].resumed == 1


def test_how_often_it_is_written_changes_no_number(tmp_path):
    for number, every in enumerate((0.0, 1e9)):
        kept = eager(tmp_path / f"{number}.pt", every_s=every)
        assert numbers(*fit(Occurs(dropout=0.2), recipe=RESUMED, checkpoint=kept)) == uninterrupted()


@pytest.mark.parametrize("harm", ["flipped", "short", "empty", "text", "another's", "another model's"])
def test_a_checkpoint_that_does_not_fit_is_ignored_and_said_so(tmp_path, harm):
    path, messages = tmp_path / "cell.pt", []
    data = left_behind()
    flipped = bytearray(data)
    flipped[-len(data) // 3] ^= 1
    damaged = {"flipped": bytes(flipped), "short": data[:-100], "empty": b"", "text": b"a text"}
    path.write_bytes(damaged.get(harm, data))
    if harm == "another model's":
        assert Checkpoint(path, "this").read() is not None
        task = Occurs(dropout=0.2)
        larger = task.model(make(d_model=4), splits=task.data(10, 0, None), seq_len=10, d_model=4, layers=1)
        eager(path).write({**eager(path).read(), "model": larger.state_dict()})
    model, history = fit_killed(
        path,
        belongs="that" if harm == "another's" else "this",
        progress=lambda fraction, text: messages.append(text),
    )
    why = {"another's": "belongs to another cell", "another model's": "do not fit the model"}
    assert "training anew: ignored the checkpoint, it" in messages[-1]
    assert why.get(harm, "damaged") in messages[-1]
    assert history.resumed == 0
    assert numbers(model, history) == uninterrupted()


def test_a_half_written_checkpoint_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "cell.pt"
    eager(path).write({"step": torch.tensor(1)})

    def killed(*arguments):
        raise Killed

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(Killed):
        eager(path).write({"step": torch.tensor(2)})
    monkeypatch.undo()
    assert eager(path).read() == {"step": torch.tensor(1)}
    eager(path).write({"step": torch.tensor(3)})
    assert eager(path).read() == {"step": torch.tensor(3)}
    assert [file.name for file in tmp_path.glob("cell*")] == ["cell.pt"]


def test_a_disk_that_takes_no_checkpoint_costs_the_checkpoint_alone(tmp_path):
    (tmp_path / "a file").write_text("")
    messages = []
    path = tmp_path / "a file" / "cell.pt"
    result = fit_killed(path, progress=lambda fraction, text: messages.append(text))
    assert numbers(*result) == uninterrupted()
    assert f"no checkpoint: cannot write {path}" in messages[-1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_is_said_so(tmp_path):
    path = tmp_path / "cell.pt"
    path.with_name("cell.pt.part").symlink_to("/dev/full")
    checkpoint = eager(path)
    checkpoint.write({"weights": torch.zeros(1 << 20)})
    assert "No space left on device" in checkpoint.note
    assert not path.exists()
    checkpoint.write({"weights": torch.zeros(1 << 20)})
    assert checkpoint.note == ""


@pytest.mark.parametrize("cost_s", [0.001, 0.4, 5.0])
@pytest.mark.parametrize("step_s", [0.01, 1.0])
def test_writing_takes_a_twentieth_of_the_time_at_most(tmp_path, cost_s, step_s):
    now, wrote = [0.0], []

    class Slow(Checkpoint):
        def write(self, state):
            wrote.append(now[0])
            super().write(state)

    checkpoint = Slow(tmp_path / "cell.pt", "this", clock=lambda: now[0])
    real = torch.save

    def save(*arguments):
        now[0] += cost_s
        real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", save)
        for step in range(1, int(600 / step_s) + 1):
            now[0] += step_s
            if checkpoint.due(evaluated=step % 1000 == 0, size=60_000_000):
                checkpoint.write({})
    assert len(wrote) >= 2
    first_s = max(0.0, cost_s - 0.31)  # that of the first write is a guess
    assert checkpoint.spent_s <= 0.05 * now[0] + first_s
    assert checkpoint.spent_s == pytest.approx(cost_s * len(wrote))
    gaps = np.diff([0.0, *wrote])
    assert (gaps[:-1] >= 0).all()
    if cost_s < 1:
        assert max(gaps) <= 30.0 + cost_s + 2 * step_s, "a kill costs half a minute"


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


def probe(task, checkpoint=None, **changed):
    return measure_accuracy(
        task,
        make_mechanism=make(),
        cell=cell(**changed),
        data_dir=None,
        progress=lambda fraction, text: None,
        checkpoint=checkpoint,
    )


def test_accuracy_probe_measures_a_cell():
    task = ListOps(max_depth=3, max_args=3, min_length=8, train=64, validation=32, test=40, epochs=2)
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
    curve = ("train_loss", "validation_accuracy", "validation_macro_f1", "curve_epoch", "curve_step")
    assert {len(samples[name]) for name in (*curve, "curve_seconds", "learning_rate")} == {2}
    assert "validation_correct" not in samples
    best = samples["validation_accuracy"].index(max(samples["validation_accuracy"]))
    assert values["validation_macro_f1"] == samples["validation_macro_f1"][best]
    assert values["best_epoch"] == samples["curve_epoch"][best]
    assert 0 <= values["padding_share"] < 1
    assert values["mean_tokens"] == task.data(32, 0, None).test.lengths.mean()
    assert values["resumed"] == values["checkpoint_seconds"] == 0
    assert values["peak_bytes"] > 16 * 32 * 8 * 4  # more than one activation of a full batch
    assert all(type(value) in (int, float, str) for value in values.values())


def test_repeats_share_the_data_and_vary_the_training():
    task = ListOps(max_depth=3, max_args=3, min_length=8, train=64, validation=32, test=40, epochs=1)
    (first, values), (second, others), (again, _) = (probe(task, repeat=repeat) for repeat in (0, 1, 0))
    assert values["prior_root_operator"] == others["prior_root_operator"]
    assert first["train_loss"] != second["train_loss"]
    assert first["train_loss"] == again["train_loss"]


def test_a_killed_cell_has_the_record_of_an_uninterrupted_one(tmp_path):
    task = ListOps(max_depth=3, max_args=3, min_length=8, train=64, validation=32, test=40, epochs=2)
    samples, values = probe(task)
    for at in (3, 6):

        class Killing(ListOps):
            losses = itertools.count(1)

            def loss(self, model, batch, at=at):
                if next(self.losses) == at:
                    raise Killed
                return super().loss(model, batch)

        small = Killing(max_depth=3, max_args=3, min_length=8, train=64, validation=32, test=40, epochs=2)
        with pytest.raises(Killed):
            probe(small, checkpoint=eager(tmp_path / "cell.pt"))
    resumed, others = probe(task, checkpoint=eager(tmp_path / "cell.pt"))
    assert others["resumed"] == 2
    timed = {"step_s", "curve_seconds"}
    assert {k: v for k, v in resumed.items() if k not in timed} == {
        k: v for k, v in samples.items() if k not in timed
    }
    timed = {"tokens_per_s", "examples_per_s", "train_seconds", "test_seconds", "test_examples_per_s"}
    timed |= {"checkpoint_seconds", "resumed"}
    assert {k: v for k, v in others.items() if k not in timed} == {
        k: v for k, v in values.items() if k not in timed
    }
    assert others["train_seconds"] > sum(resumed["step_s"])


def test_bfloat16_is_autocast_over_float32_weights():
    seen = []

    class Watched(MaskedMean):
        def forward(self, x, mask=None):
            out = super().forward(x, mask)
            seen.append((self.training, self.linear.weight.dtype, self.linear(x).dtype))
            return out

    class Losses(Occurs):
        def loss(self, model, batch):
            value = super().loss(model, batch)
            assert value.dtype == torch.float32
            return value

    def run(dtype):
        return measure_accuracy(
            Losses(),
            make_mechanism=make(Watched),
            cell=cell(dtype=dtype, seq_len=10, batch_size=32),
            data_dir=None,
            progress=lambda fraction, text: None,
        )

    (samples, values), (full, whole) = run("bfloat16"), run("float32")
    expected = {(training, torch.float32, torch.bfloat16) for training in (True, False)}
    assert set(seen) == expected | {(training, torch.float32, torch.float32) for training in (True, False)}
    assert values["accuracy"] > 0.9
    assert samples["step_loss"] != full["step_loss"]
    assert samples["step_loss"][:4] == pytest.approx(full["step_loss"][:4], rel=2e-2)
    assert values["parameters"] == whole["parameters"]


@pytest.mark.parametrize(
    ("dtype", "why"), [("float16", "gradients vanish"), ("float64", "no way to train a")]
)
def test_other_dtypes_are_refused_with_the_reason(dtype, why):
    with pytest.raises(Unsupported, match=f"float32 or bfloat16, not {dtype}: .*{why}"):
        probe(ListOps(), dtype=dtype)


def test_a_task_chooses_its_batches():
    assert Occurs().recipe().bucketed

    class Unsorted(Occurs):
        bucketed = False

    assert not Unsorted().recipe().bucketed


def test_the_probe_scores_what_the_task_can_learn():
    _, values = probe(Occurs(), seq_len=10, batch_size=32)
    assert values["accuracy"] > 0.9

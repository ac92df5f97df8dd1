"""The only training loop: AdamW, warm-up, early stopping on validation, best weights kept, resumable."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from effbench.measured.models.checkpoint import Checkpoint, State

Batch = Mapping[str, Tensor]
Integers = NDArray[np.integer[Any]]
Progress = Callable[[float, str], None]
Stopped = Literal["epochs", "patience", "seconds"]

# Shuffled rows are sorted by length inside pools of so many batches: less padding, still random batches.
POOL_BATCHES = 20
REPORT_EVERY_S = 0.5


class Diverged(RuntimeError):
    """Training produced a number that is not finite; the text says where and what to change."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    ``lr`` rises linearly over the first ``warmup`` of all steps, then falls to 0 along a cosine or stays.
    ``evaluations`` a training epoch; ``patience`` of them without a new best end the training, as do
    ``epochs`` and, if given, ``seconds`` of training and evaluation. ``clip`` bounds the gradient's norm.
    Weight decay applies to matrices, not to biases and norms. ``bucketed`` batches hold rows of similar
    length, others any rows.
    """

    epochs: int = 10
    lr: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    evaluations: int = 1
    patience: int = 3
    seconds: float | None = None
    bucketed: bool = True

    def lr_factor(self, step: int, steps: int) -> float:
        """The share of ``lr`` at 0-based ``step`` of ``steps``."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return (step + 1) / rising
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@dataclass(frozen=True, kw_only=True)
class History:
    """What happened in training.

    A number per evaluation in ``train_loss`` (mean since the one before), ``validation`` (the metric) and
    each series of ``scores`` (all scores), and when it was: ``curve_epoch``, ``curve_step`` (steps made),
    ``curve_seconds`` (of training so far) and ``learning_rate`` of the step before. A number per step in
    ``step_loss`` and ``step_s`` (seconds of forward, backward and update). ``tokens`` counts real tokens
    trained on, ``padding_share`` is that of positions in training batches that held none; ``seconds`` are
    those of the whole loop with its evaluations, without the ``checkpoint_seconds`` and without what a killed
    run trained after its last checkpoint. ``resumed`` counts the parts after the first, ``epochs`` is what
    was trained and ``best`` the number of the evaluation whose weights are kept.
    """

    train_loss: tuple[float, ...]
    validation: tuple[float, ...]
    scores: Mapping[str, tuple[float, ...]]
    curve_epoch: tuple[float, ...]
    curve_step: tuple[int, ...]
    curve_seconds: tuple[float, ...]
    learning_rate: tuple[float, ...]
    step_loss: tuple[float, ...]
    step_s: tuple[float, ...]
    tokens: int
    padding_share: float
    seconds: float
    checkpoint_seconds: float
    resumed: int
    epochs: float
    best: int
    stopped: Stopped

    @property
    def best_epoch(self) -> float:
        """Epochs trained when the weights were the best."""
        return self.curve_epoch[self.best]

    @property
    def tokens_per_s(self) -> float:
        """Real tokens per second of training steps; padding and evaluations are not counted."""
        return self.tokens / sum(self.step_s)


def train(
    model: nn.Module,
    *,
    loss: Callable[[nn.Module, Batch], Tensor],
    batch: Callable[[Integers], Batch],
    lengths: Integers,
    score: Callable[[], Mapping[str, float]],
    metric: str,
    recipe: Recipe,
    batch_size: int,
    seed: int,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train ``model`` in place and leave it in evaluation mode with the weights that scored best.

    ``batch(rows)`` makes CPU tensors of training rows, whose ``lengths`` [n] are known; ``score()``
    evaluates the model on the validation part, ``metric`` among its scores, higher being better.
    Deterministic for a given seed, model and thread count, as far as the device's kernels are, and whether or
    not it was killed and goes on from its ``checkpoint``: that holds the model's state_dict, so that what
    a model keeps elsewhere begins anew. Raises :class:`Diverged` when the loss or the gradient is not finite.
    """
    shuffle = np.random.default_rng(seed)
    torch.manual_seed(seed)
    device = next(model.parameters()).device
    steps_per_epoch = math.ceil(len(lengths) / batch_size)
    steps = recipe.epochs * steps_per_epoch
    evaluate_at = {round(steps_per_epoch * (i + 1) / recipe.evaluations) for i in range(recipe.evaluations)}
    evaluate_at -= {0}  # asked for more evaluations than an epoch has steps
    optimizer = _optimizer(model, recipe)
    run = _Run(_Course(), recipe, metric, steps, steps_per_epoch, len(evaluate_at), checkpoint)
    if checkpoint is not None and (saved := checkpoint.read()) is not None:
        run.resume(saved, model, optimizer, shuffle, device)
    course = run.course
    # the model, its best weights and the optimizer's two moments
    size = 4 * sum(value.nbytes for value in model.state_dict().values())
    while not course.over():
        model.train()
        drawn_from = json.dumps(shuffle.bit_generator.state)
        batches = shuffled_batches(lengths, batch_size, shuffle, bucketed=recipe.bucketed)
        for number, rows in enumerate(batches, start=1):
            if number <= course.position:
                continue  # trained on before the run was killed
            made = batch(rows)
            rate = recipe.lr * recipe.lr_factor(course.step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            started = time.perf_counter()
            value = _step(model, optimizer, loss, on_device(made, device), recipe, course.step)
            run.add(value, time.perf_counter() - started, made["mask"])
            course.position = number
            evaluated = number in evaluate_at
            if evaluated:
                run.evaluate(model, score, rate)
            if evaluated or run.due():
                progress(course.step / steps, run.line())
            # what comes after the end, the test, begins with a checkpoint whatever it takes
            if checkpoint is not None and (course.over() or checkpoint.due(evaluated=evaluated, size=size)):
                checkpoint.write(run.state(model, optimizer, drawn_from, device))
            if course.over():
                break
        else:
            course.position = 0
    model.load_state_dict(run.best_state)
    model.eval()
    return run.history()


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[nn.Module, Batch], Tensor],
    batch: Batch,
    recipe: Recipe,
    step: int,
) -> float:
    optimizer.zero_grad(set_to_none=True)
    found = loss(model, batch)
    value = float(found.detach())
    if not math.isfinite(value):
        raise Diverged(f"the loss is {value} at training step {step + 1}; try a lower lr than {recipe.lr:g}")
    found.backward()
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), recipe.clip))
    if not math.isfinite(norm):
        raise Diverged(
            f"the gradient's norm is {norm} at training step {step + 1}; try a lower lr than {recipe.lr:g}"
        )
    optimizer.step()
    return value


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def shuffled_batches(
    lengths: Integers, batch_size: int, rng: np.random.Generator, *, bucketed: bool = True
) -> Iterator[Integers]:
    """One epoch: every row once, in random batches of ``batch_size`` rows, of similar length if ``bucketed``.

    Draws all it needs from ``rng`` before the first batch.
    """
    order = rng.permutation(len(lengths))
    if not bucketed:
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]
        return
    pool = POOL_BATCHES * batch_size
    batches: list[Integers] = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    for i in rng.permutation(len(batches)):
        yield batches[i]


def sorted_batches(lengths: Integers, tokens: int) -> Iterator[Integers]:
    """Every row once, shortest first, in batches of at most ``tokens`` tokens with padding (or one row)."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    for i in range(1, len(order) + 1):
        if i == len(order) or (i + 1 - start) * int(lengths[order[i]]) > tokens:
            yield order[start:i]
            start = i


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch's tensors on a device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


@dataclass
class _Course:
    """The numbers of a training so far: what History is made of, and where in the epoch it stands."""

    step: int = 0
    position: int = 0  # batches of this epoch that were trained on
    stopped: Stopped | None = None
    best: int = 0
    tokens: int = 0
    positions: int = 0
    seconds: float = 0.0
    checkpoint_s: float = 0.0
    resumed: int = 0
    step_loss: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    evaluation_s: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    curve_step: list[int] = field(default_factory=list)
    curve_seconds: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)

    def over(self) -> bool:
        return self.stopped is not None


class _Run:
    """A training under way in this process: adds to its course, says how far it is, saves and restores it."""

    def __init__(
        self,
        course: _Course,
        recipe: Recipe,
        metric: str,
        steps: int,
        steps_per_epoch: int,
        evaluations_per_epoch: int,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.course, self._recipe, self._metric = course, recipe, metric
        self._steps, self._steps_per_epoch = steps, steps_per_epoch
        self._evaluations = recipe.epochs * evaluations_per_epoch
        self._checkpoint = checkpoint
        self._started = self._reported = time.perf_counter()
        self._note = ""
        self.best_state: dict[str, Tensor] = {}

    def add(self, loss: float, seconds: float, mask: Tensor) -> None:
        self.course.step += 1
        self.course.step_loss.append(loss)
        self.course.step_s.append(seconds)
        self.course.tokens += int(mask.sum())
        self.course.positions += mask.numel()

    def evaluate(self, model: nn.Module, score: Callable[[], Mapping[str, float]], rate: float) -> None:
        course = self.course
        began = time.perf_counter()
        model.eval()
        with torch.no_grad():
            found = score()
        model.train()
        seen = course.scores.get(self._metric, [])
        if not seen or found[self._metric] > seen[course.best]:
            course.best = len(seen)
            self.best_state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        since = course.step_loss[course.curve_step[-1] if course.curve_step else 0 :]
        course.train_loss.append(sum(since) / len(since))
        for name, value in found.items():
            course.scores.setdefault(name, []).append(value)
        course.curve_step.append(course.step)
        course.curve_seconds.append(self._seconds())
        course.learning_rate.append(rate)
        course.evaluation_s.append(time.perf_counter() - began)
        course.stopped = self._stopped()

    def _stopped(self) -> Stopped | None:
        course, recipe = self.course, self._recipe
        if course.step == self._steps:
            return "epochs"
        if len(course.curve_step) - 1 - course.best >= recipe.patience:
            return "patience"
        if recipe.seconds is not None and self._seconds() >= recipe.seconds:
            return "seconds"
        return None

    def _seconds(self) -> float:
        """Of training and evaluation, in earlier processes and this one; not of writing checkpoints."""
        writing_s = self._checkpoint.spent_s if self._checkpoint is not None else 0.0
        return self.course.seconds + time.perf_counter() - self._started - writing_s

    def due(self) -> bool:
        if time.perf_counter() - self._reported < REPORT_EVERY_S:
            return False
        self._reported = time.perf_counter()
        return True

    def _validation(self) -> list[str]:
        course = self.course
        return [f"validation {course.scores[self._metric][-1]:.3f}"] if course.curve_step else []

    def line(self) -> str:
        course = self.course
        since = course.step_loss[course.curve_step[-1] if course.curve_step else 0 :]
        parts = [
            f"epoch {course.step / self._steps_per_epoch:.1f} of {self._recipe.epochs}",
            f"loss {sum(since) / len(since) if since else course.train_loss[-1]:.3f}",
            *self._validation(),
            f"{course.tokens / sum(course.step_s):,.0f} tokens/s",
            self._left(),
            self._note,
            self._checkpoint.note if self._checkpoint is not None else "",
        ]
        return ", ".join(part for part in parts if part)

    def _left(self) -> str:
        """How long it goes on if nothing stops it early."""
        course = self.course
        step_s = (self._seconds() - sum(course.evaluation_s)) / course.step
        left_s = step_s * (self._steps - course.step)
        if not course.evaluation_s:
            return f"{_duration(left_s)} of steps left"  # what an evaluation takes is not known yet
        mean_s = sum(course.evaluation_s) / len(course.evaluation_s)
        left_s += mean_s * (self._evaluations - len(course.evaluation_s))
        if self._recipe.seconds is not None:
            left_s = min(left_s, max(0.0, self._recipe.seconds - self._seconds()))
        return f"at most {_duration(left_s)} left"

    def state(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, drawn_from: str, device: torch.device
    ) -> State:
        """All that the rest depends on. ``drawn_from`` is the shuffling generator at the epoch's start."""
        course = asdict(self.course)
        for name in ("step_loss", "step_s"):  # long, and a tensor is read much faster than a list
            course[name] = torch.tensor(course[name], dtype=torch.float64)
        course["seconds"] = self._seconds()
        if self._checkpoint is not None:
            course["checkpoint_s"] += self._checkpoint.spent_s
        return {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "best": self.best_state,
            "course": course,
            "shuffle": drawn_from,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def resume(
        self,
        saved: State,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        shuffle: np.random.Generator,
        device: torch.device,
    ) -> None:
        """Go on where ``saved`` was: what :meth:`state` returned, in another process."""
        assert self._checkpoint is not None
        if _shapes(saved["model"]) != _shapes(model.state_dict()):
            self._checkpoint.ignore("its weights do not fit the model")
            return
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        self.best_state = dict(on_device(saved["best"], device))
        course = saved["course"]
        for name in ("step_loss", "step_s"):
            course[name] = course[name].tolist()
        self.course = _Course(**course)
        self.course.resumed += 1
        shuffle.bit_generator.state = json.loads(saved["shuffle"])
        torch.set_rng_state(saved["random"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(saved["random_cuda"], device)
        self._started = time.perf_counter()
        self._note = f"resumed from epoch {self.course.step / self._steps_per_epoch:.1f}"

    def history(self) -> History:
        course = self.course
        assert course.stopped is not None
        writing_s = self._checkpoint.spent_s if self._checkpoint is not None else 0.0
        return History(
            train_loss=tuple(course.train_loss),
            validation=tuple(course.scores[self._metric]),
            scores={name: tuple(series) for name, series in course.scores.items()},
            curve_epoch=tuple(step / self._steps_per_epoch for step in course.curve_step),
            curve_step=tuple(course.curve_step),
            curve_seconds=tuple(course.curve_seconds),
            learning_rate=tuple(course.learning_rate),
            step_loss=tuple(course.step_loss),
            step_s=tuple(course.step_s),
            tokens=course.tokens,
            padding_share=1 - course.tokens / course.positions,
            seconds=self._seconds(),
            checkpoint_seconds=course.checkpoint_s + writing_s,
            resumed=course.resumed,
            epochs=course.step / self._steps_per_epoch,
            best=course.best,
            stopped=course.stopped,
        )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

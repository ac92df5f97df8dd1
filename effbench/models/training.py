"""The only training loop: AdamW, warm-up, early stopping on validation, best weights kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Batch = Mapping[str, Tensor]
Integers = NDArray[np.integer[Any]]
Progress = Callable[[float, str], None]

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
    Weight decay applies to matrices, not to biases and norms.
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

    A number per evaluation in ``train_loss`` (mean since the one before) and ``validation``, per step in
    ``step_s`` (seconds of forward, backward and update). ``tokens`` counts real tokens trained on,
    ``seconds`` the whole loop with its evaluations, ``epochs`` what was trained and ``best_epoch`` where the
    weights kept come from.
    """

    train_loss: tuple[float, ...]
    validation: tuple[float, ...]
    step_s: tuple[float, ...]
    tokens: int
    seconds: float
    epochs: float
    best_epoch: float
    stopped: Literal["epochs", "patience", "seconds"]

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
    score: Callable[[], float],
    recipe: Recipe,
    batch_size: int,
    seed: int,
    progress: Progress,
) -> History:
    """Train ``model`` in place and leave it in evaluation mode with the weights that scored best.

    ``batch(rows)`` makes CPU tensors of training rows, whose ``lengths`` [n] are known; ``score()``
    evaluates the model on the validation part. Deterministic for a given seed, model and thread count.
    Raises :class:`Diverged` when the loss or the gradient is not finite.
    """
    shuffle = np.random.default_rng(seed)
    torch.manual_seed(seed)
    device = next(model.parameters()).device
    steps_per_epoch = math.ceil(len(lengths) / batch_size)
    steps = recipe.epochs * steps_per_epoch
    evaluate_at = {round(steps_per_epoch * (i + 1) / recipe.evaluations) for i in range(recipe.evaluations)}
    optimizer = _optimizer(model, recipe)
    run = _Run()
    step = 0
    while True:
        model.train()
        for number, rows in enumerate(shuffled_batches(lengths, batch_size, shuffle), start=1):
            made = batch(rows)
            tokens = int(made["mask"].sum())
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * recipe.lr_factor(step, steps)
            started = time.perf_counter()
            value = _step(model, optimizer, loss, on_device(made, device), recipe, step)
            run.add(value, time.perf_counter() - started, tokens)
            step += 1
            if run.due():
                progress(step / steps, run.line(step / steps_per_epoch))
            if number in evaluate_at:
                run.evaluate(model, score, step / steps_per_epoch)
                progress(step / steps, run.line(step / steps_per_epoch))
                stopped = run.stopped(recipe, last=step == steps)
                if stopped is not None:
                    model.load_state_dict(run.best_state)
                    model.eval()
                    return run.history(step / steps_per_epoch, stopped)


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


def shuffled_batches(lengths: Integers, batch_size: int, rng: np.random.Generator) -> Iterator[Integers]:
    """One epoch: every row once, in random batches of ``batch_size`` rows of similar length."""
    order = rng.permutation(len(lengths))
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


class _Run:
    """The running record of one training."""

    def __init__(self) -> None:
        self.started = self.reported = time.perf_counter()
        self.losses: list[float] = []
        self.train_loss: list[float] = []
        self.validation: list[float] = []
        self.epochs: list[float] = []
        self.step_s: list[float] = []
        self.tokens = 0
        self.best_state: dict[str, Tensor] = {}

    def add(self, loss: float, seconds: float, tokens: int) -> None:
        self.losses.append(loss)
        self.step_s.append(seconds)
        self.tokens += tokens

    def due(self) -> bool:
        if time.perf_counter() - self.reported < REPORT_EVERY_S:
            return False
        self.reported = time.perf_counter()
        return True

    def line(self, epochs: float) -> str:
        loss = sum(self.losses) / len(self.losses) if self.losses else self.train_loss[-1]
        score = f", validation {self.validation[-1]:.1%}" if self.validation else ""
        return f"epoch {epochs:.1f}, loss {loss:.3f}{score}, {self.tokens / sum(self.step_s):,.0f} tokens/s"

    def evaluate(self, model: nn.Module, score: Callable[[], float], epochs: float) -> None:
        model.eval()
        with torch.no_grad():
            found = score()
        model.train()
        if not self.validation or found > max(self.validation):
            self.best_state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.train_loss.append(sum(self.losses) / len(self.losses))
        self.losses = []
        self.validation.append(found)
        self.epochs.append(epochs)

    def stopped(self, recipe: Recipe, *, last: bool) -> Literal["epochs", "patience", "seconds"] | None:
        best = self.validation.index(max(self.validation))
        if last:
            return "epochs"
        if len(self.validation) - 1 - best >= recipe.patience:
            return "patience"
        if recipe.seconds is not None and time.perf_counter() - self.started >= recipe.seconds:
            return "seconds"
        return None

    def history(self, epochs: float, stopped: Literal["epochs", "patience", "seconds"]) -> History:
        best = self.validation.index(max(self.validation))
        return History(
            train_loss=tuple(self.train_loss),
            validation=tuple(self.validation),
            step_s=tuple(self.step_s),
            tokens=self.tokens,
            seconds=time.perf_counter() - self.started,
            epochs=epochs,
            best_epoch=self.epochs[best],
            stopped=stopped,
        )

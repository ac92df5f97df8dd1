"""The only training loop: AdamW, warm-up, early stopping on validation, best weights kept, resumable."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from effbench.measured.models.batches import Batch, Integers, on_device, shuffled_batches
from effbench.measured.models.checkpoint import Checkpoint, State
from effbench.measured.models.history import History, Stopped

Progress = Callable[[float, str], None]

REPORT_EVERY_S = 0.5


class Diverged(RuntimeError):
    """Training produced a number that is not finite; the message says where and what to change."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The hyperparameters of a training.

    ``lr`` rises linearly over the share ``warmup`` of all steps, then falls to 0 along a cosine or is
    constant. There are ``evaluations`` per training epoch. The training ends after ``epochs``, after
    ``patience`` evaluations without a new best, or after ``seconds`` of training and evaluation if given.
    ``clip`` bounds the norm of the gradient. Weight decay applies to matrices, not to biases and norms. The
    rate of a parameter with an attribute ``lr_factor`` is multiplied by it.
    ``bucketed`` batches hold rows of similar length, others any rows.
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
        """Return the factor of ``lr`` at 0-based ``step`` of ``steps``."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return (step + 1) / rising
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The data and the goal of a training.

    ``batch(rows)`` makes CPU tensors of training rows, whose ``lengths`` [n] are known; ``mask`` [B, N] is
    among them, and ``target_mask`` [B, T] where there are targets: True for a real token.
    ``loss(model, batch)`` is a scalar. ``score()`` evaluates the model on the validation part; ``metric`` is
    the name of one of its scores, higher being better.
    """

    batch: Callable[[Integers], Batch]
    lengths: Integers
    loss: Callable[[nn.Module, Batch], Tensor]
    score: Callable[[], Mapping[str, float]]
    metric: str


def train(
    model: nn.Module,
    objective: Objective,
    recipe: Recipe,
    *,
    batch_size: int,
    seed: int,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train ``model`` in place and leave it in evaluation mode with the weights that scored best.

    The result is deterministic for a given seed, model and thread count, as far as the device's kernels are,
    also if the training was killed and continues from its ``checkpoint``. The checkpoint holds the model's
    state_dict; what a model keeps elsewhere starts anew. Raises :class:`Diverged` if the loss or the gradient
    is not finite.
    """
    shuffle = np.random.default_rng(seed)
    torch.manual_seed(seed)
    device = next(model.parameters()).device
    optimizer = _optimizer(model, recipe)
    run = _Run(model, optimizer, objective, recipe, batch_size, checkpoint)
    if checkpoint is not None and (saved := checkpoint.read()) is not None:
        run.resume(saved, shuffle, device)
    history = run.history
    # the model, its best weights and the optimizer's two moments
    size = 4 * sum(value.nbytes for value in model.state_dict().values())
    while not history.over():
        model.train()
        drawn_from = json.dumps(shuffle.bit_generator.state)
        batches = shuffled_batches(objective.lengths, batch_size, shuffle, bucketed=recipe.bucketed)
        for number, rows in enumerate(batches, start=1):
            if number <= history.position:
                continue  # trained on before the run was killed
            evaluated = run.step(rows, device, last_of_part=number in run.evaluate_at)
            history.position = number
            if evaluated or run.report_is_due():
                progress(history.step / run.steps, run.message())
            # at the end a checkpoint is written in any case, before the test part is scored
            if checkpoint is not None and (history.over() or checkpoint.due(evaluated=evaluated, size=size)):
                checkpoint.write(run.state(drawn_from, device))
            if history.over():
                break
        else:
            history.position = 0
    model.load_state_dict(run.best_state)
    model.eval()
    return run.finished()


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW with a group for each weight decay and each ``lr_factor``."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for p in model.parameters():
        if p.requires_grad:
            decay = recipe.weight_decay if p.ndim >= 2 else 0.0
            groups.setdefault((decay, getattr(p, "lr_factor", 1.0)), []).append(p)
    return torch.optim.AdamW(
        [{"params": group, "weight_decay": decay, "factor": factor}
         for (decay, factor), group in groups.items()],
        lr=recipe.lr,
        fused=True,
    )  # fmt: skip


class _Run:
    """A training in this process: makes its steps and evaluations, saves and restores its state."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        recipe: Recipe,
        batch_size: int,
        checkpoint: Checkpoint | None,
    ) -> None:
        per_epoch = math.ceil(len(objective.lengths) / batch_size)
        parts = range(1, recipe.evaluations + 1)
        # 0 occurs if more evaluations were asked for than an epoch has steps
        self.evaluate_at = {round(per_epoch * part / recipe.evaluations) for part in parts} - {0}
        self.steps = recipe.epochs * per_epoch
        self.history = History(metric=objective.metric, steps_per_epoch=per_epoch)
        self.best_state: dict[str, Tensor] = {}
        self._model, self._optimizer = model, optimizer
        self._objective, self._recipe, self._checkpoint = objective, recipe, checkpoint
        self._started = self._reported = time.perf_counter()
        self._note = ""

    def step(self, rows: Integers, device: torch.device, *, last_of_part: bool) -> bool:
        """Train on the rows, then evaluate if ``last_of_part``; return True if it evaluated."""
        history, recipe = self.history, self._recipe
        batch = self._objective.batch(rows)
        rate = recipe.lr * recipe.lr_factor(history.step, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        started = time.perf_counter()
        loss = self._update(on_device(batch, device))
        history.step += 1
        history.step_loss.append(loss)
        history.step_s.append(time.perf_counter() - started)
        for mask in (batch[name] for name in ("mask", "target_mask") if name in batch):
            history.tokens += int(mask.sum())
            history.positions += mask.numel()
        if last_of_part:
            self._evaluate(rate)
        return last_of_part

    def _update(self, batch: Batch) -> float:
        """Make one step of the optimizer; return the loss. Raises Diverged."""
        where = f"at training step {self.history.step + 1}; try a lower lr than {self._recipe.lr:g}"
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._objective.loss(self._model, batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(f"the loss is {value} {where}")
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self._model.parameters(), self._recipe.clip))
        if not math.isfinite(norm):
            raise Diverged(f"the gradient's norm is {norm} {where}")
        self._optimizer.step()
        return value

    def _evaluate(self, rate: float) -> None:
        history, model = self.history, self._model
        began = time.perf_counter()
        model.eval()
        with torch.no_grad():
            scores = self._objective.score()
        model.train()
        earlier = history.validation
        if not earlier or scores[history.metric] > earlier[history.best]:
            history.best = len(earlier)
            self.best_state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        losses = history.losses_since_evaluation
        history.train_loss.append(sum(losses) / len(losses))
        for name, value in scores.items():
            history.scores.setdefault(name, []).append(value)
        history.curve_step.append(history.step)
        history.curve_seconds.append(self._seconds())
        history.learning_rate.append(rate)
        history.evaluation_s.append(time.perf_counter() - began)
        history.stopped = self._reason_to_stop()

    def _reason_to_stop(self) -> Stopped | None:
        history, recipe = self.history, self._recipe
        if history.step == self.steps:
            return "epochs"
        if len(history.curve_step) - 1 - history.best >= recipe.patience:
            return "patience"
        if recipe.seconds is not None and self._seconds() >= recipe.seconds:
            return "seconds"
        return None

    def _writing_s(self) -> float:
        return self._checkpoint.spent_s if self._checkpoint is not None else 0.0

    def _seconds(self) -> float:
        """Return the seconds of training and evaluation, earlier processes included, checkpoints excluded."""
        return self.history.seconds + time.perf_counter() - self._started - self._writing_s()

    def report_is_due(self) -> bool:
        """Return True at most once every REPORT_EVERY_S seconds."""
        if time.perf_counter() - self._reported < REPORT_EVERY_S:
            return False
        self._reported = time.perf_counter()
        return True

    def message(self) -> str:
        """Return the progress of the training in words."""
        history = self.history
        losses = history.losses_since_evaluation or history.train_loss[-1:]
        parts = [
            f"epoch {history.epochs:.1f} of {self._recipe.epochs}",
            f"loss {sum(losses) / len(losses):.3f}",
            *(f"validation {score:.3f}" for score in history.validation[-1:]),
            f"{history.tokens_per_s:,.0f} tokens/s",
            self._time_left(),
            self._note,
            self._checkpoint.note if self._checkpoint is not None else "",
        ]
        return ", ".join(part for part in parts if part)

    def _time_left(self) -> str:
        """Return the time to the end in words, unless the training stops early."""
        history = self.history
        step_s = (self._seconds() - sum(history.evaluation_s)) / history.step
        left_s = step_s * (self.steps - history.step)
        if not history.evaluation_s:
            return f"{_duration(left_s)} of steps left"  # the time of an evaluation is not known yet
        mean_s = sum(history.evaluation_s) / len(history.evaluation_s)
        left_s += mean_s * (self._recipe.epochs * len(self.evaluate_at) - len(history.evaluation_s))
        if self._recipe.seconds is not None:
            left_s = min(left_s, max(0.0, self._recipe.seconds - self._seconds()))
        return f"at most {_duration(left_s)} left"

    def state(self, drawn_from: str, device: torch.device) -> State:
        """Return all that the rest depends on; ``drawn_from`` is the shuffling state at the epoch's start."""
        history = self.history.to_state()
        history["seconds"] = self._seconds()
        history["checkpoint_seconds"] += self._writing_s()
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": self.best_state,
            "history": history,
            "shuffle": drawn_from,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def resume(self, saved: State, shuffle: np.random.Generator, device: torch.device) -> None:
        """Continue from ``saved``, which :meth:`state` returned in another process."""
        assert self._checkpoint is not None
        if _shapes(saved["model"]) != _shapes(self._model.state_dict()):
            self._checkpoint.ignore("its weights do not fit the model")
            return
        self._model.load_state_dict(saved["model"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self.best_state = dict(on_device(saved["best"], device))
        self.history = History.from_state(saved["history"])
        self.history.resumed += 1
        shuffle.bit_generator.state = json.loads(saved["shuffle"])
        torch.set_rng_state(saved["random"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(saved["random_cuda"], device)
        self._started = time.perf_counter()
        self._note = f"resumed from epoch {self.history.epochs:.1f}"

    def finished(self) -> History:
        """Return the history with its final times."""
        history = self.history
        history.seconds = self._seconds()
        history.checkpoint_seconds += self._writing_s()
        return history


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

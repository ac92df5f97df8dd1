"""The numbers of a training, kept while it runs and read when it has ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

Stopped = Literal["epochs", "patience", "seconds"]

# Long series: a tensor is read from a checkpoint much faster than a list.
_LONG = ("step_loss", "step_s")


@dataclass(kw_only=True)
class History:
    """The course of a training.

    There is one number per evaluation in ``train_loss`` (the mean since the evaluation before), each series
    of ``scores``, ``curve_step`` (steps made), ``curve_seconds`` (seconds of training so far),
    ``learning_rate`` (of the step before) and ``evaluation_s``. There is one number per step in ``step_loss``
    and ``step_s`` (seconds of forward, backward and update). ``tokens`` counts real tokens trained on,
    ``positions`` these and padding. ``seconds`` is the time of the whole loop with its evaluations, without
    ``checkpoint_seconds`` and without what a killed run trained after its last checkpoint. ``resumed`` counts
    how often the training was resumed, ``best`` is the index of the evaluation whose weights are kept, and
    ``position`` counts the batches of the current epoch.
    """

    metric: str
    steps_per_epoch: int
    step: int = 0
    position: int = 0
    stopped: Stopped | None = None
    best: int = 0
    tokens: int = 0
    positions: int = 0
    seconds: float = 0.0
    checkpoint_seconds: float = 0.0
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
        """Return True if the training has ended."""
        return self.stopped is not None

    @property
    def epochs(self) -> float:
        """Epochs trained so far."""
        return self.step / self.steps_per_epoch

    @property
    def validation(self) -> list[float]:
        """The metric on the validation part, one number per evaluation."""
        return self.scores.get(self.metric, [])

    @property
    def curve_epoch(self) -> list[float]:
        """Epochs trained at each evaluation."""
        return [step / self.steps_per_epoch for step in self.curve_step]

    @property
    def best_epoch(self) -> float:
        """Epochs trained when the weights were the best."""
        return self.curve_epoch[self.best]

    @property
    def tokens_per_s(self) -> float:
        """Real tokens per second of training steps; padding and evaluations are not counted."""
        return self.tokens / sum(self.step_s)

    @property
    def padding_share(self) -> float:
        """The share of positions in training batches that hold padding."""
        return 1 - self.tokens / self.positions

    @property
    def losses_since_evaluation(self) -> list[float]:
        """The losses of the steps after the last evaluation."""
        return self.step_loss[self.curve_step[-1] if self.curve_step else 0 :]

    def to_state(self) -> dict[str, Any]:
        """Return all fields as a checkpoint stores them."""
        state = asdict(self)
        for name in _LONG:
            state[name] = torch.tensor(state[name], dtype=torch.float64)
        return state

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> History:
        """Return the history whose ``to_state`` is ``state``."""
        return cls(**{**state, **{name: state[name].tolist() for name in _LONG}})

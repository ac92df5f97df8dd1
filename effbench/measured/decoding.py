"""Generation measured: a context is read once, then one step after it is called again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor, nn

from effbench.measured.mechanism import State
from effbench.measured.probes.correctness import refused_inference_mode
from effbench.measured.state import state_bytes

T = TypeVar("T")
_PREFILLS = 5  # most readings of the prefill
_PREFILL_S = 1.0  # no further one is begun after this


class Inference:
    """Calls without gradients, in torch's inference mode.

    If a module refuses it, this and all later calls run under ``torch.no_grad``; ``note`` is told so once.
    """

    def __init__(self, note: Callable[[str], object]) -> None:
        self._mode: Callable[[], AbstractContextManager[object]] = torch.inference_mode
        self._note = note

    def __call__(self, call: Callable[[], T]) -> T:
        """Return what ``call`` returns."""
        try:
            with self._mode():
                return call()
        except RuntimeError as error:
            if self._mode is torch.no_grad or not refused_inference_mode(error):
                raise
        self._mode = torch.no_grad
        self._note(
            "its forward pass is refused in torch's inference mode: measured without gradients instead"
        )
        with self._mode():
            return call()


class Decoding:
    """A call is one step of ``module`` after the context x [B, N, d_model], for one token of each sequence.

    Each call starts from the state after the context, so that N does not grow from call to call: a cache is
    given with the same number of tokens again. A state of fixed size that a step overwrites goes on instead;
    what a step costs does not depend on its numbers, and a copy of it before each call would change what the
    processor's caches hold. The token [B, d_model] is random and the same in all calls.
    """

    def __init__(
        self, module: nn.Module, x: Tensor, note: Callable[[str], object] = lambda text: None
    ) -> None:
        module.eval()
        self._module = module
        self._context = x
        self._run = Inference(note)
        self._token = torch.randn_like(x[:, 0])
        self.state: State = self._run(self._started)

    @property
    def state_bytes(self) -> int:
        """The bytes of memory of the state after the context."""
        return state_bytes(self.state)

    def __call__(self) -> Tensor:
        """Return the output [B, d_model] for the token after the context."""
        return self._run(lambda: self._module.step(self._token, self.state)[0])  # type: ignore[operator, no-any-return]

    def prefill_s(self) -> float:
        """Read the context up to five times more, and return the median of the seconds that it takes."""
        seconds: list[float] = []
        while len(seconds) < _PREFILLS and sum(seconds) < _PREFILL_S:
            finish(self._context.device)
            start = time.perf_counter()
            self._prefilled()
            finish(self._context.device)
            seconds.append(time.perf_counter() - start)
        return median(seconds)

    def _started(self) -> State:
        """Return the state after the context, made in a mode that a step takes too."""
        state = self._module.prefill(self._context)[1]  # type: ignore[operator]
        self._module.step(self._token, state)  # type: ignore[operator]
        return state

    def _prefilled(self) -> tuple[Tensor, State]:
        return self._run(lambda: self._module.prefill(self._context))  # type: ignore[operator, no-any-return]


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

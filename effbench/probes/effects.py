"""What a mechanism does to the process that measures it: noticed, and undone where it can be."""

from __future__ import annotations

import os
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from effbench.wording import one_line, plural

_MOST_WARNINGS = 3
_WARNING_CHARACTERS = 120


@dataclass(frozen=True)
class _Setting:
    """One thing of the process that a mechanism should leave alone: how to read it and how to put it back."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


_SETTINGS = (
    _Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Setting("torch's gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting(
        "torch's deterministic mode",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    _Setting(
        "torch's float32 matmul precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
)


class Watch:
    """Compares the process with what it was when the watch began; ``said`` collects what was found."""

    def __init__(self, *, noisy: bool = False) -> None:
        """``noisy``: the measurement itself may print, so that output says nothing of the mechanism."""
        self._noisy = noisy
        self._before = {setting.name: setting.read() for setting in _SETTINGS}
        self._threads = set(threading.enumerate())
        self._printed = _printed_bytes()
        self.said: list[str] = []

    def undo(self, who: str) -> None:
        """Put back what ``who`` (its constructor, a call) has changed, and say it."""
        for setting, now in self._changed():
            setting.write(self._before[setting.name])
            self.say(f"{who} changes {setting.name} to {now}; undone before the measurement")

    def end(self) -> None:
        """Say what is other than at the start: it was so while measurements were taken."""
        for setting, now in self._changed():
            self.say(f"a call changes {setting.name} to {now}: its numbers were taken so")
            setting.write(self._before[setting.name])
        left = [each for each in set(threading.enumerate()) - self._threads if not _is_torchs(each)]
        if left:
            self.say(f"it keeps {plural(len(left), 'thread')} of Python running")
        sys.stdout.flush()
        sys.stderr.flush()
        if _printed_bytes() > self._printed and not self._noisy:
            self.say("it prints")

    def reseeds(self, call: Callable[[], object]) -> None:
        """Say whether ``call`` leaves torch's random generator in one state, whatever it was before."""
        states = []
        for seed in (11, 12):
            torch.manual_seed(seed)
            with torch.no_grad():
                call()
            states.append(torch.get_rng_state())
        if torch.equal(*states):
            self.say("a call seeds torch's random generator")

    def _changed(self) -> Iterator[tuple[_Setting, Any]]:
        for setting in _SETTINGS:
            now = setting.read()
            if now != self._before[setting.name]:
                yield setting, now

    def say(self, text: str) -> None:
        """Keep a sentence, once."""
        if text not in self.said:
            self.said.append(text)


def _is_torchs(thread: threading.Thread) -> bool:
    """Whether a thread runs torch's own code, such as the compiler's."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if "torch" in Path(frame.f_code.co_filename).parts:
            return True
        frame = frame.f_back
    return False


def _printed_bytes() -> int:
    """Bytes in the file that standard output goes to; 0 where it is none, as a terminal."""
    try:
        status = os.fstat(1)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collect the texts of warnings that are raised meanwhile, each once, cut to a line."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield said
        texts = dict.fromkeys(
            f"{each.category.__name__}: {one_line(str(each.message), _WARNING_CHARACTERS)}" for each in caught
        )
        said += list(texts)[:_MOST_WARNINGS]

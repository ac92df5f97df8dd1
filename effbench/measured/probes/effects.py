"""Detect what a mechanism does to the process that measures it, and undo it where possible."""

from __future__ import annotations

import os
import random
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effbench.common.wording import one_line, plural

_MOST_WARNINGS = 3
_WARNING_CHARACTERS = 120


@dataclass(frozen=True)
class _Setting:
    """A property of the process that a mechanism should not change: how to read and how to restore it.

    ``tell`` describes a change, in words that follow the name; empty if there is none.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    tell: Callable[[Any, Any], str] = lambda before, now: "" if now == before else f" to {now}"


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "one that is gone"


def _set_folder(folder: str) -> None:
    with suppress(OSError):  # the folder itself may have been deleted
        os.chdir(folder)


def _variables() -> dict[str, str]:
    return dict(os.environ)


def _set_variables(variables: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(variables)


def _changed_variables(before: dict[str, str], now: dict[str, str]) -> str:
    """Name the variables that changed; new ones do not count, since libraries add some on import."""
    changed = [name for name, value in before.items() if now.get(name) != value]
    return f": {', '.join(changed)}" if changed else ""


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
    _Setting("the working folder", _folder, _set_folder),
    _Setting("environment variables", _variables, _set_variables, _changed_variables),
)


class Watch:
    """Compare the process with its state when the watch began; ``notes`` describe the changes."""

    def __init__(self, *, noisy: bool = False) -> None:
        """``noisy``: the measurement itself may print, so that output is not attributed to the mechanism."""
        self._noisy = noisy
        self._before = {setting.name: setting.read() for setting in _SETTINGS}
        self._threads = set(threading.enumerate())
        self._printed = _printed_bytes()
        self.notes: list[str] = []
        self._undone: dict[str, str] = {}

    def undo(self, who: str) -> None:
        """Restore what ``who`` (its constructor, a call) has changed, and note it."""
        for setting, changed in self._changed():
            setting.write(self._before[setting.name])
            self._undone[setting.name] = (
                f"{who} changes {setting.name}{changed}; undone before the measurement"
            )

    def accept_threads(self) -> None:
        """Take the threads that run now as known: the compiler's, which are not the mechanism's."""
        self._threads |= set(threading.enumerate())

    def end(self) -> None:
        """Note all changes since the start, which were in effect while measurements were taken."""
        for setting, changed in self._changed():
            self.note(f"a call changes {setting.name}{changed}: its numbers were taken so")
            setting.write(self._before[setting.name])
            self._undone.pop(setting.name, None)
        for text in self._undone.values():
            self.note(text)
        left = [thread for thread in set(threading.enumerate()) - self._threads if not _is_torchs(thread)]
        if left:
            self.note(f"it keeps {plural(len(left), 'thread')} of Python running")
        sys.stdout.flush()
        sys.stderr.flush()
        if _printed_bytes() > self._printed and not self._noisy:
            self.note("it prints")

    def reseeds(self, call: Callable[[], object]) -> None:
        """Note the random generators that ``call`` leaves in the same state, whatever their state before."""
        states: list[dict[str, object]] = []
        for seed in (11, 12):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            with torch.no_grad():
                call()
            states.append(
                {
                    "torch": torch.get_rng_state().tolist(),
                    "numpy": str(np.random.get_state(legacy=False)["state"]["key"].tolist()),
                    "Python": random.getstate(),
                }
            )
        for name, state in states[0].items():
            if state == states[1][name]:
                self.note(f"a call seeds {name}'s random generator")

    def _changed(self) -> Iterator[tuple[_Setting, str]]:
        """Yield each setting that has changed, with a description of the change."""
        for setting in _SETTINGS:
            if changed := setting.tell(self._before[setting.name], setting.read()):
                yield setting, changed

    def note(self, text: str) -> None:
        """Add a sentence to the notes, once."""
        if text not in self.notes:
            self.notes.append(text)


def _is_torchs(thread: threading.Thread) -> bool:
    """True if a thread runs torch's own code, such as the compiler's."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if "torch" in Path(frame.f_code.co_filename).parts:
            return True
        frame = frame.f_back
    return False


def _printed_bytes() -> int:
    """Return the size of the file that standard output goes to; 0 if it is not a file."""
    try:
        status = os.fstat(1)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collect the texts of warnings that are raised meanwhile, each once, cut to one line."""
    heard_texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield heard_texts
        texts = dict.fromkeys(
            f"{w.category.__name__}: {one_line(str(w.message), _WARNING_CHARACTERS)}" for w in caught
        )
        heard_texts += list(texts)[:_MOST_WARNINGS]

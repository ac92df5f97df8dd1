"""Detect work of a call outside torch's operators: in other processes and in other libraries."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from torch import Tensor, UntypedStorage

# Methods that give a tensor's numbers to another library.
_LEAVES = frozenset({"numpy", "data_ptr", "_to_dlpack", "_to_dlpack_versioned"})
_KNOWN = frozenset({"torch", "numpy", "builtins"}) | sys.stdlib_module_names


class Elsewhere:
    """Watch one call, as a context: the numbers that this thread and its new threads give to other libraries.

    ``work``: calls that hand a tensor's floating-point numbers to another library (``Tensor.numpy``), calls
    of other libraries' compiled functions that take tensors, and child processes that used processor time.
    ``compiled``: True if a function of torch.compile was called. Other ways to read a tensor's memory are not
    seen, nor the calls of threads that ran before.
    """

    def __init__(self) -> None:
        self.work: Counter[str] = Counter()
        self.compiled = False
        self._watching = False

    def __enter__(self) -> Elsewhere:
        self._before = sys.getprofile(), threading.getprofile()
        self._children = _settled_children_s()
        self._watching = True
        if any(self._before):
            self.work["other libraries, hidden by a profiler that runs"] += 1
            return self
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not any(self._before):
            sys.setprofile(None)
            threading.setprofile(None)
        self._watching = False
        spent = _children_s() - self._children
        if spent > 0:
            self.work["other processes"] += 1

    def _look(self, frame: FrameType, event: str, what: Any) -> None:
        if not self._watching:  # a thread that outlived the call
            sys.setprofile(None)
        elif event == "c_call":
            name = what.__name__
            if name in _LEAVES and _has_numbers(getattr(what, "__self__", None)):
                self.work[f"Tensor.{name}"] += 1
            elif _takes_tensors(what):
                self.work[f"{what.__module__}.{name}"] += 1
        elif event == "call" and frame.f_code.co_name == _WRAPPER:
            self.compiled |= frame.f_code.co_filename.endswith(_COMPILER)


def _takes_tensors(function: Any) -> bool:
    """True for a compiled function of another library that takes tensors, by pybind11's docstring."""
    library = (getattr(function, "__module__", None) or "builtins").partition(".")[0]
    return library not in _KNOWN and "Tensor" in (function.__doc__ or "")


def _has_numbers(owner: object) -> bool:
    """True if it holds floating-point numbers, and not just indices; a storage may hold either."""
    if isinstance(owner, Tensor):
        return owner.dtype.is_floating_point or owner.dtype.is_complex
    return isinstance(owner, UntypedStorage)


# the function that torch.compile substitutes for the given one
_COMPILER, _WRAPPER = os.path.join("torch", "_dynamo", "eval_frame.py"), "compile_wrapper"


def _settled_children_s() -> float:
    """Return the descendants' time once it no longer changes: they may still finish earlier work."""
    used = _children_s()
    for _ in range(_SETTLES):
        time.sleep(_SETTLE_S if used else 0)
        before, used = used, _children_s()
        if used == before:
            break
    return used


_SETTLES, _SETTLE_S = 20, 0.002


def _children_s() -> float:
    """Return the seconds of processor time of this process's descendants, including those that ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime + sum(_used_s(child) for child in _children(os.getpid()))


def _children(process: int) -> list[int]:
    """Return the running descendants, as Linux lists them; none on other systems."""
    descendants: list[int] = []
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            direct = [int(child) for child in listed.read_text().split()]
        except OSError:  # the thread has ended
            continue
        for child in direct:
            descendants += [child, *_children(child)]
    return descendants


def _used_s(process: int) -> float:
    total = 0
    for account in Path(f"/proc/{process}/task").glob("*/schedstat"):
        try:
            total += int(account.read_text().split()[0])
        except OSError:
            continue
    return total / 1e9

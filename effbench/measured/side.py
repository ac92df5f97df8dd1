"""The gate's worker: one side's mechanisms, called on command. Every answer is plain data."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from effbench.common import machine, registry
from effbench.common.blame import message
from effbench.common.processes import Messages, die_with_parent, leave_after, send
from effbench.common.spec import Cell, Job, Limits, UsageError, cell_from
from effbench.measured.compiled import compiled
from effbench.measured.facts import facts
from effbench.measured.gpu import CudaDevice, Device
from effbench.measured.probes import memory, profiler
from effbench.measured.probes.cuda_time import block_seconds
from effbench.measured.probes.time import waited_ns
from effbench.measured.worker import is_out_of_memory, measure
from effbench.measured.workload import Call, build

_EFFBENCH = Path(__file__).resolve().parents[1]
_WARM_UP_S, _WARM_UP_CALLS = 0.05, 3
_FIGURES = {"memory": ("peak_bytes", "saved_bytes", "parameters"), "flops": ("flops",)}


class Side:
    """The methods that the gate can call in a worker; each takes and returns plain data."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._calls: list[Call] = []
        self._threads: list[int] = []
        self._cards: list[Device | None] = []
        self._primed = False

    def parse(self, texts: list[str]) -> list[dict[str, Any]]:
        """Return each mechanism's ``name``, ``options`` and ``path``, or the ``error`` that refuses it.

        With an error, ``kind`` says what is at fault: ``absent`` (no such file, class or option), ``broken``
        (it exists and is no mechanism) or ``usage`` (the text).
        """
        return [self._parsed(text) for text in texts]

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            name, options = registry.parse(text, "mechanism")
            plugin = registry.find(name, "mechanism")
            if plugin.parameters is None and options:  # the source does not show whether it has them
                refusal = self._in_child(partial(_refusal, plugin, options))
                if "error" in refusal:
                    return {"kind": "broken", **refusal}
            return {"name": name, "options": options, "path": str(plugin.path.resolve())}
        except registry.Absent as error:
            return {"error": str(error), "kind": "absent"}
        except registry.Broken as error:
            return {"error": str(error), "kind": "broken"}
        except UsageError as error:
            return {"error": str(error), "kind": "usage"}

    def build(self, cells: list[dict[str, Any]], allocator: str, check: bool) -> list[str]:
        """Build the call of every cell; return "" for each, or the reason why it cannot be built.

        Later commands name a cell by its index in ``cells``. ``check``: also check the results.
        """
        machine.set_allocator(allocator)  # type: ignore[arg-type]
        self._calls, self._threads, self._cards = [], [], []
        return [self._build(cell, check) for cell in cells]

    def pin(self, core: int) -> bool:
        """Stay on one core from now on; False where the system cannot do that."""
        if not hasattr(os, "sched_setaffinity"):
            return False
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {core})
        return True

    def warm_up(self, index: int) -> dict[str, Any]:
        """Call a cell for at least 0.05 s; return ``time_s`` of the last call, or the ``error``."""
        try:
            self._set_threads(index)
            spent, calls, last = 0.0, 0, 0.0
            while spent < _WARM_UP_S or calls < _WARM_UP_CALLS:
                last = self._block(index, 1)
                spent, calls = spent + last, calls + 1
        except Exception as error:
            return {"error": _reason(error)}
        return {"time_s": last}

    def call(self, index: int, untimed: int, calls: int) -> dict[str, Any]:
        """Call ``untimed`` times, then time a block of ``calls``.

        Returns ``time_s``, the seconds per call of the block, or the ``error``.
        """
        try:
            self._set_threads(index)
            if untimed:
                self._block(index, untimed)
            return {"time_s": self._block(index, calls)}
        except Exception as error:
            return {"error": _reason(error)}

    def figures(self, cell: dict[str, Any], other: str = "") -> dict[str, Any]:
        """Return the exact figures of one cell, numbers and ``ops`` by name; or its ``error``.

        ``foreign`` names the modules that it imported from the ``other`` side's folder, without effbench's.

        They are taken in a child forked for it. The profiler remembers blocks of earlier calls and reports
        their sizes when others at the same addresses are freed, so that the peak of a call is right only in a
        process that has profiled no other call. So this process runs no operation and profiles an empty
        function only; the memory probe's self-test, which profiles a call, has a child of its own.
        """
        if not self._primed:
            profiler.record(lambda: None)  # a second of set-up that the children inherit
            self._primed = True
            failure = self._in_child(_test_memory_probe)
            if "error" in failure:
                return failure
        return self._in_child(lambda: {**_figures(cell), "foreign": self._foreign(other) if other else []})

    def facts(self) -> dict[str, Any]:
        """Return the facts of the machine as it is now."""
        return facts()

    def _in_child(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of ``work`` in a forked process, or the ``error`` that ended the process."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            die_with_parent()
            leave_after(lambda: send(writing, work()))
        os.close(writing)
        answers = list(Messages(reading))
        os.close(reading)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return {"error": signal.Signals(os.WTERMSIG(status)).name}
        if not answers:
            return {"error": f"its process left with exit code {os.WEXITSTATUS(status)}"}
        return dict(answers[0])

    def _foreign(self, other: str) -> list[str]:
        """Return the modules that were imported from ``other``, but for effbench, this side and libraries."""
        foreign = []
        for name, module in sorted(sys.modules.items()):
            path = getattr(module, "__file__", None)
            if not isinstance(path, str) or "site-packages" in path:
                continue
            place = Path(path).resolve()
            own = place.is_relative_to(_EFFBENCH) or place.is_relative_to(self._root.resolve())
            if place.is_relative_to(other) and not own:
                foreign.append(name)
        return foreign

    def _build(self, cell: dict[str, Any], check: bool) -> str:
        try:
            whole = cell_from(cell)
            self._add(_timed(whole, check), whole.threads, _card(whole))
        except Exception as error:
            self._add(lambda: None, 1, None)
            return _reason(error)
        return ""

    def _add(self, call: Call, threads: int, card: Device | None) -> None:
        self._calls.append(call)
        self._threads.append(threads)
        self._cards.append(card)

    def _set_threads(self, index: int) -> None:
        if torch.get_num_threads() != self._threads[index]:
            torch.set_num_threads(self._threads[index])

    def _block(self, index: int, calls: int) -> float:
        """Return seconds per call of one block; garbage collection is off, as in a time probe.

        On a card it is the time between two events around the block. On the CPU with one thread, the time in
        which the thread was ready and others had its core is subtracted.
        """
        call, card = self._calls[index], self._cards[index]
        if card is not None:
            return block_seconds(call, card, calls)
        waited = waited_ns if self._threads[index] == 1 else _nothing
        start = time.perf_counter_ns()
        before = waited()
        for _ in range(calls):
            call()
        others = waited() - before  # read within start and stop, so that it is at most their distance
        return (time.perf_counter_ns() - start - others) / calls / 1e9


def _nothing() -> int:
    return 0


def _refusal(plugin: registry.Plugin, options: Mapping[str, Any]) -> dict[str, Any]:
    """Import the class and return nothing if it takes the options, else what ``Side.parse`` answers."""
    try:
        parameters = inspect.signature(registry.load(plugin)).parameters.values()
    except registry.Absent as error:
        return {"error": str(error), "kind": "absent"}
    except Exception as error:
        return {"error": _reason(error), "kind": "broken"}
    known = [parameter.name for parameter in parameters]
    lacking = [name for name in options if name not in known]
    if lacking and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        refusal = registry.unknown(f"option of {plugin.name}", lacking[0], known, "its options")
        return {"error": refusal, "kind": "absent"}
    return {}


def _test_memory_probe() -> dict[str, Any]:
    try:
        memory.self_test()
    except RuntimeError as error:
        return {"error": str(error)}
    return {}


def _figures(cell: dict[str, Any]) -> dict[str, Any]:
    """Measure memory and FLOPs of the cell, and count its operations; see ``Side.figures``."""
    whole = cell_from(cell)
    limits = Limits(timeout_s=0.0, memory_bytes=0)  # the gate keeps the time
    figures: dict[str, Any] = {}
    for probe, names in _FIGURES.items():
        asked = replace(whole, probe=probe, seconds=0.0, precision=0.0)
        record = measure(Job(cell=asked, limits=limits), lambda fraction, text: None, memory_tested=True)
        if record.status != "ok":
            return {"error": f"{record.status}: {record.reason}"}
        figures |= {name: record.values[name] for name in names if record.values.get(name) is not None}
    try:
        figures["ops"] = dict(_operations(_timed(replace(whole, compile="none"), False)))
    except Exception as error:
        return {"error": _reason(error)}
    return figures


def _timed(cell: Cell, check: bool) -> Call:
    """Build what a time cell times and, with ``check``, check its results, as the worker does."""
    workload = build(cell)
    if check:
        workload.check()
    if cell.compile != "none":
        workload, _ = compiled(workload, cell.compile)
    call = workload.call()
    gc.disable()
    return call


def _card(cell: Cell) -> Device | None:
    """Return the card that a cell runs on; None on the CPU."""
    return CudaDevice(torch.device(cell.device)) if cell.device.startswith("cuda") else None


def _operations(call: Call) -> Counter[str]:
    """Count how often the second of two calls runs each of torch's operations."""
    counts: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # otherwise torch imports its compiler, which takes seconds

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            counts[str(func)] += 1
            return func(*args, **(kwargs or {}))

    call()  # a first call also does set-up
    with Count():  # type: ignore[no-untyped-call]
        call()
    return counts


def _reason(error: BaseException) -> str:
    kind = "oom: " if is_out_of_memory(error) else f"{type(error).__name__}: "
    return kind + message(error)

"""Use the profiler as a second witness: find operators of a call that the counter did not see.

The counter is in torch's dispatcher, on the calling thread and on threads that inherit its state. The
profiler records every operator of the process. Operators that the counter did not see are named here.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effbench.measured.probes import profiler
from effbench.measured.probes.elementwise import does_no_arithmetic
from effbench.measured.probes.kernels import IMPLICIT, in_python, kernel_of, operator_of

_MARK = "effbench counted "
# Events under these on another thread have the calling thread's state, its modes and hooks.
_HANDED_ON = ("<forked function>", "autograd::engine::")


def counted(operator: str) -> Any:
    """Return a context for one operator that the counter runs and counts."""
    return profiler.mark(_MARK + operator)


def unseen_operators(events: Iterable[Any]) -> Counter[str]:
    """Count the operators of all threads that did arithmetic and that the counter did not see.

    ``events`` come from ``profiler.record``. If none of an operator's own operators was counted, the
    outermost is named. An operator of another library that is not written in Python is always named: its
    kernel may do more than call operators.
    """
    unseen: Counter[str] = Counter()
    here = threading.get_native_id()
    for thread, roots in _trees(events).items():
        for node in roots:
            for name in _unseen(node):
                unseen[name if thread == here else f"{name} on another thread"] += 1
    return unseen


def operators_on_other_threads(events: Iterable[Any]) -> Counter[str]:
    """Count the outermost operators on threads that do not have the calling thread's state."""
    here = threading.get_native_id()
    others = [
        roots for thread, roots in _trees(events).items() if thread != here and not _of_torchs_pool(thread)
    ]
    return Counter(
        f"{name} on another thread" for roots in others for node in roots for name in _not_handed_on(node)
    )


def _of_torchs_pool(thread: int) -> bool:
    """True for a thread on which TorchScript runs ``fork`` and what waits for it."""
    name = Path(f"/proc/self/task/{thread}/comm")
    return name.exists() and name.read_text().strip() == "PTThreadPool"


@dataclass(slots=True)
class _Node:
    """One event; ``counted``: an operator in it was counted; ``itself``: this operator was."""

    name: str
    overload: str
    end: int
    children: list[_Node] = field(default_factory=list)
    counted: bool = False
    itself: bool = False


def _trees(events: Iterable[Any]) -> dict[int, list[_Node]]:
    """Nest the events of each thread by their times; events inside a counted operator are left out."""
    roots: dict[int, list[_Node]] = {}
    open_nodes: dict[int, list[_Node]] = {}
    for event in events:
        name, end, thread = event.name(), event.end_ns(), event.device_resource_id()
        if name == profiler.MEMORY:
            continue
        stack = open_nodes.setdefault(thread, [])
        while stack and stack[-1].end < end:
            stack.pop()
        if stack and stack[-1].name.startswith(_MARK):
            continue
        node = _Node(name, event.overload_name(), end)
        if name.startswith(_MARK):
            for outer in stack:
                outer.counted = True
                outer.itself |= outer.name == name.removeprefix(_MARK)
        (stack[-1].children if stack else roots.setdefault(thread, [])).append(node)
        stack.append(node)
    return roots


def _unseen(node: _Node) -> Iterator[str]:
    if node.name.startswith(_MARK):
        return
    operator = operator_of(node.name, node.overload)
    namespace = node.name.partition("::")[0]
    if operator is None or namespace in ("prim", "profiler") or node.itself:
        inside = node.children
    elif namespace == "aten":
        if not node.counted and does_no_arithmetic(operator):
            return
        made_of_others = node.children and kernel_of(operator.name(), "CPU") == IMPLICIT
        inside = node.children if node.counted or made_of_others else []
        if not inside:
            yield node.name
    else:
        looked_into = node.counted and any(in_python(operator.name(), key) for key in _KERNELS)
        inside = node.children if node.counted else []
        if not looked_into:
            yield node.name
    for child in inside:
        yield from _unseen(child)


_KERNELS = ("CPU", "CUDA", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional", IMPLICIT)


def _not_handed_on(node: _Node) -> Iterator[str]:
    if node.name.startswith(_HANDED_ON):
        return
    if operator_of(node.name, node.overload) is not None:
        yield node.name
    else:
        for child in node.children:
            yield from _not_handed_on(child)

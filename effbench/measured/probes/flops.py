"""Count the work of a call from its operators: FLOPs, operators that are not counted, bytes moved."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from effbench.measured.probes import profiler
from effbench.measured.probes.elementwise import Count, other_work
from effbench.measured.probes.elsewhere import Elsewhere
from effbench.measured.probes.failure import ProbeFailed, observed, short
from effbench.measured.probes.kernels import IMPLICIT, NESTED, backend_of, in_python, kernel_of
from effbench.measured.probes.products import COMPLEX, PRODUCTS, Formula
from effbench.measured.probes.tensors import held_bytes, storages
from effbench.measured.probes.witness import counted, unseen_operators

EXECUTED, EAGER = "operators as executed", "operators of the eager program, without torch.compile"


@dataclass
class Work:
    """The work of one call.

    ``flops``: of products that are summed, a multiply-add counts 2. ``other``: of element-wise work, softmax,
    reductions and FFTs under the constants of docs/method.md. ``uncounted``: work that is in neither,
    with the number of calls: operators without a rule or out of sight, other libraries, other processes.
    ``bytes_moved``: what the operators read and write, each operand once; views are free; a cache may serve
    a part of it. ``method``: what was counted, EXECUTED or EAGER.
    """

    flops: int = 0
    other: int = 0
    uncounted: Counter[str] = field(default_factory=Counter)
    bytes_moved: int = 0
    method: str = EXECUTED


def count_work(call: Callable[[], object]) -> Work:
    """Run ``call()`` once and count what its operators do. Never call this while timing.

    Attention kernels count as executed: two products forward, five backward (the scores are computed again),
    masked or causal entries in full. A compiled function counts as the eager program that it was made from.
    What cannot be counted is named in ``Work.uncounted``.

    Raises ProbeFailed if the call fails under the counter alone.
    """
    return observed("flops", lambda: _count(call), call)


def count_flops(call: Callable[[], object]) -> int:
    """Return the FLOPs of the products that ``call()`` executes; a multiply-add counts 2."""
    return count_work(call).flops


def _count(call: Callable[[], object]) -> Work:
    compiler = "torch._dynamo" in sys.modules
    try:
        return _count_once(call)
    except ProbeFailed:
        raise
    except Exception:
        if compiler or "torch._dynamo" not in sys.modules:
            raise
    return _count_once(call)  # the call imported the compiler, which can only be disabled now


def _count_once(call: Callable[[], object]) -> Work:
    counter = _Counter()

    def watched() -> object:
        with elsewhere, counter:
            return call()

    with _eager():
        elsewhere = Elsewhere()
        events = profiler.record(watched, all_threads=True)
    if counter.failure is not None:
        raise ProbeFailed(f"flops cannot be counted: {short(counter.failure)}") from counter.failure
    work = counter.work
    for name, calls in (unseen_operators(events) + elsewhere.work).items():
        work.uncounted.setdefault(name, calls)
    work.method = EAGER if elsewhere.compiled else EXECUTED
    return work


def _eager() -> AbstractContextManager[object]:
    """Run compiled functions eagerly: a kernel of the compiler shows no operators."""
    # importing the compiler takes seconds, and nothing is compiled without it
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@dataclass(frozen=True)
class _Rule:
    """The rule by which calls of one operator are counted on tensors of one kind.

    ``inside``: the kernel to run under the counter, since it calls operators. ``product``, ``authored`` (the
    formula that its author registered with torch) and ``other``: what counts the call itself. ``known``:
    False if the operator is named, whatever is counted of it.
    """

    name: str  # namespace::operator
    inside: DispatchKey | None = None
    product: Formula | None = None
    authored: Callable[..., Any] | None = None
    other: Count | None = None
    known: bool = True


def _rule(func: Any, backend: str) -> _Rule:
    name, operator = str(func._schema.name), func.name()
    aten = name.startswith("aten::")
    key = kernel_of(operator, backend)
    inside = getattr(DispatchKey, key) if key else None
    authored = None if aten else flop_counter.flop_registry.get(func._overloadpacket)
    if authored is not None:
        return _Rule(name, authored=authored)
    product = PRODUCTS.get(name) or (PRODUCTS.get(name.rstrip("_")) if func._schema.is_mutable else None)
    other = other_work(func) if aten else None
    nested = backend.startswith(NESTED) and (product is not None or name in _MADE_OF_OTHERS)
    if key and (nested or in_python(operator, key)):
        return _Rule(name, inside)
    if product is not None:
        return _Rule(name, inside if name in _PARTLY_INSIDE else None, product, other=other)
    if key and aten and (key == IMPLICIT or name in _MADE_OF_OTHERS):
        return _Rule(name, inside)
    return _Rule(name, inside if other is None else None, other=other, known=other is not None)


# Kernels that only call operators. linear and matmul are dispatched as a whole for nested tensors.
_MADE_OF_OTHERS = frozenset({
    "aten::linear", "aten::matmul", "aten::matmul_backward", "aten::_euclidean_dist", "aten::_trilinear",
    "aten::_safe_softmax", "aten::_transformer_encoder_layer_fwd", "aten::_native_multi_head_attention",
})  # fmt: skip
# Kernels that call a product or do the same work themselves.
_PARTLY_INSIDE = frozenset({"aten::_cdist_forward"})


class _Counter(TorchDispatchMode):
    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False; otherwise torch imports its compiler, which takes seconds."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()
        self.failure: Exception | None = None  # the counter's, not to be raised inside the mechanism
        self._rules: dict[tuple[Any, str], _Rule] = {}
        self._inside: list[str] = []  # operators whose kernels run under the counter now
        self._lock = threading.Lock()  # torch.jit.fork runs operators on several threads

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(kind.__torch_dispatch__ is not Tensor.__torch_dispatch__ for kind in types):
            return NotImplemented  # the subclass answers with operators on plain tensors, which come here
        if not isinstance(func, OpOverload):  # a higher-order operator: flex_attention, cond ...
            return self._higher_order(func, args, kwargs)
        backend = backend_of(_tensors((args, kwargs)))
        rule = self._rules.get((func, backend))
        if rule is None:
            rule = self._rules[func, backend] = _rule(func, backend)
        if not rule.known and rule.name not in self._inside:  # a kernel may call another overload of itself
            self._count(rule.name, None)
        if rule.inside is None:
            with counted(rule.name):
                out = func(*args, **kwargs)
                self._add(rule, func, args, kwargs, out)
            return out
        before = self.work.flops, self.work.bytes_moved
        self._inside.append(rule.name)
        try:
            with self:
                out = func._op_dk(rule.inside, *args, **kwargs)
        finally:
            self._inside.pop()
        flops, bytes_moved = self.work.flops, self.work.bytes_moved
        if (rule.product and (flops, bytes_moved) == before) or (not rule.known and bytes_moved == before[1]):
            with counted(rule.name):
                self._add(rule, func, args, kwargs, out)
        return out

    def _higher_order(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        formula = flop_counter.flop_registry.get(func)
        with counted(func.name()):
            out = func(*args, **kwargs)
        self._count(f"higher_order::{func.name()}", formula and formula(*args, **kwargs, out_val=out))
        return out

    def _add(self, rule: _Rule, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Add one call to the work. A failure of the counter is kept until the mechanism's call has ended."""
        outputs = _tensors(out)
        if outputs and all(t.is_meta for t in outputs):
            return  # shapes only
        try:
            arguments = _arguments(func, args, kwargs)
            inputs = _tensors([arguments[a.name] for a in func._schema.arguments if not a.is_out])
            flops: int | None = 0
            if rule.product is not None:
                flops = rule.product(arguments, out)
                if flops and any(t.is_complex() for t in (*inputs, *outputs)):
                    flops *= COMPLEX
            elif rule.authored is not None:
                flops = int(rule.authored(*args, **kwargs, out_val=out))
            other = rule.other(arguments, inputs, outputs) if rule.other else 0
            moved = _moved(func, inputs, outputs)
        except Exception as error:
            self.failure = self.failure or error
            return
        self._count(rule.name, flops, other, moved)

    def _count(self, name: str, flops: int | None, other: int = 0, moved: int = 0) -> None:
        """Add to the work; the operator is named if ``flops`` is None."""
        with self._lock:
            self.work.flops += flops or 0
            self.work.other += other
            self.work.bytes_moved += moved
            if flops is None:
                self.work.uncounted[name] += 1


def _tensors(values: Any) -> list[Tensor]:
    return [t for t in tree_leaves(values) if isinstance(t, Tensor)]


def _arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return all arguments of a call by their names in the schema, with defaults for missing ones."""
    schema = func._schema.arguments
    defaults = {a.name: a.default_value for a in schema}
    return defaults | dict(zip(defaults, args, strict=False)) | kwargs


def _moved(func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> int:
    """Return the bytes that are read and written, each operand once; 0 for a view."""
    name = func._schema.name
    if name in _UNTOUCHED or (not func._schema.is_mutable and _is_view(inputs, outputs)):
        return 0
    read = inputs[1:] if name in _OVERWRITTEN else inputs
    once = {id(t): t for t in read}.values()  # x * x reads x once
    return sum(held_bytes(t) for t in (*once, *outputs))


def _is_view(inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    there = {storage for t in inputs for storage in storages(t)}
    return bool(outputs) and all(storages(t).keys() <= there for t in outputs)


_UNTOUCHED = frozenset(
    f"aten::{name}"
    for name in ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided",
                 "resize_", "set_")
)  # fmt: skip
_OVERWRITTEN = frozenset({"aten::copy_", "aten::fill_", "aten::zero_"})

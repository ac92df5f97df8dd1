"""Call every operator that torch registers: does it sum products, and what is counted?

``python tests/operators.py`` prints one line of JSON for each operator with arguments that it accepts: its
name, True if it sums products, and the result of ``count_work``. It is a separate process, because some of
torch's kernels do not check their arguments and end it; the last name on stderr is then the kernel's.
"""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from effbench.measured.probes.flops import count_work
from effbench.measured.probes.kernels import kernel_of

# They move numbers between processes or measure time: a single process cannot call them.
ELSEWHERE = {"c10d", "_c10d_functional", "_c10d_functional_autograd", "symm_mem", "_dtensor", "profiler"}
# Kernels that end the process on arguments that their Python callers never give them.
UNCHECKED = {
    "aten::_batch_norm_impl_index_backward", "aten::_batch_norm_no_update", "aten::native_batch_norm",
    "aten::_native_batch_norm_legit", "aten::native_batch_norm_backward", "aten::batch_norm_backward",
    "aten::_nnpack_spatial_convolution", "aten::_thnn_differentiable_gru_cell_backward",
    "aten::reflection_pad1d_backward", "aten::reflection_pad2d_backward",
}  # fmt: skip
SHAPES = [(3, 3), (3, 3, 3), (3,), (1, 3, 3, 3), ()]
INTEGERS = ("index", "indices", "idx", "offsets", "offset2bag", "target", "lengths")
TRIES = 16
STEP = 0.25


def operators() -> Iterator[Any]:
    """Functional overloads that take a tensor; those in place and with ``out`` share their rules by name."""
    for full in sorted(set(torch._C._dispatch_get_all_op_names())):
        name, _, overload = full.partition(".")
        namespace, _, base = name.partition("::")
        if namespace in ELSEWHERE or name in UNCHECKED:
            continue
        operator = getattr(getattr(getattr(torch.ops, namespace), base), overload or "default", None)
        if (
            operator is None
            or operator._schema.is_mutable
            or any(a.is_out for a in operator._schema.arguments)
        ):
            continue
        tensors = any(str(a.type) in ("Tensor", "List[Tensor]") for a in operator._schema.arguments)
        if tensors and "prepack" not in base and kernel_of(operator.name(), "CPU"):
            yield operator


def value(argument: Any, shape: tuple[int, ...], sizes: int) -> Any:
    """Return a possible value of an argument of this type."""
    kind = str(argument.type)
    if kind == "Tensor" and any(word in argument.name for word in INTEGERS):
        return torch.arange(3)
    if kind == "Tensor" and argument.name in ("mask", "condition"):
        return torch.ones(shape, dtype=torch.bool)
    if kind == "Tensor":
        return torch.rand(shape) + 0.5
    if kind == "List[Tensor]":
        return [torch.rand(shape) + 0.5 for _ in range(2)]
    if kind == "int":
        return 0 if argument.name == "dim" else 3 if "features" in argument.name else 1
    ready = {
        "number": 2,
        "float": 1.0,
        "bool": False,
        "str": "sum",
        "List[int]": [1] * sizes,
        "List[bool]": [True] * 3,
    }
    return ready.get(kind)


def call_of(operator: Any) -> tuple[list[Any], dict[str, Any]] | None:
    """Return arguments that the operator accepts; None if none were found."""
    arguments = operator._schema.arguments
    places = [i for i, a in enumerate(arguments) if str(a.type) in ("Tensor", "List[Tensor]")]
    shapes = sorted(itertools.product(SHAPES, repeat=min(3, len(places))), key=lambda s: len(set(s)))
    for sizes, chosen in itertools.islice(itertools.product((1, 2), shapes), TRIES):
        shape_of = dict(zip(places, [*chosen, *[chosen[-1]] * len(places)], strict=False))
        torch.default_generator.manual_seed(0)  # torch.manual_seed formats a stack trace per device type
        values = [
            a.default_value if a.has_default_value() else value(a, shape_of.get(i, ()), sizes)
            for i, a in enumerate(arguments)
        ]
        positional = [v for a, v in zip(arguments, values, strict=True) if not a.kwarg_only]
        keywords = {a.name: v for a, v in zip(arguments, values, strict=True) if a.kwarg_only}
        try:
            result(operator, positional, keywords)
        except Exception:  # not these: the operator says why, and others are tried
            continue
        return positional, keywords
    return None


def result(operator: Any, positional: list[Any], keywords: dict[str, Any]) -> Tensor:
    """Return all real numbers that the operator returns."""
    torch.default_generator.manual_seed(0)  # torch.manual_seed formats a stack trace per device type
    with torch.no_grad():
        found = tree_leaves(operator(*positional, **keywords))
    return torch.cat([
        t.double().flatten() for t in found
        if isinstance(t, Tensor) and t.layout is torch.strided and t.is_floating_point() and t.numel() < 1000
    ] or [torch.zeros(0)])  # fmt: skip


def sums_products(operator: Any, positional: list[Any], keywords: dict[str, Any]) -> bool:
    """True if one number of the result holds a_i b_j + a_k b_l, i != k and j != l, of two tensors or of one.

    By mixed differences: a product of a_i and b_j is what changes if both change and not if one does. Of one
    tensor only where the result is quadratic in it, else every function of several numbers would count.
    """
    leaves = tree_leaves((positional, keywords))
    tensors = [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()][:4]
    whole = result(operator, positional, keywords)
    if not whole.numel() or not bool(whole.isfinite().all()) or "empty" in operator.name():
        return False

    def changed(*places: tuple[Tensor, int]) -> Tensor:
        for t, i in places:
            t.view(-1)[i] += STEP
        try:
            return result(operator, positional, keywords)
        finally:
            for t, i in places:
                t.view(-1)[i] -= STEP

    # among these are two terms of the first number of a matrix product and of a dot product
    at = {t: [i for i in (0, 1, 3) if i < t.numel()] for t in tensors}
    alone = {(t, i): changed((t, i)) for t in tensors for i in at[t]}
    for a, b in itertools.combinations_with_replacement(tensors, 2):
        if a is b and not quadratic(operator, positional, keywords, a, whole):
            continue
        pairs = [(i, j) for i in at[a] for j in at[b] if a is not b or i <= j]
        mixed = [changed((a, i), (b, j)) - alone[a, i] - alone[b, j] + whole for i, j in pairs]
        terms = torch.stack(mixed).abs() > 1e-3 * (1 + whole.abs().max()) if mixed else torch.zeros(0, 1)
        for column in terms.T:
            seen = [pair for pair, there in zip(pairs, column, strict=True) if there]
            if any(i != k and j != m for (i, j), (k, m) in itertools.combinations(seen, 2)):
                return True
    return False


def quadratic(
    operator: Any, positional: list[Any], keywords: dict[str, Any], t: Tensor, whole: Tensor
) -> bool:
    t *= 2
    try:
        doubled = result(operator, positional, keywords)
    finally:
        t /= 2
    return doubled.shape == whole.shape and torch.allclose(doubled, 4 * whole, rtol=1e-3)


def main() -> None:
    """Print the results of the operators after the given name, in the order of their names."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    after = sys.argv[1] if len(sys.argv) > 1 else ""
    done = ""
    for operator in operators():
        if operator.name() <= after or operator._schema.name == done:  # one overload of each
            continue
        print(operator.name(), file=sys.stderr, flush=True)
        found = call_of(operator)
        if found is None:
            continue
        positional, keywords = found
        done = operator._schema.name
        try:
            contracts = sums_products(operator, positional, keywords)
        except Exception:  # it takes its numbers for sizes, indices or shares, not for factors
            contracts = False
        try:
            with torch.no_grad():
                work = count_work(lambda: operator(*positional, **keywords))  # noqa: B023
            counted = {"flops": work.flops, "other": work.other, "uncounted": dict(work.uncounted)}
        except Exception as error:
            counted = {"error": f"{type(error).__name__}: {error}"}
        line = {"operator": operator.name(), "sums_products": contracts, **counted}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

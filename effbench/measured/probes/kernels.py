"""Find the kernel of an operator that runs on given tensors, and if it is written in Python."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

# A kernel under one of these keys serves every backend; it usually calls other operators.
_ANY_BACKEND = (
    "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional", "CompositeImplicitAutograd"
)  # fmt: skip
IMPLICIT = "CompositeImplicitAutograd"
NESTED = "NestedTensor"


def backend_of(tensors: list[Tensor]) -> str:
    """Return the dispatch key whose kernel takes these tensors, from their device, layout and subclass."""
    device = next((t.device.type for t in tensors if t.device.type != "cpu"), "cpu")
    device = "Meta" if device == "meta" else device.upper()
    if any(t.is_nested for t in tensors):
        return f"{NESTED}{device}"
    layouts = {t.layout for t in tensors} - {torch.strided}
    if torch._mkldnn in layouts:  # type: ignore[attr-defined]
        return f"Mkldnn{device}"
    if layouts - {torch.sparse_coo}:
        return f"SparseCsr{device}"
    if layouts:
        return f"Sparse{device}"
    return f"Quantized{device}" if any(t.is_quantized for t in tensors) else device


def kernel_of(operator: str, backend: str) -> str | None:
    """Return the dispatch key of the kernel that runs ``operator`` (``aten::add.Tensor``) on ``backend``."""
    special = ("CompositeImplicitAutogradNestedTensor",) if backend.startswith(NESTED) else ()
    key: str
    for key in (backend, *_ANY_BACKEND[:2], *special, *_ANY_BACKEND[2:]):
        if torch._C._dispatch_has_kernel_for_dispatch_key(operator, key):
            return key
    return None


def in_python(operator: str, key: str) -> bool:
    """True if the kernel of ``operator`` under ``key`` was registered from Python.

    torch keeps that in no public place; where it does not, no kernel is taken for one in Python.
    """
    return f"{operator.replace('::', '/')}/{key}" in getattr(torch.library, "_impls", ())


def operator_of(name: str, overload: str = "") -> Any | None:
    """Return torch's object for the operator of this name, such as ``aten::add``; None if there is none."""
    if not _OPERATOR.fullmatch(name):
        return None
    full = f"{name}.{overload}" if overload and overload != "default" else name
    if not torch._C._dispatch_has_kernel(full):
        return None
    namespace, _, base = name.partition("::")
    return getattr(getattr(getattr(torch.ops, namespace), base), overload or "default", None)


_OPERATOR = re.compile(r"\w+::\w+")

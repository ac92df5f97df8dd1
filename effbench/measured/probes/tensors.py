"""Find the plain tensors inside a tensor, its storages, and the amount of numbers that it holds."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_BY_ROWS = (torch.sparse_csr, torch.sparse_bsr)
_BY_COLUMNS = (torch.sparse_csc, torch.sparse_bsc)


def is_sparse(t: Tensor) -> bool:
    """True if ``t`` stores only some of its numbers."""
    return t.layout is torch.sparse_coo or t.layout in _BY_ROWS or t.layout in _BY_COLUMNS


def parts(t: Tensor) -> list[Tensor]:
    """Return the plain tensors in ``t``: itself, a sparse one's indices and values, a wrapper's tensors.

    The list is empty if torch does not show them, as for MKL-DNN's layout.
    """
    wrapper: Any = t  # mypy considers the test below impossible
    if is_traceable_wrapper_subclass(wrapper):
        return [part for name in wrapper.__tensor_flatten__()[0] for part in parts(getattr(t, name))]
    if torch._C._functorch.is_functorch_wrapped_tensor(t):
        return parts(torch._C._functorch.get_unwrapped(t))
    if is_sparse(t):
        with torch.no_grad():
            if t.layout is torch.sparse_coo:
                return [t._indices(), t._values()]
            if t.layout in _BY_ROWS:
                return [t.crow_indices(), t.col_indices(), t.values()]
            return [t.ccol_indices(), t.row_indices(), t.values()]
    return [] if t.layout is torch._mkldnn else [t]  # type: ignore[attr-defined]


def storages(t: Tensor) -> dict[int, int]:
    """Return the size in bytes of each storage of ``t``, by its identity; views share their storage."""
    untyped = (part.untyped_storage() for part in parts(t))
    return {int(storage._cdata): storage.nbytes() for storage in untyped}


def stored(t: Tensor) -> int:
    """Return how many numbers ``t`` stores."""
    return parts(t)[-1].numel() if is_sparse(t) else t.numel()


def held_bytes(t: Tensor) -> int:
    """Return the bytes that ``t`` holds; numbers repeated by an expanded dimension count once."""
    if t.is_nested or not (plain := parts(t)):
        return t.numel() * t.element_size()
    return sum(_distinct(part) * part.element_size() for part in plain)


def _distinct(t: Tensor) -> int:
    return prod(size for size, stride in zip(t.shape, t.stride(), strict=True) if stride or size == 0)

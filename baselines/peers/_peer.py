"""Shared parts of the adapters: the base class, and refusals of what a library cannot do."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from effbench import Mechanism, Unsupported


class Peer(Mechanism):
    """A layer of another library with the interface of a mechanism: x [B, N, D], mask [B, N] -> [B, N, D].

    It is configured to be as fast as it can be: dropout 0, no results built only to be returned, no constant
    masks. No code of the library is copied; it is imported when the layer is made. A peer has no
    ``reference``: tests/test_peers.py compares it, with copied weights, with our mechanism of the same
    function.
    """

    requires: ClassVar[str] = ""
    install: ClassVar[str] = "pip install 'effbench[peers]'"


def refuse_causal(causal: bool, name: str) -> None:
    """Raise Unsupported for a library without a causal form."""
    if causal:
        raise Unsupported(f"{name} has no causal form")


def refuse_mask(mask: Tensor | None, name: str) -> None:
    """Raise Unsupported if there is a padding mask and the library takes none."""
    if mask is not None:
        raise Unsupported(f"{name} takes no padding mask")


def need_cuda(x: Tensor, name: str) -> None:
    """Raise Unsupported off CUDA."""
    if x.device.type != "cuda":
        raise Unsupported(f"{name} has kernels for CUDA only; this tensor is on {x.device.type}")

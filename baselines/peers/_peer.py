"""What the adapters share: the tag of a peer, and how it refuses what its library cannot do."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from effbench import Mechanism, Unsupported


class Peer(Mechanism):
    """A layer of another library behind the seam x [B, N, D], mask [B, N] -> [B, N, D].

    It is configured as its fastest honest self: dropout 0, nothing built that is only returned, no constant
    masks. Nothing of the library is copied here; it is imported when the layer is made. A peer has no
    ``reference``: whether it computes the same function as a mechanism of ours is what tests/test_peers.py
    asks, with copied weights.
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

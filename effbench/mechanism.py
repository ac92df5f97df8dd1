"""The seam: what an attention mechanism is, for us and for anybody's plug-in."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn


class Unsupported(Exception):
    """Raised by a mechanism for what it cannot do; its text is the reason shown in the record."""


class Mechanism(nn.Module):
    """A token mixer, its projections included: x [B, N, d_model], mask [B, N] -> [B, N, d_model].

    Any ``nn.Module`` built as ``Class(d_model, heads, *, max_len, causal=False, **options)`` with
    ``forward(x, mask=None)`` can be measured. Deriving from this class is optional and adds:

    * ``order``: the declared exponent of the cost in N (1.0 linear, 2.0 quadratic);
    * ``source``: the paper;
    * ``forward_flops``: a closed form for the multiply-adds of one forward pass;
    * ``reference``: a dense, obvious version of the same function, against which effbench checks the
      fast one before it times it;
    * ``shares_layers``: an encoder uses one instance for all of its layers.

    The keyword-only parameters of a subclass's constructor are its options: their names, types,
    defaults and ``Literal`` choices are read from the source, and there is no other schema.

    Laws that every mechanism keeps: mask is bool, True for a real token; real tokens' outputs do not
    depend on what padding holds; a row without a real token gives finite output; any N from 1 to
    ``max_len`` works. Raise :class:`Unsupported` (in the constructor or in forward) with a reason for
    what a mechanism cannot do, ValueError for a wrong option value.
    """

    order: ClassVar[float | None] = None
    source: ClassVar[str] = ""
    shares_layers: bool = False

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        super().__init__()
        if heads < 1 or d_model < 1 or d_model % heads:
            raise ValueError(f"heads ({heads}) must divide d_model ({d_model})")
        if max_len < 1:
            raise ValueError(f"max_len must be at least 1, got {max_len}")
        self.d_model = d_model
        self.heads = heads
        self.d_head = d_model // heads
        self.max_len = max_len
        self.causal = causal

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix the tokens of x [B, N, d_model]; mask [B, N] is True for a real token."""
        raise NotImplementedError

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same function by its definition, dense where need be; shapes as in forward."""
        raise NotImplementedError

    def forward_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Executed FLOPs of the matrix products of one unmasked forward pass; None if not declared.

        A multiply-add counts 2; biases, softmax and element-wise work are left out. Backward of a
        matrix product is two such products.
        """
        return None

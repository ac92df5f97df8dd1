"""The interface of an attention mechanism, for effbench's own and for every plug-in."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

# What a mechanism keeps between the steps of a generation: a tensor with the batch first, or a tuple, list or
# dict of states. Whole numbers and None may be part of it too; they hold for every row of the batch.
State = Any


class Unsupported(Exception):
    """Raise this in a mechanism for what it cannot do; the text is the reason in the record."""


class Mechanism(nn.Module):
    """A token mixer, its projections included: x [B, N, d_model], mask [B, N] -> [B, N, d_model].

    Any ``nn.Module`` built as ``Class(d_model, heads, *, max_len, causal=False, **options)`` with
    ``forward(x, mask=None)`` can be measured. Deriving from this class is optional and adds:

    * ``order``, ``memory_order``: how time and peak memory grow with N: 1.0, 2.0, ``"N^1.5"``, ``"N log N"``;
    * ``equivariant``: True if permuting the tokens permutes the output alike, False if positions matter;
    * ``source``: the paper, or whose own it is;
    * ``reference``: a dense, obvious version of the same function, with which effbench compares the fast one
      before it times it;
    * ``forward_flops``, ``train_flops``, ``useful_flops``, ``saved_bytes``: closed forms of its costs, which
      effbench compares with what it counts;
    * ``runs_as``: the implementation that computes a call of some shape; it is kept in the record;
    * ``requires``, ``install``: the names of the distributions besides torch that it needs, and the command
      that installs them. Without them its cells are ``unsupported``; with them their versions are recorded;
    * ``shares_layers``: an encoder uses one instance for all of its layers;
    * ``remember``, ``attend``: attention of a sequence to another one, with the same parameters;
    * ``prefill``, ``step``: the causal form token by token, for generation; ``state_order``: how the state
      and the time of a step grow with the tokens before it: 0.0 for a state of fixed size, 1.0 for a cache;
    * ``no_causal``, ``no_noncausal``, ``no_cross``, ``no_step``: why it has no such form.

    An attribute that stays None is not declared; its quantity is measured and compared with nothing.

    The keyword-only parameters of a subclass's constructor are its options: their names, types,
    defaults and ``Literal`` choices are read from the source, and there is no other schema. ``causal`` is one
    of them. An option called ``implementation`` chooses how the function is computed, never the function.

    Laws that every mechanism keeps: mask is bool, True for a real token; real tokens' outputs do not
    depend on the content of padding; a row without a real token gives finite output; any N from 1 to
    ``max_len`` works. Raise :class:`Unsupported` (in the constructor or in forward) with a reason for
    what a mechanism cannot do, ValueError for a wrong option value.
    """

    order: ClassVar[float | str | None] = None
    memory_order: ClassVar[float | str | None] = None
    state_order: ClassVar[float | str | None] = None
    equivariant: ClassVar[bool | None] = None
    no_causal: ClassVar[str] = ""
    no_noncausal: ClassVar[str] = ""
    no_cross: ClassVar[str] = ""
    no_step: ClassVar[str] = ""
    source: ClassVar[str] = ""
    requires: ClassVar[str] = ""
    install: ClassVar[str] = ""
    shares_layers: bool = False

    def __init__(self, d_model: int, heads: int, *, max_len: int, causal: bool = False) -> None:
        super().__init__()
        if causal and self.no_causal:
            raise Unsupported(f"it has no causal form: {self.no_causal}")
        if not causal and self.no_noncausal:
            raise Unsupported(f"it has no noncausal form, ask for causal=true: {self.no_noncausal}")
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

    def remember(self, memory: Tensor, mask: Tensor | None = None) -> State:
        """Return what ``attend`` needs to know of memory [B, M, d_model]; mask [B, M], True for a real token.

        Padding of the memory changes nothing, and a row without a real token gives finite outputs.
        Raises Unsupported if the mechanism has no cross form.
        """
        raise Unsupported(f"it has no cross form: {self.no_cross or 'none is defined'}")

    def attend(self, x: Tensor, remembered: State) -> Tensor:
        """Let the tokens of x [B, N, d_model] attend to the remembered memory: -> [B, N, d_model].

        An output depends on its own token of x and on the memory, on no other token of x. The two forms have
        the same parameters, and with x as its own memory the output is that of the noncausal ``forward``.
        """
        raise Unsupported(f"it has no cross form: {self.no_cross or 'none is defined'}")

    def cross(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``attend(x, remember(memory, mask))``."""
        return self.attend(x, self.remember(memory, mask))

    def prefill(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Return the causal form's output for x [B, N, d_model], N >= 0, and the state after its last token.

        mask [B, N] is True for a real token. Raises Unsupported if the mechanism has no such form.
        """
        raise Unsupported(f"it has no step form: {self._why_no_step()}")

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the output [B, d_model] for the next token x [B, d_model], and the state after it.

        The outputs of ``prefill`` and of the steps after it are those of the causal form for all these
        tokens; the tokens of the steps are real. A state is consumed by ``step``, which may overwrite it:
        copy it (``effbench.measured.state.copied``) to continue it twice. A step that records gradients
        keeps what they need.

        Raises Unsupported if the mechanism has no such form.
        """
        raise Unsupported(f"it has no step form: {self._why_no_step()}")

    def _why_no_step(self) -> str:
        return self.no_step or ("it has no causal form" if self.no_causal else "none is defined")

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the same function by its definition, dense if necessary; shapes as in forward."""
        raise NotImplementedError

    def forward_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Return the FLOPs of the matrix products of one unmasked forward pass; None if not declared.

        They are those executed. A multiply-add counts 2; biases, softmax and element-wise work do not count.
        """
        return None

    def runs_as(self, batch_size: int, seq_len: int) -> str | None:
        """Return the implementation that computes an unmasked call of this shape; None if it has one only."""
        return None

    def train_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Return the FLOPs of a forward and a backward pass, with the gradients of input and parameters.

        The gradient of each product is two products of its size, hence three times the forward pass. Override
        this if the backward pass does more: a fused attention kernel computes its scores again.
        """
        forward = self.forward_flops(batch_size, seq_len)
        return None if forward is None else 3 * forward

    def useful_flops(self, batch_size: int, seq_len: int) -> int | None:
        """Return the part of ``forward_flops`` that the definition requires.

        A window that is computed in blocks, or a causal mask over a full product, executes more than this.
        """
        return self.forward_flops(batch_size, seq_len)

    def saved_bytes(self, batch_size: int, seq_len: int) -> int | None:
        """Return the bytes that one unmasked forward pass saves for its backward pass; None if not declared.

        They are those in the dtype of its parameters. Each storage counts once; the input and the parameters,
        which exist anyway, do not count; the output does if it is saved.
        """
        return None

"""Attention patterns of a module: whether it has cross attention and steps, and a generation with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effbench.measured.mechanism import Mechanism, Unsupported


def require_cross(module: nn.Module) -> None:
    """Raise Unsupported with the reason if no sequence can attend to another one through the module."""
    if has_cross(module):
        return
    if isinstance(module, Mechanism):
        module.remember(torch.empty(0))  # it raises its own reason
    raise Unsupported("it has no cross form: none is defined")


def require_steps(module: nn.Module) -> None:
    """Raise Unsupported with the reason if the module cannot generate."""
    if not has_steps(module):
        if isinstance(module, Mechanism):
            module.prefill(torch.empty(0))  # it raises its own reason
        raise Unsupported("it has no step form: it defines no prefill and step")
    if not getattr(module, "causal", True):
        raise Unsupported("only its causal form has a step form, ask for causal=true")


def has_cross(module: nn.Module) -> bool:
    """True if a sequence can attend to another one: ``remember`` and ``attend`` are defined."""
    return _defines(module, "remember") and _defines(module, "attend")


def has_steps(module: nn.Module) -> bool:
    """True if the module can generate: ``prefill`` and ``step`` are defined."""
    return _defines(module, "prefill") and _defines(module, "step")


def generated(module: nn.Module, x: Tensor, mask: Tensor | None, context: int) -> list[Tensor]:
    """Return the outputs for x [B, N, d_model] of a generation, without gradients.

    The first ``context`` tokens are read at once; mask [B, context] is True for the real ones. The others
    follow step by step. The first output is [B, context, d_model], each later one [B, d_model].
    """
    with torch.no_grad():
        out, state = module.prefill(x[:, :context], mask)  # type: ignore[operator]
        outs = [out]
        for token in x[:, context:].unbind(1):
            out, state = module.step(token, state)  # type: ignore[operator]
            outs.append(out)
    return outs


def in_one(outs: list[Tensor]) -> Tensor:
    """Return the outputs of a generation as those of a forward pass: [B, N, d_model]."""
    return torch.cat([outs[0], *(out[:, None] for out in outs[1:])], dim=1)


def _defines(module: nn.Module, name: str) -> bool:
    own = getattr(type(module), name, None)
    return own is not None and own is not getattr(Mechanism, name)

"""Which attention patterns a module has: cross attention, and generation step by step."""

from __future__ import annotations

import torch
from torch import nn

from effbench.measured.mechanism import Mechanism, Unsupported


def has_cross(module: nn.Module) -> bool:
    """True if a sequence can attend to another one: ``remember`` and ``attend`` are defined."""
    return _defines(module, "remember") and _defines(module, "attend")


def has_steps(module: nn.Module) -> bool:
    """True if the module can generate: ``prefill`` and ``step`` are defined."""
    return _defines(module, "prefill") and _defines(module, "step")


def require_steps(module: nn.Module) -> None:
    """Raise Unsupported with the reason if the module cannot generate."""
    if has_steps(module):
        return
    if isinstance(module, Mechanism):
        module.prefill(torch.empty(0))  # it raises its own reason
    raise Unsupported("it has no step form: it defines no prefill and step")


def _defines(module: nn.Module, name: str) -> bool:
    own = getattr(type(module), name, None)
    return own is not None and own is not getattr(Mechanism, name)

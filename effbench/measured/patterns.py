"""Which attention patterns a module has: cross attention, and generation step by step."""

from __future__ import annotations

from torch import nn

from effbench.measured.mechanism import Mechanism


def has_cross(module: nn.Module) -> bool:
    """True if a sequence can attend to another one: ``remember`` and ``attend`` are defined."""
    return _defines(module, "remember") and _defines(module, "attend")


def has_steps(module: nn.Module) -> bool:
    """True if the module can generate: ``prefill`` and ``step`` are defined."""
    return _defines(module, "prefill") and _defines(module, "step")


def _defines(module: nn.Module, name: str) -> bool:
    own = getattr(type(module), name, None)
    return own is not None and own is not getattr(Mechanism, name)

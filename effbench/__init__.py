"""effbench: which attention mechanism at this length, on this machine, and at what cost in accuracy?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effbench.audit import assert_conforms
    from effbench.loop import run
    from effbench.mechanism import Mechanism, Unsupported
    from effbench.spec import Cell, Limits, Record, UsageError
    from effbench.store import load
    from effbench.sweep import Sweep

__version__ = "0.1.0"

# Resolved on first use, so that the command line answers without importing torch or pandas.
_HOMES = {
    "Cell": "effbench.spec",
    "Limits": "effbench.spec",
    "Mechanism": "effbench.mechanism",
    "Record": "effbench.spec",
    "Sweep": "effbench.sweep",
    "Unsupported": "effbench.mechanism",
    "UsageError": "effbench.spec",
    "assert_conforms": "effbench.audit",
    "load": "effbench.store",
    "run": "effbench.loop",
}

__all__ = [
    "Cell",
    "Limits",
    "Mechanism",
    "Record",
    "Sweep",
    "Unsupported",
    "UsageError",
    "assert_conforms",
    "load",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'effbench' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

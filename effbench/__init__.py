"""effbench: which attention mechanism at this length, on this machine, and at what cost in accuracy?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effbench.common.spec import Cell, Limits, Record, UsageError
    from effbench.measured.audit import assert_conforms
    from effbench.measured.data.examples import Examples, Splits
    from effbench.measured.mechanism import Mechanism, State, Unsupported
    from effbench.measured.models.classifier import AdditivePooling
    from effbench.measured.models.title_words import NewsIds, Titles, TitleWords
    from effbench.measured.recommender import News, Recommender
    from effbench.measured.tasks.base import Classification, Task
    from effbench.records.store import load
    from effbench.sweep.loop import run
    from effbench.sweep.sweep import Sweep

__version__ = "0.1.0"

# Resolved on first use, so that the command line answers without importing torch or pandas.
_HOMES = {
    "AdditivePooling": "effbench.measured.models.classifier",
    "Cell": "effbench.common.spec",
    "Classification": "effbench.measured.tasks.base",
    "Examples": "effbench.measured.data.examples",
    "Limits": "effbench.common.spec",
    "Mechanism": "effbench.measured.mechanism",
    "News": "effbench.measured.data.news_titles",
    "NewsIds": "effbench.measured.models.title_words",
    "Recommender": "effbench.measured.recommender",
    "Record": "effbench.common.spec",
    "Splits": "effbench.measured.data.examples",
    "State": "effbench.measured.mechanism",
    "Sweep": "effbench.sweep.sweep",
    "Task": "effbench.measured.tasks.base",
    "Titles": "effbench.measured.models.title_words",
    "TitleWords": "effbench.measured.models.title_words",
    "Unsupported": "effbench.measured.mechanism",
    "UsageError": "effbench.common.spec",
    "assert_conforms": "effbench.measured.audit",
    "load": "effbench.records.store",
    "run": "effbench.sweep.loop",
}

__all__ = [
    "AdditivePooling",
    "Cell",
    "Classification",
    "Examples",
    "Limits",
    "Mechanism",
    "News",
    "NewsIds",
    "Recommender",
    "Record",
    "Splits",
    "State",
    "Sweep",
    "Task",
    "TitleWords",
    "Titles",
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

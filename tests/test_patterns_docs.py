"""The table of patterns in docs/mechanisms.md says what the classes have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from effbench import Mechanism, Unsupported
from effbench.common import registry

OURS = [name for name in registry.names("mechanism") if ":" not in name]
PAGE = Path(__file__).parents[1] / "docs" / "mechanisms.md"


def row(name):
    """The row of a mechanism, from its class."""
    kind: Any = registry.load(registry.find(name, "mechanism"))

    def has(causal):
        try:
            return bool(kind(12, 3, max_len=8, causal=causal))
        except Unsupported:
            return False

    steps = kind.step is not Mechanism.step
    forms = [has(False), has(True), kind.remember is not Mechanism.remember, steps]
    state = ("fixed size" if kind.state_order == 0 else "grows as N") if steps else ""
    return f"| `{name}` | {' | '.join('yes' if form else 'no' for form in forms)} | {state} |"


@pytest.mark.parametrize("name", OURS)
def test_the_table_of_patterns_is_true(name):
    assert row(name) in PAGE.read_text().splitlines()

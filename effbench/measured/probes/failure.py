"""Distinguish a probe's own failure from a failure of the measured call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from effbench.common.wording import one_line
from effbench.measured.mechanism import Unsupported

_LONGEST = 200
Result = TypeVar("Result")


class ProbeFailed(RuntimeError):
    """A probe fails on a call that works without it.

    The text begins with the probe's name, and does not blame the mechanism.
    """


def observed(what: str, observe: Callable[[], Result], call: Callable[[], object]) -> Result:
    """Return ``observe()``, which runs ``call`` under the instruments of the probe named ``what``.

    Raises ProbeFailed if ``observe()`` fails and ``call()`` alone succeeds. If both fail, raises the error of
    ``call()``, since the failure is the call's. Unsupported always is the call's.
    """
    try:
        return observe()
    except (ProbeFailed, Unsupported):
        raise
    except Exception as error:
        call()
        raise ProbeFailed(
            f"{what} cannot be measured: the call works alone, but fails while it is observed: {short(error)}"
        ) from error


def short(error: BaseException) -> str:
    """Return the type and the message of ``error`` in one line of at most 200 characters."""
    return one_line(f"{type(error).__name__}: {error}", _LONGEST)

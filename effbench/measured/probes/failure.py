"""A probe's own failure, told apart from a failure of what it measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from effbench.common.wording import one_line
from effbench.measured.mechanism import Unsupported

_LONGEST = 200
Result = TypeVar("Result")


class ProbeFailed(RuntimeError):
    """A probe cannot do its work on a call that works without it.

    Its text begins with the probe's name and blames no mechanism.
    """


def observed(what: str, observe: Callable[[], Result], call: Callable[[], object]) -> Result:
    """``observe()``, which runs ``call`` under instruments of the probe named ``what``.

    Raises ProbeFailed if ``observe()`` fails where ``call()`` alone succeeds. If both fail, raises what
    ``call()`` raised: the failure is its own. Unsupported is the call's own in any case.
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
    """The type and the message of ``error`` in one line of at most 200 characters."""
    return one_line(f"{type(error).__name__}: {error}", _LONGEST)

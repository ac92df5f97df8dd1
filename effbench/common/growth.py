"""Growth of a cost with the length N as a mechanism declares it: N^power, or N^power times log N."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from effbench.common.wording import shown

MOST = 10.0  # a larger power is a mistake: nobody has measured such a cost
_FORM = re.compile(r"N(?:\^([0-9]+(?:\.[0-9]+)?))?( log N)?")


@dataclass(frozen=True)
class Growth:
    """N^power (log N)^logs; read from 1.5, ``N^1.5``, ``N log N`` or ``1``; written like the last three."""

    power: float
    logs: int = 0

    @classmethod
    def parse(cls, declared: float | str) -> Growth:
        """Read a declaration. Raises ValueError if it has none of these forms."""
        if isinstance(declared, int | float) and not isinstance(declared, bool) and 0 <= declared <= MOST:
            return cls(float(declared))
        if declared == "1":
            return cls(0.0)
        form = _FORM.fullmatch(declared) if isinstance(declared, str) else None
        if form is None or (power := float(form[1] or 1)) > MOST:
            raise ValueError(f"{shown(declared)} is not a growth in N; write 1.0, 'N^1.5' or 'N log N'")
        return cls(power, 1 if form[2] else 0)

    def at(self, n: float) -> float:
        """Return the function's value at length n."""
        return float(n**self.power * math.log(n) ** self.logs)

    def exponent(self, lengths: Sequence[int]) -> float:
        """Return the slope of log cost against log N over these lengths; for N log N, a little over 1.

        N log N is 0 at length 1, which is left out; NaN if fewer than two lengths remain.
        """
        if self.logs:
            lengths = [n for n in lengths if n > 1]
        return slope(lengths, [self.at(n) for n in lengths]) if len(lengths) > 1 else math.nan

    def __str__(self) -> str:
        power = {0.0: "1", 1.0: "N"}.get(self.power, f"N^{self.power:g}")
        return power + (" log N" if self.logs else "")


def slope(lengths: Sequence[float], costs: Sequence[float]) -> float:
    """Return the least-squares slope of log cost against log length: two lengths or more, positive costs."""
    from statistics import linear_regression  # not needed to start a command

    return linear_regression([math.log(n) for n in lengths], [math.log(cost) for cost in costs]).slope

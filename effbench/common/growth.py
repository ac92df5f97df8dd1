"""How a cost is declared to grow with the length N: N^power, times log N where it has one."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from effbench.common.wording import shown

MOST = 10.0  # a power beyond this is no cost that anybody has measured
_FORM = re.compile(r"N(?:\^([0-9]+(?:\.[0-9]+)?))?( log N)?")


@dataclass(frozen=True)
class Growth:
    """N^power (log N)^logs; read from ``1.5``, ``N^1.5`` or ``N log N``, and written like the latter two."""

    power: float
    logs: int = 0

    @classmethod
    def parse(cls, declared: float | str) -> Growth:
        """Read a declaration. Raises ValueError for anything else."""
        if isinstance(declared, int | float) and not isinstance(declared, bool) and 0 <= declared <= MOST:
            return cls(float(declared))
        found = _FORM.fullmatch(declared) if isinstance(declared, str) else None
        if found is None or (power := float(found[1] or 1)) > MOST:
            raise ValueError(f"{shown(declared)} is not a growth in N; write 1.0, 'N^1.5' or 'N log N'")
        return cls(power, 1 if found[2] else 0)

    def at(self, n: float) -> float:
        """The function's value at length n, at least 2."""
        return float(n**self.power * math.log(n) ** self.logs)

    def exponent(self, lengths: Sequence[int]) -> float:
        """The slope of log cost against log N that it means on these lengths: for N log N a little over 1."""
        return slope(lengths, [self.at(n) for n in lengths])

    def __str__(self) -> str:
        power = {0.0: "1", 1.0: "N"}.get(self.power, f"N^{self.power:g}")
        return power + (" log N" if self.logs else "")


def slope(lengths: Sequence[float], costs: Sequence[float]) -> float:
    """Least-squares slope of log cost against log length; needs two lengths and positive costs."""
    x = [math.log(n) for n in lengths]
    y = [math.log(cost) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)

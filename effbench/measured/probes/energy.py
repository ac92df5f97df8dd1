"""The energy probe: joules per call, from a counter of the card or of the processor's packages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from effbench.measured.compiled import as_asked
from effbench.measured.gpu import Nvml
from effbench.measured.mechanism import Unsupported
from effbench.measured.probes.context import Context, Result

POWERCAP = Path("/sys/class/powercap")
NVML_METHOD, RAPL_METHOD = "NVML, the card's total energy", "RAPL, the processor's packages"
_STEPS = 100  # of the counter that a window contains: its resolution is then 1 % of the energy
_LEAST_S, _MOST_S = 1.0, 10.0
_READ_EVERY_S = 0.02  # of calls: a reading takes up to some 0.2 ms, whose energy is counted too
_TRIED = 3  # calls that tell how long one takes
_RANGE = "max_energy_range_uj"


@dataclass(frozen=True)
class Counter:
    """A counter of joules that never falls."""

    read_j: Callable[[], float]
    method: str


def energy(context: Context) -> Result:
    """Measure joules per call. Raises Unsupported if this machine tells no energy.

    The energy is that of the whole card or of the processor's packages, with what other work uses and what
    they use when idle. ``energy_resolution_j`` is one step of the counter over the number of calls.
    """
    workload, compiling = as_asked(context)
    on_cuda = workload.x.device.type == "cuda"
    counter = cuda_counter(workload.x.device) if on_cuda else cpu_counter()
    synchronize = torch.cuda.synchronize if on_cuda else lambda: None
    found = joules(workload.call(context.watch.note), counter, synchronize=synchronize)
    return {}, {**found, **compiling()}


def joules(
    call: Callable[[], object],
    counter: Counter,
    *,
    synchronize: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float | str]:
    """Return ``energy_j`` and ``energy_resolution_j`` per call, mean ``power_w``, and ``energy_method``.

    Calls are repeated from one step of the counter to a later one: for 100 steps and at least one second, but
    no longer than ten seconds if the counter has made two steps by then. The counter is read after one call,
    or after as many as take 20 ms. Raises Unsupported if the counter stands still for as long.
    """

    def repeat(times: int) -> None:
        for _ in range(times):
            call()
        synchronize()

    shortest = math.inf
    for _ in range(_TRIED):
        start = clock()
        repeat(1)
        shortest = min(shortest, clock() - start)
    together = max(1, math.ceil(_READ_EVERY_S / max(shortest, 1e-7)))

    def run() -> float:
        repeat(together)
        return counter.read_j()

    start, first = clock(), run()
    while (last := run()) == first:
        if clock() - start > _MOST_S:
            raise Unsupported(f"{counter.method}: the counter stands still for {_MOST_S:g} s")
    start, first, steps, calls = clock(), last, 0, 0
    at_step = (0, 0.0)  # calls and seconds
    while steps < _STEPS or at_step[1] < _LEAST_S:
        now, calls, spent_s = run(), calls + together, clock() - start
        if now != last:
            last, steps, at_step = now, steps + 1, (calls, spent_s)
        if spent_s > _MOST_S and (steps >= 2 or spent_s > 2 * _MOST_S):
            break
    if not steps:
        raise Unsupported(f"{counter.method}: the counter stands still for {_MOST_S:g} s")
    return {
        "energy_j": (last - first) / at_step[0],
        "energy_resolution_j": (last - first) / steps / at_step[0],
        "power_w": (last - first) / at_step[1],
        "energy_method": counter.method,
    }


def cuda_counter(device: torch.device) -> Counter:
    """Return the counter of a card. Raises Unsupported without nvidia-ml-py or on a card that tells none."""
    card = Nvml.of(device)
    if card is None:
        raise Unsupported("the card's energy is read through nvidia-ml-py: pip install 'effbench[gpu]'")
    try:
        card.energy_j()
    except OSError as error:
        raise Unsupported(str(error)) from None
    return Counter(card.energy_j, NVML_METHOD)


def cpu_counter(folder: Path = POWERCAP) -> Counter:
    """Return the sum over the processor's packages. Raises Unsupported if there are none to read."""
    packages = [
        zone
        for zone in sorted(folder.glob("intel-rapl:*"))
        if (zone / "name").is_file() and (zone / "name").read_text().startswith("package")
    ]
    if not packages:
        raise Unsupported(f"this machine tells no energy of its processor: no package in {folder}")
    try:
        zones = [_Package(zone / "energy_uj", int((zone / _RANGE).read_text())) for zone in packages]
    except OSError as error:
        raise Unsupported(f"the processor's energy is not readable: {error}") from None
    return Counter(lambda: sum(zone.read_j() for zone in zones), RAPL_METHOD)


class _Package:
    """The counter of one package in microjoules, which starts at 0 again beyond ``range_uj``."""

    def __init__(self, file: Path, range_uj: int) -> None:
        self._file, self._range_uj = file, range_uj
        self._before, self._wraps = int(file.read_text()), 0

    def read_j(self) -> float:
        """Return joules, counted on over the ends of the range."""
        now = int(self._file.read_text())
        self._wraps += now < self._before
        self._before = now
        return (self._wraps * self._range_uj + now) / 1e6

"""The registry of probes: the function that each one calls in the measured process. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """A probe; ``home`` is ``module:function``, a function of a ``measured.probes.context.Context``."""

    home: str
    summary: str = ""


# What a sweep can measure, in the order of measurement. A new probe is a file and an entry here.
PROBES: dict[str, Probe] = {
    "time": Probe(
        "effbench.measured.probes.costs:time",
        "seconds per call: warm-up, all samples kept, median with a confidence interval over repeats",
    ),
    "memory": Probe(
        "effbench.measured.probes.costs:memory",
        "peak bytes that one call holds at once, from the allocator's events",
    ),
    "flops": Probe(
        "effbench.measured.probes.costs:flops",
        "floating-point operations of the matrix products that one call executes",
    ),
    "energy": Probe(
        "effbench.measured.probes.energy:energy",
        "joules per call, where the card or the processor tells them (off by default)",
    ),
    "accuracy": Probe(
        "effbench.measured.probes.accuracy:accuracy",
        "score on the test part of a task after training an encoder built on the mechanism",
    ),
}

# What effbench itself asks for: an audit of a mechanism, and the ceiling and the noise of the machine.
INTERNAL: dict[str, Probe] = {
    "audit": Probe("effbench.measured.audit.conformance:audit_probe"),
    "ceiling": Probe("effbench.measured.probes.ceiling:ceiling"),
    "noise": Probe("effbench.measured.probes.noise:noise"),
}

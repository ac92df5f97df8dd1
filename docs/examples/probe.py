"""A probe of your own: count the parameters of a mechanism that receive a gradient.

To use it, put the file into effbench/measured/probes/ and add one entry to effbench/common/probes.py:

    "gradients": Probe("effbench.measured.probes.gradients:gradients", "parameters that receive a gradient"),

Then ``effbench run --probe gradients`` measures it, and ``effbench show --raw`` has the columns.
"""

from __future__ import annotations

from effbench.measured.probes.context import Context, Result
from effbench.measured.workload import train_call


def gradients(context: Context) -> Result:
    """Run one forward and backward pass; return no samples and the counts as values."""
    module = context.workload.module
    train_call(module, context.workload.x)()
    reached = sum(p.numel() for p in module.parameters() if p.grad is not None and bool(p.grad.any()))
    return {}, {
        "parameters": sum(p.numel() for p in module.parameters()),
        "parameters_with_gradient": reached,
    }

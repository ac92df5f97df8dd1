"""The probes of a call's costs: time, memory and FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from time import perf_counter, perf_counter_ns

from torch import nn

from effbench.common import machine, registry
from effbench.common.blame import message
from effbench.common.growth import Growth
from effbench.common.spec import Cell
from effbench.common.wording import plural, shown
from effbench.measured.compiled import as_asked
from effbench.measured.decoding import Decoding
from effbench.measured.gpu import CudaDevice
from effbench.measured.mechanism import Unsupported
from effbench.measured.models.encoder import Encoder
from effbench.measured.probes.context import Context, Result, Values
from effbench.measured.probes.control import Control
from effbench.measured.probes.correctness import Incorrect, has_reference
from effbench.measured.probes.cuda_time import cuda_seconds
from effbench.measured.probes.failure import ProbeFailed
from effbench.measured.probes.flops import count_work
from effbench.measured.probes.memory import (
    left_out,
    parameter_bytes,
    peak_bytes,
    reserved_bytes,
    rss_growth_bytes,
    saved_bytes,
)
from effbench.measured.probes.time import sample_seconds, trend
from effbench.measured.workload import Call, Workload

_SHORT = 64  # tokens of a call that is not measured


def time(context: Context) -> Result:
    """Measure seconds per call, after the module was checked. Raises Incorrect."""
    cell, workload = context.cell, context.workload
    values = describe(workload, cell)
    if not context.job.checked:
        workload.check()
    workload, compiling = as_asked(context)
    values["checked"] = "laws and reference" if has_reference(workload.subject) else "laws"
    context.watch.reseeds(partial(_short_call, workload))
    context.watch.undo("a call")
    call = workload.call(context.watch.note)
    if isinstance(call, Decoding):
        values |= {"state_bytes": call.state_bytes, "prefill_s": call.prefill_s()}
    if workload.x.device.type == "cuda":
        series, how = cuda_seconds(
            call,
            CudaDevice(workload.x.device),
            seconds=cell.seconds,
            precision=cell.precision,
            clock_ns=perf_counter_ns,
        )
        return series, {**values, **how, **compiling()}
    control = Control()
    before_s, start_s = machine.waited_s(), perf_counter()
    times, how = sample_seconds(
        call,
        seconds=cell.seconds,
        precision=cell.precision,
        control=control,
    )
    elapsed_s, after_s = perf_counter() - start_s, machine.waited_s()
    values |= compiling()
    if before_s is not None and after_s is not None:
        values["waited_share"] = max(0.0, after_s - before_s) / (elapsed_s * cell.threads)
    beside = control.beside_samples()
    # a change of the mechanism is seen with and without the control, a change of the machine in one of them
    both = trend(times), trend([time / slow for time, slow in zip(times, beside, strict=True)])
    how["trend"] = min(both, key=abs) if both[0] * both[1] > 0 else 0.0
    return {"time_s": times, "control_s": beside}, {**values, **how}


def _short_call(workload: Workload) -> None:
    """Call the module on a few tokens, or on all of the input if it takes nothing so short."""
    try:
        workload.module(workload.x[:1, :_SHORT])
    except Unsupported:
        workload.module(workload.x)


def memory(context: Context) -> Result:
    """Measure the bytes that a call holds at once and, in training, those that it saves for backward."""
    cell = context.cell
    workload, compiling = as_asked(context)
    values = {**describe(workload, cell), **compiling()}
    call = workload.call(context.watch.note)
    # In the first call, pages are new to the process. Its set-up (workspaces, caches) is no part of a call:
    # the peak is that of a later call.
    growth = rss_growth_bytes(call)
    values["rss_growth_bytes"] = growth if cell.compile == "none" else None  # the compiler grew it before
    peak, method = peak_bytes(_without_gradients(workload, call), cell.device, tested=context.memory_tested)
    values |= {"peak_bytes": peak, "memory_method": method}
    if isinstance(call, Decoding):
        values["state_bytes"] = call.state_bytes
    if workload.x.device.type == "cuda":
        values["reserved_bytes"] = reserved_bytes(_without_gradients(workload, call))
    unseen = [_named(left_out(call))]
    if cell.mode == "train":
        module, x = workload.module, workload.x.detach().requires_grad_()
        besides = [x, *module.parameters(), *module.buffers()]
        try:
            values["saved_bytes"] = saved_bytes(lambda: workload.timed(x), besides)
        except ProbeFailed as error:  # the other values are kept
            unseen.append(message(error))
        values["saved_bytes_declared"] = _declared(module, "saved_bytes", cell)
    return {}, {**values, "memory_left_out": "; ".join(filter(None, unseen))}


def _without_gradients(workload: Workload, call: Call) -> Call:
    """Return the call without an earlier one's gradients, which would exist before it and not count."""
    if not workload.train:
        return call
    workload.module.zero_grad()
    return workload.call()


def flops(context: Context) -> Result:
    """Count the work of a call; of the plain form, whose products a compiled one makes, too."""
    cell, workload = context.cell, context.workload
    values, module = describe(workload, cell), workload.module
    call = workload.call(context.watch.note)
    call()  # a first call also does set-up
    work = count_work(call)
    train = cell.mode == "train"
    analytic = useful = None
    if cell.mode != "decode":
        analytic = _declared(module, "train_flops" if train else "forward_flops", cell)
        useful = _declared(module, "useful_flops", cell)
    return {}, {
        **values,
        "flops": work.flops,
        "flops_analytic": analytic,
        "flops_useful": _useful(useful, analytic, train),
        "flops_other": work.other,
        "flops_left_out": _named(work.uncounted),
        "flops_method": work.method,
        "bytes_moved": work.bytes_moved,
    }


def _useful(forward: int | None, analytic: int | None, train: bool) -> int | None:
    """Return the useful FLOPs of a call, from those of a forward pass and the declared ones of the call.

    The backward pass of a product is useful, but not what a kernel computes again to save memory, nor the
    gradient of a number that needs none.
    """
    if forward is None or not train:
        return forward
    return 3 * forward if analytic is None else min(3 * forward, analytic)


def describe(workload: Workload, cell: Cell) -> Values:
    """Return what is known of a workload without a call: its size, declared growth and implementation."""
    module = workload.module
    own = workload.subject
    own = next(iter(own.blocks)).mechanism if isinstance(own, Encoder) else own  # type: ignore[assignment]
    return {
        "parameters": sum(p.numel() for p in module.parameters()),
        "parameter_bytes": parameter_bytes(module),
        **_declared_growth(own, cell),
        **_how(own, cell),
    }


def _named(left_out: Mapping[str, int]) -> str:
    """Name what a figure leaves out, as ``faults::attn (2 calls), aten::qr (1 call)``; empty if nothing."""
    return ", ".join(
        f"{name} ({plural(calls, 'call')})"
        for name, calls in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    )


def _declared(module: nn.Module, name: str, cell: Cell) -> int | None:
    """Evaluate a declared closed form at the cell's shape; None if there is none, as for an encoder."""
    form = getattr(module, name, None)
    value = None if form is None else form(cell.batch_size, cell.seq_len)
    if value is None or (type(value) is int and value >= 0):
        return value
    raise Incorrect(f"{name} returned {shown(value)}, must be a whole number of at least 0, or None")


def _declared_growth(module: nn.Module, cell: Cell) -> Values:
    """Return the growth that an instance of the mechanism declares: an option may change it."""
    columns = {"declared_order": "order", "declared_memory_order": "memory_order"}
    if cell.mode == "decode":  # of a step and its state; what a step needs beside them is not declared
        columns = {"declared_order": "state_order"}
    orders = {column: getattr(module, name, None) for column, name in columns.items()}
    return {name: None if order is None else str(Growth.parse(order)) for name, order in orders.items()}


def _how(module: nn.Module, cell: Cell) -> Values:
    """Return the implementation that ran, if there are several, and the libraries that it comes from."""
    versions = registry.versions(registry.find(cell.mechanism, "mechanism"))
    runs_as = getattr(module, "runs_as", None)
    return {
        "implementation": None if runs_as is None else runs_as(cell.batch_size, cell.seq_len),
        "libraries": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }

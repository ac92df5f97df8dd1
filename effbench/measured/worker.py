"""Measure a job and return its Record, in the process that is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effbench.common import machine, registry
from effbench.common.blame import message, place
from effbench.common.growth import Growth
from effbench.common.spec import Cell, Job, Record, UsageError, to_json
from effbench.common.wording import plural, shown
from effbench.measured.facts import facts
from effbench.measured.mechanism import Unsupported
from effbench.measured.models.checkpoint import Checkpoint
from effbench.measured.probes.ceiling import measure_ceiling
from effbench.measured.probes.correctness import Incorrect, check_laws, has_reference
from effbench.measured.probes.effects import Watch, heard
from effbench.measured.probes.failure import ProbeFailed
from effbench.measured.probes.flops import count_work
from effbench.measured.probes.memory import (
    left_out,
    parameter_bytes,
    peak_bytes,
    rss_growth_bytes,
    saved_bytes,
)
from effbench.measured.probes.time import sample_seconds
from effbench.measured.workload import Call, Workload, build, device_of, maker

_SHORT = 64  # tokens of a call that is not measured

Progress = Callable[[float, str], None]
Samples = dict[str, tuple[float, ...]]
Values = dict[str, float | int | str | None]


def measure(job: Job, progress: Progress, *, memory_tested: bool = False) -> Record:
    """Measure one cell in this process; whatever goes wrong becomes the record's status and reason.

    ``progress(fraction, text)`` is called while a training runs. ``memory_tested``: the memory probe has
    passed its self-test in another process, and is not to run it in this one.
    """
    clock = time.perf_counter()
    record = Record.of(job, "ok")
    before = machine.Moment.now()
    watch = Watch()
    with heard() as warned:
        try:
            allocator = machine.set_allocator(job.cell.allocator)
            torch.set_num_threads(job.cell.threads)
            watch = Watch(noisy=job.cell.probe not in ("time", "accuracy"))  # the profiler prints
            samples, values = _probe(job, progress, watch, memory_tested)
            record = replace(record, samples=samples, values={**values, "allocator_in_force": allocator})
        except (Unsupported, ProbeFailed) as error:
            record = replace(record, status="unsupported", reason=message(error))
        except Incorrect as error:
            record = replace(record, status="incorrect", reason=message(error))
        except Exception as error:
            if is_out_of_memory(error):
                record = replace(record, status="oom", reason=message(error))
            else:
                record = replace(record, status="crashed", reason=_where(error, job.cell))
    conditions = {**facts(), **before.since()}  # before the watch ends, which restores the threads
    watch.end()
    texts = {"side_effects": "; ".join(watch.notes), "warnings": "; ".join(warned)}
    values = {**record.values, **{name: text for name, text in texts.items() if text}}
    return replace(record, values=values, machine=conditions, seconds=time.perf_counter() - clock)


def is_out_of_memory(error: BaseException) -> bool:
    """True if an allocation failed: CUDA raises its own type, the CPU allocator only a message."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "bad_alloc" in text)


def _probe(job: Job, progress: Progress, watch: Watch, memory_tested: bool) -> tuple[Samples, Values]:
    cell = job.cell
    device = device_of(cell)
    if cell.probe == "ceiling":
        return measure_ceiling(cell)
    if cell.probe == "noise":
        from effbench.measured.probes.noise import measure_noise

        return measure_noise(cell)
    if cell.probe == "audit":
        from effbench.measured.audit import measure_audit

        maker(cell)  # refuses what lacks a library
        return measure_audit(cell, progress)
    if cell.probe == "accuracy":
        return _accuracy(job, progress, watch)
    workload = build(cell)
    watch.undo("its constructor")
    module = workload.module
    values: Values = {
        "parameters": sum(p.numel() for p in module.parameters()),
        "parameter_bytes": parameter_bytes(module),
        **_declared_growth(module, cell),
        **_how(module, cell),
    }
    if cell.probe == "time":
        workload.check()
        values["checked"] = "laws and reference" if has_reference(module) else "laws"
        watch.reseeds(partial(module, workload.x[:1, :_SHORT]))
        watch.undo("a call")
    call = workload.call(watch.note)
    if cell.probe == "time":
        synchronize = torch.cuda.synchronize if device.type == "cuda" else None
        times, how = sample_seconds(
            call, seconds=cell.seconds, precision=cell.precision, synchronize=synchronize
        )
        return {"time_s": times}, {**values, **how}
    if cell.probe == "memory":
        return {}, {**values, **_memory(workload, call, cell, memory_tested)}
    return {}, {**values, **_flops(module, call, cell)}


def _accuracy(job: Job, progress: Progress, watch: Watch) -> tuple[Samples, Values]:
    from effbench.measured.probes.accuracy import measure_accuracy
    from effbench.measured.tasks.base import confirm

    cell = job.cell
    make = maker(cell)
    task = registry.load(registry.find(cell.task or "", "task"))(**cell.task_options)
    data_dir = Path(job.data_dir) if job.data_dir else None
    confirm(task, data_dir, job.data)
    _check_before_training(make, cell, watch)
    return measure_accuracy(
        task,
        make_mechanism=make,
        cell=cell,
        data_dir=data_dir,
        progress=progress,
        checkpoint=_checkpoint(job),
    )


def _check_before_training(make: Callable[[], nn.Module], cell: Cell, watch: Watch) -> None:
    """Test one instance against the laws of every mechanism, and undo what it does to the process."""
    torch.manual_seed(cell.seed + cell.repeat)
    module = make().to(cell.device)
    x = torch.randn(1, cell.seq_len, cell.d_model, device=cell.device)
    check_laws(module, x, causal=bool(cell.options.get("causal")), train=True)
    watch.undo("its constructor or a call")


def _checkpoint(job: Job) -> Checkpoint | None:
    """Return the job's checkpoint, which is valid for one cell, code, data and machine only."""
    if job.checkpoint is None:
        return None
    return Checkpoint(
        Path(job.checkpoint), "\n".join((to_json(job.cell), job.code, job.data, machine.name()))
    )


def _memory(workload: Workload, call: Call, cell: Cell, tested: bool) -> Values:
    # In the first call, pages are new to the process. Its set-up (workspaces, caches) is no part of a call:
    # the peak is that of a later call.
    values: Values = {"rss_growth_bytes": rss_growth_bytes(call)}
    values["peak_bytes"], values["memory_method"] = peak_bytes(call, cell.device, tested=tested)
    unseen = [_named(left_out(call))]
    if cell.mode == "train":
        module, x = workload.module, workload.x.detach().requires_grad_()
        besides = [x, *module.parameters(), *module.buffers()]
        try:
            values["saved_bytes"] = saved_bytes(lambda: module(x), besides)
        except ProbeFailed as error:  # the other values are kept
            unseen.append(message(error))
        values["saved_bytes_declared"] = _declared(module, "saved_bytes", cell)
    return {**values, "memory_left_out": "; ".join(filter(None, unseen))}


def _flops(module: nn.Module, call: Call, cell: Cell) -> Values:
    call()  # a first call also does set-up
    work = count_work(call)
    train = cell.mode == "train"
    analytic = _declared(module, "train_flops" if train else "forward_flops", cell)
    useful = _declared(module, "useful_flops", cell)
    return {
        "flops": work.flops,
        "flops_analytic": analytic,
        # a product's backward pass is useful, but not what a kernel computes again to save memory
        "flops_useful": None if useful is None else useful * (3 if train else 1),
        "flops_other": work.other,
        "flops_left_out": _named(work.uncounted),
        "flops_method": work.method,
        "bytes_moved": work.bytes_moved,
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
    attention = cell.scope == "attention"  # an option may change what its instance declares
    kind = module if attention else registry.load(registry.find(cell.mechanism, "mechanism"))
    columns = {"declared_order": "order", "declared_memory_order": "memory_order"}
    orders = {column: getattr(kind, name, None) for column, name in columns.items()}
    return {name: None if order is None else str(Growth.parse(order)) for name, order in orders.items()}


def _how(module: nn.Module, cell: Cell) -> Values:
    """Return the implementation that ran, if there are several, and the libraries that it comes from."""
    versions = registry.versions(registry.find(cell.mechanism, "mechanism"))
    runs_as = getattr(module, "runs_as", None)
    return {
        "implementation": None if runs_as is None else runs_as(cell.batch_size, cell.seq_len),
        "libraries": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }


def _where(error: BaseException, cell: Cell) -> str:
    """Return the error in words, with the user's line that it comes from."""
    at = place(error, registry.home(cell.mechanism))
    kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
    return f"{kind}{message(error)}{f' ({at})' if at else ''}"


def prepare() -> dict[str, Any]:
    """Do a fork server's set-up, which its children inherit; it runs no operation that starts threads."""
    from effbench.measured.probes import accuracy, memory  # noqa: F401

    with suppress(ImportError):  # the first backward pass imports it, which takes half a second
        import_module("torch.fx.experimental.symbolic_shapes")
    memory.self_test()
    return {"torch": torch.__version__, "cuda_devices": torch.cuda.device_count()}


def prepare_for(job: Job) -> None:
    """Import, before the fork, what the job will import: torch's optimizers import its compiler (1.5 s)."""
    if job.cell.probe == "accuracy":
        with suppress(ImportError):
            import_module("torch._dynamo")

"""measure(job) -> Record, in the process that is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effbench.common import machine, registry
from effbench.common.blame import place
from effbench.common.growth import Growth
from effbench.common.spec import Cell, Job, Record, UsageError, to_json
from effbench.common.wording import one_line, plural, shown
from effbench.measured.facts import facts
from effbench.measured.mechanism import Unsupported
from effbench.measured.models.checkpoint import Checkpoint
from effbench.measured.models.encoder import Encoder
from effbench.measured.probes.ceiling import measure_ceiling
from effbench.measured.probes.correctness import Incorrect, check, check_laws, has_reference
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

_SHORT = 64  # tokens of a call that is not measured

Progress = Callable[[float, str], None]
Samples = dict[str, tuple[float, ...]]
Values = dict[str, float | int | str | None]


def measure(job: Job, progress: Progress) -> Record:
    """Measure one cell in this process; whatever goes wrong becomes the record's status and reason."""
    clock = time.perf_counter()
    record = Record.of(job, "ok")
    before = machine.Moment.now()
    watch = Watch()
    with heard() as warned:
        try:
            allocator = machine.set_allocator(job.cell.allocator)
            torch.set_num_threads(job.cell.threads)
            watch = Watch(noisy=job.cell.probe not in ("time", "accuracy"))  # the profiler prints
            samples, values = _probe(job, progress, watch)
            record = replace(record, samples=samples, values={**values, "allocator_in_force": allocator})
        except (Unsupported, ProbeFailed) as error:
            record = replace(record, status="unsupported", reason=_line(error))
        except Incorrect as error:
            record = replace(record, status="incorrect", reason=_line(error))
        except Exception as error:
            if is_out_of_memory(error):
                record = replace(record, status="oom", reason=_line(error))
            else:
                record = replace(record, status="crashed", reason=_where(error, job.cell))
    found = {**facts(), **before.since()}  # before the watch ends, which puts threads back
    watch.end()
    noticed = {"side_effects": "; ".join(watch.said), "warnings": "; ".join(warned)}
    noticed = {name: said for name, said in noticed.items() if said}
    return replace(
        record, values={**record.values, **noticed}, machine=found, seconds=time.perf_counter() - clock
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: CUDA has a type of its own, the CPU allocator only a message."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "bad_alloc" in text)


def _probe(job: Job, progress: Progress, watch: Watch) -> tuple[Samples, Values]:
    cell = job.cell
    device = torch.device(cell.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise Unsupported("this torch finds no CUDA device")
    if cell.probe == "ceiling":
        return measure_ceiling(cell)
    if cell.probe == "noise":
        from effbench.measured.probes.noise import measure_noise

        return measure_noise(cell)
    make = _maker(cell)
    if cell.probe == "audit":
        from effbench.measured.audit import measure_audit

        return measure_audit(cell, progress)
    if cell.probe == "accuracy":
        from effbench.measured.probes.accuracy import measure_accuracy
        from effbench.measured.tasks.base import confirm

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
    torch.manual_seed(cell.seed + cell.repeat)
    module = cast(
        make() if cell.scope == "attention" else Encoder(make, d_model=cell.d_model, layers=cell.layers), cell
    )
    watch.undo("its constructor")
    torch.manual_seed(cell.seed + cell.repeat)  # the constructor may have seeded it otherwise
    x = torch.randn(
        cell.batch_size, cell.seq_len, cell.d_model, device=device, dtype=getattr(torch, cell.dtype)
    )
    values: Values = {
        "parameters": sum(p.numel() for p in module.parameters()),
        "parameter_bytes": parameter_bytes(module),
        **_declared_growth(module, cell),
        **_how(module, cell),
    }
    train = cell.mode == "train"
    if cell.probe == "time":
        check(module, x, train=train, causal=bool(cell.options.get("causal")))
        values["checked"] = "laws and reference" if has_reference(module) else "laws"
        watch.reseeds(partial(module, x[:1, :_SHORT]))
        watch.undo("a call")
    call = _train(module, x) if train else _forward(module, x, watch.say)
    if cell.probe == "time":
        synchronize = torch.cuda.synchronize if device.type == "cuda" else None
        times, how = sample_seconds(
            call, seconds=cell.seconds, precision=cell.precision, synchronize=synchronize
        )
        return {"time_s": times}, {**values, **how}
    if cell.probe == "memory":
        return {}, {**values, **_memory(module, x, call, cell)}
    return {}, {**values, **_flops(module, call, cell)}


def _check_before_training(make: Callable[[], nn.Module], cell: Cell, watch: Watch) -> None:
    """Hold one instance to the laws of every mechanism, and undo what it does to the process."""
    torch.manual_seed(cell.seed + cell.repeat)
    module = make().to(cell.device)
    x = torch.randn(1, cell.seq_len, cell.d_model, device=cell.device)
    check_laws(module, x, causal=bool(cell.options.get("causal")), train=True)
    watch.undo("its constructor or a call")


def _checkpoint(job: Job) -> Checkpoint | None:
    """The job's, which belongs to what a record is final for: cell, code, data and machine."""
    if job.checkpoint is None:
        return None
    return Checkpoint(
        Path(job.checkpoint), "\n".join((to_json(job.cell), job.code, job.data, machine.name()))
    )


def _memory(module: nn.Module, x: Tensor, call: Callable[[], object], cell: Cell) -> Values:
    # The first call is the one whose pages are new to the process. What it makes and keeps (workspaces,
    # caches) is not a call's own, so that the peak is taken of a later one.
    values: Values = {"rss_growth_bytes": rss_growth_bytes(call)}
    values["peak_bytes"], values["memory_method"] = peak_bytes(call, cell.device)
    unseen = [_named(left_out(call))]
    if cell.mode == "train":
        besides = [x, *module.parameters(), *module.buffers()]
        try:
            values["saved_bytes"] = saved_bytes(lambda: module(x), besides)
        except ProbeFailed as error:  # what was measured before stands
            unseen.append(_line(error))
        values["saved_bytes_declared"] = _declared(module, "saved_bytes", cell)
    return {**values, "memory_left_out": "; ".join(filter(None, unseen))}


def _flops(module: nn.Module, call: Callable[[], object], cell: Cell) -> Values:
    call()  # what a first call sets up is no call's own work
    work = count_work(call)
    train = cell.mode == "train"
    analytic = _declared(module, "train_flops" if train else "forward_flops", cell)
    useful = _declared(module, "useful_flops", cell)
    return {
        "flops": work.flops,
        "flops_analytic": analytic,
        # of a product's backward all is of use, but not what a kernel computes again to save memory
        "flops_useful": None if useful is None else useful * (3 if train else 1),
        "flops_other": work.other,
        "flops_left_out": _named(work.uncounted),
        "flops_method": work.method,
        "bytes_moved": work.bytes_moved,
    }


def _named(left_out: Mapping[str, int]) -> str:
    """What a figure leaves out, in words: ``faults::attn (2 calls), aten::qr (1 call)``; empty if nothing."""
    return ", ".join(
        f"{name} ({plural(calls, 'call')})"
        for name, calls in sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    )


def _declared(module: nn.Module, name: str, cell: Cell) -> int | None:
    """A closed form of what is measured, at the cell's shape; None where there is none, as in an encoder."""
    form = getattr(module, name, None)
    found = None if form is None else form(cell.batch_size, cell.seq_len)
    if found is None or (type(found) is int and found >= 0):
        return found
    raise Incorrect(f"{name} returned {shown(found)}, must be a whole number of at least 0, or None")


def _declared_growth(module: nn.Module, cell: Cell) -> Values:
    attention = cell.scope == "attention"  # an option may change what its instance declares
    kind = module if attention else registry.load(registry.find(cell.mechanism, "mechanism"))
    declared = {"declared_order": "order", "declared_memory_order": "memory_order"}
    found = {column: getattr(kind, name, None) for column, name in declared.items()}
    return {name: None if order is None else str(Growth.parse(order)) for name, order in found.items()}


def _how(module: nn.Module, cell: Cell) -> Values:
    """Which way of computing it ran, where a mechanism has several, and whose code it is, where not ours."""
    found = registry.versions(registry.find(cell.mechanism, "mechanism"))
    runs_as = getattr(module, "runs_as", None)
    return {
        "implementation": None if runs_as is None else runs_as(cell.batch_size, cell.seq_len),
        "libraries": ", ".join(f"{name} {number}" for name, number in found.items()),
    }


def cast(module: nn.Module, cell: Cell) -> nn.Module:
    """``module`` on the cell's device, its real numbers in the cell's dtype.

    Complex parameters stay complex: ``nn.Module.to(dtype=...)`` would drop their imaginary parts.
    """
    dtype = getattr(torch, cell.dtype)
    module.to(cell.device)._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)
    return module


def _maker(cell: Cell) -> Callable[[], nn.Module]:
    plugin = registry.find(cell.mechanism, "mechanism")
    missing = [name for name, found in registry.versions(plugin).items() if found is None]
    if missing:
        how = f": {plugin.install}" if plugin.install else ""
        raise Unsupported(f"{plugin.name} needs {', '.join(missing)}, which is not installed{how}")
    kind = registry.load(plugin)

    def make() -> nn.Module:
        try:
            made = kind(cell.d_model, cell.heads, max_len=cell.seq_len, **{"causal": False, **cell.options})
        except ValueError as error:
            raise Unsupported(f"{cell.label}: {error}") from None
        if not isinstance(made, nn.Module):
            raise Incorrect(f"{plugin.class_name} is not an nn.Module")
        return made

    return make


def _forward(
    module: nn.Module, x: Tensor, say: Callable[[str], object] = lambda text: None
) -> Callable[[], object]:
    """The forward pass in inference mode; without gradients only, and said, where that is refused."""
    module.eval()
    mode: Callable[[], AbstractContextManager[object]] = torch.inference_mode

    def call() -> Tensor:
        nonlocal mode
        try:
            with mode():
                return module(x)  # type: ignore[no-any-return]
        except RuntimeError as error:
            if mode is torch.no_grad or "inference tensor" not in str(error).lower():
                raise
        mode = torch.no_grad
        say("its forward pass is refused in torch's inference mode: measured without gradients instead")
        with mode():
            return module(x)  # type: ignore[no-any-return]

    return call


def _train(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """Forward and backward, with the gradient of the input too, as a layer inside a model has it."""
    module.train()
    x.requires_grad_()
    gradient = torch.randn_like(x)
    parameters = [p for p in module.parameters() if p.requires_grad]

    def call() -> None:
        x.grad = None
        for parameter in parameters:
            parameter.grad = None
        module(x).backward(gradient)

    return call


def _line(error: BaseException) -> str:
    return one_line(str(error)) or type(error).__name__


def _where(error: BaseException, cell: Cell) -> str:
    """What was raised, and the user's line that it came from."""
    at = place(error, registry.home(cell.mechanism))
    kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
    return f"{kind}{_line(error)}{f' ({at})' if at else ''}"


def prepare() -> dict[str, Any]:
    """What a fork server does once, so that its children need not: no op runs that would start threads."""
    from effbench.measured.probes import accuracy, memory  # noqa: F401

    with suppress(ImportError):  # the first backward pass imports it, which takes half a second
        import_module("torch.fx.experimental.symbolic_shapes")
    memory.prime()
    return {"torch": torch.__version__, "cuda_devices": torch.cuda.device_count()}


def prepare_for(job: Job) -> None:
    """Import before the fork what a training imports: torch's optimizers import its compiler (1.5 s)."""
    if job.cell.probe == "accuracy":
        with suppress(ImportError):
            import_module("torch._dynamo")

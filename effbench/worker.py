"""measure(job) -> Record, in the process that is measured."""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effbench import machine, registry
from effbench.mechanism import Mechanism, Unsupported
from effbench.models.encoder import Encoder
from effbench.probes.flops import count_flops
from effbench.probes.memory import peak_bytes
from effbench.probes.time import sample_seconds
from effbench.spec import Cell, Job, Record, UsageError

Progress = Callable[[float, str], None]
Samples = dict[str, tuple[float, ...]]
Values = dict[str, float | int | str | None]

# A mechanism must equal its own reference before it is timed: relative to the largest output.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_CHECK_LENGTH = 300


class Incorrect(Exception):
    """The mechanism's output is wrong; its text says how."""


def measure(job: Job, progress: Progress) -> Record:
    """Measure one cell in this process; whatever goes wrong becomes the record's status and reason."""
    clock = time.perf_counter()
    record = Record.of(job, "ok")
    steal_before = machine.steal_seconds()
    try:
        allocator = machine.set_allocator(job.cell.allocator)
        torch.set_num_threads(job.cell.threads)
        samples, values = _probe(job, progress)
        record = replace(record, samples=samples, values={**values, "allocator_in_force": allocator})
    except Unsupported as error:
        record = replace(record, status="unsupported", reason=_line(error))
    except Incorrect as error:
        record = replace(record, status="incorrect", reason=_line(error))
    except Exception as error:
        if is_out_of_memory(error):
            record = replace(record, status="oom", reason=_line(error))
        else:
            record = replace(record, status="crashed", reason=_where(error))
    facts = machine.facts()
    if steal_before is not None:
        facts["steal_s"] = round(facts["steal_s"] - steal_before, 3)
    return replace(record, machine=facts, seconds=time.perf_counter() - clock)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: CUDA has a type of its own, the CPU allocator only a message."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "bad_alloc" in text)


def _probe(job: Job, progress: Progress) -> tuple[Samples, Values]:
    cell = job.cell
    device = torch.device(cell.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise Unsupported("this torch finds no CUDA device")
    if cell.probe == "noise":
        from effbench.probes.noise import measure_noise

        return measure_noise(cell, progress)
    make = _maker(cell)
    if cell.probe == "audit":
        from effbench.audit import measure_audit

        return measure_audit(cell, progress)
    if cell.probe == "accuracy":
        from effbench.probes.accuracy import measure_accuracy

        task = registry.load(registry.find(cell.task or "", "task"))(**cell.task_options)
        data_dir = Path(job.data_dir) if job.data_dir else None
        return measure_accuracy(task, make_mechanism=make, cell=cell, data_dir=data_dir, progress=progress)
    torch.manual_seed(cell.seed + cell.repeat)
    module = (
        make() if cell.scope == "attention" else Encoder(make, d_model=cell.d_model, layers=cell.layers)
    ).to(device=device, dtype=getattr(torch, cell.dtype))
    x = torch.randn(
        cell.batch_size, cell.seq_len, cell.d_model, device=device, dtype=getattr(torch, cell.dtype)
    )
    values: Values = {"parameters": sum(p.numel() for p in module.parameters())}
    if cell.probe == "time":
        check(module, x)
    call = _forward(module, x) if cell.mode == "forward" else _train(module, x)
    if cell.probe == "time":
        synchronize = torch.cuda.synchronize if device.type == "cuda" else None
        times, how = sample_seconds(call, seconds=cell.seconds, synchronize=synchronize)
        return {"time_s": times}, {**values, **how}
    if cell.probe == "memory":
        call()  # what the first call makes and keeps (workspaces, caches) is not the call's own
        values["peak_bytes"], values["memory_method"] = peak_bytes(call, cell.device)
    else:
        values["flops"] = count_flops(call)
    return {}, values


def _maker(cell: Cell) -> Callable[[], nn.Module]:
    plugin = registry.find(cell.mechanism, "mechanism")
    kind = registry.load(plugin)

    def make() -> nn.Module:
        try:
            made = kind(cell.d_model, cell.heads, max_len=cell.seq_len, causal=False, **cell.options)
        except ValueError as error:
            raise Unsupported(f"{cell.label}: {error}") from None
        if not isinstance(made, nn.Module):
            raise Incorrect(f"{plugin.class_name} is not an nn.Module")
        return made

    return make


def _forward(module: nn.Module, x: Tensor) -> Callable[[], object]:
    module.eval()

    def call() -> Tensor:
        with torch.inference_mode():
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


def check(module: nn.Module, x: Tensor) -> None:
    """Refuse to time a wrong result.

    The output must have the input's shape and dtype and be finite, with and without a padding mask, and
    equal the mechanism's own dense reference where it has one, on up to 300 tokens. Raises Incorrect.
    """
    length = min(x.shape[1], _CHECK_LENGTH)
    sample = torch.randn(2, length, x.shape[2], device=x.device, dtype=x.dtype)
    mask = torch.ones(2, length, dtype=torch.bool, device=x.device)
    mask[1, (length + 1) // 2 :] = False
    module.eval()
    exact = copy.deepcopy(module).double() if _has_reference(module) else None
    with torch.no_grad():
        for given in (None, mask):
            out = module(sample, given)
            if not isinstance(out, Tensor) or out.shape != sample.shape or out.dtype != sample.dtype:
                raise Incorrect(f"forward returned {_describe(out)} for an input of {_describe(sample)}")
            real = out if given is None else out[given]
            if not bool(torch.isfinite(real).all()):
                raise Incorrect("forward returned a number that is not finite")
            if exact is not None:
                _compare(out, exact.reference(sample.double(), given), given)  # type: ignore[operator]


def _has_reference(module: nn.Module) -> bool:
    return isinstance(module, Mechanism) and type(module).reference is not Mechanism.reference


def _compare(out: Tensor, expected: Tensor, mask: Tensor | None) -> None:
    if mask is not None:
        out, expected = out[mask], expected[mask]
    error = float((out.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not error <= _TOLERANCE[out.dtype]:
        with_mask = "without a mask" if mask is None else "with a padding mask"
        raise Incorrect(
            f"forward differs from the mechanism's reference {with_mask}: relative error {error:.1e}, "
            f"allowed {_TOLERANCE[out.dtype]:.0e} in {str(out.dtype).removeprefix('torch.')}"
        )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if "torch" not in Path(frame.filename).parts] or list(frames)
    at = f" ({Path(outside[-1].filename).name}:{outside[-1].lineno} in {outside[-1].name})" if outside else ""
    kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
    return f"{kind}{_line(error)}{at}"


def prepare() -> dict[str, Any]:
    """What a fork server does once, so that its children need not: no op runs that would start threads."""
    from effbench.probes import accuracy, memory  # noqa: F401

    memory.prime()
    return {"torch": torch.__version__, "cuda_devices": torch.cuda.device_count()}

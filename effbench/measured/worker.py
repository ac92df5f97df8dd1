"""Measure a job and return its Record, in the process that is measured."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

import torch

from effbench.common import machine, registry
from effbench.common.blame import message, place
from effbench.common.probes import INTERNAL, PROBES
from effbench.common.spec import Cell, Job, Record, UsageError
from effbench.measured import compiled
from effbench.measured.facts import facts
from effbench.measured.mechanism import Unsupported
from effbench.measured.probes.context import Context, Progress, Result
from effbench.measured.probes.correctness import Incorrect
from effbench.measured.probes.effects import Watch, heard
from effbench.measured.probes.failure import ProbeFailed
from effbench.measured.workload import device_of


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
            samples, values = _probe(Context(job, progress, watch, memory_tested))
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


def _probe(context: Context) -> Result:
    device_of(context.cell.device)  # refuses a device that is not there
    result: Result = resolve_name({**PROBES, **INTERNAL}[context.cell.probe].home)(context)
    return result


def _where(error: BaseException, cell: Cell) -> str:
    """Return the error in words, with the user's line that it comes from."""
    at = place(error, registry.home(cell.mechanism))
    kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
    return f"{kind}{message(error)}{f' ({at})' if at else ''}"


def prepare() -> dict[str, Any]:
    """Do a fork server's set-up, which its children inherit; it runs no operation that starts threads."""
    from effbench.measured.probes import accuracy, costs, memory  # noqa: F401

    import_for_backward()
    memory.self_test()
    return {"torch": torch.__version__, "cuda_devices": torch.cuda.device_count()}


def import_for_backward() -> None:
    """Import, before a fork, what the first backward pass would import: it takes half a second."""
    with suppress(ImportError):
        import_module("torch.fx.experimental.symbolic_shapes")


def prepare_for(job: Job) -> None:
    """Import, before the fork, what the job will import: torch's optimizers import its compiler (1.5 s)."""
    if job.cell.compile != "none":
        compiled.prepare()
    if job.cell.probe == "accuracy":
        with suppress(ImportError):
            import_module("torch._dynamo")

"""torch.compile: compile a cell's module, check it against its plain form, and say what the compiler did."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import cast

import torch
from torch import Tensor, nn

from effbench.common.spec import Compile
from effbench.common.wording import one_line
from effbench.measured.mechanism import Unsupported
from effbench.measured.probes.context import Context
from effbench.measured.probes.correctness import Incorrect, agree, gradients
from effbench.measured.workload import Workload, forward_call

Values = dict[str, float | int | str | None]
_MOST_SHAPES = 64  # of one function that are compiled in one process, such as the gate's
_REASON = 160  # most characters of the reason of a graph break


def prepare() -> None:
    """Import the compiler, before a fork: it takes seconds."""
    for name in ("torch._dynamo", "torch._inductor.compile_fx", "torch._inductor.codegen.cpp"):
        with suppress(ImportError):
            import_module(name)


def as_asked(context: Context) -> tuple[Workload, Callable[[], Values]]:
    """Return a cell's workload, compiled if the cell asks for it, and a function that says what was done."""
    if context.cell.compile == "none":
        return context.workload, dict
    if context.cell.mode == "decode":
        raise Unsupported("a step of a generation is not compiled here: use --compile none")
    made = compiled(context.workload, context.cell.compile, context.watch.note)
    context.watch.accept_threads()
    return made


def compiled(
    workload: Workload, kind: Compile, note: Callable[[str], object] = lambda text: None
) -> tuple[Workload, Callable[[], Values]]:
    """Return the workload with its module compiled, and a function that says what the compiler did so far.

    ``compile_s`` is the time of the first call, which traces, generates and builds the code; a training call
    builds the backward pass, too. Shapes are constants for the compiler. The results must equal those of the
    plain form; ``note`` is told if two calls of the plain form differ themselves, as with dropout, so that
    nothing can be compared. Raises Unsupported with the compiler's reason if it fails, Incorrect if the
    compiled form computes something else.
    """
    from torch._dynamo import config
    from torch._dynamo.exc import TorchDynamoException
    from torch._dynamo.utils import clear_compilation_metrics, counters, get_compilation_metrics

    config.recompile_limit = max(config.recompile_limit, _MOST_SHAPES)
    before = Counter(counters["graph_break"])
    clear_compilation_metrics()
    module = cast(nn.Module, torch.compile(workload.module, mode=kind, dynamic=False))
    own = replace(workload, compiled=module)
    start = time.perf_counter()
    try:
        found = _results(own)
        if workload.x.device.type == "cuda":
            torch.cuda.synchronize()
        compile_s = time.perf_counter() - start
    except TorchDynamoException as error:
        raise Unsupported(f"torch.compile fails: {_first_line(error)}") from None
    plain = _results(workload)
    try:
        agree(_results(workload), plain, "")
    except Incorrect:
        note("two calls of the plain form differ: the compiled form is not compared with it")
    else:
        agree(found, plain, "of the compiled form differs from that of the plain form")

    def did() -> Values:
        breaks = Counter(counters["graph_break"]) - before
        again = sum(1 for one in get_compilation_metrics() if one.recompile_reason)
        reasons = "; ".join(dict.fromkeys(map(_reason, breaks)))
        return {
            "compile_s": compile_s,
            "graph_breaks": breaks.total(),
            "recompiles": again,
            **({"graph_break_reasons": reasons} if reasons else {}),
        }

    return own, did


def _results(workload: Workload) -> dict[str, Tensor]:
    """Return the output or, in training, the gradients of one call like the timed ones."""
    if not workload.train:
        return {"the output": forward_call(workload.timed, workload.x)()}
    workload.timed.train()
    return gradients(workload.timed, workload.module, workload.x, None, torch.ones_like(workload.like_output))


def _first_line(error: BaseException) -> str:
    return one_line(str(error).strip().split("\n")[0], 300) or type(error).__name__


def _reason(text: str) -> str:
    """Return the headline of a graph break and what was called, from dynamo's explanation."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    context = next((line.partition(":")[2].strip() for line in lines if "debug context" in line), "")
    return one_line(f"{lines[0] if lines else 'unknown'}{f' ({context})' if context else ''}", _REASON)

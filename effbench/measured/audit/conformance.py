"""Run the checks of an audit: one finding per check, one failure per cause."""

from __future__ import annotations

import gc
import inspect
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from effbench.common import registry
from effbench.common.blame import place
from effbench.common.spec import Dtype, Option, UsageError
from effbench.common.wording import one_line
from effbench.measured.audit import (
    cost_laws,
    function_laws,
    number_laws,
    option_laws,
    pattern_laws,
    state_laws,
)
from effbench.measured.audit.agreement import LawBroken, Passed
from effbench.measured.audit.subject import Subject
from effbench.measured.mechanism import Unsupported
from effbench.measured.probes.context import Context, Result
from effbench.measured.workload import device_of, maker

Verdict = Literal["pass", "fail", "n/a"]

_CHECKS: dict[str, Callable[[Subject], Passed]] = {
    "shape and dtype": function_laws.shape_and_dtype,
    "reference, forward": function_laws.reference_forward,
    "reference, backward": function_laws.reference_backward,
    "padding, forward": function_laws.padding_forward,
    "padding, backward": function_laws.padding_backward,
    "padded rows": function_laws.padded_rows,
    "full mask": function_laws.full_mask,
    "causal": function_laws.causal,
    "batch": function_laws.batch,
    "permutation": function_laws.permutation,
    "steps": pattern_laws.steps,
    "rows of the state": pattern_laws.rows_of_the_state,
    "size of the state": pattern_laws.size_of_the_state,
    "cross attention": pattern_laws.cross_attention,
    "deterministic": number_laws.deterministic,
    "hidden state": state_laws.no_hidden_state,
    "input untouched": state_laws.input_untouched,
    "finite in float16": number_laws.finite_in(torch.float16),
    "finite in bfloat16": number_laws.finite_in(torch.bfloat16),
    "large inputs": number_laws.large_inputs,
    "finite differences": number_laws.finite_differences,
    "options": option_laws.options,
    "forward FLOPs": cost_laws.forward_flops,
    "train FLOPs": cost_laws.train_flops,
    "useful FLOPs": cost_laws.useful_flops,
    "order of FLOPs": cost_laws.order_of_flops,
    "order of memory": cost_laws.order_of_memory,
    "order of time": cost_laws.order_of_time,
    "saved bytes": cost_laws.saved_for_backward,
    "memory freed": cost_laws.memory_freed,
}
CHECKS: tuple[str, ...] = tuple(_CHECKS)
# A check is not judged if one of those that it rests on fails.
_SOUND = ("shape and dtype", "deterministic")
_RESTS_ON: dict[str, tuple[str, ...]] = {
    "reference, forward": _SOUND,
    "reference, backward": (*_SOUND, "reference, forward"),
    "padding, forward": _SOUND,
    "padding, backward": (*_SOUND, "padding, forward"),
    "padded rows": _SOUND,
    "full mask": _SOUND,
    "causal": _SOUND,
    "batch": _SOUND,
    "permutation": _SOUND,
    "steps": (*_SOUND, "causal"),
    "rows of the state": (*_SOUND, "steps"),
    "size of the state": _SOUND,
    "cross attention": _SOUND,
    "hidden state": _SOUND,
    "finite in float16": ("shape and dtype",),
    "finite in bfloat16": ("shape and dtype",),
    "large inputs": (*_SOUND, "reference, forward"),
    "finite differences": _SOUND,
    "train FLOPs": ("forward FLOPs",),
}
# The checks that are repeated in the dtype of an audit, each after its exact form in float64.
_ROUNDED = (
    "reference, forward",
    "reference, backward",
    "padding, forward",
    "padding, backward",
    "full mask",
    "causal",
    "batch",
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check; ``number`` is the measured error, exponent or count, if there is one."""

    check: str
    verdict: Verdict
    reason: str
    number: float | None = None


def audit(
    kind: type,
    *,
    options: Mapping[str, Option] | None = None,
    d_model: int = 64,
    heads: int = 4,
    seq_len: int = 2048,
    checks: Collection[str] | None = None,
    device: str = "cpu",
    dtype: Dtype = "float64",
    progress: Callable[[float, str], None] | None = None,
) -> list[Finding]:
    """Return one finding per check, in the order of ``CHECKS``, all on ``device``.

    ``kind`` is a mechanism's class, built as ``kind(d_model, heads, max_len=..., causal=..., **options)``;
    with ``causal`` among the options the causal form is audited. ``seq_len`` is the longest length that is
    tried. ``checks``: run these only. With a ``dtype`` other than float64, outputs and gradients are compared
    in it too, with the tolerance of its rounding: further checks such as "batch in bfloat16".
    ``progress(fraction, check)`` is called before each check.

    A check that raises has failed. It is not applicable if the mechanism refuses it with Unsupported, or if
    it fails for the same cause as another check (``_one_failure_per_cause``).

    Raises what the constructor raises for these options, UsageError for an unknown check, and Unsupported if
    this torch has no such device.
    """
    own = dict(options or {})
    causal = bool(own.pop("causal", False))
    subject = Subject(
        kind=kind, options=own, d_model=d_model, heads=heads, seq_len=seq_len, causal=causal,
        device=device_of(device),
    )  # fmt: skip
    known = {**_CHECKS, **_rounded(dtype)}
    for name in checks or ():
        if name not in known:
            raise UsageError(registry.unknown("check of the audit", name, list(known), "there are"))
    wanted = {name: check for name, check in known.items() if checks is None or name in checks}
    findings: list[Finding] = []
    causes: dict[str, str] = {}
    with torch.random.fork_rng([subject.device] if subject.on_cuda else []), torch.enable_grad():
        subject.make()
        for position, (name, check) in enumerate(wanted.items()):
            if progress is not None:
                progress(position / len(wanted), name)
            findings.append(_finding(name, check, subject, causes))
    return _one_failure_per_cause(findings, causes)


def assert_conforms(
    kind: type,
    *,
    options: Mapping[str, Option] | None = None,
    d_model: int = 64,
    heads: int = 4,
    seq_len: int = 2048,
    checks: Collection[str] | None = None,
    device: str = "cpu",
    dtype: Dtype = "float64",
) -> None:
    """Audit a mechanism in a test. Raises AssertionError with the name and reason of each failed check.

    ``kind`` is the class, built as ``kind(d_model, heads, max_len=..., causal=..., **options)``; with
    ``causal`` among the options the causal form is audited. ``seq_len`` is the longest length that is tried,
    in tokens. ``checks``: run these only, such as "padding, forward". With a ``dtype`` other than float64,
    outputs and gradients are compared in it too.

    Raises also what the constructor raises for these options, UsageError for an unknown check, and
    Unsupported if this torch has no such device.
    """
    findings = audit(
        kind, options=options, d_model=d_model, heads=heads, seq_len=seq_len, checks=checks, device=device,
        dtype=dtype,
    )  # fmt: skip
    failed = [f"{f.check}: {f.reason}" for f in findings if f.verdict == "fail"]
    if failed:
        raise AssertionError("\n  ".join([f"{kind.__name__} is not what it says it is:", *failed]))


def audit_probe(context: Context) -> Result:
    """Audit the cell's mechanism; return no samples, and ``findings`` as JSON text.

    The cell's ``seq_len`` is the longest length that is tried.
    """
    cell = context.cell
    maker(cell)  # raises Unsupported if a library is missing
    kind = registry.load(registry.find(cell.mechanism, "mechanism"))
    findings = audit(
        kind,
        options=cell.options,
        d_model=cell.d_model,
        heads=cell.heads,
        seq_len=cell.seq_len,
        device=cell.device,
        dtype=cell.dtype,
        progress=context.progress,
    )
    return {}, {"findings": json.dumps([asdict(finding) for finding in findings], allow_nan=False)}


def _rounded(dtype: Dtype) -> dict[str, Callable[[Subject], Passed]]:
    """Return the checks that an audit in this dtype adds; none for float64, in which all run anyway."""

    def in_dtype(check: Callable[[Subject], Passed]) -> Callable[[Subject], Passed]:
        return lambda subject: check(replace(subject, dtype=getattr(torch, dtype)))

    names = () if dtype == "float64" else _ROUNDED
    return {f"{name} in {dtype}": in_dtype(_CHECKS[name]) for name in names}


def _rests_on(name: str) -> tuple[str, ...]:
    """Return the checks without which this one is not judged: for one in a dtype, its exact form too."""
    exact = name.partition(" in ")[0]
    return _RESTS_ON.get(name, (*_RESTS_ON[exact], exact) if exact in _ROUNDED else ())


def _one_failure_per_cause(findings: Sequence[Finding], causes: Mapping[str, str]) -> list[Finding]:
    """Keep one failure per cause, and make the other failures that it explains not applicable.

    Exceptions from the same line of code have one cause, whichever checks meet them (``causes`` names it by
    check). A check that rests on a failed one cannot be judged: see ``_RESTS_ON``.
    """
    failed = {finding.check for finding in findings if finding.verdict == "fail"}
    first: dict[str, str] = {}
    judged = []
    for finding in findings:
        if finding.verdict == "fail":
            cause = causes.get(finding.check, finding.check)
            root = first.setdefault(cause, finding.check)
            for other in _rests_on(finding.check):
                root = other if other in failed and root == finding.check else root
            if root != finding.check:
                reason = f"not judged: {root!r} fails, which explains it"
                finding = replace(finding, verdict="n/a", reason=reason, number=None)
        judged.append(finding)
    return judged


def _finding(
    name: str, check: Callable[[Subject], Passed], subject: Subject, causes: dict[str, str]
) -> Finding:
    verdict: Verdict = "pass"
    gc.freeze()  # the memory checks collect garbage often: they need to look at new objects only
    try:
        reason, number = check(subject)
    except Unsupported as error:
        verdict, reason, number = "n/a", str(error), None
    except LawBroken as error:
        verdict, reason, number = "fail", str(error), error.number
    except Exception as error:
        at = place(error, Path(inspect.getfile(subject.kind)).parent)
        causes[name] = f"{type(error).__name__} {at or error}"
        text = f"{type(error).__name__}: {one_line(str(error))}{f' ({at})' if at else ''}"
        verdict, reason, number = "fail", f"raised {text}", None
    finally:
        gc.unfreeze()
    if number is not None and not math.isfinite(number):
        number = None
    return Finding(check=name, verdict=verdict, reason=" ".join(reason.split()), number=number)

"""Is a mechanism what it says it is? One small check a line, and a finding for each."""

from __future__ import annotations

import gc
import inspect
import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from effbench.common import registry
from effbench.common.blame import place
from effbench.common.growth import Growth, slope
from effbench.common.spec import Cell, Option, UsageError
from effbench.common.wording import one_line
from effbench.measured.mechanism import Mechanism, Unsupported
from effbench.measured.probes.correctness import gradients, has_reference
from effbench.measured.probes.flops import count_flops, count_work
from effbench.measured.probes.memory import peak_bytes, saved_bytes
from effbench.measured.probes.time import sample_seconds, waited_ns

Verdict = Literal["pass", "fail", "n/a"]
Samples = dict[str, tuple[float, ...]]
Values = dict[str, float | int | str | None]
Passed = tuple[str, float | None]  # what was found, and its number if it has one

# Relative to the largest number compared. In float64 two ways to the same function differ by about 1e-13.
_EXACT = {torch.float64: 1e-9, torch.float32: 1e-4}
_DIFFERENCES = 1e-5
_STEPS = (1e-5, 1e-7)
# Exponents in N that a cost may exceed its declared growth by.
_COUNTED, _PEAK, _TIMED = 0.2, 0.2, 0.35
_TIME_ROUNDS, _TIME_S = 3, 0.02
# Long enough that a window or a block of the usual sizes no longer covers the sequence, and not round.
_LONG = 777
_CALLS = 4
_OUTPUT = "the output"
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one line of the audit found; ``number`` is the measured error, exponent or count, if any."""

    name: str
    verdict: Verdict
    reason: str
    number: float | None = None


class _Wrong(Exception):
    """A law is broken; the text says how."""

    def __init__(self, reason: str, number: float | None = None) -> None:
        super().__init__(reason)
        self.number = number


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """The mechanism under audit, and how to make it and its inputs; everything comes from fixed seeds."""

    kind: type
    options: Mapping[str, Option]
    d_model: int
    heads: int
    seq_len: int
    causal: bool = False

    def make(
        self,
        *,
        max_len: int | None = None,
        dtype: torch.dtype = torch.float64,
        causal: bool | None = None,
        options: Mapping[str, Option] | None = None,
    ) -> nn.Module:
        """A fresh instance in eval mode; the same seed each time."""
        torch.manual_seed(0)
        given = self.options if options is None else options
        longest = max_len or min(_LONG, self.seq_len)
        form = self.causal if causal is None else causal
        made = self.kind(self.d_model, self.heads, max_len=longest, causal=form, **given)
        if not isinstance(made, nn.Module):
            raise TypeError(f"{self.kind.__name__} is not an nn.Module")
        return made.to(dtype).eval()

    def input(self, batch: int, n: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
        """Standard normal x [batch, n, d_model]."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, n, self.d_model, generator=generator, dtype=torch.float64).to(dtype)

    def lengths(self, *wanted: int) -> list[int]:
        """The lengths that fit; one that does not is replaced by the longest that does."""
        return sorted({min(n, self.seq_len) for n in wanted})

    def upper_lengths(self) -> list[int]:
        """Three doublings up to seq_len, on which a growth is fitted. Raises Unsupported if too short."""
        if self.seq_len < 64:
            raise Unsupported(f"no growth can be fitted up to N={self.seq_len}; at least 64 is needed")
        return [self.seq_len // 4, self.seq_len // 2, self.seq_len]


def audit(
    kind: type,
    *,
    options: Mapping[str, Option] | None = None,
    d_model: int = 64,
    heads: int = 4,
    seq_len: int = 2048,
    lines: Collection[str] | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> list[Finding]:
    """One finding for each line (``LINES``, or those of them asked for), in their order, on the CPU.

    ``kind`` is a mechanism's class, built as ``kind(d_model, heads, max_len=..., causal=..., **options)``;
    with ``causal`` among the options the causal form is audited. ``seq_len`` is the longest length that is
    tried. A check that raises is a line that failed. What the mechanism refuses with Unsupported is not
    applicable, and so is what fails for a cause that another line has shown (``_one_cause_once``). Raises
    what the constructor raises for these options, and UsageError for a line that there is not.
    """
    own = dict(options or {})
    causal = bool(own.pop("causal", False))
    subject = _Subject(kind=kind, options=own, d_model=d_model, heads=heads, seq_len=seq_len, causal=causal)
    for name in lines or ():
        if name not in _CHECKS:
            raise UsageError(registry.unknown("line of the audit", name, LINES, "there are"))
    wanted = [name for name in _CHECKS if lines is None or name in lines]
    findings: list[Finding] = []
    causes: dict[str, str] = {}
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        subject.make()
        for position, name in enumerate(wanted):
            if progress is not None:
                progress(position / len(wanted), name)
            findings.append(_finding(name, subject, causes))
    return _one_cause_once(findings, causes)


def assert_conforms(
    kind: type,
    *,
    options: Mapping[str, Option] | None = None,
    d_model: int = 64,
    heads: int = 4,
    seq_len: int = 2048,
    lines: Collection[str] | None = None,
) -> None:
    """For tests: raise AssertionError that names each line of the audit that failed, and why."""
    findings = audit(kind, options=options, d_model=d_model, heads=heads, seq_len=seq_len, lines=lines)
    failed = [f"{f.name}: {f.reason}" for f in findings if f.verdict == "fail"]
    if failed:
        raise AssertionError("\n  ".join([f"{kind.__name__} is not what it says it is:", *failed]))


def measure_audit(cell: Cell, progress: Callable[[float, str], None]) -> tuple[Samples, Values]:
    """(no samples, ``findings`` as JSON text) of the cell's mechanism; its seq_len is the longest length."""
    if cell.device != "cpu":
        raise Unsupported(f"a mechanism is audited on the CPU, not on {cell.device}")
    kind = registry.load(registry.find(cell.mechanism, "mechanism"))
    findings = audit(
        kind,
        options=cell.options,
        d_model=cell.d_model,
        heads=cell.heads,
        seq_len=cell.seq_len,
        progress=progress,
    )
    return {}, {"findings": json.dumps([asdict(finding) for finding in findings], allow_nan=False)}


def _one_cause_once(findings: Sequence[Finding], causes: Mapping[str, str]) -> list[Finding]:
    """The findings, with one failure for each root cause; others that it explains are not applicable.

    An exception from one line of code is one cause, wherever it is met (``causes`` names it). And a law that
    rests on another cannot be judged where that fails: see ``_RESTS_ON``.
    """
    failed = {finding.name for finding in findings if finding.verdict == "fail"}
    first: dict[str, str] = {}
    kept = []
    for finding in findings:
        if finding.verdict == "fail":
            cause = causes.get(finding.name, finding.name)
            root = first.setdefault(cause, finding.name)
            for other in _RESTS_ON.get(finding.name, ()):
                root = other if other in failed and root == finding.name else root
            if root != finding.name:
                reason = f"not judged: {root!r} fails, which explains it"
                finding = replace(finding, verdict="n/a", reason=reason, number=None)
        kept.append(finding)
    return kept


def _finding(name: str, subject: _Subject, causes: dict[str, str]) -> Finding:
    verdict: Verdict = "pass"
    gc.freeze()  # the memory checks collect garbage often: only what this one makes need be looked through
    try:
        reason, number = _CHECKS[name](subject)
    except Unsupported as error:
        verdict, reason, number = "n/a", str(error), None
    except _Wrong as error:
        verdict, reason, number = "fail", str(error), error.number
    except Exception as error:
        at = place(error, Path(inspect.getfile(subject.kind)).parent)
        causes[name] = f"{type(error).__name__} {at or error}"
        said = f"{type(error).__name__}: {one_line(str(error))}{f' ({at})' if at else ''}"
        verdict, reason, number = "fail", f"raised {said}", None
    finally:
        gc.unfreeze()
    if number is not None and not math.isfinite(number):
        number = None
    return Finding(name=name, verdict=verdict, reason=" ".join(reason.split()), number=number)


# --- the checks -------------------------------------------------------------------------------------------


def _shape_and_dtype(s: _Subject) -> Passed:
    """The input's shape and dtype come back, finite, for any length, dtype, mask and memory layout."""
    for dtype in _EXACT:
        module = s.make(dtype=dtype)
        for batch in (1, 3):
            for n in s.lengths(1, 2, 3, 64, 65, _LONG):
                spread = s.input(batch, 2 * n, dtype).transpose(0, 1)[::2].transpose(0, 1)
                x = spread.contiguous()
                where = f"for {_type(dtype)}[{batch}, {n}, {s.d_model}]"
                for mask in (None, _ragged(batch, n)):
                    out = _call(module, x, mask)
                    if not isinstance(out, Tensor):
                        raise _Wrong(f"returned {type(out).__name__} {where}")
                    if out.shape != x.shape or out.dtype != x.dtype:
                        raise _Wrong(f"returned {_type(out.dtype)}{list(out.shape)} {where}")
                    real = out if mask is None else out[mask]
                    if not bool(real.isfinite().all()):
                        raise _Wrong(f"returned a number that is not finite {where}")
                _same(_call(module, spread, None), _call(module, x, None), f"a strided input differs {where}")
    return "", None


def _reference_forward(s: _Subject) -> Passed:
    """The fast path is the function that ``reference`` defines."""
    module = s.make()
    reference = _reference(module)
    worst = 0.0
    for n, mask in _cases(s, 1, 2, 65, 130, _LONG):
        x = s.input(2, n)
        with torch.no_grad():
            out, expected = module(x, mask), reference(x, mask)
        worst = max(worst, _same(_real(out, mask), _real(expected, mask), f"at N={n}{_masked(mask)}"))
    return f"largest relative error {worst:.0e}", worst


def _reference_backward(s: _Subject) -> Passed:
    """Its gradients are the reference's, of the input and of every parameter."""
    module = s.make()
    reference = _reference(module)
    worst = 0.0
    for n, mask in _cases(s, 1, 2, 65, 130, _LONG):
        x, weights = s.input(2, n), _weights(s, 2, n, mask)
        found = _gradients(module, module, x, mask, weights)
        expected = _gradients(reference, module, x, mask, weights)
        largest = max(float(g.abs().max()) for g in expected.values())
        for name, gradient in found.items():
            what = f"gradient of {name} at N={n}{_masked(mask)}"
            worst = max(worst, _same(gradient, expected[name], what, largest))
    return f"largest relative error {worst:.0e}", worst


def _padding_forward(s: _Subject) -> Passed:
    """What padding holds, even NaN, does not reach the outputs of real tokens."""
    module = s.make()
    for n in s.lengths(7, 65, _LONG):
        x, mask = s.input(4, n), _ragged(4, n)
        expected = _call(module, x, mask)[mask]
        fills = {"1e4 as large": 1e4 * s.input(4, n, seed=2)}
        fills |= {str(value): torch.full_like(x, value) for value in (math.nan, math.inf)}
        for name, fill in fills.items():
            out = _call(module, torch.where(mask[..., None], x, fill), mask)[mask]
            _same(out, expected, f"real tokens change at N={n} when padding is {name}")
    return "", None


def _padding_backward(s: _Subject) -> Passed:
    """Real outputs give padded inputs exactly no gradient, and parameters one without padding in it."""
    module = s.make()
    for n in s.lengths(7, 65, _LONG):
        x, mask = s.input(4, n), _ragged(4, n)
        weights = _weights(s, 4, n, mask)
        found = _gradients(module, module, x, mask, weights)
        leaked = float(found["the input"][~mask].abs().max()) if not bool(mask.all()) else 0.0
        if leaked != 0:
            raise _Wrong(f"padded inputs get a gradient of {leaked:.1e} at N={n}", leaked)
        other = torch.where(mask[..., None], x, 100 * s.input(4, n, seed=2))
        changed = _gradients(module, module, other, mask, weights)
        largest = max(float(g.abs().max()) for g in found.values())
        for name, gradient in changed.items():
            what = f"gradient of {name} depends on padding at N={n}"
            _same(gradient, found[name], what, largest)
    return "", None


def _causal(s: _Subject) -> Passed:
    """With ``causal=True`` no output depends on a later token, and a late one depends on the first."""
    module = s.make(causal=True)
    for n, mask in _cases(s, 2, 9, 65, 130):
        x = s.input(2, n)
        out = _call(module, x, mask)
        for i in sorted({0, n // 2, n - 1}):
            where = f"at N={n}, token {i}{_masked(mask)}"
            later = torch.cat([x[:, : i + 1], s.input(2, n, seed=2)[:, i + 1 :]], dim=1)
            changed = _call(module, later, mask)
            _same(
                _real(changed[:, : i + 1], None if mask is None else mask[:, : i + 1]),
                _real(out[:, : i + 1], None if mask is None else mask[:, : i + 1]),
                f"an output changes with later tokens {where}",
            )
            weights = torch.zeros_like(x)
            weights[:, i] = 1.0 if mask is None else mask[:, i, None].double()
            future = _gradients(module, module, x, mask, weights)["the input"][:, i + 1 :]
            if bool((future != 0).any()):
                raise _Wrong(f"an output has a gradient from later tokens {where}", float(future.abs().max()))
    n = s.lengths(9)[0]
    last = torch.zeros(2, n, s.d_model, dtype=torch.float64)
    last[:, -1] = s.input(2, n)[:, -1]

    def mixes(which: nn.Module) -> bool:
        return bool((_gradients(which, which, s.input(2, n), None, last)["the input"][:, :-1] != 0).any())

    if mixes(module):
        return "", None
    if mixes(s.make(causal=False)):
        raise _Wrong("with causal=True no output depends on the tokens before it")
    return "no token depends on another, causal or not", None


def _batch(s: _Subject) -> Passed:
    """An element of a batch has the output and gradients that it has alone, in training too."""
    for training in (False, True):
        module = s.make().train(training)
        mode = "train" if training else "eval"
        for n, mask in _cases(s, 1, 33, 130, batch=3):
            x = s.input(3, n)
            where = f"in {mode} mode at N={n}{_masked(mask)}"
            other = torch.cat([x[:1], s.input(3, n, seed=2)[1:]])
            first = None if mask is None else mask[:1]
            together = _call(module, x, mask)[:1]
            changed = _call(module, other, mask)[:1]
            what = f"an element changes with the others {where}"
            _same(_real(changed, first), _real(together, first), what)
            if not training:  # alone, dropout would be drawn for another shape
                alone = _call(module, x[:1], first)
                what = f"an element differs from itself alone {where}"
                _same(_real(alone, first), _real(together, first), what)
            weights = _weights(s, 3, n, mask)
            weights[1:] = 0
            gradient = _gradients(module, module, x, mask, weights)["the input"]
            if bool((gradient[1:] != 0).any()):
                raise _Wrong(f"an element gets a gradient from another's output {where}")
    return "", None


def _permutation(s: _Subject) -> Passed:
    """Whether permuting the tokens permutes the output alike, held against ``equivariant``."""
    if s.causal:
        raise Unsupported("a causal form depends on the order of the tokens")
    module = s.make()
    worst, at = 0.0, 0
    for n, mask in _cases(s, 3, 33, 130, _LONG):
        x = s.input(2, n)
        places = torch.randperm(n, generator=torch.Generator().manual_seed(n))
        permuted = None if mask is None else mask[:, places]
        out = _real(_call(module, x[:, places], permuted), permuted)
        error = _difference(out, _real(_call(module, x, mask)[:, places], permuted))
        worst, at = (error, n) if not error <= worst else (worst, at)
    declared = getattr(module, "equivariant", None)
    measured = worst <= _EXACT[torch.float64]
    said = "measured equivariant" if measured else f"measured not equivariant: {worst:.1e} at N={at}"
    if declared is None:
        return f"{said}; not declared", worst
    if declared and not measured:
        raise _Wrong(f"{said}; declared equivariant", worst)
    if measured and not declared:
        raise Unsupported(
            f"declared not equivariant, but up to N={s.lengths(_LONG)[-1]} permuting makes no difference"
        )
    return said, worst


def _deterministic(s: _Subject) -> Passed:
    """The same seed makes the same module, and the same input the same output, bit by bit."""
    module, again = s.make(), s.make()
    x, mask = s.input(2, s.lengths(65)[0]), _ragged(2, s.lengths(65)[0])
    for (name, tensor), (_, other) in zip(_state(module), _state(again), strict=True):
        if not _identical(tensor, other):
            raise _Wrong(f"the same seed makes another {name}")
    if not _identical(_real(_call(again, x, mask), mask), _real(_call(module, x, mask), mask)):
        raise _Wrong("two modules of the same seed differ in their output")
    with torch.no_grad():
        outs = [module(x, mask)[mask] for _ in range(3)]
    if not all(_identical(out, outs[0]) for out in outs):
        raise _Wrong("two calls in eval mode differ")
    module.train()
    if not _identical(_real(_call(module, x, mask), mask), _real(_call(module, x, mask), mask)):
        raise _Wrong("two calls in train mode differ, with torch's generator at the same seed")
    with torch.no_grad():
        draws = not _identical(module(x, mask)[mask], module(x, mask)[mask])
    return "in train mode it draws from torch's generator" if draws else "", None


def _finite_in(dtype: torch.dtype) -> Callable[[_Subject], Passed]:
    def check(s: _Subject) -> Passed:
        """Outputs and gradients are finite in half precision, also with outliers ten times as large."""
        module = s.make(dtype=dtype)
        for n in s.lengths(65, _LONG):
            x, mask = s.input(2, n), _ragged(2, n)
            x[:, ::50, ::7] *= 10
            where = f"in {_type(dtype)} at N={n}"
            out = _call(module, x.to(dtype), mask)
            if not bool(out[mask].isfinite().all()):
                raise _Wrong(f"an output is not finite {where}")
            weights = _weights(s, 2, n, mask).to(dtype)
            for name, gradient in _gradients(module, module, x.to(dtype), mask, weights).items():
                if not bool(gradient.isfinite().all()):
                    raise _Wrong(f"the gradient of {name} is not finite {where}")
        return "", None

    return check


def _large_inputs(s: _Subject) -> Passed:
    """Large inputs give finite outputs and gradients in float32, and the outputs of ``reference`` in float64.

    A number is not checked in float32 if the reference, in float64, is beyond the range of float32 too.
    """
    single, exact = s.make(dtype=torch.float32), s.make()
    reference = _reference(exact) if has_reference(exact) else None
    beyond, worst = "", None
    for n, mask in _cases(s, 65, 200):
        for scale in (10, 100):
            x, weights = scale * s.input(2, n), _weights(s, 2, n, mask)
            where = f"at N={n}{_masked(mask)}, for normal inputs times {scale}"
            for name, found in _results(single, single, x.float(), mask, weights.float()).items():
                if bool(found.isfinite().all()):
                    continue
                expected = {} if reference is None else _results(reference, exact, x, mask, weights)
                if reference is None or bool((expected[name].abs() <= _LARGEST).all()):
                    raise _Wrong(f"{name} is not finite {where}")
                beyond = "numbers beyond the range of float32 were not checked"
            wanted = None if reference is None else _real(_call(reference, x, mask), mask)
            if wanted is not None and bool(wanted.isfinite().all()):
                out = _real(_call(exact, x, mask), mask)
                worst = max(worst or 0.0, _same(out, wanted, f"{_OUTPUT} differs {where}"))
    largest = "" if worst is None else f"largest relative error {worst:.0e}"
    return "; ".join(filter(None, (largest, beyond))), worst


def _padded_rows(s: _Subject) -> Passed:
    """A row without a real token stays finite, forward and backward, and disturbs no other row."""
    for dtype in _EXACT:
        module = s.make(dtype=dtype)
        for n in s.lengths(1, 7, 65, 400):
            x = s.input(3, n, dtype)
            mask = _ragged(3, n)
            mask[1] = False
            where = f"at N={n} in {_type(dtype)}"
            out = _call(module, x, mask)
            if not bool(out[1].isfinite().all()):
                raise _Wrong(f"a row without a real token is not finite {where}")
            for name, gradient in _gradients(module, module, x, mask, torch.ones_like(x)).items():
                if not bool(gradient.isfinite().all()):
                    raise _Wrong(f"with a row of padding, the gradient of {name} is not finite {where}")
            rest = torch.tensor([0, 2])
            alone = _call(module, x[rest], mask[rest])[mask[rest]]
            _same(out[rest][mask[rest]], alone, f"other rows change with a row of padding {where}")
    return "", None


def _finite_differences(s: _Subject) -> Passed:
    """The gradient of the input and of each parameter predicts what a small step along a random line does."""
    worst = 0.0
    for n in s.lengths(5, 65, _LONG):
        module = s.make()
        mask, x = _ragged(2, n), s.input(2, n)
        weights = _weights(s, 2, n, mask)
        gradients = _gradients(module, module, x, mask, weights)
        tensors = {"the input": x, **_parameters(module)}

        def loss(
            module: nn.Module = module, x: Tensor = x, mask: Tensor = mask, weights: Tensor = weights
        ) -> float:
            return float((_call(module, x, mask) * weights)[mask].sum())

        generator = torch.Generator().manual_seed(n)
        lines = {
            name: torch.randn(t.shape, generator=generator, dtype=t.dtype) for name, t in tensors.items()
        }
        predicted = {name: float((gradients[name] * lines[name]).sum()) for name in tensors}
        largest = max(map(abs, predicted.values()))
        for name, tensor in tensors.items():
            errors = []
            for step in _STEPS:
                seen = _derivative(loss, tensor, lines[name], step)
                scale = max(abs(seen), abs(predicted[name]), 1e-3 * largest, 1e-12)
                errors.append(abs(seen - predicted[name]) / scale)
                if errors[-1] <= _DIFFERENCES:
                    break
            if not min(errors) <= _DIFFERENCES:
                raise _Wrong(
                    f"the gradient of {name} is off by {min(errors):.1e} from finite differences at N={n}",
                    min(errors),
                )
            worst = max(worst, min(errors))
    return f"largest relative error {worst:.0e}", worst


def _options(s: _Subject) -> Passed:
    """Another legal value of each option changes the parameters, the output, a gradient or a cost."""
    parameters = _schema(s.kind)
    if parameters is None:
        raise Unsupported("its options cannot be told from its source")
    if not parameters:
        raise Unsupported("it has no options")
    # As given and, since one option may switch another off, beside the defaults of all others.
    required = {p.name: s.options[p.name] for p in parameters if p.required}
    bases = [s.options] if required == s.options else [s.options, required]
    before = [(_behaviour(s, base), _costs(s, base)) for base in bases]

    def acts(name: str, value: Option) -> bool:
        for base, (behaviour, costs) in zip(bases, before, strict=True):
            options = {**base, name: value}
            if _behaviour(s, options) != behaviour or _costs(s, options) != costs:
                return True
        return any(differs(name, value, other) for other in parameters if other.name != name)

    def differs(name: str, value: Option, other: registry.Parameter) -> bool:
        """Beside a choice of another option, which may decide what a choice of this one stands for."""
        for choice in other.choices:
            options = {**required, other.name: choice}
            if name in s.options:
                options[name] = s.options[name]
            try:
                if _behaviour(s, options) != _behaviour(s, {**options, name: value}):
                    return True
            except (ValueError, Unsupported):
                continue
        return False

    tried: list[str] = []
    untried: list[str] = []
    for parameter in parameters:
        name, current = parameter.name, s.options.get(parameter.name, parameter.default)
        if name == "implementation":
            _same_function(s, [current, *_other_values(parameter, current)])
            tried.append(name)
            continue
        effects: dict[Option, bool] = {}
        for value in _other_values(parameter, current):
            try:
                effects[value] = acts(name, value)
            except (ValueError, Unsupported):
                continue  # a value that it refuses is none that it has to react to
            if effects[value] and not parameter.choices:
                break
        (tried if effects else untried).append(name)
        idle = [value for value, effect in effects.items() if not effect]
        if idle and (parameter.choices or len(idle) == len(effects)):
            raise _Wrong(f"{name} has no effect: {', '.join(map(str, [current, *idle]))} do the same")
    if not tried:
        raise Unsupported(f"no other value to try for {', '.join(untried)}")
    not_tried = f"; no other value to try for {', '.join(untried)}" if untried else ""
    return f"{', '.join(tried)}{not_tried}", None


def _same_function(s: _Subject, implementations: Sequence[Option]) -> None:
    """Every implementation has the first one's outputs; what one cannot do here it may refuse."""
    for n, mask in _cases(s, 2, 65, _LONG):
        x = s.input(2, n)
        expected: Tensor | None = None
        for name in implementations:
            try:
                out = _real(_call(s.make(options={**s.options, "implementation": name}), x, mask), mask)
            except Unsupported:
                continue
            expected = out if expected is None else expected
            _same(out, expected, f"implementation={name} computes another function at N={n}{_masked(mask)}")


def _forward_flops(s: _Subject) -> Passed:
    """``forward_flops`` is what a forward pass executes."""
    return _declared_flops(s, "forward_flops", _forward)


def _train_flops(s: _Subject) -> Passed:
    """``train_flops`` is what a forward and a backward pass execute."""
    return _declared_flops(s, "train_flops", _train)


def _useful_flops(s: _Subject) -> Passed:
    """``useful_flops`` is at most ``forward_flops``."""
    share = 1.0
    module = s.make()
    for n in s.lengths(17, 200, _LONG):
        useful, executed = _declared(module, "useful_flops", 2, n), _declared(module, "forward_flops", 2, n)
        if not 0 <= useful <= executed:
            raise _Wrong(f"{useful} useful of {executed} executed FLOPs at N={n}")
        share = useful / executed if executed else 1.0
    return f"{share:.0%} of what is executed at N={n}", share


def _order_of_flops(s: _Subject) -> Passed:
    """Counted FLOPs of a forward pass, element-wise work included, grow no faster than ``order``."""

    def flops(n: int) -> int:
        work = count_work(_forward(s.make(max_len=n, dtype=torch.float32), s.input(1, n, torch.float32)))
        return work.flops + work.other

    return _grows(s, "order", lambda lengths: [flops(n) for n in lengths], _COUNTED)


def _order_of_memory(s: _Subject) -> Passed:
    """Peak bytes, of a forward pass and of a training step, grow no faster than ``memory_order``."""

    def peaks(mode: Callable[[nn.Module, Tensor], Callable[[], None]], lengths: Sequence[int]) -> list[int]:
        found = []
        for n in lengths:
            call = mode(s.make(max_len=n, dtype=torch.float32), s.input(1, n, torch.float32))
            call()  # what a first call makes and keeps is not the call's own
            found.append(peak_bytes(call)[0])
        return found

    results = [_grows(s, "memory_order", partial(peaks, mode), _PEAK) for mode in (_forward, _train)]
    return max(results, key=lambda result: result[1] or 0.0)


def _own_ns() -> int:
    """A clock that stands while this thread waits for a core, so that others' work is no growth."""
    return time.perf_counter_ns() - waited_ns()


def _order_of_time(s: _Subject) -> Passed:
    """Time grows not clearly faster than ``order``: the fastest of samples that take turns at each length."""
    best: dict[int, float] = {}

    def fastest(lengths: Sequence[int]) -> list[float]:
        for _ in range(_TIME_ROUNDS):
            for n in lengths:
                call = _forward(s.make(max_len=n, dtype=torch.float32), s.input(1, n, torch.float32))
                samples, _how = sample_seconds(call, seconds=_TIME_S, clock_ns=_own_ns)
                best[n] = min(best.get(n, math.inf), *samples)
        return [best[n] for n in lengths]

    for attempt in range(3):
        try:
            return _grows(s, "order", fastest, _TIMED)
        except _Wrong:
            if attempt == 2:
                raise
    raise AssertionError("unreachable")


def _saved_bytes(s: _Subject) -> Passed:
    """``saved_bytes`` is what a forward pass keeps for its backward pass, each storage once."""
    found: Passed | None = None
    for batch, n in zip((1, 2, 2), s.lengths(17, 200, _LONG), strict=False):
        module, x = s.make(dtype=torch.float32), s.input(batch, n, torch.float32)
        declared = module.saved_bytes(batch, n) if hasattr(module, "saved_bytes") else None  # type: ignore[operator]
        if declared is None:  # it may be declared from some length on
            continue
        seen = _kept_for_backward(module, x)
        if declared != seen:
            raise _Wrong(f"declares {declared} bytes at B={batch} N={n}, keeps {seen}", float(seen))
        found = f"{seen} bytes at B={batch} N={n}", float(seen)
    if found is None:
        raise Unsupported("saved_bytes is not declared")
    return found


def _memory_freed(s: _Subject) -> Passed:
    """What a call allocates is free again once its result is dropped: four calls peak where one does."""
    n = s.lengths(130)[0]
    x = s.input(2, n, torch.float32)
    for mode in (_forward, _train):
        call = mode(s.make(dtype=torch.float32), x)

        def calls(count: int, call: Callable[[], None] = call) -> int:
            def repeat() -> None:
                for _ in range(count):
                    call()
                    gc.collect()

            return peak_bytes(repeat)[0]

        calls(1)  # what the first calls make and keep is no leak
        left = min((calls(1 + _CALLS) - calls(1)) / _CALLS for _ in range(2))
        if left > 0:
            raise _Wrong(f"{left:.0f} bytes stay behind after each call ({mode.__name__.strip('_')})", left)
    return "", None


def _no_hidden_state(s: _Subject) -> Passed:
    """A call changes neither parameters nor buffers nor the result of a later call."""
    n = s.lengths(65)[0]
    x, mask = s.input(2, n), _ragged(2, n)
    for training in (False, True):
        module = s.make().train(training)
        mode = "train" if training else "eval"
        before = [(name, tensor.clone()) for name, tensor in _state(module)]
        first = _call(module, x, mask)[mask]
        for length in s.lengths(n, 33):
            _call(module, s.input(3, length, seed=2), None)
            _gradients(module, module, s.input(2, length, seed=3), None, s.input(2, length, seed=4))
        if not _identical(_call(module, x, mask)[mask], first):
            raise _Wrong(f"in {mode} mode a call changes the result of a later one")
        after = dict(_state(module))  # a buffer that the first call makes is in it alone
        for name, old in before:
            if name not in after or not _identical(after[name], old):
                raise _Wrong(f"in {mode} mode a call changes {name}")
    return "", None


def _full_mask(s: _Subject) -> Passed:
    """A mask that is all True is the same as none."""
    module = s.make()
    worst = 0.0
    for n in s.lengths(1, 65, _LONG):
        x = s.input(2, n)
        out = _call(module, x, torch.ones(2, n, dtype=torch.bool))
        worst = max(worst, _same(out, _call(module, x, None), f"differs at N={n}"))
    return "", worst


def _input_untouched(s: _Subject) -> Passed:
    """Neither x nor the mask is written to."""
    module = s.make()
    n = s.lengths(65)[0]
    for given in (None, _ragged(2, n)):
        x, mask = s.input(2, n), None if given is None else given.clone()
        _call(module, x, mask)
        leaf = s.input(2, n).requires_grad_()
        hidden = leaf * 1.0  # as inside a model: autograd would refuse to write to a leaf
        copied = hidden.detach().clone()
        out = module.train()(hidden, mask)
        if out.requires_grad:
            out.sum().backward()
        module.eval()
        if not (_identical(x, s.input(2, n)) and _identical(hidden, copied)):
            raise _Wrong(f"x is modified in place{_masked(mask)}")
        if mask is not None and given is not None and not torch.equal(mask, given):
            raise _Wrong("the mask is modified in place")
    return "", None


_CHECKS: dict[str, Callable[[_Subject], Passed]] = {
    "shape and dtype": _shape_and_dtype,
    "reference, forward": _reference_forward,
    "reference, backward": _reference_backward,
    "padding, forward": _padding_forward,
    "padding, backward": _padding_backward,
    "padded rows": _padded_rows,
    "full mask": _full_mask,
    "causal": _causal,
    "batch": _batch,
    "permutation": _permutation,
    "deterministic": _deterministic,
    "hidden state": _no_hidden_state,
    "input untouched": _input_untouched,
    "finite in float16": _finite_in(torch.float16),
    "finite in bfloat16": _finite_in(torch.bfloat16),
    "large inputs": _large_inputs,
    "finite differences": _finite_differences,
    "options": _options,
    "forward FLOPs": _forward_flops,
    "train FLOPs": _train_flops,
    "useful FLOPs": _useful_flops,
    "order of FLOPs": _order_of_flops,
    "order of memory": _order_of_memory,
    "order of time": _order_of_time,
    "saved bytes": _saved_bytes,
    "memory freed": _memory_freed,
}
LINES: tuple[str, ...] = tuple(_CHECKS)
# What a line compares is meaningless where one of these fails.
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
    "hidden state": _SOUND,
    "finite in float16": ("shape and dtype",),
    "finite in bfloat16": ("shape and dtype",),
    "large inputs": (*_SOUND, "reference, forward"),
    "finite differences": _SOUND,
    "train FLOPs": ("forward FLOPs",),
}


# --- what the checks share --------------------------------------------------------------------------------


def _ragged(batch: int, n: int) -> Tensor:
    """[batch, n]: half of the row, holes, all of it, one token, and again; never a row without a token."""
    position = torch.arange(n)
    rows = [position < (n + 1) // 2, position % 3 != 1, position >= 0, position < 1]
    return torch.stack([rows[i % len(rows)] for i in range(batch)])


def _cases(s: _Subject, *lengths: int, batch: int = 2) -> Iterator[tuple[int, Tensor | None]]:
    """Each length without and with a ragged mask."""
    for n in s.lengths(*lengths):
        yield n, None
        yield n, _ragged(batch, n)


def _call(function: Callable[..., Any], x: Tensor, mask: Tensor | None) -> Tensor:
    """Forward without a graph, with torch's generator at a fixed seed; x is a copy of its own."""
    torch.manual_seed(7)
    with torch.no_grad():
        return function(x, mask)  # type: ignore[no-any-return]


def _real(t: Tensor, mask: Tensor | None) -> Tensor:
    return t if mask is None else t[mask]


def _weights(s: _Subject, batch: int, n: int, mask: Tensor | None) -> Tensor:
    """What the outputs are weighted with before they are summed: 0 at padding."""
    weights = s.input(batch, n, seed=3)
    return weights if mask is None else weights * mask[..., None]


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _gradients(
    function: Callable[..., Any], module: nn.Module, x: Tensor, mask: Tensor | None, weights: Tensor
) -> dict[str, Tensor]:
    """``gradients`` with torch's generator at a fixed seed, as ``_call`` has it."""
    torch.manual_seed(7)
    return gradients(function, module, x, mask, weights)


def _results(
    function: Callable[..., Any], module: nn.Module, x: Tensor, mask: Tensor | None, weights: Tensor
) -> dict[str, Tensor]:
    """The output of real tokens and each gradient, by name."""
    out = _real(_call(function, x, mask), mask)
    grads = _gradients(function, module, x, mask, weights)
    return {_OUTPUT: out, **{f"the gradient of {name}": gradient for name, gradient in grads.items()}}


def _derivative(loss: Callable[[], float], tensor: Tensor, line: Tensor, step: float) -> float:
    """Central difference of the loss along a line through the tensor, which is left as it was."""
    with torch.no_grad():
        kept = tensor.clone()
        tensor.copy_(kept + step * line)
        above = loss()
        tensor.copy_(kept - step * line)
        below = loss()
        tensor.copy_(kept)
    return (above - below) / (2 * step)


def _difference(found: Tensor, expected: Tensor, largest: float | None = None) -> float:
    """Largest difference relative to the largest number expected; infinite if a number is not finite."""
    if not expected.numel():
        return 0.0
    error = float((found - expected).abs().max())
    scale = float(expected.abs().max()) if largest is None else largest
    return error / max(scale, 1e-30) if math.isfinite(error) else math.inf


def _same(found: Tensor, expected: Tensor, what: str, largest: float | None = None) -> float:
    """The relative difference; _Wrong if it is more than rounding."""
    error = _difference(found, expected, largest)
    if not error <= _EXACT[expected.dtype]:
        raise _Wrong(f"{what}: relative difference {error:.1e}, allowed {_EXACT[expected.dtype]:.0e}", error)
    return error


def _identical(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    same = left == right
    return bool((same | (left.isnan() & right.isnan())).all())


def _state(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers, those that are not saved too."""
    return [(name, t.detach()) for name, t in (*module.named_parameters(), *module.named_buffers())]


def _reference(module: nn.Module) -> Callable[..., Any]:
    declared = getattr(type(module), "reference", None)
    if declared is None or declared is Mechanism.reference:
        raise Unsupported("declares no reference")
    return module.reference  # type: ignore[return-value]


def _declared(module: nn.Module, name: str, batch: int, n: int) -> int:
    value = getattr(module, name)(batch, n) if hasattr(module, name) else None
    if value is None:
        raise Unsupported(f"{name} is not declared")
    return int(value)


def _declared_flops(
    s: _Subject, name: str, mode: Callable[[nn.Module, Tensor], Callable[[], None]]
) -> Passed:
    for batch, n in zip((1, 2, 2), s.lengths(17, 200, _LONG), strict=False):
        module = s.make(dtype=torch.float32)
        declared = _declared(module, name, batch, n)
        counted = count_flops(mode(module, s.input(batch, n, torch.float32)))
        if declared != counted:
            raise _Wrong(
                f"declares {declared} at B={batch} N={n}, executes {counted}", counted / max(declared, 1)
            )
    return f"{counted} at B={batch} N={n}", float(counted)


def _forward(module: nn.Module, x: Tensor) -> Callable[[], None]:
    module.eval()

    def call() -> None:
        with torch.no_grad():
            module(x)

    return call


def _train(module: nn.Module, x: Tensor) -> Callable[[], None]:
    """Forward and backward with the gradients of the input and all parameters, which are then dropped."""
    module.train()
    leaf = x.clone().requires_grad_()
    tensors = [leaf, *_parameters(module).values()]
    gradient = torch.randn_like(x)

    def call() -> None:
        module(leaf).backward(gradient)  # autograd.grad does not run under torch's counter of FLOPs
        for tensor in tensors:
            tensor.grad = None

    return call


def _grows(
    s: _Subject, name: str, costs: Callable[[Sequence[int]], Sequence[float]], tolerance: float
) -> Passed:
    """Fit the exponent of a cost on the upper lengths; _Wrong if it exceeds the declared one."""
    written = getattr(s.make(), name, None)
    if written is None:
        raise Unsupported(f"{name} is not declared")
    lengths = s.upper_lengths()
    growth = Growth.parse(written)
    declared = growth.exponent(lengths)
    values = costs(lengths)
    if min(values) <= 0:
        raise Unsupported(f"nothing to fit at N={lengths[0]}: it costs {min(values)}")
    seen = slope(lengths, values)
    fitted = f"grows as N^{seen:.2f} from {lengths[0]} to {lengths[-1]}, declared {growth}"
    if seen > declared + tolerance:
        raise _Wrong(f"{fitted} (N^{declared:.2f}, tolerance {tolerance:g})", seen)
    slower = seen < declared - tolerance
    return fitted + ("; lower-order terms dominate" if slower else ""), seen


def _kept_for_backward(module: nn.Module, x: Tensor) -> int:
    """Bytes that one forward pass in train mode keeps, besides the input, the parameters and the buffers."""
    x = x.clone().requires_grad_()
    module.train()
    return saved_bytes(lambda: module(x), [x, *module.parameters(), *module.buffers()])


def _schema(kind: type) -> tuple[registry.Parameter, ...] | None:
    """The options as its source has them; None where that does not tell."""
    try:
        path = inspect.getsourcefile(kind)
        parameters = registry.find(f"{path}:{kind.__qualname__}", "mechanism").parameters
    except (TypeError, UsageError):
        return None
    return None if parameters is None else tuple(p for p in parameters if p.name != "causal")


def _other_values(parameter: registry.Parameter, current: Option) -> list[Option]:
    """Values to try instead of the current one, the likeliest to be legal first."""
    if parameter.choices:
        return [choice for choice in parameter.choices if choice != current]
    if isinstance(current, bool):
        return [not current]
    kinds = {part.strip() for part in parameter.kind.split("|")}
    values: list[Option] = []
    if isinstance(current, int):
        values = [current + 1, current - 1, current + 2, current - 2, 2 * current, current // 2]
    elif isinstance(current, float):
        values = [2 * current, current / 2, 0.5, 1.0, 0.25]
    elif "int" in kinds:
        values = [1, 2, 16]
    elif "float" in kinds:
        values = [0.5, 1.0, 2.0]
    elif "bool" in kinds:
        values = [True, False]
    if "None" in kinds:
        values.append(None)
    return [value for value in dict.fromkeys(values) if value != current]


def _behaviour(s: _Subject, options: Mapping[str, Option]) -> list[tuple[str, bytes]]:
    """Parameters, buffers, outputs and gradients, bit by bit, in both modes, with and without a mask.

    And ``shares_layers``, which is how an option may act on an encoder only.
    """
    n = min(_LONG, s.seq_len)
    module = s.make(options=options)
    found = [*_state(module), ("shares_layers", torch.tensor(bool(getattr(module, "shares_layers", False))))]
    for training in (False, True):
        module.train(training)
        for mask in (None, _ragged(2, n)):
            x = s.input(2, n)
            found.append(("output", _real(_call(module, x, mask), mask)))
        gradients = _gradients(module, module, x, None, s.input(2, n, seed=3))
        found += gradients.items()
    return [(f"{name}{list(t.shape)}", t.detach().contiguous().numpy().tobytes()) for name, t in found]


def _costs(s: _Subject, options: Mapping[str, Option]) -> tuple[int, int, int]:
    """FLOPs and peak bytes of a training step, and bytes kept for the backward pass."""
    n = min(_LONG, s.seq_len)
    module, x = s.make(options=options, dtype=torch.float32), s.input(2, n, torch.float32)
    call = _train(module, x)
    call()
    return count_flops(call), peak_bytes(call)[0], _kept_for_backward(module, x)


def _masked(mask: Tensor | None) -> str:
    return "" if mask is None else " with a padding mask"


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

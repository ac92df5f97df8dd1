"""Laws of the function: shapes, the reference, padding, causality, batches and permutations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from effbench.measured.audit.agreement import (
    LawBroken,
    Passed,
    dtype_name,
    relative_difference,
    require_equal,
    with_mask,
)
from effbench.measured.audit.subject import (
    LONG,
    Subject,
    exact_form,
    gradients_of,
    output_of,
    real_tokens,
    reference_of,
)
from effbench.measured.mechanism import Unsupported
from effbench.measured.probes.correctness import TOLERANCE

_WIDE = (torch.float64, torch.float32)


def shape_and_dtype(s: Subject) -> Passed:
    """The output has the input's shape and dtype and is finite, for any length, dtype, mask and layout."""
    for dtype in _WIDE:
        module = s.make(dtype=dtype)
        for batch in (1, 3):
            for n in s.lengths(1, 2, 3, 64, 65, LONG):
                strided = s.input(batch, 2 * n, dtype).transpose(0, 1)[::2].transpose(0, 1)
                x = strided.contiguous()
                where = f"for {dtype_name(dtype)}[{batch}, {n}, {s.d_model}]"
                for mask in (None, s.ragged_mask(batch, n)):
                    out = output_of(module, x, mask)
                    if not isinstance(out, Tensor):
                        raise LawBroken(f"returned {type(out).__name__} {where}")
                    if out.shape != x.shape or out.dtype != x.dtype:
                        raise LawBroken(f"returned {dtype_name(out.dtype)}{list(out.shape)} {where}")
                    if not bool(real_tokens(out, mask).isfinite().all()):
                        raise LawBroken(f"returned a number that is not finite {where}")
                what = f"a strided input gives another output {where}"
                require_equal(output_of(module, strided, None), output_of(module, x, None), what)
    return "", None


def reference_forward(s: Subject) -> Passed:
    """The output is that of ``reference``, computed in float64 with the same, maybe rounded, parameters."""
    module = s.make()
    reference = reference_of(exact_form(module, s.dtype))
    worst = 0.0
    for n, mask in s.lengths_and_masks(1, 2, 65, 130, LONG):
        x = s.input(2, n)
        with torch.no_grad():
            out, expected = module(x, mask), reference(x.double(), mask)
        where = f"at N={n}{with_mask(mask)}"
        worst = max(worst, require_equal(real_tokens(out, mask), real_tokens(expected, mask), where))
    return f"largest relative error {worst:.0e}", worst


def reference_backward(s: Subject) -> Passed:
    """The gradients of the input and of every parameter are those of ``reference`` in float64."""
    module = s.make()
    exact = exact_form(module, s.dtype)
    reference = reference_of(exact)
    worst = 0.0
    for n, mask in s.lengths_and_masks(1, 2, 65, 130, LONG):
        x, weights = s.input(2, n), s.loss_weights(2, n, mask)
        actual = gradients_of(module, module, x, mask, weights)
        expected = gradients_of(reference, exact, x.double(), mask, weights.double())
        largest = max(float(g.abs().max()) for g in expected.values())
        for name, gradient in actual.items():
            what = f"gradient of {name} at N={n}{with_mask(mask)}"
            worst = max(worst, require_equal(gradient, expected[name], what, largest))
    return f"largest relative error {worst:.0e}", worst


def padding_forward(s: Subject) -> Passed:
    """The outputs of real tokens do not depend on the content of padding, even if it is NaN."""
    module = s.make()
    for n in s.lengths(7, 65, LONG):
        x, mask = s.input(4, n), s.ragged_mask(4, n)
        expected = output_of(module, x, mask)[mask]
        fills = {"1e4 times as large": 1e4 * s.input(4, n, seed=2)}
        fills |= {str(value): torch.full_like(x, value) for value in (math.nan, math.inf)}
        for name, fill in fills.items():
            out = output_of(module, torch.where(mask[..., None], x, fill), mask)[mask]
            require_equal(out, expected, f"real tokens change at N={n} when padding is {name}")
    return "", None


def padding_backward(s: Subject) -> Passed:
    """Padded inputs get a gradient of exactly 0, and parameters one that does not depend on padding."""
    module = s.make()
    for n in s.lengths(7, 65, LONG):
        x, mask = s.input(4, n), s.ragged_mask(4, n)
        weights = s.loss_weights(4, n, mask)
        expected = gradients_of(module, module, x, mask, weights)
        leaked = float(expected["the input"][~mask].abs().max()) if not bool(mask.all()) else 0.0
        if leaked != 0:
            raise LawBroken(f"padded inputs get a gradient of {leaked:.1e} at N={n}", leaked)
        other = torch.where(mask[..., None], x, 100 * s.input(4, n, seed=2))
        changed = gradients_of(module, module, other, mask, weights)
        largest = max(float(g.abs().max()) for g in expected.values())
        for name, gradient in changed.items():
            what = f"gradient of {name} depends on padding at N={n}"
            require_equal(gradient, expected[name], what, largest)
    return "", None


def padded_rows(s: Subject) -> Passed:
    """A row without a real token has finite outputs and gradients, and changes no other row."""
    for dtype in _WIDE:
        module = s.make(dtype=dtype)
        for n in s.lengths(1, 7, 65, 400):
            x = s.input(3, n, dtype)
            mask = s.ragged_mask(3, n)
            mask[1] = False
            where = f"at N={n} in {dtype_name(dtype)}"
            out = output_of(module, x, mask)
            if not bool(out[1].isfinite().all()):
                raise LawBroken(f"a row without a real token is not finite {where}")
            for name, gradient in gradients_of(module, module, x, mask, torch.ones_like(x)).items():
                if not bool(gradient.isfinite().all()):
                    raise LawBroken(f"with a row of padding, the gradient of {name} is not finite {where}")
            rest = torch.tensor([0, 2], device=x.device)
            alone = output_of(module, x[rest], mask[rest])[mask[rest]]
            what = f"other rows change with a row of padding {where}"
            require_equal(out[rest][mask[rest]], alone, what)
    return "", None


def full_mask(s: Subject) -> Passed:
    """A mask that is True everywhere gives the same output as no mask."""
    module = s.make()
    worst = 0.0
    for n in s.lengths(1, 65, LONG):
        x = s.input(2, n)
        out = output_of(module, x, torch.ones(2, n, dtype=torch.bool, device=x.device))
        worst = max(worst, require_equal(out, output_of(module, x, None), f"differs at N={n}"))
    return "", worst


def causal(s: Subject) -> Passed:
    """With ``causal=True`` no output depends on a later token, and the last depends on an earlier one."""
    module = s.make(causal=True)
    for n, mask in s.lengths_and_masks(2, 9, 65, 130):
        x = s.input(2, n)
        out = output_of(module, x, mask)
        for i in sorted({0, n // 2, n - 1}):
            where = f"at N={n}, token {i}{with_mask(mask)}"
            past = slice(0, i + 1)
            past_mask = None if mask is None else mask[:, past]
            changed = torch.cat([x[:, past], s.input(2, n, seed=2)[:, i + 1 :]], dim=1)
            require_equal(
                real_tokens(output_of(module, changed, mask)[:, past], past_mask),
                real_tokens(out[:, past], past_mask),
                f"an output changes with later tokens {where}",
            )
            weights = torch.zeros_like(x)
            weights[:, i] = 1.0 if mask is None else mask[:, i, None].to(x.dtype)
            future = gradients_of(module, module, x, mask, weights)["the input"][:, i + 1 :]
            if bool((future != 0).any()):
                largest = float(future.abs().max())
                raise LawBroken(f"an output has a gradient from later tokens {where}", largest)
    if _mixes_tokens(s, module):
        return "", None
    if _mixes_tokens(s, s.make(causal=False)):
        raise LawBroken("with causal=True no output depends on the tokens before it")
    return "no token depends on another, causal or not", None


def _mixes_tokens(s: Subject, module: nn.Module) -> bool:
    """True if the last token's output has a gradient from a token before it."""
    n = s.lengths(9)[0]
    last = torch.zeros_like(s.input(2, n))
    last[:, -1] = s.input(2, n)[:, -1]
    gradient = gradients_of(module, module, s.input(2, n), None, last)["the input"]
    return bool((gradient[:, :-1] != 0).any())


def batch(s: Subject) -> Passed:
    """An element of a batch has the output and gradients that it has alone, in training mode too."""
    for training in (False, True):
        module = s.make().train(training)
        mode = "train" if training else "eval"
        for n, mask in s.lengths_and_masks(1, 33, 130, batch=3):
            x = s.input(3, n)
            where = f"in {mode} mode at N={n}{with_mask(mask)}"
            other = torch.cat([x[:1], s.input(3, n, seed=2)[1:]])
            first = None if mask is None else mask[:1]
            together = real_tokens(output_of(module, x, mask)[:1], first)
            changed = real_tokens(output_of(module, other, mask)[:1], first)
            require_equal(changed, together, f"an element changes with the others {where}")
            if not training:  # alone, dropout would be drawn for another shape
                alone = real_tokens(output_of(module, x[:1], first), first)
                require_equal(alone, together, f"an element differs from itself alone {where}")
            weights = s.loss_weights(3, n, mask)
            weights[1:] = 0
            gradient = gradients_of(module, module, x, mask, weights)["the input"]
            if bool((gradient[1:] != 0).any()):
                raise LawBroken(f"an element gets a gradient from another's output {where}")
    return "", None


def permutation(s: Subject) -> Passed:
    """If ``equivariant`` is declared, permuting the tokens permutes the outputs alike."""
    if s.causal:
        raise Unsupported("a causal form depends on the order of the tokens")
    module = s.make()
    worst, worst_length = 0.0, 0
    for n, mask in s.lengths_and_masks(3, 33, 130, LONG):
        x = s.input(2, n)
        places = torch.randperm(n, generator=torch.Generator().manual_seed(n), device="cpu").to(x.device)
        permuted = None if mask is None else mask[:, places]
        out = real_tokens(output_of(module, x[:, places], permuted), permuted)
        expected = real_tokens(output_of(module, x, mask)[:, places], permuted)
        error = relative_difference(out, expected)
        worst, worst_length = (error, n) if not error <= worst else (worst, worst_length)
    declared = getattr(module, "equivariant", None)
    measured = worst <= TOLERANCE[s.dtype]
    result = (
        "measured equivariant" if measured else f"measured not equivariant: {worst:.1e} at N={worst_length}"
    )
    if declared is None:
        return f"{result}; not declared", worst
    if declared and not measured:
        raise LawBroken(f"{result}; declared equivariant", worst)
    if measured and not declared:
        raise Unsupported(
            f"declared not equivariant, but up to N={s.lengths(LONG)[-1]} permuting makes no difference"
        )
    return result, worst

"""Laws of the numbers: finite in half precision and for large inputs, right derivatives, repeatable."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from effbench.measured.audit.agreement import (
    LawBroken,
    Passed,
    dtype_name,
    identical,
    require_equal,
    with_mask,
)
from effbench.measured.audit.subject import (
    LONG,
    OUTPUT,
    Subject,
    gradients_of,
    named_state,
    output_of,
    real_tokens,
    reference_of,
    results_of,
    trainable,
)
from effbench.measured.probes.correctness import has_reference

_DIFFERENCES = 1e-5  # relative error allowed between a gradient and its finite difference
_STEPS = (1e-5, 1e-7)
_LARGEST = torch.finfo(torch.float32).max


def deterministic(s: Subject) -> Passed:
    """The same seed makes the same module, and the same input gives the same output, bit by bit."""
    module, again = s.make(), s.make()
    n = s.lengths(65)[0]
    x, mask = s.input(2, n), s.ragged_mask(2, n)

    def out_of(which: nn.Module) -> Tensor:
        return real_tokens(output_of(which, x, mask), mask)

    for (name, tensor), (_, other) in zip(named_state(module), named_state(again), strict=True):
        if not identical(tensor, other):
            raise LawBroken(f"the same seed makes another {name}")
    if not identical(out_of(again), out_of(module)):
        raise LawBroken("two modules of the same seed differ in their output")
    with torch.no_grad():
        outs = [module(x, mask)[mask] for _ in range(3)]
    if not all(identical(out, outs[0]) for out in outs):
        raise LawBroken("two calls in eval mode differ")
    module.train()
    if not identical(out_of(module), out_of(module)):
        raise LawBroken("two calls in train mode differ, with torch's generator at the same seed")
    with torch.no_grad():
        draws = not identical(module(x, mask)[mask], module(x, mask)[mask])
    return "in train mode it draws from torch's generator" if draws else "", None


def finite_in(dtype: torch.dtype) -> Callable[[Subject], Passed]:
    """Return the check of one half-precision dtype."""

    def check(s: Subject) -> Passed:
        """Outputs and gradients are finite, also with outliers ten times as large."""
        module = s.make(dtype=dtype)
        for n in s.lengths(65, LONG):
            x, mask = s.input(2, n), s.ragged_mask(2, n)
            x[:, ::50, ::7] *= 10
            where = f"in {dtype_name(dtype)} at N={n}"
            out = output_of(module, x.to(dtype), mask)
            if not bool(out[mask].isfinite().all()):
                raise LawBroken(f"an output is not finite {where}")
            weights = s.loss_weights(2, n, mask).to(dtype)
            for name, gradient in gradients_of(module, module, x.to(dtype), mask, weights).items():
                if not bool(gradient.isfinite().all()):
                    raise LawBroken(f"the gradient of {name} is not finite {where}")
        return "", None

    return check


def large_inputs(s: Subject) -> Passed:
    """Large inputs give finite outputs and gradients in float32, and the outputs of ``reference`` in float64.

    A number is not checked in float32 if the reference, in float64, is beyond the range of float32 too.
    """
    single, exact = s.make(dtype=torch.float32), s.make()
    reference = reference_of(exact) if has_reference(exact) else None
    skipped, worst = "", None
    for n, mask in s.lengths_and_masks(65, 200):
        for scale in (10, 100):
            x, weights = scale * s.input(2, n), s.loss_weights(2, n, mask)
            where = f"at N={n}{with_mask(mask)}, for normal inputs times {scale}"
            for name, result in results_of(single, single, x.float(), mask, weights.float()).items():
                if bool(result.isfinite().all()):
                    continue
                expected = {} if reference is None else results_of(reference, exact, x, mask, weights)
                if reference is None or bool((expected[name].abs() <= _LARGEST).all()):
                    raise LawBroken(f"{name} is not finite {where}")
                skipped = "numbers beyond the range of float32 were not checked"
            wanted = None if reference is None else real_tokens(output_of(reference, x, mask), mask)
            if wanted is not None and bool(wanted.isfinite().all()):
                out = real_tokens(output_of(exact, x, mask), mask)
                worst = max(worst or 0.0, require_equal(out, wanted, f"{OUTPUT} differs {where}"))
    largest = "" if worst is None else f"largest relative error {worst:.0e}"
    return "; ".join(filter(None, (largest, skipped))), worst


def finite_differences(s: Subject) -> Passed:
    """The gradients of the input and of each parameter predict the effect of a small random step."""
    worst = 0.0
    for n in s.lengths(5, 65, LONG):
        module = s.make()
        mask, x = s.ragged_mask(2, n), s.input(2, n)
        weights = s.loss_weights(2, n, mask)
        gradients = gradients_of(module, module, x, mask, weights)
        tensors = {"the input": x, **trainable(module)}

        def loss(
            module: nn.Module = module, x: Tensor = x, mask: Tensor = mask, weights: Tensor = weights
        ) -> float:
            return float((output_of(module, x, mask) * weights)[mask].sum())

        generator = torch.Generator().manual_seed(n)
        directions = {
            name: torch.randn(t.shape, generator=generator, dtype=t.dtype, device="cpu").to(t.device)
            for name, t in tensors.items()
        }
        predicted = {name: float((gradients[name] * directions[name]).sum()) for name in tensors}
        largest = max(map(abs, predicted.values()))
        for name, tensor in tensors.items():
            errors = []
            for step in _STEPS:
                measured = _derivative(loss, tensor, directions[name], step)
                scale = max(abs(measured), abs(predicted[name]), 1e-3 * largest, 1e-12)
                errors.append(abs(measured - predicted[name]) / scale)
                if errors[-1] <= _DIFFERENCES:
                    break
            least = min(errors)
            if not least <= _DIFFERENCES:
                reason = f"the gradient of {name} is off by {least:.1e} from finite differences at N={n}"
                raise LawBroken(reason, least)
            worst = max(worst, least)
    return f"largest relative error {worst:.0e}", worst


def _derivative(loss: Callable[[], float], tensor: Tensor, direction: Tensor, step: float) -> float:
    """Return the central difference of the loss along a direction; the tensor is restored."""
    with torch.no_grad():
        kept = tensor.clone()
        tensor.copy_(kept + step * direction)
        above = loss()
        tensor.copy_(kept - step * direction)
        below = loss()
        tensor.copy_(kept)
    return (above - below) / (2 * step)

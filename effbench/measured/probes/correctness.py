"""Check a mechanism's results before it is timed: a wrong result gets no time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from effbench.measured.mechanism import Mechanism, Unsupported
from effbench.measured.patterns import generated, in_one

# Relative to the largest compared number; gradients sum over more numbers and are allowed ten times this.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
# Longer than one piece of the window mechanisms here (321 tokens by default), and no multiple of a block.
_LENGTH = 337
_LAW_LENGTH = 130
_CONTEXT, _STEPS = 34, 3  # tokens that are read at once, and that follow step by step
_LOOKS_AHEAD = "causal=true, but an output depends on later tokens"


class Incorrect(Exception):
    """The mechanism's output is wrong; the text says in what way."""


def check(module: nn.Module, x: Tensor, *, train: bool = False, causal: bool = False) -> None:
    """Raise Incorrect if a result of the module is wrong. x is [B, N, D].

    The laws of every mechanism are tested first (``check_laws``). Then, on up to 337 tokens, with and without
    a padding mask, the output must have the input's shape and dtype, be finite and, if the mechanism has a
    dense reference, equal the reference in float64. With ``train``, the gradients of the input and of every
    parameter must equal the reference's too (without a mask).
    """
    check_laws(module, x, causal=causal, train=train)
    length = min(x.shape[1], _LENGTH)
    sample = torch.randn(2, length, x.shape[2], device=x.device, dtype=x.dtype)
    mask = torch.ones(2, length, dtype=torch.bool, device=x.device)
    mask[1, (length + 1) // 2 :] = False
    module.eval()
    exact = copy.deepcopy(module).double() if has_reference(module) else None
    with torch.no_grad():
        for given in (None, mask):
            try:
                out = module(sample, given)
            except Unsupported:
                continue  # it takes no mask, or nothing so short; the timed call will show what it takes
            if not isinstance(out, Tensor) or out.shape != sample.shape or out.dtype != sample.dtype:
                raise Incorrect(f"forward returned {_describe(out)} for an input of {_describe(sample)}")
            real = out if given is None else out[given]
            if not bool(torch.isfinite(real).all()):
                raise Incorrect("forward returned a number that is not finite")
            if exact is not None:
                expected = exact.reference(sample.double(), given)  # type: ignore[operator]
                if given is not None:
                    out, expected = out[given], expected[given]
                where = "without a mask" if given is None else "with a padding mask"
                what = f"forward differs from the mechanism's reference {where}"
                _compare(out, expected, what, TOLERANCE[out.dtype])
    if train and exact is not None:
        sample = sample[:1]
        weights = torch.randn_like(sample)
        try:
            computed = gradients(module, module, sample, None, weights)
        except Unsupported:
            return  # it takes nothing so short
        reference: Callable[..., Any] = exact.reference  # type: ignore[assignment]
        wanted = gradients(reference, exact, sample.double(), None, weights.double())
        largest = max(float(gradient.abs().max()) for gradient in wanted.values())
        for name, gradient in computed.items():
            what = f"the gradient of {name} differs from that of the mechanism's reference"
            # some gradients are zero up to rounding, such as that of a bias of keys under a softmax
            _compare(gradient, wanted[name], what, 10 * TOLERANCE[x.dtype], floor=1e-3 * largest)


def check_laws(module: nn.Module, x: Tensor, *, causal: bool = False, train: bool = False) -> None:
    """Raise Incorrect if the module breaks a law that every mechanism keeps; the cheap part of an audit.

    The laws, on up to 130 tokens of a batch of two: the input and the mask are not changed; no output depends
    on another element of the batch, or on the previous content of its input's memory; no output of a real
    token depends on the content of padding; with ``causal``, no output depends on a later token. With
    ``train``, outputs and gradients in training mode are finite, and the outputs causal. A law is skipped if
    the mechanism raises Unsupported. Outputs are compared within the tolerance of x's dtype. x [B, N, D]
    gives length, width, dtype and device. Without ``train`` the laws are tested in inference mode, in which a
    forward pass is timed.
    """
    run = partial(_output, module, mode=torch.no_grad if train else torch.inference_mode)
    length = min(x.shape[1], _LAW_LENGTH)
    sample, other = (torch.randn(2, length, x.shape[2], device=x.device, dtype=x.dtype) for _ in range(2))
    half = (length + 1) // 2
    mask = torch.ones(2, length, dtype=torch.bool, device=x.device)
    mask[1, half:] = False
    module.eval()
    alone = run(sample, None)
    if alone is None:
        return  # it takes nothing so short; the timed call will show what it takes
    changed = torch.stack([sample[0], other[1]])
    expected = run(changed, None)
    _same(expected, alone, slice(0, 1), "an output depends on another element of the batch")
    place = torch.empty_like(sample)
    run(sample, None, place=place)
    if expected is not None:
        what = "an output is that of what its input held before: results are kept by address"
        _same(run(changed, None, place=place), expected, slice(None), what)
    later = torch.cat([sample[:, :half], other[:, half:]], dim=1) if causal and length > 1 else None
    if later is not None:
        _same(run(later, None), alone, (slice(None), slice(0, half)), _LOOKS_AHEAD)
    if train:
        _check_training(module, sample, later)
    masked = run(sample, mask)
    if masked is None:
        return  # it takes no mask
    padded = torch.where(mask[..., None], sample, 10 * other)
    what = "an output of a real token depends on what padding holds"
    if torch.equal(masked, alone) and length > 1:
        what += "; the mask is ignored (where none can be taken, raise Unsupported if one is given)"
    _same(run(padded, mask), masked, mask, what)


def check_steps(module: nn.Module, x: Tensor) -> None:
    """Raise Incorrect if the module's prefill and steps differ from its forward pass; x is [B, N, D].

    Up to 34 tokens of a batch of two are read at once, one of the two rows with padding, and three follow
    step by step. Outputs are compared within the tolerance of x's dtype.
    """
    context = min(x.shape[1], _CONTEXT)
    sample = torch.randn(2, context + _STEPS, x.shape[2], device=x.device, dtype=x.dtype)
    sample = sample[:, : x.shape[1] + 1]
    mask = torch.ones(sample.shape[:2], dtype=torch.bool, device=x.device)
    mask[1, (context + 1) // 2 : context] = False
    module.eval()
    for given in (None, mask):
        try:
            with torch.no_grad():
                expected = module(sample, given)
            outs = generated(module, sample, None if given is None else given[:, :context], context)
        except Unsupported:
            if given is None:
                raise
            continue  # it takes no mask
        for out in outs[1:]:
            if not isinstance(out, Tensor) or out.shape != sample[:, 0].shape or out.dtype != x.dtype:
                raise Incorrect(f"step returned {_describe(out)} for an input of {_describe(sample[:, 0])}")
        where = slice(None) if given is None else given
        _same(in_one(outs), expected, where, "prefill and steps differ from the causal forward pass")


def check_vectors(module: nn.Module, x: Tensor) -> None:
    """Raise Incorrect unless the module makes one finite vector [B, D] of each sequence; x is [B, N, D]."""
    sample = torch.randn(2, min(x.shape[1], _LENGTH), x.shape[2], device=x.device, dtype=x.dtype)
    module.eval()
    try:
        with torch.no_grad():
            out = module(sample)
    except Unsupported:
        return  # it takes nothing so short; the timed call will show what it takes
    if not isinstance(out, Tensor) or out.shape != sample[:, 0].shape or out.dtype != x.dtype:
        raise Incorrect(f"forward returned {_describe(out)} for an input of {_describe(sample)}")
    if not bool(torch.isfinite(out).all()):
        raise Incorrect("forward returned a number that is not finite")


def _check_training(module: nn.Module, sample: Tensor, later: Tensor | None) -> None:
    """In training mode, raise Incorrect for outputs or gradients that are not finite, or outputs not causal.

    ``later`` is the sample with other tokens in its second half; None if causality is not tested. It is not
    tested either if two equal calls differ, as with random numbers from another generator than torch's.
    """
    module.train()
    run = partial(_output, module, mode=torch.enable_grad)
    first, again = run(sample, None), run(sample, None)
    if first is not None and again is not None:
        if later is not None and torch.equal(first, again):
            past = (slice(None), slice(0, (sample.shape[1] + 1) // 2))
            _same(run(later, None), first, past, f"{_LOOKS_AHEAD}, in training")
        torch.manual_seed(7)
        with torch.enable_grad():
            computed = gradients(module, module, sample, None, torch.ones_like(sample))
        for name, gradient in computed.items():
            if not bool(torch.isfinite(gradient).all()):
                raise Incorrect(f"the gradient of {name} is not finite")
    module.eval()


def _output(
    module: nn.Module,
    sample: Tensor,
    mask: Tensor | None,
    *,
    mode: Callable[[], AbstractContextManager[object]],
    place: Tensor | None = None,
) -> Tensor | None:
    """Return the output for a copy of the sample, in ``place`` if given; None if the module refuses it.

    torch's generator starts at a fixed seed. A module that refuses inference mode runs without gradients.
    """
    x = sample.clone() if place is None else place.copy_(sample)
    given = None if mask is None else mask.clone()
    torch.manual_seed(7)
    try:
        with mode():
            out = module(x, given)
    except Unsupported:
        return None
    except RuntimeError as error:
        if mode is not torch.inference_mode or not refused_inference_mode(error):
            raise
        return _output(module, sample, mask, mode=torch.no_grad, place=place)
    out = out.detach() if isinstance(out, Tensor) else out
    if not isinstance(out, Tensor) or out.shape != sample.shape or out.dtype != sample.dtype:
        raise Incorrect(f"forward returned {_describe(out)} for an input of {_describe(sample)}")
    if not bool(torch.isfinite(out if given is None else out[mask]).all()):
        raise Incorrect("forward returned a number that is not finite")
    if not torch.equal(x, sample):
        raise Incorrect("forward changes its input in place")
    if given is not None and not torch.equal(given, mask):  # type: ignore[arg-type]
        raise Incorrect("forward changes its mask in place")
    return out


def agree(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Raise Incorrect if two results of one computation differ, outputs or gradients by name."""
    largest = max(float(tensor.abs().max()) for tensor in wanted.values())
    for name, tensor in found.items():
        allowed = 10 * TOLERANCE[tensor.dtype]
        _compare(tensor, wanted[name].double(), f"{name} {what}", allowed, floor=1e-3 * largest)


def refused_inference_mode(error: RuntimeError) -> bool:
    """True if torch raised the error because of inference mode, such as for a custom autograd function."""
    return "inference tensor" in str(error).lower()


def _same(out: Tensor | None, expected: Tensor, where: Any, what: str) -> None:
    """Raise Incorrect unless the outputs agree at ``where``; a refused output is not compared."""
    if out is not None and out[where].numel():
        _compare(out[where], expected[where].double(), what, TOLERANCE[out.dtype])


def has_reference(module: nn.Module) -> bool:
    """True if the module defines a dense reference of its own."""
    return isinstance(module, Mechanism) and type(module).reference is not Mechanism.reference


def gradients(
    function: Callable[..., Any], module: nn.Module, x: Tensor, mask: Tensor | None, weights: Tensor
) -> dict[str, Tensor]:
    """Return the gradients of the weighted sum of ``function(x, mask)``.

    They are those of "the input" and of each parameter, by name; 0 for one that is not used.
    """
    x = x.detach().clone().requires_grad_()
    tensors = {"the input": x, **{name: p for name, p in module.named_parameters() if p.requires_grad}}
    out = function(x, mask)
    computed = torch.autograd.grad(out, list(tensors.values()), grad_outputs=weights, allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(tensors.items(), computed, strict=True)
    }


def _compare(out: Tensor, expected: Tensor, what: str, allowed: float, floor: float = 1e-30) -> None:
    error = float((out.double() - expected).abs().max() / expected.abs().max().clamp_min(floor))
    if not error <= allowed:
        kind = str(out.dtype).removeprefix("torch.")
        raise Incorrect(f"{what}: relative error {error:.1e}, allowed {allowed:.0e} in {kind}")


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__

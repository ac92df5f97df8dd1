"""Laws of the attention patterns: generation step by step, its state, and cross attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from effbench.measured.audit.agreement import LawBroken, Passed, relative_difference, require_equal, with_mask
from effbench.measured.audit.cost_laws import grows
from effbench.measured.audit.subject import Subject, output_of, real_tokens
from effbench.measured.mechanism import Unsupported
from effbench.measured.patterns import generated, in_one, require_cross, require_steps
from effbench.measured.state import selected, state_bytes

_CONTEXTS = (0, 1, 33, 100)  # tokens that are read at once
_STEPS = 12
_EXACT = 1e-10  # a step adds one term to sums that are the same otherwise
_SAME_GROWTH = 0.1  # a cache has free places, whose share changes with the length


def steps(s: Subject) -> Passed:
    """Prefill and steps, and steps alone, give the outputs of the causal forward pass."""
    module = _stepwise(s)
    worst = 0.0
    for context in _CONTEXTS:
        n = min(context, s.seq_len - 1)
        before = None
        for padded in (False, True) if n else (False,):
            x = s.input(4, n + _STEPS)
            mask = x.new_ones(4, n + _STEPS, dtype=torch.bool)
            if padded:
                before = s.ragged_mask(4, n)
                mask[:, :n] = before
            found = in_one(generated(module, x, before, n))
            expected = output_of(module, x, mask if padded else None)
            error = relative_difference(found[mask], expected[mask])
            if not error <= _EXACT:
                where = f"after {n} tokens{with_mask(before)}"
                reason = f"steps differ from the causal forward pass {where}: relative difference {error:.1e}"
                raise LawBroken(f"{reason}, allowed {_EXACT:.0e}", error)
            worst = max(worst, error)
    return f"largest relative error {worst:.0e}", worst


def rows_of_the_state(s: Subject) -> Passed:
    """A state whose rows are reordered and repeated is continued as the reordered batch."""
    module = _stepwise(s)
    n = min(33, s.seq_len - 1)
    rows = torch.tensor([2, 0, 0, 1], device=s.device)
    worst = 0.0
    with torch.no_grad():
        _, state = module.prefill(s.input(3, n), s.ragged_mask(3, n))
        chosen = selected(state, rows)
        for i in range(3):
            token = s.input(3, 1, seed=10 + i)[:, 0]
            expected, state = module.step(token, state)
            found, chosen = module.step(token[rows], chosen)
            what = "a state with reordered rows gives other outputs"
            worst = max(worst, require_equal(found, expected[rows], what))
    return f"largest relative error {worst:.0e}", worst


def size_of_the_state(s: Subject) -> Passed:
    """The state grows with the tokens before no faster than declared."""
    module = _stepwise(s, max_len=s.seq_len)

    def sizes(lengths: Sequence[int]) -> list[int]:
        with torch.no_grad():
            return [state_bytes(module.prefill(s.input(1, n - 1))[1]) for n in lengths]

    return grows(s, "state_order", sizes, _SAME_GROWTH)


def cross_attention(s: Subject) -> Passed:
    """Cross attention is the noncausal form if a sequence is its own memory; it ignores padded memory.

    Each output depends on its own query and the memory only, and an empty memory gives finite numbers.
    """
    module = _crosswise(s)
    worst = 0.0
    for n, mask in s.lengths_and_masks(1, 7, 65, 200):
        x = s.input(2, n)
        expected = real_tokens(output_of(module, x, mask), mask)
        memory = x if mask is None else torch.where(mask[..., None], x, torch.nan)
        with torch.no_grad():
            found = real_tokens(module.attend(x, module.remember(memory, mask)), mask)
        what = f"with x as its memory, at N={n}{with_mask(mask)}, it differs from the noncausal form"
        worst = max(worst, require_equal(found, expected, what))
    x, memory = s.input(2, 5, seed=2), s.input(2, s.lengths(40)[0])
    mask = s.ragged_mask(2, memory.shape[1])
    with torch.no_grad():
        together = module.attend(x, module.remember(memory, mask))
        for i in range(5):
            alone = module.attend(x[:, i : i + 1], module.remember(memory, mask))[:, 0]
            require_equal(alone, together[:, i], "an output depends on another query")
    _empty_memory(module, x, memory)
    return f"largest relative error {worst:.0e}", worst


def _empty_memory(module: Any, x: Tensor, memory: Tensor) -> None:
    """Raise LawBroken if outputs or gradients are not finite where a row of memory has no real token."""
    x = x.clone().requires_grad_()
    mask = memory.new_zeros(memory.shape[:2], dtype=torch.bool)
    mask[0, :1] = True
    out = module.attend(x, module.remember(memory, mask))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    for name, result in (("an output", out), ("a gradient", gradient)):
        if not bool(result.isfinite().all()):
            raise LawBroken(f"{name} is not finite where a row of the memory has no real token")


def _stepwise(s: Subject, max_len: int | None = None) -> Any:
    module = s.make(causal=True, max_len=max_len)
    require_steps(module)
    return module


def _crosswise(s: Subject) -> Any:
    if s.causal:
        raise Unsupported("cross attention is noncausal")
    module = s.make()
    require_cross(module)
    return module

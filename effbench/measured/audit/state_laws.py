"""Laws of the state: a call leaves the module, its input and its mask unchanged."""

from __future__ import annotations

import torch

from effbench.measured.audit.agreement import LawBroken, Passed, identical, with_mask
from effbench.measured.audit.subject import Subject, gradients_of, named_state, output_of


def no_hidden_state(s: Subject) -> Passed:
    """A call changes no parameter, no buffer and no result of a later call."""
    n = s.lengths(65)[0]
    x, mask = s.input(2, n), s.ragged_mask(2, n)
    for training in (False, True):
        module = s.make().train(training)
        mode = "train" if training else "eval"
        before = [(name, tensor.clone()) for name, tensor in named_state(module)]
        first = output_of(module, x, mask)[mask]
        for length in s.lengths(n, 33):
            output_of(module, s.input(3, length, seed=2), None)
            gradients_of(module, module, s.input(2, length, seed=3), None, s.input(2, length, seed=4))
        if not identical(output_of(module, x, mask)[mask], first):
            raise LawBroken(f"in {mode} mode a call changes the result of a later one")
        after = dict(named_state(module))  # it may have a buffer more, which the first call made
        for name, old in before:
            if name not in after or not identical(after[name], old):
                raise LawBroken(f"in {mode} mode a call changes {name}")
    return "", None


def input_untouched(s: Subject) -> Passed:
    """Neither x nor the mask is written to."""
    module = s.make()
    n = s.lengths(65)[0]
    for given in (None, s.ragged_mask(2, n)):
        x, mask = s.input(2, n), None if given is None else given.clone()
        output_of(module, x, mask)
        leaf = s.input(2, n).requires_grad_()
        hidden = leaf * 1.0  # as inside a model: autograd would refuse to write to a leaf
        copied = hidden.detach().clone()
        out = module.train()(hidden, mask)
        if out.requires_grad:
            out.sum().backward()
        module.eval()
        if not (identical(x, s.input(2, n)) and identical(hidden, copied)):
            raise LawBroken(f"x is modified in place{with_mask(mask)}")
        if mask is not None and given is not None and not torch.equal(mask, given):
            raise LawBroken("the mask is modified in place")
    return "", None

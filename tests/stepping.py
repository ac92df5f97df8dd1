"""Laws of a causal form that is continued token by token, for the tests of several mechanisms."""

from __future__ import annotations

import torch
from test_mechanisms import WIDTH, build, masks

from effbench.measured.state import copied, selected, state_bytes


def stepped(module, x, mask, first):
    """The outputs [B, N, D] of a prefill of ``first`` tokens and of steps for the rest, and the state."""
    out, state = module.prefill(x[:, :first], None if mask is None else mask[:, :first])
    outs = [out]
    for token in x[:, first:].unbind(1):
        out, state = module.step(token, state)
        outs.append(out[:, None])
    return torch.cat(outs, dim=1), state


def prompt(first, steps, *, masked, batch=5):
    """Tokens [B, N, WIDTH], and their mask or None: ragged for the first tokens, True for the rest."""
    torch.manual_seed(first + steps)
    x = torch.randn(batch, first + steps, WIDTH, dtype=torch.float64)
    real = torch.ones(batch, steps, dtype=torch.bool)
    return x, torch.cat([masks(batch, first), real], dim=1) if masked else None


@torch.no_grad()
def steps_continue_the_causal_form(kind, options, first, steps, *, masked):
    module = build(kind, options)
    x, mask = prompt(first, steps, masked=masked)
    expected = module(x, mask)
    if mask is not None:
        x = x.masked_fill(~mask[..., None], torch.nan)
    out, _ = stepped(module, x, mask, first)
    real = slice(None) if mask is None else mask
    torch.testing.assert_close(out[real], expected[real], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def a_selected_state_continues_the_selected_rows(kind, options, first, steps):
    module = build(kind, options)
    x, mask = prompt(first, 2 * steps, masked=True)
    _, state = stepped(module, x[:, : first + steps], mask[:, : first + steps], first)
    rows = torch.tensor([3, 0, 0, 4, 1, 2])
    chosen = selected(state, rows)
    kept = copied(state)
    for token in x[:, first + steps :].unbind(1):
        out, state = module.step(token, state)
        of_chosen, chosen = module.step(token[rows], chosen)
        torch.testing.assert_close(of_chosen, out[rows], rtol=1e-10, atol=1e-10)
        again, kept = module.step(token, kept)
        assert torch.equal(again, out)


@torch.no_grad()
def a_state_may_be_stepped_from_twice(kind, options, first, steps):
    """A step does not change the state that it starts from: an older state still gives the same output."""
    module = build(kind, options)
    x, mask = prompt(first, steps, masked=True)
    _, state = module.prefill(x[:, :first], mask[:, :first])
    expected, later = module.step(x[:, first], state)
    for token in x[:, first + 1 :].unbind(1):
        _, later = module.step(token, later)
    assert torch.equal(module.step(x[:, first], state)[0], expected)


@torch.no_grad()
def bytes_of_states(kind, options, lengths):
    """The bytes of the state after a prefill of each length and one step."""
    module = build(kind, options, max_len=max(lengths) + 1)
    sizes = []
    for n in lengths:
        _, state = stepped(module, torch.randn(2, n + 1, WIDTH, dtype=torch.float64), None, n)
        sizes.append(state_bytes(state))
    return sizes

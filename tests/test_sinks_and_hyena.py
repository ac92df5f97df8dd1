"""Laws of sinks and hyena: equal to their references at every kind of length, forward and token by token."""

from __future__ import annotations

import pytest
import torch
from stepping import (
    a_selected_state_continues_the_selected_rows,
    a_state_may_be_stepped_from_twice,
    bytes_of_states,
    steps_continue_the_causal_form,
)
from test_mechanisms import WIDTH, Forms, build, ids, masks

from baselines.attention.hyena import ROOM, Hyena, _Convolution
from baselines.attention.longformer import Longformer
from baselines.attention.sinks import Sinks
from baselines.attention.vanilla import Vanilla
from effbench import Unsupported

FORMS: Forms = [
    (Sinks, {"window": 4, "sinks": 2, "causal": True}),
    (Sinks, {"window": 1, "sinks": 3, "causal": True}),
    (Sinks, {"window": 33, "sinks": 0, "causal": True}),
    (Sinks, {"window": 64, "sinks": 40, "causal": True}),
    (Hyena, {"causal": True}),
]
every_form = pytest.mark.parametrize(("kind", "options"), FORMS, ids=ids(FORMS))


@every_form
@pytest.mark.parametrize("n", [1, 2, 3, 5, 17, 64, 65, 130, 257])
@torch.no_grad()
def test_equals_its_reference_with_ragged_masks(kind, options, n):
    module = build(kind, options)
    x, mask = torch.randn(5, n, WIDTH, dtype=torch.float64), masks(5, n)
    torch.testing.assert_close(module(x), module.reference(x), rtol=1e-10, atol=1e-10)
    found, expected = module(x, mask), module.reference(x, mask)
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-10, atol=1e-10)


@every_form
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("first", "steps"), [(0, 150), (1, 100), (33, 100), (0, 1)])
def test_steps_continue_the_causal_form(kind, options, first, steps, masked):
    steps_continue_the_causal_form(kind, options, first, steps, masked=masked)


@every_form
def test_a_selected_state_continues_the_selected_rows(kind, options):
    a_selected_state_continues_the_selected_rows(kind, options, 33, ROOM)


@every_form
def test_a_state_may_be_stepped_from_twice(kind, options):
    a_state_may_be_stepped_from_twice(kind, options, 33, ROOM + 2)


@pytest.mark.parametrize(("kind", "options"), [form for form in FORMS if form[0] is Sinks], ids=str)
def test_the_state_of_sinks_does_not_grow(kind, options):
    assert len(set(bytes_of_states(kind, options, (0, 1, 40, 257)))) == 1


def test_the_state_of_hyena_grows_as_its_tokens():
    short, long = bytes_of_states(Hyena, {"causal": True}, (1024, 4096))
    assert 3.5 < long / short < 4.5


@every_form
def test_an_output_has_no_gradient_from_the_future(kind, options):
    module = build(kind, options)
    for mask in (None, torch.arange(150)[None] % 5 != 1):
        for i in (0, 7, 64, 130, 149):
            x = torch.randn(1, 150, WIDTH, dtype=torch.float64, requires_grad=True)
            (module(x, mask)[0, i] * torch.randn(WIDTH, dtype=torch.float64)).sum().backward()
            assert x.grad is not None
            assert x.grad[0, i].any() == (mask is None or bool(mask[0, i]))
            assert not x.grad[0, i + 1 :].any()


@every_form
@pytest.mark.parametrize("scale", [1, 10, 30])
def test_gradients_in_float32_are_finite(kind, options, scale):
    module = build(kind, options, dtype=torch.float32)
    x = (scale * torch.randn(5, 200, WIDTH)).requires_grad_()
    module(x, masks(5, 200)).square().sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in (x, *module.parameters()))


@pytest.mark.parametrize("kind", [Sinks, Hyena])
def test_what_is_causal_only_says_why(kind):
    with pytest.raises(Unsupported, match="has no noncausal form, ask for causal=true: its "):
        build(kind, {})


@torch.no_grad()
def test_sinks_that_see_everything_are_causal_attention_and_without_sinks_a_window():
    x, mask = torch.randn(5, 130, WIDTH, dtype=torch.float64), masks(5, 130)
    for options, other in (
        ({"window": 130, "sinks": 0}, build(Vanilla, {"causal": True})),
        ({"window": 5, "sinks": 125}, build(Vanilla, {"causal": True})),
        ({"window": 5, "sinks": 0}, build(Longformer, {"window": 4, "global_tokens": 0, "causal": True})),
    ):
        module = build(Sinks, {**options, "causal": True})
        module.load_state_dict(other.state_dict())
        torch.testing.assert_close(module(x, mask)[mask], other(x, mask)[mask], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_hyena_by_hand():
    """Width 1, projections 1, short convolutions that sum two tokens, and the filter as it is."""
    module = Hyena(1, 1, max_len=3, causal=True).double()
    for weight in (module.qkv.weight, module.out.weight, module.skip):
        weight.fill_(1.0)
    module.qkv.bias.zero_()
    module.out.bias.zero_()
    module.short.weight.copy_(torch.tensor([0.0, 1.0, 1.0]).expand(3, 1, 3))
    h = module._filter(3, torch.float64)[0].tolist()
    s = [2.0, 2.0 - 1.0, -1.0 + 4.0]
    z = [value * value for value in s]
    sums = [h[0] * z[0], h[0] * z[1] + h[1] * z[0], h[0] * z[2] + h[1] * z[1] + h[2] * z[0]]
    expected = [s[i] * (sums[i] + z[i]) for i in range(3)]
    out = module(torch.tensor([[[2.0], [-1.0], [4.0]]], dtype=torch.float64))
    torch.testing.assert_close(out[0, :, 0], torch.tensor(expected, dtype=torch.float64))


@torch.no_grad()
def test_padding_before_the_first_token_leaves_hyena_as_it_is():
    module = build(Hyena, {"causal": True})
    x = torch.randn(2, 40, WIDTH, dtype=torch.float64)
    mask = torch.arange(40).expand(2, -1) >= 13
    torch.testing.assert_close(module(x, mask)[:, 13:], module(x[:, 13:]), rtol=1e-10, atol=1e-10)


def test_the_convolution_of_hyena_has_the_gradients_of_its_definition():
    for n in (1, 2, 7):
        z = torch.randn(2, 3, n, dtype=torch.float64, requires_grad=True)
        h = torch.randn(3, n, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(_Convolution.apply, (z, h))

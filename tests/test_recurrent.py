"""Laws of causal mechanisms with a state of fixed size: the scan and its steps are one function."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from baselines.attention import _recurrent, _sums
from baselines.attention._recurrent import in_chunks, pair_decays, whole
from baselines.attention._running import past_pairs
from baselines.attention.deltanet import DeltaNet, _inverse
from baselines.attention.gla import GatedLinearAttention
from baselines.attention.mamba2 import Mamba2
from baselines.attention.retention import Retention
from effbench import Mechanism, Unsupported
from effbench.measured.state import copied, selected, state_bytes, tensors_of

FORMS: list[tuple[type[Mechanism], dict[str, Any]]] = [
    (Retention, {}),
    (GatedLinearAttention, {}),
    (GatedLinearAttention, {"rank": 2, "tau": 1}),
    (DeltaNet, {}),
    (DeltaNet, {"gated": True}),
    (Mamba2, {}),
    (Mamba2, {"state": 3}),
]
LENGTHS = (1, 2, 5, 31, 32, 33, 64, 65, 130, 257)
WIDTH, HEADS, MAX_LEN = 12, 3, 300
every_form = pytest.mark.parametrize(("kind", "options"), FORMS, ids=str)


def build(kind, options, dtype=torch.float64, width=WIDTH):
    torch.manual_seed(0)
    return kind(width, HEADS, max_len=MAX_LEN, causal=True, **options).to(dtype)


def ragged(n):
    """[4, n]: all real, none, half, holes."""
    position = torch.arange(n)
    return torch.stack([position >= 0, position < 0, position < n // 2, position % 3 != 1])


def inputs(n, dtype=torch.float64):
    return torch.randn(4, n, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(n)).to(dtype)


@every_form
@pytest.mark.parametrize("n", LENGTHS)
def test_the_scan_in_chunks_is_the_definition(kind, options, n):
    module, x = build(kind, options), inputs(n)
    with torch.no_grad():
        torch.testing.assert_close(module(x), module.reference(x), rtol=0, atol=1e-10)
        mask = ragged(n)
        torch.testing.assert_close(module(x, mask)[mask], module.reference(x, mask)[mask], rtol=0, atol=1e-10)


@every_form
@pytest.mark.parametrize("start", [0, 1, 33])
@pytest.mark.parametrize("masked", [False, True])
def test_a_start_and_steps_are_the_whole(kind, options, start, masked):
    module, x = build(kind, options), inputs(start + 40)
    mask = torch.cat([ragged(start), torch.ones(4, 40, dtype=torch.bool)], dim=1) if masked else None
    with torch.no_grad():
        expected = module(x, mask)
        out, state = module.prefill(x[:, :start], None if mask is None else mask[:, :start])
        real = torch.ones(4, start, dtype=torch.bool) if mask is None else mask[:, :start]
        torch.testing.assert_close(out[real], expected[:, :start][real], rtol=0, atol=1e-10)
        for i in range(start, start + 40):
            out, state = module.step(x[:, i], state)
            torch.testing.assert_close(out, expected[:, i], rtol=0, atol=1e-10)


@every_form
def test_the_state_after_a_start_is_that_after_its_steps(kind, options, monkeypatch):
    monkeypatch.setattr(_sums, "LEAST_SCALE", math.inf)  # scales are 1
    module, x = build(kind, options), inputs(45)
    with torch.no_grad():
        state = module.prefill(x[:, :0])[1]
        for i in range(45):
            state = module.step(x[:, i], state)[1]
        found, expected = (list(tensors_of(s)) for s in (module.prefill(x)[1], state))
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-10)


@every_form
@pytest.mark.parametrize("n", [64, 97])
def test_segments_make_no_difference(kind, options, n, monkeypatch):
    module, x, mask = build(kind, options), inputs(n), ragged(n)
    with torch.no_grad():
        expected, state = module.prefill(x, mask)
        monkeypatch.setattr(_recurrent, "SEGMENT", 1)
        found, last = module.prefill(x, mask)
    torch.testing.assert_close(found, expected)
    for left, right in zip(tensors_of(last), tensors_of(state), strict=True):
        torch.testing.assert_close(left, right)


@every_form
def test_rows_of_a_state_may_be_reordered(kind, options):
    module, x = build(kind, options), inputs(37)
    rows = torch.tensor([3, 0, 0, 2, 1])
    with torch.no_grad():
        state = module.prefill(x[:, :36], ragged(36))[1]
        chosen = selected(state, rows)
        expected = module.step(x[:, 36], state)[0][rows]
        torch.testing.assert_close(module.step(x[rows, 36], chosen)[0], expected)


@every_form
def test_a_step_overwrites_its_state_unless_gradients_are_recorded(kind, options):
    module, x = build(kind, options), inputs(12)
    with torch.no_grad():
        state = module.prefill(x[:, :10])[1]
    before = copied(state)
    expected = module.step(x[:, 10], state)[0]
    for left, right in zip(tensors_of(state), tensors_of(before), strict=True):
        assert torch.equal(left, right)
    with torch.no_grad():
        out, after = module.step(x[:, 10], state)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    assert [part.data_ptr() for part in tensors_of(state)] == [part.data_ptr() for part in tensors_of(after)]


@every_form
@pytest.mark.parametrize("least", [0.0, 0.5, 2.0])
def test_when_a_scale_is_multiplied_into_its_sums_makes_no_difference(kind, options, least, monkeypatch):
    module, x = build(kind, options), inputs(60)
    monkeypatch.setattr(_sums, "LEAST_SCALE", least)
    with torch.no_grad():
        expected, state = module(x), module.prefill(x[:, :20])[1]
        for i in range(20, 60):
            out, state = module.step(x[:, i], state)
            torch.testing.assert_close(out, expected[:, i], rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", ["contiguous", "strided", "expanded"])
def test_a_pair_is_added_to_sums_however_they_lie(order):
    sums = torch.randn(3, 2, 4, 5)
    sums = {
        "contiguous": sums,
        "strided": sums.transpose(0, 1).contiguous().transpose(0, 1),
        "expanded": sums[:1].expand(3, -1, -1, -1),
    }[order]
    k, v = torch.randn(3, 2, 4), torch.randn(3, 2, 5)
    expected = sums + k[..., None] * v[..., None, :]
    with torch.no_grad():
        torch.testing.assert_close(_sums.with_pair(sums, k, v), expected)


@every_form
def test_a_state_keeps_its_size(kind, options):
    module, x = build(kind, options), inputs(100)
    with torch.no_grad():
        sizes = {state_bytes(module.prefill(x[:, :n])[1]) for n in (0, 1, 32, 100)}
        sizes.add(state_bytes(module.step(x[:, 0], module.prefill(x)[1])[1]))
    assert len(sizes) == 1


@every_form
def test_steps_have_the_gradients_of_the_scan(kind, options):
    module, x = build(kind, options), inputs(7)
    weights = torch.randn_like(x)
    found = torch.autograd.grad((module(x) * weights).sum(), list(module.parameters()))
    state, loss = module.prefill(x[:, :0])[1], x.new_zeros(())
    for i in range(7):
        out, state = module.step(x[:, i], state)
        loss = loss + (out * weights[:, i]).sum()
    for left, right in zip(found, torch.autograd.grad(loss, list(module.parameters())), strict=True):
        torch.testing.assert_close(left, right)


@every_form
@pytest.mark.parametrize("i", [0, 31, 32, 100])
def test_no_gradient_comes_from_the_future(kind, options, i):
    module, x = build(kind, options), inputs(130).requires_grad_()
    (module(x)[:, i] * torch.randn(4, WIDTH, dtype=torch.float64)).sum().backward()
    assert x.grad[:, : i + 1].any()
    assert not x.grad[:, i + 1 :].any()


@every_form
@pytest.mark.parametrize("scale", [1, 10, 30])
def test_float32_is_finite_and_close_for_large_inputs(kind, options, scale):
    exact, x = build(kind, options), scale * inputs(200)
    module, single = copy.deepcopy(exact).float(), x.float().requires_grad_()
    out = module(single)
    out.sum().backward()
    assert out.isfinite().all()
    assert all(part.grad.isfinite().all() for part in (single, *module.parameters()))
    with torch.no_grad():
        expected = exact(x)
    assert float((out.detach() - expected).abs().max() / expected.abs().max()) < 1e-4


@every_form
def test_what_padding_holds_is_not_seen_by_the_state(kind, options):
    module, x, mask = build(kind, options), inputs(40), ragged(40)
    other = x.masked_fill(~mask[..., None], float("nan"))
    with torch.no_grad():
        for left, right in zip(
            *(tensors_of(module.prefill(part, mask)[1]) for part in (x, other)), strict=True
        ):
            assert torch.equal(left, right)


@pytest.mark.parametrize(("kind", "options"), [form for form in FORMS if form[0] is not Retention], ids=str)
def test_a_padded_token_is_skipped(kind, options):
    """The outputs are those of the real tokens alone, wherever padding lies between them."""
    module, x, mask = build(kind, options), inputs(70), torch.arange(70) % 3 != 1
    with torch.no_grad():
        alone = module(x[:, mask])
        torch.testing.assert_close(module(x, mask.expand(4, -1))[:, mask], alone, rtol=0, atol=1e-10)


def test_retention_counts_the_positions_of_padding():
    """By how much it decays and turns depends on the distance, which padding is part of."""
    module, x = build(Retention, {}), inputs(70)
    mask = (torch.arange(70) != 5).expand(4, -1)
    with torch.no_grad():
        counted = module(x, mask)
        x[:, 5] = 0  # no bias: a token of zeros adds nothing
        torch.testing.assert_close(counted[mask], module(x)[mask], rtol=0, atol=1e-10)
        assert not torch.allclose(counted[:, 6:], module(x[:, mask[0]])[:, 5:])


@every_form
def test_the_noncausal_form_is_refused(kind, options):
    with pytest.raises(Unsupported, match="has no noncausal form, ask for causal=true: "):
        kind(WIDTH, HEADS, max_len=8, **options)


def test_retention_by_hand():
    """Two tokens and one head of width 2, whose only pair of features turns by 1 radian a token."""
    module = Retention(2, 1, max_len=3, causal=True).double()
    with torch.no_grad():
        module.qkvg.weight.copy_(torch.eye(2).repeat(4, 1))
        state = module.prefill(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]], dtype=torch.float64))[1][0]
    first, second = [[1.0, 0.0], [0.0, 0.0]], [[0.0, -4 * math.sin(1)], [0.0, 4 * math.cos(1)]]
    expected = 31 / 32 * torch.tensor(first, dtype=torch.float64) + torch.tensor(second, dtype=torch.float64)
    torch.testing.assert_close(state[0, 0], expected / 2**0.25)


def test_deltanet_overwrites_what_it_holds_for_a_key():
    """With beta = 1 a state answers a key with the last value that was written for it."""
    module = build(DeltaNet, {})
    x = inputs(3)
    with torch.no_grad():
        module.qkv.weight[: 2 * WIDTH] = 0
        module.qkv.weight[: 2 * WIDTH, 0] = 1  # the same key and query for every token
        module.beta.weight.zero_()
        module.beta.weight[:, 0] = 1
        x[..., 0] = 1e4  # beta = 1
        state = module.prefill(x)[1][0]
        key = module._qkv(x)[1][:, -1]
        held = (key[..., None, :] @ state)[..., 0, :]
        torch.testing.assert_close(held, module._qkv(x)[2][:, -1])


@pytest.mark.parametrize("size", [1.0, 0.1])
def test_the_inverse_of_alike_keys_keeps_its_digits(size):
    """Powers of this matrix have entries of 1e3 and more, and its inverse none above 1."""
    lower = torch.full((2, 16, 16), size)
    expected = torch.linalg.inv((lower.tril(-1) + torch.eye(16)).double())
    torch.testing.assert_close(_inverse(lower).double(), expected, rtol=0, atol=1e-6)


def test_decays_inside_chunks_are_products_of_those_between():
    decay = torch.rand(2, 5, dtype=torch.float64)
    pairs, start = pair_decays(decay.log())
    for i in range(5):
        torch.testing.assert_close(start[:, i], decay[:, : i + 1].prod(dim=-1))
        for j in range(5):
            expected = decay[:, j + 1 : i + 1].prod(dim=-1) if j <= i else torch.zeros(2, dtype=torch.float64)
            torch.testing.assert_close(pairs[:, i, j], expected)


@pytest.mark.parametrize("n", [0, 1, 4, 7])
def test_chunks_end_with_the_last_token(n):
    x = torch.arange(1.0, n + 1)
    chunks = in_chunks(x, 4, 0)
    assert chunks.shape == (whole(n, 4) // 4, 4)
    assert torch.equal(chunks.flatten()[whole(n, 4) - n :], x)
    assert not chunks.flatten()[: whole(n, 4) - n].any()
    assert past_pairs(n, 4) == sum(i // 4 == j // 4 for i in range(n) for j in range(i + 1))

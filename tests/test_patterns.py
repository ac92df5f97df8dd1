"""Attention patterns: cross attention, generation step by step, and the state between the steps."""

from __future__ import annotations

import pytest
import torch
from stepping import stepped
from test_mechanisms import FORMS, HEADS, WIDTH, build, ids, masks

from baselines.attention import performer
from baselines.attention._heads import masked_softmax, merge_heads, split_heads
from baselines.attention.fastformer import Fastformer
from baselines.attention.linear import LinearAttention
from baselines.attention.linformer import Linformer
from baselines.attention.luna import Luna
from baselines.attention.nystromformer import Nystromformer
from baselines.attention.performer import Performer
from baselines.attention.vanilla import Vanilla
from effbench import Mechanism, Unsupported
from effbench.measured.patterns import has_cross, has_steps
from effbench.measured.state import copied, selected, state_bytes

STEPWISE = [(k, o) for k, o in FORMS if o.get("causal") and k.step is not Mechanism.step]
CROSS = [
    (k, o)
    for k, o in FORMS
    if not o.get("causal") and not o.get("conv") and k.remember is not Mechanism.remember
]
stepwise = pytest.mark.parametrize(("kind", "options"), STEPWISE, ids=ids(STEPWISE))
cross = pytest.mark.parametrize(("kind", "options"), CROSS, ids=ids(CROSS))


def normal(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


@stepwise
@pytest.mark.parametrize("first", [0, 1, 33, 100])
def test_prefill_and_steps_give_the_causal_outputs(kind, options, first):
    module = build(kind, options).eval()
    x = normal(2, first + 40, WIDTH)
    with torch.no_grad():
        found, _ = stepped(module, x, None, first)
        torch.testing.assert_close(found, module(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rise", [-1.0, 0.0, 2.0, 1e9])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_the_exponents_that_performer_keeps_may_lag_behind(rise, scale, monkeypatch):
    monkeypatch.setattr(performer, "RISE", rise)
    module, x = build(Performer, {"causal": True}).eval(), scale * normal(2, 80, WIDTH)
    with torch.no_grad():
        found, _ = stepped(module, x, None, 20)
        torch.testing.assert_close(found, module(x), rtol=1e-10, atol=1e-10)


@stepwise
def test_ragged_rows_are_continued(kind, options):
    module = build(kind, options).eval()
    first, more = 37, 40
    before = masks(4, first)
    mask = torch.cat([before, torch.ones(4, more, dtype=torch.bool)], dim=1)
    x = normal(4, first + more, WIDTH)
    padded = torch.where(mask[..., None], x, torch.nan)
    with torch.no_grad():
        found, _ = stepped(module, padded, mask, first)
        torch.testing.assert_close(found[mask], module(x, mask)[mask], rtol=1e-10, atol=1e-10)


@stepwise
def test_a_beam_search_can_reorder_the_rows_of_a_state(kind, options):
    module = build(kind, options).eval()
    x, rows = normal(3, 20, WIDTH), torch.tensor([2, 0, 0, 1])
    mask = masks(3, 20)
    with torch.no_grad():
        _, state = module.prefill(x, mask)
        chosen = selected(state, rows)
        for _ in range(5):
            token = normal(3, WIDTH)
            expected, state = module.step(token, state)
            found, chosen = module.step(token[rows], chosen)
            torch.testing.assert_close(found, expected[rows], rtol=1e-12, atol=1e-12)


@stepwise
def test_a_copy_of_a_state_is_continued_apart(kind, options):
    module = build(kind, options).eval()
    with torch.no_grad():
        _, state = module.prefill(normal(2, 9, WIDTH))
        other = copied(state)
        token = normal(2, WIDTH)
        expected, after = module.step(token, state)
        module.step(normal(2, WIDTH), after)
        found, _ = module.step(token, other)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@stepwise
def test_the_state_is_as_large_as_declared(kind, options):
    """A state of fixed size stays so; a cache grows as its tokens do."""
    module = build(kind, options, max_len=2100, dtype=torch.float32).eval()
    with torch.no_grad():
        sizes = [
            state_bytes(module.prefill(normal(1, n, WIDTH, dtype=torch.float32))[1]) for n in (512, 2048)
        ]
    if module.state_order == 0.0:
        assert sizes[0] == sizes[1]
    else:
        assert 3 < sizes[1] / sizes[0] < 4.2


@stepwise
@pytest.mark.parametrize("scale", [1.0, 10.0, 30.0])
def test_causal_gradients_are_finite(kind, options, scale):
    module = build(kind, options, dtype=torch.float32)
    x = (scale * normal(2, 70, WIDTH, dtype=torch.float32)).requires_grad_()
    module(x).square().mean().backward()
    for name, tensor in [("the input", x), *module.named_parameters()]:
        assert tensor.grad is None or torch.isfinite(tensor.grad).all(), name
    assert x.grad is not None


def test_a_cache_grows_without_losing_tokens():
    module = build(Vanilla, {"causal": True}, max_len=400).eval()
    x = normal(1, 400, WIDTH)
    with torch.no_grad():
        found, state = stepped(module, x, None, 1)
        torch.testing.assert_close(found, module(x), rtol=1e-10, atol=1e-10)
    assert state.used == 400
    assert 400 <= state.values.shape[2] < 400 + 400 // 8 + 64


@cross
def test_a_sequence_as_its_own_memory_gives_the_noncausal_form(kind, options):
    module = build(kind, options).eval()
    for n in (1, 5, 64, 130):
        x = normal(4, n, WIDTH)
        mask = masks(4, n)
        with torch.no_grad():
            torch.testing.assert_close(module.cross(x, x), module(x), rtol=1e-9, atol=1e-9)
            found = module.cross(x, torch.where(mask[..., None], x, torch.nan), mask)
            torch.testing.assert_close(found[mask], module(x, mask)[mask], rtol=1e-9, atol=1e-9)


@cross
def test_cross_attention_ignores_padded_memory_and_other_queries(kind, options):
    module = build(kind, options).eval()
    x, memory = normal(2, 7, WIDTH), normal(2, 40, WIDTH)
    mask = torch.arange(40) < torch.tensor([[40], [23]])
    with torch.no_grad():
        out = module.cross(x, memory, mask)
        again = module.cross(x, torch.where(mask[..., None], memory, torch.nan), mask)
        torch.testing.assert_close(again, out, rtol=1e-12, atol=1e-12)
        alone = torch.cat([module.cross(x[:, i : i + 1], memory, mask) for i in range(7)], dim=1)
        torch.testing.assert_close(alone, out, rtol=1e-10, atol=1e-10)
        kept = selected(module.remember(memory, mask), torch.tensor([1, 0, 1]))
        rows = torch.stack([x[1], x[0], x[1]])
        torch.testing.assert_close(module.attend(rows, kept), out[[1, 0, 1]], rtol=1e-10, atol=1e-10)
    assert not torch.equal(out, module.cross(x, normal(2, 40, WIDTH), mask))


@cross
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_empty_memory_is_finite(kind, options, dtype):
    module = build(kind, options, dtype=dtype)
    x = normal(2, 5, WIDTH).to(dtype).requires_grad_()
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, :3] = True
    out = module.cross(x, normal(2, 9, WIDTH).to(dtype), mask)
    assert out.dtype == dtype
    assert torch.isfinite(out).all()
    out.float().square().mean().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("options", [{}, {"kv_heads": 1}])
def test_vanilla_reads_a_memory_by_its_formula(options):
    module = build(Vanilla, options)
    x, memory = normal(2, 7, WIDTH), normal(2, 40, WIDTH)
    mask = torch.arange(40) < torch.tensor([[40], [23]])
    shared = HEADS // module.kv_heads
    q = split_heads(module.qkv(x)[..., :WIDTH], HEADS)
    k, v = (
        split_heads(part, module.kv_heads).repeat_interleave(shared, 1)
        for part in module.qkv(memory)[..., WIDTH:].chunk(2, -1)
    )
    weights = masked_softmax(q @ k.mT / module.d_head**0.5, mask[:, None, None], -1)
    expected = module.out(merge_heads(weights @ v))
    torch.testing.assert_close(module.cross(x, memory, mask), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [LinearAttention, Performer])
def test_kernels_read_a_memory_by_their_formula(kind):
    module = build(kind, {})
    x, memory = normal(2, 7, WIDTH), normal(2, 40, WIDTH)
    q = split_heads(module.qkv(x)[..., :WIDTH], HEADS)
    k, v = (split_heads(part, HEADS) for part in module.qkv(memory)[..., WIDTH:].chunk(2, -1))
    if kind is Performer:
        w = module.directions / module.d_head**0.25
        feature = lambda t: (t @ w.mT - t.square().sum(-1, keepdim=True) / (2 * module.d_head**0.5)).exp()  # noqa: E731
    else:
        feature = lambda t: torch.nn.functional.elu(t) + 1  # noqa: E731
    weights = feature(q) @ feature(k).mT
    mixed = weights @ v / (weights.sum(-1, keepdim=True) + (1e-6 if kind is LinearAttention else 0))
    expected = module.out(merge_heads(mixed))
    torch.testing.assert_close(module.cross(x, memory), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [Linformer, Luna, Nystromformer, Fastformer])
def test_a_memory_that_holds_the_queries_is_read_as_the_noncausal_form(kind):
    module = build(kind, {}).eval()
    memory = normal(2, 40, WIDTH)
    places = [3, 3, 17, 39]
    with torch.no_grad():
        found = module.cross(memory[:, places], memory)
        torch.testing.assert_close(found, module(memory)[:, places], rtol=1e-9, atol=1e-9)


def test_what_a_mechanism_lacks_it_says_with_a_reason():
    for kind, options in FORMS:
        module = build(kind, options)
        if not has_cross(module):
            with pytest.raises(Unsupported, match=r"no cross form: \w"):
                module.remember(normal(1, 4, WIDTH))
        if not has_steps(module):
            with pytest.raises(Unsupported, match=r"no step form: \w"):
                module.prefill(normal(1, 4, WIDTH))


def test_a_part_of_a_state_that_is_none_is_named():
    with pytest.raises(TypeError, match="a part of the state is a str"):
        state_bytes((torch.zeros(2), ["a"]))


def test_memory_that_two_tensors_of_a_state_use_counts_once():
    t = torch.zeros(4, 8)
    assert state_bytes({"all": t, "half": t[:, :4], "place": 3, "none": None}) == 4 * 8 * 4

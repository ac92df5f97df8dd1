"""Laws of every mechanism with all its options: equal to its dense reference, independent of padding."""

from __future__ import annotations

import copy
import functools
import random
from typing import Any

import pytest
import torch
from ours import our_mechanisms
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from baselines.attention import bigbird, linear, performer
from baselines.attention._recurrent import Recurrent
from baselines.attention._running import running_features, running_features_of_any_range
from baselines.attention.bigbird import BigBird
from baselines.attention.cosformer import CosFormer
from baselines.attention.deltanet import DeltaNet
from baselines.attention.fastformer import Fastformer
from baselines.attention.fnet import FNet
from baselines.attention.gla import GatedLinearAttention
from baselines.attention.hyena import Hyena
from baselines.attention.linear import LinearAttention
from baselines.attention.linformer import Linformer
from baselines.attention.longformer import Longformer
from baselines.attention.luna import Luna
from baselines.attention.mamba2 import Mamba2
from baselines.attention.nystromformer import Nystromformer
from baselines.attention.performer import Performer
from baselines.attention.pointwise import Pointwise
from baselines.attention.poolingformer import Poolingformer
from baselines.attention.retention import Retention
from baselines.attention.sinks import Sinks
from baselines.attention.vanilla import Vanilla
from effbench import Mechanism, Unsupported
from effbench.common import registry
from effbench.measured.probes.flops import count_work
from effbench.measured.probes.memory import saved_bytes

Forms = list[tuple[type[Mechanism], dict[str, Any]]]
FORMS: Forms = [
    (Vanilla, {}),
    (Vanilla, {"causal": True}),
    (Vanilla, {"kv_heads": 1}),
    (Vanilla, {"kv_heads": 1, "causal": True}),
    *[(Fastformer, {"sharing": sharing}) for sharing in ("none", "query-value", "layer-wise", "head-wise")],
    *[(Fastformer, {"interaction": kind}) for kind in ("add", "concat")],
    (Fastformer, {"interaction": "concat", "sharing": "head-wise"}),
    (Fastformer, {"causal": True}),
    *[(Fastformer, {"interaction": kind, "causal": True}) for kind in ("add", "concat")],
    (Fastformer, {"sharing": "none", "causal": True}),
    (Fastformer, {"interaction": "concat", "sharing": "head-wise", "causal": True}),
    (Fastformer, {"variant": "official"}),
    (Fastformer, {"variant": "official", "sharing": "layer-wise"}),
    (Fastformer, {"variant": "official", "causal": True}),
    (Linformer, {"k": 5}),
    (Linformer, {"k": 7, "share_kv": True}),
    (Longformer, {"window": 4}),
    (Longformer, {"window": 1, "global_tokens": 0}),
    (Longformer, {"window": 70, "global_tokens": 3}),
    (Longformer, {"window": 4, "causal": True}),
    (Longformer, {"window": 9, "global_tokens": 0, "causal": True}),
    (Longformer, {"window": 30, "global_tokens": 3, "causal": True}),
    (BigBird, {"block": 4}),
    (BigBird, {"block": 3, "window_blocks": 1, "random_blocks": 2, "global_blocks": 1, "seed": 5}),
    (BigBird, {"block": 5, "window_blocks": 5, "random_blocks": 0, "global_blocks": 0}),
    (LinearAttention, {}),
    (LinearAttention, {"causal": True}),
    (Performer, {}),
    (Performer, {"features": 9, "seed": 3}),
    (Performer, {"causal": True}),
    (CosFormer, {}),
    (CosFormer, {"causal": True}),
    (Pointwise, {}),
    (Pointwise, {"causal": True}),
    (Poolingformer, {"window": 4, "pool_window": 18}),
    (Poolingformer, {"window": 20, "pool_window": 70, "kernel": 7, "stride": 3, "pooling": "max"}),
    (Poolingformer, {"window": 2, "pool_window": 1, "kernel": 2, "stride": 70}),  # most tokens see no row
    (Poolingformer, {"window": 4, "pool_window": 18, "causal": True}),
    (
        Poolingformer,
        {"window": 9, "pool_window": 7, "kernel": 8, "stride": 5, "pooling": "max", "causal": True},
    ),
    (Nystromformer, {"landmarks": 5}),
    (Nystromformer, {"landmarks": 64, "iterations": 3}),
    (Nystromformer, {"landmarks": 8, "iterations": 1, "conv": 5}),
    (FNet, {}),
    (Luna, {"length": 5}),
    (Luna, {"length": 64}),
    (Retention, {"causal": True}),
    (GatedLinearAttention, {"causal": True}),
    (GatedLinearAttention, {"rank": 3, "tau": 1, "causal": True}),
    (DeltaNet, {"causal": True}),
    (DeltaNet, {"gated": True, "causal": True}),
    (Mamba2, {"causal": True}),
    (Mamba2, {"state": 5, "causal": True}),
    (Sinks, {"window": 4, "sinks": 2, "causal": True}),
    (Sinks, {"window": 1, "sinks": 0, "causal": True}),
    (Sinks, {"window": 30, "sinks": 5, "causal": True}),
    (Hyena, {"causal": True}),
    (Hyena, {"width": 5, "causal": True}),
]
# Options at the ends of their ranges, and dense implementations: for the laws of counts and the reference.
ENDS: Forms = [
    (Vanilla, {"implementation": "dense"}),
    (Vanilla, {"implementation": "dense", "causal": True}),
    (Linformer, {"k": 1}),
    (Linformer, {"k": 50}),
    (Longformer, {"window": 4, "implementation": "dense"}),
    (Longformer, {"window": 4, "global_tokens": 0, "implementation": "dense", "causal": True}),
    (Longformer, {"window": 1, "global_tokens": 40}),
    (BigBird, {"block": 4, "implementation": "dense"}),
    (BigBird, {"block": 1}),
    (BigBird, {"block": 100}),
    (Performer, {"features": 1}),
    (Performer, {"features": 40, "causal": True}),
    (Poolingformer, {"window": 1, "pool_window": 1, "kernel": 1, "stride": 1}),
    (Poolingformer, {"window": 3, "pool_window": 40, "kernel": 50, "stride": 2}),
    (Nystromformer, {"landmarks": 1}),
    (Nystromformer, {"landmarks": 3, "iterations": 1}),
    (Nystromformer, {"landmarks": 3, "iterations": 1, "conv": 33}),
    (Luna, {"length": 1}),
    (GatedLinearAttention, {"rank": 1, "causal": True}),
    (Mamba2, {"state": 1, "causal": True}),
    (Sinks, {"window": 4, "implementation": "dense", "causal": True}),
    (Sinks, {"window": 2, "sinks": 40, "causal": True}),
    (Hyena, {"width": 1, "causal": True}),
]


def ids(forms):
    return [f"{kind.__name__}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for kind, options in forms]


every_form = pytest.mark.parametrize(("kind", "options"), FORMS, ids=ids(FORMS))
every_form_and_end = pytest.mark.parametrize(("kind", "options"), FORMS + ENDS, ids=ids(FORMS + ENDS))
MAX_LEN, WIDTH, HEADS = 260, 12, 3
LENGTHS = (1, 2, 3, 4, 5, 8, 17, 64, 65, 130, 257)


def drawn_for(kind, options):
    """Random numbers of a form's own, the same in every run."""
    return random.Random(f"{kind.__name__} {options}")


def build(kind, options, *, max_len=MAX_LEN, width=WIDTH, heads=HEADS, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return kind(width, heads, max_len=max_len, **options).to(dtype)


def masks(batch, n):
    """Ragged: full, about half, one real token, none; and holes, since a mask is any set of tokens."""
    rows = [
        torch.ones(n),
        torch.arange(n) < (n + 1) // 2,
        torch.arange(n) < 1,
        torch.zeros(n),
        torch.arange(n) % 3 != 1,
    ]
    return torch.stack([rows[i % len(rows)].bool() for i in range(batch)])


def gradients(function, module, x, mask, weights):
    """(output at real tokens, gradients of the input and of every parameter)."""
    module.zero_grad(set_to_none=True)
    x = x.detach().clone().requires_grad_()
    out = function(x, mask)
    (out * weights).sum().backward()
    grads = {name: p.grad for name, p in module.named_parameters()}
    return out.detach(), {"x": x.grad, **grads}


@every_form_and_end
def test_equals_its_reference_forward_and_backward(kind, options):
    draw = drawn_for(kind, options)
    for i, n in enumerate(draw.sample(LENGTHS, 7)):
        equals_its_reference(build(kind, options, seed=i), n, batch=draw.randint(1, 5), masked=i % 2 == 0)


def equals_its_reference(module, n, *, batch, masked):
    x = torch.randn(batch, n, WIDTH, dtype=torch.float64)
    mask = masks(batch, n) if masked else None
    weights = torch.randn_like(x)
    if mask is not None:
        weights = weights * mask[..., None]  # outputs at padding are not specified
    out, grads = gradients(module, module, x, mask, weights)
    expected, expected_grads = gradients(module.reference, module, x, mask, weights)
    real = slice(None) if mask is None else mask
    torch.testing.assert_close(out[real], expected[real], rtol=1e-9, atol=1e-10)
    for name, value in expected_grads.items():
        found = grads[name]
        if value is None or found is None:  # a map that this length never used
            assert not any(grad.any() for grad in (found, value) if grad is not None), name
            continue
        torch.testing.assert_close(
            found, value, rtol=1e-8, atol=1e-9, msg=functools.partial("{}: {}".format, name)
        )


@every_form
@pytest.mark.parametrize("n", [7, 130])
def test_what_padding_holds_changes_nothing(kind, options, n):
    module = build(kind, options)
    x = torch.randn(5, n, WIDTH, dtype=torch.float64)
    mask = masks(5, n)
    other = torch.where(mask[..., None], x, 1e4 * torch.randn_like(x))
    torch.testing.assert_close(module(other, mask)[mask], module(x, mask)[mask], rtol=1e-9, atol=1e-9)


@every_form
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_padding_need_not_be_a_number(kind, options, value):
    module = build(kind, options)
    x = torch.randn(5, 33, WIDTH, dtype=torch.float64)
    mask = masks(5, 33)
    other = x.masked_fill(~mask[..., None], value)
    torch.testing.assert_close(module(other, mask)[mask], module(x, mask)[mask])


@every_form
def test_padding_gets_no_gradient_and_rows_without_tokens_stay_finite(kind, options):
    module = build(kind, options, dtype=torch.float32)
    x = torch.randn(5, 33, WIDTH, requires_grad=True)
    mask = masks(5, 33)
    out = module(x, mask)
    assert out.isfinite().all()
    (out * torch.randn_like(out))[mask].sum().backward()
    assert x.grad is not None
    assert x.grad[mask].any()
    assert not x.grad[~mask].any()
    whole = module(x, mask)
    (whole * torch.randn_like(whole)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    assert x.grad.isfinite().all()


INDEPENDENT = [form for form in FORMS if form[0] not in (BigBird, FNet)]


@pytest.mark.parametrize(("kind", "options"), INDEPENDENT, ids=ids(INDEPENDENT))
def test_more_padding_changes_nothing(kind, options):
    """Not so for BigBird, whose last global block and random plan depend on N, nor FNet's frequencies."""
    module = build(kind, options)
    x = torch.randn(2, 21, WIDTH, dtype=torch.float64)
    mask = torch.arange(21) < torch.tensor([[21], [9]])
    longer = torch.cat([x, torch.randn(2, 40, WIDTH, dtype=torch.float64)], dim=1)
    longer_mask = torch.cat([mask, torch.zeros(2, 40, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(module(longer, longer_mask)[:, :21][mask], module(x, mask)[mask])


@every_form
def test_elements_of_a_batch_do_not_meet(kind, options):
    module = build(kind, options)
    x, mask = torch.randn(4, 19, WIDTH, dtype=torch.float64), masks(4, 19)
    together = module(x, mask)
    for i in range(4):
        alone = module(x[i : i + 1], mask[i : i + 1])
        torch.testing.assert_close(alone[mask[i : i + 1]], together[i][mask[i]])


@every_form
def test_layout_of_the_input_does_not_matter(kind, options):
    module = build(kind, options)
    x = torch.randn(WIDTH, 2, 26, dtype=torch.float64).permute(1, 2, 0)[:, ::2]
    assert not x.is_contiguous()
    torch.testing.assert_close(module(x), module(x.contiguous()))


@every_form
def test_float32_is_close_and_bfloat16_is_finite(kind, options):
    exact = build(kind, options, width=48)
    x = 3 * torch.randn(2, 150, 48, dtype=torch.float64)
    mask = torch.arange(150) < torch.tensor([[150], [31]])
    expected = exact.reference(x, mask)[mask].detach()
    single = copy.deepcopy(exact).float()(x.float(), mask)[mask].detach()
    assert float((single.double() - expected).abs().max() / expected.abs().max()) < 1e-5
    half = copy.deepcopy(exact).bfloat16()(x.bfloat16(), mask)
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()


SCALES = (1, 3, 10, 30, 100, 1000)


def hard_inputs(n, dtype):
    """[13, n, WIDTH]: each scale, a few huge numbers, one huge token, constants, zeros, tiny and denormal."""
    normal = torch.randn(n, WIDTH, dtype=torch.float64)
    numbers, token = normal.clone(), normal.clone()
    numbers[::7, ::5] *= 1e3
    token[n // 2] *= 1e3
    least = torch.finfo(dtype).tiny / 1e3
    rows = [*(scale * normal for scale in SCALES), numbers, token]
    rows += [torch.full_like(normal, value) for value in (100.0, -100.0, 0.0)]
    return torch.stack([*rows, 1e-20 * normal, least * normal]).to(dtype)


def row_errors(found, expected):
    """The largest difference of each element of a batch, relative to its own largest normal number."""
    least = torch.finfo(found.dtype).tiny
    found, expected = found.double().flatten(1), expected.double().flatten(1)
    return (found - expected).abs().amax(1) / expected.abs().amax(1).clamp(min=least)


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_large_inputs_leave_outputs_and_gradients_finite_and_right(kind, options, dtype):
    """In float32 as right as the reference is there: scores of 1e6 have no digits after the point left.

    Gradients are compared in float64: fused kernels find that of a score as a difference of larger numbers.
    """
    exact = build(kind, options)
    module = copy.deepcopy(exact).to(dtype)
    for n in (1, 70):
        x = hard_inputs(n, dtype)
        if options.get("pooling") == "max" and dtype == torch.float64:
            x = x[:-5]  # the gradient of a maximum of numbers that are alike is a matter of rounding
        for mask in (None, masks(len(x), n)):
            weights = torch.randn_like(x)
            out, grads = gradients(module, module, x, mask, weights)
            assert out.isfinite().all()
            assert all(grad is None or grad.isfinite().all() for grad in grads.values())
            real = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(dtype)
            if dtype == torch.float32:
                with torch.no_grad():
                    expected, same = exact.reference(x.double(), mask), module.reference(x, mask)
                allowed = (10 * row_errors(same * real, expected * real)).clamp(min=2e-4)
                assert (row_errors(out * real, expected * real) <= allowed).all()
                continue
            _, grads = gradients(module, module, x, mask, weights * real)
            expected, expected_grads = gradients(module.reference, module, x, mask, weights * real)
            assert row_errors(out * real, expected * real).max() < 1e-8
            assert row_errors(grads["x"], expected_grads["x"]).max() < 1e-8
            largest = max(float(grad.abs().max()) for grad in expected_grads.values() if grad is not None)
            for name, grad in expected_grads.items():
                if grad is not None and grads[name] is not None:
                    assert float((grads[name] - grad).abs().max()) < 1e-8 * largest, name


def test_causal_performer_sums_twice_only_where_a_denominator_underflows(monkeypatch):
    module = build(Performer, {"causal": True}, width=64, heads=4, dtype=torch.float32)
    x = torch.randn(3, 97, 64)
    late = torch.arange(97) >= torch.tensor([[0], [40], [97]])  # padding first: it sees nothing, and may
    calls = []

    def counted(*exponents):
        calls.append(exponents)
        return running_features_of_any_range(*exponents)

    monkeypatch.setattr(performer, "running_features_of_any_range", counted)
    module(x), module(x, late), module(3 * x)
    assert not calls
    module(30 * x)
    assert len(calls) == 1


@pytest.mark.parametrize("n", [1, 31, 32, 33, 70])
def test_sums_of_features_of_any_range_are_those_of_chunks_where_these_do_not_underflow(n):
    torch.manual_seed(n)
    parts = [torch.randn(2, 3, n, width, dtype=torch.float64, requires_grad=True) for width in (7, 7, 5)]
    weights = torch.randn(2, 3, n, 5, dtype=torch.float64)
    found = []
    for summed in (running_features, running_features_of_any_range):
        sums = summed(*parts)
        shares = sums / sums[..., -1:].abs()  # each token's sums are known up to a factor
        found.append((shares.detach(), *torch.autograd.grad((shares * weights).sum(), parts)))
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right)


def test_linear_features_keep_their_digits_far_below_0():
    """elu(x) + 1 as it is written is 0 there, and leaves nothing to tell one key from another."""
    x = torch.tensor([-80.0, -30.0, -1e-9, 0.0, 1e-9, 30.0], requires_grad=True)
    out = linear._Phi.apply(x * 1)
    expected = torch.where(x > 0, x + 1, x.exp()).detach()
    torch.testing.assert_close(out.detach(), expected, rtol=1e-6, atol=0)
    out.sum().backward()
    torch.testing.assert_close(x.grad, expected.clamp(max=1), rtol=1e-6, atol=0)


SHAPES = ((12, 3), (12, 1), (12, 12), (6, 2), (30, 3), (1, 1))  # width, heads


@every_form_and_end
def test_declared_counts_are_the_executed(kind, options):
    """FLOPs and saved bytes in closed form, at the edges of lengths, of options, of widths and of heads."""
    draw = drawn_for(kind, options)
    near = [value + by for value in options.values() if type(value) is int for by in (-1, 0, 1, value)]
    edges = [n for n in (*near, 16, 17, 31, 32, 33, 63, 64, 65, 130) if 1 <= n <= 140]
    dtypes = draw.sample([torch.float32, torch.float64, torch.bfloat16], 2)
    shapes = draw.sample(SHAPES, 2)
    lengths = draw.randint(1, 12), draw.choice(edges)
    for n, dtype, (width, heads) in zip(lengths, dtypes, shapes, strict=True):
        counts_are_the_executed(kind, options, draw.randint(1, 3), n, width, heads, dtype)


def counts_are_the_executed(kind, options, batch, n, width, heads, dtype):
    module = build(kind, options, width=width, heads=heads, dtype=dtype)
    x = torch.randn(batch, n, width, dtype=dtype, requires_grad=True)
    gradient = torch.randn_like(x)
    module(x)
    outs = []
    forward = count_work(lambda: outs.append(module(x)))
    backward = count_work(lambda: outs[-1].backward(gradient))
    assert module.forward_flops(batch, n) == forward.flops
    trained = module.train_flops(batch, n)
    if isinstance(module, Recurrent) and (kind is DeltaNet or n <= module.chunk):
        assert trained is None
    else:
        assert trained == forward.flops + backward.flops
    assert not forward.uncounted + backward.uncounted
    assert 0 < module.useful_flops(batch, n) <= forward.flops or kind is FNet
    declared = module.saved_bytes(batch, n)
    shares = isinstance(module, Vanilla) and module.kv_heads < heads
    if isinstance(module, Recurrent) or shares or (kind is Fastformer and (n < width or module.causal)):
        assert declared is None
    else:
        assert declared == saved_bytes(lambda: module(x), [x, *module.parameters()])


def pairs_by_definition(module, n):
    """Query-key pairs of all heads that the definition sees, one by one."""
    if isinstance(module, Vanilla):
        return HEADS * sum(j <= i for i in range(n) for j in range(n))
    if isinstance(module, Longformer):
        count, window = min(module.global_tokens, n), module.window
        return HEADS * sum(
            (abs(i - j) <= window or j < count) and (j <= i or not module.causal)
            for i in range(count, n)
            for j in range(n)
        )
    if isinstance(module, Poolingformer):
        first = range(0, n, module.stride)
        last = -module.kernel + 1 if module.causal else module.pool_window
        return HEADS * sum(
            sum(abs(i - j) <= module.window and (j <= i or not module.causal) for j in range(n))
            + sum(-module.pool_window <= j - i <= last for j in first)
            for i in range(n)
        )
    if isinstance(module, Sinks):
        window, sinks = module.window, module.sinks
        return HEADS * sum(i - j < window or j < sinks for i in range(n) for j in range(i + 1))
    plan = bigbird._plan(*module._rule(-(-n // module.block)))
    return sum(
        j // module.block in rows[i // module.block] for rows in plan for i in range(n) for j in range(n)
    )


@pytest.mark.parametrize("n", [7, 130, 257])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        form
        for form in FORMS
        if form[0] in (Longformer, BigBird, Poolingformer, Sinks) or form == (Vanilla, {"causal": True})
    ],
    ids=str,
)
def test_useful_flops_are_those_of_the_pairs_that_the_definition_sees(kind, options, n):
    module = build(kind, options)
    none = 8 * n * WIDTH * WIDTH
    if kind is Longformer:
        none = module._flops(1, n, n, 0)
    if kind is Poolingformer:
        pooled = n if module.pooling == "max" else -(-n // module.stride)
        none = 2 * (5 * n + 2 * pooled) * WIDTH * WIDTH
    assert module.useful_flops(1, n) - none == 4 * module.d_head * pairs_by_definition(module, n)


class Largest(TorchDispatchMode):
    """The most elements that any operation's output has."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [
            t.untyped_storage().nbytes() // t.element_size()
            for t in tree_leaves(out)
            if isinstance(t, torch.Tensor)
        ]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Vanilla, {}),
        (Vanilla, {"causal": True}),
        (Fastformer, {}),
        (Linformer, {"k": 16}),
        (Longformer, {"window": 16}),
        (BigBird, {"block": 16}),
        (LinearAttention, {}),
        (LinearAttention, {"causal": True}),
        (Fastformer, {"causal": True}),
        (Performer, {}),
        (Performer, {"causal": True}),
        (CosFormer, {}),
        (CosFormer, {"causal": True}),
        (Poolingformer, {"window": 16, "pool_window": 32}),
        (Poolingformer, {"window": 16, "pool_window": 32, "pooling": "max", "causal": True}),
        (Nystromformer, {"landmarks": 16, "conv": 3}),
        (FNet, {}),
        (Luna, {"length": 16}),
        (Retention, {"causal": True}),
        (GatedLinearAttention, {"causal": True}),
        (DeltaNet, {"causal": True}),
        (DeltaNet, {"gated": True, "causal": True}),
        (Mamba2, {"causal": True}),
        (Sinks, {"window": 16, "causal": True}),
        (Hyena, {"causal": True}),
    ],
)
def test_no_tensor_grows_as_n_squared(kind, options, masked):
    def largest(n):
        module = build(kind, options, max_len=n, dtype=torch.float32)
        x = torch.randn(1, n, WIDTH, requires_grad=True)
        with Largest() as seen:
            module(x, masks(2, n)[1:] if masked else None).sum().backward()
        return seen.elements

    assert largest(2048) < 2.5 * largest(1024)


def test_heads_share_longformers_mask():
    """A mask copied for every head is as large as the scores."""
    module = build(Longformer, {"window": 16}, max_len=1024, width=64, heads=16, dtype=torch.float32)
    with Largest() as seen:
        module(torch.randn(4, 1024, 64), masks(4, 1024))
    assert seen.elements < 4 * 1024 * 97 * 4  # scores are [B, 16 heads, N, 97 keys]


def test_a_window_that_holds_no_pooled_row_is_refused():
    with pytest.raises(ValueError, match="pool_window is 3, must be at least kernel - 1"):
        build(Poolingformer, {"pool_window": 3, "kernel": 5, "causal": True})
    build(Poolingformer, {"pool_window": 3, "kernel": 5})


def test_inference_first_leaves_training_possible():
    module = build(BigBird, {"block": 4, "seed": 123})
    x = torch.randn(1, 77, WIDTH, dtype=torch.float64)
    with torch.inference_mode():
        module(x)
    module(x).sum().backward()


def test_linear_sums_are_wide_enough_for_float16():
    """257 keys whose sums of phi(k) v exceed float16's largest number, 65504."""
    module = build(LinearAttention, {}, dtype=torch.float16)
    with torch.no_grad():
        module.qkv.weight.zero_()
        module.qkv.bias.fill_(30.0)
        module.out.weight.copy_(torch.eye(WIDTH))
        module.out.bias.zero_()
    out = module(torch.zeros(1, 257, WIDTH, dtype=torch.float16))
    torch.testing.assert_close(out, torch.full_like(out, 30.0))


@pytest.mark.parametrize(("kind", "options"), [form for form in FORMS if "causal" in form[1]], ids=str)
def test_a_causal_form_has_exactly_no_gradient_from_the_future(kind, options):
    module = build(kind, options)
    for mask in (None, torch.ones(1, 150, dtype=torch.bool)):
        for i in (7, 64, 130):
            x = torch.randn(1, 150, WIDTH, dtype=torch.float64, requires_grad=True)
            # not their plain sum, nor that of their squares: a norm keeps both constant
            (module(x, mask)[0, i] * torch.randn(WIDTH, dtype=torch.float64)).sum().backward()
            assert x.grad is not None
            assert x.grad[0, : i + 1].any()
            assert not x.grad[0, i + 1 :].any()


@pytest.mark.parametrize(
    "kind",
    list(
        dict.fromkeys(kind for kind, _ in FORMS if (kind, True) not in {(k, "causal" in o) for k, o in FORMS})
    ),
)
def test_what_cannot_be_causal_says_why(kind):
    with pytest.raises(Unsupported, match="has no causal form: "):
        build(kind, {"causal": True})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Vanilla, {"implementation": "flash"}),
        (BigBird, {"implementation": "sdpa"}),
        (Fastformer, {"interaction": "times"}),
        (Fastformer, {"sharing": "all"}),
        (Linformer, {"k": 0}),
        (Longformer, {"window": 0}),
        (Longformer, {"global_tokens": -1}),
        (BigBird, {"block": 0}),
        (BigBird, {"window_blocks": 2}),
        (BigBird, {"random_blocks": -1}),
        (BigBird, {"global_blocks": 3}),
        (Performer, {"features": -1}),
        (Poolingformer, {"window": 0}),
        (Poolingformer, {"pool_window": 0}),
        (Poolingformer, {"kernel": 0}),
        (Poolingformer, {"stride": 0}),
        (Poolingformer, {"pooling": "sum"}),
        (Nystromformer, {"landmarks": 0}),
        (Nystromformer, {"iterations": 0}),
        (Nystromformer, {"conv": 4}),
        (Nystromformer, {"conv": -1}),
        (Luna, {"length": 0}),
        (GatedLinearAttention, {"rank": 0}),
        (GatedLinearAttention, {"tau": 0}),
        (Mamba2, {"state": 0}),
        (Sinks, {"window": 0}),
        (Sinks, {"sinks": -1}),
        (Hyena, {"width": 0}),
    ],
)
def test_wrong_options_are_refused_with_the_value(kind, options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}, must be"):
        build(kind, {**options, "causal": bool(kind.no_noncausal)})


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"heads \(5\) must divide d_model \(12\)"):
        Vanilla(12, 5, max_len=4)


@pytest.mark.parametrize(
    "options",
    [{"interaction": "add"}, {"interaction": "concat"}, {"sharing": "none"}, {"sharing": "head-wise"}],
)
def test_fastformers_options_change_the_function(options):
    x = torch.randn(1, 9, WIDTH, dtype=torch.float64)
    assert not torch.allclose(build(Fastformer, options)(x), build(Fastformer, {})(x))


def test_fastformer_by_hand():
    """Two tokens, one head, width 1, every weight 1: equations (3) to (6) on paper."""
    module = Fastformer(1, 1, max_len=2).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1.0)
        module.transform.bias.zero_()
    a, b = 0.5, -1.0
    x = torch.tensor([[[a], [b]]], dtype=torch.float64)
    e = torch.exp(torch.tensor([a, b], dtype=torch.float64))
    query = float((e * torch.tensor([a, b])).sum() / e.sum())
    p = torch.tensor([query * a, query * b], dtype=torch.float64)
    e = torch.exp(p)
    key = float((e * p).sum() / e.sum())
    torch.testing.assert_close(
        module(x)[0, :, 0], torch.tensor([key * a + a, key * b + b], dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("pooling", "causal", "y", "z"),
    [
        ("mean", False, [3 / 2, 7 / 3, 14 / 3, 6], [23 / 12, 29 / 8, 16 / 3, 16 / 3]),
        ("max", False, [3 / 2, 7 / 3, 14 / 3, 6], [7 / 3, 25 / 6, 6, 6]),
        ("mean", True, [1, 3 / 2, 3, 6], [0, 5 / 4, 0, 9 / 2]),
    ],
)
def test_poolingformer_by_hand(pooling, causal, y, z):
    """Queries and keys 0, so that all weights are alike; values are their input; two tokens a pooled row."""
    options = {"window": 1, "pool_window": 1, "kernel": 2, "stride": 2, "pooling": pooling, "causal": causal}
    module = Poolingformer(1, 1, max_len=4, **options).double()
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
        module.qkv.weight[2] = module.key_value.weight[1] = module.out.weight[0] = 1
    out = module(torch.tensor([[[1.0], [2.0], [4.0], [8.0]]], dtype=torch.float64))[0, :, 0]
    torch.testing.assert_close(out, torch.tensor(y, dtype=out.dtype) + torch.tensor(z, dtype=out.dtype))


def test_nystromformer_with_a_landmark_a_token_nears_softmax_attention():
    """With a segment a token F = A = G, and F A^+ G = A A^+ A = A, once A^+ has converged."""
    module = build(Nystromformer, {"landmarks": 9, "iterations": 40})
    whole = build(Vanilla, {})
    whole.load_state_dict(module.state_dict())
    x, mask = torch.randn(2, 9, WIDTH, dtype=torch.float64), masks(2, 9)
    torch.testing.assert_close(module(x, mask)[mask], whole(x, mask)[mask], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("width", [1, 2, 7])
def test_fnet_is_the_real_part_of_the_whole_transform(width):
    for n in (1, 2, 9):
        x = torch.randn(2, n, width, dtype=torch.float64, requires_grad=True)
        module = FNet(width, 1, max_len=9)
        torch.testing.assert_close(module(x), torch.fft.fft2(x).real)
        assert torch.autograd.gradcheck(module, x)
        assert torch.autograd.gradgradcheck(module, x)


def test_only_the_papers_scheme_shares_layers():
    shared = {
        s: build(Fastformer, {"sharing": s}).shares_layers for s in ("none", "query-value", "head-wise")
    }
    assert not any(shared.values())
    assert build(Fastformer, {}).shares_layers


def test_bigbirds_plan_is_what_it_says():
    module = BigBird(12, 3, max_len=4096, block=16)
    rule = module._rule(64)
    from baselines.attention.bigbird import _plan

    plan = _plan(*rule)
    assert plan == _plan.__wrapped__(*rule), "the same draw every time"
    assert len({row for row in plan}) == 3, "each head its own"
    for of_head in plan:
        assert of_head[0] == of_head[63] == tuple(range(64))
        for i, seen in enumerate(of_head[1:63], start=1):
            assert {0, 63, i - 1, i, i + 1} <= set(seen)
            assert len(seen) == len(set(seen)) == len({0, 63, i - 1, i, i + 1}) + 3
    drawn = [j for i, seen in enumerate(plan[0][1:63], start=1) for j in set(seen) - {0, 63, i - 1, i, i + 1}]
    assert max(drawn) > 48, "from the whole sequence"
    assert plan != _plan(*module_rule(seed=1))


def module_rule(**options):
    return BigBird(12, 3, max_len=4096, block=16, **options)._rule(64)


def test_every_installed_mechanism_is_in_the_list():
    assert {registry.load(plugin) for plugin in our_mechanisms()} == {kind for kind, _ in FORMS}


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind, options in FORMS
        if options in ({}, {"k": 5}, {"window": 4}, {"block": 4}, {"landmarks": 5}, {"length": 5})
    ],
)
def test_linformer_alone_needs_its_length_beforehand(kind):
    make = functools.partial(build, kind, {}, max_len=8)
    x = torch.randn(1, 12, WIDTH, dtype=torch.float64)
    if kind is Linformer:
        with pytest.raises(RuntimeError):
            make()(x)
    else:
        assert make()(x).shape == x.shape

"""An implementation is another way to the same numbers, or says why it cannot be one here."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from test_mechanisms import WIDTH, build, gradients, hard_inputs, masks, row_errors
from torch.nn import functional as F

from baselines.attention import vanilla
from baselines.attention._flex import BLOCK, block_mask, flex_attend
from baselines.attention._heads import masked_softmax
from baselines.attention.bigbird import BigBird, _in_plan, _table
from baselines.attention.longformer import Longformer
from baselines.attention.vanilla import Vanilla
from effbench import Unsupported
from effbench.measured.probes.flops import count_work
from effbench.measured.probes.memory import saved_bytes

BIGBIRDS = [
    {"block": 4},
    {"block": 3, "window_blocks": 1, "random_blocks": 2, "global_blocks": 1, "seed": 5},
    {"block": 5, "window_blocks": 5, "random_blocks": 0, "global_blocks": 0},
    {},
]
DIFFERENTIABLE = [
    (Vanilla, {"implementation": "sdpa"}),
    (Vanilla, {"implementation": "dense"}),
    (Vanilla, {"implementation": "dense", "causal": True}),
    *[(BigBird, {**options, "implementation": "dense"}) for options in BIGBIRDS],
    *[(BigBird, {**options, "implementation": "blocked"}) for options in BIGBIRDS],
]
LENGTHS = (1, 130, 257)
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.mark.parametrize(("kind", "options"), DIFFERENTIABLE, ids=str)
@pytest.mark.parametrize("n", LENGTHS)
def test_each_has_the_references_outputs_and_gradients(kind, options, n):
    module = build(kind, options)
    assert module.runs_as(5, n) == options["implementation"]
    x = torch.randn(5, n, WIDTH, dtype=torch.float64)
    for mask in (None, masks(5, n)):
        weights = torch.randn_like(x) * (1 if mask is None else mask[..., None])
        out, grads = gradients(module, module, x, mask, weights)
        expected, expected_grads = gradients(module.reference, module, x, mask, weights)
        shown = slice(None) if mask is None else mask
        torch.testing.assert_close(out[shown], expected[shown], rtol=1e-9, atol=1e-10)
        for name, value in expected_grads.items():
            torch.testing.assert_close(grads[name], value, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("kind", "options"), DIFFERENTIABLE, ids=str)
def test_padding_need_not_be_a_number(kind, options):
    module = build(kind, options)
    x, mask = torch.randn(5, 33, WIDTH, dtype=torch.float64), masks(5, 33)
    other = x.masked_fill(~mask[..., None], float("nan"))
    torch.testing.assert_close(module(other, mask)[mask], module(x, mask)[mask])


@pytest.mark.parametrize(("kind", "options"), DIFFERENTIABLE, ids=str)
def test_what_is_declared_is_what_runs(kind, options):
    module = build(kind, options, dtype=torch.float32)
    x = torch.randn(2, 130, WIDTH, requires_grad=True)
    gradient = torch.randn_like(x)
    assert module.forward_flops(2, 130) == count_work(lambda: module(x)).flops
    assert module.train_flops(2, 130) == count_work(lambda: module(x).backward(gradient)).flops
    assert module.saved_bytes(2, 130) == saved_bytes(lambda: module(x), [x, *module.parameters()])


def test_auto_is_what_suits_the_device():
    assert build(Vanilla, {}).runs_as(1, 8) == "sdpa"
    assert build(BigBird, {}).runs_as(1, 8) == "blocked"


@pytest.mark.parametrize("options", BIGBIRDS, ids=str)
@pytest.mark.parametrize(
    ("n", "dtype"), [*((n, torch.float64) for n in LENGTHS), (130, torch.float32)], ids=str
)
def test_flex_forward_has_the_references_outputs(options, n, dtype):
    module = build(BigBird, {**options, "implementation": "flex"}, dtype=dtype)
    assert module.runs_as(5, n) == "flex"
    assert module.forward_flops(5, n) is module.train_flops(5, n) is module.saved_bytes(5, n) is None
    x = torch.randn(5, n, WIDTH, dtype=dtype)
    with torch.no_grad():
        for mask in (None, masks(5, n), torch.zeros(5, n, dtype=torch.bool)):
            given = x if mask is None else x.masked_fill(~mask[..., None], float("nan"))
            out, expected = module(given, mask), module.reference(x, mask)
            assert out.isfinite().all()
            shown = slice(None) if mask is None else mask
            torch.testing.assert_close(
                out[shown], expected[shown], rtol=ROUNDING[dtype], atol=ROUNDING[dtype]
            )


@pytest.mark.parametrize("implementation", ["flex", "dense"])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("kind", [BigBird, Longformer])
def test_large_inputs_leave_each_finite_and_as_right_as_blocks(kind, dtype, implementation):
    module = build(kind, {"implementation": implementation}, dtype=dtype)
    x = hard_inputs(70, dtype)
    with torch.no_grad():
        for mask in (None, masks(len(x), 70)):
            out, expected = module(x, mask), build(kind, {})(x.double(), mask)
            assert out.isfinite().all()
            real = torch.ones_like(x[..., :1]) if mask is None else mask[..., None]
            assert row_errors(out * real, expected * real).max() < 100 * ROUNDING[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_flex_under_autocast_is_close(dtype):
    module = build(BigBird, {"block": 4, "implementation": "flex"}, width=48, dtype=torch.float32)
    x, mask = torch.randn(5, 130, 48), masks(5, 130)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        out = module(x, mask)
    assert out.isfinite().all()
    torch.testing.assert_close(out[mask].float(), module.reference(x, mask)[mask], rtol=0, atol=2e-2)


def window(device, reach, count, causal):
    """The rule of a window with global keys, as Longformer has."""

    def sees(batch, head, query, key):
        near = ((query - key).abs() <= reach) | (key < count)
        return near & (key <= query) if causal else near

    return sees


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 128, 257])
def test_flex_takes_a_window_with_global_keys(n, causal):
    q, k, v = torch.randn(3, 5, 3, n, 4, dtype=torch.float64)
    i = torch.arange(n)
    allowed = window(None, 5, 2, causal)(None, None, i[:, None], i).expand(n, n)
    seen = block_mask(window, (5, 2, causal), 1, n, q.device)
    for mask in (None, masks(5, n)):
        real = allowed if mask is None else allowed & mask[:, None, None]
        expected = masked_softmax(q @ k.mT / 2, real.expand(5, 3, n, n), -1) @ v
        torch.testing.assert_close(flex_attend(q, k, v, seen, mask), expected)


def test_flex_keeps_its_map_of_blocks_and_takes_only_those_that_are_seen():
    options = (5, 2, True)
    with torch.inference_mode():
        seen = block_mask(window, options, 1, 700, torch.device("cpu"))
    assert block_mask(window, options, 1, 700, torch.device("cpu")) is seen
    assert not seen.kv_indices.is_inference()
    blocks = -(-700 // BLOCK)
    expected = torch.ones(blocks, blocks).tril().triu(-1)
    expected[:, 0] = 1
    torch.testing.assert_close(seen.to_dense()[0, 0].float(), expected)


def test_flex_leaves_out_blocks_that_a_head_does_not_see():
    module = BigBird(12, 3, max_len=2048, block=64, random_blocks=1, implementation="flex")
    rule = module._rule(32)
    seen = block_mask(_in_plan, (64, *rule), 3, 2048, torch.device("cpu")).to_dense()[0].bool()
    expected = _table(*rule).view(3, 16, 2, 16, 2).any(dim=4).any(dim=2)
    assert seen.equal(expected)
    assert seen.float().mean() < 0.6


def test_flex_has_no_backward_on_the_cpu_and_says_so():
    module = build(BigBird, {"block": 4, "implementation": "flex"})
    x = torch.randn(1, 9, WIDTH, dtype=torch.float64)
    with pytest.raises(Unsupported, match="FlexAttention has no backward on the CPU"):
        module(x)
    with torch.inference_mode():
        module(x)


def test_flex_is_not_counted_wrongly_but_refused_and_runs_after():
    module, x = (
        build(BigBird, {"block": 4, "implementation": "flex"}, dtype=torch.float32),
        torch.randn(1, 9, WIDTH),
    )
    with torch.no_grad():
        with pytest.raises(Unsupported, match="cannot be counted"):
            count_work(lambda: module(x))
        torch.testing.assert_close(module(x), module.reference(x))


def test_xformers_says_what_it_needs(monkeypatch):
    module = build(Vanilla, {"implementation": "xformers"}, dtype=torch.float32)
    assert module.runs_as(1, 9) == "xformers"
    assert module.forward_flops(1, 9) is module.train_flops(1, 9) is module.saved_bytes(1, 9) is None
    with pytest.raises(Unsupported, match="implementation=xformers runs on cuda only, not on cpu"):
        module(torch.randn(1, 9, WIDTH))
    monkeypatch.setitem(sys.modules, "xformers", None)
    with pytest.raises(Unsupported, match="needs xformers .*: pip install --no-deps xformers"):
        vanilla._xformers(torch.device("cuda"))


@pytest.mark.parametrize("causal", [False, True])
def test_xformers_is_given_the_layout_and_the_mask_that_it_expects(monkeypatch, causal):
    """A stand-in: [B, N, heads, d] in and out, and a mask of its own for causal runs."""

    class LowerTriangularMask:
        pass

    def attention(q, k, v, attn_bias):
        assert isinstance(attn_bias, LowerTriangularMask) == causal
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)

    ops = SimpleNamespace(memory_efficient_attention=attention, LowerTriangularMask=LowerTriangularMask)
    monkeypatch.setattr(vanilla, "_xformers", lambda device: ops)
    module = build(Vanilla, {"implementation": "xformers", "causal": causal})
    x, mask = torch.randn(5, 33, WIDTH, dtype=torch.float64), masks(5, 33)
    torch.testing.assert_close(module(x), module.reference(x))
    if causal:
        torch.testing.assert_close(module(x, mask)[mask], module.reference(x, mask)[mask])
    else:
        with pytest.raises(Unsupported, match="takes no padding mask"):
            module(x, mask)

    def refuse(*tensors, attn_bias):
        raise NotImplementedError("no operator found")

    ops.memory_efficient_attention = refuse
    with pytest.raises(Unsupported, match="xformers: no operator found"):
        module(x)


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("options", BIGBIRDS, ids=str)
@pytest.mark.parametrize("width", [12, 48, 192])
@pytest.mark.parametrize("n", LENGTHS)
def test_compiled_flex_has_the_references_outputs_and_gradients(options, width, n):
    module = build(BigBird, options, width=width, dtype=torch.float32).cuda()
    assert module.runs_as(5, n) == "flex"
    x = torch.randn(5, n, width, device="cuda")
    exact = build(BigBird, options, width=width).cuda()
    for mask in (None, masks(5, n).cuda()):
        weights = torch.randn_like(x) * (1 if mask is None else mask[..., None])
        out, grads = gradients(module, module, x, mask, weights)
        expected, wanted = gradients(exact.reference, exact, x.double(), mask, weights.double())
        assert out.isfinite().all()
        shown = slice(None) if mask is None else mask
        torch.testing.assert_close(out[shown].double(), expected[shown], rtol=1e-3, atol=1e-3)
        for name, value in wanted.items():
            torch.testing.assert_close(grads[name].double(), value, rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
@gpu
def test_bigbird_on_cuda_in_float64_is_blocked():
    module = build(BigBird, {"block": 4}).cuda()
    assert module.runs_as(1, 9) == "blocked"
    x = torch.randn(1, 9, WIDTH, device="cuda", dtype=torch.float64)
    torch.testing.assert_close(module(x), module.reference(x))
    flex = build(BigBird, {"block": 4, "implementation": "flex"}).cuda()
    with pytest.raises(Unsupported, match="float64"):
        flex(x)


@pytest.mark.gpu
@gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_xformers_has_sdpas_outputs(causal, dtype):
    pytest.importorskip("xformers.ops", exc_type=ImportError)
    fast, plain = (
        build(Vanilla, {"implementation": name, "causal": causal}, width=96, dtype=dtype).cuda()
        for name in ("xformers", "sdpa")
    )
    for n in LENGTHS:
        x = torch.randn(2, n, 96, device="cuda", dtype=dtype)
        torch.testing.assert_close(fast(x), plain(x), rtol=2e-2, atol=2e-2)

"""Recurrent mechanisms against the naive references of fla-core, under the same weights.

A reference is a loop over tokens or a sum over pairs, in float32. It gets queries, keys, values and gates
that are computed here from the layer's weights, by the formulas of the papers. What is compared comes before
the heads' norm, which would hide a wrong scale. Skipped where fla-core is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention.deltanet import DeltaNet
from baselines.attention.gla import GatedLinearAttention
from baselines.attention.linear import LinearAttention
from baselines.attention.mamba2 import Mamba2
from baselines.attention.retention import Retention

WIDTH, HEADS, MAX_LEN = 24, 3, 600
CLOSE = 1e-5  # relative to the largest number; float32 has 6e-8


@cache
def naive(operator, function):
    """A reference from its file alone: the package around it imports Triton, which is not everywhere."""
    try:
        path = Path(str(distribution("fla-core").locate_file(f"fla/ops/{operator}/naive.py")))
    except PackageNotFoundError:
        pytest.skip("needs fla-core: pip install fla-core")
    spec = spec_from_file_location(f"naive_{operator}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)


# For each mechanism: what its core is given, [B, N, heads, .] each; theirs of it: outputs and state.


def in_heads(module, *parts):
    return [part.unflatten(-1, (module.heads, -1)) for part in parts]


def retention_parts(module, x):
    """Features f and f + d/2 of queries and keys are one complex number, which is turned."""
    q, k, v, _ = in_heads(module, *module.qkvg(x).chunk(4, dim=-1))
    rate = 10000 ** (-torch.arange(module.d_head // 2, dtype=x.dtype) / (module.d_head // 2))
    angle_n1p = torch.arange(x.shape[1], dtype=x.dtype)[:, None, None] * rate
    turn = torch.polar(torch.ones_like(angle_n1p), angle_n1p)
    q, k = (torch.complex(*part.chunk(2, dim=-1)) * turn for part in (q, k))
    q, k = (torch.cat([part.real, part.imag], dim=-1) for part in (q, k))
    return {"q": q, "k": k, "v": v}


def retention_theirs(**parts):
    """Theirs is [B, heads, N, d], makes the decays itself, divides by sqrt(d) like ours, and has no state."""
    heads_first = {name: part.transpose(1, 2) for name, part in parts.items()}
    return naive("retention", "naive_retention")(**heads_first).transpose(1, 2), None


def gla_parts(module, x):
    q, k, v = in_heads(module, *module.qkv(x).chunk(3, dim=-1))
    (gk,) = in_heads(module, F.logsigmoid(module.decay(module.narrow(x))) / module.tau)
    return {"q": q, "k": k, "v": v, "gk": gk}


def gla_theirs(q, **parts):
    """Theirs divides queries by sqrt(d), and its gates are logarithms."""
    q = q * q.shape[-1] ** 0.5
    return naive("gla", "naive_recurrent_gla")(q, **parts, output_final_state=True)


def delta_parts(module, x):
    q, k, v = in_heads(module, *module.qkv(x).chunk(3, dim=-1))
    q, k = (F.silu(part) for part in (q, k))
    q, k = (part / (part.square().sum(dim=-1, keepdim=True) + 1e-6).sqrt() for part in (q, k))
    parts = {"q": q, "k": k, "v": v, "beta": module.beta(x).sigmoid()}
    return parts | ({"g": -module.log_rate.exp() * F.softplus(module.time(x))} if module.gated else {})


def delta_theirs(q, **parts):
    """Theirs is [B, heads, N, d], divides queries by sqrt(d), and takes keys as they are."""
    heads_first = {name: part.transpose(1, 2) for name, part in parts.items()}
    q = (q * q.shape[-1] ** 0.5).transpose(1, 2)
    out, state = naive("delta_rule", "delta_rule_recurrence")(q, **heads_first)
    return out.transpose(1, 2), state


def gated_delta_theirs(**parts):
    """Theirs takes keys as they are; its gates are logarithms."""
    reference = naive("gated_delta_rule", "naive_recurrent_gated_delta_rule")
    return reference(**parts, scale=1.0, output_final_state=True)


def mamba2_parts(module, x):
    """C, B and dt x are queries, keys and values; C and B are those of all heads."""
    _, values, b, c, dt = module.inputs(x).split(module.parts, dim=-1)
    q, k = (F.silu(part)[:, :, None].expand(-1, -1, module.heads, -1) for part in (c, b))
    dt = F.softplus(dt + module.step_bias)
    (v,) = in_heads(module, F.silu(values))
    return {"q": q, "k": k, "v": v * dt[..., None], "g": -dt * module.log_rate.exp()}


def mamba2_theirs(**parts):
    """Theirs has gates as logarithms and a state [B, heads, state, d]; ours is [B, state, heads * d]."""
    out, state = naive("simple_gla", "naive_recurrent_simple_gla")(**parts, scale=1.0)
    return out, state.transpose(1, 2).flatten(2)


def linear_parts(module, x):
    q, k, v = in_heads(module, *module.qkv(x).chunk(3, dim=-1))
    return {"q": F.elu(q) + 1, "k": F.elu(k) + 1, "v": v}


def linear_theirs(**parts):
    """Theirs adds 1e-10 to a sum of weights, ours 1e-6: less than what is allowed here."""
    reference = naive("linear_attn", "naive_recurrent_linear_attn")
    out, (sums, ones) = reference(**parts, scale=1.0, normalize=True, output_final_state=True)
    return out, torch.cat([sums, ones.transpose(1, 2).mT], dim=-1)


class Form(NamedTuple):
    """A mechanism with its options, and the functions above."""

    kind: type[nn.Module]
    options: dict[str, Any]
    parts: Callable[..., dict[str, Tensor]]
    theirs: Callable[..., tuple[Tensor, Tensor | None]]


FORMS = {
    "retention": Form(Retention, {}, retention_parts, retention_theirs),
    "gla": Form(GatedLinearAttention, {}, gla_parts, gla_theirs),
    "gla-fast": Form(GatedLinearAttention, {"rank": 2, "tau": 1}, gla_parts, gla_theirs),
    "deltanet": Form(DeltaNet, {}, delta_parts, delta_theirs),
    "deltanet-gated": Form(DeltaNet, {"gated": True}, delta_parts, gated_delta_theirs),
    "mamba2": Form(Mamba2, {}, mamba2_parts, mamba2_theirs),
    "mamba2-narrow": Form(Mamba2, {"state": 5}, mamba2_parts, mamba2_theirs),
    "linear": Form(LinearAttention, {}, linear_parts, linear_theirs),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def build(form):
    """A layer whose output is what its heads mixed, [B, N, D]: for linear attention after the division."""
    torch.manual_seed(0)
    module = form.kind(WIDTH, HEADS, max_len=MAX_LEN, causal=True, **form.options).double()
    if isinstance(module, LinearAttention):
        with torch.no_grad():
            module.out.weight.copy_(torch.eye(WIDTH))
            module.out.bias.zero_()
    else:
        vars(module)["_output"] = lambda mixed_xhd, *others: mixed_xhd.flatten(-2)
    return module


def inputs(n):
    return 3 * torch.randn(2, n, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def reference(form, module, x):
    out, state = form.theirs(**form.parts(module, x))
    return out.flatten(2).double(), state


def apart(found, expected):
    """The largest difference, relative to the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


def assert_same_state(found, expected):
    if expected is not None:
        sums, scale = found if isinstance(found, tuple) else (found, 1.0)
        assert apart(sums * scale, expected) < CLOSE


@every_form
@pytest.mark.parametrize("n", [5, 83, MAX_LEN])
def test_the_scan_in_chunks_is_the_reference(form, n):
    """83 and 600 tokens are no whole number of chunks, and 600 are two segments of a scan."""
    module, x = build(form), inputs(n)
    with torch.no_grad():
        expected, last = reference(form, module, x)
        found, state = module.prefill(x)
        assert apart(found, expected) < CLOSE
        assert torch.equal(module(x), found)
    assert_same_state(state, last)


@every_form
@pytest.mark.parametrize("start", [0, 1, 37])
def test_a_start_and_steps_are_the_reference(form, start):
    module, x = build(form), inputs(83)
    with torch.no_grad():
        expected, last = reference(form, module, x)
        out, state = module.prefill(x[:, :start])
        outs = [out]
        for i in range(start, x.shape[1]):
            out, state = module.step(x[:, i], state)
            outs.append(out[:, None])
        assert apart(torch.cat(outs, dim=1), expected) < CLOSE
    assert_same_state(state, last)


@every_form
def test_gradients_are_those_of_the_reference(form):
    """Of the input and of every weight before the heads' outputs."""
    module, x = build(form), inputs(83).requires_grad_()
    weights, found = torch.randn_like(x), []
    for compute in (module, lambda x: reference(form, module, x)[0]):
        named = {"the input": x} | {name: p for name, p in module.named_parameters() if "out." not in name}
        total = (compute(x) * weights).sum()
        grads = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        found.append({name: grad for name, grad in zip(named, grads, strict=True) if grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, expected in found[1].items():
        assert apart(found[0][name], expected) < 10 * CLOSE, name


@every_form
def test_one_percent_of_any_argument_is_seen(form):
    module, x = build(form), inputs(83)
    with torch.no_grad():
        parts, found = form.parts(module, x), module(x)
        for name, part in parts.items():
            other = part * (1 + 0.01 * torch.rand_like(part))
            out, _ = form.theirs(**parts | {name: other})
            assert apart(found, out.flatten(2)) > 10 * CLOSE, name

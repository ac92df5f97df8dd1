"""Laws of every mechanism for autocast and for devices: sums stay wide, and nothing waits for a value."""

from __future__ import annotations

import pytest
import torch
from test_mechanisms import WIDTH, build, every_form, gradients, masks
from torch._subclasses import FakeTensorMode

from baselines.attention.performer import Performer


def within(computed, expected, rtol, floor=0.0):
    """Compare relative to the largest number, since cancellation leaves small ones without digits."""
    largest = max(float(expected.abs().max()), floor)
    return float((computed.double() - expected.double()).abs().max()) <= rtol * largest


@every_form
@pytest.mark.parametrize(
    ("n", "dtype"), [(7, torch.bfloat16), (150, torch.bfloat16), (150, torch.float16)], ids=str
)
def test_autocast_leaves_outputs_and_gradients_finite_and_close(kind, options, n, dtype):
    module = build(kind, options, width=48, dtype=torch.float32)
    x, mask = torch.randn(5, n, 48), masks(5, n)
    for given, shown in ((None, slice(None)), (mask, mask)):
        weights = torch.randn_like(x) * (1 if given is None else given[..., None])
        expected, expected_grads = gradients(module, module, x, given, weights)

        def cast(x, given):
            with torch.autocast("cpu", dtype=dtype):
                return module(x, given).float()

        out, grads = gradients(cast, module, x, given, weights)
        assert out.isfinite().all()
        assert within(out[shown], expected[shown], 3e-2)
        largest = max(float(grad.abs().max()) for grad in expected_grads.values() if grad is not None)
        for name, grad in grads.items():
            if grad is not None:
                assert grad.isfinite().all(), name
                # rounded numbers tie, so that a maximum may be another token's
                near = options.get("pooling") == "max" or within(
                    grad, expected_grads[name], 6e-2, floor=largest / 10
                )
                assert near, name


@every_form
def test_float16_autocast_has_room_for_sums(kind, options):
    """For large and similar tokens, sums of 257 of their products exceed float16's largest number, 65504."""
    module = build(kind, options, width=48, dtype=torch.float32)
    # the released block multiplies three tokens and two maps: at 30 the product itself is out of range
    scale = 17 if options.get("variant") == "official" else 30
    x = scale * (1 + 0.1 * torch.randn(1, 257, 48))
    with torch.autocast("cpu", dtype=torch.float16):
        assert module(x).isfinite().all()


@every_form
@pytest.mark.parametrize("masked", [False, True])
def test_no_value_decides_what_is_computed(kind, options, masked):
    """Forward runs on tensors without values, so that on a GPU it waits for none.

    Causal Performer reads its denominators on the CPU only; meta stands for any other device.
    """
    module = build(kind, options)
    x, mask = torch.randn(5, 130, WIDTH, dtype=torch.float64), masks(5, 130) if masked else None
    if kind is Performer and module.causal:
        assert module.to("meta")(x.to("meta"), mask if mask is None else mask.to("meta")).shape == x.shape
        return
    module(x, mask)  # the first call of a length makes plans, and keeps them: they must be real
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [None if part is None else mode.from_tensor(part) for part in (x, mask)]
        assert module(*fakes).shape == x.shape


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@gpu
@pytest.mark.filterwarnings("default")
@every_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_on_cuda_is_finite(kind, options, dtype):
    module = build(kind, options, width=48, dtype=torch.float32).cuda()
    for mask in (None, masks(5, 150).cuda()):
        x = torch.randn(5, 150, 48, device="cuda", requires_grad=True)
        with torch.autocast("cuda", dtype=dtype):
            out = module(x, mask).float()
        out.square().mean().backward()
        assert out.isfinite().all()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.gpu
@gpu
@pytest.mark.filterwarnings("default")
@every_form
@pytest.mark.parametrize("masked", [False, True])
def test_forward_on_cuda_waits_for_nothing(kind, options, masked):
    """Except in the first call of a shape, which makes plans and kernels."""
    module = build(kind, options, width=48, dtype=torch.float32).cuda()
    x, mask = torch.randn(5, 150, 48, device="cuda"), masks(5, 150).cuda() if masked else None
    module(x, mask)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        module(x, mask)
    finally:
        torch.cuda.set_sync_debug_mode("default")

"""The audit on a device and in a dtype: where its tensors are, and what it compares with rounding."""

from __future__ import annotations

import pytest
import torch
from planted_bugs import Clean, IgnoresTheMask
from planted_pattern_bugs import Sums
from test_audit import (  # few_samples is a fixture
    PATTERN_CHECKS,
    ROUNDED,
    SMALL,
    few_samples,  # noqa: F401
)

from effbench import Unsupported
from effbench.common.spec import UsageError
from effbench.measured.audit import CHECKS, audit, cost_laws
from effbench.measured.audit.subject import Subject
from effbench.measured.probes.memory import self_test


class OnTheCpu(Clean):
    """Its constructor makes its parameters on the CPU, whatever torch's default device is."""

    def __init__(self, d_model, heads, *, max_len, causal=False, scale: float = 1.0):
        with torch.device("cpu"):
            super().__init__(d_model, heads, max_len=max_len, causal=causal, scale=scale)


@pytest.mark.parametrize("check", CHECKS)
def test_every_tensor_of_a_check_is_on_the_device_of_the_audit(check):
    """torch's default device is another one here, whose tensors can neither be read nor computed with."""
    self_test()
    with torch.device("meta"):
        kind = Sums if check in PATTERN_CHECKS else OnTheCpu
        (finding,) = audit(kind, **SMALL, checks=[check], device="cpu")
    assert finding.verdict == "pass", finding


def test_modules_and_inputs_are_made_on_the_device_and_in_the_dtype():
    meta = torch.device("meta")
    subject = Subject(
        kind=Clean, options={}, d_model=16, heads=2, seq_len=64, device=meta, dtype=torch.bfloat16
    )
    mask = subject.ragged_mask(4, 9)
    tensors = [subject.input(4, 9), subject.loss_weights(4, 9, mask), *subject.make().parameters()]
    assert {(t.device, t.dtype) for t in tensors} == {(meta, torch.bfloat16)}
    assert (mask.device, subject.make()(subject.input(4, 9), mask).device) == (meta, meta)


def test_memory_is_measured_by_the_probe_of_the_device(monkeypatch):
    asked: list[str] = []

    def peak(call, device):
        asked.append(device)
        return 8, "test"

    monkeypatch.setattr(cost_laws, "peak_bytes", peak)
    subject = Subject(kind=Clean, options={}, d_model=16, heads=2, seq_len=64, device=torch.device("cpu"))
    for check in (cost_laws.order_of_memory, cost_laws.memory_freed):
        check(subject)
    cost_laws.costs_of_training(subject, {})
    assert set(asked) == {"cpu"}
    assert len(asked) > 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_in_a_dtype_the_comparisons_run_once_more_with_its_rounding(dtype):
    added = [f"{name} in {dtype}" for name in ROUNDED]
    findings = audit(Clean, **SMALL, checks=[*ROUNDED, *added], dtype=dtype)
    assert [(f.check, f.verdict) for f in findings] == [(name, "pass") for name in (*ROUNDED, *added)]
    number = {f.check: f.number or 0.0 for f in findings}
    assert number["reference, forward"] < 1e-12 < 1e-9 < number[f"reference, forward in {dtype}"]


class RoundsPadding(Clean):
    """Right in float64; in half precision it forgets the mask."""

    def forward(self, x, mask=None):
        return super().forward(x, mask if x.dtype in (torch.float64, torch.float32) else None)


def test_a_bug_of_one_dtype_is_found_in_it_and_one_of_all_is_reported_once():
    checks = ["padding, forward", "padding, forward in bfloat16"]
    exact, rounded = audit(RoundsPadding, **SMALL, checks=checks, dtype="bfloat16")
    assert (exact.verdict, rounded.verdict) == ("pass", "fail")
    assert "real tokens change" in rounded.reason
    exact, rounded = audit(IgnoresTheMask, **SMALL, checks=checks, dtype="bfloat16")
    assert (exact.verdict, rounded.verdict) == ("fail", "n/a")
    assert rounded.reason == "not judged: 'padding, forward' fails, which explains it"
    with pytest.raises(UsageError, match="did you mean 'padding, forward'"):
        audit(Clean, **SMALL, checks=checks)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(Unsupported, match="finds no CUDA device"):
        audit(Clean, **SMALL, device="cuda")

"""The audit finds each planted bug by the check that is meant for it, and nothing in clean mechanisms."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Literal

import planted_bugs
import pytest
import torch
from planted_bugs import Clean
from planted_pattern_bugs import PATTERNS_FOUND_BY, Sums
from torch import nn

from effbench import Unsupported, assert_conforms
from effbench.cli import app as cli
from effbench.common import registry
from effbench.common.spec import UsageError
from effbench.measured.audit import CHECKS, audit, cost_laws

SMALL: dict[str, Any] = {"d_model": 16, "heads": 2, "seq_len": 256}
FOUND_BY: dict[type, str] = {**planted_bugs.FOUND_BY, **PATTERNS_FOUND_BY}
PLANTED = Path(planted_bugs.__file__)
ROUNDED = (
    "reference, forward", "reference, backward", "padding, forward", "padding, backward", "full mask",
    "causal", "batch",
)  # fmt: skip
PATTERN_CHECKS = ["steps", "rows of the state", "size of the state", "cross attention"]


def failed(kind, **changes):
    return {f.check: f.reason for f in audit(kind, **{**SMALL, **changes}) if f.verdict == "fail"}


@pytest.mark.parametrize("kind", FOUND_BY, ids=lambda kind: kind.__name__)
def test_each_planted_bug_is_found_by_its_check(kind):
    check = FOUND_BY[kind]
    reasons = failed(kind, checks=[check])
    assert list(reasons) == [check]
    assert reasons[check]


def test_every_check_has_a_planted_bug():
    meant = {*FOUND_BY.values(), "finite differences"}
    assert meant == set(CHECKS)


def test_the_clean_twin_passes_every_check():
    findings = audit(Clean, **SMALL)
    others = [f for f in findings if f.check not in PATTERN_CHECKS]
    assert {f.verdict for f in others} == {"pass"}, findings
    generating = audit(Sums, **SMALL, checks=PATTERN_CHECKS)
    assert [(f.check, f.verdict) for f in generating] == [(name, "pass") for name in PATTERN_CHECKS], (
        generating
    )


def test_what_has_no_steps_and_no_cross_form_says_so():
    findings = audit(Clean, **SMALL, checks=PATTERN_CHECKS)
    assert {(f.verdict, f.reason) for f in findings} == {
        ("n/a", "it has no step form: none is defined"),
        ("n/a", "it has no cross form: none is defined"),
    }


@pytest.mark.parametrize("name", ["WrongInputGradient", "WrongWeightGradient"])
def test_a_wrong_backward_is_found_without_a_reference(name):
    assert failed(getattr(planted_bugs, name), checks=["finite differences"])


# Windows and blocks that a short sequence outgrows, and a projection that is shorter than it.
NARROW = {
    "bigbird": {"block": 8},
    "linformer": {"k": 32},
    "longformer": {"window": 16},
    "poolingformer": {"window": 16, "pool_window": 32},
    "sinks": {"window": 16},
}
# Growth is fitted where lower orders are small, and half precision overflows in long sums.
LONG = [check for check in CHECKS if check.startswith(("order of", "finite in"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in registry.names("mechanism") if ":" not in name])
def test_every_mechanism_of_ours_passes(name):
    kind = registry.load(registry.find(name, "mechanism"))
    form = {"causal": True} if getattr(kind, "no_noncausal", "") else {}
    shape = {"options": {**NARROW.get(name, {}), **form}, "d_model": 32, "heads": 4}
    assert failed(kind, **shape, seq_len=130, checks=[c for c in CHECKS if c not in LONG]) == {}
    longest = 2048 if name == "vanilla" else 1024  # its kernel's buffers are large beside short sequences
    assert failed(kind, **shape, seq_len=longest, checks=LONG) == {}


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    """Time less at first: what fails is measured again, and the samples of all attempts count."""
    monkeypatch.setattr(cost_laws, "_TIME_ROUNDS", 1)
    monkeypatch.setattr(cost_laws, "_TIME_S", 0.01)


def test_the_audits_clock_never_jumps_over_a_wait(monkeypatch):
    """A wait between its two readings would else make an interval negative, and a calibration endless."""
    waits = iter([5, 30, 30, 30])
    monkeypatch.setattr(cost_laws, "waited_ns", lambda: next(waits))
    monkeypatch.setattr(time, "perf_counter_ns", iter([100, 125]).__next__)
    assert cost_laws._own_ns() == 125 - 30


class Bare(nn.Module):
    """Declares nothing, has no options and no use for a mask."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__()
        if causal:
            raise Unsupported("not written")
        self.linear = nn.Linear(d_model, d_model)

    def forward(self, x, mask=None):
        return self.linear(x).tanh()


def test_what_is_not_declared_is_not_applicable_and_says_so():
    findings = {f.check: f for f in audit(Bare, **SMALL)}
    reasons = {name: f.reason for name, f in findings.items() if f.verdict == "n/a"}
    assert reasons == {
        "reference, forward": "declares no reference",
        "reference, backward": "declares no reference",
        "causal": "not written",
        "steps": "not written",
        "rows of the state": "not written",
        "size of the state": "not written",
        "cross attention": "it has no cross form: none is defined",
        "options": "it has no options",
        "forward FLOPs": "forward_flops is not declared",
        "train FLOPs": "train_flops is not declared",
        "useful FLOPs": "useful_flops is not declared",
        "order of FLOPs": "order is not declared",
        "order of memory": "memory_order is not declared",
        "order of time": "order is not declared",
        "saved bytes": "saved_bytes is not declared",
    }
    assert {f.verdict for f in findings.values()} == {"n/a", "pass"}
    assert findings["permutation"].reason == "measured equivariant; not declared"


class Dropping(Clean):
    """Dropout is no lack of determinism, and no option that does nothing."""

    def __init__(self, d_model, heads, *, max_len, causal=False, dropout: float = 0.1):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask=None):
        return self.dropout(super().forward(x, mask))


class CachesPositions(Clean):
    """A buffer that is made at the first call holds no state of a call."""

    ones: torch.Tensor

    def forward(self, x, mask=None):
        if not hasattr(self, "ones"):
            self.register_buffer("ones", torch.ones(self.max_len, 1, dtype=x.dtype), persistent=False)
        return super().forward(x, mask) * self.ones[: x.shape[1]]


class Chunked(Clean):
    """An option may change the costs alone."""

    def __init__(self, d_model, heads, *, max_len, causal=False, whole: bool = True):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.whole = whole

    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        if not self.whole:
            x.new_empty(1 << 20)
        return out


class Switched(Clean):
    """With power=0, scale has nothing to act on; that is no dead option."""

    def __init__(self, d_model, heads, *, max_len, causal=False, scale: float = 1.0, power: int = 1):
        super().__init__(d_model, heads, max_len=max_len, causal=causal, scale=scale * power)


class Named(Clean):
    """size=usual is small here and large there: a name for either choice, and yet an option that acts."""

    def __init__(
        self,
        d_model,
        heads,
        *,
        max_len,
        causal=False,
        kind: Literal["here", "there"] = "here",
        size: Literal["usual", "small", "large"] = "usual",
    ):
        usual = "small" if kind == "here" else "large"
        scale = {"small": 1.0, "large": 2.0}[usual if size == "usual" else size]
        super().__init__(d_model, heads, max_len=max_len, causal=causal, scale=scale + 4 * (kind == "there"))


class Growing(Clean):
    """Declares more than it costs, which is no lie: at these lengths lower orders may dominate."""

    order = 2.0
    memory_order = 2.0


class HiddenSchema(Clean):
    def __init__(self, d_model, heads, **options):
        super().__init__(d_model, heads, **options)


@pytest.mark.parametrize(
    ("kind", "check", "verdict", "reason"),
    [
        (Dropping, "deterministic", "pass", "draws from torch's generator"),
        (Dropping, "batch", "pass", ""),
        (Dropping, "options", "pass", "dropout"),
        (CachesPositions, "hidden state", "pass", ""),
        (CachesPositions, "memory freed", "pass", ""),
        (Chunked, "options", "pass", "whole"),
        (Named, "options", "pass", "kind, size"),
        (HiddenSchema, "options", "n/a", "cannot be read from its source"),
        (Growing, "order of FLOPs", "pass", "lower-order terms dominate"),
        (Growing, "order of memory", "pass", "lower-order terms dominate"),
        (Growing, "order of time", "pass", "lower-order terms dominate"),
    ],
)
def test_what_is_no_bug_is_not_called_one(kind, check, verdict, reason):
    (finding,) = audit(kind, **SMALL, checks=[check])
    assert finding.verdict == verdict, finding
    assert reason in finding.reason


def test_an_option_may_be_switched_off_by_another():
    assert failed(Switched, options={"power": 0}, checks=["options"]) == {}


@pytest.mark.parametrize(
    "options", [{"size": "small"}, {"kind": "there"}, {"kind": "there", "size": "large"}]
)
def test_a_choice_may_stand_for_another_that_a_second_option_decides(options):
    assert failed(Named, options=options, checks=["options"]) == {}


def test_a_position_that_makes_no_difference_is_neither_passed_nor_failed():
    class Unsure(Clean):
        equivariant = False

    (finding,) = audit(Unsure, **SMALL, checks=["permutation"])
    assert finding.verdict == "n/a"
    assert "permuting makes no difference" in finding.reason


def test_a_short_longest_length_is_never_exceeded():
    class Short(Clean):
        def __init__(self, d_model, heads, *, max_len, causal=False):
            if max_len > 10:
                raise Unsupported("only 10 tokens fit")
            super().__init__(d_model, heads, max_len=max_len, causal=causal)

        def forward(self, x, mask=None):
            assert x.shape[1] <= self.max_len
            return super().forward(x, mask)

    assert failed(Short, seq_len=10) == {}
    with pytest.raises(Unsupported, match="only 10 tokens"):
        audit(Short, **SMALL)


def test_a_check_that_raises_has_failed_and_says_where():
    class Raises(Clean):
        def forward(self, x, mask=None):
            raise RuntimeError("deliberate failure")

    findings = {f.check: f for f in audit(Raises, **SMALL, checks=["full mask", "batch"])}
    assert findings["full mask"].verdict == "fail"
    assert "RuntimeError: deliberate failure (test_audit.py:" in findings["full mask"].reason
    assert findings["batch"].verdict == "n/a", "one line of code is one cause, and is shown once"
    assert findings["batch"].reason == "not judged: 'full mask' fails, which explains it"


def test_assert_conforms_names_each_failed_check():
    assert_conforms(Clean, **SMALL, checks=["padding, forward", "full mask"])
    with pytest.raises(AssertionError, match="IgnoresTheMask is not what it says it is:\n  padding, forward"):
        assert_conforms(planted_bugs.IgnoresTheMask, **SMALL, checks=["padding, forward", "full mask"])
    with pytest.raises(UsageError, match="did you mean 'full mask'"):
        assert_conforms(Clean, **SMALL, checks=["ful mask"])


def test_an_audit_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    audit(Clean, **SMALL, checks=["full mask", "hidden state"])
    assert torch.equal(torch.rand(4), expected)


def command(monkeypatch, capsys, *arguments):
    """(exit code, standard output, standard error) of effbench audit."""
    small = ("--d-model", "16", "--heads", "2", "--seq-len", "128")
    monkeypatch.setattr(sys, "argv", ["effbench", "audit", *small, *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return ended.value.code or 0, printed.out, printed.err


def test_the_command_says_what_failed_and_outlives_a_crash(monkeypatch, capsys, plugin):
    crash, bug = plugin("Segfault"), f"{PLANTED}:IgnoresTheMask:scale=0.5"
    code, out, _ = command(monkeypatch, capsys, crash, bug, "--format", "json")
    assert code == 6
    audits = {entry["mechanism"]: entry["findings"] for entry in json.loads(out)}
    assert list(audits) == [crash, bug]
    (finding,) = audits[crash]
    assert (finding["check"], finding["verdict"]) == ("audit", "fail")
    assert finding["reason"].startswith("crashed: SIGSEGV")
    assert finding["reason"].endswith("while checking 'shape and dtype'")
    assert [f["check"] for f in audits[bug]] == list(CHECKS)
    assert "padding, forward" in [f["check"] for f in audits[bug] if f["verdict"] == "fail"]
    assert not list(Path().iterdir())


def test_the_command_prints_a_table_and_exits_with_0(monkeypatch, capsys, plugin):
    code, out, err = command(monkeypatch, capsys, f"{PLANTED}:Clean")
    assert code == 0
    assert all(name in out for name in CHECKS)
    sentences = " ".join(out.split())  # a long path breaks the line anywhere
    assert f"{len(CHECKS) - 4} passed, 0 failed, 4 not applicable" in sentences  # the four of patterns
    assert "Clean ..." in err


def test_the_command_runs_the_comparisons_in_a_dtype_too(monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, f"{PLANTED}:Clean", "--dtype", "bfloat16")
    assert code == 0
    sentences = " ".join(out.split())
    assert f"{len(CHECKS) + len(ROUNDED) - 4} passed, 0 failed, 4 not applicable" in sentences


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_without_cuda_the_command_says_so_in_one_line(monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "linear", "fastformer", "--device", "cuda")
    assert (code, out) == (2, "")
    assert err.startswith("effbench: device 'cuda': torch ")
    assert err.endswith("finds no CUDA device here; choose cpu\n")
    assert err.count("\n") == 1


def test_several_mechanisms_stand_side_by_side_with_reasons_below():
    from rich.console import Console

    from effbench.show.audit_table import audit_tables

    def finding(check, verdict, reason=""):
        return {"check": check, "verdict": verdict, "reason": reason, "number": None}

    audits = {
        "one": [finding("batch", "pass"), finding("causal", "n/a", "not written")],
        "two": [finding("batch", "fail", "mixes [them]"), finding("causal", "n/a", "not written")],
        "three": [finding("audit", "fail", "crashed: SIGSEGV")],
    }
    console = Console(width=100)
    with console.capture() as captured:
        console.print(audit_tables(audits))
    text = captured.get()
    for part in (
        "fail  batch: mixes [them] (two)", "fail  audit: crashed: SIGSEGV (three)",
        "n/a  causal: not written (one, two)", "one: 1 passed, 0 failed, 1 not applicable",
    ):  # fmt: skip
        assert part in text
    with console.capture() as captured:
        console.print(audit_tables({f"{name}{'.' * 50}": findings for name, findings in audits.items()}))
    assert f"2  two{'.' * 50}: 0 passed, 1 failed" in captured.get()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["fastfromer"], "did you mean 'fastformer'?"),
        (["fastformer:colour=red"], "unknown option of fastformer 'colour'"),
        (["vanilla", "--heads", "3"], "heads 3 does not divide d_model 16"),
        (["vanilla", "--seq-len", "0"], "seq_len '0' is not a whole number"),
        (["vanilla", "--timeout", "never"], "'never' is not a time"),
        (["vanilla", "--format", "xml"], "format 'xml' is not one of table, json"),
        (["vanilla", "--device", "tpu"], "device 'tpu' is not cpu, cuda or cuda:N"),
        (["vanilla", "--dtype", "int8"], "dtype 'int8' is not one of float32, float64, bfloat16, float16"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, complaint, monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1

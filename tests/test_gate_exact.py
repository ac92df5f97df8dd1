"""The exact figures' defaults: a harmless rewrite passes them, and what really grows does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effbench.common.spec import Cell
from effbench.gate.checkout import Tree
from effbench.gate.exact import ALIGNMENT_BYTES, DEFAULTS, FIGURES, compare, figure
from effbench.gate.judge import judge
from effbench.gate.settings import read

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F


class A(nn.Module):
    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(d_model, d_model) for _ in range(4))
        self.shift = nn.Parameter(torch.zeros(d_model))

    def _heads(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, mask=None):
        q = self._heads(self.query(x))
        k = self._heads(self.key(x))
        v = self._heads(self.value(x))
        scores = q @ k.mT * 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], -1e9)
        weights = F.softmax(scores, dim=-1)
        mixed = weights @ v
        out = self.out(mixed.transpose(1, 2).flatten(2))
        out = out + self.shift
        return out
"""
QUERY, KEY, VALUE = (f"        {n[0]} = self._heads(self.{n}(x))\n" for n in ("query", "key", "value"))
# Replacements that make the head: rewrites that do the same work in other words ...
HARMLESS = {
    "views": [
        ("mixed.transpose(1, 2).flatten(2)", "mixed.transpose(1, 2).flatten(2).view(x.shape)"),
        ("weights @ v", "(weights @ v).reshape(*v.shape)"),
        ("x.unflatten(-1, (self.heads, -1))", "x.view(*x.shape[:2], self.heads, -1)"),
    ],
    "other words": [
        ("F.softmax(scores, dim=-1)", "scores.softmax(-1)"),
        (QUERY + KEY + VALUE, VALUE + QUERY + KEY),
        ("        return out\n", "        return out * torch.ones(())\n"),
    ],
    "in place": [("out = out + self.shift", "out.add_(self.shift)")],
}
# ... and more work, or more memory.
GROWN = {
    "a copy of the input": [("        q = ", "        x = x.clone()\n        q = ")],
    "twice the product": [("mixed = weights @ v", "mixed = (weights @ v + weights @ v) / 2")],
    "a wider projection": [("self.out = (nn.Linear(d_model, d_model) for _ in range(4))",
                           "self.out = (nn.Linear(d_model, d_model) for _ in range(4))\n"
                           "        self.out = nn.Sequential(self.out, nn.Linear(d_model, d_model))")],
    "a parameter more": [("torch.zeros(d_model))", "torch.zeros(d_model))\n"
                         "        self.scale = nn.Parameter(torch.ones(()))")],
    "more kept for backward": [("        mixed =", "        weights = weights.exp().log()\n        mixed =")],
}  # fmt: skip
# Baselines inside a wrapper, which in the base does nothing, and in the head something harmless or costly.
WRAPPED = {"views vanilla": "Vanilla", "views fastformer": "Fastformer", "copies fastformer": "Fastformer"}
WRAPPER = """
from baselines.attention.{module} import {name}


class A({name}):
    def forward(self, x, mask=None):
        return {result}
"""
RESULTS = {
    "plain": "super().forward(x, mask)",
    "views": "super().forward(x.view(*x.shape), mask).reshape(x.shape)",
    "copies": "super().forward(x.clone(), mask)",
}


def label(name):
    return f"{name.replace(' ', '_').replace(':', '_')}.py:A"


@pytest.mark.slow
def test_harmless_rewrites_pass_and_what_really_grows_does_not(tmp_path):
    """One gate over all of them."""
    base, head = tmp_path / "base", tmp_path / "head"
    texts: dict[str, tuple[str, ...]] = {}
    for name, replacements in (HARMLESS | GROWN).items():
        rewritten = SOURCE
        for old, new in replacements:
            assert old in rewritten
            rewritten = rewritten.replace(old, new)
        texts[name] = (SOURCE, rewritten)
    for name, wrapped in WRAPPED.items():
        kind, module = name.split()
        texts[name] = tuple(
            WRAPPER.format(module=module, name=wrapped, result=RESULTS[result]) for result in ("plain", kind)
        )
    for folder, side in ((base, 0), (head, 1)):
        folder.mkdir()
        for name, both in texts.items():
            assert both[0] != both[1]
            (folder / label(name)[:-2]).write_text(both[side])
    shape = {"seq_len": 64, "d_model": 32, "heads": 4, "mode": "train", "time": False}
    settings = read(head, None, {"mechanism": [label(name) for name in texts], **shape})
    report = judge(settings, Tree(root=head, label="head"), Tree(root=base, label="base"))
    assert report.comparisons == ()

    figures = {(each.cell.mechanism, each.name): each for each in report.figures}
    assert set(figures) == {(label(name), figure) for name in texts for figure in FIGURES}
    failing = {name for name in texts if any(figures[label(name), figure].fails for figure in FIGURES)}
    assert failing == {*GROWN, "copies fastformer"}
    for name in ("views", "other words"):
        ops = figures[label(name), "ops"]
        assert ops.base is not None
        assert ops.head is not None
        assert ops.head > ops.base, "it is shown, and passes"


# The rules, on numbers.

CELL = Cell(mechanism="a.py:A", probe="time", seq_len=16)


def test_the_defaults_are_one_unit_of_memory_and_nothing_else():
    assert set(DEFAULTS) == set(FIGURES)
    for device, unit in (("cpu", 64), ("cuda", 512), ("cuda:1", 512)):
        cell = Cell(mechanism="a.py:A", probe="time", seq_len=16, device=device)
        for name in FIGURES:
            most = {"peak_bytes": unit, "saved_bytes": unit, "ops": 10**9}.get(name, 0)
            assert not figure(cell, name, 1000, 1000 + most, DEFAULTS[name]).fails
            assert figure(cell, name, 1000, 1001 + most, DEFAULTS[name]).fails == (name != "ops")
    assert ALIGNMENT_BYTES == {"cpu": 64, "cuda": 512}


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 100))
def test_a_share_is_a_share(base, head, percent):
    """In whole numbers, where nothing is rounded."""
    judged = figure(CELL, "flops", base, head, percent / 100)
    assert judged.fails == (100 * head > (100 + percent) * base)
    assert (judged.tolerance, judged.tolerance_bytes) == (percent / 100, None)


def test_what_one_side_lacks_is_no_equal():
    base, head = {"flops": 3, "ops": {}}, {"peak_bytes": 7, "ops": {}}
    figures = {each.name: each for each in compare(CELL, base, head, DEFAULTS)}
    assert set(figures) == {"flops", "peak_bytes", "ops"}
    assert (figures["flops"].head, figures["flops"].detail) == (None, "the head has none")
    assert (figures["peak_bytes"].base, figures["peak_bytes"].detail) == (None, "the base has none")
    assert not any(each.fails for each in figures.values())

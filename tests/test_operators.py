"""Every operator of torch is counted or named, and none that sums products passes for another kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from effbench.measured.probes.elementwise import other_work
from effbench.measured.probes.flops import count_work
from effbench.measured.probes.kernels import operator_of
from effbench.measured.probes.products import PRODUCTS

ROOT = Path(__file__).parent.parent
# Sums of products inside of an element-wise or normalising function: they stand in its rate per number
# (docs/method.md). A cross product has three numbers.
RATED = {
    "aten::_softmax_backward_data", "aten::_weight_norm_interface", "aten::_weight_norm_interface_backward",
    "aten::dist", "aten::linalg__powsum", "aten::linalg_cross", "aten::var",
}  # fmt: skip


@pytest.fixture(scope="module")
def called():
    """Return what ``operators.py`` prints. A kernel that ends the process is skipped, up to four times."""
    results, after = [], ""
    for _ in range(5):
        run = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "operators.py"), after],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        results += [json.loads(line) for line in run.stdout.splitlines()]
        if run.returncode == 0:
            return results
        assert run.returncode < 0, run.stderr[-2000:]
        names = [line for line in run.stderr.splitlines() if "::" in line and " " not in line]
        after = names[-1]
    raise AssertionError("operators that end the process: see UNCHECKED in tests/operators.py")


@pytest.mark.slow
def test_what_sums_products_is_counted_or_named(called):
    assert len(called) > 900
    assert not [call for call in called if "error" in call]
    products = [call for call in called if call["sums_products"]]
    names = {call["operator"].partition(".")[0] for call in products}
    expected = (
        "mm bmm addmm baddbmm addbmm mv dot vdot linear conv1d conv2d cdist bilinear tensordot _foreach_mm"
    )
    here = {f"aten::{name}" for name in expected.split() if hasattr(torch.ops.aten, name)}
    assert here <= names  # the search finds what it should
    assert not names & {"aten::mul", "aten::add", "aten::softmax", "aten::native_layer_norm", "aten::cat"}
    for call in products:
        operator = operator_of(*call["operator"].partition(".")[::2])
        rated = call["operator"].startswith("aten::") and other_work(operator) is not None
        made_of_rated = not rated and call["other"] > 0 and call["operator"].startswith("aten::")
        assert (
            call["flops"] > 0
            or call["uncounted"]
            or made_of_rated  # such as a product and then a sum: each was walked by itself
            or (operator is not None and operator._schema.name in RATED)
        ), call


def test_no_operator_of_one_table_stands_in_another():
    for name in PRODUCTS:
        operator = operator_of(name) if name.startswith("aten::") else None
        if operator is None:  # another version of torch has it
            continue
        work = other_work(operator)
        assert work is None or "backward" in name or "attention" in name or "rnn" in name, name


def test_what_works_in_place_is_counted_as_what_does_not():
    checked = 0
    for full in torch._C._dispatch_get_all_op_names():
        name, _, overload = full.partition(".")
        operator = operator_of(name, overload) if name.startswith("aten::") and name.endswith("_") else None
        twin = operator and operator_of(name.rstrip("_"), overload)
        if not operator or not twin or not operator._schema.is_mutable or name.startswith("aten::__"):
            continue
        assert (other_work(operator) is None) == (other_work(twin) is None), name
        checked += 1
    assert checked > 200


def test_what_is_added_into_places_counts_what_is_added():
    few, many = torch.zeros(4, 8), torch.zeros(1000, 8)
    places, rows = torch.arange(1000) % 4, torch.ones(1000, 8)
    wide = places[:, None].expand(-1, 8)
    assert count_work(lambda: few.index_add(0, places, rows)).other == 8000
    assert count_work(lambda: many.index_add(0, places[:1], rows[:1])).other == 8
    assert count_work(lambda: few.scatter_add(0, wide, rows)).other == 8000
    assert count_work(lambda: many.scatter_reduce(0, wide[:1], rows[:1], "amax")).other == 8
    assert count_work(lambda: few.index_put((places,), rows, accumulate=True)).other == 8000
    assert count_work(lambda: many.index_put((places,), rows)).other == 0
    x = torch.ones(1000)
    assert count_work(lambda: x * x).bytes_moved == 2 * 4000
    assert count_work(lambda: x * x.clone()).bytes_moved == 5 * 4000


def test_another_library_does_not_inherit_aten_rates():
    assert operator_of("quantized::add") is not None
    from effbench.measured.probes.flops import _rule

    assert not _rule(operator_of("quantized::mul"), "QuantizedCPU").known
    assert not _rule(operator_of("_test::cat"), "CPU").known

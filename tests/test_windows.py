"""The windows of blocks: each has all that its block may see, and no row that is not there."""

from __future__ import annotations

import pytest
import torch
from torch.fx import GraphModule

from baselines.attention._windows import _backward_operator, _forward_operator, attend_in_windows, runs
from baselines.attention.longformer import Longformer

BLOCK = 4


@pytest.mark.parametrize(("before", "after"), [(8, 8), (5, 3), (7, 0), (1, 9), (0, 0)])
@pytest.mark.parametrize("most", [None, 1, 2])
@pytest.mark.parametrize("unseen", [(0, 0), (1, 0), (9, 3)])
@pytest.mark.parametrize("blocks", [6, 7, 9, 30])
def test_each_block_has_one_window_that_holds_what_it_may_see(before, after, most, unseen, blocks):
    rows, keys = blocks * BLOCK, BLOCK + before + after
    seen = (unseen[0], rows - unseen[1])
    found = runs(rows, BLOCK, keys, before, seen)
    found = [piece for run in found for piece in (run.pieces(most) if most else [run])]
    assert [i for run in found for i in range(run.blocks.start, run.blocks.stop)] == list(range(blocks))
    for run in found:
        assert 1 <= run.number <= (most or blocks)
        for i in range(run.blocks.start, run.blocks.stop):
            start = run.start + (i - run.blocks.start) * run.step
            assert 0 <= start <= max(0, i * BLOCK - before)
            assert min(rows, (i + 1) * BLOCK + after) <= start + keys <= rows
            if run.alike:
                assert start == i * BLOCK - before
                assert seen[0] <= start
                assert start + keys <= seen[1]
    assert blocks < 30 or any(run.alike for run in found)


@pytest.mark.parametrize("seen", [(2, 48), (0, 0)])
@pytest.mark.parametrize(("before", "after"), [(8, 8), (5, 3), (7, 0)])
def test_gradients_are_those_of_the_numbers(before, after, seen):
    torch.manual_seed(0)
    blocks, keys = 12, BLOCK + before + after
    qkv = torch.randn(blocks * BLOCK, 3, 1, 2, dtype=torch.float64, requires_grad=True)
    allowed = []
    for run in runs(blocks * BLOCK, BLOCK, keys, before, seen):
        part = torch.zeros(1 if run.alike else run.number, BLOCK, keys, dtype=torch.float64)
        part[torch.rand(part.shape) < 0.5] = -torch.inf
        part[..., 0] = 0  # each query sees a key
        allowed.append(part)
    whole = torch.tensor([0.0, -torch.inf], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: attend_in_windows(x, allowed, whole, before=before, seen=seen), qkv
    )


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiler_sees_one_operator_with_true_shapes(count, dtype):
    torch.manual_seed(0)
    blocks, before, after, seen = 12, 5, 3, (count, 48)
    keys = BLOCK + before + after
    qkv = torch.randn(blocks * BLOCK, 3, 2, 8, dtype=dtype)
    allowed = [
        torch.zeros(1 if run.alike else run.number, BLOCK, keys, dtype=dtype)
        for run in runs(blocks * BLOCK, BLOCK, keys, before, seen)
    ]
    given = (qkv, torch.zeros(count, dtype=dtype), before, seen, allowed)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(_forward_operator, given, test_utils=checks)
    saved = _forward_operator(*given)
    given = (torch.randn_like(saved[0]), qkv, *saved, before, seen, allowed)
    torch.library.opcheck(_backward_operator, given, test_utils=checks)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own
def test_the_compilers_graph_does_not_grow_with_the_length():
    sizes = []

    def count(graph, inputs):
        parts = [part for part in graph.modules() if isinstance(part, GraphModule)]  # backward is one
        sizes.append(sum(len(part.graph.nodes) for part in parts))
        return graph.forward

    for n in (128, 1024):
        module = torch.compile(Longformer(32, 2, max_len=n, window=16), backend=count, dynamic=False)
        module(torch.randn(1, n, 32))
    assert len(sizes) == 2
    assert sizes[0] == sizes[1] > 0

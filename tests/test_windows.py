"""The windows of blocks: each has all that its block may see, and no row that is not there."""

from __future__ import annotations

import pytest
import torch

from baselines.attention._windows import attend_in_windows, runs

BLOCK = 4


@pytest.mark.parametrize(("before", "after"), [(8, 8), (5, 3), (7, 0), (1, 9), (0, 0)])
@pytest.mark.parametrize("most", [None, 1, 2])
@pytest.mark.parametrize("blocks", [5, 6, 9, 30])
def test_each_block_has_one_window_that_holds_what_it_may_see(before, after, most, blocks):
    rows, keys = blocks * BLOCK, BLOCK + before + after
    found = runs(rows, BLOCK, keys, before, most)
    assert [i for run in found for i in range(run.blocks.start, run.blocks.stop)] == list(range(blocks))
    for run in found:
        assert run.number <= (most or blocks)
        for i in range(run.blocks.start, run.blocks.stop):
            start = run.start + (i - run.blocks.start) * run.step
            assert 0 <= start <= max(0, i * BLOCK - before)
            assert min(rows, (i + 1) * BLOCK + after) <= start + keys <= rows


@pytest.mark.parametrize(("before", "after"), [(8, 8), (5, 3), (7, 0)])
def test_gradients_are_those_of_the_numbers(before, after):
    torch.manual_seed(0)
    blocks, keys = 6, BLOCK + before + after
    qkv = torch.randn(blocks * BLOCK, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    allowed = torch.zeros(blocks, BLOCK, keys, dtype=torch.float64)
    allowed[torch.rand(allowed.shape) < 0.5] = -torch.inf
    allowed[..., 0] = 0  # each query sees a key
    whole = torch.tensor([0.0, -torch.inf], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: attend_in_windows(x, allowed, whole, before=before), qkv)

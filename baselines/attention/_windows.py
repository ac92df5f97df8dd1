"""Overlapping windows of a sequence as views: what a block of queries may see, without copying it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def strided_windows(part_rhd: Tensor, blocks: int, block: int, keys: int) -> Tensor:
    """[rows, heads, d] -> [blocks, heads, keys, d]: window i starts at row i block; needs no copy.

    rows >= (blocks - 1) block + keys. The gradient adds the overlaps back.
    """
    return _Windows.apply(part_rhd, blocks, block, keys)  # type: ignore[no-any-return, no-untyped-call]


class _Windows(torch.autograd.Function):
    """[rows, heads, d] -> [blocks, heads, keys, d], a block of rows apart: overlapping views, no copies.

    Its gradient adds the overlaps back, a block of each window at a time; autograd's own does it number by
    number.
    """

    @staticmethod
    def forward(context: Any, part_rhd: Tensor, blocks: int, block: int, keys: int) -> Tensor:
        rows, heads, d = part_rhd.shape
        context.sizes = rows, blocks, block
        row, head, one = part_rhd.stride()
        return part_rhd.as_strided((blocks, heads, keys, d), (block * row, head, row, one))

    @staticmethod
    def backward(context: Any, gradient_bhkd: Tensor) -> tuple[Tensor, None, None, None]:
        rows, blocks, block = context.sizes
        _, heads, keys, d = gradient_bhkd.shape
        out = gradient_bhkd.new_zeros(rows + block, heads, d)
        for first in range(0, keys, block):
            part = gradient_bhkd[:, :, first : first + block].transpose(1, 2)
            out[first : first + blocks * block].unflatten(0, (blocks, block))[:, : part.shape[1]] += part
        return out[:rows], None, None, None

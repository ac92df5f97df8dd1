"""Floating-point operations of a call: torch's counter, with formulas for what it does not know."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
Shape = tuple[int, ...]


def count_flops(call: Callable[[], object]) -> int:
    """FLOPs of the matrix products that ``call()`` executes; a multiply-add counts 2.

    Softmax, element-wise work, reductions and biases are left out. Attention kernels count as executed:
    two products forward, five backward (the scores are computed again), masked or causal entries in full.
    Runs the call once; never call this while timing.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    with counter:
        call()
    return int(counter.get_total_flops())


# torch's counter has no formula for these (2.13): they would count as 0. It passes shapes for tensors.


def _attention(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    batch, heads, n, d_key = query
    m, d_value = key[-2], value[-1]
    return 2 * batch * heads * n * m * (d_key + d_value)


def _attention_backward(
    grad: Shape, query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any
) -> int:
    batch, heads, n, d_key = query
    m, d_value = key[-2], value[-1]
    # scores again, then dV = P^T dO, dP = dO V^T, dQ = dS K, dK = dS^T Q
    return 2 * batch * heads * n * m * (3 * d_key + 2 * d_value)


def _mv(matrix: Shape, vector: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(matrix)


def _dot(left: Shape, right: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(left)


def _addmv(bias: Shape, matrix: Shape, vector: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(matrix)


def _outer(bias: Shape, left: Shape, right: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(left) * prod(right)


def _addbmm(bias: Shape, left: Shape, right: Shape, *args: Any, **kwargs: Any) -> int:
    batch, n, k = left
    return 2 * batch * n * k * right[-1]


def _native_multi_head_attention(query: Shape, *args: Any, **kwargs: Any) -> int:
    """The fused inference path of nn.MultiheadAttention: four projections, two products."""
    batch, n, width = query
    return 2 * batch * n * width * 4 * width + 4 * batch * n * n * width


_FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.mv: _mv,
    aten.dot: _dot,
    aten.vdot: _dot,
    aten.addmv: _addmv,
    aten.addr: _outer,
    aten.addbmm: _addbmm,
    aten._native_multi_head_attention: _native_multi_head_attention,
}

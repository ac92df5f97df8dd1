"""FLOPs of the operators that sum products, by formula: matrix products, convolutions, attention.

A formula takes a call's arguments by the names in the operator's schema, and its result. It returns the FLOPs
that the kernel executes on real numbers, a multiply-add being 2, or None where they cannot be known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from effbench.measured.probes.tensors import is_sparse, stored

Arguments = Mapping[str, Any]
Formula = Callable[[Arguments, Any], int | None]
# A complex multiply-add is four real ones: 8 FLOPs for 2.
COMPLEX = 4


def _size(shape: Iterable[int]) -> int:
    return int(math.prod(shape))


def _product(left: str, right: str) -> Formula:
    """Count left [..., n, k] times right [..., k, m], or times a packed weight without a name here."""
    return lambda a, out: _multiplied(a[left], a.get(right), out)


def _multiplied(left: Tensor, right: Tensor | None, out: Any) -> int | None:
    if right is not None and is_sparse(left):
        return _both_sparse(left, right) if is_sparse(right) else 2 * stored(left) * right.shape[-1]
    if right is not None and is_sparse(right):
        return 2 * stored(right) * _size(left.shape[:-1])
    return 2 * int(out.numel()) * left.shape[-1]


def _both_sparse(left: Tensor, right: Tensor) -> int | None:
    """Count each stored number of the left with the stored row of the right that its column names."""
    if left.layout is torch.sparse_coo and right.layout is torch.sparse_coo and left.dim() == 2:
        columns, rows = left._indices()[1], right._indices()[0]
    elif left.layout is torch.sparse_csr and right.layout is torch.sparse_csr and left.dim() == 2:
        columns, sizes = left.col_indices(), right.crow_indices().diff()
        return 2 * int(sizes[columns.long()].sum())
    else:
        return None
    return 2 * int(torch.bincount(rows, minlength=left.shape[1])[columns].sum())


def _batches_added(a: Arguments, out: Any) -> int:
    batch, n, k = a["batch1"].shape
    return 2 * int(batch * n * k * a["batch2"].shape[-1])


def _all_of(name: str) -> Formula:
    """Count one multiply-add per number of an operand: matrix times vector, scalar products."""
    return lambda a, out: 2 * stored(a[name])


def _outer(a: Arguments, out: Any) -> int:
    return 2 * int(a["vec1"].numel() * a["vec2"].numel())


def _sampled(a: Arguments, out: Any) -> int:
    return 2 * stored(a["self"]) * int(a["mat1"].shape[-1])


def _reduced(a: Arguments, out: Any) -> int:
    return 2 * stored(a["self"]) * int(a["other"].shape[-1])


def _reduced_backward(a: Arguments, out: Any) -> int:
    return 2 * stored(a["self"]) * int(a["grad_out"].shape[-1]) * sum(a["output_mask"])


def _grouped(a: Arguments, out: Any) -> int:
    """Count products of matrices whose rows, columns or inner dimension ``offs`` cuts into groups.

    What lies beyond the last group is not computed.
    """
    left, right = a["self"], a["mat2"]
    n, k, m = left.shape[-2], left.shape[-1], right.shape[-1]
    if a["offs"] is None:
        return 2 * _size(left.shape) * int(m)
    cut = int(a["offs"][-1])
    if left.dim() == right.dim() == 2:
        return 2 * cut * int(n * m)
    return 2 * cut * int(k * (m if left.dim() == 2 else n))


def _each(a: Arguments, out: Any) -> int:
    pairs = zip(a["self"], a["mat2"], strict=True)
    return 2 * sum(int(left.numel() * right.shape[-1]) for left, right in pairs)


def _combined(a: Arguments, out: Any) -> int:
    """Count sums of the matrices in ``input``, each with its own coefficients."""
    return 2 * int(a["coefficients"].numel()) * _size(a["input"].shape[1:])


def _bag(rows: str) -> Formula:
    """Count weighted sums of rows of an embedding; without weights there are no products."""

    def flops(a: Arguments, out: Any) -> int:
        weighted = a.get("per_sample_weights", True) is not None
        return 2 * int(a["indices"].numel() * a[rows].shape[-1]) if weighted else 0

    return flops


def _linear_backward(left: str) -> Formula:
    """Count the requested gradients of input and weight, each a product as large as the layer's."""
    return lambda a, out: 2 * a["grad_output"].numel() * a[left].shape[-1] * sum(a["output_mask"][:2])


def _linear_gradient(other: str) -> Formula:
    return lambda a, out: 2 * a["grad_output"].numel() * a[other].shape[-1]


def _convolution(x: str, weight: str = "weight", transposed: bool = False) -> Formula:
    """Count each filter at each position, of the input if transposed; padding counts like data."""

    def flops(a: Arguments, out: Any) -> int:
        flat = a[x] if a.get("transposed", transposed) else out
        channels = 1 if flat.dim() == a[weight].dim() - 1 else 2  # without or with a dimension of the batch
        batch = 1 if channels == 1 else flat.shape[0]
        return 2 * int(batch) * _size(flat.shape[channels:]) * _size(a[weight].shape)

    return flops


def _convolution_backward(x: str) -> Formula:
    """Count once or twice the forward product: for the input, for the filters."""

    def flops(a: Arguments, out: Any) -> int:
        grad = a["grad_output"]
        positions = a[x].shape[2:] if a.get("transposed", False) else grad.shape[2:]
        return 2 * int(grad.shape[0]) * _size(positions) * _size(a["weight"].shape) * sum(_wanted(a)[:2])

    return flops


def _wanted(a: Arguments) -> list[bool]:
    """Return which gradients a backward kernel computes; one with ``out`` arguments computes all."""
    return list(a["output_mask"]) if "output_mask" in a else [True, True, True]


def _convolution_over_time(a: Arguments, out: Any) -> int:
    return 2 * int(out.numel()) * _size(a["weight"].shape[:2])


def _packed_convolution(a: Arguments, out: Any) -> int | None:
    """Count a quantised convolution, whose filters [out, in / groups, ...] are packed with their bias."""
    if "packed_weight" not in a:  # an overload for the oldest of saved models
        return None
    return 2 * int(out.numel()) * _size(a["packed_weight"].unpack()[0].shape[1:])


def _two_products(a: Arguments, out: Any) -> int:
    return 2 * int(a["out"].numel() * (a["a"].shape[-1] + a["c"].shape[-1]))


def _recurrent_layer(a: Arguments, out: Any) -> int:
    """Count one direction of one recurrent layer: both weight matrices at each step."""
    return 2 * _size(a["input"].shape[:-1]) * int(a["weight0"].numel() + a["weight1"].numel())


def _recurrent_layer_backward(a: Arguments, out: Any) -> int:
    return 4 * _size(a["input"].shape[:-1]) * int(a["weight1"].numel() + a["weight2"].numel())


# Distances without a product: difference, power and sum, per feature of each pair.
_PER_FEATURE = 3


def _distances(a: Arguments, out: Any) -> int:
    points = a["x1"] if "x1" in a else a["self"]
    return _PER_FEATURE * int(out.numel() * points.shape[-1])


def _distances_backward(a: Arguments, out: Any) -> int:
    pairs = a["cdist"] if "cdist" in a else a["pdist"]
    return _PER_FEATURE * int(pairs.numel() * out.shape[-1])


def _attention(a: Arguments, out: Any) -> int:
    """Count the scores and the mixture of the values, masked and causal entries in full."""
    query, key, value = a["query"], a["key"], a["value"]
    return 2 * _size(query.shape[:-1]) * int(key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def _attention_backward(a: Arguments, out: Any) -> int:
    """Count the scores again, then dV = P^T dO, dP = dO V^T, dQ = dS K, dK = dS^T Q."""
    query, key, value = a["query"], a["key"], a["value"]
    return 2 * _size(query.shape[:-1]) * int(key.shape[-2] * (3 * query.shape[-1] + 2 * value.shape[-1]))


def _named(formula: Formula, namespace: str, names: str) -> dict[str, Formula]:
    return {f"{namespace}::{name}": formula for name in names.split()}


_ATTENTIONS = """_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
    _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
    _scaled_dot_product_fused_attention_overrideable"""

PRODUCTS: dict[str, Formula] = {
    # matrices, dense or sparse
    **_named(_product("self", "mat2"), "aten", "mm bmm _int_mm _scaled_mm _scaled_mm_v2 _weight_int8pack_mm"),
    **_named(_product("self", "mat2"), "aten", "_weight_int4pack_mm _weight_int4pack_mm_for_cpu"),
    **_named(_product("mat1", "mat2"), "aten", "addmm _addmm_activation _sparse_addmm hspmm sspaddmm"),
    **_named(_product("batch1", "batch2"), "aten", "baddbmm"),
    **_named(_product("self", "other"), "aten", "_sparse_sparse_matmul"),
    **_named(_product("inp", "packed_weights"), "aten", "_dyn_quant_matmul_4bit"),
    **_named(_batches_added, "aten", "addbmm"),
    **_named(_all_of("self"), "aten", "mv dot vdot"),
    **_named(_all_of("mat"), "aten", "addmv"),
    **_named(_outer, "aten", "addr"),
    **_named(_grouped, "aten", "_grouped_mm _scaled_grouped_mm"),
    **_named(_each, "aten", "_foreach_mm"),
    **_named(_combined, "aten", "_compute_linear_combination"),
    **_named(_two_products, "inductor", "_mm_plus_mm"),
    **_named(_sampled, "aten", "sparse_sampled_addmm"),
    **_named(_reduced, "aten", "_sparse_mm_reduce_impl"),
    **_named(_reduced_backward, "aten", "_sparse_mm_reduce_impl_backward"),
    **_named(_bag("weight"), "aten", "_embedding_bag _embedding_bag_forward_only"),
    **_named(_bag("weight"), "aten", "_embedding_bag_per_sample_weights_backward"),
    **_named(_bag("grad"), "aten", "_embedding_bag_dense_backward"),
    # linear layers of other libraries, and quantised ones
    **_named(_product("self", "weight"), "aten", "mkldnn_linear"),
    **_named(_linear_backward("self"), "aten", "mkldnn_linear_backward linear_backward"),
    **_named(_linear_gradient("weight"), "aten", "mkldnn_linear_backward_input"),
    **_named(_linear_gradient("input"), "aten", "mkldnn_linear_backward_weights"),
    **_named(_product("input", ""), "aten", "fbgemm_linear_int8_weight fbgemm_linear_fp16_weight"),
    **_named(_product("input", ""), "aten", "fbgemm_linear_int8_weight_fp32_activation"),
    **_named(_product("input", ""), "aten", "fbgemm_linear_fp16_weight_fp32_activation"),
    **_named(_product("X", "W"), "mkldnn", "_linear_pointwise"),
    **_named(_product("X", "ORI_W"), "mkl", "_mkl_linear"),
    **_named(_product("qx", "qw"), "onednn", "qlinear_pointwise"),
    **_named(_product("X", ""), "quantized", "linear linear_relu linear_leaky_relu linear_tanh"),
    **_named(_product("X", ""), "quantized", "linear_dynamic linear_relu_dynamic linear_dynamic_fp16"),
    **_named(_product("qa", "qb"), "quantized", "matmul"),
    # convolutions
    **_named(_convolution("input"), "aten", "convolution _convolution convolution_overrideable"),
    **_named(_convolution("input"), "aten", "_nnpack_spatial_convolution"),
    **_named(_convolution("self"), "aten", "_slow_conv2d_forward slow_conv3d_forward slow_conv_dilated2d"),
    **_named(_convolution("self"), "aten", "slow_conv_dilated3d _conv_depthwise2d conv_depthwise3d"),
    **_named(_convolution("self"), "aten", "mkldnn_convolution cudnn_convolution cudnn_convolution_relu"),
    **_named(_convolution("self"), "aten", "cudnn_convolution_add_relu miopen_convolution"),
    **_named(_convolution("self"), "aten", "miopen_depthwise_convolution"),
    **_named(_convolution("self", transposed=True), "aten", "slow_conv_transpose2d slow_conv_transpose3d"),
    **_named(_convolution("self", transposed=True), "aten", "cudnn_convolution_transpose"),
    **_named(_convolution("self", transposed=True), "aten", "miopen_convolution_transpose"),
    **_named(_convolution("X", "W"), "mkldnn", "_convolution_pointwise _convolution_pointwise_"),
    **_named(_convolution("X", "W", transposed=True), "mkldnn", "_convolution_transpose_pointwise"),
    **_named(_convolution_over_time, "aten", "conv_tbc"),
    **_named(
        _convolution_backward("input"), "aten", "convolution_backward convolution_backward_overrideable"
    ),
    **_named(_convolution_backward("self"), "aten", "_slow_conv2d_backward"),
    **_named(_packed_convolution, "quantized", "conv1d conv2d conv3d conv1d_relu conv2d_relu conv3d_relu"),
    **_named(_packed_convolution, "quantized", "conv1d_dynamic conv2d_dynamic conv3d_dynamic"),
    # recurrent layers
    **_named(_recurrent_layer, "aten", "mkldnn_rnn_layer"),
    **_named(_recurrent_layer_backward, "aten", "mkldnn_rnn_layer_backward"),
    # distances
    **_named(_distances, "aten", "_cdist_forward _pdist_forward"),
    **_named(_distances_backward, "aten", "_cdist_backward _pdist_backward"),
    # attention
    **_named(_attention, "aten", _ATTENTIONS),
    **_named(_attention_backward, "aten", " ".join(f"{name}_backward" for name in _ATTENTIONS.split())),
}

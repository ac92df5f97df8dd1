"""The work of torch's operators besides products: element-wise work, reductions, FFTs, or no arithmetic.

One FLOP for each arithmetic operation, comparison or elementary function (exp, sqrt, tanh count 1, as a
division does); composite functions by the operations of their textbook form. The names are those of aten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from effbench.measured.probes.tensors import stored

Arguments = Mapping[str, Any]
Tensors = list[Tensor]
Count = Callable[[Arguments, Tensors, Tensors], int]


def _rates(**names_by_rate: str) -> dict[str, int]:
    return {name: int(rate[1:]) for rate, names in names_by_rate.items() for name in names.split()}


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


# per number of the (first) result; an operator that torch tags as point-wise and is not listed counts 1
_PER_RESULT = _rates(
    _1="""abs add sub rsub mul neg div reciprocal sqrt rsqrt square exp exp2 expm1 log log2 log10 log1p sin
    cos tan tanh atan erf erfc sigmoid pow floor ceil round trunc sign sgn fmod remainder floor_divide maximum
    minimum fmax fmin clamp clamp_min clamp_max relu relu6 hardtanh hardtanh_backward where masked_fill eq
    ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not
    bitwise_xor isnan isinf threshold threshold_backward heaviside copysign gcd lcm bernoulli rand
    rand_like randn randn_like normal normal_functional uniform exponential cauchy geometric log_normal
    masked_scatter_backward _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward
    hardshrink_backward softshrink_backward""",
    _2="""addcmul addcdiv silu leaky_relu leaky_relu_backward native_dropout native_dropout_backward _add_relu
    _prelu_kernel rrelu_with_noise rrelu_with_noise_functional rrelu_with_noise_backward _masked_scale
    dequantize mse_loss_backward polar""",
    _3="""lerp elu elu_backward sigmoid_backward tanh_backward softplus log_sigmoid_forward glu hardsigmoid
    hardsigmoid_backward log_sigmoid_backward _prelu_kernel_backward quantize_per_tensor
    quantize_per_channel upsample_linear1d hann_window hamming_window bartlett_window""",
    _4="""_softmax_backward_data _log_softmax_backward_data _sparse_softmax_backward_data
    _sparse_log_softmax_backward_data _masked_softmax_backward silu_backward softplus_backward logaddexp
    logaddexp2 hardswish hardswish_backward glu_backward _transform_bias_rescale_qkv
    smooth_l1_loss_backward huber_loss_backward""",
    # softmax: maximum, difference, exp, sum, quotient (or log and difference)
    _5="""_softmax _log_softmax softmax log_softmax _sparse_softmax _sparse_log_softmax
    _nested_tensor_softmax_with_shape mish linalg_cross blackman_window""",
    _6="_masked_softmax",
    _7="upsample_bilinear2d",
    _8="""gelu native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit
    _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _batch_norm_with_update
    _batch_norm_with_update_functional _batch_norm_no_update _fused_rms_norm mish_backward""",
    # an LSTM's gates: four sums, five functions, three products, one sum
    _13="mkldnn_rnn_layer _thnn_fused_lstm_cell _thnn_fused_gru_cell",
    _14="""gelu_backward native_layer_norm_backward native_group_norm_backward native_batch_norm_backward
    batch_norm_backward _fused_rms_norm_backward""",
    _26="mkldnn_rnn_layer_backward",
)
# per number of the (first) input
_PER_INPUT = _rates(
    _1="""sum mean prod amax amin max min aminmax _aminmax argmax argmin any all _is_all_true _is_any_true
    cumsum cumprod cummax cummin _cummax_helper _cummin_helper count_nonzero nansum trace equal
    segment_reduce embedding_dense_backward unfold_backward col2im
    _coalesce adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d
    adaptive_max_pool3d adaptive_max_pool2d_backward adaptive_max_pool3d_backward
    max_pool2d_with_indices_backward max_pool3d_with_indices_backward reflection_pad1d_backward
    reflection_pad2d_backward reflection_pad3d_backward replication_pad1d_backward
    replication_pad2d_backward replication_pad3d_backward upsample_nearest1d_backward
    upsample_nearest2d_backward upsample_nearest3d_backward _upsample_nearest_exact1d_backward
    _upsample_nearest_exact2d_backward _upsample_nearest_exact3d_backward upsample_linear1d_backward
    fractional_max_pool2d fractional_max_pool3d fractional_max_pool2d_backward
    fractional_max_pool3d_backward bincount histc _sparse_sum _sparse_csr_sum""",
    _2="norm linalg_vector_norm linalg__powsum allclose",
    _3="mse_loss dist",
    _4="""var std var_mean std_mean logsumexp _logcumsumexp logcumsumexp _weight_norm_interface
    smooth_l1_loss huber_loss""",
    _8="_weight_norm_interface_backward",
)
_NO_ARITHMETIC = _names(
    """empty empty_like empty_strided empty_permuted new_empty new_empty_strided _efficientzerotensor
    _empty_affine_quantized _empty_per_channel_affine_quantized zeros zeros_like new_zeros ones ones_like
    new_ones full full_like new_full fill zero copy clone _lazy_clone _to_copy contiguous to type_as cat
    _cat stack _stack index index_put _index_put_impl _unsafe_index _unsafe_index_put _unsafe_masked_index
    index_select index_copy index_fill gather scatter take put masked_select masked_scatter
    constant_pad_nd pad reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d arange range linspace logspace scalar_tensor eye tril triu
    tril_indices triu_indices repeat repeat_interleave roll rot90 flip sort argsort topk kthvalue median
    nanmedian mode searchsorted bucketize embedding slice_backward select_backward as_strided_scatter
    slice_scatter select_scatter diagonal_scatter diagonal_backward diag_embed nonzero nonzero_static lift
    lift_fresh item _local_scalar_dense is_same_size is_nonzero set resize resize_as _resize_output random
    randperm randint randint_like multinomial im2col pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle _conj_physical complex real imag view_as_real view_as_complex isin unique_dim
    unique_consecutive unique_dim_consecutive _unique _unique2 upsample_nearest1d upsample_nearest2d
    upsample_nearest3d max_unpool2d max_unpool3d block_diag _chunk_cat unsafe_split
    unsafe_split_with_sizes unsafe_chunk _unsafe_view _reshape_alias _mkldnn_reshape _mkldnn_transpose
    mkldnn_reorder_conv2d_weight mkldnn_reorder_conv3d_weight sparse_mask _sparse_mask_projection _nnz
    sparse_dim dense_dim is_coalesced _coalesced coalesce _to_sparse _to_sparse_csr _to_sparse_csc
    _to_sparse_bsr _to_sparse_bsc _to_dense to_dense to_mkldnn to_padded_tensor copy_sparse_to_sparse
    sparse_resize sparse_resize_and_clear resize_as_sparse sparse_coo_tensor _sparse_coo_tensor_with_dims
    _sparse_coo_tensor_with_dims_and_tensors _sparse_coo_tensor_unsafe _sparse_compressed_tensor_unsafe
    _sparse_compressed_tensor_with_dims sparse_compressed_tensor _validate_compressed_sparse_indices
    _validate_sparse_coo_tensor_args _convert_indices_from_coo_to_csr _convert_indices_from_csr_to_coo
    _spdiags _nested_tensor_from_tensor_list _nested_tensor_from_mask
    _nested_tensor_from_mask_left_aligned _nested_from_padded _nested_from_padded_and_nested_example
    _nested_tensor_size _nested_tensor_strides _nested_tensor_storage_offsets
    _nested_compute_contiguous_strides_offsets _nested_select_backward _jagged_to_padded_dense_forward
    _padded_dense_to_jagged_forward _pack_padded_sequence _pad_packed_sequence _nested_get_values
    _nested_get_offsets _nested_get_lengths _nested_get_ragged_idx _nested_get_max_seqlen
    _nested_get_min_seqlen _nested_get_jagged_dummy _nested_view_from_jagged _nested_view_from_buffer
    squeeze unsqueeze transpose t as_strided detach requires_grad_ retain_grad reshape flatten dropout
    alpha_dropout feature_dropout broadcast_to broadcast_tensors expand_as view_as reshape_as size stride
    numel storage_offset dim is_complex is_floating_point is_signed is_pinned is_set_to is_conj is_neg
    is_inference is_contiguous sym_size sym_stride sym_numel sym_storage_offset sym_is_contiguous
    resolve_conj resolve_neg result_type can_cast promote_types cudnn_is_acceptable _use_cudnn_ctc_loss
    _has_compatible_shallow_copy_type _fused_sdp_choice _pin_memory pin_memory record_stream _assert_async
    _functional_assert_async _assert_scalar _functional_assert_scalar _assert_tensor_metadata
    _linalg_check_errors sym_constrain_range sym_constrain_range_for_size int_repr q_scale q_zero_point
    q_per_channel_scales q_per_channel_zero_points q_per_channel_axis qscheme
    _make_per_tensor_quantized_tensor _make_per_channel_quantized_tensor data set_data _version output_nr
    is_leaf retains_grad _print one_hot meshgrid get_device is_distributed conj_physical _reshape_copy
    _cast_Byte _cast_Char _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short atleast_1d
    atleast_2d atleast_3d feature_alpha_dropout _is_zerotensor _has_same_storage_numel
    _debug_has_internal_overlap _functional_sym_constrain_range _functional_sym_constrain_range_for_size
    _new_zeros_with_same_feature_meta _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d"""
)
# Real operations per complex number; an operator that is not listed counts 6 times its count for real ones.
_COMPLEX = _rates(
    _1="where masked_fill any all count_nonzero equal",
    _2="add sub rsub neg sum mean nansum cumsum index_add scatter_add trace eq ne native_dropout",
    _4="abs angle",
    _11="div reciprocal",
)
_ANY_COMPLEX = 6


def other_work(func: Any) -> Count | None:
    """Return the function that counts calls of aten's ``func`` without products; None if unknown."""
    name = _functional(func)
    if name in _BY_FORMULA:
        return _BY_FORMULA[name]
    base = name.removeprefix("_foreach_")
    each = base != name
    if does_no_arithmetic(func) or (each and base in _NO_ARITHMETIC):
        return _nothing
    if base in _PER_INPUT:
        return partial(_per_number, _PER_INPUT[base], base, each, True)
    if base in _PER_RESULT or _pointwise(func, base):
        return partial(_per_number, _PER_RESULT.get(base, 1), base, each, False)
    return None


_MOVING = {torch.Tag.view_copy, torch.Tag.inplace_view}


def does_no_arithmetic(func: Any) -> bool:
    """True if an operator of aten makes, moves, selects, sorts or describes numbers and computes none."""
    if _functional(func) in _NO_ARITHMETIC or _MOVING & set(func.tags):
        return True
    schema, returns = func._schema, func._schema.returns
    return bool(returns) and not schema.is_mutable and all(result.alias_info for result in returns)  # a view


def _functional(func: Any) -> str:
    """Return the operator's name without the mark of one that works in place: mul for aten::mul_."""
    name = str(func._schema.name).partition("::")[2]
    return name.rstrip("_") if func._schema.is_mutable else name


def _pointwise(func: Any, base: str) -> bool:
    packet = getattr(torch.ops.aten, base, func._overloadpacket)
    return any(torch.Tag.pointwise in getattr(packet, name).tags for name in packet.overloads())


def _nothing(a: Arguments, inputs: Tensors, outputs: Tensors) -> int:
    return 0


def _per_number(
    rate: int, base: str, each: bool, of_input: bool, a: Arguments, inputs: Tensors, outputs: Tensors
) -> int:
    """Return ``rate`` per number of the first result or input, or of ``each`` tensor of the first list."""
    lists = (value for value in a.values() if isinstance(value, list | tuple))
    counted = next(lists) if each else (inputs if of_input else outputs)[:1]
    if any(t.is_complex() for t in (*inputs[:1], *outputs[:1])):
        rate *= _COMPLEX.get(base, _ANY_COMPLEX)
    return rate * sum(stored(t) for t in counted)


def _fft(constant: float, inverse: bool, a: Arguments, inputs: Tensors, outputs: Tensors) -> int:
    """Return n log2 n times a constant, per transform."""
    whole = outputs[0] if inverse else inputs[0]
    return int(constant * whole.numel() * math.log2(max(2, prod(whole.shape[d] for d in a["dim"]))))


def _window(a: Arguments, dims: int) -> int:
    """Return the positions of a pooling window; a single size holds for all dimensions."""
    sizes = list(a["kernel_size"])
    return int(prod(sizes if len(sizes) == dims else sizes * dims))


def _pooled(dims: int, a: Arguments, inputs: Tensors, outputs: Tensors) -> int:
    return _window(a, dims) * outputs[0].numel()


def _pooled_backward(dims: int, a: Arguments, inputs: Tensors, outputs: Tensors) -> int:
    return _window(a, dims) * inputs[0].numel()


def _per_target(a: Arguments, inputs: Tensors, outputs: Tensors) -> int:
    """Count a loss that takes one number per row."""
    return int(a["target"].numel())


def _scores(a: Arguments) -> int:
    return int(prod(a["query"].shape[:-1]) * a["key"].shape[-2])


def _attended(a: Arguments, inputs: Tensors, outputs: Tensors) -> int:
    """Count softmax with its scale, 6 per score, and the addition of a mask."""
    mask = a.get("attn_mask", a.get("attn_bias"))
    return (6 + (mask is not None)) * _scores(a)


def _attended_backward(a: Arguments, inputs: Tensors, outputs: Tensors) -> int:
    """Count softmax from stored sums (3), dS = P (dP - delta) (2), scale (1); 2 per output for delta."""
    return 6 * _scores(a) + 2 * stored(inputs[0])


def _per_source(base: str, a: Arguments, inputs: Tensors, outputs: Tensors) -> int:
    """Count one operation for each number that is added, or reduced, into the first input."""
    into = a["index"] if base.startswith("scatter") else a["source"]
    rate = _COMPLEX.get(base, _ANY_COMPLEX) if inputs[0].is_complex() else 1
    return rate * int(into.numel())


def _put(a: Arguments, inputs: Tensors, outputs: Tensors) -> int:
    """Count the additions of a write that accumulates; another write is no arithmetic."""
    values = a["values"]
    return (2 if values.is_complex() else 1) * int(values.numel()) if a["accumulate"] else 0


_KERNELS = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention",
            "fused_attention_overrideable")  # fmt: skip
_BY_FORMULA: dict[str, Count] = {
    **dict.fromkeys(("nll_loss_forward", "nll_loss2d_forward"), _per_target),
    **dict.fromkeys(("nll_loss_backward", "nll_loss2d_backward"), _per_target),
    "_fft_r2c": partial(_fft, 2.5, False),
    "_fft_c2r": partial(_fft, 2.5, True),
    "_fft_c2c": partial(_fft, 5.0, False),
    **{f"_scaled_dot_product_{kernel}": _attended for kernel in _KERNELS},
    **{f"_scaled_dot_product_{kernel}_backward": _attended_backward for kernel in _KERNELS},
    **{
        name: partial(_per_source, name)
        for name in ("index_add", "scatter_add", "scatter_reduce", "index_reduce")
    },
    **dict.fromkeys(("index_put", "_index_put_impl", "_unsafe_index_put"), _put),
    # one addition or comparison per number in a window
    **{f"avg_pool{n}d": partial(_pooled, n) for n in (1, 2, 3)},
    **{f"avg_pool{n}d_backward": partial(_pooled_backward, n) for n in (2, 3)},
    **{f"max_pool{n}d_with_indices": partial(_pooled, n) for n in (2, 3)},
}

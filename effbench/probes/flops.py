"""The work of a call, counted from the operations it runs: FLOPs, what they leave out, bytes moved."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from effbench.probes.memory import storage_of

aten = torch.ops.aten
Shape = tuple[int, ...]


@dataclass
class Work:
    """What one call did.

    ``flops``: of matrix products, a multiply-add counts 2. ``other``: of element-wise work, softmax,
    reductions and FFTs under the constants below. ``uncounted``: operations that no rule covers, by name,
    with one FLOP assumed for each number that they return. ``bytes_moved``: what the operations read and
    write, each operand once; views are free; a cache may serve a part of it.
    """

    flops: int = 0
    other: int = 0
    uncounted: Counter[str] = field(default_factory=Counter)
    bytes_moved: int = 0

    @property
    def uncounted_share(self) -> float:
        """The uncounted part of all work, 0 to 1."""
        unknown = sum(self.uncounted.values())
        return unknown / max(1, self.flops + self.other + unknown)


def count_work(call: Callable[[], object]) -> Work:
    """Run ``call()`` once and count what its operations do. Never call this while timing.

    Attention kernels count as executed: two products forward, five backward (the scores are computed again),
    masked or causal entries in full. Kernels of others that torch cannot see into (a custom operator without
    a formula) appear as uncounted.
    """
    counter = _Counter()
    with counter:
        call()
    return counter.work


def count_flops(call: Callable[[], object]) -> int:
    """FLOPs of the matrix products that ``call()`` executes; a multiply-add counts 2."""
    return count_work(call).flops


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()
        # torch's formulas with ours; its counter merges them, so that each takes (*args, out_val=...).
        self._formulas = FlopCounterMode(display=False, custom_mapping=_FORMULAS).flop_registry

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        name = str(packet).rpartition(".")[2]
        if packet not in self._formulas and name.endswith("_"):  # a product in place, as baddbmm_
            packet = getattr(aten, name.rstrip("_"), packet)
        known = packet in self._formulas
        if not known and isinstance(func, torch._ops.OpOverload):
            with self:  # in inference mode an operation made of others arrives whole
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self.work.bytes_moved += _moved(func, name, inputs, outputs)
        if known:
            self.work.flops += int(self._formulas[packet](*args, **kwargs, out_val=out))
        base = name.rstrip("_")
        if base in _ATTENTION_OTHER:
            self.work.other += _ATTENTION_OTHER[base](inputs)
        elif base in _PER_RESULT:
            self.work.other += _PER_RESULT[base] * _numel(outputs[:1])
        elif base in _PER_INPUT:
            self.work.other += _PER_INPUT[base] * _numel(inputs[:1])
        elif base in _FFT:
            self.work.other += _fft(base, args[0], out, args[1])
        elif not known and base not in _NO_ARITHMETIC and not _is_view(inputs, outputs):
            self.work.uncounted[name] += _numel(outputs)
        return out


def _moved(func: Any, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> int:
    mutates = bool(getattr(getattr(func, "_schema", None), "is_mutable", False))
    if name in _UNTOUCHED or (not mutates and _is_view(inputs, outputs)):
        return 0
    read = inputs[1:] if name in ("copy_", "fill_", "zero_") else inputs
    return sum(_distinct(t) * t.element_size() for t in (*read, *outputs))


def _is_view(inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    there = {storage_of(t) for t in inputs}
    return bool(outputs) and all(storage_of(t) in there for t in outputs)


def _distinct(t: Tensor) -> int:
    """Numbers in memory: an expanded dimension is stored once."""
    return prod(size for size, stride in zip(t.shape, t.stride(), strict=True) if stride or size == 0)


def _numel(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() for t in tensors)


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


def _convolution_backward(grad: Shape, x: Shape, weight: Shape, *args: Any, **kwargs: Any) -> int:
    """Once or twice the forward product; torch's formula forgets groups in the gradient of the filters."""
    *_, transposed, _, _, wanted = args
    positions = x[2:] if transposed else grad[2:]
    return int(2 * grad[0] * prod(positions) * prod(weight) * sum(wanted[:2]))


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
    aten.convolution_backward: _convolution_backward,
    aten._native_multi_head_attention: _native_multi_head_attention,
}


# Everything else. One FLOP for each arithmetic operation, comparison or elementary function (exp, sqrt, tanh
# count 1, as a division does); the composite ones by the operations of their textbook form.


def _rates(**names_by_rate: str) -> dict[str, int]:
    return {name: int(rate[1:]) for rate, names in names_by_rate.items() for name in names.split()}


# for each number of the (first) result
_PER_RESULT = _rates(
    _1="""abs add sub rsub mul neg div reciprocal sqrt rsqrt square exp exp2 expm1 log log2 log10 log1p sin
    cos tan tanh atan erf erfc sigmoid pow floor ceil round trunc sign sgn fmod remainder floor_divide maximum
    minimum fmax fmin clamp clamp_min clamp_max relu relu6 hardtanh where masked_fill eq ne lt le gt ge
    logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor isnan
    isinf isfinite threshold_backward bernoulli rand randn normal uniform _foreach_add _foreach_mul outer""",
    _2="addcmul addcdiv silu leaky_relu leaky_relu_backward native_dropout native_dropout_backward",
    _3="lerp elu elu_backward sigmoid_backward tanh_backward softplus log_sigmoid_forward",
    _4="""_softmax_backward_data _log_softmax_backward_data silu_backward softplus_backward logaddexp
    logaddexp2""",
    _5="_softmax _log_softmax",  # maximum, difference, exp, sum, quotient (or log and difference)
    _8="gelu native_layer_norm native_group_norm native_batch_norm _fused_rms_norm",
    _14="""gelu_backward native_layer_norm_backward native_group_norm_backward
    native_batch_norm_backward""",
)
# for each number of the (first) input
_PER_INPUT = _rates(
    _1="""sum mean prod amax amin max min aminmax argmax argmin any all cumsum cumprod cummax cummin
    count_nonzero nansum linalg_vector_norm index_add scatter_add""",
    _4="var std var_mean std_mean logsumexp logcumsumexp",
)
_FFT = {"_fft_r2c": 2.5, "_fft_c2r": 2.5, "_fft_c2c": 5.0}  # n log2 n times this, a transform
_NO_ARITHMETIC = _rates(
    _0="""empty empty_like empty_strided new_empty new_empty_strided zeros zeros_like new_zeros ones ones_like
    new_ones full full_like new_full fill zero copy clone _to_copy contiguous cat stack index index_put
    _index_put_impl _unsafe_index _unsafe_index_put index_select index_copy gather scatter masked_select
    masked_scatter constant_pad_nd pad arange linspace scalar_tensor eye tril triu repeat roll flip sort
    argsort topk searchsorted bucketize embedding embedding_dense_backward slice_backward select_backward
    unfold_backward as_strided_scatter slice_scatter select_scatter diagonal_backward diag_embed nonzero
    lift_fresh _local_scalar_dense is_same_size set resize randperm randint one_hot im2col col2im
    pixel_shuffle _conj_physical complex real imag view_as_real view_as_complex isin unique _unique2"""
)
_UNTOUCHED = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_"}


def _scores(inputs: list[Tensor], first: int) -> int:
    query, key = inputs[first], inputs[first + 1]
    return query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]


# softmax with its scale, 6 a score, and a mask's addition; backward: softmax again from its stored sums (3),
# dS = P (dP - delta) (2), scale (1), and delta from the output (2 a number of it)
_ATTENTION_OTHER: dict[str, Callable[[list[Tensor]], int]] = {
    "_scaled_dot_product_flash_attention_for_cpu": lambda t: (6 + (len(t) > 3)) * _scores(t, 0),
    "_scaled_dot_product_flash_attention_for_cpu_backward": lambda t: 6 * _scores(t, 1) + 2 * t[0].numel(),
    "_scaled_dot_product_efficient_attention": lambda t: (6 + (len(t) > 3)) * _scores(t, 0),
    "_scaled_dot_product_efficient_attention_backward": lambda t: 6 * _scores(t, 1) + 2 * t[0].numel(),
    "_scaled_dot_product_flash_attention": lambda t: 6 * _scores(t, 0),
    "_scaled_dot_product_flash_attention_backward": lambda t: 6 * _scores(t, 1) + 2 * t[0].numel(),
}


def _fft(name: str, x: Tensor, out: Tensor, dims: list[int]) -> int:
    whole = x if name != "_fft_c2r" else out
    return int(_FFT[name] * whole.numel() * math.log2(max(2, prod(whole.shape[d] for d in dims))))

"""torch's fused attention kernel for the CPU, with the logarithmic sums that its public function hides."""

from __future__ import annotations

import torch
from torch import Tensor

from effbench import Unsupported


def attend(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax(q k^T / sqrt(d) + hidden) v and log sum exp of the scores of each query.

    q [B, heads, N, d], k and v [B, heads, M, d], hidden (0 or -inf) broadcasts to [B, heads, N, M] ->
    [B, heads, N, d] and [B, heads, N], the latter in float32 at least. A query without a visible key gets 0,
    and 0 for its sum. Raises Unsupported on a device other than cpu.
    """
    if q.device.type != "cpu":
        raise Unsupported(
            f"implementation=blocked runs through torch's kernel for the CPU, not on {q.device.type}"
        )
    out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, False, attn_mask=hidden
    )
    return out, log_sum


def attend_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v.

    If ``out`` and ``log_sum`` are those of a softmax over more keys than k, the gradients are those of the
    share that k has in it.
    """
    gradients: tuple[Tensor, Tensor, Tensor] = (
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, q, k, v, out, log_sum, 0.0, False, attn_mask=hidden
        )
    )
    return gradients

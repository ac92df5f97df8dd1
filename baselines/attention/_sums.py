"""Sums of keys times values as a state of fixed size. A step overwrites it, unless gradients are recorded."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_SCALE = 2.0**-64  # a smaller one is multiplied into its sums


def with_pair(sums_bhde: Tensor, k_bhd: Tensor, v_bhe: Tensor) -> Tensor:
    """Return the sums with k v^T of each head added."""
    flat = sums_bhde.reshape(-1, *sums_bhde.shape[2:])
    k, v = k_bhd.reshape(len(flat), -1, 1), v_bhe.reshape(len(flat), 1, -1)
    added = torch.baddbmm(flat, k, v) if torch.is_grad_enabled() else flat.baddbmm_(k, v)
    return added.view(sums_bhde.shape)


def read(sums_bhde: Tensor, q_bhd: Tensor) -> Tensor:
    """Return the product of each head's q with its sums: [B, heads, e]."""
    return (q_bhd[..., None, :] @ sums_bhde)[..., 0, :]


def decayed(sums: Tensor, scale: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums and the scale of the state scale * sums after this decay.

    The scale alone decays, which saves a pass over the sums. It is multiplied into them when its smallest
    number is below ``LEAST_SCALE``; at once if gradients are recorded, or on a device that a check waits for.
    """
    if torch.is_grad_enabled():
        return sums * (scale * decay), torch.ones_like(scale)
    scale.mul_(decay)
    if sums.device.type != "cpu" or not float(scale.amin()) >= LEAST_SCALE:
        sums.mul_(scale)
        scale.fill_(1.0)
    return sums, scale

"""Mechanisms whose work is hard to see for a counter of FLOPs or a probe of memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from effbench import Mechanism


class Threaded(Mechanism):
    """The Gram matrix of each of two halves, each on a thread of its own, times the half."""

    def forward(self, x, mask=None):
        with ThreadPoolExecutor(2) as pool:
            return torch.cat(list(pool.map(lambda half: half @ half.mT @ half, x.chunk(2, dim=-1))), dim=-1)


class ShyOfCounters(Mechanism):
    """Raises as soon as somebody counts."""

    def forward(self, x, mask=None):
        if is_in_torch_dispatch_mode():
            raise RuntimeError("not while you look")
        return x * 1.0


class Complex(Mechanism):
    """One product with a complex matrix."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.weight = torch.nn.Parameter(torch.randn(d_model, d_model, dtype=torch.cfloat))

    def forward(self, x, mask=None):
        return (x.to(self.weight.dtype) @ self.weight).real


class Functional(Mechanism):
    """Takes a derivative of its own, in which torch allows no hooks on saved tensors."""

    def forward(self, x, mask=None):
        return x * torch.func.grad(lambda y: (y @ y.mT).sum())(x.detach())

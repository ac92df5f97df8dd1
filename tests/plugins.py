"""Mechanisms of a user's own, well-behaved and not: each does one thing."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Literal

import torch
from torch import nn

from effbench.mechanism import Mechanism, Unsupported


class Plain(nn.Module):
    """A plain module: one linear map."""

    def __init__(
        self, d_model, heads, *, max_len, causal=False, scale: float = 1.0, kind: Literal["a", "b"] = "a"
    ):
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(d_model, d_model)

    def forward(self, x, mask=None):
        return self.linear(x) * self.scale


class Empty(Mechanism):
    """Returns its input times one."""

    order = 1.0

    def forward(self, x, mask=None):
        return x * 1.0


class _Misbehaving(Mechanism):
    def forward(self, x, mask=None):
        if x.shape[1] >= 64:
            self.misbehave()
        return x * 1.0

    def misbehave(self):
        raise NotImplementedError


class Segfault(_Misbehaving):
    """Reads address 0."""

    def misbehave(self):
        ctypes.string_at(0)


class Hang(_Misbehaving):
    """Never returns."""

    def misbehave(self):
        while True:
            time.sleep(1)


class Stubborn(_Misbehaving):
    """Never returns, and ignores polite signals."""

    def misbehave(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while True:
            time.sleep(1)


class Hog(Mechanism):
    """Asks for N times 64 MiB and touches it."""

    def forward(self, x, mask=None):
        big = torch.ones(x.shape[1], 16 << 20)
        return x * big[0, 0]


class Raises(_Misbehaving):
    """Raises an exception."""

    def misbehave(self):
        raise RuntimeError("deliberate failure")


class Exits(_Misbehaving):
    """Ends the process."""

    def misbehave(self):
        os._exit(7)


class Killed(_Misbehaving):
    """Is killed as the kernel's out-of-memory killer would do it."""

    def misbehave(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Chatty(Empty):
    """Prints what looks like the protocol."""

    def forward(self, x, mask=None):
        print('{"exit": {"signal": 11}}\n{"record": {}}', flush=True)
        return x * 1.0


class WrongShape(Mechanism):
    """Loses a token."""

    def forward(self, x, mask=None):
        return x[:, 1:]


class NotFinite(Mechanism):
    """Returns NaN."""

    def forward(self, x, mask=None):
        return x * float("nan")


class WrongAgainstReference(Empty):
    """Is not what its reference says."""

    def reference(self, x, mask=None):
        return x * 1.01


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient / 2


class WrongGradient(Mechanism):
    """Is what its reference says, but has half of its gradient."""

    def forward(self, x, mask=None):
        return _Halved.apply(x)

    def reference(self, x, mask=None):
        return x


class OnlyShort(Mechanism):
    """Supports up to 32 tokens, and says so."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        if max_len > 32:
            raise Unsupported("only 32 tokens fit")

    def forward(self, x, mask=None):
        return x * 1.0


class OddContract(nn.Module):
    """Has another constructor than the contract's."""

    def __init__(self, width):
        super().__init__()


Alias = Plain

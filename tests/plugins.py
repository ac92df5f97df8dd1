"""Mechanisms of a user's own, well-behaved and not: each does one thing."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import signal
import threading
import time
import warnings
from typing import Literal

import numpy as np
import torch
import torch.utils.checkpoint
from torch import nn

from effbench import Mechanism, Unsupported


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


class Curved(Plain):
    """One linear map and a tanh, whose output the backward pass needs."""

    def forward(self, x, mask=None):
        return super().forward(x, mask).tanh()


class Dawdles(Plain):
    """Takes 200 ms more while the file that the variable DAWDLE names is there."""

    def forward(self, x, mask=None):
        if os.path.exists(os.environ.get("DAWDLE", "")):
            time.sleep(0.2)
        return super().forward(x, mask)


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


class Swallows(_Misbehaving):
    """Fills memory that it shares with nobody, which no limit of a process counts, and never returns."""

    def misbehave(self):
        kept = list[mmap.mmap]()
        while len(kept) < 64:
            kept.append(mmap.mmap(-1, 64 << 20))
            kept[-1].write(bytes(64 << 20))
        while True:
            time.sleep(1)


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


class OnlyLong(Empty):
    """Takes 128 tokens or more, and says so."""

    def forward(self, x, mask=None):
        if x.shape[1] < 128:
            raise Unsupported("it needs 128 tokens at least")
        return super().forward(x, mask)


class OnlyBlocks(Mechanism):
    """Takes multiples of 64 tokens, says so, and has a reference."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.linear = nn.Linear(d_model, d_model)

    def forward(self, x, mask=None):
        if x.shape[1] % 64:
            raise Unsupported("it takes multiples of 64 tokens only")
        return self.linear(x)

    def reference(self, x, mask=None):
        return self.linear(x)


class OnlyShort(Mechanism):
    """Supports up to 32 tokens, and says so."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        if max_len > 32:
            raise Unsupported("only 32 tokens fit")

    def forward(self, x, mask=None):
        return x * 1.0


class SetsThreads(Empty):
    """Computes on one thread, whatever it was told."""

    def forward(self, x, mask=None):
        torch.set_num_threads(1)
        return x * 1.0


class SetsDefaults(Empty):
    """Its constructor changes torch's defaults and seeds torch's generator."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)


class Reseeds(Empty):
    """Seeds torch's generator in every call."""

    def forward(self, x, mask=None):
        torch.manual_seed(0)
        return x * 1.0


class SetsThreadsOnce(Empty):
    """Sets torch's threads in its first call only."""

    called = False

    def forward(self, x, mask=None):
        if not self.called:
            self.called = True
            torch.set_num_threads(1)
        return x


class SeedsOthers(Empty):
    """Seeds the generators of numpy and of Python, each time."""

    def forward(self, x, mask=None):
        random.seed(0)
        np.random.seed(0)
        return x


class MovesAway(Empty):
    """Changes the working folder."""

    def forward(self, x, mask=None):
        os.chdir("/")
        return x


class ClearsEnvironment(Empty):
    """Removes an environment variable."""

    def forward(self, x, mask=None):
        os.environ.pop("PATH", None)
        return x


class Warns(Empty):
    """Warns in every call."""

    def forward(self, x, mask=None):
        warnings.warn("deliberate warning", stacklevel=1)
        return x * 1.0


class LeavesProcess(Empty):
    """Starts a process in a session of its own, and never ends it; it holds all pipes open."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        if os.fork() == 0:
            os.setsid()
            time.sleep(300)
            os._exit(0)


class LeavesThread(Empty):
    """Starts a thread and never ends it."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        threading.Thread(target=time.sleep, args=(300,)).start()


class Talks(Empty):
    """Prints in every call."""

    def forward(self, x, mask=None):
        print("deliberate words")
        return x * 1.0


class _Mean(nn.Module):
    """The mean over all tokens beside each: a base to break the laws of padding, batch and causality on."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__()
        self.linear = nn.Linear(d_model, d_model)

    def mean(self, x, mask):
        real = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)
        return (torch.where(real > 0, x, 0) * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(
            min=1
        )

    def forward(self, x, mask=None):
        return self.linear(x) + self.mean(x, mask)


class IgnoresMask(_Mean):
    """Takes the mean over padding too."""

    def forward(self, x, mask=None):
        return super().forward(x)


class InvertsMask(_Mean):
    """Takes True for padding."""

    def forward(self, x, mask=None):
        return super().forward(x, None if mask is None else ~mask)


class IgnoresCausal(_Mean):
    """Takes the option causal and is not."""


class MixesBatch(_Mean):
    """Subtracts the mean over the batch."""

    def forward(self, x, mask=None):
        return super().forward(x, mask) - x.mean(0, keepdim=True)


class WritesInput(_Mean):
    """Changes its input in place."""

    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        x.mul_(2.0)
        return out


class KeepsResults(_Mean):
    """Keeps its results by the address of its input."""

    def forward(self, x, mask=None):
        self.kept = getattr(self, "kept", {})
        key = x.data_ptr(), x.shape, mask is None
        if key not in self.kept:
            self.kept[key] = super().forward(x, mask), x  # with x, so that its address is not used again
        return self.kept[key][0]


class IgnoresCausalInInference(_Mean):
    """Is causal unless torch is in inference mode."""

    def forward(self, x, mask=None):
        if not torch.is_inference_mode_enabled():
            return x
        return super().forward(x, mask)


class LooksAheadInTraining(_Mean):
    """Is causal where no gradients are asked for."""

    def forward(self, x, mask=None):
        return super().forward(x, mask) if torch.is_grad_enabled() else x


class NotFiniteInTraining(_Mean):
    """Divides by 0 where gradients are asked for."""

    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        return out / 0 if torch.is_grad_enabled() else out


class GradientNotFinite(_Mean):
    """The derivative of a square root at 0."""

    def forward(self, x, mask=None):
        return super().forward(x, mask) + (x - x).sqrt()


class DeclaresWords(Empty):
    """Declares FLOPs in words."""

    def forward_flops(self, batch_size, seq_len):
        return "many"


class DeclaresNaN(Empty):
    """Declares a number of FLOPs that is none."""

    def forward_flops(self, batch_size, seq_len):
        return float("nan")


class TakesNoMask(_Mean):
    """Says that it takes no mask."""

    def forward(self, x, mask=None):
        if mask is not None:
            raise Unsupported("takes no padding mask")
        return super().forward(x)


class DeepRaise(Empty):
    """Raises from the standard library, called from torch, called from a line of its own."""

    def forward(self, x, mask=None):
        return self.deep(x)

    def deep(self, x):
        return torch.utils.checkpoint.checkpoint(lambda t: t * float(json.loads("{")), x, use_reentrant=False)


class LongMessage(Empty):
    """Raises an exception with a message of 5,000 characters in many lines."""

    def forward(self, x, mask=None):
        raise RuntimeError("\n".join(["a line of a long message"] * 200))


class TellsGit(Mechanism):
    """Refuses to run, naming what it inherited of git."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        found = sorted(name for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE") if name in os.environ)
        raise Unsupported(", ".join(found) or "no place of git")


class OddContract(nn.Module):
    """Has another constructor than the contract's."""

    def __init__(self, width):
        super().__init__()


Alias = Plain


class BreaksGraph(_Mean):
    """Asks for a number in Python, which no compiler traces."""

    def forward(self, x, mask=None):
        torch._dynamo.graph_break()
        return super().forward(x, mask)


class OtherWhenCompiled(_Mean):
    """Computes something else in its compiled form."""

    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        return 2 * out if torch.compiler.is_compiling() else out

"""Mechanisms with one planted bug each, beside a clean twin: what the audit must and must not find."""

from __future__ import annotations

import random
import time
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from effbench import Mechanism


class Clean(Mechanism):
    """y_i (1 + scale mean_j y_j) with y = x W + b, over real tokens, or those up to i: all laws are kept."""

    order = 1.0
    memory_order = 1.0
    equivariant = True

    def __init__(self, d_model, heads, *, max_len, causal=False, scale: float = 1.0):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.scale = scale
        self.value = nn.Linear(d_model, d_model)

    def forward(self, x, mask=None):
        return self.mix(self.values(x, mask), mask)

    def values(self, x, mask):
        if mask is None:
            return self.value(x)
        gone = ~mask[..., None]
        return self.value(x.masked_fill(gone, 0.0)).masked_fill(gone, 0.0)

    def mix(self, y, mask):
        return y * (1 + self.scale * self.mean(y, mask))

    def mean(self, y, mask):
        real = torch.ones_like(y[..., :1], dtype=torch.bool) if mask is None else mask[..., None]
        if self.causal:
            return y.cumsum(1) / real.cumsum(1).clamp(min=1)
        return y.mean(1, keepdim=True) if mask is None else y.sum(1, keepdim=True) / self.count(real)

    def count(self, real):
        return real.sum(1, keepdim=True).clamp(min=1)

    def reference(self, x, mask=None):
        n = x.shape[1]
        allowed = torch.ones(x.shape[0], n, n, dtype=torch.bool, device=x.device)
        allowed = allowed if mask is None else allowed & mask[:, None]
        allowed = allowed.tril() if self.causal else allowed
        y = self.value(x)
        weights = allowed.to(x.dtype) / allowed.sum(-1, keepdim=True).clamp(min=1)
        return y * (1 + self.scale * (weights @ y))

    def forward_flops(self, batch_size, seq_len):
        return 2 * batch_size * seq_len * self.d_model**2

    def saved_bytes(self, batch_size, seq_len):
        """y, and 1 + mean."""
        return 4 * batch_size * (seq_len + 1) * self.d_model


class _Skewed(torch.autograd.Function):
    """The identity, with a gradient 1 % too large."""

    @staticmethod
    def forward(ctx, t):
        return t.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 1.01


class _Spreading(torch.autograd.Function):
    """The identity of [B, N, D], whose backward hands gradients on to other tokens."""

    @staticmethod
    def forward(ctx, t):
        return t.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient + 0.1 * gradient.mean(1, keepdim=True)


class LosesTokens(Clean):
    def forward(self, x, mask=None):
        return super().forward(x, mask)[:, :64]


class WrongDtype(Clean):
    def forward(self, x, mask=None):
        return super().forward(x, mask).float()


class NotATensor(Clean):
    def forward(self, x, mask=None):
        return super().forward(x, mask), None


class FailsAtOddLengths(Clean):
    def forward(self, x, mask=None):
        n = x.shape[1]
        return super().forward(x, mask) if n < 3 else super().forward(x, mask).view(-1, n // 2, 2, x.shape[2])


class AssumesContiguous(Clean):
    def forward(self, x, mask=None):
        b, n, d = x.shape
        return super().forward(x.as_strided((b, n, d), (n * d, d, 1)), mask)


class WrongForward(Clean):
    def forward(self, x, mask=None):
        return super().forward(x, mask) * 1.00001


class WrongInputGradient(Clean):
    def values(self, x, mask):
        return super().values(_Skewed.apply(x), mask)


class WrongWeightGradient(Clean):
    def forward(self, x, mask=None):
        x = x if mask is None else x.masked_fill(~mask[..., None], 0.0)
        y = F.linear(x, _Skewed.apply(self.value.weight), self.value.bias)
        return self.mix(y if mask is None else y.masked_fill(~mask[..., None], 0.0), mask)


class IgnoresTheMask(Clean):
    def forward(self, x, mask=None):
        return super().forward(x, None)


class MultipliesByTheMask(Clean):
    """0 * NaN is NaN."""

    def values(self, x, mask):
        return self.value(x) if mask is None else self.value(x) * mask[..., None]


class GivesPaddingGradients(Clean):
    def values(self, x, mask):
        return super().values(x, mask) + _NothingForward.apply(x)


class _NothingForward(torch.autograd.Function):
    """Zeros, whose backward gives every token a gradient."""

    @staticmethod
    def forward(ctx, t):
        return torch.zeros_like(t)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.mean(1, keepdim=True).expand_as(gradient)


class WeighsPaddingIntoGradients(Clean):
    """The weight's gradient is x^T g with x as it came, padding included; everything else is clean."""

    def forward(self, x, mask=None):
        y = _LinearWithRawInput.apply(x, self.value.weight, mask) + self.value.bias
        return self.mix(y if mask is None else y.masked_fill(~mask[..., None], 0.0), mask)


class _LinearWithRawInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, mask):
        ctx.save_for_backward(x, weight)
        return (x if mask is None else x.masked_fill(~mask[..., None], 0.0)) @ weight.mT

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        summed = gradient + 0.1 * gradient.mean(1, keepdim=True)
        return gradient @ weight, summed.flatten(0, 1).mT @ x.flatten(0, 1), None


class NotFiniteWithoutTokens(Clean):
    def count(self, real):
        return real.sum(1, keepdim=True)


class GradientNotFiniteWithoutTokens(Clean):
    """The other branch of where still multiplies 0 by an infinite derivative."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x, mask=None):
        count = torch.full((len(x),), x.shape[1]) if mask is None else mask.sum(1)
        share = torch.where(count > 0, self.gain / count, 0.0)
        return super().forward(x, mask) * (1 + share[:, None, None])


class TreatsAFullMaskApart(Clean):
    def forward(self, x, mask=None):
        return super().forward(x, mask) * (1.0 if mask is None else 1.001)


class SeesTheFuture(Clean):
    """Accepts causal=True and does nothing about it."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len)


class SendsGradientsToTheFuture(Clean):
    def forward(self, x, mask=None):
        return super().forward(_Spreading.apply(x) if self.causal else x, mask)


class ForgetsThePast(Clean):
    def mean(self, y, mask):
        return y if self.causal else super().mean(y, mask)


class MixesTheBatch(Clean):
    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        return out - out.mean(0, keepdim=True)


class MixesTheBatchInTraining(Clean):
    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.norm = nn.BatchNorm1d(d_model)

    def forward(self, x, mask=None):
        return self.norm(super().forward(x, mask).mT).mT


class AddsPositions(Clean):
    def values(self, x, mask):
        return super().values(x + torch.arange(x.shape[1])[:, None] / 100, mask)


class Noisy(Clean):
    def forward(self, x, mask=None):
        return super().forward(x, mask) + 1e-6 * random.SystemRandom().random()


class InitialisedFromElsewhere(Clean):
    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        nn.init.constant_(self.value.bias, random.SystemRandom().random())


class Remembers(Clean):
    """The mean of the last call goes into the next."""

    last = 0.0

    def forward(self, x, mask=None):
        out = super().forward(x, mask) + self.last
        self.last = float(out.detach().nan_to_num().mean())
        return out


class CountsCalls(Clean):
    calls: torch.Tensor

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, mask=None):
        if self.training:
            self.calls += 1
        return super().forward(x, mask)


class WritesToItsInput(Clean):
    def forward(self, x, mask=None):
        x = x if x.is_leaf and x.requires_grad else x.mul_(1.5)
        return super().forward(x, mask)


class WritesToItsMask(Clean):
    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        if mask is not None:
            mask[:, 0] = False
        return out


class OverflowsInHalf(Clean):
    """Fits into float32 and bfloat16, not into float16."""

    def forward(self, x, mask=None):
        return (super().forward(x, mask) * 1e5) / 1e5


class GradientOverflowsInHalf(Clean):
    """Adds nothing forward, and a million times the gradient."""

    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        return out + ((out - out.detach()).float() * 1e6).to(out.dtype)


class OverflowsInBfloat16(Clean):
    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        return out if out.dtype == torch.float64 else out * 1e30 * 1e30


class OverflowsAtLargeInputs(Clean):
    """Its values are small enough for float32 where inputs are."""

    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        return (out * 1e35) / 1e35 if out.dtype == torch.float32 else out


class SaturatesAtLargeInputs(Clean):
    """Its reference does not."""

    def forward(self, x, mask=None):
        return super().forward(x, mask).clamp(-100, 100)

    def saved_bytes(self, batch_size, seq_len):
        return super().saved_bytes(batch_size, seq_len) + 4 * batch_size * seq_len * self.d_model


class OptionWithoutEffect(Clean):
    def __init__(self, d_model, heads, *, max_len, causal=False, window: int = 4):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)


class ChoiceWithoutEffect(Clean):
    def __init__(
        self, d_model, heads, *, max_len, causal=False, size: Literal["small", "large", "huge"] = "small"
    ):
        super().__init__(d_model, heads, max_len=max_len, causal=causal, scale=1.0 + (size == "large"))


class OverstatesForwardFlops(Clean):
    def forward_flops(self, batch_size, seq_len):
        return super().forward_flops(batch_size, seq_len) + 1


class IgnoresItsSecondBackward(Clean):
    """Its backward computes y again, which three times the forward pass leaves out."""

    def forward(self, x, mask=None):
        from torch.utils.checkpoint import checkpoint

        return checkpoint(super().forward, x, mask, use_reentrant=False)


class MoreUsefulThanExecuted(Clean):
    def useful_flops(self, batch_size, seq_len):
        return self.forward_flops(batch_size, seq_len) + 1


class QuadraticWork(Clean):
    """y (y^T y) in the wrong order."""

    memory_order = 2.0

    def mean(self, y, mask):
        return (y @ y.mT) @ y / y.shape[1] ** 2


class QuadraticMemory(Clean):
    order = 2.0

    def forward(self, x, mask=None):
        pairs = x.new_zeros(x.shape[1], x.shape[1])
        return super().forward(x, mask) + pairs[0, 0]


class QuadraticMemoryInTraining(Clean):
    order = 2.0

    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        if torch.is_grad_enabled():
            out = out + (out[..., :1] * out[..., :1].mT).sum() * 0
        return out


class QuadraticTime(Clean):
    """Waits as long as N^2 steps of a loop that no counter sees would take."""

    def forward(self, x, mask=None):
        time.sleep(2e-7 * x.shape[1] ** 2)
        return super().forward(x, mask)


class KeepsMoreThanItSays(Clean):
    def forward(self, x, mask=None):
        return super().forward(x, mask).exp()


class CollectsItsOutputs(Clean):
    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.collected = []

    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        self.collected.append(out.detach())
        return out


class GrowsACache(Clean):
    """One tensor, longer after each call."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.cache = torch.zeros(0)

    def forward(self, x, mask=None):
        self.cache = torch.cat([self.cache, torch.zeros(100)])
        return super().forward(x, mask)


class KeepsTheGraph(Clean):
    """A chain of losses, each with the graph of those before it."""

    def __init__(self, d_model, heads, *, max_len, causal=False):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
        self.total = 0.0

    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        self.total = self.total + out.sum() * 0
        return out


FOUND_BY = {
    LosesTokens: "shape and dtype",
    WrongDtype: "shape and dtype",
    NotATensor: "shape and dtype",
    FailsAtOddLengths: "shape and dtype",
    AssumesContiguous: "shape and dtype",
    WrongForward: "reference, forward",
    WrongInputGradient: "reference, backward",
    WrongWeightGradient: "reference, backward",
    IgnoresTheMask: "padding, forward",
    MultipliesByTheMask: "padding, forward",
    GivesPaddingGradients: "padding, backward",
    WeighsPaddingIntoGradients: "padding, backward",
    NotFiniteWithoutTokens: "padded rows",
    GradientNotFiniteWithoutTokens: "padded rows",
    TreatsAFullMaskApart: "full mask",
    SeesTheFuture: "causal",
    SendsGradientsToTheFuture: "causal",
    ForgetsThePast: "causal",
    MixesTheBatch: "batch",
    MixesTheBatchInTraining: "batch",
    AddsPositions: "permutation",
    Noisy: "deterministic",
    InitialisedFromElsewhere: "deterministic",
    Remembers: "hidden state",
    CountsCalls: "hidden state",
    WritesToItsInput: "input untouched",
    WritesToItsMask: "input untouched",
    OverflowsInHalf: "finite in float16",
    GradientOverflowsInHalf: "finite in float16",
    OverflowsInBfloat16: "finite in bfloat16",
    OverflowsAtLargeInputs: "large inputs",
    SaturatesAtLargeInputs: "large inputs",
    OptionWithoutEffect: "options",
    ChoiceWithoutEffect: "options",
    OverstatesForwardFlops: "forward FLOPs",
    IgnoresItsSecondBackward: "train FLOPs",
    MoreUsefulThanExecuted: "useful FLOPs",
    QuadraticWork: "order of FLOPs",
    QuadraticMemory: "order of memory",
    QuadraticMemoryInTraining: "order of memory",
    QuadraticTime: "order of time",
    KeepsMoreThanItSays: "saved bytes",
    CollectsItsOutputs: "memory freed",
    GrowsACache: "memory freed",
    KeepsTheGraph: "memory freed",
}

"""Mechanisms with one planted bug each in a step or in cross attention, beside a clean twin."""

from __future__ import annotations

import torch

from effbench import Mechanism


class Sums(Mechanism):
    """x_i plus the mean of x over real tokens, those up to i, or those of a memory: all laws are kept."""

    order = 1.0
    memory_order = 1.0
    equivariant = True
    state_order = 0.0

    def forward(self, x, mask=None):
        y, real = self.values(x, mask)
        if self.causal:
            return y + y.cumsum(1) / real.cumsum(1).clamp(min=1)
        return y + y.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)

    def values(self, x, mask):
        real = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        return (x if mask is None else x.masked_fill(~mask[..., None], 0.0)), real[..., None]

    def prefill(self, x, mask=None):
        y, real = self.values(x, mask)
        return self(x, mask), (y.sum(1), real.sum(1))

    def step(self, x, state):
        total, count = state[0] + x, state[1] + 1
        return x + total / count, (total, count)

    def remember(self, memory, mask=None):
        y, real = self.values(memory, mask)
        return y.sum(1) / real.sum(1).clamp(min=1)

    def attend(self, x, remembered):
        return x + remembered[:, None]


class LosesTheContext(Sums):
    """The state does not hold the first token."""

    def prefill(self, x, mask=None):
        out, (total, count) = super().prefill(x, mask)
        return out, (total - x[:, 0] if x.shape[1] > 1 and mask is None else total, count)


class CountsPadding(Sums):
    """The state counts padded tokens."""

    def prefill(self, x, mask=None):
        out, (total, count) = super().prefill(x, mask)
        return out, (total, torch.full_like(count, x.shape[1]))


class CannotStartEmpty(Sums):
    """Steps alone fail, since it needs a first token."""

    def prefill(self, x, mask=None):
        x[:, 0]
        return super().prefill(x, mask)


class KeepsRowsElsewhere(Sums):
    """The state is kept in the module: what is selected from the returned one has no effect."""

    def prefill(self, x, mask=None):
        out, self.kept = super().prefill(x, mask)
        return out, 0

    def step(self, x, state):
        out, self.kept = super().step(x, self.kept)
        return out, 0


class KeepsAllTokens(Sums):
    """The state holds every token, though it declares a fixed size."""

    def prefill(self, x, mask=None):
        out, state = super().prefill(x, mask)
        return out, (*state, x.clone())

    def step(self, x, state):
        out, after = super().step(x, state[:2])
        return out, (*after, state[2])


class KeepsAView(Sums):
    """The state is a view, which keeps the memory of all tokens."""

    def prefill(self, x, mask=None):
        y, real = self.values(x, mask)
        return self(x, mask), (y.cumsum(1)[:, -1] if x.shape[1] else y.sum(1), real.sum(1))


class ReadsPaddedMemory(Sums):
    """Padding of the memory counts as a token of zeros."""

    def remember(self, memory, mask=None):
        return self.values(memory, mask)[0].mean(1)


class MixesQueries(Sums):
    """An output depends on the other queries, if there are five of them."""

    def attend(self, x, remembered):
        return super().attend(x, remembered) + (x.mean(1, keepdim=True) if x.shape[1] == 5 else 0.0)


class DividesByAnEmptyMemory(Sums):
    """An empty memory gives NaN."""

    def remember(self, memory, mask=None):
        y, real = self.values(memory, mask)
        return y.sum(1) / real.sum(1)


PATTERNS_FOUND_BY: dict[type, str] = {
    LosesTheContext: "steps",
    CountsPadding: "steps",
    CannotStartEmpty: "steps",
    KeepsRowsElsewhere: "rows of the state",
    KeepsAllTokens: "size of the state",
    KeepsAView: "size of the state",
    ReadsPaddedMemory: "cross attention",
    MixesQueries: "cross attention",
    DividesByAnEmptyMemory: "cross attention",
}

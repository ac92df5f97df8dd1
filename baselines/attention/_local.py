"""Attention to a window of tokens and to the first tokens, in blocks: shared by longformer and sinks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.attention._flex import Rule, block_mask, flex_attend
from baselines.attention._heads import merge_heads, split_heads
from baselines.attention._windows import Run, attend_in_windows, runs

BLOCK = 32  # queries per block


@dataclass(frozen=True)
class Local:
    """Token i sees the tokens i - before to i + after and the first ``count`` tokens, each key once.

    With ``after`` = 0 it is causal: no key is in the future. If the sequence is cut into blocks, the outputs
    of the first ``count`` tokens are not used: their caller replaces them.
    """

    before: int
    after: int

    @property
    def span(self) -> int:
        """Keys of the window that a block of queries may see."""
        return BLOCK + self.before + self.after

    @property
    def causal(self) -> bool:
        return self.after == 0

    def blocked(self, n: int, count: int) -> bool:
        """True if a block sees less than the whole sequence, so that blocks save work."""
        return n > min(count, n) + self.span

    def queries(self, n: int) -> int:
        """Return the number of queries, filled up to whole blocks."""
        return -(-n // BLOCK) * BLOCK

    def projected(self, n: int, count: int) -> int:
        """Return the number of rows of queries, keys and values, filled up to whole blocks."""
        return self.queries(n) if self.blocked(n, count) else n

    def executed_pairs(self, n: int, count: int) -> tuple[int, int]:
        """Return the query-key pairs in the kernel, and those with the first keys outside it."""
        if not self.blocked(n, count):
            return n * n, 0
        return self.queries(n) * self.span, self.queries(n) * min(count, n)

    def saved(self, batch: int, n: int, count: int, d: int, heads: int) -> tuple[int, int]:
        """Return how many numbers ``attend`` saves for backward, its output included, and how many wide sums.

        Input, q, k and v, the mask, and the kernel's results; rows are filled up to whole blocks.
        """
        if not self.blocked(n, count):
            return batch * 4 * n * d + n * n, batch * n * heads
        rows = self.queries(n)
        numbers = 4 * self.projected(n, count) * d + rows * d + (n * d if batch > 1 else 0)
        masks = sum(1 if run.alike else run.number for run in self._runs(n, self._seen(n, count)))
        return batch * numbers + masks * BLOCK * self.span, batch * rows * heads * (1 + min(count, n))

    def sees(self, n: int, count: int, device: torch.device) -> Tensor:
        """Return the map of visible keys [N, N] by the definition."""
        ahead = torch.arange(n, device=device) - torch.arange(n, device=device)[:, None]
        sees = (ahead >= -self.before) & (ahead <= self.after)
        sees[:, :count] = True
        return sees & (ahead <= 0) if self.causal else sees

    def attend(self, qkv: nn.Linear, x: Tensor, mask: Tensor | None, heads: int, count: int) -> Tensor:
        """Attend from every token of x [B, N, D], whose padding is 0, to what it sees: [B, N, D]."""
        n = x.shape[1]
        if not self.blocked(n, count):
            q, k, v = (split_heads(part, heads) for part in qkv(x).chunk(3, dim=-1))
            sees = self.sees(n, count, x.device)
            sees = sees if mask is None else sees & mask[:, None, None]
            return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=sees))
        seen = self._seen(n, count) if mask is None else (0, 0)  # with padding no windows are alike
        allowed = [part.expand(len(x), -1, -1, -1) for part in self._allowed(n, count, mask, seen, x)]
        hidden = torch.zeros_like(x[:, :count, 0]) if mask is None else _hidden(mask[:, :count], x)
        filled = F.pad(x, (0, 0, 0, self.queries(n) - n)) if n % BLOCK else x
        qkv_br3hd = qkv(filled).unflatten(-1, (3, heads, -1))
        sequences = [
            attend_in_windows(qkv_r3hd, parts, whole, before=self.before, seen=seen)[:n].flatten(1)
            for qkv_r3hd, parts, whole in zip(qkv_br3hd, zip(*allowed, strict=True), hidden, strict=True)
        ]
        return sequences[0][None] if len(sequences) == 1 else torch.stack(sequences)

    def attend_flex(self, qkv: nn.Linear, x: Tensor, mask: Tensor | None, heads: int, count: int) -> Tensor:
        """Compute the same through FlexAttention."""
        q, k, v = (split_heads(part, heads) for part in qkv(x).chunk(3, dim=-1))
        seen = block_mask(_rule, (self.before, count, self.causal), 1, x.shape[1], x.device)
        return merge_heads(flex_attend(q, k, v, seen, mask))

    def _seen(self, n: int, count: int) -> tuple[int, int]:
        """Return the first row that windows see, and the end of these rows, if no token is padding."""
        return min(count, n), n

    def _runs(self, n: int, seen: tuple[int, int]) -> list[Run]:
        return runs(self.queries(n), BLOCK, self.span, self.before, seen)

    def _allowed(
        self, n: int, count: int, mask: Tensor | None, seen: tuple[int, int], like: Tensor
    ) -> list[Tensor]:
        """Return 0 for the keys in its window that a query sees, else -inf, for each run of blocks.

        Each is [B or 1, blocks, block, keys], with one block for all that are alike.
        """
        device = like.device
        real = torch.ones(1, n, dtype=torch.bool, device=device) if mask is None else mask
        real = F.pad(real & (torch.arange(n, device=device) >= count), (0, self.queries(n) - n))
        apart_qk = torch.arange(self.span, device=device) - torch.arange(BLOCK, device=device)[:, None]
        parts = []
        for run in self._runs(n, seen):
            number = 1 if run.alike else run.number
            # from the start of a block to that of its window: the same for all, unless the windows are one
            block = torch.arange(1 if run.step else number, device=device) + run.blocks.start
            ahead = apart_qk + (run.start - block * BLOCK)[:, None, None]
            near = (ahead >= -self.before) & (ahead <= self.after)
            end = run.start + (number - 1) * run.step + self.span
            windows = real[:, run.start : end].unfold(1, self.span, BLOCK)
            parts.append(_hidden(near, like) + _hidden(windows, like)[:, :, None])
        return parts


def _hidden(seen: Tensor, like: Tensor) -> Tensor:
    """Return the numbers to add to scores: 0 where a key is seen, else -inf; in the dtype of ``like``."""
    return like.new_zeros(seen.shape).masked_fill(~seen, -torch.inf)


def _rule(device: torch.device, window: int, count: int, causal: bool) -> Rule:
    """Return the rule: a query sees the keys of its window and the first ``count`` keys."""

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = ((query - key).abs() <= window) | (key < count)
        return near & (key <= query) if causal else near

    return sees

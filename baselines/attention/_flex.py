"""FlexAttention: one softmax over the keys that a rule makes visible to a query, in one kernel on CUDA."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from baselines.attention._heads import require
from effbench import Mechanism, Unsupported

BLOCK = 128  # the kernels compute or skip tiles of so many queries and keys
NARROWEST = 16  # the least width of a head that the kernels accept
IMPLEMENTATIONS = ("auto", "blocked", "dense", "flex")
KERNELS = 256  # dynamo compiles so many before it gives up: one per shape, with and without padding

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Chosen(Mechanism):
    """A mechanism with the option ``implementation``: its value, and what it means on a device."""

    qkv: nn.Linear
    implementation: str

    def _choose(self, implementation: str) -> None:
        """Keep the option. Raises ValueError if there is no such implementation."""
        allowed = f"one of {', '.join(IMPLEMENTATIONS)}"
        require(implementation in IMPLEMENTATIONS, "implementation", implementation, allowed)
        self.implementation = implementation
        if implementation == "dense":
            # for this instance; the class declares the growth of the other implementations
            self.__dict__.update(order=2.0, memory_order=2.0)

    def runs_as(self, batch_size: int, seq_len: int) -> str:
        """Return the implementation; for auto, the one used on the device of the parameters."""
        return self._how()

    def _how(self) -> str:
        """Return the implementation: auto is flex on CUDA (float64: dense) and blocked on the CPU."""
        if self.implementation != "auto":
            return self.implementation
        if self.qkv.weight.device.type == "cpu":
            return "blocked"
        return "dense" if self.qkv.weight.dtype == torch.float64 else "flex"


def flex_attend(q: Tensor, k: Tensor, v: Tensor, seen: BlockMask, mask: Tensor | None) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v over the keys that ``seen`` allows and mask [B, N] marks as real.

    q, k, v and the result are [B, heads, N, d]. Padding is not part of ``seen``, because padding changes from
    call to call and a new map of blocks takes O(N^2). Instead the score of a padded key is replaced by minus
    infinity, in every block; a query that sees padding only gets 0, and no gradient. (A large finite number
    would not do: backward computes the weights again from the logarithm of their sum, and such a number
    rounds it away.)

    On CUDA the kernel is compiled once per shape. On the CPU all scores are computed, in the forward pass
    only. Raises Unsupported for what the kernels cannot do.
    """
    device, width = q.device.type, q.shape[-1]
    if device not in ("cpu", "cuda"):
        raise Unsupported(f"FlexAttention is used on cpu and cuda here, not on {device}")
    if device == "cuda" and q.dtype == torch.float64:
        raise Unsupported("FlexAttention's CUDA kernels sum in float32, too narrow for float64")
    if device == "cpu" and torch.is_grad_enabled() and any(part.requires_grad for part in (q, k, v)):
        raise Unsupported("FlexAttention has no backward on the CPU")
    if is_in_torch_dispatch_mode(include_infra_modes=False):  # a counter would see one operator, or none
        raise Unsupported("the work of FlexAttention cannot be counted from outside its kernel")
    if width < NARROWEST:  # zeros change no product
        q, k, v = (F.pad(part, (0, NARROWEST - width)) for part in (q, k, v))
    run = _compiled() if device == "cuda" else _eager
    mixed: Tensor = run(q, k, v, score_mod=_hiding(mask), block_mask=seen, scale=width**-0.5)
    return mixed[..., :width]


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # else the first call under inference_mode would spoil training for this length
def block_mask(
    make: Callable[..., Rule], options: tuple[Hashable, ...], heads: int, n: int, device: torch.device
) -> BlockMask:
    """Return the blocks of keys that each block of queries sees; cached by length and device.

    ``make(device, *options)`` returns the rule: a function of tensors (batch, head, query, key) that
    broadcast, True where the query sees the key. The rule must not depend on the batch. If it depends on the
    head, ``heads`` is the number of heads; otherwise ``heads`` is 1. O(heads N^2) time, one row of blocks at
    a time.
    """
    rule = make(device, *options)
    blocks = -(-n // BLOCK)
    batch = torch.zeros((), dtype=torch.long, device=device)
    head = torch.arange(heads, device=device)[:, None, None]
    key = torch.arange(n, device=device)
    some, every = [], []
    for first in range(0, n, BLOCK):
        query = torch.arange(first, min(first + BLOCK, n), device=device)[:, None]
        sees = rule(batch, head, query, key).expand(heads, len(query), n)
        sees = F.pad(sees, (0, blocks * BLOCK - n, 0, BLOCK - len(query)))  # no token there: not seen
        cut = sees.unflatten(2, (blocks, BLOCK))
        some.append(cut.any(dim=3).any(dim=1))
        every.append(cut.all(dim=3).all(dim=1))
    partly, whole = torch.stack(some, dim=1), torch.stack(every, dim=1)  # [heads, blocks, blocks]
    return BlockMask.from_kv_blocks(
        *_listed(partly & ~whole), *_listed(whole), BLOCK_SIZE=BLOCK, mask_mod=rule, seq_lengths=(n, n)
    )


def _listed(chosen_hqk: Tensor) -> tuple[Tensor, Tensor]:
    """Return per row the number chosen [1, heads, blocks] and all places, chosen ones first."""
    chosen = chosen_hqk[None].int()
    places = chosen.argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(dim=-1, dtype=torch.int32), places.int()


def _hiding(mask: Tensor | None) -> Callable[..., Tensor] | None:
    if mask is None:
        return None

    def hide(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.where(mask[batch, key], score, -torch.inf)

    return hide


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    """Return FlexAttention, compiled as a whole graph: beyond dynamo's limit it raises, never runs unfused.

    The limit is raised for good, since raising it around each call would take longer than starting the call.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, KERNELS)
    return torch.compile(flex_attention, fullgraph=True, dynamic=False)


def _eager(*tensors: Tensor, **how: Any) -> Tensor:
    attend: Callable[..., Any] = flex_attention
    with warnings.catch_warnings(), torch._dynamo.config.patch(recompile_limit=KERNELS):
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return attend(*tensors, **how)  # type: ignore[no-any-return]

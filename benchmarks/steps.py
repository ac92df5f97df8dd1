"""Compare steps with the fastest public ones and with the memory they move, and chunked forms with stepping.

    pip install transformers   (optional: without it its cache is left out)
    python benchmarks/steps.py [vanilla] [states] [chunked]

measures in one process, on two threads in float32, keeping freed memory, and prints Markdown. All
alternatives of a row are called in turn, and a ratio is the median over these turns. It takes about ten
minutes on two cores.

vanilla   A step of vanilla against torch's SDPA over a preallocated cache, and against transformers'
          DynamicCache, in the same layer.
states    A step of the mechanisms with a state of fixed size. It reads the parameters, and reads and writes
          the state. Its projections alone are timed in the same turns; what remains of the step is divided by
          the time in which this machine copies the state, once it exceeds the second-level caches of the
          threads. Below that, the last column says which part of the step takes longer.
chunked   The causal forward pass over 4,096 tokens against that many steps, and against linear attention's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from baselines.attention._heads import merge_heads, split_heads
from effbench.common import machine, registry
from effbench.measured.state import state_bytes

HEADS, THREADS = 16, 2
RECURRENT = ("linear", "performer", "cosformer", "fastformer", "retention", "gla", "deltanet",
             "deltanet:gated=true", "mamba2")  # fmt: skip
CHUNKED = ("performer", "cosformer", "fastformer", "retention", "gla", "deltanet", "deltanet:gated=true",
           "mamba2", "sinks", "hyena")  # fmt: skip
TURNS, SECONDS = 9, 0.1
LENGTH = 4096

Call = Callable[[], object]


def main() -> None:
    """Print the parts that are asked for, all by default."""
    machine.set_allocator("kept")
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    parts = {"vanilla": vanilla, "states": states, "chunked": chunked}
    with torch.inference_mode():
        for name in sys.argv[1:] or parts:
            for line in parts[name]():
                print(line, flush=True)
            print()


def vanilla() -> Iterator[str]:
    """Yield the table of vanilla's step."""
    yield "| width | batch | N | step of vanilla | / SDPA, preallocated | / DynamicCache |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for width in (256, 1024):
        for batch in (1, 16):
            for n in (1024, 4096, 16384, 65536):
                if batch * width * n > 16 * 1024 * 16384:
                    continue  # the caches would not fit into memory
                layer = made("vanilla", width, n + 1)
                x = torch.randn(batch, width)
                k, v = (torch.randn(batch, HEADS, n, width // HEADS) for _ in range(2))
                calls = {"ours": ours(layer, x, k, v), "sdpa": preallocated(layer, x, k, v)}
                if (cached := dynamic_cache(layer, x, k, v)) is not None:
                    calls["dynamic"] = cached
                outs = [call() for call in calls.values()]
                assert all(torch.allclose(out, outs[0], atol=1e-4) for out in outs)  # type: ignore[arg-type]
                times = in_turns(calls)
                ratio = over(times, "ours", "dynamic") if cached is not None else "-"
                yield (
                    f"| {width} | {batch} | {n} | {1e6 * median(times['ours']):.0f} µs "
                    f"| {over(times, 'ours', 'sdpa')} | {ratio} |"
                )


def states() -> Iterator[str]:
    """Yield the table of steps, of their projections, and of the rest against a copy of the state."""
    yield "| mechanism | width | batch | parameters | state | step | projections | rest | / copy of state |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name in RECURRENT:
        for width, batch in ((256, 1), (256, 16), (1024, 1), (1024, 16), (1024, 256)):
            layer = made(name, width, 64)
            state = layer.prefill(torch.randn(batch, 8, width))[1]
            held = state_bytes(state)
            weights = sum(p.numel() * p.element_size() for p in layer.parameters())
            source, target = torch.empty(2, held // 4)
            step, projections = generation(layer, torch.randn(batch, width), state)
            times = in_turns(
                {"step": step, "projections": projections, "copy": lambda: target.copy_(source)}  # noqa: B023
            )
            times["rest"] = [a - b for a, b in zip(times["step"], times["projections"], strict=True)]
            rest, maps = median(times["rest"]), median(times["projections"])
            small = "projections" if maps > rest else "other operations"
            yield (
                f"| {name} | {width} | {batch} | {weights / 2**20:.2f} MiB | {held / 2**20:.2f} MiB "
                f"| {1e6 * median(times['step']):.0f} µs | {1e6 * maps:.0f} µs | {1e6 * rest:.0f} µs "
                f"| {over(times, 'rest', 'copy') if held > 1.1 * cache_bytes() else small} |"
            )


def chunked() -> Iterator[str]:
    """Yield the table of causal forward passes."""
    yield f"| mechanism, {LENGTH} tokens, width 256, batch 1 | forward | / linear | stepping / forward |"
    yield "| --- | --- | --- | --- |"
    x = torch.randn(1, LENGTH, 256)
    linear = made("linear", 256, LENGTH)
    for name in ("linear", *CHUNKED):
        layer = linear if name == "linear" else made(name, 256, LENGTH)
        times = in_turns({"chunked": lambda: layer(x), "linear": lambda: linear(x)}, turns=15)  # noqa: B023
        step_s = stepping_s(layer, x)
        yield (
            f"| {name} | {1e3 * median(times['chunked']):.1f} ms | {over(times, 'chunked', 'linear')} "
            f"| {step_s / median(times['chunked']):.0f} |"
        )


def made(name: str, width: int, max_len: int) -> Any:
    """Return the causal form of a mechanism in evaluation mode."""
    mechanism, options = registry.parse(name, "mechanism")
    kind = registry.load(registry.find(mechanism, "mechanism"))
    return kind(width, HEADS, max_len=max_len, causal=True, **options).eval()


def generation(layer: Any, x: Tensor, state: Any) -> tuple[Call, Call]:
    """Return a call that generates the next token, and one that makes the projections of a step alone."""

    def step() -> None:
        nonlocal state
        _, state = layer.step(x, state)

    with Projections() as seen:
        step()
    return step, lambda: [F.linear(*args) for args in seen.calls]


class Projections(TorchFunctionMode):
    """The arguments of the calls of F.linear."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            self.calls.append(args)
        return func(*args, **(kwargs or {}))


def cache_bytes() -> int:
    """Return the bytes of the second-level caches of as many cores as there are threads."""
    size = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
    return THREADS * 1024 * int(size.removesuffix("K"))


def ours(layer: Any, x: Tensor, k: Tensor, v: Tensor) -> Call:
    """Return vanilla's step after these keys and values."""
    from baselines.attention import _cache

    state = _cache.filled(k, v, None)
    return lambda: layer.step(x, state)[0]


def preallocated(layer: Any, x: Tensor, k: Tensor, v: Tensor) -> Call:
    """Return the same step through SDPA, whose cache has room for the token already."""
    n = k.shape[2]
    keys, values = (F.pad(part, (0, 0, 0, 1)) for part in (k, v))

    def step() -> Tensor:
        q, keys[:, :, n], values[:, :, n] = parts(layer, x)
        mixed = F.scaled_dot_product_attention(q[:, :, None], keys, values)
        return layer.out(merge_heads(mixed)[:, 0])  # type: ignore[no-any-return]

    return step


def dynamic_cache(layer: Any, x: Tensor, k: Tensor, v: Tensor) -> Call | None:
    """Return the same step through transformers' DynamicCache; None if transformers is not installed."""
    try:
        from transformers import DynamicCache
    except ImportError:
        return None
    cache = DynamicCache()
    cache.update(k, v, 0)

    def step() -> Tensor:
        q, new_k, new_v = parts(layer, x)
        keys, values = cache.update(new_k[:, :, None], new_v[:, :, None], 0)
        cache.crop(-1)  # views without the token, so that N does not grow
        mixed = F.scaled_dot_product_attention(q[:, :, None], keys, values)
        return layer.out(merge_heads(mixed)[:, 0])  # type: ignore[no-any-return]

    return step


def parts(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the token's query, key and value [B, heads, d]."""
    q, k, v = (split_heads(part[:, None], HEADS)[:, :, 0] for part in layer.qkv(x).chunk(3, dim=-1))
    return q, k, v


def stepping_s(layer: Any, x: Tensor) -> float:
    """Return the seconds of all tokens step by step, from 256 steps in the middle of the sequence."""
    middle = x.shape[1] // 2
    _, state = layer.prefill(x[:, :middle])
    start = time.perf_counter()
    for token in x[:, middle : middle + 256].unbind(1):
        _, state = layer.step(token, state)
    return (time.perf_counter() - start) * x.shape[1] / 256


def in_turns(calls: dict[str, Call], turns: int = TURNS) -> dict[str, list[float]]:
    """Return seconds per call, one number a turn; the calls of a turn follow each other."""
    counts = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        counts[name] = max(1, int(SECONDS / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(counts[name]):
                call()
            times[name].append((time.perf_counter() - start) / counts[name])
    return times


def over(times: dict[str, list[float]], first: str, second: str) -> str:
    """Return the median over turns of the ratio of two times."""
    return f"{median(a / b for a, b in zip(times[first], times[second], strict=True)):.2f}"


if __name__ == "__main__":
    main()

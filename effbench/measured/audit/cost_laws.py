"""Laws of the costs: declared FLOPs, saved bytes and growth are the measured ones; memory is freed."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from effbench.common.growth import Growth, slope
from effbench.common.spec import Option
from effbench.measured.audit.agreement import LawBroken, Passed
from effbench.measured.audit.subject import LONG, Subject
from effbench.measured.gpu import CudaDevice, Device
from effbench.measured.mechanism import Unsupported
from effbench.measured.probes.cuda_time import between_events
from effbench.measured.probes.flops import count_flops, count_work
from effbench.measured.probes.memory import peak_bytes, saved_bytes
from effbench.measured.probes.time import sample_seconds, waited_ns
from effbench.measured.workload import Call, forward_call, train_call

Mode = Callable[[nn.Module, Tensor], Call]

# The exponent in N of a cost may exceed the declared one by this much.
_COUNTED, _PEAK, _TIMED = 0.2, 0.2, 0.35
_TIME_ROUNDS, _TIME_S = 3, 0.02
_CALLS = 4
_CARD_SAMPLES = 10


def forward_flops(s: Subject) -> Passed:
    """A forward pass executes ``forward_flops``."""
    return _declared_flops(s, "forward_flops", forward_call)


def train_flops(s: Subject) -> Passed:
    """A forward and a backward pass execute ``train_flops``."""
    return _declared_flops(s, "train_flops", train_call)


def useful_flops(s: Subject) -> Passed:
    """``useful_flops`` is at most ``forward_flops``."""
    share = 1.0
    module = s.make()
    for n in s.lengths(17, 200, LONG):
        useful, executed = _declared(module, "useful_flops", 2, n), _declared(module, "forward_flops", 2, n)
        if not 0 <= useful <= executed:
            raise LawBroken(f"{useful} useful of {executed} executed FLOPs at N={n}")
        share = useful / executed if executed else 1.0
    return f"{share:.0%} of the executed FLOPs at N={n}", share


def order_of_flops(s: Subject) -> Passed:
    """The FLOPs of a forward pass, element-wise work included, grow no faster than ``order``."""

    def flops(n: int) -> int:
        module, x = s.make(max_len=n, dtype=torch.float32), s.input(1, n, torch.float32)
        work = count_work(forward_call(module, x))
        return work.flops + work.other

    return grows(s, "order", lambda lengths: [flops(n) for n in lengths], _COUNTED)


def order_of_memory(s: Subject) -> Passed:
    """The peak bytes of a forward pass and of a training step grow no faster than ``memory_order``."""

    def peaks(mode: Mode, lengths: Sequence[int]) -> list[int]:
        peaks = []
        for n in lengths:
            module, x = s.make(max_len=n, dtype=torch.float32), s.input(1, n, torch.float32)
            peaks.append(peak_bytes(_second_call(mode, module, x), str(s.device))[0])
        return peaks

    results = [grows(s, "memory_order", partial(peaks, mode), _PEAK) for mode in (forward_call, train_call)]
    return max(results, key=lambda result: result[1] or 0.0)


def order_of_time(s: Subject) -> Passed:
    """The time of a forward pass does not grow clearly faster than ``order``.

    The fastest of samples that take turns at each length. Measured up to three times before it fails.
    """
    best: dict[int, float] = {}
    card = CudaDevice(s.device) if s.on_cuda else None

    def fastest(lengths: Sequence[int]) -> list[float]:
        for _ in range(_TIME_ROUNDS):
            for n in lengths:
                call = forward_call(s.make(max_len=n, dtype=torch.float32), s.input(1, n, torch.float32))
                samples = sampled(call, card)
                best[n] = min(best.get(n, math.inf), *samples)
        return [best[n] for n in lengths]

    for attempt in range(3):
        try:
            return grows(s, "order", fastest, _TIMED)
        except LawBroken:
            if attempt == 2:
                raise
    raise AssertionError("unreachable")


def sampled(call: Call, card: Device | None) -> Sequence[float]:
    """Return seconds per call of some samples, between events on a card and by a clock without one."""
    if card is None:
        return sample_seconds(call, seconds=_TIME_S, clock_ns=_own_ns)[0]
    call()  # a first call also makes plans and kernels
    return between_events(call, card, _CARD_SAMPLES)


def saved_for_backward(s: Subject) -> Passed:
    """A forward pass keeps ``saved_bytes`` for its backward pass, each storage once."""
    result: Passed | None = None
    for batch, n in _batches_and_lengths(s):
        module, x = s.make(dtype=torch.float32), s.input(batch, n, torch.float32)
        declared = module.saved_bytes(batch, n) if hasattr(module, "saved_bytes") else None  # type: ignore[operator]
        if declared is None:  # it may be declared from some length on
            continue
        kept = _kept_for_backward(module, x)
        if declared != kept:
            raise LawBroken(f"declares {declared} bytes at B={batch} N={n}, keeps {kept}", float(kept))
        result = f"{kept} bytes at B={batch} N={n}", float(kept)
    if result is None:
        raise Unsupported("saved_bytes is not declared")
    return result


def memory_freed(s: Subject) -> Passed:
    """A call's memory is free once its result is dropped: repeated calls have the peak of one call."""
    n = s.lengths(130)[0]
    x = s.input(2, n, torch.float32)
    for mode, name in ((forward_call, "forward"), (train_call, "train")):
        call = mode(s.make(dtype=torch.float32), x)

        def peak_of(count: int, call: Call = call) -> int:
            def repeat() -> None:
                for _ in range(count):
                    call()
                    gc.collect()

            return peak_bytes(repeat, str(s.device))[0]

        peak_of(1)  # the first calls may keep buffers, which are no leak
        left = min((peak_of(1 + _CALLS) - peak_of(1)) / _CALLS for _ in range(2))
        if left > 0:
            raise LawBroken(f"{left:.0f} bytes stay behind after each call ({name})", left)
    return "", None


def costs_of_training(s: Subject, options: Mapping[str, Option]) -> tuple[int, int, int]:
    """Return FLOPs and peak bytes of a training step, and the bytes kept for the backward pass."""
    n = min(LONG, s.seq_len)
    module, x = s.make(options=options, dtype=torch.float32), s.input(2, n, torch.float32)
    call = _second_call(train_call, module, x)
    peak = peak_bytes(call, str(s.device))[0]
    return count_flops(call), peak, _kept_for_backward(module, x)


def _second_call(mode: Mode, module: nn.Module, x: Tensor) -> Call:
    """Call once, drop the gradients, and return a new call: a first call may make buffers that it keeps."""
    mode(module, x)()
    module.zero_grad(set_to_none=True)
    return mode(module, x)


def _batches_and_lengths(s: Subject) -> list[tuple[int, int]]:
    return list(zip((1, 2, 2), s.lengths(17, 200, LONG), strict=False))


def _declared(module: nn.Module, name: str, batch: int, n: int) -> int:
    value = getattr(module, name)(batch, n) if hasattr(module, name) else None
    if value is None:
        raise Unsupported(f"{name} is not declared")
    return int(value)


def _declared_flops(s: Subject, name: str, mode: Mode) -> Passed:
    for batch, n in _batches_and_lengths(s):
        module = s.make(dtype=torch.float32)
        declared = _declared(module, name, batch, n)
        counted = count_flops(mode(module, s.input(batch, n, torch.float32)))
        if declared != counted:
            reason = f"declares {declared} at B={batch} N={n}, executes {counted}"
            raise LawBroken(reason, counted / max(declared, 1))
    return f"{counted} at B={batch} N={n}", float(counted)


def _kept_for_backward(module: nn.Module, x: Tensor) -> int:
    """Return the bytes that a forward pass in training mode keeps.

    The input, the parameters and the buffers are not counted.
    """
    x = x.clone().requires_grad_()
    module.train()
    return saved_bytes(lambda: module(x), [x, *module.parameters(), *module.buffers()])


def _own_ns() -> int:
    """A clock that stops while this thread waits for a core, so that other processes cause no growth.

    A wait between the two readings would make the clock jump, and an interval negative: they are repeated.
    """
    while True:
        waited = waited_ns()
        now = time.perf_counter_ns()
        if waited_ns() == waited:
            return now - waited


def grows(
    s: Subject, name: str, costs: Callable[[Sequence[int]], Sequence[float]], tolerance: float
) -> Passed:
    """Fit the exponent of a cost on the upper lengths. Raises LawBroken if it exceeds the declared one."""
    written = getattr(s.make(), name, None)
    if written is None:
        raise Unsupported(f"{name} is not declared")
    lengths = s.upper_lengths()
    growth = Growth.parse(written)
    declared = growth.exponent(lengths)
    values = costs(lengths)
    if min(values) <= 0:
        raise Unsupported(f"growth cannot be fitted: the cost at N={lengths[0]} is {min(values)}")
    exponent = slope(lengths, values)
    fitted = f"grows as N^{exponent:.2f} from {lengths[0]} to {lengths[-1]}, declared {growth}"
    if exponent > declared + tolerance:
        raise LawBroken(f"{fitted} (N^{declared:.2f}, tolerance {tolerance:g})", exponent)
    slower = exponent < declared - tolerance
    return fitted + ("; lower-order terms dominate" if slower else ""), exponent

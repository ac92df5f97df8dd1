"""Estimates of how long a cell takes: rough for --dry-run, corrected by finished cells for the ETA."""

from __future__ import annotations

from collections.abc import Iterable

from effbench.common import registry
from effbench.common.spec import MIN_SAMPLES, WARM_UP_MIN_S, Cell, Record

_OVERHEAD_S = 0.1
_FLOPS_PER_CORE = 30e9
_TRAINING_S = 20.0
_COMPILING_S = {"forward": 8.0, "train": 16.0}  # with the backward pass; of the first repeat only


class Estimate:
    """Seconds per cell: a cost model, scaled by the times of finished cells of the same probe."""

    def __init__(self, done: Iterable[Record] = ()) -> None:
        self._sums: dict[str, tuple[float, float]] = {}
        for record in done:
            self.learn(record)

    def learn(self, record: Record) -> None:
        """Correct later estimates by a measured cell."""
        if record.status == "ok":
            actual, guessed = self._sums.get(record.cell.probe, (0.0, 0.0))
            self._sums[record.cell.probe] = (actual + whole_seconds(record), guessed + _guess(record.cell))

    def seconds(self, cell: Cell) -> float:
        """Return the expected wall time of the cell in seconds."""
        actual, guessed = self._sums.get(cell.probe, (0.0, 0.0))
        scale = actual / guessed if guessed else 1.0
        return _guess(cell) * scale


def whole_seconds(record: Record) -> float:
    """Return the wall time of a cell in seconds, with the earlier parts of a training that was resumed."""
    trained_s = record.values.get("train_seconds")
    return max(record.seconds, trained_s) if isinstance(trained_s, float) else record.seconds


def _guess(cell: Cell) -> float:
    if cell.probe == "accuracy":
        return _TRAINING_S * cell.seq_len * cell.d_model * cell.layers / (128 * 64 * 2)
    order = registry.find(cell.mechanism, "mechanism").order
    quadratic = order is None or order.power > 1.5
    mixing = 4 * cell.seq_len * cell.d_model * (cell.seq_len if quadratic else min(cell.seq_len, 512))
    flops = float(cell.batch_size * cell.layers * (8 * cell.seq_len * cell.d_model**2 + mixing))
    if cell.mode == "train":
        flops *= 3.5
    call_s = flops / (_FLOPS_PER_CORE * cell.threads)
    overhead_s = _OVERHEAD_S
    if cell.mode == "decode":  # the context is read a few times; a step is short beside that
        overhead_s += 3 * call_s
        call_s /= cell.seq_len
    elif cell.compile != "none" and cell.probe != "flops" and cell.repeat == 0:
        overhead_s += _COMPILING_S[cell.mode]
    if cell.probe != "time":
        return overhead_s + 3 * call_s
    return overhead_s + WARM_UP_MIN_S + max(cell.seconds, (MIN_SAMPLES + 3) * call_s)

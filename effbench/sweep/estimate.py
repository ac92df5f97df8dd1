"""Estimates of how long a cell takes: rough for --dry-run, corrected by finished cells for the ETA."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from effbench.common import registry
from effbench.common.extent import Extent
from effbench.common.spec import MIN_SAMPLES, WARM_UP_MIN_S, Cell, Record

Key = tuple[str, str, str]  # probe with its device, task, mechanism; the latter two "" for all
Extents = Mapping[tuple[str, int], Extent]  # by the task's label and seq_len

# The cost of mechanisms on one core of a common server, from the records in results/reference: the mean in
# logarithms of the mechanisms that come with effbench. A forward pass of one token takes so many seconds:
_ELEMENT_S = 10e-9  # for each number of its vector: norms, activations, copies
_FLOP_S = 1 / 100e9  # for each operation of matrix products: 8 d^2 of a mechanism, 8 d^2 of a feed-forward
_PAIR_S = 0.1e-9  # for each number of its vector and each token that it attends to
_KEYS = 96  # as many tokens as whatever a mechanism does that is not quadratic costs
_BACKWARD = 3.3  # a forward and a backward pass in forward passes
_THREADS = 0.8  # n threads are n^0.8 times as fast as one
_WRITING_S = 1.5e-3  # a step of writing, without its products
_SPEEDS_S = 1.5  # to measure the speeds of writing, or of a recommender, after a training
# What a cell takes beside its calls.
_OVERHEAD_S = 0.1
_CHECK_S = 0.1  # the laws and the reference, before the first repeat of a time
_COMPILING_S = {"forward": 8.0, "train": 16.0}  # with the backward pass; of the first repeat only
_CALLS = {"memory": 2.5, "flops": 1.5}
_ENERGY_S = 1.5  # the least time of calls that are repeated for their energy
_TRAINING_S = 0.5
_STEP_S, _LAYER_STEP_S = 2e-3, 3e-3  # of each step of a training: operators of any size, for each layer
_RECURRENT = 1.5  # times that of causal forms, which often go along the tokens in several operators
_CHOICE_S = 1e-9  # to choose a token, for each one of the vocabulary, beside its product
_PARAMETER_S = 3e-9  # of each step for each embedded number: the optimizer reads and writes all of them
_FULL_STEPS = 2.5  # steps on a full batch that measure the peak memory
# Of a task whose extent is not known.
_ROWS, _EPOCHS, _FILLED = 20_000, 5, 0.7


class Estimate:
    """Seconds per cell: a cost model, scaled by the times of finished cells.

    ``extents`` are those of the tasks, as far as they are known; ``before`` are the sums that ``sums``
    returned at the end of an earlier run. Of the finished cells those that are most alike decide: of the same
    probe, task and mechanism, else of the same probe and task, else of the same probe.
    """

    def __init__(
        self,
        done: Iterable[Record] = (),
        extents: Extents | None = None,
        before: Mapping[Key, tuple[float, float]] | None = None,
    ) -> None:
        self._extents = extents or {}
        self._sums = dict(before or {})
        for record in done:
            self.learn(record)

    @property
    def sums(self) -> Mapping[Key, tuple[float, float]]:
        """Seconds that cells took and that the model says, by what they have in common."""
        return self._sums

    def learn(self, record: Record) -> None:
        """Correct later estimates by a measured cell."""
        if record.status == "ok":
            for key in _keys(record.cell):
                actual, guessed = self._sums.pop(key, (0.0, 0.0))
                self._sums[key] = (actual + whole_seconds(record), guessed + self._guess(record.cell))

    def seconds(self, cell: Cell) -> float:
        """Return the expected wall time of the cell in seconds."""
        return self._guess(cell) * self._scale(_keys(cell))

    def left(self, cells: Iterable[Cell]) -> Left:
        """Return the expected time of cells that are still to be measured."""
        return Left(self, cells)

    def _scale(self, keys: Iterable[Key]) -> float:
        actual, guessed = next((self._sums[key] for key in keys if key in self._sums), (1.0, 1.0))
        return actual / guessed

    def _guess(self, cell: Cell) -> float:
        if cell.probe == "accuracy":
            return training_s(cell, self._extents.get((cell.task_label, cell.seq_len)) or _extent(cell))
        return _cost_s(cell)


class Left:
    """The expected time of cells that are left, kept as sums, so that it costs little for each cell."""

    def __init__(self, estimate: Estimate, cells: Iterable[Cell]) -> None:
        self._estimate = estimate
        self._guesses: dict[tuple[Key, ...], float] = {}
        for cell in cells:
            self._add(cell, 1)

    def seconds(self) -> float:
        """Return the expected seconds of all that are left."""
        return sum(max(0.0, guess) * self._estimate._scale(keys) for keys, guess in self._guesses.items())

    def without(self, cell: Cell) -> None:
        """Leave out a cell that is done."""
        self._add(cell, -1)

    def _add(self, cell: Cell, sign: int) -> None:
        keys = _keys(cell)
        self._guesses[keys] = self._guesses.get(keys, 0.0) + sign * self._estimate._guess(cell)


def whole_seconds(record: Record) -> float:
    """Return the wall time of a cell in seconds, with the earlier parts of a training that was resumed."""
    trained_s = record.values.get("train_seconds")
    return max(record.seconds, trained_s) if isinstance(trained_s, float) else record.seconds


def training_s(cell: Cell, extent: Extent) -> float:
    """Return the seconds that the cost model gives a training of this extent that does not stop early."""
    cores = _cores(cell)
    passes = extent.passes or ((1.0, extent.tokens),)
    row_s = _passes_s(cell, passes) + _predicting_s(cell, extent)
    scored_s = _passes_s(cell, extent.scored) if extent.scored else row_s
    steps = math.ceil(extent.train / cell.batch_size)
    recurrent = bool(cell.options.get("causal")) and not _is_quadratic(cell)
    step_s = _STEP_S + _LAYER_STEP_S * cell.layers * len(passes) * (_RECURRENT if recurrent else 1.0)
    step_s += _PARAMETER_S * extent.vocabulary * cell.d_model / cores
    epoch_s = extent.train * row_s * _BACKWARD / cores + steps * step_s
    scoring_s = (extent.evaluations * extent.epochs * extent.validation + extent.test) * scored_s / cores
    longer = cell.seq_len / max(1.0, extent.tokens)
    full_row_s = _passes_s(cell, [(count, tokens * longer) for count, tokens in passes])
    full_s = _FULL_STEPS * cell.batch_size * (full_row_s + _predicting_s(cell, extent)) * _BACKWARD / cores
    speeds_s = _SPEEDS_S if extent.written or extent.scored else 0.0
    after_s = full_s + speeds_s + _writing_s(cell, extent)
    return _TRAINING_S + extent.epochs * epoch_s + scoring_s + after_s


def _passes_s(cell: Cell, passes: Iterable[tuple[float, float]]) -> float:
    """Return the seconds of sequences through the layers, on one core."""
    return sum(
        count * tokens * cell.layers * (_token_s(cell, tokens) + _feed_forward_s(cell))
        for count, tokens in passes
    )


def _predicting_s(cell: Cell, extent: Extent) -> float:
    """Return the seconds to predict the tokens of a row."""
    return extent.predicted * extent.vocabulary * (2 * cell.d_model * _FLOP_S + _CHOICE_S)


def _writing_s(cell: Cell, extent: Extent) -> float:
    """Return the seconds to write the test part's texts, one token after the other."""
    batches = math.ceil(extent.test * max(1.0, extent.tokens) / (cell.batch_size * cell.seq_len))
    token_s = 2 * cell.layers * (_token_s(cell, 1) + _feed_forward_s(cell))
    token_s += extent.vocabulary * 2 * cell.d_model * _FLOP_S
    return extent.written * (batches * _WRITING_S + extent.test * token_s / _cores(cell))


def _token_s(cell: Cell, length: float) -> float:
    """Return the seconds of one token of so many through the mechanism: forward, on one core."""
    keys = length if _is_quadratic(cell) else _KEYS
    return cell.d_model * (_ELEMENT_S + keys * _PAIR_S) + 8 * cell.d_model**2 * _FLOP_S


def _is_quadratic(cell: Cell) -> bool:
    """True if the mechanism declares so, or declares nothing."""
    order = registry.model(cell.mechanism).order
    return order is None or order.power > 1.5


def _cores(cell: Cell) -> float:
    """Return how many times as fast as one thread the cell's threads are."""
    return math.pow(cell.threads, _THREADS)


def _feed_forward_s(cell: Cell) -> float:
    return cell.d_model * _ELEMENT_S + 8 * cell.d_model**2 * _FLOP_S


def _cost_s(cell: Cell) -> float:
    """Return the seconds that the cost model gives a cell of time, memory, FLOPs or energy."""
    token_s = _token_s(cell, cell.seq_len) + (_feed_forward_s(cell) if cell.scope == "encoder" else 0.0)
    call_s = cell.batch_size * cell.seq_len * cell.layers * token_s / _cores(cell)
    overhead_s = _OVERHEAD_S
    if cell.mode == "train":
        call_s *= _BACKWARD
    elif cell.mode == "decode":  # the context is read a few times; a step is short beside that
        overhead_s += (3 if cell.probe == "time" else 1) * call_s
        call_s /= cell.seq_len
    if cell.mode != "decode" and cell.compile != "none" and cell.probe != "flops" and cell.repeat == 0:
        overhead_s += _COMPILING_S[cell.mode]
    if cell.probe != "time":
        calls = _CALLS.get(cell.probe, 2.5)
        return overhead_s + max(calls * call_s, _ENERGY_S if cell.probe == "energy" else 0.0)
    overhead_s += (_CHECK_S + 2 * call_s if cell.repeat == 0 else 0.0) + min(WARM_UP_MIN_S, cell.seconds)
    if call_s > cell.seconds:  # two calls of the warm-up and three samples
        return overhead_s + 5 * call_s
    return overhead_s + max(cell.seconds, MIN_SAMPLES * call_s) + 3 * call_s


def _extent(cell: Cell) -> Extent:
    """Return the extent of a training as far as its task's options say it, in names that tasks share."""
    parameters = registry.find(cell.task or "", "task").parameters or ()
    options = {**{p.name: p.default for p in parameters}, **cell.task_options}

    def whole(name: str, otherwise: int) -> int:
        value = options.get(name)
        return value if isinstance(value, int) and value > 0 else otherwise

    train = whole("train", _ROWS)
    return Extent(
        train=train,
        validation=whole("validation", max(1, train // 10)),
        test=whole("test", max(1, train // 10)),
        tokens=_FILLED * cell.seq_len,
        epochs=whole("epochs", _EPOCHS),
    )


def _keys(cell: Cell) -> tuple[Key, ...]:
    """Return what cells have in common, the most first."""
    probe, task = f"{cell.probe} {cell.device}", cell.task_label
    return tuple(dict.fromkeys([(probe, task, cell.label), (probe, task, ""), (probe, "", "")]))

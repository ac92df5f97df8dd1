"""Accuracy: train a task's model around the mechanism, then score it on the test part."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effbench.common import columns, machine, registry
from effbench.common.spec import Cell, Job, UsageError, to_json
from effbench.common.weights import header
from effbench.measured.data.examples import Examples, Integers
from effbench.measured.mechanism import Unsupported
from effbench.measured.models.batches import Count, on_device, sorted_batches
from effbench.measured.models.checkpoint import Checkpoint
from effbench.measured.models.kept_weights import write_weights
from effbench.measured.models.training import Objective, train
from effbench.measured.patterns import has_steps
from effbench.measured.probes.context import Context, Result, Values
from effbench.measured.probes.correctness import check_laws, check_steps
from effbench.measured.probes.effects import Watch
from effbench.measured.probes.memory import peak_bytes
from effbench.measured.probes.recommender_laws import check_recommender
from effbench.measured.recommender import MakeRecommender, Recommender
from effbench.measured.state import state_bytes
from effbench.measured.tasks.base import Task, confirm
from effbench.measured.workload import maker, recommender_maker

Score = Callable[[nn.Module, Iterable[Mapping[str, Tensor]]], dict[str, Any]]


def accuracy(context: Context) -> Result:
    """Check the mechanism, then train and score once. Raises UsageError for data that changed.

    A recommender is tested against its own laws once it is built, since it needs the task's news.
    """
    job, cell = context.job, context.cell
    recommender = recommender_maker(cell)
    make: Callable[..., nn.Module] = maker(cell) if recommender is None else recommender
    task = registry.load(registry.find(cell.task or "", "task"))(**cell.task_options)
    data_dir = Path(job.data_dir) if job.data_dir else None
    confirm(task, data_dir, job.data)
    if recommender is None:
        _check_before_training(task, make, cell, context.watch)
    return measure_accuracy(
        task,
        make_mechanism=make,
        cell=cell,
        data_dir=data_dir,
        progress=context.progress,
        checkpoint=_checkpoint(job),
        predictions=Path(job.predictions) if job.predictions else None,
        weights=Path(job.weights) if job.weights else None,
    )


def _check_before_training(task: Task, make: Callable[[], nn.Module], cell: Cell, watch: Watch) -> None:
    """Test one instance against the laws of every mechanism, and undo what it does to the process.

    If the record will have the size of its state, its steps are tested too.
    """
    torch.manual_seed(cell.seed + cell.repeat)
    module = make().to(cell.device)
    x = torch.randn(1, cell.seq_len, cell.d_model, device=cell.device)
    causal = bool(cell.options.get("causal"))
    check_laws(module, x, causal=causal, train=True)
    if task.generates and causal and has_steps(module):
        with suppress(Unsupported):
            check_steps(module, x[:, 1:])  # it steps one token further, and the module is as long as x
    watch.undo("its constructor or a call")


def _checkpoint(job: Job) -> Checkpoint | None:
    """Return the job's checkpoint, which is valid for one cell, code, data and machine only."""
    if job.checkpoint is None:
        return None
    return Checkpoint(
        Path(job.checkpoint), "\n".join((to_json(job.cell), job.code, job.data, machine.name()))
    )


def measure_accuracy(
    task: Task,
    *,
    make_mechanism: Callable[..., nn.Module],
    cell: Cell,
    data_dir: Path | None,
    progress: Callable[[float, str], None],
    checkpoint: Checkpoint | None = None,
    predictions: Path | None = None,
    weights: Path | None = None,
) -> Result:
    """Train once and return samples and values; continue from ``checkpoint`` if the training was killed.

    The data depends on ``cell.seed`` alone, so that all repeats share it. Initial weights, shuffling and
    dropout depend on ``seed + repeat``. The test part is scored once, with the weights that did best on the
    validation part. ``peak_bytes`` is the peak memory of one training step, forward and backward, on a full
    batch without padding, above the model's parameters; it excludes the optimizer's state. ``state_bytes`` is
    what all layers keep of one row of ``seq_len`` tokens, if the task generates and the mechanism has steps.

    The predictions for the test part go to the folder ``predictions`` and the trained weights to the file
    ``weights``, if they are given.

    A cell of dtype bfloat16 trains float32 weights under torch.autocast: forward and loss, in training and in
    evaluation, compute in bfloat16 what autocast deems safe. Raises Unsupported for other dtypes.
    """
    autocast = _autocast(cell)
    progress(0.0, "preparing data")
    splits = task.data(cell.seq_len, cell.seed, data_dir)
    seed = cell.seed + cell.repeat
    device = torch.device(cell.device)
    torch.manual_seed(seed)
    model = task.model(
        make_mechanism, splits=splits, seq_len=cell.seq_len, d_model=cell.d_model, layers=cell.layers
    ).to(device)

    # training begins with a random state of its own: the checks leave no trace in it
    if isinstance(make_mechanism, MakeRecommender):
        check_recommender(next(m for m in model.modules() if isinstance(m, Recommender)))
    model.eval()
    task.check(model, splits, cell.seq_len)

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        with autocast():
            return task.loss(model, batch).float()

    def batches(part: Examples) -> Iterator[tuple[Integers, Mapping[str, Tensor]]]:
        for rows in sorted_batches(part.lengths, cell.batch_size * cell.seq_len):
            yield rows, on_device(task.batch(part, rows), device)

    def evaluate(
        part: Examples, score: Score, metric: str, count: Count
    ) -> tuple[dict[str, float], Values, dict[str, tuple[float, ...]]]:
        """Return the scores of a part, and their intervals and the series as far as the task has them."""
        with autocast():
            found = score(model, count.of(batch for _, batch in batches(part)))
        _check_scores(task, found, metric)
        ends = {end for name in found for end in columns.bounds(name)} & found.keys()
        series = {f"test_{name}": value for name, value in found.items() if isinstance(value, tuple)}
        scores = {n: v for n, v in found.items() if n not in ends and not isinstance(v, tuple)}
        return scores, {end: found[end] for end in sorted(ends)}, series

    chosen_by = task.validation_metric or task.metric
    objective = Objective(
        batch=lambda rows: task.batch(splits.train, rows),
        lengths=splits.train.lengths,
        loss=loss,
        score=lambda: evaluate(splits.validation, task.validate, chosen_by, Count())[0],
        metric=chosen_by,
    )
    history = train(
        model,
        objective,
        task.recipe(),
        batch_size=cell.batch_size,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
    )
    progress(1.0, "scoring the test part")
    model.eval()
    with torch.no_grad():
        began = time.perf_counter()
        count = Count()
        scores, ends, of_test = evaluate(splits.test, task.score, task.metric, count)
        test_s = time.perf_counter() - began
        with autocast():
            further = task.measurements(model, splits, cell.seq_len)
        if predictions is not None:
            with autocast():
                task.write_predictions(model, splits, cell.seq_len, batches, predictions)
    if weights is not None:
        write_weights(weights, model, header(cell, task.kept_with_weights()))
    full = on_device(task.full_batch(splits, cell.batch_size, cell.seq_len), device)
    model.train()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss(model, full).backward()

    step()  # warm-up: the first call makes buffers that stay
    model.zero_grad(set_to_none=True)
    peak, method = peak_bytes(step, cell.device)
    metric = task.metric
    named = [metric, *(name for name, value in scores.items() if name != metric and isinstance(value, float))]
    values: Values = {name if name == metric else f"test_{name}": value for name, value in scores.items()}
    values |= ends
    values |= {columns.METRIC: metric, columns.SCORES: ",".join(named)}
    values |= {f"prior_{name.replace(' ', '_')}": value for name, value in splits.priors.items()}
    values |= {**splits.facts, **{n: v for n, v in further.items() if not isinstance(v, tuple)}}
    if chosen_by != metric:
        values[columns.VALIDATION_METRIC] = chosen_by
    curves = {  # counts are integers and make no curve
        f"validation_{name}": series
        for name, series in history.scores.items()
        if isinstance(series[0], float)
    }
    values |= {name: series[history.best] for name, series in curves.items()}
    values |= {
        "train_examples": len(splits.train),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_s": history.tokens_per_s,
        "examples_per_s": history.epochs * len(splits.train) / sum(history.step_s),
        "test_seconds": test_s,
        "test_examples_per_s": len(splits.test) / test_s,
        "mean_tokens": count.mean,
        "padding_share": history.padding_share,
        "train_seconds": history.seconds,
        "checkpoint_seconds": history.checkpoint_seconds,
        "resumed": history.resumed,
        "epochs": history.epochs,
        "best_epoch": history.best_epoch,
        "stopped": history.stopped,
        "peak_bytes": peak,
        "memory_method": method,
    }
    if task.generates and cell.options.get("causal"):
        model.eval()
        tokens = on_device(task.full_batch(splits, 1, cell.seq_len), device)["tokens"]
        # Unsupported: without a step form there is no state
        with torch.no_grad(), autocast(), suppress(Unsupported):
            values["state_bytes"] = state_bytes(model.prefill(tokens)[1])  # type: ignore[operator]
    series: dict[str, Sequence[float]] = {
        "step_s": history.step_s,
        "step_loss": history.step_loss,
        "train_loss": history.train_loss,
        **curves,
        **splits.series,
        **of_test,
        **{name: numbers for name, numbers in further.items() if isinstance(numbers, tuple)},
        "curve_epoch": history.curve_epoch,
        "curve_step": history.curve_step,
        "curve_seconds": history.curve_seconds,
        "learning_rate": history.learning_rate,
    }
    samples = {name: tuple(numbers) for name, numbers in series.items()}
    return samples, values


def _check_scores(task: Task, scores: Mapping[str, float], metric: str) -> None:
    """Raise UsageError if scores lack the metric, are not finite, or have the name of another column."""
    name = type(task).__name__
    if metric not in scores:
        raise UsageError(f"task {name}: its metric is {metric!r}, its scores are {', '.join(scores)}")
    for score, value in scores.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"task {name}: its score {score} is {value}: the part has nothing to score")
    taken = [score for score in scores if columns.is_taken(score)]
    if taken:
        raise UsageError(f"task {name}: a score cannot be called {taken[0]!r}, which is a column of its own")


def _autocast(cell: Cell) -> Callable[[], AbstractContextManager[object]]:
    """Return the context that forward and loss run in. Raises Unsupported for a dtype that cannot train."""
    if cell.dtype == "float32":
        return nullcontext
    if cell.dtype == "bfloat16":
        return lambda: torch.autocast(torch.device(cell.device).type, dtype=torch.bfloat16)
    float16 = "small gradients vanish in it unless the loss is scaled, which would be another recipe"
    why = float16 if cell.dtype == "float16" else "it is no way to train a model"
    raise Unsupported(f"accuracy is measured by training in float32 or bfloat16, not {cell.dtype}: {why}")

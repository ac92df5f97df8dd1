"""The schema of results: the unit of every column and its role in the summary. Standard library only.

A name carries its unit, so that a task or a probe adds a column by naming it: ``prior_NAME`` is a baseline
score, ``NAME_s`` is in seconds, ``NAME_bytes`` in bytes. The columns listed here have a fixed place in
tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["text", "number", "count", "seconds", "bytes", "share", "flops", "flops_per_s", "per_s"]
# identity: what was measured, equal in all records of a row. computed: from several records of the row.
# exact: equal in every repeat. score: the mean over seeds, with an interval. origin: machine, code and data.
# raw, fact: in the raw frame only, from the record's values (raw) or its machine's facts (fact).
Role = Literal["identity", "computed", "exact", "score", "origin", "raw", "fact"]

METRIC = "metric"
VALIDATION_METRIC = "validation_metric"  # where training stopped on another score than the metric
SCORES = "scores"
DEFAULT_METRIC = "accuracy"
PRIOR = "prior_"
SOURCES = 8  # read together where encode_s, decode_tokens_per_s and beam_tokens_per_s are measured
_BOUNDS = ("_low", "_high")
_SUFFIXES: tuple[tuple[str, Unit], ...] = (
    ("_per_s", "per_s"),
    ("_s", "seconds"),
    ("_seconds", "seconds"),
    ("_bytes", "bytes"),
    ("_share", "share"),
    ("_nats", "number"),
    ("_gain", "number"),  # a share that is negative for what loses
    ("_bits", "number"),
    ("inverse_perplexity", "share"),
    ("perplexity", "number"),
    ("_per_byte", "number"),
    ("_unigram", "number"),  # bits per byte of a baseline
    ("_trigram", "number"),
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of results: its name, its unit, and its role, by which a row of the summary gets its value."""

    name: str
    unit: Unit
    role: Role


def _columns(role: Role, unit: Unit, names: str) -> list[Column]:
    return [Column(name=name, unit=unit, role=role) for name in names.split()]


KNOWN: tuple[Column, ...] = (
    *_columns("identity", "text", "mechanism options scope mode task"),
    *_columns("identity", "count", "seq_len batch_size d_model heads layers"),
    *_columns("identity", "text", "dtype device"),
    *_columns("identity", "count", "threads"),
    *_columns("identity", "text", "allocator compile"),
    *_columns("computed", "text", "status reason"),
    *_columns("computed", "seconds", "time_s time_low_s time_high_s"),
    *_columns("computed", "text", "time_interval"),
    *_columns("computed", "number", "slowdown"),
    *_columns("computed", "text", "noisy"),
    *_columns("computed", "number", "time_ratio time_ratio_low time_ratio_high"),
    *_columns("computed", "per_s", "tokens_per_s"),
    *_columns("exact", "seconds", "prefill_s"),
    *_columns("exact", "bytes", "state_bytes"),
    *_columns("exact", "bytes", "peak_bytes reserved_bytes saved_bytes parameter_bytes rss_growth_bytes"),
    *_columns("computed", "bytes", "peak_rss_bytes"),
    *_columns("computed", "text", "memory_method memory_left_out"),
    *_columns("exact", "flops", "flops flops_analytic flops_useful flops_other"),
    *_columns("computed", "text", "flops_left_out flops_method"),
    *_columns("exact", "bytes", "bytes_moved"),
    *_columns("computed", "number", "arithmetic_intensity"),
    *_columns("computed", "flops_per_s", "flops_per_s roof_flops_per_s"),
    *_columns("computed", "share", "roof_share"),
    *_columns("exact", "number", "energy_j energy_resolution_j power_w"),
    *_columns("computed", "text", "energy_method"),
    *_columns("exact", "count", "parameters"),
    *_columns("computed", "number", "compile_ratio compile_ratio_low compile_ratio_high"),
    *_columns("computed", "seconds", "compile_s"),
    *_columns("computed", "count", "graph_breaks recompiles"),
    *_columns("computed", "text", "graph_break_reasons"),
    *_columns("computed", "text", "checked side_effects"),
    *_columns("computed", "text", METRIC),
    *_columns("score", "share", "accuracy macro_f1"),
    *_columns("computed", "seconds", "train_seconds"),
    *_columns("exact", "seconds", "test_seconds"),
    *_columns("exact", "number", "mean_tokens"),
    *_columns("exact", "per_s", "examples_per_s test_examples_per_s news_per_s users_per_s"),
    *_columns("exact", "seconds", "scoring_s encode_s"),
    *_columns("exact", "per_s", "decode_tokens_per_s beam_tokens_per_s"),
    *_columns("computed", "text", "decoder_self_attention decoder_cross_attention"),
    *_columns("exact", "share", "source_truncated_share target_truncated_share"),
    *_columns("computed", "count", "repeats"),
    *_columns("computed", "text", "hosts"),
    *_columns("origin", "text", "machine code data"),
    *_columns("raw", "text", "probe warmed_up declared_order declared_memory_order implementation libraries"),
    *_columns("raw", "text", "warnings allocator_in_force stopped no_ceiling torch host slurm_job started"),
    *_columns("raw", "text", f"{SCORES} {VALIDATION_METRIC} pretrained_by"),
    *_columns("raw", "count", "repeat seed calls_per_sample test_correct test_examples train_examples"),
    *_columns("raw", "count", "resumed"),
    *_columns("raw", "number", "epochs best_epoch"),
    *_columns("raw", "seconds", "seconds seconds_budget warm_up_s checkpoint_seconds control_s"),
    *_columns("raw", "number", "history_runs history_time_sd history_own_sd"),
    *_columns("raw", "number", "history_time_degrees history_own_degrees"),
    *_columns("raw", "seconds", "history_control_s"),
    *_columns("raw", "share", "precision trend waited_share padding_share test_macro_f1 validation_accuracy"),
    *_columns("raw", "share", "validation_macro_f1"),
    *_columns("raw", "bytes", "saved_bytes_declared"),
    *_columns("raw", "text", "timed_by throttle_reasons"),
    *_columns("raw", "share", "throttled_share"),
    *_columns("raw", "number", "sm_clock_hz"),
    *_columns("raw", "flops_per_s", "peak_flops_per_s"),
    *_columns("fact", "number", "load_1min others_cores machine_cores frequency_hz"),
    *_columns("fact", "seconds", "steal_s"),
    *_columns("fact", "share", "frequency_change"),
)
_BY_NAME: Mapping[str, Column] = {column.name: column for column in KNOWN}


def is_number(name: str) -> bool:
    """True if a record's value of this name must be a number; False also for an unknown name."""
    return name.startswith(PRIOR) or (name in _BY_NAME and _BY_NAME[name].unit != "text")


def is_text(name: str) -> bool:
    """True if a record's value of this name must be a text; False also for an unknown name."""
    return name in _BY_NAME and _BY_NAME[name].unit == "text"


def column(name: str) -> Column:
    """Return the column of this name: a known one, or one whose unit and role follow from the name."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name.endswith("_interval"):
        return Column(name=name, unit="text", role="computed")
    for bound in _BOUNDS:
        if name.endswith(bound):
            return Column(name=name, unit=column(name.removesuffix(bound)).unit, role="computed")
    suffix = next((unit for suffix, unit in _SUFFIXES if name.endswith(suffix)), None)
    if name.startswith(PRIOR):
        return Column(name=name, unit=suffix or "share", role="exact")
    return Column(name=name, unit=suffix or "number", role="raw")


def score_unit(score: str) -> Unit:
    """Return the unit of a task's score: a share, 0 to 1, unless its name ends with a unit (``_nats``)."""
    return column(f"{PRIOR}{score}").unit


def lower_is_better(score: str) -> bool:
    """True for a loss or an error, by its name or column: ``loss_nats``, ``test_perplexity``."""
    return score.removeprefix("test_") == "perplexity" or score.endswith(("_nats", "_error", "_per_byte"))


def is_taken(score: str) -> bool:
    """True if a known column has this name and is not a score."""
    return score in _BY_NAME and _BY_NAME[score].role != "score"


def of_summary(scores: Sequence[str] = (), priors: Sequence[str] = ()) -> list[str]:
    """Return the names of a summary's columns, in order: known ones, further scores and baseline scores."""
    names: list[str] = []
    for known in KNOWN:
        if known.role == "score":
            names += [known.name, *bounds(known.name)]
        elif known.role not in ("raw", "fact"):
            names.append(known.name)
    place = names.index(bounds(of_role("score")[-1])[-1]) + 1
    more = [name for score in scores if score not in names for name in (score, *bounds(score))]
    return [*names[:place], *more, *priors, *names[place:]]


def of_role(*roles: Role) -> list[str]:
    """Return the names of the known columns that have one of these roles, in order."""
    return [known.name for known in KNOWN if known.role in roles]


def bounds(score: str) -> tuple[str, str, str]:
    """Return the columns of a score's interval: its low end, its high end and the method."""
    return f"{score}_low", f"{score}_high", f"{score}_interval"


def record_scores(values: Mapping[str, Any]) -> dict[str, str]:
    """Return score -> its column in the record of a training, the task's metric first.

    The metric has its own name as its column; the other scores have the prefix ``test_``. A record of an
    earlier version does not name its scores: they are accuracy and macro F1, as far as it holds them.
    """
    metric = str(values.get(METRIC) or DEFAULT_METRIC)
    named = values.get(SCORES)
    names = str(named).split(",") if named else [metric, "macro_f1"]
    places = {name: name if name == metric else f"test_{name}" for name in names if name}
    return {name: place for name, place in places.items() if named or place in values}


def headline(values: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return (metric, score) of a training's record; None if it holds no score."""
    metric = str(values.get(METRIC) or DEFAULT_METRIC)
    score = values.get(metric)
    return (metric, float(score)) if isinstance(score, int | float) else None

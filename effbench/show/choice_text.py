"""A choice in words and tables: the recommendation with its reasons, the Pareto front, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from effbench.common.wording import plural
from effbench.records.analyse.choice import DOMINATED, FAILED, FRONT, OUTSIDE, Choice
from effbench.records.analyse.choice_scores import Scores
from effbench.records.analyse.seeds import BETTER, NOT_SIGNIFICANT, WORSE
from effbench.show import units
from effbench.show.blocks import Block
from effbench.show.overview import mixtures
from effbench.show.tables import compiled_in_words, each_row, items_in_words, plain, what_was_measured

_MEMORY = {"decode": "peak memory of a step and the state"}


def choice_blocks(choice: Choice) -> list[Block]:
    """Return the recommendation and the Pareto front, then the other mechanisms, each with its reason."""
    front = choice.of(FRONT)
    scored = choice.scores is not None and bool(choice.rows["score"].notna().any())
    head = ["mechanism", "time per call", "times the fastest", "95 % interval", "memory"]
    head += [units.score_words(choice.scores.score), "95 % CI", "seeds"] if choice.scores and scored else []
    rows = [
        [*_costs(choice, row), *(_score(choice.scores, row) if scored else [])] for row in each_row(front)
    ]
    warnings = [f"Warning: {sentence}" for sentence in mixtures(choice.used)]
    blocks = [
        Block(title=_title(choice), notes=recommendation(choice)),
        Block(title=f"Pareto front{_under(choice)}", head=head, rows=rows, notes=_notes(choice)),
    ]
    others = [
        [*_costs(choice, row), _why(choice, row)] for row in each_row(choice.rows) if row.place != FRONT
    ]
    if others:
        head = [*head[:5], "why not"]
        blocks.append(Block(title="not on the front", head=head, rows=others, left=(0, 5)))
    return [*(blocks if rows else [blocks[0], *blocks[2:]]), Block(warnings=warnings)]


def as_json(choice: Choice) -> str:
    """Return the decision as one JSON object: SI numbers, unrounded, null for what is unknown."""
    columns = [name for name in choice.rows if name not in ("missed", "unsure", "why")]
    mechanisms = [
        {**plain({name: getattr(row, name) for name in columns}), "why": _why(choice, row)}
        for row in each_row(choice.rows)
    ]
    answer = {
        "seq_len": choice.seq_len,
        "mode": choice.mode,
        "setting": dict(choice.setting),
        "interpolated_between": choice.between,
        "limits": vars(choice.most),
        "scores_of": None
        if choice.scores is None
        else {**choice.scores.setting, "metric": choice.scores.score},
        "recommended": list(choice.recommended),
        "sentences": [*recommendation(choice), *_notes(choice)],
        "mechanisms": mechanisms,
    }
    return json.dumps(answer, indent=1)


def recommendation(choice: Choice) -> list[str]:
    """Return the recommendation in words: what to use, why, and how sure it is."""
    if not len(choice.of(FRONT)):
        return [
            f"No mechanism is recommended: none is {'within the limits' if _limits(choice) else 'measured'}."
        ]
    if choice.undecided:
        return [f"No mechanism is recommended, since no time can be called the shortest: {choice.undecided}."]
    names = _listed(choice.recommended, "or")
    return [f"Recommended: {names}.", *_reasons(choice), *_accuracy(choice), *_unsure(choice)]


def _reasons(choice: Choice) -> list[str]:
    left = choice.rows[choice.rows["place"].isin([FRONT, DOMINATED])]
    if len(left) == 1:
        return [
            f"It is the only mechanism {'within the limits' if _limits(choice) else 'with measured costs'}."
        ]
    if len(choice.tied) == 1:
        second = left[left["label"] != choice.quickest].iloc[0]
        return [f"It is the fastest: {second['label']}, the next, takes {_times(second)} its time."]
    sentences = [f"{_listed(choice.tied)} cannot be told apart in time: {_ratios(choice)}."]
    for name, test in choice.worse.items():
        low, high = units.points(test["low"]), units.points(test["high"])
        sentences.append(
            f"{name} scores {units.points(test['difference'])} points against {test['against']} "
            f"({low} to {high}), which is significant."
        )
    equal = [name for name in choice.tied if name not in choice.worse]
    memory = choice.rows.set_index("label")["memory_bytes"]
    for name in equal:
        least = memory[list(choice.recommended)].min()
        if name not in choice.recommended and memory[name] > 0:
            less = f"{100 * (1 - least / memory[name]):.0f} %"
            sentences.append(f"{_listed(choice.recommended)} needs {less} less memory than {name}.")
    if len(choice.recommended) > 1:
        sentences.append("Their memory is equal within 1 %, or unknown: take either.")
    return sentences


def _ratios(choice: Choice) -> str:
    others = [choice.row(name) for name in choice.tied if name != choice.quickest]
    return ", ".join(f"{row['label']} takes {_times(row)} the time of {choice.quickest}" for row in others)


def _times(row: pd.Series, column: str = "time_ratio") -> str:
    """Return ``1.50 times (1.38 to 1.63)``."""
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    interval = f" ({units.ratio(low)} to {units.ratio(high)})" if pd.notna(low) else " (no interval)"
    return f"{units.ratio(row[column])} times{interval}"


def _accuracy(choice: Choice) -> list[str]:
    """Say what the recommended mechanisms cost in score, against the best within the limits."""
    scores, best = choice.scores, _best_score(choice)
    if scores is None or not best:
        return []
    sentences = []
    for name in choice.recommended:
        if name not in scores.means.index:
            sentences.append(f"{name} has no score on {_task(scores)}.")
            continue
        mean = units.written_score(scores.score)(scores.means.loc[name, "mean"])
        if name == best:
            sentences.append(f"{name} has the best score within the limits: {mean} on {_task(scores)}.")
            continue
        test = scores.differences([name], best).loc[name]
        words = {BETTER: "significant", WORSE: "significant", NOT_SIGNIFICANT: "not significant"}
        interval = ""
        if pd.notna(test["low"]):
            interval = f" (95 % CI {_points(scores, test['low'])} to {_points(scores, test['high'])})"
        sentences.append(
            f"{name} scores {mean} on {_task(scores)}, {_points(scores, test['difference'])} against the best, "
            f"{best}{interval}: {words.get(test['verdict'], test['verdict'])}."
        )
    return sentences


def _best_score(choice: Choice) -> str:
    left = choice.rows[choice.rows["place"].isin([FRONT, DOMINATED])].set_index("label")["score"]
    return str(left.idxmax()) if left.notna().any() else ""


def _points(scores: Scores, value: float) -> str:
    share = units.score_unit(scores.score) == "share"
    return f"{units.points(value)} points" if share else f"{value:+.4g}"


def _unsure(choice: Choice) -> list[str]:
    """Say which limits the recommended mechanisms may miss, and which of their values are not well known."""
    sentences = []
    for name in choice.recommended:
        row = choice.row(name)
        for limit in str(row["unsure"]).split():
            sentences.append(
                f"It is not certain that {name} is within the limit of {_LIMITS[limit]}: {_against(choice, row, limit)}."
            )
        if row["noisy"]:
            sentences.append(f"The time of {name} is noisy (~): {row['noisy']}.")
        if row["memory_left_out"]:
            sentences.append(f"The memory of {name} is a lower bound, without {row['memory_left_out']}.")
    return sentences


_LIMITS = {"memory": "memory", "time": "time", "time_factor": "time against the fastest", "points": "score"}


def _against(choice: Choice, row: Any, limit: str) -> str:
    """Return a row's value beside the limit, in words."""
    most = choice.most
    if limit == "memory":
        value = "its memory is unknown" if pd.isna(row["memory_bytes"]) else units.size(row["memory_bytes"])
        return f"{value}, the limit is {units.size(most.memory_bytes or 0)}"
    if limit == "time":
        low, high = row["time_low_s"], row["time_high_s"]
        interval = f" ({units.seconds(low)} to {units.seconds(high)})" if pd.notna(low) else ""
        return f"{units.seconds(row['time_s'])}{interval}, the limit is {units.seconds(most.time_s or 0)}"
    if limit == "time_factor":
        return (
            f"{_times(row, 'pool_ratio')} the time of {choice.pool_quickest}, "
            f"the limit is {units.ratio(most.time_factor or 0)}"
        )
    if pd.isna(row["score"]) or choice.scores is None:
        return "it has no score"
    low, high = row["score_difference_low"], row["score_difference_high"]
    interval = f" ({100 * low:.2f} to {100 * high:.2f})" if pd.notna(low) else " (no interval)"
    return (
        f"{100 * row['score_difference']:.2f} points below {choice.pool_best}{interval}, "
        f"the limit is {100 * (most.points or 0):g}"
    )


def _why(choice: Choice, row: Any) -> str:
    if row.place == FAILED:
        return str(row.why)
    if row.place == OUTSIDE:
        values = row._asdict()
        return "; ".join(
            f"{_LIMITS[limit]}: {_against(choice, values, limit)}" for limit in row.missed.split()
        )
    return f"{row.dominated_by} is as good or better in everything" if row.place == DOMINATED else ""


def _costs(choice: Choice, row: Any) -> list[str]:
    time = "" if pd.isna(row.time_s) else f"{'~' if row.noisy else ''}{units.seconds(row.time_s)}"
    star = "*" if row.label in choice.tied else ""
    known = pd.notna(row.time_ratio_low)
    return [
        row.label,
        f"{time}{star}".replace(" ", "\N{NO-BREAK SPACE}"),
        units.ratio(row.time_ratio) if pd.notna(row.time_ratio) else "",
        f"{units.ratio(row.time_ratio_low)} to {units.ratio(row.time_ratio_high)}" if known else "",
        units.size(row.memory_bytes).replace(" ", "\N{NO-BREAK SPACE}"),
    ]


def _score(scores: Scores | None, row: Any) -> list[str]:
    if scores is None or pd.isna(row.score):
        return ["", "", ""]
    written = units.written_score(scores.score)
    interval = f"{written(row.score_low).removesuffix(' %')} to {written(row.score_high)}"
    return [written(row.score), interval if pd.notna(row.score_low) else "", f"{row.seeds:.0f}"]


def _title(choice: Choice) -> str:
    shape = choice.setting
    return (
        f"{choice.mode} at {choice.seq_len} {items_in_words(shape)}: {what_was_measured(shape)}, batch "
        f"{shape['batch_size']}, d_model {shape['d_model']}, {shape['heads']} heads, {shape['dtype']}, "
        f"{shape['device']}, {plural(int(shape['threads']), 'thread')}, {shape['allocator']} allocator"
        f"{compiled_in_words(shape)}; {shape['machine']}"
    )


def _under(choice: Choice) -> str:
    limits = _limits(choice)
    return f" of {', '.join(limits)}" if limits else ""


def _limits(choice: Choice) -> list[str]:
    most = choice.most
    texts = [] if most.memory_bytes is None else [f"at most {units.size(most.memory_bytes)}"]
    texts += [] if most.time_s is None else [f"at most {units.seconds(most.time_s)} per call"]
    texts += (
        [] if most.time_factor is None else [f"at most {units.ratio(most.time_factor)} times the fastest"]
    )
    texts += [] if most.points is None else [f"at most {100 * most.points:g} points below the best score"]
    return texts


def _notes(choice: Choice) -> list[str]:
    """Return sentences about what the numbers are: marks, intervals, interpolation, memory, scores."""
    notes = []
    if choice.between is not None:
        low, high = choice.between
        notes.append(
            f"Times and memory are interpolated between {low} and {high}, linearly in the logarithms. The "
            "intervals are as wide as the wider of the two; the error of the interpolation is not in them."
        )
    if choice.tied:
        notes.append("*: the fastest, and those that are not significantly slower")
    told = sorted(set(choice.of(FRONT)["time_interval"]) - {""})
    if told:
        notes.append(f"intervals of times: {' and '.join(told)}")
    memory = _MEMORY.get(choice.mode, "peak memory of a call")
    notes.append(f"memory: {memory}, without inputs and parameters")
    scores = choice.scores
    if scores is not None:
        setting = scores.setting
        notes.append(
            f"Scores are of {setting['task'].partition(':')[0]} at length {setting['seq_len']}, width {setting['d_model']}, "
            f"{plural(setting['layers'], 'block')}, batch {setting['batch_size']}, from trainings of their own; they are "
            "combined with the costs by the mechanism's label alone."
        )
        unmatched = sorted(set(scores.means.index) - set(choice.rows["label"]))
        notes += [f"trained, but not among the costs: {', '.join(unmatched)}"] if unmatched else []
    notes += [f"Scores are left out: {choice.other_scores}."] if choice.other_scores else []
    return notes


def _task(scores: Scores) -> str:
    return f"{str(scores.setting['task']).partition(':')[0]} at length {scores.setting['seq_len']}"


def _listed(names: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

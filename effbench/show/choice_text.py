"""A choice in words and tables: the recommendation with its reasons, the Pareto front, and the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from effbench.common.columns import score_unit
from effbench.common.wording import plural
from effbench.records.analyse.best_at_end import best_at_end
from effbench.records.analyse.choice import DOMINATED, FAILED, FRONT, Choice
from effbench.records.analyse.choice_scores import Scores
from effbench.records.analyse.seeds import BETTER, NOT_SIGNIFICANT, WORSE
from effbench.show import units
from effbench.show.blocks import Block
from effbench.show.overview import mixtures
from effbench.show.tables import compiled_in_words, each_row, items_in_words, plain, what_was_measured

_MEMORY = {"decode": "peak memory of a step and the state"}
_VERDICTS = {BETTER: "significant", WORSE: "significant", NOT_SIGNIFICANT: "not significant"}


def choice_blocks(choice: Choice) -> list[Block]:
    """Return the recommendation and the Pareto front, then the other mechanisms, each with its reason."""
    front, others = choice.of(FRONT), choice.rows[choice.rows["place"] != FRONT]
    blocks = [Block(title=_title(choice), notes=recommendation(choice))]
    if len(front):
        scores = choice.scores if choice.rows["score"].notna().any() else None
        head = ["mechanism", "time per call", "times the fastest", "memory"]
        head += [] if scores is None else [units.score_words(scores.score), "95 % CI", "seeds"]
        rows = [
            [*_costs(choice, row, _ratio(row)), *([] if scores is None else _score(scores, row))]
            for row in each_row(front)
        ]
        limits = ", ".join(_limits(choice))
        title = f"Pareto front{f' within the limits ({limits})' if limits else ''}"
        blocks.append(Block(title=title, head=head, rows=rows, notes=notes(choice)))
    if len(others):
        rows = [[*_costs(choice, row), _why(choice, row)] for row in each_row(others)]
        head, below = ["mechanism", "time per call", "memory", "why not"], _meaning(others)
        blocks.append(Block(title="not on the front", head=head, rows=rows, left=(0, 3), notes=below))
    warnings = [f"Warning: {sentence}" for sentence in mixtures(choice.used)]
    return [*blocks, *([Block(warnings=warnings)] if warnings else [])]


def as_json(choice: Choice) -> str:
    """Return the decision as one JSON object: SI numbers, unrounded, null for what is unknown."""
    columns = [name for name in choice.rows if name not in ("missed", "unsure", "why")]
    mechanisms = [
        {**plain({name: getattr(row, name) for name in columns}), "why": _why(choice, row)}
        for row in each_row(choice.rows)
    ]
    scores = choice.scores
    answer = {
        "seq_len": choice.seq_len,
        "mode": choice.mode,
        "setting": dict(choice.setting),
        "interpolated_between": choice.between,
        "limits": vars(choice.most),
        "scores_of": None if scores is None else {**scores.setting, "metric": scores.score},
        "recommended": list(choice.recommended),
        "undecided": choice.undecided or None,
        "sentences": [*recommendation(choice), *notes(choice)],
        "mechanisms": mechanisms,
    }
    return json.dumps(answer, indent=1)


def recommendation(choice: Choice) -> list[str]:
    """Return the recommendation in words: what to use, why, and how sure it is."""
    if not len(choice.of(FRONT)):
        none = "none is within the limits" if _limits(choice) else "none has measured costs"
        return [f"No mechanism is recommended: {none}."]
    if choice.undecided:
        return [f"No mechanism is recommended, since none can be called the fastest: {choice.undecided}."]
    names = _listed(choice.recommended, "or")
    return [f"Recommended: {names}.", *_reasons(choice), *_accuracy(choice), *_unsure(choice)]


def notes(choice: Choice) -> list[str]:
    """Return sentences about what the numbers are: marks, intervals, interpolation, memory, scores."""
    sentences = []
    if choice.between is not None:
        low, high = choice.between
        sentences.append(
            f"Times and memory are interpolated between {low} and {high}, linearly in the logarithms. The "
            "intervals of times are as wide as the wider of the two, without the error of the interpolation."
        )
    if choice.tied:
        sentences.append("*: the fastest, and those that are not significantly slower")
    told = sorted(set(choice.of(FRONT)["time_interval"]) - {""})
    if told:
        sentences.append(f"intervals of times: {' and '.join(told)}")
    memory = _MEMORY.get(choice.mode, "peak memory of a call")
    sentences.append(f"memory: {memory}, without inputs and parameters")
    if choice.scores is not None:
        sentences += _about_scores(choice, choice.scores)
    if choice.other_scores:
        sentences.append(f"Scores are left out: {choice.other_scores}.")
    return sentences


def _about_scores(choice: Choice, scores: Scores) -> list[str]:
    setting = scores.setting
    shape = f"width {setting['d_model']}, {plural(setting['layers'], 'block')}, batch {setting['batch_size']}"
    sentences = [
        f"Scores are of {_task(scores)}, {shape}, from trainings of their own. They are combined with the "
        "costs by the mechanism's label alone."
    ]
    if warning := best_at_end(scores.raw):
        sentences.append(f"{warning}.")
    unmatched = sorted(set(scores.means.index) - set(choice.rows["label"]))
    return sentences + ([f"trained, but not among the costs: {', '.join(unmatched)}"] if unmatched else [])


def _reasons(choice: Choice) -> list[str]:
    left = choice.rows[choice.rows["place"].isin([FRONT, DOMINATED])]
    if len(left) == 1:
        return [f"It is the only mechanism {'within the limits' if _limits(choice) else 'with costs'}."]
    if len(choice.tied) == 1:
        second = left[left["label"] != choice.quickest].iloc[0]
        return [f"It is the fastest: {second['label']}, the next, takes {_times(second)} its time."]
    other = next(name for name in [*choice.recommended, *choice.tied] if name != choice.quickest)
    sentences = [
        f"{_listed(choice.tied)} cannot be told apart in time: {other} takes {_times(choice.row(other))} the "
        f"time of {choice.quickest}."
    ]
    for name, test in choice.worse.items():
        difference = _difference(choice.scores, test)
        sentences.append(f"{name} scores worse than {test['against']}: {difference}.")
    memory = choice.rows.set_index("label")["memory_bytes"]
    others = memory[[name for name in choice.tied if name not in (*choice.worse, *choice.recommended)]]
    least = memory[list(choice.recommended)].max()
    if (others > least).any():
        second = str(others[others > least].idxmin())
        share = f"{100 * (1 - least / memory[second]):.0f} %"
        holds = "holds" if len(choice.recommended) == 1 else "hold"
        sentences.append(
            f"{_listed(choice.recommended)} {holds} {share} less memory than {second}, the next."
        )
    if len(choice.recommended) > 1:
        sentences.append("They differ in memory by less than 1 %, or their memory is unknown: take either.")
    return sentences


def _accuracy(choice: Choice) -> list[str]:
    """Say what the recommended mechanisms cost in score, against the best within the limits."""
    left = choice.rows[choice.rows["place"].isin([FRONT, DOMINATED])].set_index("label")["score"]
    scores = choice.scores
    if scores is None or left.isna().all():
        return []
    best, sentences = scores.best(left), []
    for name in choice.recommended:
        if pd.isna(left[name]):
            sentences.append(f"{name} has no score on {_task(scores)}.")
            continue
        mean = units.written_score(scores.score)(left[name])
        if name == best:
            sentences.append(f"{name} has the best score within the limits: {mean} on {_task(scores)}.")
            continue
        difference = _difference(scores, scores.differences([name], best).loc[name])
        sentences.append(f"{name} scores {mean} on {_task(scores)}; against the best, {best}: {difference}.")
    return sentences


def _unsure(choice: Choice) -> list[str]:
    """Say which limits the recommended mechanisms may miss, and which of their values are not well known."""
    sentences = []
    for name in choice.recommended:
        row = choice.row(name)
        for limit in str(row["unsure"]).split():
            against = _against(choice, row, limit)
            sentences.append(f"It is not certain that {name} is within the limits: {against}.")
        if row["noisy"]:
            sentences.append(f"The time of {name} is noisy (~): {row['noisy']}.")
        if row["memory_left_out"]:
            sentences.append(f"The memory of {name} is a lower bound, without {row['memory_left_out']}.")
    return sentences


def _why(choice: Choice, row: Any) -> str:
    if row.place == FAILED:
        return str(row.why)
    if row.label in choice.recommended:
        return f"recommended too: no difference to {row.dominated_by} is significant"
    if row.place == DOMINATED:
        return f"dominated by {row.dominated_by}"
    missed = {limit: limit in row.unsure.split() for limit in row.missed.split()}
    values = row._asdict()
    return "; ".join(
        f"{_against(choice, values, limit)}{', not certain' if unsure else ''}"
        for limit, unsure in missed.items()
    )


def _meaning(others: pd.DataFrame) -> list[str]:
    if not (others["place"] == DOMINATED).any():
        return []
    return ["dominated: the other is at least as good in time, memory and score, and better in one of them"]


def _against(choice: Choice, row: Any, limit: str) -> str:
    """Return a row's value and the limit that it misses or may miss, in words."""
    most = choice.most
    if limit == "memory":
        size = "unknown" if pd.isna(row["memory_bytes"]) else units.size(row["memory_bytes"])
        if choice.between is not None and size != "unknown":
            size += _interval(row, "memory", units.size, "_bytes")
        return f"memory {size}, limit {units.size(most.memory_bytes or 0)}"
    if limit == "time":
        between = _interval(row, "time", units.seconds, "_s")
        return f"time {units.seconds(row['time_s'])}{between}, limit {units.seconds(most.time_s or 0)}"
    if limit == "time_factor" and pd.isna(row["pool_ratio"]):
        return f"its time and that of {choice.pool_quickest} were measured on different hosts"
    if limit == "time_factor":
        times = f"{_times(row, 'pool_ratio')} the time of {choice.pool_quickest}"
        return f"{times}, limit {most.time_factor:g}"
    if pd.isna(row["score"]):
        return "no score"
    between = _interval(row, "score_difference", units.percent)
    below = f"{units.percent(row['score_difference'])} points below {choice.pool_best}{between}"
    return f"{below}, limit {100 * (most.points or 0):g}"


def _times(row: Any, column: str = "time_ratio") -> str:
    """Return ``1.50 times (1.38 to 1.63)``."""
    return f"{units.ratio(row[column])} times{_interval(row, column, units.ratio)}"


def _interval(row: Any, column: str, written: Callable[[float], str], unit: str = "") -> str:
    low, high = row[f"{column}_low{unit}"], row[f"{column}_high{unit}"]
    return f" ({written(low)} to {written(high)})" if pd.notna(low) else " (no interval)"


def _difference(scores: Scores | None, test: pd.Series) -> str:
    """Return ``-0.54 points (-1.20 to 0.12), not significant``: a difference, its interval, the verdict."""
    share = scores is None or score_unit(scores.score) == "share"
    written: Callable[[float], str] = units.points if share else "{:+.4g}".format
    between = f" ({written(test['low'])} to {written(test['high'])})" if pd.notna(test["low"]) else ""
    verdict = _VERDICTS.get(test["verdict"], test["verdict"])
    return f"{written(test['difference'])}{' points' if share else ''}{between}, {verdict}"


def _costs(choice: Choice, row: Any, *more: str) -> list[str]:
    time = "" if pd.isna(row.time_s) else f"{'~' if row.noisy else ''}{units.seconds(row.time_s)}"
    time += "*" if row.label in choice.tied else ""
    texts = [time, *more, "" if pd.isna(row.memory_bytes) else units.size(row.memory_bytes)]
    return [row.label, *(text.replace(" ", "\N{NO-BREAK SPACE}") for text in texts)]


def _ratio(row: Any) -> str:
    if pd.isna(row.time_ratio):
        return ""
    return units.ratio(row.time_ratio) + (
        "" if row.time_ratio == 1 else _interval(row._asdict(), "time_ratio", units.ratio)
    )


def _score(scores: Scores, row: Any) -> list[str]:
    if pd.isna(row.score):
        return ["", "", ""]
    written = units.written_score(scores.score)
    between = f"{written(row.score_low).removesuffix(' %')} to {written(row.score_high)}"
    return [written(row.score), between if pd.notna(row.score_low) else "", f"{row.seeds:.0f}"]


def _title(choice: Choice) -> str:
    shape = choice.setting
    return (
        f"{choice.mode} at {choice.seq_len} {items_in_words(shape)}: {what_was_measured(shape)}, batch "
        f"{shape['batch_size']}, d_model {shape['d_model']}, {plural(int(shape['heads']), 'head')}, "
        f"{shape['dtype']}, {shape['device']}, {plural(int(shape['threads']), 'thread')}, "
        f"{shape['allocator']} allocator{compiled_in_words(shape)}; {shape['machine']}"
    )


def _limits(choice: Choice) -> list[str]:
    most = choice.most
    texts = [] if most.memory_bytes is None else [f"at most {units.size(most.memory_bytes)}"]
    texts += [] if most.time_s is None else [f"at most {units.seconds(most.time_s)} per call"]
    texts += [] if most.time_factor is None else [f"at most {most.time_factor:g} times the fastest"]
    if most.points is not None:
        points = "point" if most.points == 0.01 else "points"
        texts.append(f"at most {100 * most.points:g} {points} below the best score")
    return texts


def _task(scores: Scores) -> str:
    return f"{str(scores.setting['task']).partition(':')[0]} at length {scores.setting['seq_len']}"


def _listed(names: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

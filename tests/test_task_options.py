"""Trainings compared over an option of their task: pairs by seed, and none across other settings."""

from __future__ import annotations

import pandas as pd
import pytest
from test_seeds import frame

from effbench.common.spec import UsageError
from effbench.records.analyse.seeds import compare
from effbench.records.analyse.task_options import is_task_option, over_task_option


def both(scores: dict[str, tuple[list[float], list[float]]], **setting: int) -> pd.DataFrame:
    """Trainings that begin with the weights of a file, and with random ones."""
    tasks = (
        "imdb:pretrained=a/b.safetensors,train=500",
        "imdb:pretrained=a/b.safetensors,start=random,train=500",
    )
    frames = [
        frame({name: pair[side] for name, pair in scores.items()}, task=task, **setting)
        for side, task in enumerate(tasks)
    ]
    return pd.concat(frames, ignore_index=True)


def test_the_values_of_an_option_are_paired_by_seed_for_each_mechanism():
    raw = both({"linear": ([0.8, 0.9], [0.5, 0.7]), "vanilla": ([0.6, 0.7], [0.6, 0.9])})
    found = compare(over_task_option(raw, "start=random"), against="start=random").set_index("task")
    assert set(found["mechanism"]) == {"start=default"}
    rest = "imdb:pretrained=a/b.safetensors,train=500"
    assert found.loc[f"linear on {rest}", "difference"] == pytest.approx(0.25)
    assert found.loc[f"vanilla on {rest}", "difference"] == pytest.approx(-0.1)
    assert (found["seeds"] == 2).all()


def test_trainings_of_other_settings_make_no_pair():
    near, far = (both({"linear": ([0.8, 0.9], [0.5, 0.7])}, seq_len=n) for n in (64, 128))
    mixed = pd.concat([near[near["task"].str.contains("random")], far[~far["task"].str.contains("random")]])
    assert compare(over_task_option(mixed, "start=random"), against="start=random").empty


@pytest.mark.parametrize(
    "task",
    [
        "imdb:start=random",
        "imdb:start=random,train=5",
        "imdb:a=b,start=random",
        "imdb:restart=no,start=random",
    ],
)
def test_an_option_is_taken_out_of_any_place(task):
    (found,) = over_task_option(frame({"linear": [0.5]}, task=task), "start=random")["task"]
    left = task.replace("start=random", "", 1) if "restart" not in task else "imdb:restart=no"
    assert found == f"linear on {left}".rstrip(":,").replace(":,", ":")


def test_what_is_an_option_of_a_task_and_what_a_mechanism():
    assert is_task_option("start=random")
    assert not any(map(is_task_option, ("linear", "all", "linear:causal=true", "hf:longformer:window=8")))


def test_a_value_that_no_training_has_is_refused_with_those_there_are():
    raw = both({"linear": ([0.8], [0.5])})
    with pytest.raises(UsageError, match="task option start=warm; there are start=default, start=random"):
        over_task_option(raw, "start=warm")

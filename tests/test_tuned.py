"""The validation part, and not the test part, chooses a value of a task's option for each mechanism."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from test_seeds import frame

from effbench.cli import app as cli
from effbench.common.spec import UsageError
from effbench.records.analyse.seeds import compare
from effbench.records.analyse.tuned import tuned
from effbench.show.comparison_tables import tuned_in_words
from effbench.show.paper_tables import report


def trained(
    lr: str, scores: dict[str, list[float]], validation: dict[str, float], **setting: int
) -> pd.DataFrame:
    """Trainings at one rate; all seeds of a mechanism have the same validation score."""
    rows = frame(scores, task=f"newsgroups:epochs=3,lr={lr},train=500", **setting)
    return rows.assign(validation_accuracy=rows["mechanism"].map(validation))


LOW = trained(
    "0.001", {"fastformer": [0.70, 0.71], "vanilla": [0.90, 0.93]}, {"fastformer": 0.7, "vanilla": 0.8}
)
HIGH = trained(
    "0.008", {"fastformer": [0.80, 0.82], "vanilla": [0.99, 0.99]}, {"fastformer": 0.9, "vanilla": 0.6}
)


def test_each_mechanism_has_the_value_that_is_best_on_validation():
    best = tuned(pd.concat([LOW, HIGH], ignore_index=True), "lr")
    (row,) = compare(best.raw, against="fastformer").to_dict(orient="records")
    assert row["task"] == "newsgroups:epochs=3,train=500"
    assert row["difference"] == pytest.approx((0.90 - 0.80 + 0.93 - 0.82) / 2), (
        "not the 0.99 of the test part"
    )
    (sentence,) = tuned_in_words(best)
    assert "lr by the validation score (2 seeds)" in sentence
    assert "fastformer 0.008 (90.0 %), not 0.001 (70.0 %)" in sentence
    assert "vanilla 0.001 (80.0 %), not 0.008 (60.0 %)" in sentence


def test_values_are_compared_over_the_seeds_that_they_share():
    """A value with one seed is compared on that seed, and the chosen one keeps all of its seeds."""
    one = HIGH[HIGH["repeat"] == 0].assign(validation_accuracy=0.75)
    low = LOW.assign(validation_accuracy=[0.9, 0.0, 0.7, 0.0])
    best = tuned(pd.concat([low, one], ignore_index=True), "lr")
    kept = best.raw.groupby("mechanism")["repeat"].count()
    assert kept.to_dict() == {"fastformer": 2, "vanilla": 1}
    apart = pd.concat([LOW[LOW["repeat"] == 0], HIGH[HIGH["repeat"] == 1]], ignore_index=True)
    with pytest.raises(UsageError, match=r"with lr 0\.001, 0\.008 have no seed in common"):
        tuned(apart, "lr")


def test_a_loss_is_better_if_lower_and_failures_are_never_chosen():
    lossy = pd.concat([LOW, HIGH], ignore_index=True).assign(validation_metric="loss_nats")
    lossy = lossy.rename(columns={"validation_accuracy": "validation_loss_nats"})
    choices = tuned(lossy, "lr").choices.groupby("mechanism", sort=False).first()
    assert choices["value"].to_dict() == {"fastformer": "0.001", "vanilla": "0.008"}
    failed = tuned(pd.concat([LOW, HIGH.assign(status="timeout")], ignore_index=True), "lr")
    assert set(failed.raw["task"]) == {"newsgroups:epochs=3,train=500"}
    assert set(failed.raw["status"]) == {"ok"}
    (sentence,) = tuned_in_words(failed)
    assert "fastformer 0.001 (70.0 %), not 0.008 (timeout)" in sentence
    best = tuned(pd.concat([LOW.assign(status="oom"), LOW.iloc[:0]], ignore_index=True), "lr")
    assert len(best.raw) == 4, "what failed at every value stays, with its reason"
    (sentence,) = tuned_in_words(best)
    assert "fastformer 0.001 (oom); vanilla 0.001 (oom)" in sentence


def test_settings_are_tuned_apart():
    other = HIGH.assign(seq_len=32, validation_accuracy=0.1)
    best = tuned(pd.concat([LOW, other], ignore_index=True), "lr")
    assert len(best.raw) == 8
    assert len(tuned_in_words(best)) == 2


def test_the_papers_table_takes_tuned_trainings():
    mixed = pd.concat([LOW, HIGH], ignore_index=True)
    with_rates = report("table4", mixed, format="markdown")
    assert "lr=0.008" in with_rates
    text = report("table4", mixed, format="markdown", tuned="lr")
    assert "lr=" not in text
    assert "vanilla 0.001 (80.0 %), not 0.008 (60.0 %)" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "DIR", "--tuned", "lr"], "--tuned goes with --compare"),
        (["show", "DIR", "--compare", "lr=1", "--tuned", "lr"], "--compare lr=1 compares all values of lr"),
        (["paper", "table4", "--tuned", "lr"], "--tuned goes with folders and one of table4"),
        (["paper", "figure2", "DIR", "--tuned", "lr"], "--tuned goes with folders and one of table4"),
    ],
)
def test_where_nothing_is_tuned_the_option_is_refused(words, says, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["effbench", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_an_option_that_no_training_was_given_is_refused():
    with pytest.raises(
        UsageError, match="was given the task option dropout; the tasks have: epochs, lr, train"
    ):
        tuned(LOW, "dropout")


def test_the_chosen_values_are_columns():
    best = tuned(pd.concat([LOW, HIGH], ignore_index=True), "lr")
    (row,) = best.beside(compare(best.raw), "mechanism", "against").to_dict(orient="records")
    assert (row["mechanism_tuned"], row["against_tuned"]) == ("lr=0.001", "lr=0.008")
    table = pd.read_csv(
        io.StringIO(report("table4", pd.concat([LOW, HIGH]), format="csv", tuned="lr"))
    ).set_index("ours")
    assert set(table.loc["vanilla", "ours_tuned"]) == {"lr=0.001"}

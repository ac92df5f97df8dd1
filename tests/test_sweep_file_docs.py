"""docs/sweep-file.md names every key, axis, default, limit and message of the code, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import written

from effbench.common import values
from effbench.common.spec import UsageError
from effbench.sweep import axes
from effbench.sweep import sweep as sweeps
from effbench.sweep.sweep import Sweep

PAGE = (Path(__file__).parents[1] / "docs" / "sweep-file.md").read_text(encoding="utf-8")
GRID = '[[grid]]\nmechanism = "vanilla"\nseq_len = 128\n'


def section(title: str) -> str:
    return PAGE[PAGE.index(f"## {title}") :].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of the table in a section, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [re.split(r" *\| *", line)[1:-1] for line in lines[2:]]


def read(grid: str, head: str = "") -> Sweep:
    made = Sweep.from_toml(head + grid, "test.toml", "test")
    made.cells()
    return made


def test_the_keys_of_the_file_are_those_that_are_read():
    assert [row[0].strip("`") for row in rows("Keys of the file")] == [*sweeps.KEYS, "grid"]
    by_key = {row[0].strip("`"): row[1] for row in rows("Keys of the file")}
    time_s, training_s = (
        Sweep(name="x").limits("time").timeout_s,
        Sweep(name="x").limits("accuracy").timeout_s,
    )
    assert by_key["timeout"] == f"{time_s:.0f} s, of a training {training_s:,.0f} s"
    assert by_key["seed"] == str(read(GRID).seed)


def test_the_axes_are_those_that_are_read_with_their_defaults():
    table = {row[0].strip("`"): row[1] for row in rows("Grids and axes")}
    assert list(table) == list(axes.AXES)
    for name, default in table.items():
        if name == "threads":
            assert default == "all cores"
        else:
            expected = [str(value) for value in axes.DEFAULTS.get(name, ())]
            assert re.findall(r"[\w.]+", default) == expected, name


@pytest.mark.parametrize("name", sorted(set(axes.AXES) - {"mechanism", "task"}))
def test_the_values_of_an_axis_are_those_that_are_allowed(name):
    """A choice is listed in full by the message about a wrong one; every one of them is in the table."""
    with pytest.raises(UsageError) as refused:
        axes.read_axis(name, ["~"])
    _, found, choices = str(refused.value).partition("choose from: ")
    row = next(row for row in rows("Grids and axes") if row[0] == f"`{name}`")
    assert not found or all(f"`{choice}`" in row[2] for choice in choices.split(", "))


def test_the_limits_are_those_of_the_code():
    limits = [
        sweeps.MOST_CELLS, values.MOST_LENGTHS, values.MOST, sweeps.MOST_NUMBERS, axes.MOST_THREADS,
        axes.MOST_REPEATS, values.MOST_SEED, int(values.MOST_SECONDS), values.MOST_BYTES,
    ]  # fmt: skip
    assert [row[1] for row in rows("Limits")] == [f"{limit:,}" for limit in limits]


def test_every_message_is_as_printed():
    for line, message in rows("Messages"):
        key = line.strip("`").partition(" ")[0]
        kept = "".join(f"{old}\n" for old in GRID.splitlines() if not old.startswith(f"{key} "))
        with pytest.raises(UsageError) as refused:
            read(f"{kept}{line.strip('`')}\n")
        assert str(refused.value).endswith(message.strip("`")), line


def test_the_example_is_a_sweep(tmp_path):
    (tmp_path / "mine.py").write_text("from torch import nn\n\n\nclass MyAttention(nn.Module):\n    pass\n")
    (block,) = written("docs/sweep-file.md", "toml")
    (tmp_path / "sweep.toml").write_text(block)
    made = Sweep.load(tmp_path / "sweep.toml")
    assert (made.name, made.timeout_s, len(made.grids)) == ("mine", 60, 2)
    probes = {cell.probe for cell in made.cells()}
    assert probes == {"time", "memory", "flops", "accuracy"}


@pytest.mark.parametrize(
    ("written", "lengths"),
    [('[100, "512:2048:x2"]', [100, 512, 1024, 2048]), ('"100,512:2048:x2"', [100, 512, 1024, 2048])],
)
def test_lengths_and_ranges_can_be_mixed_as_the_page_says(written, lengths):
    assert written in PAGE
    made = read(f'[[grid]]\nmechanism = "vanilla"\nseq_len = {written}\n')
    assert list(made.grids[0]["seq_len"]) == lengths

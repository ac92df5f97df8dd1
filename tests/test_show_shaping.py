"""Tables that fit, chosen rows and columns, pivots, and LaTeX: nothing is lost, and all formats agree."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from frames import accuracy_records, cost_records, raw
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from effbench.cli import app as cli
from effbench.common.spec import UsageError
from effbench.records.analyse.summary import summarise
from effbench.records.store import Store
from effbench.show import shaping, tables, units
from effbench.show.blocks import Block, as_text, renderable
from effbench.show.complexity_tables import complexity_blocks
from effbench.show.layout import Fitted
from effbench.show.overview import overview

LONG = ("vanilla", "linear", "my_package.mechanisms:Attention")
RAW = raw(
    cost_records(LONG, (128, 256, 512, 1024), fail={("linear", "train", 1024): ("oom", "no memory")}),
    accuracy_records(LONG),
)
WIDTHS = (20, 27, 40, 55, 80, 100, 160)


@cache
def summary() -> pd.DataFrame:
    return summarise(RAW)


@cache
def blocks_of(kind: str) -> list[Block]:
    return overview(summary(), RAW) if kind == "overview" else complexity_blocks(RAW)


def printed(what, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(what)
    return out.getvalue()


def widest(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


WORDS = st.text("abcdefgh:,= ", min_size=1, max_size=40).map(str.strip).filter(bool)
HEADS = st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, max_size=3).map(" ".join)
NUMBERS = st.integers(0, 10**6).map(lambda n: f"{n}.5")


@settings(deadline=None, max_examples=60)
@given(
    st.integers(20, 120),
    st.lists(HEADS, min_size=1, max_size=8),
    st.data(),
)
def test_any_table_fits_any_width_and_shows_every_column_and_number(width, head, data):
    rows = data.draw(st.lists(st.tuples(WORDS, *[NUMBERS] * (len(head) - 1)), min_size=1, max_size=4))
    text = printed(Fitted(head, rows, left=(0,), keys=(0,)), width)
    assert widest(text) <= width
    for row in rows:
        for number in row[1:]:
            assert number in text
        assert set(squeezed(row[0])) <= set(squeezed(text))
    for name in head:
        assert set(name.split()) <= set(text.replace(":", " ").split())


@pytest.mark.parametrize("width", WIDTHS)
def test_every_table_of_show_fits_and_keeps_its_numbers(width):
    for blocks in map(blocks_of, ("overview", "complexity")):
        text = printed(renderable(blocks), width)
        assert widest(text) <= width
        for block in blocks:
            for row in block.rows:
                for cell in row:
                    assert squeezed(cell) in squeezed(text) or cell in LONG, cell
    for frame in (summary(), RAW.head(20)):
        assert widest(tables.render(frame, "table", width)) <= width


def test_parts_repeat_the_columns_that_identify_a_row():
    block = next(b for b in blocks_of("overview") if b.head and "seeds" in b.head)
    lines = printed(renderable([block]), 60).splitlines()
    heads = [line.split() for line in lines if line.startswith("mechanism")]
    assert len(heads) > 1
    assert all(head[:2] == ["mechanism", "length"] for head in heads)
    assert sum(len(head) - 2 for head in heads) >= len(block.head) - 2


CONDITIONS = [
    "mode == 'train'",
    "mode == 'train' and seq_len >= 512",
    "128 < seq_len <= 512 or task != ''",
    "not mode == 'train'",
    "mechanism in ['vanilla', 'linear'] and time_s * 1000 < 1",
    "(mode == 'train') & (peak_bytes / 2 > 1e6)",
    "time_s == time_s",
    "seq_len > -1",
]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_is_that_of_pandas(condition):
    ours = shaping.matching(summary(), condition)
    pd.testing.assert_frame_equal(ours, summary().query(condition))
    assert len(ours)


@pytest.mark.parametrize(
    "condition",
    [
        "@x == 1", "mode.upper() == 'A'", "__import__('os').system('x')", "seq_len[0] == 1", "mode = 'train'",
        "mode == train", "nothing > 1", "seq_len", "mode > 3", "'a' * 1000000000 == mode", "mode * 9 == 'a'",
        "9 ** 9 ** 9 > seq_len", "[1] * 1000000000 == seq_len", "(lambda: 1)", "f'{mode}' == 'a'", "((", "1",
        "[x for x in mode]", "(x := 1) == seq_len", "mode is None", "mode == None", "`a b` == 1",
        "seq_len > 1 " + "and seq_len > 1 " * 100, "(" * 300 + "seq_len > 1" + ")" * 300,
    ],
)  # fmt: skip
def test_everything_else_is_refused_in_one_line(condition):
    with pytest.raises(UsageError) as refused:
        shaping.matching(summary(), condition)
    text = str(refused.value)
    assert "\n" not in text
    assert text.startswith("--where")


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("mode = 'train'", "this is no condition such as mode == 'train' and seq_len > 512"),
        ("seq_len in 128", "in needs a list, such as seq_len in [128, 512]"),
        ("mode not in 'train'", "in needs a list"),
        ("seq_len > 1 and 3 <= mode", "mode is a text, not a number"),
        ("modus == 'train'", "there are: mechanism, "),
    ],
)
def test_what_is_wrong_with_a_condition_is_said(condition, says):
    with pytest.raises(UsageError) as refused:
        shaping.matching(summary(), condition)
    assert says in str(refused.value)


def test_a_near_name_is_offered():
    for act in (
        lambda: shaping.chosen(summary(), "mechanism,tim_s"),
        lambda: shaping.ordered(summary(), "-tim_s"),
        lambda: shaping.pivoted(summary(), "mechanism,seq_len,tim_s"),
        lambda: shaping.matching(summary(), "tim_s > 1"),
    ):
        with pytest.raises(UsageError, match="unknown column 'tim_s'; did you mean 'time_s'"):
            act()


@pytest.mark.parametrize("names", ["seq_len", "-time_s", "mode,-time_s", "-mode,seq_len,mechanism"])
def test_sorting_is_that_of_pandas(names):
    plain = [name.removeprefix("-") for name in names.split(",")]
    rising = [not name.startswith("-") for name in names.split(",")]
    expected = summary().sort_values(plain, ascending=rising, kind="stable", ignore_index=True)
    found = shaping.ordered(summary(), names).reset_index(drop=True)
    pd.testing.assert_frame_equal(found[plain], expected[plain])
    assert sorted(found.index) == sorted(summary().index)


def test_a_pivot_holds_every_value_in_its_place():
    rows = shaping.matching(summary(), "mode == 'train' and task == ''")
    shaped = shaping.pivoted(rows, "mechanism,seq_len,time_s")
    expected = rows.pivot(index="mechanism", columns="seq_len", values="time_s")
    found = shaped.frame.set_index("mechanism")
    assert list(found.columns) == [str(n) for n in expected.columns]
    for name in expected.index:
        np.testing.assert_array_equal(found.loc[name].astype(float), expected.loc[name])
    assert found.loc["linear", "1024"] is None, "a failure has an empty place"
    from effbench.records.analyse.winners import fastest

    for n in expected.columns:
        best = {found.index[row] for row, column in shaped.best if column == str(n)}
        assert best == set(fastest(rows[rows["seq_len"] == n]))


def test_several_values_at_one_place_are_refused_by_what_they_differ_in():
    with pytest.raises(UsageError, match=r"2 values at .*differ in mode \(forward, train\)"):
        shaping.pivoted(summary(), "mechanism,seq_len,time_s")
    time = RAW[(RAW["probe"] == "time") & (RAW["mode"] == "train")]
    with pytest.raises(UsageError, match=r"3 values at .*differ in repeat \(0, 1, 2\)"):
        shaping.pivoted(time, "mechanism,seq_len,time_s")
    assert len(shaping.pivoted(time, "mechanism+repeat,seq_len,time_s").frame) == 9
    for wrong in ("mechanism,seq_len", "mechanism,mechanism,time_s", "mechanism,,time_s"):
        with pytest.raises(UsageError, match="--pivot"):
            shaping.pivoted(summary(), wrong)


def numbers_of(text: str) -> list[float]:
    return [float(part) for part in re.findall(r"(?<![\w.])\d+\.?\d*(?![\w.])", text)]


def test_the_formats_agree():
    rows = shaping.matching(summary(), "mode == 'forward' and task == ''")
    shaped = shaping.pivoted(rows, "mechanism,seq_len,time_s")
    form = {
        name: tables.render(shaped.frame, name, None, shaped) for name in ("csv", "json", "markdown", "latex")
    }
    exact = pd.read_csv(io.StringIO(form["csv"]))
    pd.testing.assert_frame_equal(pd.DataFrame(json.loads(form["json"])), exact)
    head, *body = [line for line in form["latex"].splitlines() if line.endswith(r"\\")]
    units_of = [re.search(r"\((.*)\)", cell) for cell in head.split(" & ")[1:]]
    factors = [{"ms": 1e-3, r"$\mu$s": 1e-6}[unit.group(1)] for unit in units_of if unit]
    for line, row in zip(body, exact.itertuples(index=False), strict=True):
        for cell, factor, value in zip(line.split(" & ")[1:], factors, row[1:], strict=True):
            number = re.search(r"(\d+)(\.\d+)?\((\d+)\)", cell)
            assert number
            shown = float(number.group(1) + (number.group(2) or "")) * factor
            step = factor * 10.0 ** -max(len(number.group(2) or ".") - 1, 0)
            assert shown == pytest.approx(value, abs=0.51 * step)
            assert int(number.group(3)) >= 1
    best = {(shaped.frame["mechanism"][row], column) for row, column in shaped.best}
    assert form["latex"].count(r"\bfseries") == len(best) > 0
    assert form["markdown"].count("* |") == len(best)


def test_the_uncertainty_reaches_the_farther_end():
    for value, low, high in ((0.00428, 0.0042, 0.0044), (0.82, 0.8, 0.83), (123.0, 60.0, 300.0)):
        block = Block(head=["a", "b"], rows=[["x", units.figure(value, units.seconds, (low, high))]])
        line = next(line for line in as_text([block], "latex").splitlines() if line.startswith("x &"))
        number = re.search(r"([\d.]+)\((\d+)\)", line)
        assert number
        factor = {"s": 1, "ms": 1e-3}[units.shared([block.rows[0][1]])[1]]  # type: ignore[list-item]
        decimals = len(number.group(1).partition(".")[2])
        half = int(number.group(2)) * 10.0**-decimals * factor
        assert half >= max(high - value, value - low) - 1e-12
        assert half <= 1.2 * max(high - value, value - low)


@pytest.mark.parametrize("kind", ["overview", "complexity"])
def test_the_summary_is_plain_numbers_in_json_and_csv(kind):
    blocks = blocks_of(kind)
    for block in json.loads(as_text(blocks, "json")):
        for row in block["rows"]:
            assert len(row) == len(block["columns"])
    if kind == "overview":
        times = next(b for b in json.loads(as_text(blocks, "json")) if b["title"] == "train: time per call")
        at = times["columns"].index("512")
        expected = summary().query("mode == 'train' and seq_len == 512 and task == ''").set_index("mechanism")
        for row in times["rows"]:
            low, high = expected.loc[row[0], ["time_low_s", "time_high_s"]]
            assert row[at : at + 3] == [expected.loc[row[0], "time_s"], low, high]
        assert "oom" in as_text(blocks, "csv")


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    """``show(*arguments)``: the output, the errors and the exit code of the command for a small folder."""
    store = Store(tmp_path / "out")
    store.create()
    for record in cost_records(LONG, (128, 512)):
        store.write(record)

    def command(*arguments: str) -> tuple[str, str, int]:
        monkeypatch.setattr(sys, "argv", ["effbench", "show", str(tmp_path / "out"), *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        text = capsys.readouterr()
        return text.out, text.err, int(ended.value.code or 0)

    return command


def test_the_command_shapes_rows(show):
    out, _, code = show("--columns", "mechanism,seq_len,mode", "--where", "mode == 'train'", "--sort",
                        "-seq_len,mechanism", "--format", "csv")  # fmt: skip
    assert code == 0
    rows = pd.read_csv(io.StringIO(out))
    assert list(rows.columns) == ["mechanism", "seq_len", "mode"]
    assert list(rows["seq_len"]) == [512] * 3 + [128] * 3
    assert set(rows["mode"]) == {"train"}
    out, _, _ = show("--raw", "--columns", "mechanism,repeat,samples_time_s", "--format", "json")
    assert any(row["samples_time_s"] for row in json.loads(out))
    assert show("--where", "seq_len > 1e9")[0] == "no rows\n"
    for arguments, complaint in (
        (["--columns", "mechanism", "--complexity"], "--columns shapes rows: give --rows or --raw"),
        (["--columns", "mechanism", "--pivot", "mechanism,seq_len,time_s"], "give it or --columns"),
        (["--where", "x.y > 1"], "only comparisons of columns"),
        (["--raw", "--sort", "samples_time_s"], "samples_time_s is a series of numbers"),
        (["--columns", "mechanism,mechanism"], "names mechanism twice"),
    ):
        out, err, code = show(*arguments)
        assert (out, code, err.count("\n")) == ("", 2, 1)
        assert complaint in err


@pytest.mark.slow
def test_latex_compiles_within_the_column(tmp_path):
    engine = shutil.which("pdflatex") or shutil.which("tectonic")
    if engine is None:
        pytest.skip("neither pdflatex nor tectonic is installed")
    pivot = shaping.pivoted(shaping.matching(summary(), "mode == 'train'"), "mechanism,seq_len,time_s")
    parts = [
        as_text([*blocks_of("overview"), *blocks_of("complexity")], "latex"),
        tables.render(pivot.frame, "latex", None, pivot),
        tables.render(summary(), "latex"),
    ]
    needs = [line.removeprefix("% ") for line in parts[0].splitlines() if line.startswith(r"% \usepackage")]
    document = [r"\documentclass[twocolumn]{article}", *needs, r"\extrafloats{100}", r"\begin{document}",
                *parts, r"\clearpage", r"\end{document}"]  # fmt: skip
    (tmp_path / "all.tex").write_text("\n".join(document))
    options = ["-interaction=nonstopmode", "-halt-on-error"] if Path(engine).name == "pdflatex" else []
    done = subprocess.run(
        [engine, *options, "all.tex"], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    if "siunitx.sty' not found" in done.stdout:
        pytest.skip("siunitx is not installed")
    assert done.returncode == 0, done.stdout[-2000:]
    assert r"Overfull \hbox" not in done.stdout + done.stderr

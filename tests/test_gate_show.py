"""A gate's report for readers and programs: every cell once, failures counted, no text breaks a format."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from effbench.common.spec import Cell, Mode
from effbench.gate.report import VERDICTS, Comparison, Figure, Report, Verdict
from effbench.show import plots
from effbench.show.gate_plot import LOOKS, forest
from effbench.show.gate_rows import COLUMNS, FIGURE_COLUMNS, printable, rows_of
from effbench.show.gate_tables import gate_tables, junit, markdown
from effbench.show.look import NothingToDraw

UNTIMED: tuple[Verdict, ...] = ("new", "gone", "failed", "base-failed")
LONG = "my_package.attention.mechanisms:AVeryLongNameOfAMechanism"
# what a format could take for its own: separators, markup, controls, lone surrogates, what turns the writing
NASTY = "|\\`*_[]<>&\"'$~#-=:/ \n\r\t\x00\x0b\x1b\x7f\x85\u2028\u202e\u200b\ufffe\ud800é漢😀"
texts = st.text(st.one_of(st.sampled_from(NASTY), st.characters(max_codepoint=0x2FFF)), max_size=40)


def cell(name: str = "fastformer", n: int = 512, mode: Mode = "forward", **more: Any) -> Cell:
    return Cell(mechanism=name, probe="time", mode=mode, seq_len=n, **more)


def compared(
    verdict: Verdict, where: Cell | None = None, *, ratio: float = 1.0, half: float = 0.02, **more
) -> Comparison:
    numbers = {} if verdict in UNTIMED else {
        "ratio": ratio, "low": ratio / (1 + half), "high": ratio * (1 + half), "error": 0.000625,
        "control_ratio": 1.003, "control_low": 0.98, "control_high": 1.03, "threshold": 0.05,
        "detectable": 0.09, "base_s": 3.2e-3, "head_s": 3.2e-3 * ratio, "rounds": 8, "calls": 300,
        "head_samples_s": tuple(3.2e-3 * ratio * (1 + 0.01 * math.sin(i)) for i in range(40)),
    }  # fmt: skip
    return Comparison(cell=where or cell(), verdict=verdict, **{**numbers, **more})


def figure(
    where: Cell, name: str = "flops", base: float | None = 100, head: float | None = 100, **more
) -> Figure:
    fails = base is not None and head is not None and head > base
    given = {"tolerance": 0.0, "fails": fails, **more}
    return Figure(cell=where, name=name, base=base, head=head, **given)


def report(*comparisons: Comparison, figures: tuple[Figure, ...] = (), **more) -> Report:
    whole = {
        "base": {"label": "origin/main", "commit": "1a2b3c4d5e6f7a8b", "dirty": False},
        "head": {"label": "working tree", "commit": "9f8e7d6c5b4a3f2e", "dirty": True},
        "machine": {"name": "Test CPU, 2 cores, 8 GiB", "system": "Linux 6.1", "python": "3.11.7",
                    "cores": 2},
        "started": "2026-01-02T03:04:05+00:00", "seconds": 121.25,
    }  # fmt: skip
    return Report(kind="gate", comparisons=comparisons, figures=figures, **{**whole, **more})


def every_verdict() -> Report:
    """One cell of each verdict, and exact figures that are equal, grew and shrank."""
    ratios = {"slower": 1.213, "faster": 0.81, "suspected": 1.09, "inconclusive": 1.04}
    lines = [
        compared(verdict, cell(f"m{i}"), ratio=ratios.get(verdict, 1.0), reason=f"because {verdict}")
        for i, verdict in enumerate(VERDICTS)
    ]
    lines[0] = replace(lines[0], confirmed_in=5)
    figures = (
        figure(lines[0].cell),
        figure(lines[0].cell, "ops", 120, 121, detail="aten.mul.Tensor 3 -> 4", tolerance=None, fails=False),
        figure(lines[0].cell, "peak_bytes", 1_234_567, 1_234_671, tolerance=None, tolerance_bytes=64),
        figure(lines[1].cell, "peak_bytes", 7_361_296, 7_361_200, tolerance=None, tolerance_bytes=64),
        figure(lines[2].cell, "ops", 9, 9, detail="aten.a 1 -> 0, aten.b 0 -> 1"),
    )
    return report(*lines, figures=figures, notes=("the budget of 120 s ended after 8 rounds",))


REPORTS = {
    "every verdict": every_verdict(),
    "one cell": report(compared("same")),
    "exact only": report(figures=(figure(cell()),)),
    "nothing": report(),
    "untimed": report(*(compared(verdict, cell(f"m{i}")) for i, verdict in enumerate(UNTIMED))),
    "only new": report(compared("new", reason="the base lacks it")),
    "only the base failed": report(compared("base-failed", reason="no library")),
    "no figure": report(figures=(figure(cell(), head=None, detail="the head has none"),
                                 figure(cell("b"), base=None, detail="the base has none"))),
    "many": report(*(compared("same" if i % 7 else "inconclusive",
                           cell(LONG, options={"window": i, "global_tokens": 3}),
                           ratio=1.02 ** (i % 3 - 1)) for i in range(25))),
    "shapes": report(*(compared("same", cell(n=128 << i, batch_size=1 + i, scope="encoder", layers=2))
                       for i in range(3))),
    "compare": replace(report(compared("same", control_ratio=None, control_low=None, control_high=None,
                                   head_samples_s=()), compared("gone", cell("b"))), kind="compare"),
    "far": report(compared("slower", cell("a"), ratio=900.0, half=40.0),
                  compared("same", cell("b$^2$", n=1_000_000)),
                  compared("inconclusive", cell("c"), detectable=1e300, high=math.inf)),
}  # fmt: skip
every_report = pytest.mark.parametrize("name", REPORTS)


def printed(renderable, width: int = 100) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(renderable)
    return out.getvalue().splitlines()


def markdown_rows(text: str) -> list[list[str]]:
    """Rows of tables as GitHub splits them: at pipes that no backslash escapes."""
    rows = [row for row in text.split("\n") if row.startswith("| ")]
    return [re.split(r"(?<!\\)(?:\\\\)*\|", row)[1:-1] for row in rows]


def names_of(what: Report) -> list[str]:
    return [row.name for row in rows_of(what).comparisons]


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


@every_report
def test_a_terminal_of_100_columns_holds_everything(name):
    lines, rows = printed(gate_tables(REPORTS[name])), rows_of(REPORTS[name])
    assert max(map(cell_len, lines)) <= 100
    whole = squeezed("".join(lines))
    assert whole.endswith(squeezed(rows.conclusion)), "the conclusion is the last sentence"
    for row in (*rows.comparisons, *rows.changed):
        assert all(squeezed(text) in whole for text in (*row.texts[1:], row.reason))
    assert lines.count(rows.figures_sentence) >= bool(rows.figures)


def test_the_table_has_a_row_per_configuration_with_its_verdict_in_words():
    lines = printed(gate_tables(REPORTS["every verdict"]))
    start = next(i for i, text in enumerate(lines) if text.startswith("mechanism"))
    rows = lines[start + 1 : start + 1 + len(VERDICTS)]
    for i, (verdict, row) in enumerate(zip(VERDICTS, rows, strict=True)):
        assert row.split()[0] == f"m{i}"
        assert row.split().count(verdict) == 1
    assert sum("exact figures: 5 compared, 4 changed, 1 more than allowed" in text for text in lines) == 1


def test_equal_figures_are_one_sentence():
    figures = (figure(cell()), figure(cell(), "parameters", 0, 0))
    lines = printed(gate_tables(report(compared("same"), figures=figures)))
    assert "exact figures: 2 compared, all equal" in lines
    assert sum(text.startswith("mechanism") for text in lines) == 1


def test_of_the_changed_figures_those_that_fail_come_first():
    kinds = [row.kind for row in rows_of(REPORTS["every verdict"]).changed]
    assert kinds == ["grew", "changed", "changed", "changed"]


@every_report
def test_markdown_has_every_row_once_and_no_broken_one(name):
    tables = markdown_rows(markdown(REPORTS[name]))
    rows = rows_of(REPORTS[name])
    for columns, wanted in ((COLUMNS, rows.comparisons), (FIGURE_COLUMNS, rows.changed)):
        heads = [i for i, row in enumerate(tables) if [text.strip() for text in row] == list(columns)]
        assert len(heads) == bool(wanted)
        for row, place in zip(wanted, range(heads[0] + 2 if heads else 0, len(tables)), strict=False):
            texts = [re.sub(r"\\(.)", r"\1", text).strip(" *") for text in tables[place]]
            assert texts == [text.strip() for text in row.texts]
    tabled = [len(wanted) + 2 for wanted in (rows.comparisons, rows.changed) if wanted]
    assert len(tables) == sum(tabled)


@every_report
def test_junit_counts_what_fails(name):
    what, rows = REPORTS[name], rows_of(REPORTS[name])
    root = ElementTree.fromstring(junit(what).encode())
    timed = [case for case in root.iter("testcase") if case.get("classname") == "effbench.gate.time"]
    exact = [case for case in root.iter("testcase") if case.get("classname") == "effbench.gate.exact"]
    assert [case.get("name") for case in timed] == names_of(what)
    assert [case.get("name") for case in exact] == list(dict.fromkeys(row.name for row in rows.figures))
    for case, comparison in zip(timed, what.comparisons, strict=True):
        outcome = [child.tag for child in case if child.tag != "properties"]
        wanted = {"slower": ["failure"], "same": [], "faster": []}
        wanted |= {verdict: ["error"] for verdict in (*what.broken, "base-failed")}
        assert outcome == wanted.get(comparison.verdict, ["skipped"])
        properties = {each.get("name"): each.get("value") for each in case.iter("property")}
        assert properties["verdict"] == comparison.verdict
        assert properties.get("ratio") == (None if comparison.ratio is None else str(comparison.ratio))
        assert "e" not in case.attrib["time"]
    failing = {row.name for row in rows.figures if row.kind == "grew"}
    assert {case.get("name") for case in exact if case.find("failure") is not None} == failing
    assert len(failing) == len({each.cell.key for each in what.figures if each.fails})
    lacking = {each.cell.key for each in what.figures if None in (each.base, each.head)}
    assert len([case for case in exact if case.find("error") is not None]) == len(lacking)
    slower = sum(each.verdict == "slower" for each in what.comparisons)
    assert int(root.attrib["failures"]) == slower + len(failing) == len(list(root.iter("failure")))
    for attribute, tag in (("tests", "testcase"), ("errors", "error"), ("skipped", "skipped")):
        assert int(root.attrib[attribute]) == len(list(root.iter(tag)))
        assert sum(int(suite.attrib[attribute]) for suite in root) == int(root.attrib[attribute])
    for row in rows.figures:
        if row.result == "failure":
            assert row.measured in "".join(failure.attrib["message"] for failure in root.iter("failure"))


@settings(max_examples=40)
@given(texts, texts, texts, texts)
def test_no_text_breaks_a_format(name, reason, label, detail):
    assume(printable(name))
    where = cell(name, mode="train")
    what = report(
        compared("inconclusive", where, reason=reason),
        compared("failed", cell("other"), reason=reason),
        figures=(figure(where, "ops", 3, 4, detail=detail),),
        notes=(reason, label),
        base={"label": label, "commit": label, "dirty": True},
        machine={"name": label},
    )
    assert max(map(cell_len, printed(gate_tables(what)))) <= 100
    written = markdown(what)
    assert [len(row) for row in markdown_rows(written)] == [len(COLUMNS)] * 4 + [len(FIGURE_COLUMNS)] * 3
    assert "\n\n\n" not in written, "no text is more than its line"
    root = ElementTree.fromstring(junit(what).encode())
    assert [case.get("name") for case in root.iter("testcase")][:2] == names_of(what)
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == tuple("3111")


def test_the_json_has_the_comparisons_and_the_figures():
    what = every_verdict()
    data = json.loads(json.dumps(what.to_json(), allow_nan=False))
    assert data["schema"] == "effbench-gate-2"
    assert [each["verdict"] for each in data["comparisons"]] == list(VERDICTS)
    assert [each["fails"] for each in data["figures"]] == [each.fails for each in what.figures]


@given(texts)
def test_printable_is_one_line_without_controls(text):
    once = printable(text)
    assert once.isprintable()
    assert printable(once) == once


def test_what_sets_configurations_apart_is_in_their_names():
    rows = rows_of(REPORTS["shapes"])
    names = [row.name for row in rows.comparisons]
    assert len(set(names)) == 3
    assert all("batch_size" in name and "layers" not in name for name in names)
    assert names_of(report(compared("same"))) == ["fastformer forward at 512"]
    assert rows.about.startswith("scope encoder, d_model 256, heads 16, layers 2")


def cells(*verdicts: Verdict, **more) -> Report:
    return report(*(compared(verdict, cell(f"m{i}"), **more) for i, verdict in enumerate(verdicts)))


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (cells("same", "same"), "no slowdown over 5 % in 2 of 2 configurations"),
        (cells("same"), "no slowdown over 5 % in 1 of 1 configuration"),
        (cells("same", "inconclusive", "new"),
         "no slowdown over 5 % in 1 of 3 configurations; 1 inconclusive, 1 new"),
        (cells("same", "inconclusive", "failed"), "the head cannot run m2 forward at 512; 1 inconclusive"),
        (cells("failed", "gone", "base-failed", "new"),
         "the head cannot run m0 forward at 512; the head lacks m1 forward at 512; "
         "the base cannot run m2 forward at 512; 1 new"),
        (cells("base-failed", "base-failed", "base-failed", "base-failed", "base-failed", "same"),
         "the base cannot run m0 forward at 512, m1 forward at 512, m2 forward at 512 and 2 more"),
        (report(compared("same"), figures=(figure(cell("a"), head=None),
                                           figure(cell("b"), "ops", base=None))),
         "the head lacks a figure of a forward at 512: FLOPs 100 -> none; "
         "the base lacks a figure of b forward at 512: operations none -> 100"),
        (report(compared("same"), compared("same", cell("b"), threshold=0.125)),
         "no slowdown over 5 % to 12.5 % in 2 of 2 configurations"),
        (cells("same", "faster"), "no slowdown over 5 % in 2 of 2 configurations; 1 faster"),
        (report(compared("slower", ratio=1.21, half=0.03, confirmed_in=5), compared("unfit", cell("b"))),
         "slower: fastformer forward at 512: 1.210 [1.175, 1.246]; 1 unfit"),
        (cells("slower", "slower", "slower", "slower", "slower", ratio=1.25, half=0.0),
         "slower: m0 forward at 512: 1.250 [1.250, 1.250], m1 forward at 512: 1.250 [1.250, 1.250], "
         "m2 forward at 512: 1.250 [1.250, 1.250] and 2 more"),
        (report(compared("slower", cell("a"), ratio=1.1, half=0.0),
                compared("slower", cell("b"), ratio=1.3, half=0.0)),
         "slower: b forward at 512: 1.300 [1.300, 1.300], a forward at 512: 1.100 [1.100, 1.100]"),
        (report(compared("same"), figures=(figure(cell(), "ops", 3, 4, detail="aten.mul 1 -> 2"),)),
         "exact figures grew: fastformer forward at 512: operations 3 -> 4 (+33.3 %)"),
        (report(compared("same"), figures=(figure(cell(), "flops", 4, 3),)),
         "no slowdown over 5 % in 1 of 1 configuration; "
         "exact figures: 1 compared, 1 changed, none more than allowed"),
        (cells("inconclusive", "unfit"), "no verdict on any time; 1 inconclusive, 1 unfit"),
        (report(compared("same", cell("a")), compared("suspected", cell("b"), ratio=1.25, half=0.0)),
         "no slowdown over 5 % in 1 of 2 configurations; "
         "suspected, not confirmed: b forward at 512: 1.250 [1.250, 1.250]"),
        (cells("new", "new"), "no times were compared; 2 new"),
        (replace(cells("new", "gone"), kind="compare"),
         "no times were compared; the head lacks m1 forward at 512; 1 new"),
        (report(figures=(figure(cell()),)), "no times were compared; exact figures: 1 compared, all equal"),
        (report(), "no times were compared"),
    ],
)  # fmt: skip
def test_the_conclusion(what, sentence):
    assert rows_of(what).conclusion == sentence


@every_report
def test_a_conclusion_never_calls_a_broken_gate_sound(name):
    what = REPORTS[name]
    sentence, code = rows_of(what).conclusion, what.exit_code()
    broken = "the head cannot run" in sentence or "the head lacks" in sentence
    assert broken == (code == 6) or what.kind == "compare"
    if code != 6:
        assert ("slower" in sentence.split(":")[0] or "exact figures grew" in sentence) == (code == 3)
    if code not in (3, 6):
        assert ("the base cannot run" in sentence or "the base lacks" in sentence) == (code == 4)
    if code == 5:
        assert sentence.startswith("no times were compared")
    assert ("no slowdown" in sentence) <= (code == 0)
    assert "no slowdown" not in sentence or any(
        each.verdict in ("same", "faster") for each in what.comparisons
    )


@given(st.sets(st.sampled_from(VERDICTS)), st.sampled_from(["gate", "compare"]), st.booleans())
def test_the_exit_code_is_that_of_the_worst_that_was_found(verdicts, kind, counted):
    figures = (figure(cell()),) if counted else ()
    what = replace(report(*(compared(verdict) for verdict in verdicts), figures=figures), kind=kind)
    codes = {"failed": 6, "gone": 6 if kind == "gate" else 0, "slower": 3, "base-failed": 4}
    worst = next((c for c in (6, 3, 4) if c in {codes.get(verdict) for verdict in verdicts}), 0)
    timed = verdicts - set(UNTIMED)
    assert what.exit_code() == (worst or (0 if timed or counted else 5))
    open_ = verdicts & {"inconclusive", "unfit", "suspected"}
    strict = what.exit_code(strict=True)
    assert strict == (what.exit_code() or (4 if open_ else 0))


def test_what_ended_before_anything_was_measured_is_no_pass():
    assert report(compared("inconclusive", rounds=0), compared("new", cell("b"))).exit_code() == 5


@pytest.mark.parametrize("name", [name for name in REPORTS if REPORTS[name].comparisons])
def test_the_forest_shows_every_cell_where_it_is(name):
    what = REPORTS[name]
    rows = rows_of(what).comparisons
    picture = forest(what)
    picture.draw_without_rendering()
    (axes,) = picture.axes
    shown = [re.sub(r"\s", "", tick.get_text()) for tick in axes.get_yticklabels()]
    assert shown == [re.sub(r"\s", "", text) for text in names_of(what)]
    low, high = axes.get_xlim()
    places = [np.asarray(mark.get_xdata()) for mark in axes.lines]
    points = {float(x[0]) for x in places if len(x) == 1}
    ratios = {row.bounds[0] for row in rows if row.bounds}
    assert ratios <= points
    assert all(low < ratio < high for ratio in ratios)
    shown = [text.get_text() for text in axes.texts]
    assert shown.count("no time") == sum(row.bounds is None for row in rows)
    assert [text.split()[0] for text in shown if text != "no time"] == [row.kind for row in rows]
    frame = picture.bbox
    boxes = [text.get_window_extent() for text in (*axes.texts, *axes.get_yticklabels(), *picture.texts)]
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes), "nothing is cut off"
    names = [tick.get_window_extent() for tick in axes.get_yticklabels()]
    assert all(below.y1 <= above.y0 for above, below in pairwise(names)), "names do not touch"


@pytest.mark.parametrize("suffix", plots.SUFFIXES)
def test_the_forest_is_written_the_same_again(suffix, tmp_path):
    first, second = (
        plots.save(forest(REPORTS["far"]), tmp_path / f"{i}{suffix}").read_bytes() for i in range(2)
    )
    assert first == second
    assert len(first) > 5000


def test_verdicts_differ_without_colour():
    drawn = [(marker, filled) for verdict, (_, marker, filled) in LOOKS.items() if verdict not in UNTIMED]
    assert len(set(drawn)) == len(drawn)
    assert set(LOOKS) == set(VERDICTS)


def test_a_report_without_cells_has_no_forest():
    with pytest.raises(NothingToDraw, match="no times"):
        forest(report())

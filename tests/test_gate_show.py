"""A gate's report for readers and programs: every cell once, failures counted, no text breaks a format."""

from __future__ import annotations

import io
import json
import math
import re
import statistics
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from effbench.common.spec import Cell
from effbench.gate import exports, words
from effbench.gate.report import Figure, Line, Report
from effbench.show import plots
from effbench.show.gate_tables import forest, gate_tables
from effbench.show.look import NothingToDraw

UNTIMED = ("new", "gone", "failed", "base-failed")
LONG = "my_package.attention.mechanisms:AVeryLongNameOfAMechanism"
# what a format could take for its own: separators, markup, controls, lone surrogates, what turns the writing
NASTY = "|\\`*_[]<>&\"'$~#-=:/ \n\r\t\x00\x0b\x1b\x7f\x85\u2028\u202e\u200b\ufffe\ud800é漢😀"
texts = st.text(st.one_of(st.sampled_from(NASTY), st.characters(max_codepoint=0x2FFF)), max_size=40)


def cell(name: str = "fastformer", n: int = 512, mode: str = "forward", **more: object) -> Cell:
    return Cell(mechanism=name, probe="time", mode=mode, seq_len=n, **more)


def line(verdict: str, where: Cell | None = None, *, ratio: float = 1.0, half: float = 0.02, **more) -> Line:
    found = {} if verdict in UNTIMED else {
        "ratio": ratio, "low": ratio / (1 + half), "high": ratio * (1 + half), "error": 0.000625,
        "control_ratio": 1.003, "control_low": 0.98, "control_high": 1.03, "threshold": 0.05,
        "detectable": 0.09, "base_s": 3.2e-3, "head_s": 3.2e-3 * ratio, "rounds": 8, "calls": 300,
        "head_samples_s": tuple(3.2e-3 * ratio * (1 + 0.01 * math.sin(i)) for i in range(40)),
    }  # fmt: skip
    return Line(cell=where or cell(), verdict=verdict, **{**found, **more})


def figure(
    where: Cell, name: str = "flops", base: float | None = 100, head: float | None = 100, **more
) -> Figure:
    fails = None not in (base, head) and head > base
    given = {"tolerance": 0.0, "fails": fails, **more}
    return Figure(cell=where, name=name, base=base, head=head, **given)


def report(*lines: Line, figures: tuple[Figure, ...] = (), **more) -> Report:
    whole = {
        "base": {"label": "origin/main", "commit": "1a2b3c4d5e6f7a8b", "dirty": False},
        "head": {"label": "working tree", "commit": "9f8e7d6c5b4a3f2e", "dirty": True},
        "machine": {"name": "Test CPU, 2 cores, 8 GiB", "system": "Linux 6.1", "python": "3.11.7",
                    "cores": 2},
        "started": "2026-01-02T03:04:05+00:00", "seconds": 121.25,
    }  # fmt: skip
    return Report(kind="gate", lines=lines, figures=figures, **{**whole, **more})


def every_verdict() -> Report:
    """One cell of each verdict, and exact figures that are equal, grew and shrank."""
    ratios = {"slower": 1.213, "faster": 0.81, "suspected": 1.09, "inconclusive": 1.04}
    lines = [
        line(verdict, cell(f"m{i}"), ratio=ratios.get(verdict, 1.0), reason=f"because {verdict}")
        for i, verdict in enumerate(words.VERDICTS)
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
    "one cell": report(line("same")),
    "exact only": report(figures=(figure(cell()),)),
    "nothing": report(),
    "untimed": report(*(line(verdict, cell(f"m{i}")) for i, verdict in enumerate(UNTIMED))),
    "only new": report(line("new", reason="the base lacks it")),
    "only the base failed": report(line("base-failed", reason="no library")),
    "no figure": report(figures=(figure(cell(), head=None, detail="the head has none"),
                                 figure(cell("b"), base=None, detail="the base has none"))),
    "sixty": report(*(line("same" if i % 7 else "inconclusive",
                           cell(LONG, options={"window": i, "global_tokens": 3}),
                           ratio=1.02 ** (i % 3 - 1)) for i in range(60))),
    "shapes": report(*(line("same", cell(n=128 << i, batch_size=1 + i, scope="encoder", layers=2))
                       for i in range(3))),
    "compare": replace(report(line("same", control_ratio=None, control_low=None, control_high=None,
                                   head_samples_s=()), line("gone", cell("b"))), kind="compare"),
    "far": report(line("slower", cell("a"), ratio=900.0, half=40.0), line("same", cell("b$^2$", n=1_000_000)),
                  line("inconclusive", cell("c"), detectable=1e300, high=math.inf)),
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


def names_of(found: Report) -> list[str]:
    names = words.Names(found)
    return [names.full(each.cell) for each in found.lines]


@every_report
def test_a_terminal_of_100_columns_holds_everything(name):
    lines = printed(gate_tables(REPORTS[name]))
    assert max(map(cell_len, lines)) <= 100
    said = re.sub(r"\s", "", "".join(lines))
    assert said.endswith(re.sub(r"\s", "", words.conclusion(REPORTS[name]))), (
        "the verdict is the last thing said"
    )
    for each in REPORTS[name].lines:
        assert re.sub(r"\s", "", each.reason) in said
        assert words.ratio(each.ratio) in said if words.bounds(each) else True


def test_the_table_has_a_row_a_cell_with_its_verdict_in_words():
    lines = printed(gate_tables(REPORTS["every verdict"]))
    start = next(i for i, text in enumerate(lines) if text.startswith("mechanism"))
    rows = lines[start + 1 : start + 1 + len(words.VERDICTS)]
    for i, (verdict, row) in enumerate(zip(words.VERDICTS, rows, strict=True)):
        assert row.split()[0] == f"m{i}"
        assert row.split().count(verdict) == 1
    assert sum("exact figures: 5 compared, 4 changed" in text for text in lines) == 1


def test_equal_figures_are_one_line():
    lines = printed(
        gate_tables(report(line("same"), figures=(figure(cell()), figure(cell(), "parameters", 0, 0))))
    )
    assert "exact figures: 2 compared, all equal" in lines
    assert sum(text.startswith("mechanism") for text in lines) == 1


@every_report
def test_markdown_has_every_cell_once_and_no_broken_row(name):
    found = REPORTS[name]
    rows = markdown_rows(exports.markdown(found))
    cells = [row for row in rows if len(row) == 11][2:]
    assert len(cells) == len(found.lines)
    unescaped = [(re.sub(r"\\(.)", r"\1", row[0].strip()), row[1].strip(), row[2].strip()) for row in cells]
    names = words.Names(found)
    assert unescaped == [
        (names.mechanism(each.cell), each.cell.mode, str(each.cell.seq_len)) for each in found.lines
    ]
    assert [row[7].strip(" *") for row in cells] == [each.verdict for each in found.lines]
    changed = words.changes(found.figures)
    assert len([row for row in rows if len(row) == 10]) == (len(changed) + 2 if changed else 0)
    assert {len(row) for row in rows} <= {10, 11}


@every_report
def test_junit_counts_what_fails(name):
    found = REPORTS[name]
    root = ElementTree.fromstring(exports.junit(found).encode())
    timed = [case for case in root.iter("testcase") if case.get("classname") == "effbench.gate.time"]
    exact = [case for case in root.iter("testcase") if case.get("classname") == "effbench.gate.exact"]
    assert [case.get("name") for case in timed] == names_of(found)
    of = words.Names(found).full
    assert [case.get("name") for case in exact] == list(
        dict.fromkeys(of(each.cell) for each in found.figures)
    )
    for case, each in zip(timed, found.lines, strict=True):
        outcome = [child.tag for child in case if child.tag != "properties"]
        wanted = {"slower": ["failure"], "same": [], "faster": []}
        wanted |= {verdict: ["error"] for verdict in (*found.broken, "base-failed")}
        assert outcome == wanted.get(each.verdict, ["skipped"])
        properties = {each.get("name"): each.get("value") for each in case.iter("property")}
        assert properties["verdict"] == each.verdict
        assert properties.get("ratio") == (None if each.ratio is None else str(each.ratio))
        assert "e" not in case.get("time")
    broken = {of(each.cell) for each in found.figures if each.fails}
    assert {case.get("name") for case in exact if case.find("failure") is not None} == broken
    lacking = {of(each.cell) for each in found.figures if None in (each.base, each.head)}
    assert {case.get("name") for case in exact if case.find("error") is not None} == lacking
    slower = sum(each.verdict == "slower" for each in found.lines)
    assert int(root.get("failures")) == slower + len(broken) == len(list(root.iter("failure")))
    for attribute, tag in (("tests", "testcase"), ("errors", "error"), ("skipped", "skipped")):
        assert int(root.get(attribute)) == len(list(root.iter(tag)))
        assert sum(int(suite.get(attribute)) for suite in root) == int(root.get(attribute))
    for each in found.figures:
        if each.fails:
            assert words.change(each) in "".join(failure.text for failure in root.iter("failure"))


@every_report
def test_the_jsons_hold_the_timed_cells_once_and_nothing_that_json_lacks(name):
    found = REPORTS[name]
    theirs, entries = exports.pytest_benchmark(found), exports.github_action_benchmark(found)
    for data in (theirs, entries):
        assert json.loads(json.dumps(data, allow_nan=False)) == data
    kept = [each for each in found.lines if each.head_samples_s]
    benchmarks = theirs["benchmarks"]
    assert [each["extra_info"]["verdict"] for each in benchmarks] == [each.verdict for each in kept]
    assert len({each["fullname"] for each in benchmarks}) == len(kept)
    assert [each["stats"]["data"] for each in benchmarks] == [list(each.head_samples_s) for each in kept]
    timed = [each for each in found.lines if each.head_s is not None]
    assert [entry["name"] for entry in entries] == [words.Names(found).full(each.cell) for each in timed]
    for entry, each in zip(entries, timed, strict=True):
        assert (entry["unit"], entry["value"]) == ("ms", 1e3 * each.head_s)
        if words.bounds(each):  # as the action's own reader takes it apart
            half = float(re.fullmatch(r"± (\d+\.\d+)", entry["range"])[1])
            assert half == pytest.approx(
                1e3 * each.head_s * (each.high - each.low) / 2 / each.ratio, abs=1e-6
            )


def test_pytest_benchmark_has_its_shape():
    theirs = exports.pytest_benchmark(REPORTS["every verdict"])
    assert set(theirs) == {"machine_info", "commit_info", "benchmarks", "datetime", "version"}
    assert set(theirs["commit_info"]) == {"id", "time", "author_time", "dirty", "project", "branch"}
    assert (theirs["commit_info"]["id"], theirs["commit_info"]["dirty"]) == ("9f8e7d6c5b4a3f2e", True)
    first = theirs["benchmarks"][0]
    assert set(first) == {
        "group", "name", "fullname", "params", "param", "extra_info", "options", "stats",
    }  # fmt: skip
    assert set(first["stats"]) == {
        "min", "max", "mean", "stddev", "rounds", "median", "iqr", "q1", "q3", "iqr_outliers",
        "stddev_outliers", "outliers", "ld15iqr", "hd15iqr", "ops", "total", "data", "iterations",
    }  # fmt: skip
    assert theirs["machine_info"]["cpu"]["count"] == 2
    assert first["name"].endswith(f"[{first['param']}]")


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=60))
def test_statistics_are_those_of_the_samples(samples):
    found = exports.statistics(samples)
    close = pytest.approx
    assert found["rounds"] == len(samples)
    assert found["mean"] == close(statistics.fmean(samples))
    assert found["median"] == close(statistics.median(samples))
    assert found["total"] == close(math.fsum(samples))
    assert found["ops"] == close(1 / statistics.fmean(samples))
    spread = statistics.stdev(samples) if len(samples) > 1 else 0.0
    assert found["stddev"] == close(spread, rel=1e-6, abs=1e-9 * found["max"])
    assert found["iqr"] == found["q3"] - found["q1"]
    assert found["min"] <= found["ld15iqr"] <= found["median"] <= found["hd15iqr"] <= found["max"]
    outside = sum(not found["ld15iqr"] <= each <= found["hd15iqr"] for each in samples)
    assert found["iqr_outliers"] == outside
    assert found["outliers"] == f"{found['stddev_outliers']};{outside}"
    ordered = sorted(samples)  # a quarter of the samples lies below the first quartile, and above the third
    if len(samples) % 2 == 0:
        half = len(samples) // 2
        assert found["q1"] == close(statistics.median(ordered[:half]))
        assert found["q3"] == close(statistics.median(ordered[half:]))


@settings(max_examples=60)
@given(texts, texts, texts, texts)
def test_no_text_breaks_a_format(name, reason, label, detail):
    assume(words.printable(name))
    where = cell(name, mode="train")
    found = report(
        line("inconclusive", where, reason=reason),
        line("failed", cell("other"), reason=reason),
        figures=(figure(where, "ops", 3, 4, detail=detail),),
        notes=(reason, label),
        base={"label": label, "commit": label, "dirty": True},
        machine={"name": label},
    )
    assert max(map(cell_len, printed(gate_tables(found)))) <= 100
    rows = markdown_rows(exports.markdown(found))
    assert [len(row) for row in rows] == [11] * 4 + [10] * 3
    assert "\n\n\n" not in exports.markdown(found), "no text is more than its line"
    root = ElementTree.fromstring(exports.junit(found).encode())
    assert [case.get("name") for case in root.iter("testcase")][:2] == names_of(found)
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == tuple("3111")
    for data in (exports.pytest_benchmark(found), exports.github_action_benchmark(found)):
        assert json.loads(json.dumps(data, allow_nan=False)) == data
        assert json.dumps(data, ensure_ascii=False).encode()


@given(texts)
def test_printable_is_one_line_without_controls(text):
    once = words.printable(text)
    assert once.isprintable()
    assert words.printable(once) == once
    visible = "".join(text.split())
    assert len(once.replace(" ", "")) == len(visible), "what cannot be shown leaves a trace"


def test_what_sets_cells_apart_is_in_their_names():
    found = REPORTS["shapes"]
    assert len(set(names_of(found))) == 3
    assert all("batch_size" in name and "layers" not in name for name in names_of(found))
    assert names_of(report(line("same"))) == ["fastformer forward at 512"]
    assert words.Names(found).what().startswith("an encoder of 2 blocks, d_model 256")


def cells(*verdicts: str, **more) -> Report:
    return report(*(line(verdict, cell(f"m{i}"), **more) for i, verdict in enumerate(verdicts)))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (cells("same", "same"), "no slowdown over 5 % in any of 2 cells"),
        (cells("same"), "no slowdown over 5 % in the one cell"),
        (cells("same", "inconclusive", "new"),
         "no slowdown over 5 % in 1 of 3 cells; 1 inconclusive, 1 new"),
        (cells("same", "inconclusive", "failed"), "the head cannot run m2 forward at 512; 1 inconclusive"),
        (cells("failed", "gone", "base-failed", "new"),
         "the head cannot run m0 forward at 512; the head lacks m1 forward at 512; "
         "the base cannot run m2 forward at 512, which it has; 1 new"),
        (cells(*["base-failed"] * 5, "same"),
         "the base cannot run m0 forward at 512, m1 forward at 512, m2 forward at 512 and 2 more, "
         "which it has"),
        (report(line("same"), figures=(figure(cell("a"), head=None), figure(cell("b"), "ops", base=None))),
         "the head has no FLOPs of a forward at 512; the base has no operations of b forward at 512"),
        (report(line("same"), line("same", cell("b"), threshold=0.125)),
         "no slowdown over 5 to 12.5 % in any of 2 cells"),
        (cells("same", "faster"), "no slowdown over 5 % in any of 2 cells; 1 faster"),
        (report(line("slower", ratio=1.21, half=0.03, confirmed_in=5), line("unfit", cell("b"))),
         "slower, confirmed in fresh workers: fastformer forward at 512: 1.210 [1.175, 1.246]; 1 unfit"),
        (report(line("slower", ratio=1.25)), "slower: fastformer forward at 512: 1.250 [1.225, 1.275]"),
        (cells(*["slower"] * 5, ratio=1.25, half=0.0),
         "slower: m0 forward at 512: 1.250 [1.250, 1.250], m1 forward at 512: 1.250 [1.250, 1.250], "
         "m2 forward at 512: 1.250 [1.250, 1.250] and 2 more"),
        (report(line("same"), figures=(figure(cell(), "ops", 3, 4, detail="aten.mul 1 -> 2"),)),
         "exact figures grew: fastformer forward at 512: operations 3 -> 4 (+33.3 %)"),
        (report(line("same"), figures=(figure(cell(), "flops", 4, 3),)),
         "no slowdown over 5 % in the one cell; "
         "exact figures: 1 compared, 1 changed, none more than allowed"),
        (cells("unfit", "unfit", control_ratio=1.1),
         "this machine cannot judge as it is now: the base against itself is off by up to 10 % in 2 cells; "
         "effbench doctor says what disturbs it"),
        (cells("inconclusive", "unfit"), "no verdict on time in any of 2 cells; 1 inconclusive, 1 unfit"),
        (report(line("same", cell("a")), line("suspected", cell("b"), ratio=1.25, half=0.0)),
         "no slowdown over 5 % in 1 of 2 cells; "
         "suspected, not confirmed: b forward at 512: 1.250 [1.250, 1.250]"),
        (cells("new", "new"), "nothing could be compared in time: 2 new of 2 cells"),
        (replace(cells("new", "gone"), kind="compare"),
         "nothing could be compared in time: 1 new, 1 gone of 2 cells"),
        (report(figures=(figure(cell()),)), "exact figures: 1 compared, all equal; no times were compared"),
        (report(), "no times were compared"),
    ],
)  # fmt: skip
def test_the_conclusion(found, said):
    assert words.conclusion(found) == said


@every_report
def test_a_conclusion_never_calls_a_broken_gate_sound(name):
    found = REPORTS[name]
    said = words.conclusion(found)
    code = found.exit_code()
    assert ("the head cannot run" in said or "the head lacks" in said or "the head has no" in said) == (
        code == 6
    )
    if code != 6:
        assert ("slower" in said.split(":")[0] or "exact figures grew" in said) == (code == 3)
    if code not in (3, 6):
        assert ("the base cannot run" in said or "the base has no" in said) == (code == 4)
    assert ("nothing could be compared" in said or said == "no times were compared") == (code == 5)
    assert "no slowdown" not in said or any(each.verdict in ("same", "faster") for each in found.lines)


@given(st.sets(st.sampled_from(words.VERDICTS)), st.sampled_from(["gate", "compare"]), st.booleans())
def test_the_exit_code_is_that_of_the_worst_that_was_found(verdicts, kind, counted):
    figures = (figure(cell()),) if counted else ()
    found = replace(report(*(line(verdict) for verdict in verdicts), figures=figures), kind=kind)
    codes = {"failed": 6, "gone": 6 if kind == "gate" else 0, "slower": 3, "base-failed": 4}
    worst = next((c for c in (6, 3, 4) if c in {codes.get(verdict) for verdict in verdicts}), 0)
    timed = verdicts - set(UNTIMED)
    assert found.exit_code() == (worst or (0 if timed or counted else 5))
    open_ = verdicts & {"inconclusive", "unfit", "suspected"}
    strict = found.exit_code(strict=True)
    assert strict == (found.exit_code() or (4 if open_ else 0))


def test_what_ended_before_anything_was_measured_is_no_pass():
    assert report(line("inconclusive", rounds=0), line("new", cell("b"))).exit_code() == 5


@pytest.mark.parametrize("name", [name for name in REPORTS if REPORTS[name].lines])
def test_the_forest_shows_every_cell_where_it_is(name):
    found = REPORTS[name]
    picture = forest(found)
    picture.draw_without_rendering()
    (axes,) = picture.axes
    shown = [re.sub(r"\s", "", tick.get_text()) for tick in axes.get_yticklabels()]
    assert shown == [re.sub(r"\s", "", text) for text in names_of(found)]
    low, high = axes.get_xlim()
    points = {float(mark.get_xdata()[0]) for mark in axes.lines if len(mark.get_xdata()) == 1}
    timed = [each for each in found.lines if words.bounds(each)]
    assert {each.ratio for each in timed} <= points
    assert all(low < each.ratio < high for each in timed)
    said = [text.get_text() for text in axes.texts]
    assert said.count("no time") == len(found.lines) - len(timed)
    assert [text.split()[0] for text in said if text != "no time"] == [each.verdict for each in found.lines]
    frame = picture.bbox
    boxes = [text.get_window_extent() for text in (*axes.texts, *axes.get_yticklabels(), *picture.texts)]
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes), "nothing is cut off"
    rows = [tick.get_window_extent() for tick in axes.get_yticklabels()]
    assert all(below.y1 <= above.y0 for above, below in pairwise(rows)), "names do not touch"


@pytest.mark.parametrize("suffix", plots.SUFFIXES)
def test_the_forest_is_written_the_same_again(suffix, tmp_path):
    first, second = (
        plots.save(forest(REPORTS["far"]), tmp_path / f"{i}{suffix}").read_bytes() for i in range(2)
    )
    assert first == second
    assert len(first) > 5000


def test_verdicts_differ_without_colour():
    from effbench.show.gate_tables import _LOOKS

    drawn = [(marker, filled) for verdict, (_, marker, filled) in _LOOKS.items() if verdict not in UNTIMED]
    assert len(set(drawn)) == len(drawn)
    assert set(_LOOKS) == set(words.VERDICTS)


def test_a_report_without_cells_has_no_forest():
    with pytest.raises(NothingToDraw, match="no times"):
        forest(report())

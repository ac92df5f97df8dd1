"""The HTML report: complete, of one piece, equal for equal records, and every text in it stays a text."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from frames import ORIGIN, SIX, Failures, accuracy_records, cost_records
from hypothesis import given
from hypothesis import strategies as st
from report_records import FAILS, NASTY, costs, source

from effbench import cli
from effbench.common.spec import Status, UsageError
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.report import report_page
from effbench.show.report.report_answer import ratio_at
from effbench.show.report.report_sources import read_sources
from effbench.show.report.report_tables import number_in
from effbench.show.report.report_trainings import pareto

pytest.importorskip("plotly")

MOST_BYTES = 6_000_000
# Elements and attributes by which a page loads something.
LOADING = {"src", "srcset", "data", "poster", "background", "action", "ping"}


@cache
def usual() -> str:
    return report_page.report([source([*costs(fail=FAILS), *accuracy_records()])])


class Parsed(HTMLParser):
    """A page as a browser reads it: its elements, its text, its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data):
        tag = self.elements[-1][0] if self.elements else ""
        if self.cdata_elem == "script":
            self.scripts[-1] = (self.scripts[-1][0], data)
        elif self.cdata_elem == "style" or tag == "style":
            self.styles += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.words)

    def data(self) -> dict[str, Any]:
        (text,) = [text for attributes, text in self.scripts if attributes.get("id") == "data"]
        found: dict[str, Any] = json.loads(text)
        return found

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def test_every_mechanism_and_every_failure_is_in_the_page_with_its_reason():
    page = Parsed(usual())
    assert [one["name"] for one in page.data()["mechanisms"]] == sorted(SIX)
    for name in SIX:
        assert name in page.words
    for status, reason in FAILS.values():
        assert status in page.words
        assert reason in page.words
    headings = {attributes["id"] for tag, attributes in page.elements if tag == "section"}
    assert {"answer", "costs", "accuracy", "complexity", "tables", "failures", "provenance"} <= headings


def test_the_answer_comes_first_and_says_what_is_not_known():
    text = Parsed(usual()).text
    assert text.index("is fastest") < text.rindex("Cost against length")
    assert "What these records do not tell" in text
    only_costs = Parsed(report_page.report([source(costs(SIX[:2]))])).text
    assert "nothing is said about accuracy" in only_costs
    only_scores = Parsed(report_page.report([source(accuracy_records(SIX[:2]))])).text
    assert "nothing is said about speed" in only_scores


@pytest.mark.parametrize(("best", "warned"), [(3.0, True), (2.0, False)])
def test_trainings_that_ended_while_they_learned_are_said(best, warned):
    records = [
        replace(own, values={**own.values, "best_epoch": best, "epochs": 3.0})
        for own in accuracy_records(SIX[:2])
    ]
    assert ("6 of 6 trainings had the best validation score at the end" in
            Parsed(report_page.report([source(records)])).text) == warned  # fmt: skip


def test_the_page_fetches_nothing():
    page = Parsed(usual())
    for tag, attributes in page.elements:
        assert not LOADING & attributes.keys()
        assert tag not in ("link", "img", "iframe", "object", "embed", "video", "audio", "base")
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    for word in ("@import", "url(", "@font-face", "http"):
        assert word not in page.styles
    own = "".join(text for attributes, text in page.scripts if "id" not in attributes)
    for word in ("fetch(", "XMLHttpRequest", "import(", "http://", "https://"):
        assert word not in own
    assert 'src="http' not in usual()
    policy = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert policy[0] is not None
    assert policy[0].startswith("default-src 'none';")
    assert "http" not in policy[0]


def test_the_page_is_small_and_its_library_whole():
    from plotly.offline import get_plotlyjs

    assert len(usual().encode()) < MOST_BYTES
    (packed,) = [text for attributes, text in Parsed(usual()).scripts if attributes.get("id") == "library"]
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()


@pytest.mark.parametrize("name", NASTY)
def test_a_name_from_a_record_stays_a_text(name):
    plain = [*costs(("vanilla", "mine"), fail={("mine", "train", 512): ("oom", "too large")}),
             *accuracy_records(("vanilla", "mine"))]  # fmt: skip
    renamed = [
        replace(record, cell=replace(record.cell, mechanism=name), reason=record.reason and name)
        if record.cell.mechanism == "mine" else record
        for record in plain
    ]  # fmt: skip
    page, usual_one = (Parsed(report_page.report([source(records)])) for records in (renamed, plain))
    assert page.tags() == usual_one.tags()
    assert len(page.scripts) == len(usual_one.scripts)
    assert {name for _, a in page.elements for name in a} == {
        name for _, a in usual_one.elements for name in a
    }
    assert name in page.words
    assert name in [one["name"] for one in page.data()["mechanisms"]]
    assert "</pre>" in page.text


def test_equal_records_give_equal_bytes():
    records = [*costs(fail=FAILS), *accuracy_records()]
    assert report_page.report([source(records)]) == usual()


def test_sources_are_never_mixed(tmp_path):
    slower = [replace(record, machine={"name": "Other CPU"}) for record in costs(SIX[:3])]
    sources = [source(costs(SIX[:2])), source(slower, 1, "two")]
    page = Parsed(report_page.report(sources))
    charts = page.data()["costs"]
    assert [chart["source"] for chart in charts] == [0, 1]
    for chart, one in zip(charts, sources, strict=True):
        for mode, data in chart["modes"].items():
            rows = one.frame[one.frame["mode"] == mode]
            assert len(data["series"]) == rows["mechanism"].nunique()
            for series in data["series"]:
                name = page.data()["mechanisms"][series["mechanism"]]["name"]
                assert series["values"]["time_s"] == pytest.approx(
                    list(rows[rows["mechanism"] == name]["time_s"]), rel=1e-5
                )
    assert {a["data-source"] for _, a in page.elements if "data-source" in a} == {"0", "1"}
    assert any("Other CPU" in words for words in page.words)


def test_a_folder_of_two_machines_is_two_sources(folder):
    other = [replace(record, machine={"name": "Other CPU"}) for record in costs(("linear",))]
    sources = read_sources([folder("both", [*costs(("vanilla",)), *other])])
    assert len(sources) == 2
    assert [one.frame["machine"].unique().tolist() for one in sources] == [[one.machine] for one in sources]
    assert sum(len(one.records) for one in sources) == len(other) * 2


def test_ratios_of_the_charts_are_those_of_the_summary():
    one = source(costs(SIX[:3]))
    data = Parsed(report_page.report([one])).data()
    names = [mechanism["name"] for mechanism in data["mechanisms"]]
    (chart,) = data["costs"]
    for mode, panel in chart["modes"].items():
        rows = one.frame[one.frame["mode"] == mode]
        for n, group in rows.groupby("seq_len"):
            best = group.loc[group["time_s"].idxmin()]
            for row in group.itertuples():
                if row.mechanism == best["mechanism"]:
                    continue
                expected = (row.time_ratio, row.time_ratio_low, row.time_ratio_high)
                ratio = ratio_at(panel, names, row.mechanism, label(best["mechanism"], ""), n)
                assert ratio == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seeds", [2, 3])
def test_two_seeds_show_their_range_as_in_the_plots(seeds):
    one = source(accuracy_records(SIX[:2], seeds=seeds))
    data = Parsed(report_page.report([one])).data()
    (chart,) = data["fronts"]
    assert all(how.startswith("range of 2 runs" if seeds == 2 else "95 % conf") for how in chart["how"])
    if seeds == 2:
        for place, (low, high) in enumerate(zip(chart["low"], chart["high"], strict=True)):
            name = data["mechanisms"][chart["mechanism"][place]]["name"]
            scores = one.raw.loc[one.raw["mechanism"] == name, "accuracy"]
            assert (low, high) == pytest.approx((scores.min(), scores.max()))


@pytest.fixture
def command(monkeypatch, capsys):
    """``command(*arguments)`` runs effbench here and returns (code, standard output, standard error)."""

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["effbench", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_the_command_writes_the_file_and_says_where(command, folder):
    place = folder("mine", costs(("vanilla", "linear"), modes=("forward",)))
    code, out, _ = command("report", str(place))
    assert (code, out) == (0, f"{place / 'report.html'}\n")
    code, out, _ = command("report", str(place), "--out", "page.html")
    assert Path("page.html").read_bytes() == (place / "report.html").read_bytes()


def test_a_folder_without_records_is_refused_in_one_line(command, folder, tmp_path):
    (tmp_path / "nothing").mkdir()
    full = folder("full", costs(("vanilla",), modes=("forward",)))
    for arguments, words in (
        ([folder("empty", [])], "has no records"),
        ([tmp_path / "nothing"], "is not a results folder"),
        ([full, full], "is given twice"),
        ([full, "--out", tmp_path / "absent" / "page.html"], "its folder is not there"),
    ):
        code, out, error = command("report", *map(str, arguments))
        assert (code, out) == (2, "")
        assert words in error
        assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))


def test_without_plotly_one_line_says_what_to_install(command, folder, monkeypatch):
    place = folder("mine", costs(("vanilla",), modes=("forward",)))

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("effbench.show.report.report_library.metadata.version", absent)
    code, _, error = command("report", str(place))
    assert code == 2
    assert error == "effbench: a report needs the package plotly: pip install 'effbench[report]'\n"
    with pytest.raises(UsageError, match="plotly"):
        report_page.report([source(costs(("vanilla",)))])


@given(st.floats(1e-8, 1e13))
def test_a_cell_is_sorted_by_the_number_that_it_shows(value):
    for pretty, least, most in (
        (units.seconds, 1e-8, 1e4), (units.size, 1, 1e13), (units.count, 1, 1e13), (units.ratio, 0.01, 1e6)
    ):  # fmt: skip
        if least <= value <= most:
            for text in (
                pretty(value),
                f"~{pretty(value)}*",
                pretty(value).replace(" ", "\N{NO-BREAK SPACE}"),
            ):
                assert number_in(text) == pytest.approx(value, rel=0.006)
    assert number_in("oom") is None
    assert number_in("") is None
    assert number_in("N^1.98 [1.90, 2.05]") == 1.98


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(points, st.booleans(), st.booleans())
def test_a_point_is_on_the_front_if_and_only_if_no_other_beats_it(pairs, more_is_better, lower_scores):
    costs_of = [float(cost) for cost, _ in pairs]
    scores = [float(score) for _, score in pairs]
    sign, up = -1 if more_is_better else 1, 1 if lower_scores else -1

    def beats(a: int, b: int) -> bool:
        own, other = (sign * costs_of[a], up * scores[a]), (sign * costs_of[b], up * scores[b])
        return own != other and own[0] <= other[0] and own[1] <= other[1]

    free = {b for b in range(len(pairs)) if not any(beats(a, b) for a in range(len(pairs)))}
    front = pareto(costs_of, scores, more_is_better, lower_scores=lower_scores)
    assert set(front) == free
    assert np.all(np.diff([sign * costs_of[place] for place in front]) >= 0)


def test_of_a_loss_the_lowest_is_the_best():
    losses = [
        replace(record, values={**record.values, "metric": "loss_nats", "scores": "loss_nats",
                                "loss_nats": 3.0 - float(record.values["accuracy"] or 0)})
        for record in accuracy_records(SIX[:3])
    ]  # fmt: skip
    page = Parsed(report_page.report([source(losses)]))
    best = min(losses, key=lambda record: float(record.values["loss_nats"] or 0)).cell.mechanism
    assert f"{best} scores lowest" in page.text
    (front,) = page.data()["fronts"]
    lowest = min(range(3), key=lambda place: front["score"][place])
    assert all(lowest in places for places in front["fronts"].values())


def test_crossovers_of_several_shapes_can_be_told_apart():
    records = [*costs(SIX[:2]), *costs(SIX[:2], batch_size=4)]
    words = Parsed(report_page.report([source(records)])).words
    head = words.index("faster before")
    assert [word for word in words[head - 4 : head] if word.strip()][-2:] == ["mode", "batch_size"]


def test_batch_sizes_of_a_constant_number_of_tokens_are_one_chart():
    by_length = [cost_records(SIX[:2], (n,), batch_size=1024 // n) for n in (128, 256, 512)]
    records = [record for records in by_length for record in records]
    (chart,) = Parsed(report_page.report([source(records)])).data()["costs"]
    assert all(one["n"] == [128, 256, 512] for mode in chart["modes"].values() for one in mode["series"])
    assert "batch size by length" in chart["shape"]


def test_two_codes_of_a_mechanism_are_two_lines_with_their_names():
    later = [replace(record, code="0.2.0-b-c") for record in cost_records(SIX[:2], (1024, 2048), repeats=2)]
    data = Parsed(report_page.report([source([*costs(SIX[:2]), *later])])).data()
    names = [one["name"] for one in data["mechanisms"]]
    (chart,) = data["costs"]
    for mode in chart["modes"].values():
        assert sorted({one["code"] for one in mode["series"]}) == sorted({"0.2.0-b-c", ORIGIN["code"]})
        for n in (128, 1024):
            assert ratio_at(mode, names, "vanilla", "fastformer", n) is not None


@pytest.mark.parametrize("status", [status for status in get_args(Status) if status != "ok"])
def test_a_folder_of_failures_alone_names_each_and_has_no_chart(status):
    cells = itertools.product(SIX[:2], ("forward", "train"), (128, 256, 512))
    fail: Failures = {cell: (status, f"why {status}") for cell in cells}
    trained = [replace(one, status=status, reason="training", values={}) for one in accuracy_records(SIX[:2])]
    page = Parsed(report_page.report([source([*costs(SIX[:2], fail=fail), *trained])]))
    assert {f"why {status}", "training"} <= set(page.words)
    assert not [a for tag, a in page.elements if a.get("class") == "chart"]

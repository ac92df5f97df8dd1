"""The example of docs/examples/plot.py: it runs as a script, and becomes a kind of plot by one line."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

import pytest
from frames import cost_records
from matplotlib.container import ErrorbarContainer

import effbench
from effbench.records.store import Store
from effbench.show import plots

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "plot.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plot") / "out"
    store = Store(out)
    store.create()
    for record in cost_records(("vanilla", "linear"), (128, 512), modes=("forward",)):
        store.write(record)
    return out


def test_the_example_runs_as_a_script(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["plot.py", str(folder), str(tmp_path / "figure.svg")])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "</svg>" in (tmp_path / "figure.svg").read_text()


def test_the_example_is_a_kind_by_one_line(folder, monkeypatch):
    spec = importlib.util.spec_from_file_location("plot_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "plot_example", module)
    monkeypatch.setitem(plots.KINDS, "time_per_token", "plot_example:draw")
    frame = effbench.load(folder)
    drawn = plots.draw_all(frame, effbench.load(folder, raw=True))
    figure = dict(drawn)["time_per_token"]
    (axes,) = figure.axes
    (series,) = [each for each in axes.containers if each.get_label() == "linear"]
    assert isinstance(series, ErrorbarContainer)
    rows = frame[frame["mechanism"] == "linear"].sort_values("seq_len")
    assert series.lines[0].get_ydata() == pytest.approx(1e6 * rows["time_s"] / rows["seq_len"])
    low, high = series.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx(
        tuple(1e6 * rows[name].iloc[0] / 128 for name in ("time_low_s", "time_high_s"))
    )

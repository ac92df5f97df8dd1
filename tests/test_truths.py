"""Compare effbench's report on planted mechanisms, over the whole path, with their known costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import truths

import effbench
from effbench.common.growth import Growth
from effbench.records.analyse.complexity import exponents

TRUTHS = Path(truths.__file__)
N, D = 64, 16
LENGTHS = (64, 128, 256, 512)

# (class and options, mode, column, what it costs, allowed error as a share)
EXACT = [
    *[(f"Holds:mib={mib}", "forward", "peak_bytes", mib * 2**20 + N * D * 4) for mib in (1, 7, 100)],
    *[(f"Saves:size={size}", "train", "saved_bytes", size) for size in (1, 1000, 12_345_678)],
    *[
        (f"Multiplies:family={family}", "forward", "flops", 2 * 8 * N * D)
        for family in ("mm", "bmm", "addmm", "mv", "dot", "einsum", "conv", "attention")
    ],
]
TIMED = [(f"Busy:us={us}", us * 1e-6) for us in (1000, 2000, 5000)]
GROWN = [(1.0, 0, "N"), (1.5, 0, "N^1.5"), (2.0, 0, "N^2"), (1.0, 1, "N log N")]


def sweep_of(mechanisms, **axes):
    """Return a small sweep of planted mechanisms."""
    grid = {
        "mechanism": [f"{TRUTHS}:{name}" for name in mechanisms],
        "seq_len": str(N),
        "d_model": str(D),
        "heads": "2",
        "threads": "1",
        "repeats": "1",
        **axes,
    }
    return effbench.Sweep.preset("quick").override(grid)


def measured(mechanisms, folder, *, raw=False, **axes):
    """Return the rows of a small run of planted mechanisms; ``name`` holds their options as given."""
    return rows_of(sweep_of(mechanisms, **axes), folder, raw=raw)


def rows_of(sweep, folder, *, raw=False):
    frame = effbench.run(sweep, folder)
    frame = effbench.load(folder, raw=True) if raw else frame
    assert set(frame["status"]) == {"ok"}, frame[["mechanism", "status", "reason"]]
    named = frame["mechanism"].str.rpartition(":")[2] + (":" + frame["options"]).where(
        frame["options"] != "", ""
    )
    return frame.assign(name=named)


def exactly_measured(folder):
    """Return the rows of EXACT: one sweep, with each mechanism in its own mode and by its own probe."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, mode, column, _ in EXACT:
        groups.setdefault((mode, "flops" if column == "flops" else "memory"), []).append(name)
    sweeps = [sweep_of(names, mode=mode, probe=probe) for (mode, probe), names in groups.items()]
    return rows_of(replace(sweeps[0], grids=tuple(grid for s in sweeps for grid in s.grids)), folder)


@pytest.mark.slow
def test_memory_and_flops_are_reported_exactly(tmp_path):
    frame = exactly_measured(tmp_path / "out")
    for name, mode, column, truth in EXACT:
        (row,) = frame[(frame["name"] == name) & (frame["mode"] == mode)].itertuples()
        assert getattr(row, column) == truth, (name, column)
    assert not frame["flops_left_out"].fillna("").any()
    assert not frame["memory_left_out"].fillna("").any()


# Long beside what a call costs around its wait: 10 to 80 us, the more the longer the caches were idle.
WAITS_US = (20_000, 50_000)
GROWN_US, GROWN_LENGTHS = 5_000, (64, 128, 256)


def waits(folder, monkeypatch, names, **axes):
    """Return the raw rows of Busy mechanisms; ``own_s`` holds the samples without the system's delays.

    Each call records by how much its wait exceeded the planned one, as it does on a busy machine.
    """
    monkeypatch.setenv(truths.OVERRUNS, str(folder / "overruns"))
    (folder / "overruns").mkdir()
    raw = measured(names, folder / "out", raw=True, probe="time", mode="forward", **axes)
    own = []
    for row in raw.itertuples():
        given = {"us": "1000", "power": "0.0", "logs": "0"}
        given |= dict(option.split("=") for option in row.options.split(","))
        name = f"{given['us']},{given['power']},{given['logs']},{row.seq_len}"
        calls = truths.overruns(folder / "overruns", name)[row.repeat]
        own.append(np.array(row.samples_time_s) - np.array(calls[-len(row.samples_time_s) :]) / 1e9)
    return raw.assign(own_s=own)


@pytest.mark.slow
@pytest.mark.alone
def test_a_busy_wait_is_timed_within_a_hundredth(tmp_path, monkeypatch):
    raw = waits(tmp_path, monkeypatch, [f"Busy:us={us}" for us in WAITS_US])
    rows = {row.name: row for row in raw.itertuples()}
    for us in WAITS_US:
        row, truth = rows[f"Busy:us={us}"], us * 1e-6
        assert row.time_s == np.median(row.samples_time_s)
        assert row.own_s.min() > truth - 1e-9
        assert row.own_s.min() < 1.01 * truth
        assert np.median(row.own_s) < 1.03 * truth


@pytest.mark.slow
@pytest.mark.alone
def test_a_slow_first_call_is_no_sample_and_a_change_over_its_life_is_said(tmp_path):
    # for so long that they change by far more than the machine, also after the longest warm-up
    names = ["SlowFirst", "Changes:step=0.04", "Changes:step=-0.04"]
    frame = measured(names, tmp_path / "out", probe="time", mode="forward", seconds="0.8").set_index("name")
    assert frame.loc["SlowFirst", "time_s"] < 0.1
    assert "slows down" in frame.loc["Changes:step=0.04", "noisy"]
    assert "speeds up" in frame.loc["Changes:step=-0.04", "noisy"]
    assert "while it runs" not in frame.loc["SlowFirst", "noisy"]


@pytest.mark.slow
def test_memory_outside_torchs_allocator_is_seen_by_the_operating_system_only(tmp_path):
    frame = measured(["Outside:mib=64", "Holds:mib=64"], tmp_path / "out", probe="memory", mode="forward")
    rows = frame.set_index("name")
    assert rows.loc["Outside:mib=64", "peak_bytes"] == 0
    assert rows.loc["Outside:mib=64", "rss_growth_bytes"] >= 64 * 2**20
    # never touched, so that it has no pages: to the allocator it is there, to the operating system it is not
    assert rows.loc["Holds:mib=64", "peak_bytes"] > 64 * 2**20
    assert rows.loc["Holds:mib=64", "rss_growth_bytes"] < 64 * 2**20


@pytest.mark.slow
@pytest.mark.alone
def test_growth_is_found_as_planted(tmp_path, monkeypatch):
    options = {declared: f"logs={logs},power={power},us={GROWN_US}" for power, logs, declared in GROWN}
    raw = waits(
        tmp_path, monkeypatch, [f"Busy:{each}" for each in options.values()], seq_len="64:256:x2",
        seconds="0.05", repeats="2", max_repeats="2",
    )  # fmt: skip
    raw["time_s"] = raw["own_s"].map(min)
    raw = raw.drop(columns="slowdown")  # a wait takes as long on a slow machine
    found = exponents(raw, "time_s").set_index("options")["exponent"]
    for declared, given in options.items():
        growth = Growth.parse(declared)
        for row in raw[raw["options"] == given].itertuples():
            truth = GROWN_US * 1e-6 * growth.at(row.seq_len) / growth.at(64)
            assert truth - 1e-9 < row.time_s < 1.01 * truth + 0.0005
        assert found[given] == pytest.approx(growth.exponent(GROWN_LENGTHS), abs=0.03)


def report(folder: Path) -> str:
    """Return a table of truth and report, for the documentation."""
    exact = exactly_measured(folder / "exact")
    lines = [f"{'planted':<30} {'column':<16} {'truth':>12} {'reported':>14}"]
    for name, mode, column, truth in EXACT:
        (row,) = exact[(exact["name"] == name) & (exact["mode"] == mode)].itertuples()
        lines.append(f"{name:<30} {column:<16} {truth:>12} {getattr(row, column):>14.0f}")
    timed = measured([name for name, _ in TIMED], folder / "timed", probe="time", mode="forward")
    found = timed.set_index("name")["time_s"]
    lines += [f"{name:<30} {'time_s':<16} {truth:>12g} {found[name]:>14.6f}" for name, truth in TIMED]
    names = ["SlowFirst", "Changes:step=0.04", "Changes:step=-0.04"]
    rows = measured(names, folder / "lives", probe="time", mode="forward", seconds="0.2").itertuples()
    lines += [f"{row.name:<30} {'time_s':<16} {'':>12} {row.time_s:>14.6f}  {row.noisy}" for row in rows]
    rows = measured(["Outside:mib=64"], folder / "outside", probe="memory", mode="forward").itertuples()
    for row in rows:
        lines.append(f"{row.name:<30} {'peak_bytes':<16} {0:>12} {row.peak_bytes:>14.0f}")
        lines.append(
            f"{row.name:<30} {'rss_growth_bytes':<16} {64 * 2**20:>12} {row.rss_growth_bytes:>14.0f}"
        )
    names = [f"Busy:logs={logs},power={power},us=300" for power, logs, _ in GROWN]
    raw = measured(names, folder / "grown", raw=True, probe="time", mode="forward", seq_len="64:512:x2",
                   repeats="2", max_repeats="2")  # fmt: skip
    fitted = exponents(raw, "time_s").set_index("options")["exponent"]
    for power, logs, declared in GROWN:
        expected = Growth.parse(declared).exponent(LENGTHS)
        name = f"logs={logs},power={power},us=300"
        lines.append(f"{f'Busy, {declared}':<30} {'exponent':<16} {expected:>12.3f} {fitted[name]:>14.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        print(report(Path(place)))

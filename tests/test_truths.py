"""What effbench reports of planted mechanisms, through the whole path, against what they cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import effbench
from effbench.analyse.complexity import exponents
from effbench.growth import Growth

TRUTHS = Path(__file__).parent / "truths.py"
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


def measured(mechanisms, folder, *, raw=False, **axes):
    """The rows of a small run of planted mechanisms, by their options as given."""
    grid = {
        "mechanism": [f"{TRUTHS}:{name}" for name in mechanisms],
        "seq_len": str(N),
        "d_model": str(D),
        "heads": "2",
        "threads": "1",
        "repeats": "1",
        **axes,
    }
    frame = effbench.run(effbench.Sweep.preset("quick").override(grid), folder)
    frame = effbench.load(folder, raw=True) if raw else frame
    assert set(frame["status"]) == {"ok"}, frame[["mechanism", "status", "reason"]]
    named = frame["mechanism"].str.rpartition(":")[2] + (":" + frame["options"]).where(
        frame["options"] != "", ""
    )
    return frame.assign(name=named)


@pytest.mark.slow
def test_memory_and_flops_are_reported_exactly(tmp_path):
    names = [name for name, *_ in EXACT]
    frame = measured(names, tmp_path / "out", probe="memory,flops")
    for name, mode, column, truth in EXACT:
        (row,) = frame[(frame["name"] == name) & (frame["mode"] == mode)].itertuples()
        assert getattr(row, column) == truth, (name, column)
    assert (frame["uncounted_share"] == 0).all()


def least(raw):
    """The least sample of every row: a wait by the wall clock is only ever lengthened by an interruption."""
    return raw["samples_time_s"].map(min)


@pytest.mark.slow
def test_a_busy_wait_is_timed_within_a_hundredth(tmp_path):
    """Of many calls some are not interrupted, on a busy machine too; the headline is the median of all."""
    raw = measured([name for name, _ in TIMED], tmp_path / "out", raw=True, probe="time", mode="forward")
    rows = raw.assign(least_s=least(raw)).set_index("name")
    for name, truth in TIMED:
        assert truth <= rows.loc[name, "least_s"] < 1.01 * truth, name
        assert rows.loc[name, "time_s"] == np.median(rows.loc[name, "samples_time_s"])


@pytest.mark.slow
def test_a_slow_first_call_is_no_sample_and_a_change_over_its_life_is_said(tmp_path):
    names = ["SlowFirst", "Changes:step=0.01", "Changes:step=-0.01"]
    frame = measured(names, tmp_path / "out", probe="time", mode="forward", seconds="0.2").set_index("name")
    assert frame.loc["SlowFirst", "time_s"] < 0.1
    assert "slows down" in frame.loc["Changes:step=0.01", "noisy"]
    assert "speeds up" in frame.loc["Changes:step=-0.01", "noisy"]
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
def test_growth_is_found_as_planted(tmp_path):
    names = [f"Busy:logs={logs},power={power},us=300" for power, logs, _ in GROWN]
    raw = measured(
        names, tmp_path / "out", raw=True, probe="time", mode="forward", seq_len="64:512:x2", repeats="2",
        max_repeats="2",
    )  # fmt: skip
    found = exponents(raw.assign(time_s=least(raw)), "time_s").set_index("options")["exponent"]
    for power, logs, declared in GROWN:
        truth = Growth.parse(declared).exponent(LENGTHS)
        assert found[f"logs={logs},power={power},us=300"] == pytest.approx(truth, abs=0.03)


def report(folder: Path) -> str:
    """Truth beside what was reported, a line each: what the documentation shows."""
    exact = measured([name for name, *_ in EXACT], folder / "exact", probe="memory,flops")
    lines = [f"{'planted':<30} {'column':<16} {'truth':>12} {'reported':>14}"]
    for name, mode, column, truth in EXACT:
        (row,) = exact[(exact["name"] == name) & (exact["mode"] == mode)].itertuples()
        lines.append(f"{name:<30} {column:<16} {truth:>12} {getattr(row, column):>14.0f}")
    timed = measured([name for name, _ in TIMED], folder / "timed", probe="time", mode="forward")
    found = timed.set_index("name")["time_s"]
    lines += [f"{name:<30} {'time_s':<16} {truth:>12g} {found[name]:>14.6f}" for name, truth in TIMED]
    names = ["SlowFirst", "Changes:step=0.01", "Changes:step=-0.01"]
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
        truth = Growth.parse(declared).exponent(LENGTHS)
        name = f"logs={logs},power={power},us=300"
        lines.append(f"{f'Busy, {declared}':<30} {'exponent':<16} {truth:>12.3f} {fitted[name]:>14.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        print(report(Path(place)))

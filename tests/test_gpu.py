"""The CUDA timer and the energy probe, tested with a fake device, a fake NVML and a fake counter."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from effbench.common.probes import PROBES
from effbench.common.spec import Cell, Record
from effbench.measured.gpu import Nvml
from effbench.measured.mechanism import Unsupported
from effbench.measured.probes.cuda_time import cuda_seconds
from effbench.measured.probes.energy import RAPL_METHOD, Counter, cpu_counter, cuda_counter, joules
from effbench.records.analyse.summary import summarise
from effbench.records.frame import raw_frame
from effbench.sweep.axes import DEFAULTS


class FakeEvent:
    """A moment of the fake device's clock."""

    def __init__(self, device: FakeDevice) -> None:
        self._device, self.at_s = device, -1.0

    def record(self) -> None:
        """Mark the moment."""
        self.at_s = self._device.now_s

    def elapsed_time(self, end_event: Any, /) -> float:
        """Return milliseconds."""
        assert self._device.waited, "a moment is read only after the device has done its work"
        return 1e3 * float(end_event.at_s - self.at_s)


class FakeDevice:
    """A device on which a call takes ``call_s``, cold ones 3 times as long, and a flush 1 ms."""

    def __init__(self, call_s: float, *, graphs: bool = True, throttled_after: int = 10**9) -> None:
        self.call_s, self._graphs, self._throttled_after = call_s, graphs, throttled_after
        self.now_s, self.calls, self.cold, self.waited = 0.0, 0, False, True
        self.replays = 0

    def call(self) -> None:
        """Take the time of one call."""
        self.waited = False
        self.calls += 1
        self.now_s += self.call_s * (3 if self.cold else 1)
        self.cold = False

    def event(self) -> FakeEvent:
        """Return a moment."""
        return FakeEvent(self)

    def synchronize(self) -> None:
        """Wait."""
        self.waited = True

    def flush(self) -> None:
        """Make the next call cold."""
        self.cold = True
        self.now_s += 1e-3

    def graph(self, work):
        """Return the work itself, or refuse as CUDA does."""
        if not self._graphs:
            raise RuntimeError("operation not permitted when stream is capturing\nsecond line")

        def replay() -> None:
            self.replays += 1
            work()

        return replay

    def clock(self):
        """Return 1.5 GHz, and 1 GHz with a reason once throttled."""
        assert self.waited, "the clock is read when the device has done its work"
        return (1e9, ("power cap",)) if self.calls > self._throttled_after else (1.5e9, ())


def timed(device: FakeDevice, seconds: float = 0.05, precision: float = 1e-9):
    return cuda_seconds(
        device.call,
        device,
        seconds=seconds,
        precision=precision,
        clock_ns=lambda: int(1e9 * device.now_s),
    )


def test_a_long_call_is_timed_between_events_with_a_cold_cache():
    device = FakeDevice(1e-3)
    series, how = timed(device)
    assert series["time_s"] == pytest.approx([3e-3] * len(series["time_s"])), "cold, and without the flush"
    assert how["timed_by"] == "CUDA events"
    assert how["warm_up_s"] >= 0.5
    assert how["warmed_up"] == "yes"
    assert series["sm_clock_hz"] == (1.5e9,) * len(series["time_s"])
    assert (how["throttled_share"], "throttle_reasons" in how) == (0.0, False)


def test_a_short_call_is_replayed_in_a_graph_with_the_flush_inside():
    device = FakeDevice(10e-6)
    series, how = timed(device)
    assert series["time_s"] == pytest.approx([30e-6] * len(series["time_s"]), rel=1e-6)
    assert (how["timed_by"], how["calls_per_sample"]) == ("CUDA graphs", 10)
    assert device.replays == 2 * len(series["time_s"])
    refused, how = timed(FakeDevice(10e-6, graphs=False))
    assert refused["time_s"] == pytest.approx([30e-6] * len(refused["time_s"]), rel=1e-6)
    assert how["timed_by"] == ("CUDA events; no CUDA graph: operation not permitted when stream is capturing")


def test_a_call_longer_than_the_sampling_time_gets_three_samples():
    series, _ = timed(FakeDevice(0.2))
    assert len(series["time_s"]) == 3


def test_sampling_ends_early_once_the_target_is_reached():
    series, _ = timed(FakeDevice(1e-3), seconds=10.0, precision=0.05)
    assert len(series["time_s"]) == 15


def test_throttled_samples_are_kept_and_marked():
    undisturbed = FakeDevice(1e-3)
    timed(undisturbed)
    series, how = timed(FakeDevice(1e-3, throttled_after=undisturbed.calls - 7))
    share = sum(series["throttled"]) / len(series["throttled"])
    assert 0 < share < 1
    assert (how["throttled_share"], how["throttle_reasons"]) == (share, "power cap")
    cell = Cell(mechanism="linear", probe="time", seq_len=8, device="cuda")
    records = [Record(cell=cell, status="ok", samples=series, values=how, machine={"name": "m"})]
    assert (
        f"the card was throttled (power cap) in up to {100 * share:.0f} %"
        in summarise(raw_frame(records)).loc[0, "noisy"]
    )


class NVMLError(Exception):
    """As NVML's."""


def fake_nvml(**changes):
    names = ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    bits = {f"nvmlClocksThrottleReason{name}": 4 << place for place, name in enumerate(names)}
    return SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        nvmlDeviceGetClockInfo=lambda handle, kind: 1980,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 1 | 4 | 16,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 12_345,
        nvmlSystemGetDriverVersion=lambda: "580.1",
        **bits,
        **changes,
    )


def test_nvml_tells_clock_reasons_and_energy_in_si_units():
    card = Nvml(fake_nvml(), "handle")
    assert card.clock() == (1.98e9, ("power cap", "thermal limit of the driver")), "idle (1) is no throttling"
    assert card.energy_j() == 12.345
    assert card.driver() == "580.1"


def test_a_card_that_tells_nothing_is_unknown_not_wrong(monkeypatch):
    def refuse(*_: object) -> None:
        raise NVMLError("Not Supported")

    library = fake_nvml()
    library.nvmlDeviceGetClockInfo = library.nvmlDeviceGetTotalEnergyConsumption = refuse
    card = Nvml(library, "handle")
    assert card.clock() == (None, ())
    monkeypatch.setattr(Nvml, "of", classmethod(lambda cls, device: card))
    with pytest.raises(Unsupported, match="NVML does not tell the card's energy: Not Supported"):
        cuda_counter(torch.device("cuda"))


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Unsupported, match=r"nvidia-ml-py: pip install 'effbench\[gpu\]'"):
        cuda_counter(torch.device("cuda"))


class Meter:
    """A counter that shows 50 W in steps of 20 ms, and calls of 7 ms."""

    def __init__(self, watts: float = 50.0) -> None:
        self.now_s, self.watts = 0.0, watts

    def call(self) -> None:
        """Take 7 ms."""
        self.now_s += 7e-3

    def read_j(self) -> float:
        """Return the energy of the last whole step."""
        return self.watts * 0.02 * int(self.now_s / 0.02 + 1e-9)


def test_energy_is_counted_from_step_to_step():
    meter = Meter()
    found = joules(
        meter.call, Counter(meter.read_j, "test"), synchronize=lambda: None, clock=lambda: meter.now_s
    )
    assert found["energy_j"] == pytest.approx(50 * 7e-3, rel=0.01)
    assert found["power_w"] == pytest.approx(50, rel=0.01)
    assert float(found["energy_resolution_j"]) < 0.011 * float(found["energy_j"])
    assert found["energy_method"] == "test"


def test_a_counter_that_stands_still_is_unsupported():
    meter = Meter(watts=0.0)
    with pytest.raises(Unsupported, match="test: the counter stands still for 10 s"):
        joules(meter.call, Counter(meter.read_j, "test"), synchronize=lambda: None, clock=lambda: meter.now_s)


def package(folder: Path, number: int, name: str, microjoules: int) -> Path:
    zone = folder / f"intel-rapl:{number}"
    zone.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", 1_000_000)):
        (zone / file).write_text(f"{text}\n")
    return zone


def test_rapl_sums_packages_and_counts_on_when_one_wraps(tmp_path):
    first = package(tmp_path, 0, "package-0", 900_000)
    package(tmp_path, 1, "package-1", 500_000)
    package(tmp_path, 2, "psys", 1)
    counter = cpu_counter(tmp_path)
    assert counter.method == RAPL_METHOD
    before = counter.read_j()
    (first / "energy_uj").write_text("100000\n")
    assert counter.read_j() - before == pytest.approx(0.2)
    with pytest.raises(Unsupported, match="no package in"):
        cpu_counter(tmp_path / "none")
    (first / "energy_uj").unlink()
    with pytest.raises(Unsupported, match="is not readable"):
        cpu_counter(tmp_path)


def test_energy_is_off_by_default():
    assert "energy" in PROBES
    assert "energy" not in DEFAULTS["probe"]

"""The CUDA timer and the energy probe, tested with a fake device, a fake NVML and a fake counter."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fakes import FakeDevice

from effbench.common.probes import PROBES
from effbench.common.spec import Cell, Record
from effbench.measured.audit import cost_laws
from effbench.measured.gpu import Nvml
from effbench.measured.mechanism import Unsupported
from effbench.measured.probes.cuda_time import cuda_seconds
from effbench.measured.probes.energy import RAPL_METHOD, Counter, cpu_counter, cuda_counter, joules
from effbench.measured.side import Side
from effbench.measured.workload import device_of
from effbench.records.analyse.summary import summarise
from effbench.records.frame import raw_frame
from effbench.sweep.axes import DEFAULTS


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


def test_a_cuda_device_becomes_the_current_one_and_one_that_is_not_there_is_refused(monkeypatch):
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert [device_of(name) for name in ("cpu", "cuda:1", "cuda")] == [
        torch.device("cpu"), torch.device("cuda:1"), torch.device("cuda"),
    ]  # fmt: skip
    with pytest.raises(Unsupported, match="there is no cuda:2: torch finds 2 CUDA devices"):
        device_of("cuda:2")
    assert current == [1, 0]


def test_a_block_of_the_gate_on_a_card_is_the_time_between_two_events():
    side, device = Side(Path()), FakeDevice(2e-3)
    side._add(device.call, 1, device)
    assert side.call(0, 2, 5) == {"time_s": pytest.approx(2e-3)}, "warm: no cache is written over"
    assert device.calls == 7
    assert side.warm_up(0) == {"time_s": pytest.approx(2e-3)}


def test_a_gates_call_fails_on_a_card_as_on_the_cpu():
    def broken() -> None:
        raise RuntimeError("CUDA out of memory; can't allocate memory")

    side = Side(Path())
    side._add(broken, 1, FakeDevice(1e-3))
    assert side.call(0, 1, 1)["error"].startswith("oom: ")


def test_an_audit_times_on_a_card_between_events_after_a_first_call():
    device = FakeDevice(1e-3)
    assert cost_laws.sampled(device.call, device) == pytest.approx([3e-3] * 10)
    assert device.calls == 11


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
        nvmlDeviceGetMaxClockInfo=lambda handle, kind: 2100,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: ["another", "this one"],
        **bits,
        **changes,
    )


def test_nvml_tells_clock_reasons_and_energy_in_si_units():
    card = Nvml(fake_nvml(), "handle")
    assert card.clock() == (1.98e9, ("power cap", "thermal limit of the driver")), "idle (1) is no throttling"
    assert card.energy_j() == 12.345
    assert card.driver() == "580.1"
    assert card.status() == (2.1e9, 1), "this process is no other"


def test_a_card_that_tells_nothing_is_unknown_not_wrong(monkeypatch):
    def refuse(*_: object) -> None:
        raise NVMLError("Not Supported")

    library = fake_nvml()
    library.nvmlDeviceGetClockInfo = library.nvmlDeviceGetTotalEnergyConsumption = refuse
    library.nvmlDeviceGetComputeRunningProcesses = refuse
    card = Nvml(library, "handle")
    assert card.clock() == (None, ())
    assert card.status() == (None, None)
    monkeypatch.setattr(Nvml, "of", classmethod(lambda cls, device: card))
    with pytest.raises(Unsupported, match="NVML does not tell the card's energy: Not Supported"):
        cuda_counter(torch.device("cuda"))


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Unsupported, match=r"nvidia-ml-py: pip install 'effbench\[gpu\]'"):
        cuda_counter(torch.device("cuda"))


class Meter:
    """A counter that shows 50 W in steps of 20 ms, and calls of 7 ms."""

    def __init__(self, watts: float = 50.0, call_s: float = 7e-3, reading_s: float = 0.0) -> None:
        self.now_s, self.watts = 0.0, watts
        self.call_s, self.reading_s = call_s, reading_s

    def call(self) -> None:
        """Take as long as a call."""
        self.now_s += self.call_s

    def read_j(self) -> float:
        """Return the energy of the last whole step."""
        self.now_s += self.reading_s
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


def test_the_energy_of_a_short_call_has_nearly_nothing_of_the_readings():
    meter = Meter(call_s=20e-6, reading_s=0.2e-3)
    found = joules(
        meter.call, Counter(meter.read_j, "test"), synchronize=lambda: None, clock=lambda: meter.now_s
    )
    assert found["energy_j"] == pytest.approx(50 * 20e-6, rel=0.03)


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

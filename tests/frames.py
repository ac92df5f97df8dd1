"""Records of machines that never were: costs by formula, for tests of analysis, tables and plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from effbench.common.spec import Cell, Mode, Option, Record, Status
from effbench.records.frame import raw_frame

SIX = ("vanilla", "fastformer", "linformer", "longformer", "bigbird", "linear")
ORDER = {"vanilla": 2.0}
# (mechanism, mode, length): (status, reason)
Failures = dict[tuple[str, str, int], tuple[Status, str]]
ORIGIN: dict[str, Any] = {"machine": {"name": "Test CPU, 2 cores, 8 GiB"}, "code": "0.1.0-aaaa-bbbb"}


def cost_records(
    mechanisms: Iterable[str] = SIX,
    lengths: Iterable[int] = (128, 256, 512, 1024, 2048, 4096),
    repeats: int = 3,
    fail: Failures | None = None,
    modes: Iterable[Mode] = ("forward", "train"),
    options: dict[str, Option] | None = None,
    noise: float = 0.02,
    **shape: Any,
) -> list[Record]:
    """time, memory and flops records; ``fail`` maps (mechanism, mode, length) to (status, reason)."""
    rng = np.random.default_rng(0)
    records = []
    for place, mechanism in enumerate(mechanisms):
        order = ORDER.get(mechanism, 1.0)
        for mode in modes:
            for n in lengths:
                base = (1 + place / 3) * (1e-6 * n + (1e-8 * n**2 if order == 2.0 else 5e-7 * n))
                base *= 3 if mode == "train" else 1
                status, reason = (fail or {}).get((mechanism, mode, n), ("ok", ""))
                measured = {
                    "memory": {"peak_bytes": int(4000 * n**order)},
                    "flops": {"flops": int(1e5 * n**order)},
                }
                for probe in ("time", "memory", "flops"):
                    for repeat in range(repeats if probe == "time" else 1):
                        cell = Cell(
                            mechanism=mechanism,
                            options=options or {},
                            probe=probe,
                            mode=mode,
                            seq_len=n,
                            repeat=repeat,
                            **shape,
                        )
                        samples: dict[str, tuple[float, ...]] = {}
                        values: dict[str, int] = {}
                        if status == "ok":
                            values = {"parameters": 1000, **measured.get(probe, {})}
                        if status == "ok" and probe == "time":
                            times = base * rng.normal(1, noise, 9).clip(0.5)
                            samples = {"time_s": tuple(times), "control_s": (1e-4,) * 9}
                        records.append(
                            Record(
                                cell=cell,
                                status=status,
                                reason=reason,
                                samples=samples,
                                values=values,
                                **ORIGIN,
                            )
                        )
    return records


def accuracy_records(
    mechanisms: Iterable[str] = SIX, lengths: Iterable[int] = (128,), seeds: int = 3, task: str = "listops"
) -> list[Record]:
    """Trainings whose accuracy differs by mechanism, length and seed."""
    records = []
    for place, mechanism in enumerate(mechanisms):
        for n in lengths:
            for repeat in range(seeds):
                correct = 400 + 40 * place + n // 16 + 7 * repeat
                cell = Cell(
                    mechanism=mechanism,
                    probe="accuracy",
                    scope="encoder",
                    mode="train",
                    task=task,
                    seq_len=n,
                    batch_size=32,
                    d_model=64,
                    heads=4,
                    layers=2,
                    repeat=repeat,
                    seconds=0.0,
                )
                values = {
                    "accuracy": correct / 1000,
                    "test_correct": correct,
                    "test_examples": 1000,
                    "tokens_per_s": 1e4 * (1 + place) * 512 / n,
                    "peak_bytes": (1 + place) * n * 2**16,
                    "parameters": 50_000,
                    "train_seconds": 10.0,
                    "prior_majority": 0.175,
                    "prior_root_operator": 0.373,
                }
                records.append(Record(cell=cell, status="ok", values=values, **ORIGIN))
    return records


def generation_records(
    mechanisms: Iterable[str] = SIX,
    lengths: Iterable[int] = (128, 512, 2048),
    seeds: int = 3,
    fail: Mapping[tuple[str, int], Status] | None = None,
    beams: Sequence[int] = (1, 2, 5, 10),
    task: str = "copying",
    **shape: Any,
) -> list[Record]:
    """Trainings of sequence-to-sequence models; ``fail`` maps (mechanism, length) to a status."""
    rng = np.random.default_rng(0)
    records = []
    for place, mechanism in enumerate(mechanisms):
        order = ORDER.get(mechanism, 1.0)
        for n in lengths:
            for repeat in range(seeds):
                cell = Cell(
                    mechanism=mechanism, probe="accuracy", scope="encoder", mode="train", task=task,
                    seq_len=n, repeat=repeat, layers=2, seconds=0.0,
                    **{"batch_size": 32, "d_model": 64, "heads": 4} | shape,
                )  # fmt: skip
                status = (fail or {}).get((mechanism, n), "ok")
                if status != "ok":
                    records.append(Record(cell=cell, status=status, reason="made up", **ORIGIN))
                    continue
                noise = 1 + 0.03 * rng.normal()
                greedy = noise * 4e5 / (1 + place) / (200 + n ** (order / 2))
                values = {
                    "metric": "exact_match",
                    "scores": "exact_match",
                    "exact_match": 0.95 * 0.9**place * (1 - n / 8000) + 0.01 * rng.normal(),
                    "encode_s": noise * (1 + place / 2) * (1e-5 * n + (4e-8 * n**2 if order == 2 else 0)),
                    "decode_tokens_per_s": greedy,
                    "beam_tokens_per_s": greedy / 4,
                    "state_bytes": 1024 * (1 + place),
                    "tokens_per_s": 1e4 * (1 + place),
                    "train_seconds": 10.0,
                    "peak_bytes": (1 + place) * n * 2**16,
                    "prior_majority": 0.02,
                    "prior_first_tokens": 64 / n,
                }
                series = {
                    "beam_width": tuple(map(float, beams)),
                    "width_tokens_per_s": tuple(greedy / width**0.7 for width in beams),
                }
                samples = series if beams else {}
                records.append(Record(cell=cell, status="ok", values=values, samples=samples, **ORIGIN))
    return records


def raw(*groups: list[Record]) -> pd.DataFrame:
    """The raw frame of all given records."""
    return raw_frame([record for group in groups for record in group])

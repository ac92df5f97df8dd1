"""The proof's report counts what the gate's own rules say of the rounds in a file, and each round once."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

PLACE = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gate_proof(monkeypatch):
    monkeypatch.syspath_prepend(str(PLACE))
    spec = importlib.util.spec_from_file_location("gate_proof", PLACE / "gate_proof.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gate_proof"] = module
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DECISIONS", 20)
    monkeypatch.setattr(module, "GATES", 5)
    yield module
    del sys.modules["gate_proof"]


def write(gate_proof, path, ratios, rounds):
    """A file as ``measure`` writes it: made-up times of every kind, a head for each (name, ratio)."""
    rng = np.random.default_rng(0)
    gate_proof.append(path, {"machine": "somewhere", "burners": 2, "apart": False})
    for _ in range(rounds):
        times = [
            [
                *kind,
                {
                    name: gate_proof._short(0.002 * ratio * np.exp(0.01 * rng.standard_normal(30)))
                    for name, ratio in {"base": 1.0, "again": 1.0, **ratios}.items()
                },
            ]
            for kind in gate_proof.KINDS
        ]
        gate_proof.append(path, {"seconds": 9.0, "load_1min": 2.0, "times": times})


def rows(lines):
    """The cells of each row of a table, by its first."""
    cells = [[part.strip() for part in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row[1:] for row in cells}


def test_every_round_is_used_once_and_judged_by_the_gate(gate_proof, tmp_path):
    """Of 19 rounds a cell unchanged code takes six a decision, a slowdown nine, and the rest is none."""
    path = tmp_path / "made-up.jsonl.gz"
    write(gate_proof, path, {"0/0": 1.0, "0/1": 1.0, "0.2": 1.2}, 19)
    lines = list(gate_proof.report([path]))
    tables = rows(lines)
    assert "## made-up: 2 burners, somewhere" in "".join(lines)
    assert tables["0%"][1] == "24 same"  # two heads, four kinds, three decisions
    assert tables["20%"][1] == "8 slower"
    assert [row[3] for row in (tables["0%"], tables["20%"])] == ["6.0", "9.0"]
    assert tables["0%"][2].startswith("0 of 24: 0.0 %")
    assert tables["20%"][0].count("+") == 4
    assert all(abs(float(text.split("%")[0]) - 20) < 0.5 for text in tables["20%"][0].split(", "))
    assert "miss 1" in lines[-1]


def test_a_file_goes_on_where_it_was(gate_proof, tmp_path):
    path = tmp_path / "made-up.jsonl.gz"
    write(gate_proof, path, {"0/0": 1.0}, 2)
    _, cells, seconds = gate_proof.rounds_of(path)
    assert len(seconds) == 2
    assert {key[:2] for key in cells} == {(0.0, "0/0")}
    (entry, *_) = [each for each in gate_proof.lines(path) if "times" in each]
    gate_proof.append(path, entry)
    _, again, seconds = gate_proof.rounds_of(path)
    assert len(seconds) == 3
    for key, rounds in again.items():
        assert rounds[:2] == cells[key]
        assert rounds[2] == rounds[0]


def test_what_tools_decided_is_counted_by_rule(gate_proof, tmp_path):
    path = tmp_path / "tools.jsonl"
    decided = [[True, False], [False, False], [True, True]]
    path.write_text(
        "\n".join(
            json.dumps(
                {
                    "tool": "asv", "extra": 0.1, "burners": 0, "seconds": seconds,
                    "rules": {
                        "factor": {
                            "regressed": any(benches),
                            "benches": {str(i): {"regressed": hit} for i, hit in enumerate(benches)},
                        }
                    },
                }
            )
            for seconds, benches in zip((40, 50, 70), decided, strict=True)
        )
    )  # fmt: skip
    (row,) = [row for name, row in rows(gate_proof.report([path])).items() if name == "0"]
    assert row[:2] == ["10%", "asv `factor`"]
    assert row[2].startswith("2 of 3")
    assert row[3].startswith("3 of 6")
    assert row[4] == "50"


def test_a_head_is_planted_as_the_folder_of_amounts_says(gate_proof, tmp_path):
    peers = gate_proof.gate_peers
    rows_ = dict.fromkeys(peers.BENCHES, 7)
    truth = dict.fromkeys(peers.BENCHES, peers.Truth(1.1, 1.0, 1.2, 100))
    peers.Calibration(extra=0.1, rows=rows_, truth=truth).save(tmp_path / "0.1.json")
    heads = gate_proof.heads_of([0.1], 2, tmp_path)
    assert [gate_proof.share_of(name) for name in heads] == [0.0, 0.0, 0.1]
    (tmp_path / "folders").mkdir()
    folders = gate_proof.write_folders(tmp_path / "folders", heads)
    assert folders["again"] == folders["base"]
    assert set(folders) == {"base", "again", *heads}
    assert (folders["0.1"] / "attn.py").read_text() == peers.head_text(rows_)
    assert (folders["0/1"] / "attn.py").read_text() == peers.BASE + peers.COMMENT

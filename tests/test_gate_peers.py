"""The planted pair of commits is what it claims, and the peers' rules are read as the peers mean them."""

from __future__ import annotations

import difflib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from repositories import git

from effbench.common.spec import UsageError

PLACE = Path(__file__).parents[1] / "benchmarks" / "gate_peers.py"


def load():
    spec = importlib.util.spec_from_file_location("gate_peers", PLACE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gate_peers"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


gate_peers = load()
# a part, exactly all and more than all tokens of the batch, in this order of lengths and modes
ROWS = {"forward-512": 7, "train-512": 512, "forward-2048": 2048 + 5, "train-2048": 1}


def calibration(extra):
    if extra == 0:
        return gate_peers.calibrate(0.0)
    truth = dict.fromkeys(ROWS, gate_peers.Truth(1 + extra, 1.0, 2.0, 100))
    return gate_peers.Calibration(extra=extra, rows=ROWS, truth=truth)


def shown(repo, commit):
    return git(repo, "show", f"{commit}:attn.py")


def results(text, bench, mask=None):
    """Output and all gradients of one call's worth of work, from the same weights and input."""
    mode, _, length = bench.partition("-")
    torch.manual_seed(3)
    module = gate_peers._module(text).Planted(128, 8, max_len=int(length)).train(mode == "train")
    x = torch.randn(len(mask) if mask is not None else 1, int(length), 128, requires_grad=True)
    gradient = torch.randn_like(x)
    out = module(x, mask)
    out.backward(gradient)
    return {"out": out.detach(), "x": x.grad, **{name: p.grad for name, p in module.named_parameters()}}


@pytest.mark.parametrize("extra", [0.0, 0.1])
def test_a_plant_is_two_commits_and_the_head_is_checked_out(tmp_path, extra):
    repo = tmp_path / "repo"
    base, head = gate_peers.plant(repo, extra, calibration(extra))
    log = git(repo, "log", "--reverse", "--format=%H", "main").split()
    assert log == [base, head]
    assert shown(repo, head) == (repo / "attn.py").read_text(encoding="utf-8") != shown(repo, base)


def test_without_extra_work_the_commits_differ_by_a_comment_alone(tmp_path):
    repo = tmp_path / "repo"
    base, head = gate_peers.plant(repo, 0.0, calibration(0.0))
    lines = difflib.ndiff(shown(repo, base).splitlines(), shown(repo, head).splitlines())
    changed = [line for line in lines if not line.startswith("  ")]
    assert len(changed) == 1
    assert changed[0].startswith("+ #")


@pytest.mark.parametrize("bench", sorted(ROWS))
@pytest.mark.parametrize("padded", [False, True])
def test_the_planted_head_gives_the_same_bits(bench, padded):
    """Also where padding holds NaN, which a product with zero would carry on."""
    length = int(bench.partition("-")[2])
    mask = torch.arange(length) < torch.tensor([length, length // 2, 3, 1])[:, None] if padded else None
    base, head = (results(t, bench, mask) for t in (gate_peers.BASE, gate_peers.head_text(ROWS)))
    assert base.keys() == head.keys()
    for name, expected in base.items():
        assert torch.equal(head[name], expected), name


@pytest.mark.parametrize("bench", sorted(ROWS))
def test_the_extra_work_is_really_done(bench):
    """In FLOPs: one product a row."""
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for text in (gate_peers.BASE, gate_peers.head_text(ROWS)):
        call = gate_peers.call_of(gate_peers._module(text).Planted, bench)
        with FlopCounterMode(display=False) as counter:
            call()
        counts.append(counter.get_total_flops())
    assert counts[1] - counts[0] == 2 * 128 * 128 * ROWS[bench]


def test_the_measured_ratio_tells_much_extra_work_from_little():
    little, much = (gate_peers.measure("forward-512", rows, 100) for rows in (1, 8 * 512))
    assert much.ratio > 1.5 * little.ratio
    assert much.low <= much.ratio <= much.high
    assert much.pairs == 100


@pytest.mark.parametrize("least", [1, 40])
def test_rows_are_found_where_the_cost_is_a_line(monkeypatch, least):
    """A cost that is affine in the rows is solved exactly, or refused where it starts above what is asked."""

    def measured(bench, rows, pairs):
        ratio = 1 + least / 1000 + rows * 1e-5
        return gate_peers.Truth(ratio, ratio, ratio, pairs)

    monkeypatch.setattr(gate_peers, "measure", measured)
    assert abs(gate_peers._find_rows("train-512", 0.1) - (0.1 - least / 1000) / 1e-5) <= 1
    if least == 40:
        with pytest.raises(UsageError, match="the least extra work costs 4.00%"):
            gate_peers._find_rows("train-512", 0.01)


def test_a_calibration_comes_back_from_its_file_and_serves_its_own_share_alone(tmp_path):
    kept = tmp_path / "calibration.json"
    calibration(0.1).save(kept)
    assert gate_peers.Calibration.load(kept) == calibration(0.1)
    with pytest.raises(UsageError, match="the calibration is of 0.1"):
        gate_peers.plant(tmp_path / "repo", 0.2, gate_peers.Calibration.load(kept))
    kept.write_text("[]", encoding="utf-8")
    with pytest.raises(UsageError, match="not a calibration"):
        gate_peers.Calibration.load(kept)


def saved(**medians):
    runs = [
        {"param": bench.replace("_", "-"), "stats": {"median": m, "min": 1.0, "mean": 2.0}}
        for bench, m in medians.items()
    ]
    return {"benchmarks": runs}


def test_pytest_benchmark_fails_beyond_its_threshold_and_by_its_own_statistic():
    same = dict.fromkeys(("forward_512", "train_512", "forward_2048", "train_2048"), 1.0)
    at, beyond = saved(**same | {"train_512": 1.0499}), saved(**same | {"train_512": 1.0501})
    assert not gate_peers.compare_fail(saved(**same), at)["median:5%"]["regressed"]
    rules = gate_peers.compare_fail(saved(**same), beyond)
    assert rules["median:5%"]["regressed"]
    assert [b for b, f in rules["median:5%"]["benches"].items() if f["regressed"]] == ["train-512"]
    assert not rules["min:5%"]["regressed"]
    assert not rules["mean:5%"]["regressed"]
    with pytest.raises(RuntimeError, match="expected"):
        gate_peers.compare_fail(saved(forward_512=1.0), saved(**same))


def test_the_marks_of_asv_are_read_from_its_table():
    table = """
| Change | Before [0a1b2c3d] <main~1> | After [4e5f6a7b] <main> |   Ratio | Benchmark (Parameter)      |
|--------|----------------------------|-------------------------|---------|----------------------------|
| +      | 2.00±0.1ms                 | 2.30±0.1ms              |    1.15 | a.time_call('forward-512') |
|        | 8.00±0.1ms                 | 8.10±0.1ms              |   ~1.06 | a.time_call('train-512')   |
| -      | 4.00±0.1ms                 | 3.10±0.1ms              |    0.78 | a.time_call('forward-2048') |
"""
    assert gate_peers.asv_marks(table) == {"forward-512": "+", "train-512": "", "forward-2048": "-"}


def gone(process_id):
    """Whether it ends within 10 s; a zombie that nobody waits for has ended."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_burners_run_inside_their_block_alone():
    with gate_peers.burners(2) as running:
        assert len(running) == 2
        for process_id in running:
            os.kill(process_id, 0)
    assert all(gone(process_id) for process_id in running)


@linux
def test_burners_end_with_a_parent_that_is_killed():
    text = f"""
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("gate_peers", {str(PLACE)!r})
module = sys.modules["gate_peers"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
with module.burners(1) as running:
    print(running[0], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(PLACE.parents[1])},
    )  # fmt: skip
    assert done.returncode < 0
    assert gone(int(done.stdout))


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--extra", "-0.1", "--extra -0.1"),
        ("--decisions", "0", "--decisions 0"),
        ("--pairs", "10", "--pairs 10"),
        ("--burners", "-1", "--burners -1"),
        ("--seconds", "0", "--seconds 0"),
        ("--peer-python", "nowhere", "no such file"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, capsys, option, value, complaint):
    out = tmp_path / "found.jsonl"
    given = {"--tool": "asv", "--peer-python": sys.executable, "--out": str(out), option: value}
    assert gate_peers.main([f"{name}={text}" for name, text in given.items()]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not out.exists()

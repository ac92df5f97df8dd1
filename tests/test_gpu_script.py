"""The stages of `make gpu`: bounded, resumable, each with its own log; what is missing is said."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import gpu
import torch
from ours import our_mechanisms
from typer.testing import CliRunner

from effbench.cli.app import app
from effbench.common.spec import UsageError
from effbench.sweep.sweep import Sweep


def stage(name: str, text: str, limit_s: int = 20, needs: tuple[str, ...] = ()) -> gpu.Stage:
    return gpu.Stage(name, "a test", limit_s, lambda run: [gpu.Command([sys.executable, "-c", text])], needs)


def play(monkeypatch, out: Path, *stages: gpu.Stage) -> int:
    monkeypatch.setattr(gpu, "STAGES", stages)
    return gpu.main([str(out)])


def test_the_whole_is_under_25_minutes_and_no_stage_over_8():
    assert sum(one.limit_s for one in gpu.STAGES) <= 25 * 60
    assert max(one.limit_s for one in gpu.STAGES) <= 8 * 60
    assert [one.name for one in gpu.STAGES] == [
        "machine", "tests", "checks", "preset", "paper", "training", "gate",
    ]  # fmt: skip


@pytest.mark.parametrize("small", [False, True])
def test_every_command_is_one_that_effbench_has_and_ends_within_its_stage(tmp_path, small):
    for one in gpu.STAGES:
        for command in (made.words for made in one.commands(gpu.Run("cuda", small, tmp_path / one.name))):
            if "run" not in command or "effbench" not in command:
                continue
            budget = command[command.index("--budget") + 1]
            assert int(budget.removesuffix("s")) < one.limit_s
            assert command[command.index("--device") + 1] == "cuda"
            options = command[command.index("run") + 1 :]
            assert app_takes([*options]), options


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_doctor_and_audit_run_on_the_device_and_the_audit_in_both_dtypes(tmp_path):
    stages = {one.name: one.commands(gpu.Run("cuda", False, tmp_path)) for one in gpu.STAGES[:3]}
    doctor = [list(made.words) for made in stages["machine"] if "doctor" in made.words]
    audits = [list(made.words) for made in stages["checks"] if "audit" in made.words]
    assert [words[words.index("--dtype") + 1] for words in audits] == ["float32", "bfloat16"]
    assert len(doctor) == 1
    for words in (*doctor, *audits):
        ended = CliRunner().invoke(app, words[words.index("effbench") + 1 :])
        assert isinstance(ended.exception, UsageError), "it took every option, and looked for the device"
        assert str(ended.exception).endswith("finds no CUDA device here; choose cpu")


def app_takes(options: list[str]) -> bool:
    """True if ``effbench run`` takes the options and plans cells with them."""
    found = CliRunner().invoke(app, ["run", *options, "--dry-run"])
    return " cell" in found.output and found.exit_code == 0


def test_a_stage_that_is_done_is_not_run_again(tmp_path, monkeypatch, capsys):
    count = tmp_path / "count"
    text = f"open({str(count)!r}, 'a').write('x'); print('said')"
    assert play(monkeypatch, tmp_path / "out", stage("one", text)) == 0
    assert play(monkeypatch, tmp_path / "out", stage("one", text)) == 0
    assert count.read_text() == "x"
    assert (tmp_path / "out" / "one.log").read_text() == "said\n"
    assert "one        done" in capsys.readouterr().out


def test_a_failure_a_stop_and_a_lack_are_told_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    hang = "import time; print('begun', flush=True); time.sleep(60)"
    start = time.monotonic()
    code = play(
        monkeypatch,
        tmp_path,
        stage("fails", "raise SystemExit(7)"),
        stage("hangs", hang, limit_s=1),
        stage("lacks", "", needs=("json", "no_such_module", "tomli_w")),
        stage("last", "print(1)"),
    )
    assert code == 1
    assert time.monotonic() - start < 30
    ended = {one["stage"]: one for one in json.loads((tmp_path / "stages.json").read_text())}
    assert {name: one["status"] for name, one in ended.items()} == {
        "fails": "failed", "hangs": "stopped", "lacks": "lacking", "last": "done",
    }  # fmt: skip
    assert ended["fails"]["note"].startswith("exit code 7, not 0")
    assert ended["lacks"]["note"] == "needs no_such_module"
    assert (tmp_path / "hangs.log").read_text() == "begun\n"
    assert "stopped" in capsys.readouterr().out


def test_an_unknown_stage_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main([str(tmp_path / "out"), "--stages", "machine,tset"])
    assert "unknown stage 'tset'; there are machine," in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_preset_needs_a_device_and_has_every_mechanism():
    cells = Sweep.preset("gpu").cells()
    assert {cell.device for cell in cells} == {"cuda"}
    assert {cell.dtype for cell in cells} == {"bfloat16"}
    assert max(cell.seq_len for cell in cells) == 131072
    assert set(gpu.OURS) <= {cell.label for cell in cells}
    ours = {plugin.name for plugin in our_mechanisms()}
    assert {name.partition(":")[0] for name in gpu.OURS} == ours - {"pointwise"}

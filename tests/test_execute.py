"""Isolation: whatever a mechanism does to its process, there is a record with a status and a reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effbench.common.spec import Cell, Job, Limits
from effbench.sweep.inline import InlineExecutor
from effbench.sweep.local import LocalExecutor

GIB = 2**30


@pytest.fixture(scope="module")
def executor():
    executor = LocalExecutor()
    executor.start()
    yield executor
    executor.close()


def job(
    mechanism: str, *, seq_len: int = 64, timeout_s: float = 60.0, memory_bytes: int = 4 * GIB, **changes
) -> Job:
    values = {"probe": "time", "d_model": 16, "heads": 2, "seconds": 0.01, "threads": 1, **changes}
    return Job(
        cell=Cell(mechanism=mechanism, seq_len=seq_len, **values),
        limits=Limits(timeout_s=timeout_s, memory_bytes=memory_bytes),
        code="c",
        data="d",
    )


def run(executor, *args, **kwargs):
    return executor.run(job(*args, **kwargs), lambda fraction, text: None)


def test_a_folder_for_compiled_code_is_made_when_something_is_compiled(executor):
    assert run(executor, "linear").status == "ok"
    assert not executor._built.exists()


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("Empty", "ok", ""),
        ("Chatty", "ok", ""),
        ("Segfault", "crashed", "SIGSEGV (Segmentation fault) at plugins.py:"),
        ("Raises", "crashed", "RuntimeError: deliberate failure (plugins.py:"),
        ("Exits", "crashed", "exit code 7"),
        ("Killed", "oom", "killed from outside"),
        ("WrongShape", "incorrect", "float32[2, 63, 16] for an input of float32[2, 64, 16]"),
        ("NotFinite", "incorrect", "not finite"),
        ("WrongAgainstReference", "incorrect", "differs from the mechanism's reference"),
        ("OnlyShort", "unsupported", "only 32 tokens fit"),
    ],
)
def test_every_end_is_a_record(executor, plugin, name, status, reason):
    record = run(executor, plugin(name))
    assert (record.status, record.code, record.data) == (status, "c", "d")
    assert reason in record.reason
    assert (status == "ok") == bool(record.samples)
    assert record.machine["name"]
    assert record.started
    assert run(executor, plugin("Empty")).status == "ok", "the next cell is not affected"


def test_a_wrong_gradient_gets_no_time_in_training(executor, plugin):
    forward = run(executor, plugin("WrongGradient"))
    train = run(executor, plugin("WrongGradient"), mode="train")
    assert forward.status == "ok"
    assert (train.status, train.samples) == ("incorrect", {})
    assert "the gradient of the input differs from that of the mechanism's reference" in train.reason


@pytest.mark.parametrize("name", ["Hang", "Stubborn"])
def test_a_hang_is_ended_at_its_time(executor, plugin, name):
    record = run(executor, plugin(name), timeout_s=1.0)
    assert record.status == "timeout"
    assert "still running after 1 s" in record.reason
    assert 1.0 <= record.seconds < 10.0


def test_memory_over_the_limit_is_oom_and_within_it_is_ok(executor, plugin):
    over = run(executor, plugin("Hog"), seq_len=16, memory_bytes=GIB // 2)
    assert over.status == "oom"
    assert "out of memory within 0.50 GiB" in over.reason
    # a block that was freed may be too small for the next one, once small tensors lie in it
    within = run(executor, plugin("Hog"), seq_len=2, memory_bytes=GIB)
    assert within.status == "ok"
    assert within.values["peak_rss_bytes"] > 128 * 2**20


def test_memory_and_flops_come_through(executor):
    memory = run(executor, "vanilla", probe="memory", mode="train")
    assert memory.status == "ok", memory.reason
    assert memory.values["peak_bytes"] > 0
    flops = run(executor, "vanilla", probe="flops")
    assert flops.values["flops"] == 4 * 2 * 64 * 16 * 16 + 4 * 64 * 64 * 16


def test_no_cuda_is_unsupported_where_there_is_none(executor):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    record = run(executor, "vanilla", device="cuda")
    assert (record.status, record.reason) == ("unsupported", "this torch finds no CUDA device")


@pytest.mark.alone
def test_a_child_is_cheap(plugin):
    """Compared with a fresh interpreter that imports torch: the reason for the fork server."""
    executor = LocalExecutor()
    try:
        begin = time.monotonic()
        executor.start()
        fresh = time.monotonic() - begin
        begin = time.monotonic()
        for _ in range(3):
            assert run(executor, plugin("Empty"), probe="memory").status == "ok"
        assert (time.monotonic() - begin) / 3 < fresh / 2
    finally:
        executor.close()


def test_a_dead_server_is_replaced(executor, plugin, monkeypatch):
    """The new one inherits no place of git: a mechanism's own git must not find the index of a hook."""
    assert executor._server is not None
    os.kill(executor._server.pid, signal.SIGKILL)
    lost = run(executor, plugin("Empty"))
    assert lost.status == "crashed"
    assert "the measuring process ended" in lost.reason
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert run(executor, plugin("TellsGit")).reason == "no place of git"


def test_nothing_outlives_the_executor(plugin, tmp_path):
    """Server and hanging child end when the measuring process is killed."""
    code = f"""
import sys
from effbench.sweep.local import LocalExecutor
from effbench.common.spec import Cell, Job, Limits
executor = LocalExecutor()
executor.start()
print(executor._server.pid, flush=True)
cell = Cell(mechanism={plugin("Hang")!r}, probe="time", seq_len=64, d_model=16, heads=2)
executor.run(Job(cell=cell, limits=Limits(timeout_s=60, memory_bytes={GIB})), lambda *a: None)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=tmp_path)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    children = Path(f"/proc/{server}/task/{server}/children")
    if not children.exists():
        parent.kill()
        pytest.skip("needs /proc to see a process's children")
    wait_until(lambda: children.read_text().strip())
    child = int(children.read_text().split()[0])
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not alive(server) and not alive(child))


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition, seconds: float = 30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_inline_measures_here(plugin):
    executor = InlineExecutor()
    assert set(executor.start()) == {"torch", "cuda_devices"}
    record = run(executor, plugin("Empty"), allocator="system")
    assert record.status == "ok"
    assert record.samples["time_s"]

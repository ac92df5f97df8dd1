"""Side effects of a mechanism on its process are reported and undone; broken laws get no time."""

from __future__ import annotations

import os
import time

import pytest
import torch
from torch import nn

from effbench import Unsupported
from effbench.common import registry
from effbench.common.spec import Cell, Job, Limits
from effbench.measured.probes.correctness import Incorrect, check_laws
from effbench.measured.probes.effects import Watch
from effbench.sweep.local import LocalExecutor


@pytest.fixture(scope="module")
def executor():
    executor = LocalExecutor()
    executor.start()
    yield executor
    executor.close()


def measured(executor, mechanism: str, seq_len: int = 64, **changes):
    values = {"probe": "time", "d_model": 16, "heads": 2, "seconds": 0.01, "threads": 2, **changes}
    cell = Cell(mechanism=mechanism, seq_len=seq_len, **values)
    job = Job(cell=cell, limits=Limits(timeout_s=30.0, memory_bytes=4 * 2**30))
    return executor.run(job, lambda fraction, text: None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Empty", None),
        ("SetsThreads", "a call changes torch's number of threads to 1: its numbers were taken so"),
        ("SetsDefaults", "its constructor changes torch's default dtype to torch.float64; undone"),
        ("Reseeds", "a call seeds torch's random generator"),
        ("LeavesProcess", "it leaves 1 process running, ended with the cell"),
        ("LeavesThread", "it keeps 1 thread of Python running"),
        ("Talks", "it prints"),
        ("SetsThreadsOnce", "a call changes torch's number of threads to 1; undone before the measurement"),
        ("SeedsOthers", "a call seeds numpy's random generator; a call seeds Python's random generator"),
        ("MovesAway", "a call changes the working folder to /: its numbers were taken so"),
        ("ClearsEnvironment", "a call changes environment variables: PATH: its numbers were taken so"),
    ],
)
def test_what_a_mechanism_does_to_its_process_is_said(executor, plugin, name, said):
    begin = time.monotonic()
    record = measured(executor, plugin(name))
    assert (record.status, record.reason) == ("ok", "")
    assert record.samples["time_s"]
    found = record.values.get("side_effects", "")
    assert said in found if said else not found
    assert "undone" not in found or "taken so" not in found, "one or the other"
    assert time.monotonic() - begin < 20, "what is left running costs no timeout"
    assert measured(executor, plugin("Empty")).values.get("side_effects") is None


def test_a_working_folder_that_is_gone_ends_no_watch(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    watch = Watch(noisy=True)
    os.chdir(tmp_path)
    gone.rmdir()
    watch.end()
    assert watch.notes == [f"a call changes the working folder to {tmp_path}: its numbers were taken so"]


def test_warnings_are_kept_each_once(executor, plugin):
    record = measured(executor, plugin("Warns"))
    assert record.values["warnings"] == "UserWarning: deliberate warning"


def test_a_process_left_behind_is_ended(executor, plugin):
    def sleepers() -> int:
        found = 0
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            found += fields[0] != "Z" and int(fields[1]) == executor._server.pid
        return found

    if not os.path.exists("/proc/self/stat"):
        pytest.skip("needs /proc to see processes")
    measured(executor, plugin("LeavesProcess"))
    assert sleepers() == 0


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("IgnoresMask", {}, "an output of a real token depends on what padding holds; the mask is ignored"),
        ("InvertsMask", {}, "an output of a real token depends on what padding holds"),
        ("IgnoresCausal", {"causal": True}, "causal=true, but an output depends on later tokens"),
        ("MixesBatch", {}, "an output depends on another element of the batch"),
        ("WritesInput", {}, "forward changes its input in place"),
        ("KeepsResults", {}, "an output is that of what its input held before"),
        ("IgnoresCausalInInference", {"causal": True}, "causal=true, but an output depends on later tokens"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_broken_law_gets_no_time(executor, plugin, name, options, reason, dtype):
    record = measured(executor, plugin(name), options=options, dtype=dtype)
    assert (record.status, record.samples) == ("incorrect", {})
    assert reason in record.reason


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("LooksAheadInTraining", {"causal": True}, "an output depends on later tokens, in training"),
        ("NotFiniteInTraining", {}, "forward returned a number that is not finite"),
        ("GradientNotFinite", {}, "the gradient of the input is not finite"),
    ],
)
def test_what_is_wrong_in_training_only_gets_no_time_there(executor, plugin, name, options, reason):
    record = measured(executor, plugin(name), options=options, mode="train")
    assert (record.status, record.samples) == ("incorrect", {})
    assert reason in record.reason
    assert measured(executor, plugin(name), options=options).status == "ok"


@pytest.mark.parametrize(("name", "said"), [("DeclaresWords", "'many'"), ("DeclaresNaN", "nan")])
def test_a_declaration_that_is_no_number_is_named(executor, plugin, name, said):
    record = measured(executor, plugin(name), probe="flops")
    assert record.status == "incorrect"
    assert record.reason == f"forward_flops returned {said}, must be a whole number of at least 0, or None"


@pytest.mark.parametrize(("name", "options"), [("TakesNoMask", {}), ("IgnoresCausal", {}), ("Plain", {})])
def test_what_keeps_the_laws_is_timed_and_the_row_says_how_it_was_checked(executor, plugin, name, options):
    record = measured(executor, plugin(name), options=options)
    assert (record.status, record.reason) == ("ok", "")
    assert record.values["checked"] == "laws"


@pytest.mark.parametrize("name", ["OnlyLong", "OnlyBlocks"])
@pytest.mark.parametrize("mode", ["forward", "train"])
def test_what_takes_nothing_short_is_timed_at_the_length_that_it_takes(executor, plugin, name, mode):
    record = measured(executor, plugin(name), seq_len=512, mode=mode)
    assert (record.status, record.reason) == ("ok", "")


def test_a_training_is_held_to_the_laws_too(executor, plugin):
    record = measured(
        executor,
        plugin("InvertsMask"),
        probe="accuracy",
        scope="encoder",
        mode="train",
        task="listops",
        task_options={"train": 64, "validation": 10, "test": 10, "max_depth": 2, "max_args": 2},
        layers=1,
        seconds=0.0,
    )
    assert record.status == "incorrect"
    assert "padding" in record.reason


@pytest.mark.parametrize("name", [name for name in registry.names("mechanism") if ":" not in name])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 2, 64])
def test_our_mechanisms_keep_the_laws_that_a_run_asks(name, causal, n):
    torch.manual_seed(0)
    kind = registry.load(registry.find(name, "mechanism"))
    try:
        module: nn.Module = kind(16, 4, max_len=n, causal=causal)
    except Unsupported as error:
        pytest.skip(str(error))
    check_laws(module, torch.randn(1, n, 16), causal=causal)


def test_a_law_that_needs_a_mask_is_left_out_where_none_is_taken():
    class NoMask(nn.Module):
        def forward(self, x, mask=None):
            if mask is not None:
                raise Unsupported("no mask")
            return x.cumsum(1)

    check_laws(NoMask(), torch.randn(1, 9, 4), causal=True)
    with pytest.raises(Incorrect, match="later tokens"):
        check_laws(Flipped(), torch.randn(1, 9, 4), causal=True)


class Flipped(nn.Module):
    """Reads the sequence from its end."""

    def forward(self, x, mask=None):
        return x.flip(1)


def test_a_place_in_an_error_is_the_users_line(executor, plugin):
    record = measured(executor, plugin("DeepRaise"), mode="train")
    assert record.status == "crashed"
    assert record.reason.startswith("JSONDecodeError: ")
    assert record.reason.endswith("in <lambda>)")
    assert "(plugins.py:" in record.reason
    segfault = measured(executor, plugin("Segfault"))
    assert "at plugins.py:" in segfault.reason
    assert "ctypes" not in segfault.reason


def test_a_reason_is_one_line_of_bounded_length(executor, plugin):
    record = measured(executor, plugin("LongMessage"))
    assert record.status == "crashed"
    assert "\n" not in record.reason
    assert len(record.reason) < 400
    assert record.reason.startswith("RuntimeError: a line of a long message")
    assert "(plugins.py:" in record.reason

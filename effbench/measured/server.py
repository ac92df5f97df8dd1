"""The fork server: a process that has torch imported and forks one child per cell.

It reads commands from standard input, one JSON object per line: ``{"job": ...}`` measures, ``{"kill": true}``
kills the child. It answers on standard output, one JSON object per line: ``hello`` once, then for each job
any number of ``progress``, on CUDA the ``gpu``, at most one ``record``, and always ``exit`` last. The end of
its input ends the server and its child.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import selectors
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import torch

from effbench.common.processes import (
    Messages,
    adopt_orphans,
    die_with_parent,
    kill_group,
    leave_after,
    send,
    stand_alone,
    tail,
    write_all,
)
from effbench.common.spec import Job, Limits, job_from, to_json
from effbench.measured import worker

_LOOK_S = 0.2  # how often a silent child is examined: it may have ended
_ORPHAN_GRACE_S = 0.5


def serve(commands: Messages, answers: int) -> None:
    """Answer commands until their end; ``answers`` is a file descriptor."""
    adopt_orphans()
    versions = worker.prepare()
    gc.collect()
    gc.freeze()  # a child's collection then neither visits nor copies what torch imported
    send(answers, {"hello": versions})
    for message in commands:
        if "job" in message:
            _measure(job_from(message["job"]), commands, answers)


def _measure(job: Job, commands: Messages, answers: int) -> None:
    """Fork, relay the child's messages, and report how it ended."""
    worker.prepare_for(job)
    with tempfile.TemporaryFile() as log:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            leave_after(lambda: _child(job, writing, log))
        os.close(writing)
        with selectors.DefaultSelector() as selector:
            selector.register(reading, selectors.EVENT_READ)
            selector.register(commands.descriptor, selectors.EVENT_READ)
            open_pipe, rest = True, b""
            while open_pipe:
                ready = selector.select(_LOOK_S)
                if not ready and _has_ended(child):
                    break  # a process that it left running holds the pipe open
                for key, _ in ready:
                    if key.fd == reading:
                        data = os.read(reading, 65536)
                        open_pipe = bool(data)
                        whole, newline, rest = (rest + data).rpartition(b"\n")
                        write_all(answers, whole + newline)  # a line cut off by a crash goes no further
                    elif not commands.fill():
                        kill_group(child)
                        os._exit(0)
                    else:
                        while commands.ready():
                            if "kill" in commands.pop():
                                kill_group(child)
        os.close(reading)
        _, status, usage = os.wait4(child, 0)
        left = _end_orphans(child)
        send(answers, {"exit": {**_ending(status, usage.ru_maxrss * 1024, log), "left": left}})


def _has_ended(child: int) -> bool:
    """Return True if the child is a zombie; it stays one until it is waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_orphans(child: int) -> int:
    """Kill the processes that the child left running, in any group, and return their number.

    Processes that end by themselves once the child is gone are not counted.
    """
    end = time.monotonic() + _ORPHAN_GRACE_S
    while (orphans := _children()) and time.monotonic() < end:
        time.sleep(0.01)
        for orphan in orphans:
            os.waitpid(orphan, os.WNOHANG)
    kill_group(child)
    for orphan in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
        os.waitpid(orphan, 0)
    return len(orphans)


def _children() -> list[int]:
    """Return this process's children, adopted orphans included; none where the system lists none."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(number) for number in path.read_text().split()] if path.exists() else []


def _child(job: Job, writing: int, log: IO[bytes]) -> None:
    """Measure in a process group of its own and write progress and record to the pipe."""
    stand_alone(log.fileno())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    faulthandler.enable(file=sys.stderr, all_threads=False)
    _prefer_for_killing()
    if not job.cell.device.startswith("cuda"):
        _limit_memory(job.limits)

    def progress(fraction: float, text: str) -> None:
        send(writing, {"progress": [fraction, text]})

    if job.cell.device.startswith("cuda"):
        with contextlib.suppress(RuntimeError, AssertionError):  # there is none: the record says so
            send(writing, {"gpu": torch.cuda.get_device_name(job.cell.device)})
    record = worker.measure(job, progress)
    send(writing, {"record": json.loads(to_json(record))})


def _limit_memory(limits: Limits) -> None:
    """Let private memory grow by the limit above its present size; malloc then fails cleanly."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    status = Path("/proc/self/status").read_text()
    now = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
    most = now + limits.memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _prefer_for_killing() -> None:
    """Make the kernel kill the measured process, and no other, if it runs out of memory."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")


def _ending(status: int, max_rss_bytes: int, log: IO[bytes]) -> dict[str, Any]:
    return {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "max_rss_bytes": max_rss_bytes,
        "log": tail(log),
    }


def main() -> None:
    """Serve on standard input and output; what libraries print goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    answers = os.dup(1)
    os.dup2(2, 1)
    serve(Messages(0), answers)


if __name__ == "__main__":
    main()

"""The fork server: a process that has torch imported and forks one child a cell.

It reads commands from standard input, a JSON object a line: ``{"job": ...}`` measures, ``{"kill": true}``
kills the child. It answers on standard output, a JSON object a line: ``hello`` once, then for each job any
number of ``progress``, at most one ``record``, and always ``exit`` last. End of input ends it and its child.
"""

from __future__ import annotations

import contextlib
import ctypes
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

from effbench.common.spec import Job, Limits, job_from, to_json
from effbench.measured import worker

_LOG_TAIL_BYTES = 4000
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LOOK_S = 0.2  # between looks whether a child that says nothing has ended
_ORPHAN_GRACE_S = 0.5


def serve(commands: int, answers: int) -> None:
    """Answer commands until their end; the arguments are file descriptors."""
    _adopt_orphans()
    offers = worker.prepare()
    gc.collect()
    gc.freeze()  # a child's collection then need not look through, and so copy, all that torch imported
    say(answers, {"hello": offers})
    pending = b""
    while chunk := os.read(commands, 65536):
        pending += chunk
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            message = json.loads(line)
            if "job" in message:
                pending = _measure(job_from(message["job"]), commands, answers, pending)


def _measure(job: Job, commands: int, answers: int, pending: bytes) -> bytes:
    """Fork, relay what the child says, and report how it ended. Returns commands read meanwhile."""
    worker.prepare_for(job)
    with tempfile.TemporaryFile() as log:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _child(job, writing, log)
        os.close(writing)
        with selectors.DefaultSelector() as selector:
            selector.register(reading, selectors.EVENT_READ)
            selector.register(commands, selectors.EVENT_READ)
            open_pipe, said = True, b""
            while open_pipe:
                ready = selector.select(_LOOK_S)
                if not ready and _has_ended(child):
                    break  # what it left running holds the pipe open
                for key, _ in ready:
                    data = os.read(key.fd, 65536)
                    if key.fd == reading:
                        open_pipe = bool(data)
                        whole, newline, said = (said + data).rpartition(b"\n")
                        _write(answers, whole + newline)  # a line cut off by a crash goes no further
                    elif not data:
                        _kill(child)
                        os._exit(0)
                    else:
                        pending += data
                        if b'"kill"' in pending:
                            pending = b""
                            _kill(child)
        os.close(reading)
        _, status, usage = os.wait4(child, 0)
        left = _end_orphans(child)
        say(answers, {"exit": {**_ending(status, usage.ru_maxrss * 1024, log), "left": left}})
    return pending


def _has_ended(child: int) -> bool:
    """Whether the child is a zombie by now; it stays one until it is waited for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_orphans(child: int) -> int:
    """Kill what the child left running, in its group or in one of its own, and tell how many there were.

    Those that end by themselves, once they see that the child is gone, are not counted.
    """
    end = time.monotonic() + _ORPHAN_GRACE_S
    while (orphans := _children()) and time.monotonic() < end:
        time.sleep(0.01)
        for orphan in orphans:
            os.waitpid(orphan, os.WNOHANG)
    _kill(child)
    for orphan in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
        os.waitpid(orphan, 0)
    return len(orphans)


def _children() -> list[int]:
    """This process's children, orphans of its children among them; none where the system does not tell."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(number) for number in path.read_text().split()] if path.exists() else []


def _child(job: Job, writing: int, log: IO[bytes]) -> None:
    """Measure in a process group of its own and leave without returning to the server's loop."""
    code = 1
    try:
        os.setsid()
        die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        faulthandler.enable(file=sys.stderr, all_threads=False)
        _be_the_first_to_go()
        if not job.cell.device.startswith("cuda"):
            _limit_memory(job.limits)

        def progress(fraction: float, text: str) -> None:
            say(writing, {"progress": [fraction, text]})

        record = worker.measure(job, progress)
        say(writing, {"record": json.loads(to_json(record))})
        code = 0
    except BaseException as error:  # the process ends here: nothing may climb into the server's loop
        with contextlib.suppress(Exception):
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _limit_memory(limits: Limits) -> None:
    """Let private memory grow by the limit, from what this process has now: malloc then fails cleanly."""
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


def _adopt_orphans() -> None:
    """Have processes whose parent ended become children of this one, so that none is lost."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Be killed when the process that started this one ends, where the system can do that."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _be_the_first_to_go() -> None:
    """If the kernel runs out of memory, it is to kill the measured process and nothing else."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def _ending(status: int, max_rss_bytes: int, log: IO[bytes]) -> dict[str, Any]:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _LOG_TAIL_BYTES))
    return {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "max_rss_bytes": max_rss_bytes,
        "log": log.read().decode("utf-8", "replace"),
    }


def say(target: int, message: Any) -> None:
    """Write the message as one line of JSON to a file descriptor."""
    _write(target, json.dumps(message).encode() + b"\n")


def _write(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]


def main() -> None:
    """Serve on the process's own standard input and output, kept apart from what libraries print."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    answers = os.dup(1)
    os.dup2(2, 1)
    serve(0, answers)


if __name__ == "__main__":
    main()

"""The nursery: a process of the gate that has torch and effbench imported and forks its workers.

effbench/gate/workers.py starts it. It imports none of the code that is compared. Over its socket it takes
``{"fork": ROOT, "inside": FOLDER}`` with three descriptors (commands, answers, log) and answers the process
number of a worker forked for the code in ROOT, or ``{"wait": PID}`` and answers how that worker ended.
effbench itself is always the one that this file belongs to, so that the same code measures both sides; a
worker imports everything else from ROOT/FOLDER and ROOT first. Its commands and answers are JSON, one per
line. The end of its commands ends a worker; the end of the nursery ends them all.
"""

from __future__ import annotations

import gc
import mmap
import os
import random
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

import torch

from effbench.common.processes import Messages, die_with_parent, leave_after, send, stand_alone
from effbench.measured.side import Side
from effbench.measured.worker import import_for_backward

_END_S = 5.0  # for a process whose pipe closed to end


def main(descriptor: int) -> None:
    """Fork workers until the socket closes; ``descriptor`` is the socket's."""
    link = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(2, 1)  # for what a plug-in prints
    die_with_parent()
    import_for_backward()
    gc.collect()
    gc.freeze()  # a worker's collection then neither visits nor copies what torch imported
    send(descriptor, {"hello": torch.__version__})
    messages, descriptors = Messages(descriptor), []
    while True:
        data, received, _, _ = socket.recv_fds(link, 65536, 3)
        descriptors += received
        if not messages.add(data):
            return
        while messages.ready():
            message = messages.pop()
            if "wait" in message:
                send(descriptor, {"status": _ended(message["wait"])})
                continue
            root, inside = Path(message["fork"]), message["inside"]
            child = os.fork()
            if child == 0:
                link.close()
                leave_after(partial(_work, root, inside, *descriptors))
            for used in descriptors:
                os.close(used)
            descriptors = []
            send(descriptor, {"pid": child})


def _ended(child: int) -> int | None:
    """Return the exit code of a worker, negative for a signal; None if it still runs after some seconds."""
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def _work(root: Path, inside: str, commands: int, answers: int, log: int) -> None:
    """Answer commands for the code in ``root`` until they end; the last three are file descriptors."""
    stand_alone(log)
    kept = _draw_layout()
    for place in dict.fromkeys((root / "src", root, root / inside / "src", root / inside)):
        if place.is_dir():
            sys.path.insert(0, str(place))
    os.chdir(root)
    side = Side(root)
    send(answers, {"hello": os.getpid()})
    for name, arguments in Messages(commands):
        send(answers, getattr(side, name)(*arguments))
    del kept


def _draw_layout() -> list[object]:
    """Allocate memory of random sizes, to be kept: later allocations then lie elsewhere in every worker.

    Workers of one nursery have the libraries at the same addresses, so that these favour no side. The
    addresses of a mechanism's own data and code objects depend on all earlier allocations, and so on the text
    of the code: without this they would be the same in every round, for head and for base.
    """
    draw = random.SystemRandom()  # the other generators have the same state in every fork
    small = [bytearray(draw.randrange(1, 4096)) for _ in range(draw.randrange(64))]
    large = [bytearray(draw.randrange(1, 1 << 18)) for _ in range(4)]
    return [small, large, mmap.mmap(-1, mmap.PAGESIZE * draw.randrange(1, 256))]

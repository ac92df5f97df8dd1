"""The workers of the gate, and the nursery that forks them: one side's mechanisms, called on command.

It is run as a script, ``python side.py LINK``, LINK being the file descriptor of a socket. That process, the
nursery, imports torch and effbench and none of the code that is compared. It is sent ``{"fork": ROOT,
"inside": FOLDER}`` with three descriptors (commands, answers, log) and answers the number of a worker forked
for the code in ROOT, or ``{"wait": PID}`` and answers how it ended. effbench itself is always the one that
this file belongs to, so that both sides are measured by the same code; all else is imported from
ROOT/FOLDER and ROOT first. A worker's commands and answers are JSON, a line each; the end of commands ends
it, and the end of the nursery ends all its workers.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import mmap
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

_WARM_UP_S, _WARM_UP_CALLS = 0.05, 3
_END_S = 5.0  # for a process whose pipe closed to end


def main() -> None:
    """Fork workers until the link ends."""
    link = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(2, 1)  # what a plug-in prints
    _import_tool()
    import torch

    from effbench.measured.server import die_with_parent, say

    die_with_parent()
    gc.collect()
    gc.freeze()  # a worker's collection then need not look through, and so copy, all that torch imported
    say(link.fileno(), {"hello": torch.__version__})
    pending, descriptors = b"", []
    while True:
        data, received, _, _ = socket.recv_fds(link, 65536, 3)
        if not data:
            return
        pending += data
        descriptors += received
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            message = json.loads(line)
            if "wait" in message:
                say(link.fileno(), {"status": _ended(message["wait"])})
                continue
            child = os.fork()
            if child == 0:
                link.close()
                _be_worker(Path(message["fork"]), message["inside"], *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            descriptors = []
            say(link.fileno(), {"pid": child})


def _ended(child: int) -> int | None:
    """The exit code of a worker, negative the signal that ended it; None if it still runs."""
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def _be_worker(root: Path, inside: str, commands: int, answers: int, log: int) -> None:
    """Serve one side in a session of its own, and leave without returning to the nursery's loop."""
    from effbench.measured.server import die_with_parent

    code = 1
    try:
        os.setsid()
        die_with_parent()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        kept = _draw_layout()
        for place in dict.fromkeys((root / "src", root, root / inside / "src", root / inside)):
            if place.is_dir():
                sys.path.insert(0, str(place))
        os.chdir(root)
        _serve(Side(root), commands, answers)
        del kept
        code = 0
    except BaseException as error:  # the process ends here: nothing may climb into the nursery's loop
        with contextlib.suppress(Exception):
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _draw_layout() -> list[object]:
    """Memory of random size to be kept: what is allocated from now on lies elsewhere in every worker.

    Workers of one nursery have the libraries at the same addresses, so that these favour no side. Where a
    mechanism's own data and code objects come to lie depends on all that was allocated before them, and so
    on the text of the code: without this it would be the same in every round, for head and base each.
    """
    draw = random.SystemRandom()  # the state of others is the same in every fork
    small = [bytearray(draw.randrange(1, 4096)) for _ in range(draw.randrange(64))]
    large = [bytearray(draw.randrange(1, 1 << 18)) for _ in range(4)]
    return [small, large, mmap.mmap(-1, mmap.PAGESIZE * draw.randrange(1, 256))]


def _serve(side: Side, commands: int, answers: int) -> None:
    from effbench.measured.server import say

    say(answers, {"hello": os.getpid()})
    pending = b""
    while chunk := os.read(commands, 65536):
        pending += chunk
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            name, arguments = json.loads(line)
            say(answers, getattr(side, name)(*arguments))


def _import_tool() -> None:
    """Import all of effbench that measures, and leave its folder off the path: ROOT may hold another one."""
    home = str(Path(__file__).resolve().parents[2])
    sys.path.insert(0, home)
    import effbench.measured.worker  # noqa: F401

    sys.path.remove(home)


class Side:
    """What the other end can ask; every public method takes and returns plain data."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._calls: list[Callable[[], object]] = []
        self._threads: list[int] = []
        self._primed = False

    def parse(self, texts: list[str]) -> list[dict[str, Any]]:
        """For each mechanism its name, options and file, or the ``error`` with which it is refused.

        ``kind`` then says whose fault it is: ``absent`` (no such file, class or option), ``broken`` (there is
        one, and it is no mechanism) or ``usage`` (the text).
        """
        from effbench.common import registry
        from effbench.common.spec import UsageError

        found: list[dict[str, Any]] = []
        for text in texts:
            try:
                name, options = registry.parse(text, "mechanism")
                plugin = registry.find(name, "mechanism")
                if plugin.parameters is None and options:  # the source does not tell whether it has them
                    told = self._in_child(partial(_accepts, plugin, options))
                    if "error" in told:
                        found.append({"kind": "broken", **told})
                        continue
                found.append({"name": name, "options": options, "path": str(plugin.path.resolve())})
            except registry.Absent as error:
                found.append({"error": str(error), "kind": "absent"})
            except registry.Broken as error:
                found.append({"error": str(error), "kind": "broken"})
            except UsageError as error:
                found.append({"error": str(error), "kind": "usage"})
        return found

    def build(self, cells: list[dict[str, Any]], allocator: str, check: bool) -> list[str]:
        """Make what is timed in every cell; for each "" or why it cannot be. Their order numbers them."""
        from effbench.common import machine

        machine.set_allocator(allocator)  # type: ignore[arg-type]
        self._calls, self._threads = [], []
        return [self._build(cell, check) for cell in cells]

    def pin(self, core: int) -> bool:
        """Stay on one core from now on; False where the system has no such thing."""
        if not hasattr(os, "sched_setaffinity"):
            return False
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {core})
        return True

    def warm_up(self, index: int) -> dict[str, Any]:
        """Call it until it has run for a while; ``time_s`` of the last call, or the ``error``."""
        try:
            self._set_threads(index)
            spent, calls, last = 0.0, 0, 0.0
            while spent < _WARM_UP_S or calls < _WARM_UP_CALLS:
                last = self._block(index, 1)
                spent, calls = spent + last, calls + 1
        except Exception as error:
            return {"error": _reason(error)}
        return {"time_s": last}

    def call(self, index: int, untimed: int, calls: int) -> dict[str, Any]:
        """``untimed`` calls, then ``calls`` timed as one block: ``time_s`` a call, or the ``error``."""
        try:
            self._set_threads(index)
            if untimed:
                self._block(index, untimed)
            return {"time_s": self._block(index, calls)}
        except Exception as error:
            return {"error": _reason(error)}

    def figures(self, cell: dict[str, Any], other: str = "") -> dict[str, Any]:
        """The exact figures of one cell, numbers and ``ops`` by name; or its ``error``.

        ``foreign`` names the modules that it imported from the ``other`` side's folder, effbench's own apart.

        Taken in a child forked for it: the profiler remembers blocks of earlier calls and reports their sizes
        when others at the same places are freed, so that a process that has profiled one call cannot be
        trusted with the next one's peak. So this process runs no operation, and profiles nothing but nothing;
        the memory probe's test of itself, which is such a call, has a child of its own.
        """
        from effbench.measured.probes import profiler

        if not self._primed:
            profiler.record(lambda: None)  # a second of set-up that the children inherit
            self._primed = True
            tested = self._in_child(_self_test)
            if "error" in tested:
                return tested
        return self._in_child(lambda: {**_figures(cell), "foreign": self._foreign(other) if other else []})

    def _in_child(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``work`` returns in a forked process, or the ``error`` that ended it."""
        from effbench.measured.server import die_with_parent, say

        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(reading)
                die_with_parent()
                say(writing, work())
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading, "rb") as answer:
            said = answer.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return {"error": signal.Signals(os.WTERMSIG(status)).name}
        if not said:
            return {"error": f"its process left with exit code {os.WEXITSTATUS(status)}"}
        return dict(json.loads(said))

    def facts(self) -> dict[str, Any]:
        """The machine as it is now."""
        from effbench.measured import facts

        return facts.facts()

    def _foreign(self, other: str) -> list[str]:
        tool = Path(__file__).resolve().parents[1]
        found = []
        for name, module in sorted(sys.modules.items()):
            path = getattr(module, "__file__", None)
            if not isinstance(path, str) or name == "__main__":
                continue
            place = Path(path).resolve()
            if (
                place.is_relative_to(other)
                and not place.is_relative_to(tool)
                and not _within(place, self._root)
            ):
                found.append(name)
        return [name for name in found if "site-packages" not in str(sys.modules[name].__file__)]

    def _build(self, cell: dict[str, Any], check: bool) -> str:
        from effbench.common.spec import cell_from

        try:
            whole = cell_from(cell)
            self._calls.append(_callable(whole, check))
            self._threads.append(whole.threads)
        except Exception as error:
            self._calls.append(lambda: None)
            self._threads.append(1)
            return _reason(error)
        return ""

    def _set_threads(self, index: int) -> None:
        import torch

        if torch.get_num_threads() != self._threads[index]:
            torch.set_num_threads(self._threads[index])

    def _block(self, index: int, calls: int) -> float:
        """Seconds a call of one block, garbage collection off as it is in a time probe.

        With one thread, less the time for which it could have run and the system gave its core to others.
        """
        from effbench.measured.probes.time import waited_ns

        call = self._calls[index]
        waited = waited_ns if self._threads[index] == 1 else _nothing
        start = time.perf_counter_ns()
        before = waited()
        for _ in range(calls):
            call()
        others = waited() - before  # within start and stop, so that it is never more than they are apart
        return (time.perf_counter_ns() - start - others) / calls / 1e9


def _nothing() -> int:
    return 0


def _accepts(plugin: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing if the class, imported, takes those options; else what ``Side.parse`` says of a refusal."""
    from effbench.common import registry

    try:
        taken = inspect.signature(registry.load(plugin)).parameters.values()
    except registry.Absent as error:
        return {"error": str(error), "kind": "absent"}
    except Exception as error:
        return {"error": _reason(error), "kind": "broken"}
    known = [parameter.name for parameter in taken]
    lacking = [name for name in options if name not in known]
    if lacking and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
        said = registry.unknown(f"option of {plugin.name}", lacking[0], known, "its options")
        return {"error": said, "kind": "absent"}
    return {}


def _self_test() -> dict[str, Any]:
    from effbench.measured.probes import memory

    try:
        memory.self_test()
    except RuntimeError as error:
        return {"error": str(error)}
    return {}


def _figures(cell: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import replace

    from effbench.common.spec import Job, Limits, cell_from
    from effbench.measured.worker import measure

    whole = cell_from(cell)
    limits = Limits(timeout_s=0.0, memory_bytes=0)  # the other end watches
    found: dict[str, Any] = {}
    for probe, wanted in (("memory", ("peak_bytes", "saved_bytes", "parameters")), ("flops", ("flops",))):
        job = Job(cell=replace(whole, probe=probe, seconds=0.0, precision=0.0), limits=limits)  # type: ignore[arg-type]
        record = measure(job, lambda fraction, text: None, memory_tested=True)  # see Side.figures
        if record.status != "ok":
            return {"error": f"{record.status}: {record.reason}"}
        found |= {name: record.values[name] for name in wanted if record.values.get(name) is not None}
    try:
        found["ops"] = dict(_operations(_callable(whole, False)))
    except Exception as error:
        return {"error": _reason(error)}
    return found


def _callable(cell: Any, check: bool) -> Callable[[], object]:
    """Return what a time cell times, built and, with ``check``, checked as the worker does."""
    import gc

    import torch

    from effbench.measured.workload import build

    workload = build(cell)
    if check:
        workload.check()
    call = workload.call()
    gc.disable()
    if not cell.device.startswith("cuda"):
        return call

    def synchronous() -> None:
        call()
        torch.cuda.synchronize()

    return synchronous


def _operations(call: Callable[[], object]) -> Counter[str]:
    """How often one call, made after another, runs each of torch's operations."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # else torch imports its compiler, for seconds

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            seen[str(func)] += 1
            return func(*args, **(kwargs or {}))

    call()  # what a first call makes and keeps is not a call's own
    with Count():  # type: ignore[no-untyped-call]
        call()
    return seen


def _within(place: Path, root: Path) -> bool:
    return place.is_relative_to(root.resolve())


def _reason(error: BaseException) -> str:
    from effbench.common.blame import message
    from effbench.measured.worker import is_out_of_memory

    kind = "oom: " if is_out_of_memory(error) else f"{type(error).__name__}: "
    return kind + message(error)


if __name__ == "__main__":
    main()

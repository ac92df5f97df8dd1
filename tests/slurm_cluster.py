"""A real Slurm with three nodes on this machine, on the loopback interface, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

COMMANDS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "scontrol", "srun", "runuser")
INSTALL = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
NODES = ("n1", "n2", "n3")
_UP_S = 60.0


def missing() -> str:
    """Return why Slurm cannot start here, "" if it can."""
    if not sys.platform.startswith("linux"):
        return "Slurm runs on Linux"
    if absent := [name for name in COMMANDS if shutil.which(name) is None]:
        return f"{absent[0]} is not installed: {INSTALL}"
    if os.geteuid() != 0:
        return "Slurm's daemons are started as root"
    return ""


class Cluster:
    """slurmctld and three slurmd with two cores each; commands with ``environment`` use them."""

    def __init__(self, folder: Path, *, most_in_an_array: int = 1001, most_jobs: int = 10_000) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._host = socket.gethostname().split(".")[0]
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = _free_ports(1 + len(NODES))
        self._most_in_an_array, self._most_jobs = most_in_an_array, most_jobs

    def start(self) -> None:
        """Start munge, the controller and the nodes, and wait until all nodes are idle."""
        for name in ("state", "spool", "log"):
            (self.folder / name).mkdir(parents=True)
        self._start_munge()
        (self.folder / "slurm.conf").write_text(self._configuration())
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_for(lambda: self._states().count("idle") == len(NODES), "all nodes are idle")

    def stop(self) -> None:
        """End every daemon, and every process of a job."""
        for job in self.ask("squeue", "-h", "-o", "%A").split():
            self.ask("scancel", "--signal=KILL", "--full", job)
        for name in list(self._daemons):
            self.kill(name)
        # slurmstepd, which tries for ever to tell the controller that its job has ended, and munged
        own = _processes_with(f"SLURM_CONF={self.folder}/slurm.conf")
        for process in {*own, *_processes_of(str(self.folder))} - {os.getpid()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def start_controller(self) -> None:
        """Start slurmctld; it reads the state that an earlier one left."""
        self._start("slurmctld", ["slurmctld", "-D"])
        self.wait_for(lambda: self.ask("scontrol", "ping").count("UP") > 0, "the controller is up")

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        self._start(node, ["slurmd", "-D", "-N", node])

    def kill(self, name: str) -> None:
        """Kill a daemon (``slurmctld``, ``munged`` or a node), as a machine that fails would."""
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def fail_node(self, node: str) -> None:
        """Kill a node with all that its jobs run; Slurm's own processes first, so that none reports."""
        self.kill(node)
        tasks = _processes_with(f"SLURMD_NODENAME={node}", f"SLURM_CONF={self.folder}/slurm.conf")
        for process in [*_parents(tasks, "slurmstepd"), *tasks]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def ask(self, *command: str) -> str:
        """Return what a command of Slurm prints, "" if it fails."""
        answer = subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False)
        return answer.stdout if answer.returncode == 0 else ""

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = _UP_S) -> None:
        """Wait until the condition is true. Raises TimeoutError with the end of the controller's log."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                log = self.folder / "log" / "slurmctld"
                last = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
                raise TimeoutError(f"Slurm: not after {seconds:g} s: {what}\n{last}")
            time.sleep(0.1)

    def _states(self) -> list[str]:
        return self.ask("sinfo", "-h", "-N", "-o", "%t").split()

    def _start(self, name: str, command: list[str]) -> None:
        with (self.folder / "log" / name).open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment,
                start_new_session=True,
            )  # fmt: skip

    def _start_munge(self) -> None:
        home = self.folder / "munge"
        home.mkdir()
        os.chmod(self.folder, 0o755)
        shutil.chown(home, "munge", "munge")
        key = home / "key"
        key.write_bytes(os.urandom(128))
        shutil.chown(key, "munge", "munge")
        key.chmod(0o400)
        places = [f"--{name}={home / file}" for name, file in (
            ("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("seed-file", "seed"),
            ("log-file", "log"),
        )]  # fmt: skip
        self._start("munged", ["runuser", "-u", "munge", "--", "munged", "--foreground", *places])
        self.wait_for((home / "socket").exists, "munge is up")

    def _configuration(self) -> str:
        port, *ports = self._ports
        lines = [
            "ClusterName=effbench",
            f"SlurmctldHost={self._host}(127.0.0.1)",
            f"SlurmctldPort={port}",
            "AuthType=auth/munge",
            f"AuthInfo=socket={self.folder}/munge/socket,cred_expire=5",
            "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",
            "SlurmUser=root",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/spool/%n",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/slurmd.%n.pid",
            f"SlurmctldLogFile={self.folder}/log/slurmctld",
            f"SlurmdLogFile={self.folder}/log/slurmd.%n",
            "SlurmdParameters=config_overrides",
            "ReturnToService=2",
            "MpiDefault=none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core_Memory",
            "SlurmdTimeout=10",
            "KillWait=5",
            "SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1",
            f"MaxArraySize={self._most_in_an_array}",
            f"MaxJobCount={self._most_jobs}",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/linux",
            "JobAcctGatherFrequency=task=1",
            "JobAcctGatherParams=OverMemoryKill",
        ]
        for node, own in zip(NODES, ports, strict=True):
            lines.append(
                f"NodeName={node} NodeHostname={self._host} NodeAddr=127.0.0.1 Port={own} "
                "CPUs=2 RealMemory=20000"
            )
        lines.append("PartitionName=debug Nodes=ALL Default=YES MaxTime=600 State=UP OverSubscribe=NO")
        return "\n".join(lines) + "\n"


@contextlib.contextmanager
def running(folder: Path, **more: int) -> Iterator[Cluster]:
    """Yield a cluster that is up, and end it."""
    cluster = Cluster(folder, **more)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _processes_of(text: str) -> list[int]:
    """Return the processes whose command has a text, without this one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def _processes_with(*settings: str) -> list[int]:
    """Return the processes whose environment has all of these settings."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            own = (entry / "environ").read_bytes().split(b"\0")
            if all(setting.encode() in own for setting in settings):
                found.append(int(entry.name))
    return found


def _parents(processes: Iterable[int], command: str) -> set[int]:
    """Return the parents of processes that run a command of this name."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
            if Path(f"/proc/{parent}/comm").read_text().startswith(command):
                found.add(parent)
    return found

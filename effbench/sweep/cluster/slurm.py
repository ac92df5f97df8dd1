"""Slurm's commands: sbatch through submitit, squeue (what is alive), scontrol (why a job ended), scancel."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.common.exits import Fault
from effbench.common.spec import UsageError
from effbench.common.wording import one_line
from effbench.sweep.cluster.bundles import Need
from effbench.sweep.cluster.job_request import Request
from effbench.sweep.cluster.ledger import PREFIX

INSTALL = "pip install 'effbench[slurm]'"
_TIMEOUT_S = 120.0
_ARRAY = 1001  # Slurm's own default of MaxArraySize
_MOST_IN_AN_ARRAY = 1000
# What sbatch says when it may accept the same submission later.
_LATER = re.compile(
    r"Max(Submit|Job)|JobLimit|job submit limit|temporarily|timed out|Unable to contact|Connection refused|"
    r"try again|slurmctld|Socket",
    re.IGNORECASE,
)


class Busy(Exception):
    """Slurm does not take a submission now, but may later; the text is Slurm's own."""


@dataclass(frozen=True, kw_only=True)
class Queued:
    """A job in the queue: its number, name, state (``PENDING``, ``RUNNING`` ...), nodes, and why it waits."""

    job: str
    name: str
    state: str
    nodes: str
    reason: str


def require() -> None:
    """Raise UsageError if submitit or Slurm's commands are missing."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UsageError(f"the executor slurm needs the package submitit: {INSTALL}") from None
    for command in ("sbatch", "squeue", "scancel", "scontrol", "srun"):
        if shutil.which(command) is None:
            raise UsageError(
                f"the executor slurm needs Slurm's command {command}, which is not on this machine"
            )


def submit(
    folder: Path, name: str, need: Need, request: Request, most_jobs: int, calls: Sequence[tuple[Any, ...]]
) -> str:
    """Submit an array of jobs, each a function with its arguments, and return the array's number.

    Raises Busy if Slurm may take it later, and UsageError with Slurm's message if it refuses it.
    """
    import submitit

    logging.getLogger("submitit").setLevel(logging.CRITICAL)
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=0)
    wanted: dict[str, Any] = {
        "job_name": name,
        "time": need.minutes,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": need.cores,
        "mem": f"{math.ceil(need.memory_bytes / 2**20)}M",
        "use_srun": False,  # srun would start a measurement that has its node alone more than once
        "stderr_to_stdout": True,
        "array_parallelism": most_jobs,
        "signal_delay_s": 5,
    }
    if need.exclusive:
        wanted["exclusive"] = True
    if need.gpus:
        wanted["gres"] = ":".join(filter(None, ("gpu", request.gpu, str(need.gpus))))
    for option in ("account", "partition", "qos", "constraint"):
        if value := getattr(request, option):
            wanted[option] = value
    executor.update_parameters(**wanted, additional_parameters={"requeue": True, **request.extra})
    try:
        with executor.batch():
            jobs = [executor.submit(call[0], *call[1:]) for call in calls]
        return str(jobs[0].job_id).partition("_")[0]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        text = one_line(_sbatch_says(str(error)), 300)
        if _LATER.search(text):
            raise Busy(text) from None
        raise UsageError(f"Slurm refuses the job: {text}") from None


def queue() -> dict[str, Queued] | None:
    """Return effbench's jobs of this user in the queue, by number; None if squeue does not answer."""
    form = "%i|%j|%T|%N|%r"
    answer = _ask(["squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", form])
    if answer is None:
        return None
    found = {}
    for line in answer.splitlines():
        job, name, state, nodes, reason = (line.split("|", 4) + [""] * 5)[:5]
        if name.startswith(PREFIX):
            found[job] = Queued(job=job, name=name, state=state, nodes=nodes, reason=reason)
    return found


def left_s(job: str) -> float | None:
    """Return the seconds to the time limit of a running job; None if squeue does not tell."""
    answer = _ask(["squeue", "--noheader", "--array", "--jobs", job, "--format", "%L"]) or ""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", answer.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((24.0 * days + hours) * 60 + minutes) * 60 + seconds


def ending(job: str) -> str:
    """Return how a job ended, in Slurm's words: ``TIMEOUT on n2 (TimeLimit)``; "" if Slurm forgot it."""
    answer = _ask(["scontrol", "--oneliner", "show", "job", job]) or ""
    facts = dict(re.findall(r"(JobState|Reason|NodeList|ExitCode)=(\S+)", answer))
    if not facts.get("JobState"):
        return ""
    where = f" on {facts['NodeList']}" if facts.get("NodeList", "(null)") != "(null)" else ""
    details = [facts[k] for k in ("Reason", "ExitCode") if facts.get(k) not in (None, "None", "0:0")]
    why = f" ({', '.join(details)})" if details else ""
    return f"{facts['JobState']}{where}{why}"


def cancel(jobs: Iterable[str]) -> None:
    """End jobs. Raises Fault if Slurm does not answer; a job that has ended already is no error."""
    wanted = list(jobs)
    if wanted and _ask(["scancel", "--quiet", *wanted]) is None:
        raise Fault("scancel failed: Slurm does not answer; try again")


def requeue(job: str) -> bool:
    """Put a running job back into the queue; False if Slurm does not do it."""
    return _ask(["scontrol", "requeue", job]) is not None


def most_in_an_array() -> int:
    """Return the most jobs that one array may have on this cluster."""
    answer = _ask(["scontrol", "show", "config"]) or ""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", answer)
    return max(1, min(_MOST_IN_AN_ARRAY, int(found[1] if found else _ARRAY) - 1))


def _ask(command: list[str]) -> str | None:
    """Return what a command of Slurm prints; None if it fails or does not answer in two minutes."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None


def _sbatch_says(text: str) -> str:
    """Return the lines of sbatch in the message of submitit."""
    lines = [line.strip() for line in text.splitlines() if "error:" in line]
    return "; ".join(line.split("error:", 1)[1].strip() for line in lines) or text

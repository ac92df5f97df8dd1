"""Slurm's commands: sbatch through submitit, squeue (what is alive), scontrol (why a job ended), scancel."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effbench.common.exits import Fault
from effbench.common.files import why
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
    r"job submit limit|temporarily|queue full|Unable to contact|Connection refused|try again", re.IGNORECASE
)
# The limit of an account or a QOS, which sbatch names before it says that the job violates a policy.
_LIMIT = re.compile(r"\b(?:Assoc|QOS)\w+")
# What sbatch says when it sent the submission and got no answer.
_NO_ANSWER = re.compile(
    r"timed out|zero bytes|send/recv|message (send|receive)|unexpected message|end of file", re.IGNORECASE
)
_ORDERS = ("[0-9a-f]" * 32 + ".pkl", ".submission_file_*.sh")  # submitit's files before sbatch has a number


class Busy(Exception):
    """Slurm does not take a submission now, but may later; the text is Slurm's own."""


class Unanswered(Exception):
    """Slurm's answer to a submission was lost: the jobs may be in the queue or not."""


@dataclass(frozen=True, kw_only=True)
class Queued:
    """A job in the queue: its number, name, state (``PENDING``, ``RUNNING`` ...), nodes, and why it waits.

    ``why`` is Slurm's word, "" if it names none.
    """

    job: str
    name: str
    state: str
    nodes: str
    why: str

    @property
    def number(self) -> str:
        """Return the number of the job, or of the whole array that it belongs to."""
        return self.job.partition("_")[0]


def require() -> None:
    """Raise UsageError if submitit or Slurm's commands are missing."""
    _submitit()
    for command in ("sbatch", "squeue", "scancel", "scontrol", "srun"):
        if shutil.which(command) is None:
            raise UsageError(
                f"the executor slurm needs Slurm's command {command}, which is not on this machine"
            )


def _submitit() -> Any:
    """Import submitit without its set-up of logging, which closes the handlers that a program has already.

    Raises UsageError if it is missing.
    """
    name = "SUBMITIT_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ[name] = "NOCONFIG"
    try:
        import submitit
    except ImportError:
        raise UsageError(f"the executor slurm needs the package submitit: {INSTALL}") from None
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
    return submitit


def submit(
    folder: Path, name: str, need: Need, request: Request, most_jobs: int, calls: Sequence[tuple[Any, ...]]
) -> str:
    """Submit an array of jobs, each a function with its arguments, and return the array's number.

    Raises Busy if Slurm may take it later, Unanswered if nobody knows whether it did, UsageError with Slurm's
    message if it refuses it, and Fault if the disk is full.
    """
    submitit = _submitit()
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
        # submitit prints what sbatch prints; the exception has it too
        with _outside_a_job(), contextlib.redirect_stderr(io.StringIO()), executor.batch():
            jobs = [executor.submit(call[0], *call[1:]) for call in calls]
        return str(jobs[0].job_id).partition("_")[0]
    except submitit.core.utils.FailedSubmissionError as error:
        raise Unanswered(one_line(str(error), 300)) from None
    except submitit.core.utils.FailedJobError as error:
        text = one_line(_sbatch_says(str(error)), 300)
        if not text or _NO_ANSWER.search(text):
            raise Unanswered(text or "sbatch was killed") from None
        if _may_be_taken_later(text):
            raise Busy(text) from None
        raise UsageError(f"Slurm refuses the job: {text}") from None
    except OSError as error:
        raise Fault(f"cannot write the orders of jobs into {folder}: {why(error)}") from error
    finally:
        for pattern in _ORDERS:
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)


def has_orders(folder: Path, jobs: Iterable[str]) -> bool:
    """True if the order of each of these jobs is in the folder; submitit puts it there after sbatch."""
    return all((folder / f"{job}_submitted.pkl").exists() for job in jobs)


@contextlib.contextmanager
def _outside_a_job() -> Iterator[None]:
    """Hide that this process runs in a Slurm job itself: a new job would inherit the old one's numbers."""
    hidden = {name: os.environ.pop(name) for name in tuple(os.environ) if name.startswith("SLURM_")}
    if conf := hidden.get("SLURM_CONF"):
        os.environ["SLURM_CONF"] = conf
    try:
        yield
    finally:
        os.environ.update(hidden)


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
            why = "" if reason == "None" else reason
            found[job] = Queued(job=job, name=name, state=state, nodes=nodes, why=why)
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


def _may_be_taken_later(text: str) -> bool:
    limit = _LIMIT.search(text)
    return "Submit" in limit[0] if limit else bool(_LATER.search(text))


def _sbatch_says(text: str) -> str:
    """Return the lines of sbatch in the message of submitit."""
    lines = [line.strip() for line in text.splitlines() if "error:" in line]
    return "; ".join(line.split("error:", 1)[1].strip() for line in lines) or text

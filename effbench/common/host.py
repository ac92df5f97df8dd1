"""Where a record is measured: the host, and the job of a Slurm cluster. Standard library only."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

from effbench.common import machine


def facts() -> dict[str, str]:
    """Return ``host`` and, inside a Slurm job, ``slurm_job`` and ``slurm_cluster``.

    The job of an array task is ``1234_5``: the array's number and the task's.
    """
    known = {"host": os.environ.get("SLURMD_NODENAME") or platform.node()}
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if job := f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID"):
        known["slurm_job"] = job
        if cluster := os.environ.get("SLURM_CLUSTER_NAME"):
            known["slurm_cluster"] = cluster
    return {name: text for name, text in known.items() if text}


def identity() -> dict[str, str]:
    """Return the facts of a record that was not measured: the machine's name, and where it was made."""
    return {"name": machine.name(), **facts()}


def host_of(known: Mapping[str, Any]) -> str:
    """Return the host in a machine's facts, "" if they have none; two clusters may have nodes of one name."""
    host, cluster = known.get("host") or "", known.get("slurm_cluster")
    return f"{cluster}/{host}" if host and cluster else str(host)

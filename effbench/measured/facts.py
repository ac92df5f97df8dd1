"""The facts of the machine that a record keeps; they are taken in the measured process."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from effbench.common import machine


def facts() -> dict[str, Any]:
    """Return the facts of the machine as it is now. Call it in the measured process."""
    known: dict[str, Any] = {
        "name": machine.name(),
        "processor": machine.processor(),
        "cores": machine.cores(),
        "machine_cores": os.cpu_count(),
        "memory_bytes": machine.total_memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "thread_waiting": machine.thread_waiting(),
        "affinity": machine.affinity(),
        "cpu_quota_cores": machine.cpu_quota_cores(),
        "load_1min": machine.load_1min(),
    }
    if torch.cuda.is_initialized():
        known["gpu"] = torch.cuda.get_device_name()
    return known

"""The facts of the machine that a record keeps; they are taken in the measured process."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch

from effbench.common import host, machine
from effbench.measured.gpu import Nvml


def _gpu_facts(device: torch.device) -> dict[str, Any]:
    """Return the card's name, memory, capability, and the versions of CUDA, Triton and the driver."""
    properties = torch.cuda.get_device_properties(device)
    card = Nvml.of(device)
    return {
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "gpu_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "triton": version("triton") if find_spec("triton") else None,
        "gpu_driver": None if card is None else card.driver(),
    }


def facts() -> dict[str, Any]:
    """Return the facts of the machine as it is now. Call it in the measured process."""
    known: dict[str, Any] = {
        **host.identity(),
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
        known |= _gpu_facts(torch.device("cuda", torch.cuda.current_device()))
    return known

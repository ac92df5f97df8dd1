"""Alias of ``effbench.Mechanism`` and ``effbench.Unsupported``, for plug-ins that import them from here."""

from effbench.measured.mechanism import Mechanism, Unsupported

__all__ = ["Mechanism", "Unsupported"]

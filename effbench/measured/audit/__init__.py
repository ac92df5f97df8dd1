"""Check that a mechanism is what it says it is: the public conformance suite.

``conformance`` runs the checks. Each family of laws has a file: ``function_laws``, ``number_laws``,
``state_laws``, ``option_laws``, ``cost_laws``. ``subject`` makes what they look at, ``agreement`` compares.
"""

from __future__ import annotations

from effbench.measured.audit.conformance import CHECKS, Finding, assert_conforms, audit, audit_probe

__all__ = ["CHECKS", "Finding", "assert_conforms", "audit", "audit_probe"]

"""The targets of ``effbench export``: what each one writes, the package that it needs, and where it lives."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import util
from typing import Literal

from effbench.common.spec import UsageError


@dataclass(frozen=True, kw_only=True)
class Target:
    """A form that results can be exported in.

    ``function`` is a module of this folder and a function in it, which gets a Selection. That of a ``text``
    or ``binary`` target returns the bytes of one file. That of a ``place`` gets ``--out`` too (None if it is
    not given), writes there itself and returns a sentence about what it wrote. ``module`` must be there, or
    else ``extra`` must be installed. ``options`` are those that only some targets take.
    """

    function: str
    kind: Literal["text", "binary", "place"]
    module: str = ""
    extra: str = ""
    options: tuple[str, ...] = ()


HOME = "effbench.show.export"
# A new target is a file and an entry here.
TARGETS = {
    "mlflow": Target(function="mlflow_runs:export", kind="place", module="mlflow", extra="mlflow"),
    "wandb-offline": Target(function="wandb_runs:export", kind="place", module="wandb", extra="wandb"),
    "csv": Target(function="row_files:csv", kind="text", options=("raw",)),
    "parquet": Target(function="row_files:parquet", kind="binary", options=("raw",)),
    "openmetrics": Target(
        function="openmetrics:text", kind="text", module="prometheus_client", extra="openmetrics"
    ),
    "badge": Target(function="badge:svg", kind="text", module="anybadge", extra="badge", options=("column",)),
    "json": Target(function="page_json:text", kind="text"),
}


def require(module: str, extra: str) -> None:
    """Raise UsageError that says what to install if a module is not there."""
    spec = util.find_spec(module)
    if spec is None or spec.origin is None:  # a folder of this name, such as W&B's own, is no package
        raise UsageError(
            f"this export needs the package {module.replace('_', '-')}: pip install 'effbench[{extra}]'"
        )

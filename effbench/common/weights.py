"""Files of trained weights (safetensors): where a run keeps them, and what their header says."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from effbench.common import files
from effbench.common.spec import Cell, UsageError
from effbench.common.wording import shown

SUFFIX = ".safetensors"
INSTALL = "pip install 'effbench[pretrain]'"
BYTE_PAIRS = "byte_pairs"  # the tokeniser of a language model, in the JSON of the tokenizers library

_FORMAT = "effbench-weights-1"
_SHAPE = ("d_model", "heads", "layers")


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """The header of a file of weights: the model that was trained, and the texts that were kept with it.

    ``mechanism`` and ``task`` are as a user writes them; ``digest`` is of the whole file.
    """

    path: Path
    digest: str
    mechanism: str
    task: str
    seq_len: int
    shape: Mapping[str, int]
    kept: Mapping[str, str]

    def require_fit(self, cell: Cell) -> None:
        """Raise UsageError unless the cell's model has the file's mechanism and shape, and no longer rows."""
        for name, own, there in (
            ("mechanism", cell.label, self.mechanism),
            *((name, getattr(cell, name), self.shape[name]) for name in _SHAPE),
        ):
            if own != there:
                raise UsageError(f"{self.path}: its weights are of {name} {there}, not {own}")
        if cell.seq_len > self.seq_len:
            raise UsageError(
                f"{self.path}: its weights are of at most seq_len {self.seq_len}, less than {cell.seq_len}"
            )


def require_library(what: str) -> None:
    """Raise UsageError that says what to install if safetensors is missing; ``what`` needs it."""
    if importlib.util.find_spec("safetensors") is None:
        raise UsageError(f"{what} needs the package safetensors: {INSTALL}")


def header(cell: Cell, kept: Mapping[str, str]) -> dict[str, str]:
    """Return the header of a file of the cell's weights."""
    facts = {"mechanism": cell.label, "task": cell.task_label, "seq_len": str(cell.seq_len)}
    shape = {name: str(getattr(cell, name)) for name in _SHAPE}
    seeds = {"seed": str(cell.seed), "repeat": str(cell.repeat)}
    return {"format": _FORMAT, **facts, **shape, **seeds, **kept}


def read_header(path: Path) -> WeightsFile:
    """Read the header of a file.

    Raises UsageError for a file that is not there, is damaged, or was not written by effbench.
    """
    require_library(f"reading {path}")
    from safetensors import SafetensorError, safe_open

    if not files.is_file(path):
        raise UsageError(f"{path}: there is no such file of weights")
    try:
        with safe_open(path, framework="numpy") as opened:
            found = dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as safetensors: {error}") from None
    try:
        if found.pop("format") != _FORMAT:
            raise KeyError("format")
        return WeightsFile(
            path=path,
            digest=files.digest(path).hex()[:16],
            mechanism=found.pop("mechanism"),
            task=found.pop("task"),
            seq_len=int(found.pop("seq_len")),
            shape={name: int(found.pop(name)) for name in _SHAPE},
            kept=found,
        )
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"{path}: effbench did not write these weights: the header lacks a sound {shown(error.args[0])}"
        ) from None

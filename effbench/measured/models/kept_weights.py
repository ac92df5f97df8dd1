"""Trained weights in a file: written after a training, and read as the beginning of another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from effbench.common.files import replacing
from effbench.common.spec import UsageError

EMBEDDING = ("tokens.", "positions.", "encoder.")  # what a classifier shares with a language model


def write_weights(path: Path, model: nn.Module, header: Mapping[str, str]) -> None:
    """Write the model's state_dict and the header; the file is complete or not there."""
    from safetensors.torch import save

    # copies: layers may share a tensor, which the format does not have
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(save(tensors, metadata=dict(header)))


def begin_with(model: nn.Module, path: Path, parts: tuple[str, ...] = EMBEDDING) -> None:
    """Copy the file's tensors whose names begin with one of ``parts`` into the model.

    Raises UsageError unless the file has exactly those that the model has there, with the same shapes.
    """
    from safetensors.torch import load_file

    def of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in tensors.items() if name.startswith(parts)}

    own, kept = of(model.state_dict()), of(load_file(path))
    for name in sorted(own.keys() | kept.keys()):
        mine, theirs = (_shape(tensors, name) for tensors in (own, kept))
        if mine != theirs:
            raise UsageError(f"{path}: its {name} is {theirs}, that of the model is {mine}")
    with torch.no_grad():
        for name, value in kept.items():
            own[name].copy_(value)


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return str(list(tensors[name].shape)) if name in tensors else "missing"

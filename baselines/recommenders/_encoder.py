"""A pre-trained encoder of a local folder: the states of its lowest layers, kept, and the layers above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effbench import Titles, Unsupported

PIECES = 2**13  # that the lowest layers read at a time
TRIED = 4  # titles for which the divided encoder is compared with the whole one


class KeptStates(Titles):
    """rows [n] -> the states that the lowest layers made of their titles [n, T, width], mask [n, T].

    ``states`` [all pieces, width] of all titles, one after the other, ``lengths`` [n_news] pieces each. They
    are no part of the state_dict: they follow from the folder of the encoder.
    """

    states: Tensor
    starts: Tensor
    counts: Tensor

    def __init__(self, states: Tensor, lengths: Sequence[int]) -> None:
        counts = torch.tensor(lengths, dtype=torch.int64)
        super().__init__(counts.numpy())
        for name, tensor in (("states", states), ("starts", counts.cumsum(0) - counts), ("counts", counts)):
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return the states [n, length, width] of rows [n], and their mask [n, length]."""
        places = torch.arange(length, device=rows.device)
        mask = places < self.counts[rows][:, None]
        return self.states[(self.starts[rows][:, None] + places).clamp(max=len(self.states) - 1)], mask


class UpperLayers(nn.Module):
    """states [n, N, width], mask [n, N] -> the states after the layers that are left of an encoder."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Apply the layers to states [n, N, width]; mask [n, N] is True for a real piece."""
        out: Tensor = self.encoder(inputs_embeds=states, attention_mask=mask.long()).last_hidden_state
        return out


class _Given(nn.Module):
    """Stands for an encoder's embeddings if its input is past them: returns ``inputs_embeds``."""

    def forward(self, *args: Tensor | None, inputs_embeds: Tensor | None = None, **more: object) -> Tensor:
        return next(x for x in (inputs_embeds, *args) if x is not None)


def divided(
    folder: str, titles: Sequence[str], *, layer: int, tuned: int, pieces: int
) -> tuple[KeptStates, UpperLayers, int]:
    """Return the states below the last ``tuned`` of ``layer`` layers for all titles, these layers, width.

    ``folder`` holds an encoder and its tokenizer as transformers saves them; a title is cut to ``pieces``.
    ``layer`` 0 stands for two thirds of the encoder's layers. The kept states are computed without dropout,
    and take 4 bytes x width for each piece. Raises Unsupported if there is no such encoder in the folder or
    if it cannot be divided, ValueError for a wrong number.
    """
    tokenizer, encoder = _loaded(folder)
    layers = _layers(encoder, folder)
    layer = layer or max(1, round(2 * len(layers) / 3))
    if not 1 <= layer <= len(layers):
        raise ValueError(f"layer must be from 1 to {len(layers)}, the layers of {folder}, got {layer}")
    if not 0 <= tuned <= layer:
        raise ValueError(f"tuned must be from 0 to {layer}, the layers in use, got {tuned}")
    if pieces < 3:
        raise ValueError(f"pieces must be at least 3, got {pieces}")
    ids = tokenizer(list(titles), truncation=True, max_length=pieces)["input_ids"]
    if not all(ids):
        raise Unsupported(f"{folder}: its tokenizer makes no piece of a title")
    tried = sorted(range(len(ids)), key=lambda row: -len(ids[row]))[:TRIED]
    whole = _after_layer(encoder, layers[layer - 1], [ids[row] for row in tried])
    upper = layers[layer - tuned : layer]
    del layers[layer - tuned :]
    kept = KeptStates(_states(encoder, ids), [len(row) for row in ids])
    del layers[:]
    layers.extend(upper)
    encoder.embeddings = _Given()
    encoder.requires_grad_(False)
    layers.requires_grad_(True)
    above = UpperLayers(encoder)
    rows = torch.tensor(tried)
    with torch.no_grad():
        states, mask = kept(rows, whole.shape[1])
        parts = above(states, mask).masked_fill(~mask[..., None], 0.0)
    if not torch.allclose(parts, whole, rtol=1e-3, atol=1e-3):
        raise Unsupported(f"{folder}: the layers of {type(encoder).__name__} cannot be run apart")
    return kept, above, int(whole.shape[-1])


def _loaded(folder: str) -> tuple[Any, Any]:
    """Return the tokenizer and the encoder of a folder, in evaluation mode and float32."""
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise Unsupported(f"{folder}: there is no folder of a transformers model (with config.json) here")
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        encoder, report = AutoModel.from_pretrained(
            path, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # the library has no common class of errors
        raise Unsupported(f"{folder}: {type(error).__name__}: {error}") from None
    # files without a vocabulary make a tokenizer of special tokens only
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise Unsupported(f"{folder}: its tokenizer has no vocabulary")
    encoder.pooler = None
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise Unsupported(f"{folder}: its weights lack {missing[0]} (and {len(missing) - 1} more)")
    return tokenizer, encoder.eval()


def _layers(encoder: Any, folder: str) -> nn.ModuleList:
    """Return the one list of all layers of the encoder."""
    count = getattr(encoder.config, "num_hidden_layers", None)
    lists = [m for m in encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(lists) != 1 or not isinstance(getattr(encoder, "embeddings", None), nn.Module):
        raise Unsupported(f"{folder}: a {type(encoder).__name__} is no encoder of embeddings and layers")
    return lists[0]


def _padded(ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return pieces and mask, [n, longest] each; padding names piece 0."""
    mask = torch.arange(max(map(len, ids))) < torch.tensor([len(row) for row in ids])[:, None]
    pieces = torch.zeros(mask.shape, dtype=torch.int64)
    pieces[mask] = torch.tensor([piece for row in ids for piece in row])
    return pieces, mask


@torch.no_grad()
def _after_layer(encoder: nn.Module, layer: nn.Module, ids: Sequence[Sequence[int]]) -> Tensor:
    """Return what the layer makes of titles in the whole encoder, 0 at padding: [n, N, width]."""
    seen: list[Any] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    pieces, mask = _padded(ids)
    try:
        encoder(input_ids=pieces, attention_mask=mask.long())
    finally:
        hook.remove()
    states: Tensor = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    return states.masked_fill(~mask[..., None], 0.0)


@torch.no_grad()
def _states(encoder: nn.Module, ids: Sequence[Sequence[int]]) -> Tensor:
    """Return the last states of the encoder for all pieces of all titles: [pieces, width]."""
    lengths = np.array([len(row) for row in ids])
    starts = np.cumsum(lengths) - lengths
    order = np.argsort(lengths, kind="stable")
    states: Tensor | None = None
    at_once = max(1, PIECES // int(lengths.max()))
    for part in np.array_split(order, -(-len(order) // at_once)):
        pieces, mask = _padded([ids[row] for row in part])
        out = encoder(input_ids=pieces, attention_mask=mask.long()).last_hidden_state
        if states is None:
            states = torch.empty(int(lengths.sum()), out.shape[-1])
        places = torch.from_numpy(starts[part])[:, None] + torch.arange(mask.shape[1])
        states[places[mask]] = out[mask]
    assert states is not None
    return states

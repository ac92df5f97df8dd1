"""The laws of an encoder and decoder, tested on two rows before it is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from effbench.measured.models.seq2seq import Seq2Seq
from effbench.measured.probes.correctness import agree

_STEPS = 8


@torch.no_grad()
def check_generation(model: Seq2Seq, source: Tensor, target: Tensor) -> None:
    """Raise Incorrect if steps do not give the logits of the forward pass; the model is in evaluation mode.

    source is [2, N] and target [2, T]; of the target, up to 8 tokens are read. Half of the second source is
    taken for padding. Beams are tested too: from the second token on each source has two hypotheses, which
    change places after each step.
    """
    source, target = source[:2], target[:2, :_STEPS]
    mask = torch.ones_like(source, dtype=torch.bool)
    mask[1, (source.shape[1] + 1) // 2 :] = False
    other = target.clone()
    other[:, 1:] = target.flip(0)[:, 1:]  # a second hypothesis of each source
    logits, state = model.step(target[:, 0], model.start(source, mask))
    found = {"the logits after 1 token": logits}
    wanted = {"the logits after 1 token": model(source, mask, target)[:, 0]}
    rows = torch.arange(2, device=source.device)
    texts = torch.stack([target, other], dim=1)  # [2, 2, T]
    state = model.reorder(state, rows[:, None].expand(2, 2))
    expected = torch.stack([model(source, mask, texts[:, k]) for k in (0, 1)], dim=1)
    for read in range(1, target.shape[1]):
        logits, state = model.step(texts[:, :, read].flatten(), state)
        name = f"the logits after {read + 1} tokens"
        found[name], wanted[name] = logits, expected[:, :, read].flatten(0, 1)
        state = model.reorder(state, torch.tensor([[1, 0], [3, 2]], device=source.device))
        texts, expected = texts.flip(1), expected.flip(1)
    agree(found, wanted, "of generation differ from those of the forward pass")

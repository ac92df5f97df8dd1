"""Pointwise: a recommender's scores as the log odds of a click."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from effbench.measured.recommender import Recommender


class Pointwise(nn.Module):
    """log odds of a click = exp(log_scale) * score + bias, with two learned numbers.

    The bias begins at the log odds of ``rate``, the share of the training candidates that were clicked, and
    the log of the scale at 0.
    """

    def __init__(self, recommender: Recommender, rate: float) -> None:
        super().__init__()
        self.recommender = recommender
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.tensor(math.log(rate / (1 - rate))))

    def log_odds(self, scores: Tensor) -> Tensor:
        """Return the log odds of a click for scores of any shape."""
        return self.log_scale.exp() * scores.float() + self.bias

    def forward(self, history_rows: Tensor, mask: Tensor, candidate_rows: Tensor) -> Tensor:
        """Return the log odds of candidates [B, C] for histories [B, H]; see ``Recommender.forward``."""
        return self.log_odds(self.recommender(history_rows, mask, candidate_rows))

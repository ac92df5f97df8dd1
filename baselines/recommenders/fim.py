"""FIM: dilated convolutions over words, matched segment by segment with every title of the history."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effbench import News, Recommender, TitleWords

KERNEL = 3
DILATIONS = (1, 2, 3)
CHANNELS = (32, 16)  # of the two 3-D convolutions
# Numbers of the first 3-D convolution's output that are computed at a time, over all pairs of a part.
PART = 2**25


class FIM(Recommender):
    """Words of a candidate matched with the words of every click, at several widths of context.

    Each title has features d_0 ... d_3 of its words: d_0 are their vectors, and for l = 1, 2, 3::

        d_l = relu(norm(convolution_l(d_{l-1})))

    with kernel 3, dilation l and ``filters`` features.

    A candidate and click h have a matrix of products at each level: M[l, h, i, j] = d_l,i . d_l,j over the
    root of the level's width. The matrices of the whole history are a volume [4, history, title, title]. Two
    3-D convolutions with kernels of 3 and 32 and 16 channels, each with relu and a maximum over 3 x 3 x 3
    places after it, and a linear map make a score of it. There is no vector of a user.

    Only a summary of the paper was at hand, and public versions differ from it and from one another. Chosen
    here: the levels are stacked, not parallel, and d_0 is one of them; layer norm over the features; zero
    padding keeps the length in all convolutions; relu after the 3-D convolutions; a part of a pool at the
    edge counts as one. Padding of titles and histories is 0 in every level and in the volume, whose size is
    fixed, so it changes nothing. The order of the history matters.

    The volume costs time and memory of history x title x title for each candidate. ``history`` keeps the
    last clicks only (0: all), ``title`` the first words (0: all). Published: 150 filters, words of 300.
    d_model is the width of d_0, through a linear map where the first vectors are of another width; ``heads``
    is not used.

    Raises ValueError for a wrong option.
    """

    source = "Wang et al. 2020, Fine-grained Interest Matching for Neural News Recommendation (ACL 2020)"

    def __init__(
        self,
        news: News,
        d_model: int,
        heads: int,
        *,
        max_len: int,
        dropout: float,
        filters: int = 150,
        history: int = 0,
        title: int = 0,
    ) -> None:
        super().__init__(news, d_model, heads, max_len=max_len, dropout=dropout)
        if filters < 1:
            raise ValueError(f"filters must be at least 1, got {filters}")
        if history < 0:
            raise ValueError(f"history must be at least 0 (all clicks), got {history}")
        self.words = TitleWords(news, d_model, title=title)
        self.history = min(history, max_len) if history else max_len
        self.dropout = nn.Dropout(dropout)
        self.widths = (d_model, *(filters for _ in DILATIONS))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, filters, KERNEL, dilation=dilation, padding=dilation)
            for before, dilation in zip(self.widths[:-1], DILATIONS, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(filters) for _ in DILATIONS)
        steps: list[nn.Module] = []
        before = len(self.widths)
        shape = [self.history, self.words.longest, self.words.longest]
        for channels in CHANNELS:
            steps += [nn.Conv3d(before, channels, 3, padding=1), nn.ReLU(), nn.MaxPool3d(3, ceil_mode=True)]
            before, shape = channels, [math.ceil(size / 3) for size in shape]
        self.match = nn.Sequential(*steps, nn.Flatten(), nn.Linear(before * math.prod(shape), 1))

    def encode(self, rows: Tensor) -> Tensor:
        """Return the features of all levels [n, title, d_model + 3 filters] for rows [n] of the table."""
        return self.words.encoded(rows, self._levels)

    def score(self, history: Tensor, mask: Tensor, candidates: Tensor) -> Tensor:
        """Score candidates [B, C, title, F] for histories [B, H, title, F]; mask [B, H] -> [B, C]."""
        history = _last(history, mask, self.history)
        volume = self.history * self.words.longest**2 * CHANNELS[0]
        at_once = max(1, PART // (volume * max(1, candidates.shape[1])))
        parts = zip(history.split(at_once), candidates.split(at_once), strict=True)
        return torch.cat([self._scores(clicked, candidate) for clicked, candidate in parts])

    def _levels(self, words: Tensor, mask: Tensor) -> Tensor:
        """Return d_0 ... d_3 side by side, 0 at padding: [m, title, F]."""
        levels = [self.dropout(words)]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            mixed = norm(convolution(levels[-1].mT).mT).relu()
            levels.append(mixed.masked_fill(~mask[..., None], 0.0))
        return F.pad(torch.cat(levels, dim=-1), (0, 0, 0, self.words.longest - words.shape[1]))

    def _scores(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Return the scores [b, C] of candidates [b, C, title, F] and clicks [b, history, title, F]."""
        matrices = [
            torch.einsum("bcif,bhjf->bchij", mine, theirs) / width**0.5
            for mine, theirs, width in zip(
                candidates.split(self.widths, dim=-1), history.split(self.widths, dim=-1), self.widths,
                strict=True,
            )
        ]  # fmt: skip
        volumes = torch.stack(matrices, dim=2).flatten(0, 1)
        scores: Tensor = self.match(volumes).view(candidates.shape[:2])
        return scores


def _last(history: Tensor, mask: Tensor, count: int) -> Tensor:
    """Return the last ``count`` real ones of history [B, H, ...], in order, then zeros: [B, count, ...]."""
    real_first = (~mask).sort(dim=1, stable=True).indices
    clicks = mask.sum(dim=1, keepdim=True)
    wanted = (clicks - count).clamp(min=0) + torch.arange(count, device=mask.device)
    places = real_first.gather(1, wanted.clamp(max=mask.shape[1] - 1))
    rows = torch.arange(len(mask), device=mask.device)[:, None]
    return history[rows, places].masked_fill((wanted >= clicks)[..., None, None], 0.0)

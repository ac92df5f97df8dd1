"""Greedy and beam search: the texts that a step function generates, batched over sources."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from effbench.measured.mechanism import State

# tokens [R] of all hypotheses and a state -> logits [R, V] of the next token, and the state after these
Step = Callable[[Tensor, State], tuple[Tensor, State]]
# a state and the numbers of hypotheses [S, K], K for each of S sources -> the state of these
Reorder = Callable[[State, Tensor], State]


class Hypothesis(NamedTuple):
    """A generated text: its tokens without begin and end, its score, and its log-probability in nats.

    The log-probability is that of all tokens and the end token, by the model as it is: what the options of a
    search forbid does not change the probabilities of the rest.
    """

    tokens: list[int]
    score: float
    log_probability: float


@dataclass(frozen=True, kw_only=True)
class Search:
    """The options of a search.

    ``begin`` is the token that is read first, ``end`` the one that ends a text. A text has ``min_length`` to
    ``max_length`` tokens, begin and end not counted; the end token follows the last one also at
    ``max_length``. No ``no_repeat`` tokens in a row occur twice in a text; 0 allows everything. If this
    leaves a hypothesis no token at all, it ends, also before ``min_length``.

    ``beams`` is the number of hypotheses that go on at a time. The score of a text Y is
    log P(Y) / ((5 + \\|Y\\|) / 6)^a with a = ``length_penalty`` (Wu et al. 2016, arXiv 1609.08144, equation
    14, without coverage); \\|Y\\| counts the end token. At 0 it is log P(Y). ``returned`` is the number of
    texts to return for each source.

    The search of a source stops if none of its hypotheses can get a better score than the texts that it would
    return, or if ``patience`` x ``beams`` texts have ended (Kasai et al. 2022, arXiv 2204.05424). With
    ``patience=inf`` only the first rule holds. With the default of 1, a beam of 1 is the greedy search.

    Raises ValueError for a value that is not allowed.
    """

    begin: int
    end: int
    max_length: int
    min_length: int = 0
    no_repeat: int = 0
    beams: int = 1
    length_penalty: float = 0.6
    returned: int = 1
    patience: float = 1.0

    def __post_init__(self) -> None:
        _require(self.begin >= 0 and self.end >= 0, f"begin and end are {self.begin} and {self.end}", "0")
        _require(self.max_length >= 1, f"max_length is {self.max_length}", "1")
        _require(self.min_length >= 0, f"min_length is {self.min_length}", "0")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length ({self.min_length}) is above max_length ({self.max_length})")
        _require(self.no_repeat >= 0, f"no_repeat is {self.no_repeat}", "0")
        _require(self.beams >= 1, f"beams is {self.beams}", "1")
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"length_penalty is {self.length_penalty}, must be finite")
        if not 1 <= self.returned <= self.beams:
            raise ValueError(f"returned is {self.returned}, must be from 1 to beams ({self.beams})")
        _require(self.patience >= 1, f"patience is {self.patience}", "1")

    def score(self, log_probability: float, length: int) -> float:
        """Return the score of a text of ``length`` tokens, the end token included."""
        return float(log_probability / self._penalty(length))

    def best_possible(self, log_probability: float, length: int) -> float:
        """Return the highest score that any continuation of a hypothesis can have.

        ``length`` is the number of its tokens. The log-probability only falls, so that a continuation at best
        keeps it, and ends at the length with the highest penalty: the longest if the penalty grows with the
        length (a > 0), the shortest otherwise.
        """
        shortest, longest = length + 1, self.max_length + 1
        return float(log_probability / max(self._penalty(shortest), self._penalty(longest)))

    def _penalty(self, length: int) -> float:
        return float(((5 + length) / 6) ** self.length_penalty)


@torch.no_grad()
def greedy_search(
    state: State,
    step: Step,
    reorder: Reorder,
    search: Search,
    *,
    sources: int,
    device: torch.device | str = "cpu",
) -> list[Hypothesis]:
    """Return one text per source: at each step the most probable token that is allowed.

    ``state`` is the state before the first token, with one hypothesis for each of ``sources``. ``step`` and
    ``reorder`` are those of :func:`beam_search`. A source leaves the batch when its text ends.
    """
    found: list[Hypothesis | None] = [None] * sources
    live = torch.arange(sources, device=device)  # the sources that go on
    texts = torch.empty(sources, 0, dtype=torch.long, device=device)
    totals = torch.zeros(sources, dtype=torch.float64, device=device)
    tokens = torch.full((sources,), search.begin, device=device)
    while len(live):
        logits, state = step(tokens, state)
        best, tokens = _allowed(logits, texts, search).max(dim=1)
        totals = totals + _log_probabilities(best[:, None], logits)[:, 0]
        _require_numbers(totals, texts.shape[1])
        ended = tokens == search.end
        for source, text, total in zip(
            live[ended].tolist(), texts[ended].tolist(), totals[ended].tolist(), strict=True
        ):
            found[source] = Hypothesis(text, search.score(total, len(text) + 1), total)
        texts = torch.cat([texts, tokens[:, None]], dim=1)
        if ended.any():
            rows = (~ended).nonzero()
            live, texts, totals, tokens = (part[~ended] for part in (live, texts, totals, tokens))
            if len(live):
                state = reorder(state, rows)
    return [hypothesis for hypothesis in found if hypothesis is not None]


@torch.no_grad()
def beam_search(
    state: State,
    step: Step,
    reorder: Reorder,
    search: Search,
    *,
    sources: int,
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """Return the texts with the best scores for each source, the best first: at most ``returned``.

    ``state`` is the state before the first token, with one hypothesis for each of ``sources``.
    ``step(tokens, state)`` reads a token of each hypothesis, tokens [R], and returns logits [R, V] of the
    next one and the state after it. ``reorder(state, rows)`` returns the state of the hypotheses ``rows``
    [S, K], those of a source in one row and numbered as in ``state``. A state that was handed over is not
    used again. V is at least 2.

    At each step, the extensions of the hypotheses of a source are sorted by their log-probability. Those
    among the first K = ``beams`` that end are texts; the first K others go on. A source leaves the batch when
    its search stops (see :class:`Search`). A text of probability 0 is no text: a model that gives nothing
    else gets an empty list. Raises ValueError if logits are no numbers.
    """
    found: list[list[Hypothesis]] = [[] for _ in range(sources)]
    live = torch.arange(sources, device=device)
    texts = torch.empty(sources, 1, 0, dtype=torch.long, device=device)  # [S, K, length]
    totals = torch.zeros(sources, 1, dtype=torch.float64, device=device)  # -inf: no hypothesis
    tokens = torch.full((sources, 1), search.begin, device=device)
    while len(live):
        logits, state = step(tokens.flatten(), state)
        totals, parents, tokens = _extensions(logits, texts, totals, search)
        _require_numbers(totals, texts.shape[2])
        length = texts.shape[2]
        ends = (tokens == search.end) & (totals > -math.inf)
        for place, k in ends[:, : search.beams].nonzero().tolist():
            text, total = texts[place, parents[place, k]].tolist(), float(totals[place, k])
            found[int(live[place])].append(Hypothesis(text, search.score(total, length + 1), total))
        going = ends.long().argsort(dim=1, stable=True)[:, : search.beams]  # the first that do not end
        parents, tokens, totals = (part.gather(1, going) for part in (parents, tokens, totals))
        best = totals[:, 0].tolist()  # they are sorted
        kept = torch.tensor(
            [
                place
                for place, source in enumerate(live.tolist())
                if not _stops(found[source], best[place], length + 1, search)
            ],
            dtype=torch.long,
            device=device,
        )
        beams = texts.shape[1]
        rows = (torch.arange(len(live), device=device)[:, None] * beams + parents)[kept]
        texts = texts.flatten(0, 1)[rows]
        live, tokens, totals = live[kept], tokens[kept], totals[kept]
        texts = torch.cat([texts, tokens[..., None]], dim=2)
        if len(live) and not torch.equal(rows.flatten(), torch.arange(beams * len(going), device=device)):
            state = reorder(state, rows)
    return [sorted(texts, key=lambda h: -h.score)[: search.returned] for texts in found]


def _stops(found: list[Hypothesis], best: float, length: int, search: Search) -> bool:
    """True if the search of a source stops; its best hypothesis has ``length`` tokens and log P ``best``."""
    if best == -math.inf or len(found) >= search.patience * search.beams:
        return True
    if len(found) < search.returned:
        return False
    scores = sorted((hypothesis.score for hypothesis in found), reverse=True)
    return scores[search.returned - 1] >= search.best_possible(best, length)


def _extensions(
    logits: Tensor, texts: Tensor, totals: Tensor, search: Search
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities, parents and last tokens [S, 2 K] of the best extensions, the best first.

    logits [S x L, V] are those after texts [S, L, length], whose log-probabilities are totals [S, L]. Of 2 K
    extensions K at least do not end, since each text has one extension that ends. If there are fewer, the
    rest has the log-probability -inf.
    """
    sources, beams = totals.shape
    wanted = 2 * search.beams
    allowed = _allowed(logits, texts.flatten(0, 1), search)
    best, tokens = allowed.topk(min(wanted, logits.shape[1]), dim=1)  # of each text
    sums = totals[..., None] + _log_probabilities(best, logits).unflatten(0, (sources, beams))
    each = best.shape[1]
    best, places = sums.flatten(1).topk(min(wanted, beams * each), dim=1)
    tokens = tokens.view(sources, beams * each).gather(1, places)
    missing = (0, wanted - best.shape[1])
    pad = torch.nn.functional.pad
    return pad(best, missing, value=-math.inf), pad(places // each, missing), pad(tokens, missing)


def _allowed(logits: Tensor, texts: Tensor, search: Search) -> Tensor:
    """Return logits [R, V] of the token after texts [R, length], -inf for those that are not allowed."""
    length = texts.shape[1]
    ends = torch.full_like(logits, -math.inf)
    ends[:, search.end] = logits[:, search.end]
    if length >= search.max_length:
        return ends
    allowed = logits.clone()
    if length < search.min_length:
        allowed[:, search.end] = -math.inf
    if search.no_repeat and length >= search.no_repeat:
        _forbid_repeats(allowed, texts, search.no_repeat)
    stuck = (allowed == -math.inf).all(dim=1, keepdim=True)
    return torch.where(stuck, ends, allowed)


def _forbid_repeats(logits: Tensor, texts: Tensor, n: int) -> None:
    """Set logits [R, V] to -inf for tokens that would repeat n tokens in a row of texts [R, length]."""
    grams = texts.unfold(1, n, 1)  # [R, length - n + 1, n]
    last = texts[:, texts.shape[1] - n + 1 :]
    row, place = (grams[..., :-1] == last[:, None]).all(dim=-1).nonzero(as_tuple=True)
    logits[row, grams[row, place, -1]] = -math.inf


def _log_probabilities(chosen: Tensor, logits: Tensor) -> Tensor:
    """Return the log-probabilities, in float64, of chosen logits [R, n] among all logits [R, V]."""
    return chosen.double() - _precise(logits).logsumexp(dim=1, keepdim=True).double()


def _precise(logits: Tensor) -> Tensor:
    """Return logits in float32 at least: sums in half precision would make ties and wrong scores."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _require_numbers(totals: Tensor, length: int) -> None:
    if totals.isnan().any():
        raise ValueError(f"the model's logits after {length} tokens are not numbers")


def _require(allowed: bool, what: str, least: str) -> None:
    """Raise ValueError with what is wrong unless it is allowed."""
    if not allowed:
        raise ValueError(f"{what}, must be at least {least}")

"""Laws of greedy and beam search, on tables of random log-probabilities that can be searched exhaustively."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from effbench.measured.models.beam_search import Search, beam_search, greedy_search
from effbench.measured.state import selected

END, BEGIN = 1, 0  # begin is a token of texts too: only its first place is special
VOCAB, LONGEST = 4, 4
WIDE = VOCAB ** (LONGEST + 1)  # more than there are prefixes, texts or extensions of one length


class Table:
    """A model whose logits are drawn for each source and prefix; its state is the source and the prefix."""

    def __init__(self, seed, *, vocab=VOCAB, scale=2.0, of_position=False, end=0.0, always=None):
        self.seed, self.vocab, self.scale, self.of_position, self.end = seed, vocab, scale, of_position, end
        self.rows_read = 0
        self.drawn: dict[tuple[int, object], torch.Tensor] = {}
        self.always = always

    def logits(self, source, prefix):
        """``of_position``: they depend on the length of the prefix only; ``always``: these logits."""
        if self.always is not None:
            return self.always
        known = (source, len(prefix) if self.of_position else prefix)
        if known not in self.drawn:
            generator = torch.Generator().manual_seed(hash((self.seed, *known)) % 2**62)
            logits = self.scale * torch.randn(self.vocab, generator=generator, dtype=torch.float64)
            logits[END] += self.end
            self.drawn[known] = logits
        return self.drawn[known]

    def start(self, sources):
        return torch.arange(sources)[:, None]

    def step(self, tokens, state):
        self.rows_read += len(state)
        state = torch.cat([state, tokens[:, None]], dim=1)
        return torch.stack([self.logits(row[0], tuple(row[2:])) for row in state.tolist()]), state

    def reorder(self, state, rows):
        return selected(state, rows.flatten())

    def log_probability(self, source, text):
        """By the definition: the sum over the tokens of the text and the end token."""
        return sum(
            float(self.logits(source, tuple(text[:i])).log_softmax(0)[token])
            for i, token in enumerate([*text, END])
        )

    def beam(self, search, sources=1):
        return beam_search(self.start(sources), self.step, self.reorder, search, sources=sources)

    def greedy(self, search, sources=1):
        return greedy_search(self.start(sources), self.step, self.reorder, search, sources=sources)


def options(**changes):
    return Search(**{"begin": BEGIN, "end": END, "max_length": LONGEST, **changes})


def repeats(text, n):
    grams = (
        list(itertools.pairwise(text)) if n == 2 else list(zip(*(text[i:] for i in range(n)), strict=False))
    )
    return len(grams) != len(set(grams))


def penalty(length, alpha):
    """Wu et al. 2016, equation 14."""
    return (5 + length) ** alpha / 6**alpha


def exhaustive(table, search, source=0):
    """All allowed texts and their scores, the best first."""
    found = []
    letters = [token for token in range(table.vocab) if token != END]
    for length in range(search.min_length, search.max_length + 1):
        for text in itertools.product(letters, repeat=length):
            if search.no_repeat and repeats(text, search.no_repeat):
                continue
            logp = table.log_probability(source, text)
            found.append((logp / penalty(length + 1, search.length_penalty), list(text)))
    return sorted(found, reverse=True)


SETTINGS = [
    {},
    {"length_penalty": 0.0},
    {"length_penalty": 2.0},
    {"length_penalty": -1.0},
    {"min_length": 2},
    {"min_length": 4, "length_penalty": 1.0},
    {"no_repeat": 2},
    {"no_repeat": 1, "min_length": 1, "max_length": 3},
    {"max_length": 1},
    {"no_repeat": 3, "min_length": 1, "length_penalty": 1.0},
]
every_setting = pytest.mark.parametrize("settings", SETTINGS, ids=str)


@every_setting
@pytest.mark.parametrize("patience", [1.0, math.inf])
def test_a_beam_that_is_wide_enough_finds_the_best_of_an_exhaustive_search(settings, patience):
    for seed in range(2):
        table = Table(seed, end=(-2.0, 0.0)[seed])
        search = options(beams=WIDE, returned=3, patience=patience, **settings)
        for source, found in enumerate(table.beam(search, sources=2)):
            best = exhaustive(table, search, source)[:3]
            assert [h.tokens for h in found] == [text for _, text in best]
            assert [h.score for h in found] == pytest.approx([score for score, _ in best], rel=1e-12)


@every_setting
def test_no_width_scores_above_the_exhaustive_search_and_every_score_is_that_of_its_text(settings):
    for seed, beams in itertools.product(range(4), (1, 2, 3, 5)):
        table = Table(seed)
        search = options(beams=beams, returned=beams, **settings)
        best, _ = exhaustive(table, search)[0]
        (found,) = table.beam(search)
        assert found
        for hypothesis in found:
            logp = table.log_probability(0, hypothesis.tokens)
            assert hypothesis.log_probability == pytest.approx(logp, rel=1e-12)
            length = len(hypothesis.tokens) + 1
            assert hypothesis.score == pytest.approx(logp / penalty(length, search.length_penalty), rel=1e-12)
            assert hypothesis.score <= best + 1e-12
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        assert len({tuple(h.tokens) for h in found}) == len(found)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0, -1.0])
def test_where_the_past_does_not_matter_a_wider_beam_never_scores_lower(length_penalty):
    """Not so for every model: a wider beam may drop the prefix of a better text for likelier prefixes.

    If a token's probability depends on its place only, K hypotheses are the K likeliest prefixes of their
    length, which the wider beam has too. The patience must not end the search: more texts end in a wider one.
    """
    for seed in range(10):
        table = Table(seed, of_position=True, end=-1.0)
        scores = [
            table.beam(options(beams=beams, length_penalty=length_penalty, patience=math.inf))[0][0].score
            for beams in (1, 2, 3, 4, 6, 9, 14, WIDE)
        ]
        assert all(wide >= narrow - 1e-12 for narrow, wide in itertools.pairwise(scores))


@every_setting
def test_stopping_early_changes_no_result(settings, monkeypatch):
    """The search stops when nothing better can come: a bound that never stops it gives the same result."""
    cases = [(Table(seed, end=1.0), beams) for seed in range(6) for beams in (2, 3, 5)]
    stopped = [t.beam(options(beams=k, returned=2, patience=math.inf, **settings), 3) for t, k in cases]
    early = sum(table.rows_read for table, _ in cases)
    monkeypatch.setattr(Search, "best_possible", lambda *_: math.inf)
    assert stopped == [
        t.beam(options(beams=k, returned=2, patience=math.inf, **settings), 3) for t, k in cases
    ]
    assert early <= sum(table.rows_read for table, _ in cases) - early
    if not settings:
        assert early < 0.9 * (sum(table.rows_read for table, _ in cases) - early)


class Chain(Table):
    """A model that ends at once with probability 0.6, and otherwise writes token 2 until there is no room."""

    def logits(self, source, prefix):
        shares = {END: 0.6, 2: 0.4} if not prefix else {END if len(prefix) == LONGEST else 2: 1.0}
        return torch.tensor([shares.get(token, 1e-6) for token in range(VOCAB)], dtype=torch.float64).log()


@pytest.mark.parametrize(("length_penalty", "length"), [(0.0, 0), (0.5, 0), (2.0, LONGEST), (-1.0, 0)])
def test_the_search_goes_on_while_a_longer_text_can_win(length_penalty, length):
    """0.4 beats 0.6 if log 0.4 / log 0.6, 1.79, is below (10 / 6)^a."""
    for beams in (2, 5):
        (found,) = Chain(0).beam(options(beams=beams, length_penalty=length_penalty))
        assert found[0].tokens == [2] * length
    table = Chain(0)
    table.beam(options(beams=2, length_penalty=0.0))
    assert table.rows_read == 1, "nothing better could come"


@every_setting
def test_a_beam_of_one_is_the_greedy_search(settings):
    for seed in range(10):
        table, search = Table(seed), options(beams=1, **settings)
        beam, greedy = table.beam(search, sources=5), table.greedy(search, sources=5)
        assert [[hypothesis] for hypothesis in greedy] == beam


def test_greedy_search_takes_the_likeliest_token():
    table = Table(3, end=-1.0)
    for source, found in enumerate(table.greedy(options(), sources=8)):
        text: list[int] = []
        while len(text) < LONGEST and (token := int(table.logits(source, tuple(text)).argmax())) != END:
            text.append(token)
        assert found.tokens == text


@every_setting
def test_a_batch_gives_what_its_rows_give_one_by_one(settings):
    table, search = Table(7), options(beams=3, returned=3, **settings)

    def alone(source, search_one):
        state = torch.tensor([[source]])
        return search_one(state, table.step, table.reorder, search, sources=1)[0]

    assert table.beam(search, sources=6) == [alone(source, beam_search) for source in range(6)]
    assert table.greedy(search, sources=6) == [alone(source, greedy_search) for source in range(6)]


@pytest.mark.parametrize("end", [-9.0, 0.0, 9.0])
@pytest.mark.parametrize(("least", "most"), [(0, 1), (0, 9), (3, 9), (6, 6)])
def test_texts_are_neither_too_short_nor_too_long(least, most, end):
    """Each length that is allowed is reached where the model wants it so."""
    table = Table(1, end=end, scale=1.0)
    search = options(beams=4, returned=4, min_length=least, max_length=most)
    found = [h for each in [*table.beam(search, 5), table.greedy(search, 5)] for h in each]
    lengths = {len(hypothesis.tokens) for hypothesis in found}
    assert min(lengths) >= least
    assert max(lengths) <= most
    assert END not in [token for hypothesis in found for token in hypothesis.tokens]
    if end:
        assert (most if end < 0 else least) in lengths


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_n_tokens_in_a_row_occur_twice(n):
    table = Table(5, vocab=16, end=-4.0, of_position=True, scale=0.3)
    for _ in range(2):
        search = options(beams=3, returned=3, max_length=14, min_length=14, no_repeat=n)
        found = [h.tokens for each in [*table.beam(search, 4), table.greedy(search, 4)] for h in each]
        assert all(len(text) == 14 and not repeats(text, n) for text in found)
        table = Table(6, vocab=16, scale=0.3)
    constant = Table(8, vocab=16, always=torch.arange(16.0, dtype=torch.float64))  # it repeats itself
    search = options(beams=2, max_length=14, min_length=14, no_repeat=n)
    assert repeats(constant.greedy(options(max_length=14))[0].tokens, n)
    for text in (constant.greedy(search)[0].tokens, constant.beam(search)[0][0].tokens):
        assert not repeats(text, n)
        if n > 1:
            assert repeats(text, n - 1), "only what is forbidden is avoided"


def test_a_text_ends_where_it_could_only_repeat_itself():
    table, search = Table(2), options(no_repeat=1, min_length=9, max_length=9, beams=2)
    for text in (table.greedy(search)[0].tokens, table.beam(search)[0][0].tokens):
        assert sorted(text) == [0, 2, 3]


def test_sources_leave_the_batch_when_they_are_done():
    """The step is called for as many hypotheses as if each source were searched alone."""
    for name, search in (("beam", options(beams=3)), ("greedy", options())):
        table, single = Table(9, end=0.5), Table(9, end=0.5)
        getattr(table, name)(search, 12)
        one = beam_search if name == "beam" else greedy_search
        for source in range(12):
            one(torch.tensor([[source]]), single.step, single.reorder, search, sources=1)
        assert table.rows_read == single.rows_read


def test_an_impossible_text_is_not_returned_and_logits_must_be_numbers():
    table = Table(0, always=torch.tensor([0.0, -math.inf, 1.0, 2.0]))
    assert table.beam(options(beams=2)) == [[]]
    table = Table(0, always=torch.full((4,), math.nan))
    for run in (table.beam, table.greedy):
        with pytest.raises(ValueError, match="logits after 0 tokens are not numbers"):
            run(options())


def test_no_source_gives_no_text():
    assert Table(0).beam(options(), sources=0) == []
    assert Table(0).greedy(options(), sources=0) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_length": 0}, "max_length is 0"),
        ({"min_length": -1}, "min_length is -1"),
        ({"min_length": 5}, "min_length (5) is above max_length (4)"),
        ({"no_repeat": -1}, "no_repeat is -1"),
        ({"beams": 0}, "beams is 0"),
        ({"beams": 2, "returned": 3}, "returned is 3"),
        ({"returned": 0}, "returned is 0"),
        ({"patience": 0.5}, "patience is 0.5"),
        ({"length_penalty": math.inf}, "length_penalty is inf"),
        ({"end": -1}, "begin and end are 0 and -1"),
    ],
)
def test_a_wrong_option_is_refused(wrong, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # the text is compared
        options(**wrong)
    assert message in str(refused.value)

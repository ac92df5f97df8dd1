"""Seq2Seq: an encoder and a decoder around any mechanism, trained on pairs of texts and generating texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from effbench.measured.mechanism import State, Unsupported
from effbench.measured.models.classifier import EMBEDDING_STD
from effbench.measured.models.encoder import Encoder, FeatureDropout, of_each_layer
from effbench.measured.patterns import require_cross, require_steps
from effbench.measured.state import selected

MakeMechanism = Callable[..., nn.Module]  # called as make(max_len, causal=...), or without causal


class Generation(NamedTuple):
    """The state of the generation of several hypotheses for each source.

    ``own``: what the self-attention of each layer keeps, with a row for each hypothesis. ``cross``: what the
    cross attention of each layer remembers, with a row for each of ``sources``. The hypotheses of a source
    stand next to each other: row r belongs to source r // ``beams``. ``read``: the tokens read so far.
    """

    own: list[State]
    cross: list[State]
    sources: int
    beams: int
    read: int


class Prefixes(NamedTuple):
    """The state of a generation without a cache: all tokens read so far, and the memory's ``cross``."""

    tokens: Tensor
    cross: list[State]
    sources: int
    beams: int


class Seq2Seq(nn.Module):
    """source [B, N], mask [B, N], target [B, T] -> logits [B, T, vocab_size] of the token after each.

    An :class:`~effbench.measured.models.encoder.Encoder` reads the source. Each decoder block adds causal
    self-attention over the target, cross attention from the target to the encoded source, and a feed-forward
    layer, each behind a norm (pre-norm). One embedding serves source, target and output (Press and Wolf 2017,
    arXiv 1608.05859). Learned absolute positions are added, of their own for source and target. Only ``mask``
    marks padding of the source; no id is special. ``max_source`` and ``max_target`` are the longest N and T.

    ``make_mechanism(max_len)`` makes the mechanism of the encoder. The decoder takes the mechanism's own
    forms: ``make_mechanism(max_len, causal=True)`` for self-attention if it has steps, and
    ``make_mechanism(max_len, causal=False)`` for cross attention if it has a cross form. If a form is
    missing, ``make_vanilla(max_len, causal=...)`` replaces it. ``facts`` says which attention was taken as
    ``decoder_self_attention`` and ``decoder_cross_attention``: ``label``, or "vanilla: " and the reason why
    the mechanism has no such form.

    ``start``, ``step`` and ``reorder`` generate; ``effbench.measured.models.beam_search`` uses them. A model
    in training mode would drop features: generate in evaluation mode.
    """

    def __init__(
        self,
        make_mechanism: MakeMechanism,
        *,
        make_vanilla: MakeMechanism,
        label: str,
        vocab_size: int,
        max_source: int,
        max_target: int,
        d_model: int,
        encoder_layers: int,
        decoder_layers: int,
        ffn_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.source_positions = nn.Embedding(max_source, d_model)
        self.target_positions = nn.Embedding(max_target, d_model)
        for embedding in (self.tokens, self.source_positions, self.target_positions):
            nn.init.normal_(embedding.weight, std=EMBEDDING_STD)
        self.embedding_dropout = FeatureDropout(dropout)
        self.encoder = Encoder(
            partial(make_mechanism, max_source),
            d_model=d_model,
            layers=encoder_layers,
            ffn_width=ffn_width,
            dropout=dropout,
        )
        make_own, own = _form(
            partial(make_mechanism, max_target, causal=True),
            partial(make_vanilla, max_target, causal=True),
            require_steps,
            label,
        )
        make_cross, cross = _form(
            partial(_noncausal, make_mechanism, max_source),
            partial(make_vanilla, max_source, causal=False),
            require_cross,
            label,
        )
        self.facts = {"decoder_self_attention": own, "decoder_cross_attention": cross}
        self.decoder = _Decoder(
            zip(
                of_each_layer(make_own, decoder_layers),
                of_each_layer(make_cross, decoder_layers),
                strict=True,
            ),
            d_model=d_model,
            ffn_width=2 * d_model if ffn_width is None else ffn_width,
            dropout=dropout,
        )

    def forward(self, source: Tensor, mask: Tensor | None, target: Tensor) -> Tensor:
        """Return logits [B, T, vocab_size] of the token that follows each token of target [B, T].

        mask [B, N] is True for a real token of source [B, N]. Padding of the target stands behind its
        tokens: logits of a token depend on no later one, so that padding needs no mask.
        """
        return self._logits(self._decoded(source, mask, target))

    def loss(
        self,
        source: Tensor,
        mask: Tensor | None,
        target: Tensor,
        target_mask: Tensor,
        *,
        smoothing: float = 0.0,
    ) -> Tensor:
        """Return the cross-entropy in nats, the mean over the predicted tokens: a scalar.

        Target and mask are those of ``predicted``. With ``smoothing`` s, a token is predicted against the
        distribution that gives it 1 - s and spreads s over the whole vocabulary (label smoothing, Szegedy et
        al. 2016, arXiv 1512.00567).
        """
        logits = self.predicted(source, mask, target, target_mask)
        return cross_entropy(logits, target[:, 1:][target_mask], label_smoothing=smoothing)

    def predicted(self, source: Tensor, mask: Tensor | None, target: Tensor, target_mask: Tensor) -> Tensor:
        """Return logits [n, vocab_size] of the n tokens of ``target[:, 1:][target_mask]``, row after row.

        target [B, T + 1] has the begin and end tokens; target_mask [B, T] is True where the token that
        follows is real. No logits are computed for padding.
        """
        return self._logits(self._decoded(source, mask, target[:, :-1])[target_mask])

    def start(self, source: Tensor, mask: Tensor | None = None) -> Generation:
        """Encode the source [B, N] once, and return the state before the first token, of one hypothesis each.

        mask [B, N] is True for a real token.
        """
        memory = self._encoded(source, mask)
        own, cross = self.decoder.empty(memory), self.decoder.remember(memory, mask)
        return Generation(own, cross, sources=len(source), beams=1, read=0)

    def step(self, tokens: Tensor, state: Generation) -> tuple[Tensor, Generation]:
        """Read a token of each hypothesis, tokens [R] -> logits [R, vocab_size], and the state after it.

        The logits are those of ``forward`` at this token. The state is consumed and may be overwritten.
        Raises ValueError if ``max_target`` tokens were read before.
        """
        self._require_room(state.read)
        x = self.tokens(tokens) + self.target_positions.weight[state.read]
        x, own = self.decoder.step(
            self.embedding_dropout(x[:, None])[:, 0], state.own, state.cross, state.beams
        )
        return self._logits(x), state._replace(own=own, read=state.read + 1)

    def reorder(self, state: Generation, rows: Tensor) -> Generation:
        """Return the state of the hypotheses ``rows`` [S, K], K of each of S sources, in this order.

        An entry is the number of a hypothesis in ``state``, and those of one row belong to one source. A
        hypothesis may be chosen several times, and a source may be left out.
        """
        return state._replace(
            own=selected(state.own, rows.flatten()),
            cross=_of_sources(state, rows),
            sources=len(rows),
            beams=rows.shape[1],
        )

    def start_uncached(self, source: Tensor, mask: Tensor | None = None) -> Prefixes:
        """Do what ``start`` does, for ``step_uncached``."""
        cross = self.decoder.remember(self._encoded(source, mask), mask)
        return Prefixes(source.new_empty(len(source), 0), cross, sources=len(source), beams=1)

    def step_uncached(self, tokens: Tensor, state: Prefixes) -> tuple[Tensor, Prefixes]:
        """Do what ``step`` does, but compute the decoder again for all tokens so far."""
        self._require_room(state.tokens.shape[1])
        state = state._replace(tokens=torch.cat([state.tokens, tokens[:, None]], dim=1))
        x = self.decoder(self._embedded_target(state.tokens), state.cross, state.beams)
        return self._logits(x[:, -1]), state

    def reorder_uncached(self, state: Prefixes, rows: Tensor) -> Prefixes:
        """Do what ``reorder`` does, for ``step_uncached``."""
        tokens = state.tokens[rows.flatten()]
        return Prefixes(tokens, _of_sources(state, rows), sources=len(rows), beams=rows.shape[1])

    def _decoded(self, source: Tensor, mask: Tensor | None, target: Tensor) -> Tensor:
        memory = self.decoder.remember(self._encoded(source, mask), mask)
        return self.decoder(self._embedded_target(target), memory)  # type: ignore[no-any-return]

    def _encoded(self, source: Tensor, mask: Tensor | None) -> Tensor:
        x = self.tokens(source) + self.source_positions.weight[: source.shape[1]]
        return self.encoder(self.embedding_dropout(x), mask)  # type: ignore[no-any-return]

    def _embedded_target(self, target: Tensor) -> Tensor:
        x = self.tokens(target) + self.target_positions.weight[: target.shape[1]]
        return self.embedding_dropout(x)  # type: ignore[no-any-return]

    def _logits(self, x: Tensor) -> Tensor:
        return linear(x, self.tokens.weight)

    def _require_room(self, read: int) -> None:
        longest = self.target_positions.num_embeddings
        if read >= longest:
            raise ValueError(f"the decoder has positions for {longest} tokens, and all of them were read")


class _Decoder(nn.Module):
    """Decoder blocks and a norm: x [B, T, d_model] and a memory -> [B, T, d_model]."""

    def __init__(
        self,
        attentions: Iterable[tuple[nn.Module, nn.Module]],
        *,
        d_model: int,
        ffn_width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(*pair, d_model, ffn_width, dropout) for pair in attentions)
        self.norm = nn.LayerNorm(d_model)

    def remember(self, memory: Tensor, mask: Tensor | None) -> list[State]:
        """Return what the cross attention of each layer needs to know of memory [B, N, d_model]."""
        remembered: dict[nn.Module, State] = {}  # layers may share one instance
        attentions: list[nn.Module] = [block.cross for block in self.blocks]  # type: ignore[misc]
        for cross in attentions:
            if cross not in remembered:
                remembered[cross] = cross.remember(memory, mask)  # type: ignore[operator]
        return [remembered[cross] for cross in attentions]

    def forward(self, x: Tensor, cross: list[State], beams: int = 1) -> Tensor:
        for block, remembered in zip(self.blocks, cross, strict=True):
            x = block(x, remembered, beams)
        return self.norm(x)  # type: ignore[no-any-return]

    def empty(self, memory: Tensor) -> list[State]:
        """Return the state of each layer's self-attention before the first token."""
        nothing = memory[:, :0]
        return [block.own.prefill(nothing)[1] for block in self.blocks]  # type: ignore[operator, union-attr]

    def step(self, x: Tensor, own: list[State], cross: list[State], beams: int) -> tuple[Tensor, list[State]]:
        """Return the output for one more token x [R, d_model] of each hypothesis, and the states after it."""
        states: list[State] = []
        for block, before, remembered in zip(self.blocks, own, cross, strict=True):
            x, after = block.step(x, before, remembered, beams)  # type: ignore[operator]
            states.append(after)
        return self.norm(x), states


class _Block(nn.Module):
    """Causal self-attention ``own``, cross attention ``cross``, and a feed-forward layer if it is wide."""

    def __init__(
        self, own: nn.Module, cross: nn.Module, d_model: int, ffn_width: int, dropout: float
    ) -> None:
        super().__init__()
        self.own, self.cross = own, cross
        self.own_norm, self.cross_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.feed_forward = ffn_width > 0
        if self.feed_forward:
            self.ffn_norm = nn.LayerNorm(d_model)
            self.ffn = nn.Sequential(nn.Linear(d_model, ffn_width), nn.GELU(), nn.Linear(ffn_width, d_model))
        self.dropout = FeatureDropout(dropout)

    def forward(self, x: Tensor, remembered: State, beams: int) -> Tensor:
        return self._after(x, self.own(self.own_norm(x)), remembered, beams)

    def step(self, x: Tensor, state: State, remembered: State, beams: int) -> tuple[Tensor, State]:
        mixed, state = self.own.step(self.own_norm(x), state)  # type: ignore[operator]
        return self._after(x[:, None], mixed[:, None], remembered, beams)[:, 0], state

    def _after(self, x: Tensor, mixed: Tensor, remembered: State, beams: int) -> Tensor:
        """Add the output of self-attention to x [R, T, d_model], then those of the other two."""
        x = x + self.dropout(mixed)
        # the hypotheses of a source attend to it as tokens of one row: its memory is kept once
        queries = self.cross_norm(x).unflatten(0, (-1, beams)).flatten(1, 2)
        attended = self.cross.attend(queries, remembered)  # type: ignore[operator]
        x = x + self.dropout(attended.reshape(x.shape))
        if not self.feed_forward:
            return x
        return x + self.dropout(self.ffn(self.ffn_norm(x)))  # type: ignore[no-any-return]


def _form(
    make_own: Callable[[], nn.Module],
    make_vanilla: Callable[[], nn.Module],
    require: Callable[[nn.Module], None],
    label: str,
) -> tuple[Callable[[], nn.Module], str]:
    """Return what makes the mechanism's own form and ``label``, or vanilla's and the reason for that."""
    try:
        require(make_own())
    except Unsupported as error:
        return make_vanilla, f"vanilla: {error}"
    return make_own, label


def _noncausal(make_mechanism: MakeMechanism, max_len: int) -> nn.Module:
    """Return the noncausal form, or the only one that the mechanism has: cross attention has no order."""
    try:
        return make_mechanism(max_len, causal=False)
    except Unsupported:
        return make_mechanism(max_len)


def _of_sources(state: Generation | Prefixes, rows: Tensor) -> list[State]:
    """Return the memories of the sources that the hypotheses ``rows`` [S, K] belong to."""
    sources = rows[:, 0] // state.beams
    if torch.equal(sources, torch.arange(state.sources, device=rows.device)):
        return state.cross  # no step changes it
    chosen: dict[int, State] = {}  # layers may share one memory
    for remembered in state.cross:
        if id(remembered) not in chosen:
            chosen[id(remembered)] = selected(remembered, sources)
    return [chosen[id(remembered)] for remembered in state.cross]

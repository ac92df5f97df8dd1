"""Laws of the encoder-decoder around any mechanism: padding, causality, steps, and the search with it."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from effbench import Unsupported
from effbench.common import registry
from effbench.common.spec import Cell
from effbench.measured.models.beam_search import Search, beam_search, greedy_search
from effbench.measured.models.seq2seq import Seq2Seq
from effbench.measured.patterns import has_cross, has_steps
from effbench.measured.state import copied, state_bytes, tensors_of
from effbench.measured.workload import maker

VOCAB, SOURCE, TARGET, BEGIN, END = 30, 40, 13, 1, 2
ONLY_CAUSAL = ("deltanet", "gla", "hyena", "mamba2", "retention", "sinks")
# own self- and cross attention; neither; cross only; self only; causal only
MECHANISMS = ["vanilla", "linear", "fastformer", "bigbird", "linformer", "longformer", "retention"]
OWN = [name for name in registry.names("mechanism") if ":" not in name]  # others may need a library
every_mechanism = pytest.mark.parametrize("name", MECHANISMS)
OPTIONS = {"linformer": {"k": 7}, "bigbird": {"block": 4}, "longformer": {"window": 4}}


def make(name, *, layers=2, dtype=torch.float64, seed=0, dropout=0.0, **sizes):
    options = {**OPTIONS.get(name, {}), **({"causal": True} if name in ONLY_CAUSAL else {})}
    cell = Cell(mechanism=name, options=options, probe="time", seq_len=SOURCE, d_model=12, heads=3)
    made = maker(cell)
    torch.manual_seed(seed)
    model = Seq2Seq(
        made,
        make_vanilla=made.vanilla,
        label=made.label,
        **{"vocab_size": VOCAB, "max_source": SOURCE, "max_target": TARGET, **sizes},
        d_model=12,
        encoder_layers=layers,
        decoder_layers=layers,
        dropout=dropout,
    )
    for parameter in model.parameters():  # larger than at the start of a training: logits then differ
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)
    return model.to(dtype).eval()


def pairs(sources=5, n=SOURCE, t=TARGET, seed=1):
    """Sources [B, N] with a mask of ragged rows, one of them empty, and targets [B, T] that begin."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(3, VOCAB, (sources, n), generator=generator)
    lengths = torch.tensor([n, n // 2, 1, 0, n - 1, 7])[:sources]
    target = torch.randint(3, VOCAB, (sources, t), generator=generator)
    target[:, 0] = BEGIN
    return source, torch.arange(n) < lengths[:, None], target


def close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@every_mechanism
@torch.no_grad()
def test_padding_of_source_and_target_changes_nothing(name):
    model = make(name)
    source, mask, target = pairs()
    expected = model(source, mask, target)
    other_source = torch.where(mask, source, torch.randint(VOCAB, source.shape))
    assert torch.isfinite(expected).all()
    close(model(other_source, mask, target), expected)
    padded = torch.cat([target[:, :6], torch.randint(VOCAB, (len(target), 7))], dim=1)
    close(model(source, mask, padded)[:, :6], expected[:, :6])
    close(model(source, mask, target[:, :6]), expected[:, :6])
    if name not in ("bigbird", "linformer"):  # theirs depends on the amount of padding, as documented
        for row, length in enumerate(mask.sum(dim=1).tolist()):
            if length:
                close(model(source[row : row + 1, :length], None, target[row : row + 1])[0], expected[row])


@every_mechanism
@torch.no_grad()
def test_a_row_depends_on_its_source_and_on_no_other_row(name):
    model = make(name)
    source, mask, target = pairs()
    expected = model(source, mask, target)
    for row in range(len(source)):
        one = slice(row, row + 1)
        close(model(source[one], mask[one], target[one]), expected[one])
    changed = source.clone()
    changed[:, 0] = (changed[:, 0] + 1) % VOCAB
    differs = (model(changed, mask, target) - expected).abs().amax(dim=(1, 2)) > 1e-6
    assert differs.tolist() == mask[:, 0].tolist()


@every_mechanism
@torch.no_grad()
def test_steps_give_the_logits_of_the_forward_pass(name):
    model = make(name)
    source, mask, target = pairs()
    expected = model(source, mask, target)
    state, uncached = model.start(source, mask), model.start_uncached(source, mask)
    for place, tokens in enumerate(target.unbind(1)):
        logits, state = model.step(tokens, state)
        close(logits, expected[:, place])
        logits, uncached = model.step_uncached(tokens, uncached)
        close(logits, expected[:, place])
    for step, after in ((model.step, state), (model.step_uncached, uncached)):
        with pytest.raises(ValueError, match="positions for 13 tokens"):
            step(target[:, 0], after)


@every_mechanism
@torch.no_grad()
def test_a_reordered_state_continues_the_chosen_hypotheses(name):
    """Three hypotheses of each source are made, mixed up, and sources are left out and turned round."""
    model = make(name)
    source, mask, _ = pairs(sources=4)
    choices = [
        torch.arange(4)[:, None].expand(4, 3),
        torch.arange(12).view(4, 3).flip(1),
        torch.tensor([[9, 9, 11], [1, 0, 1]]),
        torch.tensor([[3, 4, 4], [2, 1, 0]]),
        torch.tensor([[5], [2]]),
    ]
    sources, texts = torch.arange(4), torch.empty(4, 0, dtype=torch.long)
    state, uncached = model.start(source, mask), model.start_uncached(source, mask)
    for turn in range(6):
        tokens = torch.randint(VOCAB, (len(texts),))
        texts = torch.cat([texts, tokens[:, None]], dim=1)
        expected = model(source[sources], mask[sources], texts)[:, -1]
        logits, state = model.step(tokens, state)
        close(logits, expected)
        logits, uncached = model.step_uncached(tokens, uncached)
        close(logits, expected)
        if turn < len(choices):
            rows = choices[turn]
            sources, texts = sources[rows.flatten()], texts[rows.flatten()]
            state, uncached = model.reorder(state, rows), model.reorder_uncached(uncached, rows)


@torch.no_grad()
def test_hypotheses_share_the_memory_of_their_source():
    model = make("vanilla")
    source, mask, _ = pairs(sources=4)
    state = model.start(source, mask)
    wide = model.reorder(state, torch.arange(4)[:, None].expand(4, 5))
    assert state_bytes(wide.cross) == state_bytes(state.cross)
    assert all(a is b for a, b in zip(tensors_of(wide.cross), tensors_of(state.cross), strict=True))


@every_mechanism
@pytest.mark.parametrize("beams", [1, 4])
def test_a_search_gives_the_same_texts_with_and_without_cache_and_row_by_row(name, beams):
    model = make(name)
    source, mask, _ = pairs()
    returned = min(2, beams)
    search = Search(
        begin=BEGIN, end=END, max_length=12, min_length=1, beams=beams, returned=returned, no_repeat=2
    )

    def found(start, step, reorder, rows):
        with torch.no_grad():
            state = start(source[rows], mask[rows])
        texts = beam_search(state, step, reorder, search, sources=len(rows))
        if beams == 1:
            with torch.no_grad():
                state = start(source[rows], mask[rows])
            greedy = greedy_search(state, step, reorder, search, sources=len(rows))
            assert [[h.tokens for h in each] for each in texts] == [[h.tokens] for h in greedy]
        return texts

    rows = list(range(len(source)))
    cached = found(model.start, model.step, model.reorder, rows)
    uncached = found(model.start_uncached, model.step_uncached, model.reorder_uncached, rows)
    alone = [found(model.start, model.step, model.reorder, [row])[0] for row in rows]
    assert len({tuple(each[0].tokens) for each in cached}) > 1
    for other in (uncached, alone):
        assert [[h.tokens for h in each] for each in other] == [[h.tokens for h in each] for each in cached]
        scores = [[h.score for each in texts for h in each] for texts in (other, cached)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-10)
    with torch.no_grad():  # the score is that of the forward pass
        for row, each in enumerate(cached):
            for h in each:
                read = torch.tensor([[BEGIN, *h.tokens]])
                logp = model(source[row : row + 1], mask[row : row + 1], read)[0].log_softmax(dim=-1)
                total = sum(float(logp[i, token]) for i, token in enumerate([*h.tokens, END]))
                assert h.log_probability == pytest.approx(total, rel=1e-10)


def test_the_loss_is_that_of_the_real_tokens_alone():
    model = make("linear")
    source, mask, target = pairs()
    real = torch.arange(TARGET) < torch.tensor([[13], [2], [5], [7], [3]])
    logits = model(source, mask, target[:, :-1]).log_softmax(dim=-1)
    at = real[:, 1:]
    for smoothing in (0.0, 0.1):
        wanted = torch.full_like(logits, smoothing / VOCAB)
        wanted.scatter_add_(2, target[:, 1:, None], torch.full_like(logits[..., :1], 1 - smoothing))
        expected = -(wanted * logits).sum(dim=-1)[at].mean()
        close(model.loss(source, mask, target, at, smoothing=smoothing), expected)
        other = torch.where(real, target, torch.randint(VOCAB, target.shape))
        close(model.loss(source, mask, other, at, smoothing=smoothing), expected)
    close(cross_entropy(logits[at], target[:, 1:][at]), model.loss(source, mask, target, at))
    close(model.predicted(source, mask, target, at).log_softmax(dim=-1), logits[at])


@every_mechanism
def test_every_parameter_is_trained(name):
    model = make(name, dropout=0.2).train()
    source, mask, target = pairs()
    every = torch.ones_like(target[:, 1:], dtype=torch.bool)
    model.loss(source, mask, target, every, smoothing=0.1).backward()
    unused = [
        key for key, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()
    ]
    assert not [key for key in unused if ".own." not in key and ".cross." not in key]
    assert model.tokens.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", OWN)
def test_the_decoder_takes_the_mechanisms_own_forms_where_it_has_them(name):
    options = {"causal": True} if name in ONLY_CAUSAL else {}
    cell = Cell(mechanism=name, options=options, probe="time", seq_len=300, d_model=12, heads=3)
    made = maker(cell)
    model = Seq2Seq(
        made, make_vanilla=made.vanilla, label=made.label, vocab_size=5, max_source=300, max_target=8,
        d_model=12, encoder_layers=1, decoder_layers=2,
    )  # fmt: skip
    block = model.decoder.blocks[0]
    for key, attention, has in (("self", block.own, has_steps), ("cross", block.cross, has_cross)):
        fact = model.facts[f"decoder_{key}_attention"]
        if fact == made.label:
            assert type(attention) is made.kind
        else:
            names = ("no_causal", "no_step") if key == "self" else ("no_cross",)
            declared = [getattr(made.kind, name) for name in names if getattr(made.kind, name)]
            assert fact.startswith("vanilla: it has no ")
            assert fact.endswith(declared[0] if declared else "none is defined")
            assert type(attention) is made.vanilla.kind
        assert isinstance(attention, torch.nn.Module)
        assert has(attention)
        try:
            own = made(8 if key == "self" else 300, causal=key == "self")
        except Unsupported:
            assert fact != made.label
        else:
            assert (fact == made.label) == has(own)


def test_layers_of_the_decoder_share_what_the_mechanism_shares():
    model = make("fastformer")  # its default shares one instance
    first, second = model.decoder.blocks
    assert first.own is second.own
    assert first.cross is second.cross
    assert first.own is not first.cross
    state = model.start(*pairs()[:2])
    assert state.cross[0] is state.cross[1]
    moved = model.reorder(copied(state), torch.tensor([[1], [0]]))
    assert len(list(tensors_of(moved.cross))) == 2
    first, second = make("vanilla").decoder.blocks
    assert first.own is not second.own

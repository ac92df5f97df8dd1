"""Fastformer's two published models: what each is, written down again here, and what they refuse."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from baselines.attention.fastformer import Fastformer
from baselines.peers.authors import AuthorsFastformer
from effbench.measured.models.encoder import Encoder

WIDTH, HEADS = 12, 3


def build(width=WIDTH, heads=HEADS, **options):
    torch.manual_seed(0)
    return Fastformer(width, heads, max_len=300, **options).double()


def released_block(weights, x, heads, *, scorer_bias):
    """The released layer up to its feed-forward part, one sequence, head and token after the other."""
    width = x.shape[-1]
    d = width // heads

    def affine(name, t):
        return weights[f"{name}.weight"] @ t + weights[f"{name}.bias"]

    def pooled(scorer, tokens):
        logits = torch.stack([weights[scorer] @ t + scorer_bias for t in tokens]) / math.sqrt(d)
        share = logits.exp() / logits.exp().sum(dim=0)  # [N, heads]
        parts = []
        for h in range(heads):
            own = slice(h * d, (h + 1) * d)
            parts.append(sum(share[i, h] * tokens[i][own] for i in range(len(tokens))))
        return torch.cat(parts)

    queries = [affine("query", t) for t in x]
    keys = [affine("key", t) for t in x]
    global_query = pooled("score_query", queries)
    mixed = [global_query * key for key in keys]
    global_key = pooled("score_key", mixed)
    rows = []
    for token, query in zip(x, queries, strict=True):
        attended = affine("transform", global_key * query) + query
        y = token + affine("output", attended)
        variance = ((y - y.mean()) ** 2).mean()
        normed = (y - y.mean()) / (variance + 1e-12).sqrt()
        rows.append(normed * weights["norm.weight"] + weights["norm.bias"])
    return torch.stack(rows)


@pytest.mark.parametrize("n", [1, 5, 12, 70])
def test_official_is_the_released_block(n):
    """Short and long, so both ways that it is computed; and whatever bias the release's scorers have."""
    module = build(variant="official")
    with torch.no_grad():
        module.norm.weight.normal_()
        module.norm.bias.normal_()
    x = torch.randn(2, n, WIDTH, dtype=torch.float64)
    mask = torch.arange(n) < torch.tensor([[n], [(n + 1) // 2]])
    target = torch.randn_like(x)
    leaves = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    own = x.clone().requires_grad_()
    bias = torch.randn(HEADS, dtype=torch.float64)
    expected = [
        released_block(leaves, row[real], HEADS, scorer_bias=bias)
        for row, real in zip(own, mask, strict=True)
    ]
    (torch.cat(expected) * target[mask]).sum().backward()
    for function in (module, module.reference):
        module.zero_grad(set_to_none=True)
        leaf = x.clone().requires_grad_()
        out = function(leaf, mask)
        (out[mask] * target[mask]).sum().backward()
        torch.testing.assert_close(out[mask], torch.cat(expected), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(leaf.grad, own.grad, rtol=1e-9, atol=1e-11)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.grad, leaves[name].grad, rtol=1e-9, atol=1e-11, msg=name)


class AuthorsBlock(nn.Module):
    """The peer, which is the release's attention core, in the release's dense layer, residual and norm."""

    def __init__(self, ours, max_len):
        super().__init__()
        self.core = AuthorsFastformer(WIDTH, HEADS, max_len=max_len).double()
        with torch.no_grad():
            for name in ("query", "key", "transform"):
                getattr(self.core, name).load_state_dict(getattr(ours, name).state_dict())
            self.core.score_query.weight.copy_(ours.score_query)
            self.core.score_key.weight.copy_(ours.score_key)
        self.output, self.norm = copy.deepcopy(ours.output), copy.deepcopy(ours.norm)

    def forward(self, x, mask):
        return self.norm(x + self.output(self.core(x, mask)))


@pytest.mark.parametrize("n", [5, 70])
def test_official_is_the_authors_core_in_their_output_block(n):
    """With biases everywhere, those of their scorers too, which change nothing and get no gradient."""
    ours = build(variant="official")
    theirs = AuthorsBlock(ours, n)
    x = torch.randn(3, n, WIDTH, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(n) < torch.tensor([[n], [(n + 1) // 2], [1]])
    target = torch.randn_like(x)[mask]
    found, expected = ours(x, mask)[mask], theirs(x, mask)[mask]
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    names = ["query.weight", "query.bias", "key.weight", "key.bias", "transform.weight", "transform.bias"]
    of_theirs = [
        theirs.core.get_parameter(name) for name in (*names, "score_query.weight", "score_key.weight")
    ]
    of_ours = [ours.get_parameter(name) for name in (*names, "score_query", "score_key")]
    biases = [theirs.core.score_query.bias, theirs.core.score_key.bias]
    assert all(bias.any() for bias in biases)
    grads = torch.autograd.grad((found * target).sum(), [x, *of_ours])
    *expected_grads, first, second = torch.autograd.grad((expected * target).sum(), [x, *of_theirs, *biases])
    for name, mine, its in zip(("x", *names, "score_query", "score_key"), grads, expected_grads, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-11, msg=name)
    torch.testing.assert_close(
        torch.cat([first, second]), torch.zeros(2 * HEADS).double(), rtol=0, atol=1e-12
    )


def test_parameters_of_the_published_models():
    """At the paper's width: 3 D^2 + 2 D + D, and the release's 205,600 and 404,000 of a whole layer."""
    count = {
        variant: sum(p.numel() for p in Fastformer(256, 16, max_len=8, variant=variant).parameters())
        for variant in ("paper", "official")
    }
    assert count["paper"] == 3 * 256**2 + 2 * 256 + 256 == 197_376
    dense, norm, inert = 256**2 + 256, 2 * 256, 2 * 16
    assert count["official"] == 205_600 - inert + dense + norm == 271_872
    feed_forward = sum(
        p.numel()
        for part in (nn.Linear(256, 256), nn.Linear(256, 256), nn.LayerNorm(256))
        for p in part.parameters()
    )
    assert count["official"] + inert + feed_forward == 404_000


@pytest.mark.parametrize(
    ("options", "sharing"),
    [
        ({}, "layer-wise"),
        ({"variant": "official"}, "query-value"),
        ({"variant": "official", "sharing": "layer-wise"}, "layer-wise"),
        ({"sharing": "query-value"}, "query-value"),
        ({"sharing": "head-wise"}, "head-wise"),
        ({"sharing": "none"}, "none"),
    ],
    ids=str,
)
def test_each_variant_has_its_published_sharing(options, sharing):
    module = build(**options)
    assert module.sharing == sharing
    assert module.shares_layers == (sharing == "layer-wise")
    encoder = Encoder(lambda: build(**options), d_model=WIDTH, layers=3)
    assert len({id(block.mechanism) for block in encoder.blocks}) == (1 if sharing == "layer-wise" else 3)


def test_published_is_a_name_for_the_papers_sharing():
    x = torch.randn(2, 30, WIDTH, dtype=torch.float64)
    assert torch.equal(build()(x), build(sharing="layer-wise", variant="paper")(x))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"variant": "keras"}, "variant is 'keras', must be paper or official"),
        (
            {"sharing": "none"},
            "sharing is 'none', must be published, query-value or layer-wise with variant=off",
        ),
        ({"sharing": "head-wise"}, "sharing is 'head-wise', must be .*each of its scores sees all heads"),
        ({"interaction": "add"}, "interaction is 'add', must be product with variant=official"),
        ({"interaction": "concat"}, "interaction is 'concat', must be product with variant=official"),
    ],
    ids=str,
)
def test_what_the_release_does_not_have_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        build(**{"variant": "official", **options})

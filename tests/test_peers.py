"""Public implementations: the same function as ours under the same weights, where the definitions agree.

Where they do not, the test says why and asserts what is true. A test whose library is absent is skipped.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from baselines.attention import bigbird
from effbench import Unsupported
from effbench.common import registry
from effbench.common.spec import Cell, Job, Limits
from effbench.sweep.inline import InlineExecutor

PEERS = [name for name in registry.names("mechanism") if ":" in name]
NEED_NOTHING = ("authors:fastformer", "torch:mha", "torch:sdpa")
CUDA_ONLY = [name for name in PEERS if name.startswith(("fla:", "xformers:"))]
WIDTH, HEADS = 12, 3

# performer-pytorch compares torch's version in a way that is going away
distutils_is_old = pytest.mark.filterwarnings("ignore:distutils Version:DeprecationWarning")


def need(name):
    """Skip the test unless the library of an adapter is installed."""
    plugin = registry.find(name, "mechanism")
    missing = [library for library, found in registry.versions(plugin).items() if found is None]
    if missing:
        pytest.skip(f"{name} needs {', '.join(missing)}: {plugin.install}")


def build(name, *, max_len, width=WIDTH, heads=HEADS, dtype=torch.float64, **options):
    """A mechanism by its registered name. What its library starts at zero is drawn: zeros hide mistakes."""
    need(name)
    torch.manual_seed(0)
    made = registry.load(registry.find(name, "mechanism"))(width, heads, max_len=max_len, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return made.to(dtype).train()


def ends(n, *lengths):
    """A padding mask [batch, N] with padding at the end."""
    return torch.arange(n) < torch.tensor(lengths)[:, None]


def taken(where, tensors):
    """What of theirs makes one of ours: a name, several one above the other, or a function of all."""
    if callable(where):
        return where(tensors)
    return torch.cat([tensors[name] for name in ([where] if isinstance(where, str) else where)])


def copy_weights(ours, theirs, shared):
    """Give ours their weights. What either has alone (a bias) becomes zero."""
    alone = [
        name
        for name in dict(theirs.named_parameters())
        if not any(callable(where) or name in where or name == where for where in shared.values())
    ]
    with torch.no_grad():
        for name in alone:
            theirs.get_parameter(name).zero_()
        tensors = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            if name in shared:
                parameter.copy_(taken(shared[name], tensors))
            else:
                parameter.zero_()


def differences(ours, theirs, shared, x, mask):
    """(of the output, of the gradients of the input and of every shared weight), relative to the largest.

    Only real tokens count. A gradient that is zero but for rounding is held against 1e-3 of the largest.
    """
    weights = torch.randn_like(x)
    real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
    weights = weights * real[..., None]
    outputs, grads = [], []
    for module in (ours, theirs):
        module.zero_grad(set_to_none=True)
        leaf = x.detach().clone().requires_grad_()
        out = module(leaf, mask)
        (out * weights).sum().backward()
        outputs.append(out.detach()[real])
        found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        grads.append({"the input": leaf.grad, **found})
    assert outputs[1].abs().max() > 1e-3
    pairs = {"the input": (grads[0]["the input"], grads[1]["the input"])}
    pairs |= {name: (grads[0][name], taken(where, grads[1])) for name, where in shared.items()}
    floor = 1e-3 * max(float(theirs.abs().max()) for _, theirs in pairs.values())
    errors = {
        name: float((a - b).abs().max()) / max(float(b.abs().max()), floor) for name, (a, b) in pairs.items()
    }
    return float((outputs[0] - outputs[1]).abs().max() / outputs[1].abs().max()), errors


def assert_same(ours, theirs, shared, x, mask=None, *, output=1e-12, gradient=1e-11):
    copy_weights(ours, theirs, shared)
    error, errors = differences(ours, theirs, shared, x, mask)
    assert error <= output, f"output: {error:.1e}"
    for name, found in errors.items():
        assert found <= gradient, f"gradient of {name}: {found:.1e}"


def three(prefix, suffix=""):
    """Ours makes queries, keys and values with one map; theirs has three."""
    return {
        f"qkv.{kind}": [f"{prefix}{part}{suffix}.{kind}" for part in ("query", "key", "value")]
        for kind in ("weight", "bias")
    }


def tokens(batch, n, width=WIDTH, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(batch, n, width, dtype=dtype)


OUT = {"out.weight": "out.weight", "out.bias": "out.bias"}


# vanilla attention


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 33, 130])
@pytest.mark.parametrize("padded", [False, True])
def test_torch_layers_are_vanilla(causal, n, padded):
    mask = ends(n, n, (n + 1) // 2) if padded else None
    ours = build("vanilla", max_len=n, causal=causal)
    mha = build("torch:mha", max_len=n, causal=causal)
    packed = {
        "qkv.weight": "layer.in_proj_weight",
        "qkv.bias": "layer.in_proj_bias",
        "out.weight": "layer.out_proj.weight",
        "out.bias": "layer.out_proj.bias",
    }
    assert_same(ours, mha, packed, tokens(2, n), mask)
    sdpa = build("torch:sdpa", max_len=n, causal=causal)
    assert_same(ours, sdpa, {**three(""), **OUT}, tokens(2, n), mask)


# Fastformer


def own_features(name):
    """Of a score map [heads, D], what head h reads of its own features: [heads, d]."""
    place = torch.arange(HEADS)
    return lambda tensors: tensors[name].unflatten(1, (HEADS, -1))[place, place]


@pytest.mark.parametrize("n", [5, 12, 70])
@pytest.mark.parametrize("padded", [False, True])
def test_the_authors_fastformer_is_ours_if_heads_score_by_their_own_features(n, padded):
    """Their maps have biases and let a head's score see all heads: without both it is the paper's layer."""
    theirs = build("authors:fastformer", max_len=n)
    with torch.no_grad():
        own = torch.eye(HEADS, dtype=torch.float64).repeat_interleave(WIDTH // HEADS, dim=1)
        for part in (theirs.score_query, theirs.score_key):
            part.weight.mul_(own)
            part.bias.zero_()
        theirs.query.bias.zero_()
        theirs.key.bias.zero_()
    shared = {
        "query.weight": "query.weight",
        "key.weight": "key.weight",
        "score_query": own_features("score_query.weight"),
        "score_key": own_features("score_key.weight"),
        "transform.weight": "transform.weight",
        "transform.bias": "transform.bias",
    }
    ours = build("fastformer", max_len=n, sharing="layer-wise")
    assert_same(ours, theirs, shared, tokens(2, n), ends(n, n, n // 2 + 1) if padded else None)


# windows


@pytest.mark.parametrize("global_tokens", [0, 1, 3])
@pytest.mark.parametrize("n", [24, 61, 150])
@pytest.mark.parametrize("padded", [False, True])
def test_transformers_longformer_is_ours(global_tokens, n, padded, monkeypatch):
    """With its global maps' biases at zero. 61 and 150 tokens are no whole windows: the adapter pads them."""
    # it asks for softmaxes in float32 whatever it is given
    monkeypatch.setattr(F, "softmax", lambda scores, dim, dtype=None: scores.softmax(dim))
    options = {"window": 4, "global_tokens": global_tokens}
    theirs, ours = build("hf:longformer", max_len=n, **options), build("longformer", max_len=n, **options)
    shared = {**three("layer."), **OUT}
    if global_tokens:
        shared |= {f"{m}_global.weight": f"layer.{m}_global.weight" for m in ("query", "key", "value")}
    assert_same(ours, theirs, shared, tokens(3, n), ends(n, n, n // 2, 9) if padded else None)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [24, 61, 150])
@pytest.mark.parametrize("padded", [False, True])
def test_local_attention_is_longformer_without_global_tokens(causal, n, padded):
    """61 and 150 tokens are no whole windows: it fills them up."""
    theirs = build("lucidrains:local", max_len=n, causal=causal, window=4)
    ours = build("longformer", max_len=n, causal=causal, window=4, global_tokens=0)
    shared = {"qkv.weight": "layer.to_qkv.weight", "out.weight": "layer.to_out.weight"}
    assert_same(ours, theirs, shared, tokens(3, n), ends(n, n, n // 2, 9) if padded else None)


# BigBird


@pytest.fixture
def with_plan(monkeypatch):
    """``with_plan(plan)`` makes ours use a plan; nothing of it stays in the caches."""
    bigbird._gathered.cache_clear()
    yield lambda plan: monkeypatch.setattr(bigbird, "_plan", lambda *rule: plan)
    monkeypatch.undo()
    bigbird._gathered.cache_clear()


def drawn(theirs, x, monkeypatch):
    """The random blocks that the library draws for these tokens: [heads, blocks - 2, random blocks]."""
    found = []

    def kept(draw, *args, **kwargs):
        blocks = draw(*args, **kwargs)
        found.append(np.array(blocks))
        return blocks

    with monkeypatch.context() as patch:
        for name in ("_bigbird_block_rand_mask", "_bigbird_block_rand_mask_with_head"):
            patch.setattr(theirs.layer, name, partial(kept, getattr(theirs.layer, name)))
        with torch.no_grad():
            theirs(x)
    rows = x.shape[1] // theirs.block - 2
    return np.concatenate([blocks.reshape(-1, rows, theirs.random_blocks) for blocks in found])


def plan_of(random_blocks):
    """(what each head and block of queries sees, blocks of queries that have a block twice)."""
    last = random_blocks.shape[1] + 1
    plan, twice = [], set()
    for of_head in random_blocks:
        rows = [tuple(range(last + 1))] * (last + 1)
        for i in range(1, last):
            fixed = {0, i - 1, i, i + 1, last}
            rows[i] = tuple(sorted(fixed | set(of_head[i - 1].tolist())))
            if len(rows[i]) < len(fixed) + len(of_head[i - 1]):
                twice.add(i)
        plan.append(tuple(rows))
    return tuple(plan), twice


BIGBIRD = {**three("layer."), **OUT}


@pytest.mark.parametrize(("n", "block", "seed"), [(1024, 16, 0), (1024, 32, 3), (768, 16, 0), (96, 8, 0)])
@pytest.mark.parametrize("padded", [False, True])
def test_transformers_bigbird_is_ours_with_the_blocks_that_it_draws(
    n, block, seed, padded, with_plan, monkeypatch
):
    """Its draw differs from ours: at 1024 from all blocks, else from the first 2 r + 5.

    At 1024 it may draw a neighbour once more for the last rows, and then counts it twice: here no row does.
    """
    theirs = build("hf:bigbird", max_len=n, block=block)
    theirs.layer.seed = seed
    ours = build("bigbird", max_len=n, block=block)
    plan, twice = plan_of(drawn(theirs, tokens(1, n), monkeypatch))
    assert not twice
    with_plan(plan)
    mask = ends(n, n, n // 2 + 5) if padded else None
    assert_same(ours, theirs, BIGBIRD, tokens(2, n), mask)


def test_transformers_bigbird_counts_a_block_twice_that_it_draws_beside_the_query(with_plan, monkeypatch):
    """Only in the rows of the last blocks: all others are ours."""
    n, block = 1024, 16
    theirs = build("hf:bigbird", max_len=n, block=block)
    theirs.layer.seed = 2
    ours = build("bigbird", max_len=n, block=block)
    plan, twice = plan_of(drawn(theirs, tokens(1, n), monkeypatch))
    assert twice
    assert twice <= {n // block - 3, n // block - 2}
    with_plan(plan)
    copy_weights(ours, theirs, BIGBIRD)
    with torch.no_grad():
        apart = (ours(tokens(1, n)) - theirs(tokens(1, n))).abs().amax(dim=(0, 2))
    apart = apart.unflatten(0, (-1, block)).amax(dim=1)
    assert {i for i, found in enumerate(apart.tolist()) if found > 1e-6} == twice
    assert all(found < 1e-12 for i, found in enumerate(apart.tolist()) if i not in twice)


@pytest.mark.parametrize("n", [1024, 768])
@pytest.mark.parametrize("training", [True, False])
def test_transformers_bigbird_computes_the_same_without_its_map(n, training):
    bare, shipped = (
        build("hf:bigbird", max_len=n, block=16, build_map=built, dtype=torch.float32).train(training)
        for built in (False, True)
    )
    for x, mask in ((tokens(2, n, dtype=torch.float32), None), (tokens(2, n).float(), ends(n, n, 400))):
        found = []
        for module in (bare, shipped):
            leaf = x.clone().requires_grad_()
            out = module(leaf, mask)
            gradients = torch.autograd.grad(out.square().sum(), [leaf, *module.parameters()])
            found.append([out, *gradients])
        for one, other in zip(*found, strict=True):
            assert torch.equal(one, other)


# Linformer, linear attention, Performer


@pytest.mark.parametrize("n", [7, 40, 64])
def test_linformer_is_ours(n):
    """A shorter input uses the first rows of both projections. Its queries have no bias; it takes no mask."""
    theirs, ours = (build(name, max_len=64, k=10) for name in ("lucidrains:linformer", "linformer"))
    shared = {
        "query.weight": "layer.to_q.weight",
        "key.weight": "layer.to_k.weight",
        "value.weight": "layer.to_v.weight",
        "project_keys": "layer.proj_k",
        "project_values": "layer.proj_v",
        "out.weight": "layer.to_out.weight",
        "out.bias": "layer.to_out.bias",
    }
    assert_same(ours, theirs, shared, tokens(2, n))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [7, 33, 130])
@pytest.mark.parametrize("padded", [False, True])
def test_fast_transformers_linear_attention_is_ours(causal, n, padded):
    """Causal in float32: its kernel knows no other numbers."""
    dtype = torch.float32 if causal else torch.float64
    theirs = build("fast-transformers:linear", max_len=n, causal=causal, dtype=dtype)
    ours = build("linear", max_len=n, causal=causal, dtype=dtype)
    shared = {
        **three("layer.", "_projection"),
        "out.weight": "layer.out_projection.weight",
        "out.bias": "layer.out_projection.bias",
    }
    allowed = {"output": 1e-5, "gradient": 1e-4} if causal else {}
    mask = ends(n, n, n // 2 + 1) if padded else None
    assert_same(ours, theirs, shared, tokens(2, n, dtype=dtype), mask, **allowed)


def test_fast_transformers_refuses_padding_before_a_token():
    theirs = build("fast-transformers:linear", max_len=8)
    with pytest.raises(Unsupported, match="only at the end"):
        theirs(tokens(2, 8), ends(8, 8, 4).flip(1))


def same_performers(n, causal):
    theirs = build("lucidrains:performer", max_len=n, causal=causal, features=9)
    ours = build("performer", max_len=n, causal=causal, features=9)
    theirs.layer.fast_attention.projection_matrix.copy_(ours.directions)
    shared = {f"qkv.{kind}": [f"layer.to_{part}.{kind}" for part in "qkv"] for kind in ("weight", "bias")} | {
        f"out.{kind}": f"layer.to_out.{kind}" for kind in ("weight", "bias")
    }
    return ours, theirs, shared


@distutils_is_old
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [7, 33, 130])
def test_performer_pytorch_without_its_epsilons_is_ours(causal, n, monkeypatch):
    need("lucidrains:performer")
    from performer_pytorch import performer_pytorch as library

    ours, theirs, shared = same_performers(n, causal)
    monkeypatch.setattr(library, "softmax_kernel", partial(library.softmax_kernel, eps=0.0))
    if causal:
        plain = partial(library.causal_linear_attention_noncuda, eps=0.0)
        monkeypatch.setattr(theirs.layer.fast_attention, "causal_linear_fn", plain)
    assert_same(ours, theirs, shared, tokens(2, n))


@distutils_is_old
@pytest.mark.parametrize("causal", [False, True])
def test_performer_pytorch_as_shipped_is_close_to_ours(causal):
    """It adds 1e-4 to every feature, relative to the largest: weights are drawn towards equal ones."""
    ours, theirs, shared = same_performers(130, causal)
    copy_weights(ours, theirs, shared)
    error, _ = differences(ours, theirs, shared, tokens(2, 130), None)
    assert 1e-8 < error < 1e-2


# Nyströmformer and FNet


@pytest.mark.parametrize(("n", "landmarks"), [(24, 8), (64, 8), (130, 13)])
@pytest.mark.parametrize("init", ["original", "exact"])
def test_transformers_nystromformer_is_ours(n, landmarks, init):
    """Its iteration starts from the largest column sum of all heads and sequences: the same for one of each.

    Its other start ("exact") has one of its own for each head and sequence, as ours.
    """
    batch, heads = (1, 1) if init == "original" else (2, HEADS)
    options = {"max_len": n, "heads": heads, "landmarks": landmarks}
    theirs, ours = build("hf:nystromformer", **options), build("nystromformer", **options)
    theirs.layer.init_option = init
    assert_same(ours, theirs, {**three("layer."), **OUT}, tokens(batch, n))


NYSTROM = {
    "qkv.weight": "layer.to_qkv.weight",
    "out.weight": "layer.to_out.0.weight",
    "out.bias": "layer.to_out.0.bias",
}


@pytest.mark.parametrize(("n", "landmarks"), [(24, 8), (64, 8), (130, 13)])
def test_nystrom_attention_is_ours(n, landmarks):
    """For one head and one sequence: its start is over all of them, and there is no other."""
    options = {"max_len": n, "heads": 1, "landmarks": landmarks}
    theirs, ours = build("lucidrains:nystromformer", **options), build("nystromformer", **options)
    assert_same(ours, theirs, NYSTROM, tokens(1, n))


@pytest.mark.parametrize(("n", "landmarks"), [(23, 8), (129, 13)])
def test_nystrom_attention_pads_in_front_and_is_ours_of_the_reversed_sequence(n, landmarks, monkeypatch):
    """One token short of whole segments: its first segment is the short one, the last of ours.

    Padding of the caller's leaves it with other segments than ours, and equality ends.
    """
    options = {"max_len": n, "heads": 1, "landmarks": landmarks}
    theirs, ours = build("lucidrains:nystromformer", **options), build("nystromformer", **options)
    forward = ours.forward
    monkeypatch.setattr(ours, "forward", lambda x, mask: forward(x.flip(1), mask).flip(1))
    assert_same(ours, theirs, NYSTROM, tokens(1, n))


@pytest.mark.parametrize("n", [1, 24, 63])
def test_transformers_fnet_is_ours(n):
    theirs, ours = build("hf:fnet", max_len=n), build("fnet", max_len=n)
    assert_same(ours, theirs, {}, tokens(2, n))


# what every adapter keeps


def measured(name, seq_len=64, **options):
    cell = Cell(
        mechanism=name,
        options=options,
        probe="time",
        mode="train",
        seq_len=seq_len,
        d_model=16,
        heads=2,
        seconds=0.01,
        allocator="system",
    )
    job = Job(cell=cell, limits=Limits(timeout_s=60, memory_bytes=2**32), code="c", data="d")
    return InlineExecutor().run(job, lambda fraction, text: None)


def test_all_adapters_are_found_without_their_libraries():
    code = (
        "import sys; from effbench.common import registry\n"
        "found = [registry.find(n, 'mechanism') for n in registry.names('mechanism') if ':' in n]\n"
        "assert len(found) >= 18\n"
        "libraries = {name.replace('-', '_') for plugin in found for name in plugin.requires}\n"
        "libraries |= {'torch', 'numpy', 'fla', 'fast_transformers', 'baselines.peers'}\n"
        "assert not libraries & set(sys.modules), libraries & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", PEERS)
def test_an_adapter_says_what_it_is_and_what_it_needs(name):
    plugin = registry.find(name, "mechanism")
    assert plugin.module.startswith("baselines.peers.")
    assert plugin.summary
    assert plugin.source
    assert plugin.order
    assert bool(plugin.requires) == bool(plugin.install) == (name not in NEED_NOTHING)


@pytest.mark.parametrize("name", [name for name in PEERS if name not in NEED_NOTHING])
def test_without_its_library_an_adapter_is_unsupported_and_says_how_to_get_it(name, monkeypatch):
    plugin = registry.find(name, "mechanism")
    if None not in registry.versions(plugin).values():

        def absent(library):
            raise PackageNotFoundError(library)

        monkeypatch.setattr(registry, "version", absent)
    record = measured(name)
    assert record.status == "unsupported"
    assert f"needs {plugin.requires[0]}, which is not installed: {plugin.install}" in record.reason
    assert "pip install" in plugin.install
    assert not record.samples


@distutils_is_old
@pytest.mark.parametrize("name", [name for name in PEERS if name not in CUDA_ONLY])
def test_an_adapter_is_measured_and_its_library_named(name):
    need(name)
    options = {"hf:bigbird": {"block": 4}, "hf:nystromformer": {"landmarks": 8}}
    record = measured(name, **options.get(name, {}))
    assert (record.status, record.reason) == ("ok", "")
    found = registry.versions(registry.find(name, "mechanism"))
    assert record.values["libraries"] == ", ".join(f"{library} {number}" for library, number in found.items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
@pytest.mark.parametrize("name", CUDA_ONLY)
def test_an_adapter_for_cuda_only_says_so_elsewhere(name):
    need(name)
    record = measured(name, causal=True)
    assert record.status == "unsupported"
    assert "kernels for CUDA only" in record.reason

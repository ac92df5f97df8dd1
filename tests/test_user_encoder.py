"""The scope user-encoder: the user's level of the hierarchical recommender, measured, checked and shown."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from frames import cost_records, raw
from news import D_MODEL, HEADS, MAX_LEN, small_news
from ours import our_mechanisms
from torch import Tensor, nn

from effbench import Unsupported
from effbench.common import registry
from effbench.common.growth import Growth
from effbench.common.spec import MODES, Cell, UsageError
from effbench.measured.compiled import compiled
from effbench.measured.models.hierarchical import Hierarchical
from effbench.measured.models.pooled_encoder import PooledEncoder
from effbench.measured.probes.correctness import Incorrect
from effbench.measured.probes.costs import describe
from effbench.measured.probes.flops import count_work
from effbench.measured.workload import Workload, build, maker
from effbench.records.analyse.summary import summarise
from effbench.show.complexity_tables import complexity_blocks
from effbench.show.overview import overview
from effbench.show.plots import draw
from effbench.sweep.sweep import Sweep

PRESET = Sweep.preset("user-encoder")
PLAIN = sorted({cell.mechanism for cell in PRESET.cells()})


def cell(mechanism: str, **more: Any) -> Cell:
    given: dict[str, Any] = {"seq_len": 20, "batch_size": 3, "d_model": D_MODEL, "heads": HEADS, "layers": 2}
    return Cell(mechanism=mechanism, probe="time", scope="user-encoder", **{**given, **more})


def test_the_preset_has_every_mechanism_of_this_package_with_a_plain_form():
    """But not the control that mixes no tokens."""
    own = our_mechanisms()
    plain = [plugin.name for plugin in own if not getattr(registry.load(plugin), "no_noncausal")]  # noqa: B009
    assert sorted(set(plain) - {"pointwise"}) == PLAIN
    assert 50 in {each.seq_len for each in PRESET.cells()}


@pytest.mark.parametrize("mechanism", PLAIN)
def test_every_mechanism_is_checked_and_has_the_flops_that_are_declared(mechanism):
    for mode, name in (("forward", "forward_flops"), ("train", "train_flops")):
        made = cell(mechanism, mode=mode)
        workload = build(made)
        workload.check()
        call = workload.call()
        call()
        assert count_work(call).flops == getattr(workload.module, name)(made.batch_size, made.seq_len)
        assert workload.module(workload.x).shape == workload.like_output.shape == (3, D_MODEL)
        declared = describe(workload, made)["declared_order"]
        assert declared == str(Growth.parse(getattr(workload.subject, "order")))  # noqa: B009
    assert all(p.grad is not None for p in workload.module.parameters())


@pytest.mark.parametrize("mechanism", PLAIN)
def test_what_padding_holds_does_not_change_a_vector(mechanism):
    workload = build(cell(mechanism, dtype="float64"))
    module, x = workload.module.eval(), workload.x
    mask = torch.arange(x.shape[1]) < torch.tensor([[20], [7], [1]])
    try:
        expected = module(x, mask)
    except Unsupported:
        pytest.skip("it takes no mask")
    torch.testing.assert_close(module(x.masked_fill(~mask[..., None], float("nan")), mask), expected)


@pytest.mark.parametrize("mechanism", ["fastformer", "vanilla"])
@pytest.mark.parametrize("layers", [1, 2])
def test_what_is_measured_is_the_user_encoder_of_the_recommender(mechanism, layers):
    made = cell(mechanism, layers=layers, seq_len=MAX_LEN, dtype="float64")
    workload = build(made)
    recommender = Hierarchical(
        maker(made), small_news(), d_model=D_MODEL, layers=layers, max_len=MAX_LEN, dropout=0.3
    )
    recommender = recommender.double().eval()
    recommender.of_history.load_state_dict(workload.module.state_dict())
    mask = torch.ones(workload.x.shape[:2], dtype=torch.bool)
    measured = workload.call()()
    torch.testing.assert_close(measured, recommender.user(workload.x, mask))


def test_a_vector_is_that_of_the_history_without_padding():
    module = build(cell("vanilla", dtype="float64")).module.eval()
    x = torch.randn(2, 9, D_MODEL, dtype=torch.float64)
    mask = (torch.arange(9) < 5).expand(2, 9)
    torch.testing.assert_close(module(x, mask), module(x[:, :5]))


class _Grows(nn.Module):
    """x -> 1e30 x, which is finite once and infinite twice."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x * 1e30


class _Mixes(nn.Module):
    """Mixes the rows of a batch."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x + x.mean(dim=0)


@pytest.mark.parametrize(
    ("mechanism", "says"), [(_Grows, "not finite"), (_Mixes, "depends on another element of the batch")]
)
def test_a_wrong_result_is_found(mechanism, says):
    module = PooledEncoder(mechanism, d_model=D_MODEL, layers=2)
    workload = Workload(module, torch.randn(2, 20, D_MODEL), mode="forward", causal=False)
    with pytest.raises(Incorrect, match=says):
        workload.check()


@pytest.mark.slow  # it imports the compiler
def test_the_gradients_of_a_compiled_user_encoder_are_compared_with_those_of_its_plain_form(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **how: module)
    workload, _ = compiled(build(cell("fastformer", mode="train")), "default")
    workload.call()()


def test_there_is_no_generation_of_a_user():
    grid = {"scope": "user-encoder", "mode": ",".join(MODES)}
    with pytest.raises(UsageError, match="user-encoder has no mode decode; choose from: forward, train"):
        PRESET.override(grid).cells()


@pytest.mark.parametrize(("scope", "length", "speed"), [
    ("attention", "sequence length N (tokens)", "tokens per second"),
    ("user-encoder", "history length N (clicks)", "clicks per second"),
])  # fmt: skip
def test_plots_say_what_a_length_is(scope, length, speed):
    records = raw(cost_records(("vanilla", "fastformer"), (8, 50, 128), scope=scope, layers=2))
    frame = summarise(records)
    for kind in ("time", "tokens", "memory", "flops"):
        ((_, figure),) = draw(frame, records, kind)
        assert {axes.get_xlabel() for axes in figure.axes} == {length}
    ((_, figure),) = draw(frame, records, "tokens")
    assert figure.axes[0].get_ylabel() == speed
    ((_, figure),) = draw(frame[frame["seq_len"] == 50], records, "tokens")
    assert figure.axes[0].get_xlabel() == f"{speed} at 50 {speed.partition(' ')[0]}"


def test_tables_name_the_user_encoder():
    records = raw(cost_records(("vanilla", "fastformer"), (8, 50, 128), scope="user-encoder", layers=2))
    titles = [block.title for block in (*overview(summarise(records)), *complexity_blocks(records))]
    assert sum("a user encoder of 2 layers" in title for title in titles) == 3

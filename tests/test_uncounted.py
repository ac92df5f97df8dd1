"""Work that hides from the FLOP counter and the memory probe is counted or named."""

from __future__ import annotations

import multiprocessing
import operator
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import hidden_work
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effbench import Unsupported
from effbench.common.spec import Cell, Job, Limits
from effbench.measured import worker
from effbench.measured.probes.failure import ProbeFailed
from effbench.measured.probes.flops import EAGER, EXECUTED, count_work
from effbench.measured.probes.memory import left_out, peak_bytes, saved_bytes
from effbench.measured.probes.products import PRODUCTS

Q = torch.randn(2, 3, 8, 4)
ATTENTION = 2 * 2 * 2 * 3 * 8 * 8 * 4  # FLOPs of softmax(q k^T) v without its softmax


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1) @ v


@pytest.fixture
def library():
    """A namespace of operators that is gone after the test."""
    with torch.library._scoped_library("uncounted", "DEF") as made:
        yield made


def test_an_operator_in_python_counts_as_the_same_work_without_it(library):
    library.define("attend(Tensor q, Tensor k, Tensor v) -> Tensor")
    library.impl("attend", attend, "CompositeExplicitAutograd")
    plain = count_work(lambda: attend(Q, Q, Q))
    assert plain.flops == ATTENTION
    assert count_work(lambda: torch.ops.uncounted.attend(Q, Q, Q)) == plain


def test_a_custom_operator_counts_forward_and_backward():
    @torch.library.custom_op("uncounted_custom::double", mutates_args=())
    def double(x: Tensor, w: Tensor) -> Tensor:
        return x @ w

    def backward(context, gradient):
        x, w = context.saved_tensors
        return gradient @ w.mT, x.mT @ gradient

    double.register_autograd(
        backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
    )
    x, w = torch.randn(5, 6, requires_grad=True), torch.randn(6, 7, requires_grad=True)
    work = count_work(lambda: double(x, w).sum().backward())
    assert work.flops == 3 * 2 * 5 * 6 * 7
    assert not work.uncounted


def test_a_name_of_aten_in_another_namespace_is_not_believed(library):
    for name in ("mul", "copy", "mm"):
        library.define(f"{name}(Tensor x) -> Tensor")
        library.impl(name, lambda x: torch.from_numpy(np.matmul(x.numpy(), x.numpy())), "CPU")
    x = torch.randn(4, 4)
    for name in ("mul", "copy", "mm"):
        work = count_work(partial(getattr(torch.ops.uncounted, name), x))
        assert work.flops == work.other == 0
        assert work.uncounted["Tensor.numpy"] == 2


def test_a_compiled_operator_of_another_library_is_named_whatever_it_returns():
    # torch's own example of such a library: its kernel calls an operator, and could do more
    x = torch.randn(4, 4)
    for guard in (torch.no_grad, torch.inference_mode):
        with guard():
            work = count_work(lambda: torch.ops._test.leaky_relu(x, 0.1))
        assert work.uncounted == {"_test::leaky_relu": 1}


def test_the_formula_of_an_operators_author_counts(library):
    library.define("opaque(Tensor x) -> Tensor")
    library.impl("opaque", lambda x: torch.from_numpy(x.numpy() @ x.numpy()), "CPU")
    opaque = torch.ops.uncounted.opaque
    registry = torch.utils.flop_counter.flop_registry
    torch.utils.flop_counter.register_flop_formula(opaque)(lambda shape, out_shape=None: 7 * shape[0])
    try:
        assert count_work(lambda: opaque(torch.randn(4, 4))).flops == 28
    finally:
        del registry[opaque]


def heads_on(pool):
    return list(pool.map(lambda i: attend(Q[:, i], Q[:, i], Q[:, i]), range(3)))


def test_work_on_other_threads_is_named_whether_they_are_new_or_were_there():
    def new_threads():
        with ThreadPoolExecutor(2) as pool:
            return heads_on(pool)

    with ThreadPoolExecutor(2) as old:
        heads_on(old)
        for call in (new_threads, lambda: heads_on(old)):
            work = count_work(call)
            assert work.flops == 0
            assert work.uncounted["aten::bmm on another thread"] == 6
            assert sum(left_out(call).values()) >= 6


def _forked(x):
    later = torch.jit.fork(torch.mm, x, x)
    return torch.jit.wait(later) + x


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchs_own_threads_are_counted_or_raise_no_alarm():
    forked = torch.jit.script(_forked)
    x = torch.randn(16, 16)
    work = count_work(lambda: forked(x))
    assert work.flops == 2 * 16**3
    assert not work.uncounted
    assert not left_out(lambda: forked(x))
    large = torch.randn(400, 400, requires_grad=True)  # on several threads of OpenMP

    def trained():
        (large @ large).softmax(-1).sort().values.sum().backward()

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        work = count_work(trained)
        assert not left_out(trained)
    finally:
        torch.set_num_threads(threads)
    assert work.flops == 3 * 2 * 400**3
    assert not work.uncounted


def test_an_idle_thread_raises_no_alarm():
    stop = threading.Event()
    idle = threading.Thread(target=stop.wait)
    idle.start()
    try:
        assert not count_work(lambda: Q @ Q.mT).uncounted
        assert not left_out(lambda: Q @ Q.mT)
    finally:
        stop.set()
        idle.join()


def _busy(n):
    return sum(i * i for i in range(n))


def test_work_in_other_processes_is_named_and_idle_ones_are_not():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(_busy, (10,))
        assert not count_work(lambda: Q @ Q.mT).uncounted
        assert count_work(lambda: pool.apply(_busy, (100_000,))).uncounted == {"other processes": 1}
        assert left_out(lambda: pool.apply(_busy, (100_000,))) == {"other processes": 1}


def test_numbers_that_go_to_another_library_are_named_and_indices_are_not():
    x, index = torch.randn(4, 4), torch.arange(4)
    assert count_work(lambda: np.asarray(x) @ np.asarray(x)).uncounted == {"Tensor.numpy": 2}
    assert count_work(lambda: x.data_ptr()).uncounted == {"Tensor.data_ptr": 1}
    assert not count_work(lambda: (index.numpy(), index.tolist(), x.tolist(), x.sum().item())).uncounted


def test_what_runs_with_the_counter_switched_off_is_named():
    def hidden():
        with torch.utils._python_dispatch._disable_current_modes():
            return Q @ Q.mT

    work = count_work(hidden)
    assert work.flops == 0
    assert work.uncounted == {"aten::bmm": 1}


class Halves(Tensor):
    """A wrapper whose operators run on the two tensors that it holds."""

    @staticmethod
    def __new__(cls, first, second):
        return Tensor._make_wrapper_subclass(cls, (2 * first.shape[0], *first.shape[1:]), dtype=first.dtype)

    def __init__(self, first, second):
        self.first, self.second = first, second

    def __tensor_flatten__(self):
        return ["first", "second"], None

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[override]  # Tensor's is no method
        halves = [
            [getattr(a, name) if isinstance(a, Halves) else a for a in args] for name in ("first", "second")
        ]
        return cls(*(func(*half, **(kwargs or {})) for half in halves))


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta:UserWarning")
def test_tensors_of_other_kinds_are_counted_by_what_they_hold():
    dense, few = torch.randn(6, 5), torch.eye(6) * torch.arange(6)  # 5 stored numbers
    for sparse in (few.to_sparse(), few.to_sparse_csr(), few.to_sparse_csc()):
        assert count_work(partial(operator.matmul, sparse, dense)).flops == 2 * 5 * 5
    assert count_work(lambda: few.to_sparse_csr() @ few.to_sparse_csr()).flops == 2 * 5
    assert count_work(lambda: few.to_sparse() @ few.to_sparse()).flops == 2 * 5
    work = count_work(lambda: Halves(torch.randn(3, 4), torch.randn(3, 4)) @ torch.randn(4, 5))
    assert (work.flops, dict(work.uncounted)) == (2 * 6 * 4 * 5, {})
    linear = nn.Linear(4, 5)
    rows = torch.randn(10, 4)

    def jagged():
        nested = torch.nested.nested_tensor_from_jagged(rows, offsets=torch.tensor([0, 3, 10]))
        return linear(nested).values().sum().backward()

    work = count_work(jagged)
    assert (work.flops, dict(work.uncounted)) == (2 * 2 * 10 * 4 * 5, {})  # no gradient of the rows
    assert saved_bytes(jagged, linear.parameters()) >= rows.nbytes
    per_sample = count_work(lambda: torch.vmap(lambda x: torch.dot(x, x))(torch.randn(9, 4)))
    assert (per_sample.flops, dict(per_sample.uncounted)) == (2 * 9 * 4, {})
    gradient = torch.func.grad(lambda w: (dense @ w).sum())
    assert count_work(lambda: gradient(torch.randn(5, 3))).flops == 2 * 2 * 6 * 5 * 3


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype:UserWarning")
def test_nested_tensors_count_what_their_kernels_execute():
    nested = torch.nested.nested_tensor([torch.randn(3, 4), torch.randn(7, 4)])
    work = count_work(lambda: F.linear(nested, torch.randn(5, 4)))
    assert (work.flops, dict(work.uncounted)) == (2 * 10 * 4 * 5, {})
    work = count_work(lambda: nested @ nested.transpose(1, 2))
    assert (work.flops, dict(work.uncounted)) == (2 * 2 * 7 * 4 * 7, {})  # padded to the longest


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_saved_and_parameter_bytes_know_sparse_tensors():
    weight = torch.eye(8).to_sparse().requires_grad_()
    x = torch.randn(8, 4, requires_grad=True)
    kept = saved_bytes(lambda: torch.sparse.mm(weight, x), [x])
    assert kept == 8 * 4 + 2 * 8 * 8  # values and two indices of eight numbers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_compiled_function_counts_as_its_eager_program_forward_and_train():
    w = torch.randn(4, 4, requires_grad=True)
    x = torch.randn(8, 4, requires_grad=True)
    plain = count_work(lambda: (x @ w).sum().backward())
    assert plain.method == EXECUTED
    compiled = torch.compile(lambda x: x @ w, fullgraph=True, backend="aot_eager")
    work = count_work(lambda: compiled(x).sum().backward())
    assert (work.flops, work.method, dict(work.uncounted)) == (plain.flops, EAGER, {})
    with torch.no_grad():
        assert count_work(lambda: compiled(x)).flops == 2 * 8 * 4 * 4
    scripted = torch.jit.script(nn.Linear(4, 4))
    traced = torch.jit.trace(nn.Linear(4, 4), x.detach())
    for module in (scripted, traced):
        assert count_work(partial(module, x)).flops == 2 * 8 * 4 * 4


def test_recomputation_counts():
    x = torch.randn(8, 4, requires_grad=True)
    w = torch.randn(4, 4, requires_grad=True)

    def layer(x):
        return (x @ w).tanh() @ w

    plain = count_work(lambda: layer(x).sum().backward()).flops
    again = count_work(
        lambda: torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).sum().backward()
    )
    assert plain == 6 * 2 * 8 * 4 * 4
    # torch stops to compute again as soon as all that is needed is there: the last product is not
    assert again.flops in (plain + 2 * 8 * 4 * 4, plain + 2 * 2 * 8 * 4 * 4)
    assert not again.uncounted


def test_a_probes_own_failure_blames_no_mechanism(monkeypatch):
    class Watched(Exception):
        pass

    def fails_when_watched():
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise Watched("x" * 5000)

    with pytest.raises(ProbeFailed, match="^flops cannot be measured: the call works alone") as caught:
        count_work(fails_when_watched)
    assert len(str(caught.value)) < 300

    def fails():
        raise Watched("mine")

    with pytest.raises(Watched, match="mine"):
        count_work(fails)

    def refuses():
        raise Unsupported("not counted")

    with pytest.raises(Unsupported, match="not counted"):
        count_work(refuses)
    monkeypatch.setitem(PRODUCTS, "aten::mm", lambda a, out: 1 // 0)
    with pytest.raises(ProbeFailed, match="^flops cannot be counted: ZeroDivisionError"):
        count_work(lambda: Q[0, 0] @ Q[0, 0].mT)
    hooked = torch.func.grad(lambda w: (w @ w).sum())
    with pytest.raises(ProbeFailed, match="^saved_bytes cannot be measured: the call works alone"):
        saved_bytes(lambda: hooked(torch.randn(3, 3)))
    assert peak_bytes(lambda: hooked(torch.randn(3, 3)))[0] > 0


def measured(name, probe, mode="forward"):
    cell = Cell(
        mechanism=f"{hidden_work.__file__}:{name}", probe=probe, mode=mode, seq_len=16, d_model=8, heads=2,
        allocator="system", threads=torch.get_num_threads(),
    )  # fmt: skip
    limits = Limits(timeout_s=60, memory_bytes=2**33)
    return worker.measure(Job(cell=cell, limits=limits), lambda share, text: None)


def test_the_row_names_what_its_figures_leave_out():
    flops = measured("Threaded", "flops")
    assert flops.status == "ok"
    assert "aten::bmm on another thread (4 calls)" in flops.values["flops_left_out"]
    memory = measured("Threaded", "memory")
    assert "on another thread" in memory.values["memory_left_out"]


def test_a_complex_mechanism_keeps_its_imaginary_parts():
    assert measured("Complex", "flops").values["flops"] == 8 * 16 * 8 * 8


def test_a_probe_that_fails_is_unsupported_and_leaves_what_else_was_measured():
    flops = measured("ShyOfCounters", "flops")
    assert flops.status == "unsupported"
    assert flops.reason.startswith("flops cannot be measured: the call works alone")
    memory = measured("Functional", "memory", "train")
    assert memory.status == "ok"
    assert memory.values["peak_bytes"] > 0
    assert "saved_bytes" not in memory.values
    assert memory.values["memory_left_out"].startswith("saved_bytes cannot be measured")
    assert measured("Functional", "flops", "train").values["flops_left_out"] == ""

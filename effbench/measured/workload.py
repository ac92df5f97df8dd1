"""Build what a cell measures: the module, its input and the call, for worker, gate and audit alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from effbench.common import registry
from effbench.common.spec import Cell, Mode, Option
from effbench.common.wording import plural
from effbench.measured.decoding import Decoding, Inference
from effbench.measured.mechanism import Unsupported
from effbench.measured.models.encoder import Encoder
from effbench.measured.models.pooled_encoder import PooledEncoder
from effbench.measured.patterns import require_steps
from effbench.measured.probes.correctness import Incorrect, check, check_steps, check_vectors
from effbench.measured.recommender import MakeRecommender

Call = Callable[[], object]


@dataclass(frozen=True)
class Workload:
    """A module on its device, its input x [B, N, d_model], and how the two are called.

    The module returns [B, N, d_model]; a user encoder returns [B, d_model].
    ``mode``: what a call is, as in a cell; x is the context of a decoded token. ``causal``: the mechanism is
    asked for its causal form. ``compiled`` is the module after torch.compile, which is called instead if
    there is one (``effbench.measured.compiled``).
    """

    module: nn.Module
    x: Tensor
    mode: Mode
    causal: bool
    compiled: nn.Module | None = None

    @property
    def train(self) -> bool:
        """True if a call is a forward and a backward pass."""
        return self.mode == "train"

    @property
    def timed(self) -> nn.Module:
        """The module that is called: compiled, if it was."""
        return self.module if self.compiled is None else self.compiled

    @property
    def subject(self) -> nn.Module:
        """The module that the laws test; in a user encoder, its mechanism."""
        return self.module.mechanism if isinstance(self.module, PooledEncoder) else self.module

    @property
    def like_output(self) -> Tensor:
        """A tensor of the output's shape, dtype and device."""
        return self.x[:, 0] if isinstance(self.module, PooledEncoder) else self.x

    def check(self) -> None:
        """Compare the subject with the laws and with its own reference. Raises Incorrect if it is wrong."""
        check(self.subject, self.x, train=self.train, causal=self.causal)
        if self.subject is not self.module:
            check_vectors(self.module, self.x)
        if self.mode == "decode":
            check_steps(self.module, self.x)

    def call(self, note: Callable[[str], object] = lambda text: None) -> Call:
        """Return what is measured; ``note`` is told once if inference mode is refused."""
        if self.mode == "decode":
            return Decoding(self.timed, self.x, note)
        if self.train:
            return train_call(self.timed, self.x, self.like_output)
        return forward_call(self.timed, self.x, note)


def build(cell: Cell) -> Workload:
    """Build the module and the input of a cell; weights and input depend on ``seed + repeat`` alone.

    Raises Unsupported if the device or a library is missing, or if the mechanism refuses the cell.
    """
    device = device_of(cell.device)
    make = maker(cell)
    torch.manual_seed(cell.seed + cell.repeat)
    module = cast(_module(cell, make).to(device), getattr(torch, cell.dtype))
    torch.manual_seed(cell.seed + cell.repeat)  # the input depends neither on the weights nor on their seed
    dtype = getattr(torch, cell.dtype)
    x = torch.randn(cell.batch_size, cell.seq_len, cell.d_model, device=device, dtype=dtype)
    return Workload(module, x, mode=cell.mode, causal=bool(_options(cell)["causal"]))


def _module(cell: Cell, make: Callable[[], nn.Module]) -> nn.Module:
    if cell.scope == "attention":
        return make()
    kind = Encoder if cell.scope == "encoder" else PooledEncoder
    return kind(make, d_model=cell.d_model, layers=cell.layers)


def device_of(name: str) -> torch.device:
    """Return the device of this name. Raises Unsupported if this torch has no such device.

    A CUDA device becomes the current one, on which torch records events and whose memory its statistics tell.
    """
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise Unsupported("this torch finds no CUDA device")
        if (device.index or 0) >= (count := torch.cuda.device_count()):
            raise Unsupported(f"there is no {name}: torch finds {plural(count, 'CUDA device')}")
        torch.cuda.set_device(device.index or 0)
    return device


@dataclass(frozen=True)
class MechanismMaker:
    """Makes new instances of a cell's mechanism, on the CPU and in float32.

    ``kind`` is the mechanism's class, ``label`` the mechanism as a user writes it.
    """

    kind: type
    cell: Cell

    @property
    def label(self) -> str:
        """The mechanism as a user writes it."""
        return self.cell.label

    @property
    def vanilla(self) -> MechanismMaker:
        """The maker of vanilla attention of the same width and heads, for forms that the mechanism lacks."""
        return maker(replace(self.cell, mechanism="vanilla", options={}))

    def __call__(self, max_len: int | None = None, *, causal: bool | None = None) -> nn.Module:
        """Return a new instance for up to ``max_len`` tokens, by default those of the cell.

        ``causal`` asks for that form, by default the one that the cell asks for. Raises Unsupported if the
        mechanism refuses its options, and Incorrect if it is not an ``nn.Module``.
        """
        cell = self.cell
        options = _options(cell) if causal is None else {**_options(cell), "causal": causal}
        longest = cell.seq_len + (1 if cell.mode == "decode" else 0) if max_len is None else max_len
        try:
            made = self.kind(cell.d_model, cell.heads, max_len=longest, **options)
        except ValueError as error:
            raise Unsupported(f"{self.label}: {error}") from None
        if not isinstance(made, nn.Module):
            raise Incorrect(f"{self.kind.__name__} is not an nn.Module")
        if cell.mode == "decode":
            require_steps(made)
        return made


def maker(cell: Cell) -> MechanismMaker:
    """Return what makes new instances of the cell's mechanism.

    Raises Unsupported, with the command that installs them, if required libraries are missing.
    """
    return MechanismMaker(_loaded(registry.find(cell.mechanism, "mechanism")), cell)


def recommender_maker(cell: Cell) -> MakeRecommender | None:
    """Return what makes the cell's recommender; None if the cell names a mechanism.

    Raises Unsupported, with the command that installs them, if required libraries are missing.
    """
    plugin = registry.model(cell.mechanism)
    if plugin.kind != "recommender":
        return None
    return MakeRecommender(
        kind=_loaded(plugin),
        label=cell.label,
        d_model=cell.d_model,
        heads=cell.heads,
        options=dict(cell.options),
    )


def _loaded(plugin: registry.Plugin) -> type:
    """Import the plug-in's class. Raises Unsupported if libraries that it requires are missing."""
    missing = [name for name, version in registry.versions(plugin).items() if version is None]
    if missing:
        how = f": {plugin.install}" if plugin.install else ""
        raise Unsupported(f"{plugin.name} needs {', '.join(missing)}, which is not installed{how}")
    return registry.load(plugin)


def _options(cell: Cell) -> dict[str, Option]:
    """Return the options of the cell's mechanism; a token is decoded with its causal form."""
    return {"causal": cell.mode == "decode", **cell.options}


def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast the real numbers of ``module`` to ``dtype``; return the module.

    Complex parameters stay complex: ``nn.Module.to(dtype=...)`` would drop their imaginary parts.
    """
    module._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)
    return module


def forward_call(
    module: nn.Module, x: Tensor, note: Callable[[str], object] = lambda text: None
) -> Callable[[], Tensor]:
    """Return the forward pass of ``module`` for x [B, N, d_model] in evaluation mode.

    It runs in torch's inference mode, unless the module refuses that (see ``Inference``).
    """
    module.eval()
    run = Inference(note)
    return lambda: run(lambda: module(x))


def train_call(module: nn.Module, x: Tensor, like_output: Tensor | None = None) -> Callable[[], None]:
    """Return a forward and a backward pass of ``module`` in training mode; x [B, N, d_model] is not changed.

    The input's gradient is computed too, as for a layer inside a model. Each call first drops the gradients
    of the call before it. The gradient of the output is random and the same in all calls; it has the shape of
    ``like_output``, by default that of x.
    """
    module.train()
    leaf = x.detach().requires_grad_()
    gradient = torch.randn_like(x if like_output is None else like_output)
    tensors = [leaf, *(p for p in module.parameters() if p.requires_grad)]

    def call() -> None:
        for tensor in tensors:
            tensor.grad = None
        module(leaf).backward(gradient)

    return call

"""The law of options: another legal value of an option changes something."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from effbench.common import registry
from effbench.common.spec import Option, UsageError
from effbench.measured.audit.agreement import LawBroken, Passed, require_equal, with_mask
from effbench.measured.audit.cost_laws import costs_of_training
from effbench.measured.audit.subject import (
    LONG,
    Subject,
    gradients_of,
    named_state,
    output_of,
    real_tokens,
)
from effbench.measured.mechanism import Unsupported


def options(s: Subject) -> Passed:
    """Another legal value of each option changes the parameters, the output, a gradient or a cost."""
    parameters = _schema(s.kind)
    if parameters is None:
        raise Unsupported("its options cannot be read from its source")
    if not parameters:
        raise Unsupported("it has no options")
    effects = _Effects(s, parameters)
    tried: list[str] = []
    untried: list[str] = []
    for parameter in parameters:
        name, current = parameter.name, s.options.get(parameter.name, parameter.default)
        if name == "implementation":
            _same_function(s, [current, *_other_values(parameter, current)])
            tried.append(name)
            continue
        changes: dict[Option, bool] = {}
        for value in _other_values(parameter, current):
            try:
                changes[value] = effects.changes_anything(name, value)
            except (ValueError, Unsupported):
                continue  # the mechanism refuses this value
            if changes[value] and not parameter.choices:
                break
        (tried if changes else untried).append(name)
        idle = [value for value, changed in changes.items() if not changed]
        if idle and (parameter.choices or len(idle) == len(changes)):
            values = ", ".join(map(str, [current, *idle]))
            raise LawBroken(f"{name} has no effect: {values} do the same")
    if not tried:
        raise Unsupported(f"no other value to try for {', '.join(untried)}")
    not_tried = f"; no other value to try for {', '.join(untried)}" if untried else ""
    return f"{', '.join(tried)}{not_tried}", None


class _Effects:
    """Compare a mechanism with another value of one option to the mechanism as audited.

    Since one option may switch another off, values are tried with the given options, with the defaults of
    all other options, and with each choice of every other option.
    """

    def __init__(self, s: Subject, parameters: Sequence[registry.Parameter]) -> None:
        self.subject = s
        self.parameters = parameters
        self.required = {p.name: s.options[p.name] for p in parameters if p.required}
        self.bases = [s.options] if self.required == s.options else [s.options, self.required]
        self.before = [(_behaviour(s, base), costs_of_training(s, base)) for base in self.bases]

    def changes_anything(self, name: str, value: Option) -> bool:
        """True if the value changes behaviour or costs. Raises what the mechanism raises if it refuses."""
        for base, (behaviour, costs) in zip(self.bases, self.before, strict=True):
            given = {**base, name: value}
            if _behaviour(self.subject, given) != behaviour:
                return True
            if costs_of_training(self.subject, given) != costs:
                return True
        others = (other for other in self.parameters if other.name != name)
        return any(self._changes_beside(name, value, other) for other in others)

    def _changes_beside(self, name: str, value: Option, other: registry.Parameter) -> bool:
        """True if the value changes behaviour beside a choice of another option.

        That choice may decide what the value stands for.
        """
        s = self.subject
        for choice in other.choices:
            given = {**self.required, other.name: choice}
            if name in s.options:
                given[name] = s.options[name]
            try:
                if _behaviour(s, given) != _behaviour(s, {**given, name: value}):
                    return True
            except (ValueError, Unsupported):
                continue
        return False


def _behaviour(s: Subject, options: Mapping[str, Option]) -> list[tuple[str, bytes]]:
    """Return parameters, buffers, outputs and gradients, bit by bit, in both modes, with and without a mask.

    ``shares_layers`` is included: it is how an option may act on an encoder only.
    """
    n = min(LONG, s.seq_len)
    module = s.make(options=options)
    shares_layers = torch.tensor(bool(getattr(module, "shares_layers", False)), device="cpu")
    tensors: list[tuple[str, Tensor]] = [*named_state(module), ("shares_layers", shares_layers)]
    for training in (False, True):
        module.train(training)
        for mask in (None, s.ragged_mask(2, n)):
            tensors.append(("output", real_tokens(output_of(module, s.input(2, n), mask), mask)))
        tensors += gradients_of(module, module, s.input(2, n), None, s.loss_weights(2, n, None)).items()
    return [
        (f"{name}{list(t.shape)}", t.detach().contiguous().cpu().numpy().tobytes()) for name, t in tensors
    ]


def _same_function(s: Subject, implementations: Sequence[Option]) -> None:
    """Raise LawBroken unless all implementations have the same outputs; those that refuse are left out."""
    for n, mask in s.lengths_and_masks(2, 65, LONG):
        x = s.input(2, n)
        expected: Tensor | None = None
        for name in implementations:
            module_options = {**s.options, "implementation": name}
            try:
                out = real_tokens(output_of(s.make(options=module_options), x, mask), mask)
            except Unsupported:
                continue
            expected = out if expected is None else expected
            where = f"at N={n}{with_mask(mask)}"
            require_equal(out, expected, f"implementation={name} computes another function {where}")


def _schema(kind: type) -> tuple[registry.Parameter, ...] | None:
    """Return the options that its source declares, without ``causal``; None if they cannot be read."""
    try:
        path = inspect.getsourcefile(kind)
        parameters = registry.find(f"{path}:{kind.__qualname__}", "mechanism").parameters
    except (TypeError, UsageError):
        return None
    return None if parameters is None else tuple(p for p in parameters if p.name != "causal")


def _other_values(parameter: registry.Parameter, current: Option) -> list[Option]:
    """Return values to try instead of the current one, the likeliest to be legal first."""
    if parameter.choices:
        return [choice for choice in parameter.choices if choice != current]
    if isinstance(current, bool):
        return [not current]
    kinds = {part.strip() for part in parameter.kind.split("|")}
    values: list[Option] = []
    if isinstance(current, int):
        values = [current + 1, current - 1, current + 2, current - 2, 2 * current, current // 2]
    elif isinstance(current, float):
        values = [2 * current, current / 2, 0.5, 1.0, 0.25]
    elif "int" in kinds:
        values = [1, 2, 16]
    elif "float" in kinds:
        values = [0.5, 1.0, 2.0]
    elif "bool" in kinds:
        values = [True, False]
    if "None" in kinds:
        values.append(None)
    return [value for value in dict.fromkeys(values) if value != current]

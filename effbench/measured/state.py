"""The state of a generation: its bytes, copies of it, and a choice of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from effbench.measured.mechanism import State


def tensors_of(state: State) -> Iterator[Tensor]:
    """Yield the tensors of a state. Raises TypeError for a part that is no state."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for part in state.values():
            yield from tensors_of(part)
    elif isinstance(state, list | tuple):
        for part in state:
            yield from tensors_of(part)
    elif state is not None and not isinstance(state, int):
        what = "a tensor, a tuple, list or dict of states, a whole number or None"
        raise TypeError(f"a part of the state is a {type(state).__name__}, must be {what}")


def state_bytes(state: State) -> int:
    """Return the bytes of memory that a state keeps; memory that several of its tensors use counts once."""
    storages = {(s := tensor.untyped_storage()).data_ptr(): s.nbytes() for tensor in tensors_of(state)}
    return sum(storages.values())


def copied(state: State) -> State:
    """Return a copy of a state, which can be continued apart from it."""
    return _each(state, Tensor.clone)


def selected(state: State, rows: Tensor) -> State:
    """Return the state of these rows of the batch, in this order; a row may be chosen several times.

    rows [B'] holds indices. A beam search reorders its beams so.
    """
    return _each(state, lambda tensor: tensor.index_select(0, rows))


def _each(state: State, change: Callable[[Tensor], Tensor]) -> State:
    """Return the state with each of its tensors changed."""
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, dict):
        return {name: _each(part, change) for name, part in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):  # a named tuple takes its parts one by one
        return type(state)(*(_each(part, change) for part in state))
    if isinstance(state, list | tuple):
        return type(state)(_each(part, change) for part in state)
    return state

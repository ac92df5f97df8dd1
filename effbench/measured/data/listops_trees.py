"""ListOps trees: their tokens, their value, and Long Range Arena's sampler for many trees at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.examples import Examples

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
TOKENS = ("<pad>", *OPERATORS, "]", *"0123456789")
IDS = {token: i for i, token in enumerate(TOKENS)}
CLOSE, ZERO = IDS["]"], IDS["0"]
VERSION = 1  # of the generator and of the reader of files: raise it when their output changes
ROOTS = 4096  # trees drawn at a time; part of what the random state decides

_P_OPERATOR = 0.25  # an argument is an operator with this probability, else a digit
_MAX_BARREN = 50  # draws in a row that add less than one new tree in 1,000 roots

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The trees that are kept: depth (the root's is 1), arguments, and min_length < tokens < max_length."""

    max_depth: int
    max_args: int
    min_length: int
    max_length: int

    @classmethod
    def of(
        cls, max_length: int, max_depth: int | None, max_args: int, min_length: int | None = None
    ) -> Shape:
        """Return a shape whose trees have nearly ``max_length`` tokens, as far as the others do not decide.

        ``min_length`` is by default three quarters of ``max_length``. ``max_depth`` is by default the least
        one at which a tree has ``max_length`` tokens in the mean, if none is left out for its length.
        """
        return cls(
            max_depth=_depth(max_length, max_args) if max_depth is None else max_depth,
            max_args=max_args,
            min_length=max(1, 3 * max_length // 4) if min_length is None else min_length,
            max_length=max_length,
        )


def _depth(tokens: int, max_args: int) -> int:
    """Return the least depth at which the mean tree has so many tokens; no tree needs a larger one."""
    mean_args = (2 + max_args) / 2
    argument = 1.0  # the mean tokens of an argument; at the deepest level it is a digit
    depth = 2
    while 2 + mean_args * argument < tokens and 3 * depth < tokens:
        argument = 1 - _P_OPERATOR + _P_OPERATOR * (2 + mean_args * argument)
        depth += 1
    return depth


def evaluate(tokens: Sequence[str]) -> int:
    """Return the value of a tree written as tokens, brackets included.

    Raises ValueError that says what is wrong with it.
    """
    stack: list[tuple[str, list[int]]] = []
    for position, token in enumerate(tokens, start=1):
        if token in OPERATORS:
            stack.append((token, []))
            continue
        if token == "]":
            if not stack or not stack[-1][1]:
                raise ValueError(f"token {position} closes nothing")
            value = _apply(*stack.pop())
        elif len(token) == 1 and token in "0123456789":
            value = int(token)
        else:
            raise ValueError(
                f"token {position} is {shown(token)}, not a digit, ] or one of {' '.join(OPERATORS)}"
            )
        if not stack:
            if position != len(tokens):
                raise ValueError(f"the tree ends at token {position} of {len(tokens)}")
            return value
        stack[-1][1].append(value)
    raise ValueError(f"{len(stack)} brackets are not closed" if stack else "there is no tree")


def _apply(operator: str, values: list[int]) -> int:
    if operator == "[MIN":
        return min(values)
    if operator == "[MAX":
        return max(values)
    if operator == "[SM":
        return sum(values) % 10
    ordered = sorted(values)
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) // 2  # LRA truncates the median


# The generator: many trees at once, level by level; a Python loop over nodes takes milliseconds per tree.


@dataclass(frozen=True, kw_only=True)
class _Level:
    """The nodes of one depth: their tree, and their number of arguments, 0 for a digit.

    The arguments of a level's operators are the next level's nodes, in order.
    """

    tree: IntArray
    args: IntArray


def generate(count: int, shape: Shape, rng: np.random.Generator) -> Examples:
    """Return ``count`` different trees as token ids (uint8) with their values, in the order of drawing.

    Raises UsageError where there are too few trees of the shape.
    """
    _check_shape(shape)
    seen: set[bytes] = set()
    tokens: list[NDArray[Any]] = []
    lengths: list[int] = []
    labels: list[int] = []
    barren = 0
    while len(labels) < count:
        before = len(labels)
        drawn = _draw(shape, rng)
        for i in range(len(drawn)):
            row = drawn.row(i)
            digest = hashlib.blake2b(row.tobytes(), digest_size=12).digest()
            if digest in seen or len(labels) == count:
                continue
            seen.add(digest)
            tokens.append(row)
            lengths.append(len(row))
            labels.append(int(drawn.labels[i]))
        barren = barren + 1 if len(labels) - before < ROOTS // 1000 else 0
        if barren == _MAX_BARREN and len(labels) < count:
            raise UsageError(
                f"listops: found only {len(labels)} of {count} different trees with more than "
                f"{shape.min_length} and fewer than {shape.max_length} tokens, max_depth={shape.max_depth} "
                f"and max_args={shape.max_args}; ask for fewer examples, a lower min_length or larger trees"
            )
    return Examples(
        tokens=np.concatenate(tokens),
        starts=np.concatenate(([0], np.cumsum(lengths))),
        labels=np.array(labels, dtype=np.int64),
    )


def _check_shape(shape: Shape) -> None:
    largest = 1
    for _ in range(shape.max_depth - 1):
        largest = min(2 + shape.max_args * largest, shape.max_length)
    least = max(shape.min_length + 1, 4)  # an operator, two digits, a bracket
    if min(largest, shape.max_length - 1) < least:
        raise UsageError(
            f"listops: no tree has more than {shape.min_length} and fewer than {shape.max_length} (seq_len) "
            f"tokens at max_depth={shape.max_depth} and max_args={shape.max_args} (at most {largest}); "
            "change min_length, max_depth or seq_len"
        )


def _draw(shape: Shape, rng: np.random.Generator) -> Examples:
    """Return the trees of ``ROOTS`` draws whose length is kept.

    All roots are operators, since a lone digit has one token and ``min_length`` is at least 1.
    """
    levels, lengths = _shapes(shape, rng)
    keep = (lengths > shape.min_length) & (lengths < shape.max_length)
    number = np.cumsum(keep) - 1
    levels = [
        _Level(tree=number[level.tree[keep[level.tree]]], args=level.args[keep[level.tree]])
        for level in levels
    ]
    levels = [level for level in levels if len(level.tree)]  # the deepest may hold none that is kept
    starts = np.concatenate(([0], np.cumsum(lengths[keep])))
    # An operator and a digit for each node, which uses one of them.
    operators = [rng.integers(len(OPERATORS), size=len(level.tree)) for level in levels]
    digits = [rng.integers(10, size=len(level.tree)) for level in levels]

    values: IntArray = np.empty(0, dtype=np.int64)
    sizes: list[IntArray] = []
    for depth in reversed(range(len(levels))):
        inner = levels[depth].args > 0
        size = np.ones(len(inner), dtype=np.int64)
        value = digits[depth].copy()
        if inner.any():
            args = levels[depth].args[inner]
            size[inner] = 2 + np.add.reduceat(sizes[-1], _firsts(args))
            value[inner] = _apply_all(operators[depth][inner], args, values)
        sizes.append(size)
        values = value
    sizes.reverse()

    tokens = np.zeros(int(starts[-1]), dtype=np.uint8)
    place = starts[:-1]
    for depth, level in enumerate(levels):
        inner = level.args > 0
        tokens[place] = np.where(inner, 1 + operators[depth], ZERO + digits[depth])
        tokens[(place + sizes[depth] - 1)[inner]] = CLOSE
        if inner.any():
            args = level.args[inner]
            before = np.cumsum(sizes[depth + 1]) - sizes[depth + 1]
            place = np.repeat(place[inner] + 1 - before[_firsts(args)], args) + before
    return Examples(tokens=tokens, starts=starts, labels=values)


def _shapes(shape: Shape, rng: np.random.Generator) -> tuple[list[_Level], IntArray]:
    """Return trees without operators and digits, and their lengths; too long ones are left unfinished."""
    lengths = np.zeros(ROOTS, dtype=np.int64)
    tree = np.arange(ROOTS)
    levels: list[_Level] = []
    while len(tree):
        depth = len(levels) + 1
        args = np.zeros(len(tree), dtype=np.int64)
        if depth < shape.max_depth:
            inner = rng.random(len(tree)) <= (1.0 if depth == 1 else _P_OPERATOR)
            args[inner] = rng.integers(2, shape.max_args + 1, size=int(inner.sum()))
        lengths += np.bincount(tree, weights=np.where(args > 0, 2, 1), minlength=ROOTS).astype(np.int64)
        # Each argument will be one token at least.
        pending = np.bincount(tree, weights=args, minlength=ROOTS).astype(np.int64)
        lost = lengths + pending >= shape.max_length
        lengths[lost] = shape.max_length
        alive = ~lost[tree]
        levels = [_of_living(level, lost) for level in levels]
        levels.append(_Level(tree=tree[alive], args=args[alive]))
        tree = np.repeat(tree[alive], args[alive])
    return levels, lengths


def _of_living(level: _Level, lost: NDArray[np.bool_]) -> _Level:
    alive = ~lost[level.tree]
    return _Level(tree=level.tree[alive], args=level.args[alive])


def _firsts(args: IntArray) -> IntArray:
    """Return the place of each operator's first argument among the next level's nodes."""
    return np.cumsum(args) - args


def _apply_all(operators: IntArray, args: IntArray, values: IntArray) -> IntArray:
    """Return the operators' results [n], given their numbers of arguments [n] and all arguments."""
    first = _firsts(args)
    ordered = values[np.lexsort((values, np.repeat(np.arange(len(args)), args)))]
    middle = (ordered[first + (args - 1) // 2] + ordered[first + args // 2]) // 2
    results = np.stack(
        [ordered[first], ordered[first + args - 1], middle, np.add.reduceat(values, first) % 10]
    )
    chosen: IntArray = results[operators, np.arange(len(args))]
    return chosen

"""A mechanism's colour, marker and dashes: the same in every figure and page, whatever else is shown."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from effbench.records.analyse.summary import label
from effbench.show.tables import labels

# Okabe and Ito's colours with brown for their yellow, which is too light for a line. Any two also differ for
# readers without red or green cones; markers and dashes carry the same information in grey.
_OWN = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#6B3D00")
_BLUE, _RED, _GREEN, _PINK, _BLACK, _SKY, _ORANGE, _BROWN = range(len(_OWN))
# A dark and a light shade of each, for further configurations of a mechanism.
_DARK = ("#003A5C", "#7F3800", "#00543D", "#8A4069", "#4D4D4D", "#23779F", "#8F6300", "#3A2100")
_LIGHT = ("#66AAD1", "#EDA36B", "#66C5AB", "#E3B4CE", "#8C8C8C", "#9CD4F3", "#F2C766", "#A6804D")
COLOURS = (*_OWN, *_DARK, *_LIGHT)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
)

# For mechanisms without a look of their own: not the colours of vanilla, fastformer and linear, with which
# most are compared.
_FOR_OTHERS = (_GREEN, _PINK, _BLACK, _ORANGE, _BROWN)
_LIGHTEST = 0.30  # luminance of letters: (1 + 0.05) / (0.30 + 0.05) = 3

Style = dict[str, Any]


class Look(NamedTuple):
    """A place in COLOURS, a marker, and a place in DASHES."""

    colour: int
    marker: str
    dashes: int


# No two share colour and marker. Mechanisms that share a colour are seldom in one figure.
LOOKS = {
    "vanilla": Look(_BLUE, "o", 0),
    "fastformer": Look(_RED, "s", 1),
    "linformer": Look(_GREEN, "^", 2),
    "longformer": Look(_PINK, "D", 3),
    "bigbird": Look(_BLACK, "v", 4),
    "linear": Look(_SKY, "P", 0),
    "performer": Look(_ORANGE, ">", 1),
    "poolingformer": Look(_BROWN, "h", 2),
    "cosformer": Look(_BLACK, "*", 0),
    "nystromformer": Look(_BROWN, "*", 0),
    "fnet": Look(_PINK, "X", 0),
    "luna": Look(_BLUE, "<", 2),
    "retention": Look(_GREEN, "o", 0),
    "gla": Look(_BROWN, "v", 1),
    "deltanet": Look(_PINK, "<", 2),
    "mamba2": Look(_ORANGE, "X", 3),
    "sinks": Look(_RED, "^", 4),
    "hyena": Look(_SKY, "s", 3),
    "pointwise": Look(_BLACK, "D", 2),
    "nrms": Look(_ORANGE, "*", 4),
    "fim": Look(_BLACK, "X", 1),
    "plm-nr": Look(_SKY, ">", 2),
    "mean-words": Look(_GREEN, "D", 4),
    # vanilla, and longformer without global tokens, under other names
    "torch:mha": Look(_BLUE, "s", 1),
    "torch:sdpa": Look(_BLUE, "^", 3),
    "xformers:memory_efficient": Look(_BLUE, "D", 4),
    "lucidrains:local": Look(_PINK, "h", 1),
}


def looks(frame: pd.DataFrame, more: Iterable[str] = ()) -> dict[str, Style]:
    """Return the look of each mechanism of a frame, and of ``more`` labels, as arguments of ``Axes.plot``.

    A mechanism of ``LOOKS`` has its own. A public implementation of it (``hf:longformer``) has its colour,
    and the marker and dashes that a hash of its prefix chooses. A hash of any other name chooses all three,
    the colour among those that vanilla, fastformer and linear do not have. A chosen marker is never one that
    ``LOOKS`` has in this colour.

    Options do not change a look. If several configurations of a mechanism are in the frame, the one with the
    fewest options keeps it. A hash of their options chooses markers, dashes and a shade for the others.
    """
    options: dict[str, set[str]] = defaultdict(set)
    for name in {*labels(frame), *more}:
        mechanism, _, chosen = re.sub(r":(?=\w+=)", "\0", name, count=1).partition("\0")
        options[mechanism].add(chosen)
    return {
        label(mechanism, chosen): {
            "color": COLOURS[look.colour],
            "marker": look.marker,
            "linestyle": DASHES[look.dashes],
        }
        for mechanism, several in options.items()
        for chosen, look in _configurations(mechanism, several).items()
    }


def ink(colour: str) -> str:
    """Return a colour for letters: the same, or as much darker as a white page needs (a contrast of 3)."""
    parts = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    while _luminance(parts) > _LIGHTEST:
        parts = [part * 9 // 10 for part in parts]
    return "#" + "".join(f"{part:02X}" for part in parts)


def _luminance(parts: Sequence[int]) -> float:
    """Return the relative luminance of an sRGB colour, 0 to 1."""
    linear: list[float] = [(part / 255) ** 2.2 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _configurations(mechanism: str, options: Collection[str]) -> dict[str, Look]:
    own = _of_mechanism(mechanism)
    plainest = sorted(options, key=lambda each: (each.count("="), each))
    alone = [each.count("=") for each in options].count(plainest[0].count("=")) == 1
    chosen = {plainest[0]: own} if alone else {}
    free = [marker for marker in _free(own.colour) if marker != own.marker]
    for each in plainest[alone:]:
        digest = _digest(each)
        # with a marker of its own, if there is one, and a shade of its own, if there is one
        chosen[each] = min(
            (
                Look(
                    own.colour + len(_OWN) * ((digest + step) % 3),
                    free[(digest + _place(mechanism) + step) % len(free)],
                    (own.dashes + 1 + (digest + step) % (len(DASHES) - 1)) % len(DASHES),
                )
                for step in range(3 * len(free))
            ),
            key=lambda look: (
                look.marker in {other.marker for other in chosen.values()},
                look.colour in {other.colour for other in chosen.values()},
            ),
        )
    return chosen


def _of_mechanism(mechanism: str) -> Look:
    if mechanism in LOOKS:
        return LOOKS[mechanism]
    prefix, _, name = mechanism.rpartition(":")
    digest = _digest(prefix if name in LOOKS else mechanism)
    colour = LOOKS[name].colour if name in LOOKS else _FOR_OTHERS[digest % len(_FOR_OTHERS)]
    free, digest = _free(colour), digest // len(_FOR_OTHERS)
    return Look(colour, free[(digest + _place(name)) % len(free)], digest // len(free) % len(DASHES))


def _place(mechanism: str) -> int:
    """Return a number that keeps two mechanisms of one colour apart where the same text is hashed."""
    if mechanism not in LOOKS:
        return 0
    return [name for name in LOOKS if LOOKS[name].colour == LOOKS[mechanism].colour].index(mechanism)


def _free(colour: int) -> list[str]:
    """Return the markers that no mechanism of ``LOOKS`` has in this colour."""
    taken = {look.marker for look in LOOKS.values() if look.colour == colour}
    return [marker for marker in MARKERS if marker not in taken]


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha512(text.encode()).digest()[:8], "big")

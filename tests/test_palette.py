"""A mechanism's look: the same whatever else is shown, its own, and told apart by colour-blind readers."""

from __future__ import annotations

import itertools
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from frames import SIX

from effbench.show.palette import COLOURS, LOOKS, MARKERS, ink, looks
from effbench.sweep import sweep

NAMES = sorted({point.name for point in entry_points(group="effbench.mechanisms")})
OWN = [name for name in NAMES if ":" not in name]
PLUGINS = [f"my_package.mechanisms:Attention{place}" for place in range(60)] + [*"abcdefghij"]
VARIANTS = [f"fastformer:{given}" for given in ("interaction=add", "sharing=none", "sharing=head-wise")]
NOTHING = pd.DataFrame({"mechanism": [], "options": []})
# Machado, Oliveira and Fernandes (2009): linear RGB as it is seen with all cones, without L and without M.
VISION = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def mark(style: dict[str, Any]) -> tuple[str, str]:
    return style["color"], style["marker"]


def lab(colour: str, vision: str) -> np.ndarray:
    """A colour in CIE L*a*b* (D65), where a distance of 2 is just seen."""
    coded = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(
        TO_XYZ @ np.clip(VISION[vision] @ linear, 0.001, 1) / TO_XYZ.sum(axis=1)
    )  # 0.001: no darker colour is told from black, and the cube root needs no other case
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("seed", range(5))
def test_a_look_depends_on_nothing_else_that_is_shown(seed):
    every = [*NAMES, *PLUGINS, *VARIANTS]
    rng = np.random.default_rng(seed)
    whole = looks(NOTHING, every)
    for _ in range(10):
        # a mechanism comes with all its configurations
        kept = set(rng.choice([*NAMES, *PLUGINS], rng.integers(1, 20), replace=False))
        some = [*kept, *(VARIANTS if "fastformer" in kept else [])]
        rng.shuffle(some)
        assert looks(NOTHING, some) == {name: whole[name] for name in some}


def test_the_same_mechanism_looks_the_same_with_other_options():
    plain = looks(NOTHING, ("linformer", "hf:longformer", "mine"))
    for name, style in plain.items():
        assert (
            looks(NOTHING, [f"{name}:k=16,causal=true", "vanilla", "fnet"])[f"{name}:k=16,causal=true"]
            == style
        )


def test_a_mechanism_of_ones_own_never_has_the_colour_of_those_it_is_compared_with():
    usual = {style["color"] for style in looks(NOTHING, ("vanilla", "fastformer", "linear")).values()}
    own = looks(NOTHING, [f"mine.py:Mine{number}" for number in range(200)])
    colours = {style["color"] for style in own.values()}
    assert not colours & usual
    assert len(colours) == len(COLOURS) / 3 - len(usual)


def test_every_mechanism_of_this_package_has_its_own_colour_and_marker():
    assert set(OWN) <= set(LOOKS)
    assert len(OWN) >= 18
    assert len({mark(style) for style in looks(NOTHING, LOOKS).values()}) == len(LOOKS)


def test_the_six_of_quick_differ_in_colour_and_in_marker():
    six = [mark(style) for style in looks(NOTHING, SIX).values()]
    assert [len(set(part)) for part in zip(*six, strict=True)] == [6, 6]


def test_plugins_and_variants_never_look_like_a_mechanism_of_this_package():
    taken = {mark(style) for style in looks(NOTHING, LOOKS).values()}
    for name, style in looks(NOTHING, [*PLUGINS, *NAMES, *VARIANTS]).items():
        assert name in LOOKS or mark(style) not in taken
    assert len({mark(style) for style in looks(NOTHING, PLUGINS).values()}) > 30


def test_a_public_implementation_has_the_colour_of_the_mechanism():
    both = looks(NOTHING, ("hf:longformer", "longformer", "hf:fnet", "fnet"))
    for name in ("longformer", "fnet"):
        assert both[f"hf:{name}"]["color"] == both[name]["color"]
        assert both[f"hf:{name}"]["marker"] != both[name]["marker"]


@pytest.mark.parametrize("mechanism", ["linformer", "my.module:Attention", "hf:longformer"])
def test_configurations_of_a_mechanism_differ_and_the_plainest_keeps_its_look(mechanism):
    several = [f"{mechanism}:k={k}" for k in (16, 64, 256)]
    drawn = looks(NOTHING, [mechanism, *several])
    assert len({mark(style) for style in drawn.values()}) == 4
    assert drawn[mechanism] == looks(NOTHING, [mechanism])[mechanism]
    assert len({looks(NOTHING, several)[name]["color"] for name in several}) > 1


@pytest.mark.parametrize("name", sweep.presets())
def test_no_two_mechanisms_of_a_preset_have_the_same_colour_and_marker(name):
    table = tomllib.loads((Path(sweep.__file__).parent / "presets" / f"{name}.toml").read_text())
    found = set(_mechanisms(table))
    styles = [mark(style) for style in looks(NOTHING, found).values()]
    assert len(found) > 0
    assert len(set(styles)) == len(styles)


def _mechanisms(part: Any) -> list[str]:
    """All values of the key mechanism in a table and the tables inside it."""
    if isinstance(part, dict):
        mine = part.get("mechanism", [])
        return (
            [mine] if isinstance(mine, str) else [*mine, *(n for v in part.values() for n in _mechanisms(v))]
        )
    return [name for each in part for name in _mechanisms(each)] if isinstance(part, list) else []


@pytest.mark.parametrize("vision", VISION)
def test_colours_are_told_apart_without_red_or_green_cones(vision):
    own = {LOOKS[name].colour for name in OWN}
    for a, b in itertools.combinations(sorted(own), 2):
        assert np.linalg.norm(lab(COLOURS[a], vision) - lab(COLOURS[b], vision)) > 15, (
            COLOURS[a],
            COLOURS[b],
        )
    for colour, *shades in zip(*np.array_split(COLOURS, 3), strict=True):
        for shade in shades:  # a shade differs in lightness
            assert abs(lab(colour, vision)[0] - lab(shade, vision)[0]) > 8


def test_colours_and_markers_are_those_that_the_report_knows():
    assert all(style["color"] in COLOURS for style in looks(NOTHING, PLUGINS).values())
    assert all(style["marker"] in MARKERS for style in looks(NOTHING, PLUGINS).values())


@pytest.mark.parametrize("colour", COLOURS)
def test_letters_can_be_read_on_white(colour):
    y = ((lab(ink(colour), "usual")[0] + 16) / 116) ** 3
    assert 1.05 / (y + 0.05) > 2.9
    assert lab(ink(colour), "usual")[0] <= lab(colour, "usual")[0]

"""One colour, marker and dash for each mechanism of a report, the same in every chart and table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from effbench.show.look import COLOURS, DASHES, MARKERS, looks
from effbench.show.report.report_sources import Source
from effbench.show.report.report_text import escape
from effbench.show.tables import labels

# plotly's names of look.MARKERS and look.DASHES
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star",
            "triangle-left", "triangle-right", "hexagon")  # fmt: skip
_LINES = ("solid", "dash", "dot", "dashdot", "longdashdot")
_DARK = {"#000000": "#FFFFFF", "#0072B2": "#3D9BDC"}  # what cannot be seen on a dark page


class Legend:
    """The mechanisms of all sources by label, with the look that every plot gives them."""

    def __init__(self, sources: Sequence[Source]) -> None:
        frame = pd.concat([source.frame[["mechanism", "options"]] for source in sources])
        styles = looks(frame)
        self.names = sorted(set(labels(frame)))
        self._places = {name: place for place, name in enumerate(self.names)}
        self._styles = [styles[name] for name in self.names]

    def place(self, name: str) -> int | None:
        """Return the number of a mechanism by its label; None if there is none of that label."""
        return self._places.get(name)

    def as_data(self) -> list[dict[str, object]]:
        """Return name, number of the colour, symbol and dash of each mechanism, for the charts."""
        return [
            {
                "name": name,
                "colour": COLOURS.index(style["color"]),
                "symbol": _SYMBOLS[MARKERS.index(style["marker"])],
                "dash": _LINES[DASHES.index(style["linestyle"])],
            }
            for name, style in zip(self.names, self._styles, strict=True)
        ]

    def swatch(self, name: str) -> str:
        """Return a spot of the mechanism's colour; nothing for another text."""
        place = self.place(name)
        if place is None:
            return ""
        return f'<i class="swatch c{COLOURS.index(self._styles[place]["color"])}"></i>'

    def buttons(self) -> str:
        """Return one button per mechanism, which hides it everywhere."""
        return "".join(
            f'<button type="button" aria-pressed="true" data-mechanism="{place}">'
            f"{self.swatch(name)}{escape(name)}</button>"
            for place, name in enumerate(self.names)
        )


def colours_css() -> str:
    """Return the custom properties of the colours, for a light and for a dark page."""
    light = "".join(f"--c{place}:{colour};" for place, colour in enumerate(COLOURS))
    dark = "".join(f"--c{place}:{_DARK.get(colour, colour)};" for place, colour in enumerate(COLOURS))
    spots = "".join(f".c{place}{{background:var(--c{place})}}" for place in range(len(COLOURS)))
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root:not(.paper){{{dark}}}}}{spots}"

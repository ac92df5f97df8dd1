"""The texts that a figure draws, and where they are over each other or outside the figure.

``python tests/figure_texts.py`` checks all figures of all committed results, for a screen and for both
columns of a paper, in a few minutes. test_figure_texts.py checks a part of them.
"""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from unittest import mock

from matplotlib.figure import Figure
from matplotlib.text import Text

import effbench
from effbench.show import plots
from effbench.show.look import NothingToDraw

RESULTS = Path(__file__).parent.parent / "results" / "reference"
WIDTHS = (None, 3.3, 6.9)  # a screen, one column, two columns
_TOUCHING = 0.5  # points that two boxes may share


def drawn_texts(figure: Figure) -> list[Text]:
    """Return what is really drawn: ticks outside the limits, for example, are not."""
    found: list[Text] = []
    draw = Text.draw

    def record(text: Text, *arguments: object, **more: object) -> None:
        if text.get_visible() and text.get_text().strip():
            found.append(text)
        draw(text, *arguments, **more)  # type: ignore[arg-type]

    with mock.patch.object(Text, "draw", record):
        figure.draw_without_rendering()
    return found


def mistakes(figure: Figure) -> list[str]:
    """Return a sentence for each text that is outside the figure, and for each two that share a place."""
    point = figure.dpi / 72
    width, height = figure.bbox.size
    # of the letters alone: the box of an annotation includes its leader
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in drawn_texts(figure)]
    found = [
        f"{text!r} leaves the figure"
        for text, box in boxes
        if min(box.x0, box.y0) < -point or box.x1 > width + point or box.y1 > height + point
    ]
    for (text, a), (other, b) in itertools.combinations(boxes, 2):
        shared = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if min(shared) > _TOUCHING * point:
            found.append(f"{text!r} is over {other!r}")
    return found


def main() -> None:
    count = 0
    folders = [path for path in sorted(RESULTS.iterdir()) if (path / "records.jsonl").exists()]
    for folder, width in itertools.product(folders, WIDTHS):
        frame, raw = effbench.load(folder), effbench.load(folder, raw=True)
        for kind in plots.KINDS:
            with contextlib.suppress(NothingToDraw):
                for name, figure in plots.draw(frame, raw, kind, width):
                    count += 1
                    for mistake in mistakes(figure):
                        print(f"{folder.name} {name} {width or ''}: {mistake}")
    print(f"{count} figures")


if __name__ == "__main__":
    main()

"""The report's page: its sections in order, the data of the charts, styles and scripts in one HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import pandas as pd

from effbench.common import files
from effbench.common.files import why
from effbench.common.spec import UsageError
from effbench.records.analyse.crossover import crossovers
from effbench.show.blocks import Block
from effbench.show.complexity_tables import exponent_blocks
from effbench.show.overview import overview
from effbench.show.report.report_answer import (
    accuracy_sentences,
    crossover_sentences,
    speed_sentences,
    unknown_sentences,
    winners_block,
)
from effbench.show.report.report_curves import METRICS, MODES, CostPanel, cost_panels
from effbench.show.report.report_legend import Legend, colours_css
from effbench.show.report.report_library import library, require_plotly
from effbench.show.report.report_provenance import careful, provenance
from effbench.show.report.report_roofline import roof_panels
from effbench.show.report.report_sources import SWEEP, Source, read_sources
from effbench.show.report.report_tables import as_html, configurations, crossover_block, failures
from effbench.show.report.report_text import as_json, bullets, escape
from effbench.show.report.report_trainings import COSTS, curve_panels, front_panels
from effbench.show.tables import of_shape

_STYLES = ("report.css",)
_SCRIPTS = ("report_charts.js", "report_tables.js", "report_numbers.js", "report_page.js", "report_print.js")
# A page of this policy can fetch nothing, whatever a text in it says.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; img-src data: blob:; "
    "worker-src blob:"
)
_WORDS = {
    "answer": "Answer",
    "costs": "Cost against length",
    "accuracy": "Accuracy against cost",
    "complexity": "Growth and crossovers",
    "roofline": "Roofline",
    "learning": "Learning curves",
    "tables": "All numbers",
    "failures": "Failures",
    "provenance": "Provenance",
}
Panels = list[dict[str, Any]]


def write_report(folders: Sequence[Path], out: Path) -> None:
    """Write the report of results folders to a file.

    Raises UsageError if the package plotly is missing, a folder cannot be reported (see ``read_sources``), or
    the file cannot be written.
    """
    require_plotly()
    text = report(read_sources(folders))
    try:
        files.replace(out, text.encode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot write {out}: {why(error)}") from None


def report(sources: Sequence[Source]) -> str:
    """Return the page; equal records give an equal page. Raises UsageError without the package plotly."""
    legend = Legend(sources)
    costs = [cost_panels(source, legend) for source in sources]
    charts: dict[str, Panels] = {
        "costs": [panel.data for mine in costs for panel in mine],
        "fronts": _of_all(front_panels, sources, legend),
        "roofs": _of_all(roof_panels, sources, legend),
        "curves": _of_all(curve_panels, sources, legend),
    }
    crossings = [crossovers(source.raw) for source in sources]
    sections = {
        "answer": _answer(sources, costs, crossings, legend),
        "costs": _costs(sources, charts["costs"], legend),
        "accuracy": _accuracy(sources, charts["fronts"], legend),
        "complexity": _complexity(sources, crossings, legend),
        "roofline": _figures("roofs", charts["roofs"], sources),
        "learning": _learning(charts["curves"], sources),
        "tables": _tables(sources, legend),
        "failures": _failures(sources, legend),
        "provenance": _provenance(sources, legend),
    }
    data = {
        "mechanisms": legend.as_data(),
        "metrics": METRICS,
        "trainingCosts": COSTS,
        "sources": [source.name for source in sources],
        **charts,
    }
    return _page(sources, legend, {name: text for name, text in sections.items() if text}, data)


def _of_all(panels: Any, sources: Sequence[Source], legend: Legend) -> Panels:
    return [panel for source in sources for panel in panels(source, legend)]


def _page(
    sources: Sequence[Source], legend: Legend, sections: Mapping[str, str], data: dict[str, Any]
) -> str:
    names = ", ".join(dict.fromkeys(source.name for source in sources))
    links = "".join(f'<a href="#{name}">{_WORDS[name]}</a>' for name in sections)
    body = "".join(
        f'<section id="{name}"><h2>{_WORDS[name]}</h2>{text}</section>' for name, text in sections.items()
    )
    styles = "".join(f"<style>{text}</style>" for text in [colours_css(), *map(_asset, _STYLES)])
    scripts = "".join(f"<script>{_asset(name)}</script>" for name in _SCRIPTS)
    which = ""
    if len(sources) > 1:
        options = [("", "all, side by side"), *((str(s.number), s.name) for s in sources)]
        which = _select("source", "Folder", options)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>effbench report: {escape(names)}</title>{styles}"
        f'<script type="text/plain" id="library">{library()}</script>'
        f"<script>{_asset('report_library.js')}</script></head><body>"
        '<a class="skip" href="#main">to the content</a>'
        f"<header><h1>effbench report: {escape(names)}</h1>"
        "<p>Which attention mechanism should I use at this sequence length, on this machine, and what does "
        f'it cost me in accuracy?</p><nav aria-label="sections">{links}</nav>'
        "<noscript><p class=warning>Charts, sorting and filtering need JavaScript. The tables hold all "
        "numbers.</p></noscript></header>"
        '<div id="legend" role="region" aria-label="mechanisms: press one to hide it everywhere">'
        f"{which}<span class=note>press a mechanism to hide it everywhere:</span>{legend.buttons()}"
        '<button type="button" id="everything" aria-disabled="true">show all</button></div>'
        f'<main id="main">{body}</main><p id="said" role="status" aria-live="polite"></p>'
        f'<script type="application/json" id="data">{as_json(data)}</script>'
        f"{scripts}</body></html>\n"
    )


def _asset(name: str) -> str:
    return (resources("effbench.show.report") / "report_assets" / name).read_text(encoding="utf-8")


def _select(name: str, words: str, options: Iterable[tuple[str, str]]) -> str:
    """Return a labelled choice; ``name`` is the key of the page's state."""
    choices = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options)
    return f'<label>{escape(words)} <select data-choice="{name}">{choices}</select></label>'


def _figures(kind: str, panels: Panels, sources: Sequence[Source]) -> str:
    """Return a place for each chart, and each of its modes; the script draws what comes into view."""
    places = [(place, panel, mode) for place, panel in enumerate(panels) for mode in panel.get("modes", [""])]
    drawn = "".join(
        f'<figure data-source="{panel["source"]}" data-mode="{escape(mode)}"><figcaption>'
        f"<b>{escape(panel['title'])}{escape(mode and f', {mode}')}</b> "
        f"<span>{escape(_where(sources[panel['source']]))}</span><small>{escape(panel['shape'])}</small>"
        f'</figcaption><div class="chart" role="group" data-kind="{kind}" data-panel="{place}" '
        f'aria-label="chart: {escape(panel["title"])}; the table below it has its numbers"></div>'
        '<details class="numbers" hidden><summary>numbers of this chart</summary></details></figure>'
        for place, panel, mode in places
    )
    return f'<div class="panels {kind}">{drawn}</div>' if drawn else ""


def _where(source: Source) -> str:
    return source.name if source.machine in source.name else f"{source.name}, {source.machine}"


def _part(source: Source, sources: Sequence[Source], text: str) -> str:
    """Return what belongs to one source, with its name if there are several."""
    name = f"<h3>{escape(_where(source))}</h3>" if len(sources) > 1 else ""
    return f'<div class="part" data-source="{source.number}">{name}{text}</div>' if text else ""


def _parts(sources: Sequence[Source], texts: Iterable[str]) -> str:
    parts = "".join(_part(source, sources, text) for source, text in zip(sources, texts, strict=True))
    return f'<div class="panels">{parts}</div>' if parts else ""


def _blocks(blocks: Iterable[Block], legend: Legend, source: Source) -> str:
    texts = "".join(as_html(block, legend, source.number) for block in blocks)
    return f'<div class="blocks">{texts}</div>' if texts else ""


def _answer(
    sources: Sequence[Source],
    costs: Sequence[Sequence[CostPanel]],
    crossings: Sequence[pd.DataFrame],
    legend: Legend,
) -> str:
    texts = []
    for source, panels, crossed in zip(sources, costs, crossings, strict=True):
        cost = source.frame[source.frame["task"] == ""]
        text = f"<p><b>On {escape(source.machine or 'this machine')}:</b></p>" if len(sources) == 1 else ""
        for place in panels:
            panel, rows = place.data, of_shape(cost, place.shape)
            said = speed_sentences(rows, panel, legend.names)
            said += crossover_sentences(of_shape(crossed, place.shape), rows)
            title = f"{panel['title']}, {panel['shape']}"
            if said:
                text += f"<h4>{escape(title)}</h4>{bullets(said, 'answer')}"
            if rows["seq_len"].nunique() > 1 or len(panel["modes"]) > 1:
                block = winners_block(rows, panel, legend.names, f"fastest at each length: {title}")
                text += as_html(block, legend, source.number)
        if said := accuracy_sentences(source):
            text += f"<h4>Accuracy</h4>{bullets(said, 'answer')}"
        if said := unknown_sentences(source, crossed):
            text += f"<h4>What these records do not tell</h4>{bullets(said)}"
        texts.append(text)
    return _parts(sources, texts)


def _costs(sources: Sequence[Source], panels: Panels, legend: Legend) -> str:
    if not panels:
        return ""
    modes = [mode for mode in MODES if any(mode in panel["modes"] for panel in panels)]
    series = [one for panel in panels for mode in panel["modes"].values() for one in mode["series"]]
    metrics = [(name, METRICS[name][0]) for name in METRICS if any(name in one["values"] for one in series)]
    if not metrics:
        return "<p>Nothing was measured: see failures.</p>"
    measured = sorted({one["mechanism"] for one in series})
    relative = [("", "absolute"), *((str(place), f"relative to {legend.names[place]}") for place in measured)]
    controls = (
        _select("metric", "Metric", metrics)
        + _select("mode", "Mode", [("", "all modes"), *((mode, mode) for mode in modes)])
        + _select("relative", "Values", relative)
        + _select("scale", "Axes", [("log", "logarithmic"), ("linear", "linear")])
    )
    note = (
        "<p class=note>Bars: another run of this machine finds the time there with a probability of 95 %. A "
        "hollow marker is a noisy time. × at the upper edge: failed. Point at a marker for its numbers, "
        "press a mechanism's name at the top of the page to hide it everywhere.</p>"
    )
    return f'<div class="controls">{controls}</div>{note}{_figures("costs", panels, sources)}'


def _accuracy(sources: Sequence[Source], panels: Panels, legend: Legend) -> str:
    texts = []
    for source in sources:
        trained = source.frame[source.frame["task"] != ""]
        texts.append(_blocks(_without_warnings(overview(trained)), legend, source) if len(trained) else "")
    if not any(texts):
        return ""
    costs = [(name, COSTS[name][0]) for name in COSTS if any(name in panel["costs"] for panel in panels)]
    controls = _select("cost", "Cost", costs) + _select(
        "costScale", "Axis", [("log", "logarithmic"), ("linear", "linear")]
    )
    note = (
        "<p class=note>Bars: 95 % interval of the score, of two seeds their range. The line is the Pareto "
        "front: no other mechanism has a better mean score at a lower cost. The front takes means as they "
        "are: neighbours whose intervals overlap may not differ.</p>"
    )
    charts = (
        f'<div class="controls">{controls}</div>{note}{_figures("fronts", panels, sources)}' if panels else ""
    )
    return f"{charts}{_parts(sources, texts)}"


def _without_warnings(blocks: Iterable[Block]) -> list[Block]:
    """Leave out blocks of warnings alone: failures and doubts have sections of their own."""
    return [block for block in blocks if block.title or block.head or block.notes]


def _complexity(sources: Sequence[Source], crossings: Sequence[pd.DataFrame], legend: Legend) -> str:
    texts = []
    for source, crossed in zip(sources, crossings, strict=True):
        blocks = exponent_blocks(source.raw)
        if len(crossed):
            blocks.append(crossover_block(crossed, f"crossovers in time, every pair, {source.name}"))
        texts.append(_blocks(blocks, legend, source))
    return _parts(sources, texts)


def _learning(panels: Panels, sources: Sequence[Source]) -> str:
    if not panels:
        return ""
    units = [
        (unit, words)
        for unit, words in (("epoch", "epochs"), ("seconds", "seconds of training"))
        if any(unit in one["x"] for panel in panels for one in panel["series"])
    ]
    controls = _select("curve", "Curve", [("score", "validation score"), ("loss", "training loss")])
    controls += _select("against", "Against", [*units, ("evaluation", "number of the evaluation")])
    note = "<p class=note>A line is the mean over seeds, its band their range.</p>"
    return f'<div class="controls">{controls}</div>{note}{_figures("curves", panels, sources)}'


def _tables(sources: Sequence[Source], legend: Legend) -> str:
    texts = []
    for source in sources:
        cost = source.frame[source.frame["task"] == ""]
        blocks = _without_warnings(overview(cost)) if len(cost) else []
        rows = configurations(source)
        every = f"<details><summary>{escape(rows.title)}: {len(rows.rows)} rows</summary>"
        texts.append(
            f"{_blocks(blocks, legend, source)}{every}{as_html(rows, legend, source.number)}</details>"
        )
    return _parts(sources, texts)


def _failures(sources: Sequence[Source], legend: Legend) -> str:
    block = failures(sources)
    if not block.rows:
        return "<p>Every measurement has a result.</p>"
    return as_html(block, legend, -1)


def _provenance(sources: Sequence[Source], legend: Legend) -> str:
    texts = []
    for source in sources:
        doubts = careful(source)
        text = as_html(provenance(source), legend, source.number)
        text += (
            f"<h4>What to be careful with</h4>{bullets(doubts)}"
            if doubts
            else ("<p>Nothing was noticed while this was measured that would make its numbers doubtful.</p>")
        )
        if source.sweep:
            text += (
                f"<details><summary>the sweep: effbench run --config {SWEEP}</summary>"
                f"<pre tabindex=0>{escape(source.sweep)}</pre></details>"
            )
        texts.append(text)
    return _parts(sources, texts)

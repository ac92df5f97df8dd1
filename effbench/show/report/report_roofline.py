"""The data of the roofline charts: achieved speed below this machine's measured limits."""

from __future__ import annotations

from typing import Any

from effbench.show.report.report_curves import shape_in_words, shapes
from effbench.show.report.report_legend import Legend
from effbench.show.report.report_sources import Source
from effbench.show.report.report_text import number, numbers
from effbench.show.tables import by_label, of_shape, what_was_measured


def roof_panels(source: Source, legend: Legend) -> list[dict[str, Any]]:
    """Return a chart per shape: speed against arithmetic intensity, and the machine's measured limits."""
    panels = []
    cost = source.frame[source.frame["roof_share"].notna() & (source.frame["task"] == "")]
    for shape, rows in shapes(cost):
        ceilings = of_shape(source.raw, shape)
        ceiling = ceilings[ceilings["peak_flops_per_s"].notna()].iloc[0]
        bandwidths = dict(
            zip(ceiling["samples_bandwidth_at_bytes"], ceiling["samples_bandwidth_bytes_per_s"], strict=True)
        )
        quickest = max(bandwidths, key=lambda size: bandwidths[size])
        panels.append(
            {
                "source": source.number,
                "title": what_was_measured(shape),
                "shape": shape_in_words(shape),
                "peak": number(ceiling["peak_flops_per_s"]),
                "bandwidths": [
                    {"bytes": number(size), "bytes_per_s": number(bandwidths[size])}
                    for size in dict.fromkeys((quickest, max(bandwidths)))
                ],
                "modes": {
                    mode: [
                        {
                            "mechanism": legend.place(name),
                            "n": [int(n) for n in mine["seq_len"]],
                            "intensity": numbers(mine["arithmetic_intensity"]),
                            "speed": numbers(mine["flops_per_s"]),
                            "share": numbers(mine["roof_share"]),
                        }
                        for name, unsorted in by_label(of_mode)
                        for mine in [unsorted.sort_values("seq_len")]
                    ]
                    for mode, of_mode in rows.groupby("mode", sort=False)
                },
            }
        )
    return panels

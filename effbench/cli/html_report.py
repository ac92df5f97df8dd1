"""``effbench report``: one HTML file with all tables and charts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from effbench.cli.options import Folders, value
from effbench.cli.outputs import check_outputs
from effbench.cli.printing import printed_warnings


def report(
    folders: Folders,
    out: Annotated[
        Path | None, value("FILE", "The HTML file. Default: DIR/report.html of the first folder.")
    ] = None,
) -> None:
    """Write one HTML file with the answer, charts and tables; it opens in a browser without a network."""
    from effbench.records.store import Store
    from effbench.show.report.report_page import write_report

    for folder in folders:
        Store(folder).require()
    path = out or folders[0] / "report.html"
    check_outputs({"out": path})
    with printed_warnings():
        write_report(folders, path)
    print(path)

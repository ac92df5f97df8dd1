"""``effbench ensemble``: the mean predictions of several trainings, scored and kept as a record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effbench.cli.completion import model_names
from effbench.cli.options import value
from effbench.cli.printing import print_blocks


def ensemble(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder of run --predictions.")],
    model: Annotated[
        list[str] | None,
        value(
            "NAME[:option=value,...]",
            "Model, as it was given to run; repeat the option for more. Default: all.",
            None,
            "--mechanism",
            "-m",
            autocompletion=model_names,
        ),
    ] = None,
) -> None:
    """Score the mean predictions of all trainings of a model; keep it as a record, with its predictions."""
    from effbench.common import registry
    from effbench.common.spec import spec_label
    from effbench.records.analyse.summary import summarise
    from effbench.records.ensembles import ensembles
    from effbench.records.frame import raw_frame
    from effbench.records.store import Store, write_tables
    from effbench.show.overview import overview

    kinds = [(name, registry.model_kind(name)) for name in model or []]
    labels = [spec_label(*registry.parse(name, kind)) for name, kind in kinds]
    store = Store(folder)
    store.require()
    store.create()  # a packed folder has no records/
    with store.lock():
        records = ensembles(store, labels)
        for record in records:
            store.write(record)
        write_tables(folder)
    raw = raw_frame(records)
    print_blocks(overview(summarise(raw), raw), "table")
    for record in records:
        print(f"predictions: {store.predictions(record.cell)}")

"""Rows of results as the bytes of a CSV or Parquet file: what a run writes, and what an export writes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from effbench.common.columns import column
from effbench.common.spec import UsageError
from effbench.common.wording import one_line

if TYPE_CHECKING:
    from pandas import DataFrame

SERIES = "samples_"
FORMAT = "effbench table 1"


def as_csv(frame: DataFrame) -> bytes:
    """Return the rows as CSV in UTF-8, without the series of samples; a missing value is an empty field."""
    series = [name for name in frame.columns if name.startswith(SERIES)]
    return str(frame.drop(columns=series).to_csv(index=False)).encode()


def as_parquet(frame: DataFrame) -> bytes:
    """Return the rows as Parquet, series included.

    The metadata of each column has its ``unit`` and ``role`` in the schema of effbench.common.columns, and
    that of the file ``effbench``, the version of this form. Raises UsageError for a column that holds
    numbers and texts: a column of Parquet has one type.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = pa.Table.from_pandas(frame)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        reason = one_line(" ".join(map(str, error.args[::-1])), 200)
        raise UsageError(f"these rows do not fit Parquet, CSV takes them: {reason}") from None
    fields = []
    for field in table.schema:
        known = column(field.name.removeprefix(SERIES))
        fields.append(field.with_metadata({"unit": known.unit, "role": known.role}))
    metadata = {**(table.schema.metadata or {}), b"effbench": FORMAT.encode()}
    out = io.BytesIO()
    parquet.write_table(table.cast(pa.schema(fields, metadata=metadata)), out)
    return out.getvalue()

"""The committed results: their tables are what effbench computes from their records today."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pandas as pd
import pytest

from effbench.records.analyse.summary import summarise
from effbench.records.store import load
from effbench.records.table_files import as_csv

REFERENCE = Path(__file__).parents[1] / "results/reference"
FOLDERS = sorted(path.parent.name for path in REFERENCE.glob("*/records.jsonl"))


@pytest.mark.parametrize("name", FOLDERS)
def test_the_tables_are_those_of_the_records(name):
    """If this fails after a change of the analysis, write the tables and plots of these folders again."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a record that is not sound
        raw = load(REFERENCE / name, raw=True)
    for file, frame in (("raw.csv", raw), ("results.csv", summarise(raw))):
        committed = pd.read_csv(REFERENCE / name / file, low_memory=False)
        computed = pd.read_csv(io.StringIO(as_csv(frame).decode()), low_memory=False)
        pd.testing.assert_frame_equal(committed, computed, rtol=1e-6)

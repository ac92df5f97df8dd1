"""The wire: what goes over it comes back equal, and what does not fit is refused by name."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effbench.common.probes import PROBES
from effbench.common.spec import (
    STATUSES,
    Cell,
    Job,
    Limits,
    Record,
    cell_from,
    job_from,
    record_from,
    to_json,
)
from effbench.common.strict_json import parse_json
from effbench.common.wording import one_line

options = st.dictionaries(
    st.text("abcdef", min_size=1), st.booleans() | st.integers(-9, 9) | st.text("xyz") | st.none(), max_size=3
)
cells = st.builds(
    Cell,
    mechanism=st.text(min_size=1),
    options=options,
    probe=st.sampled_from(list(PROBES)),
    seq_len=st.integers(1, 10**6),
    seconds=st.floats(0, 100),
    repeat=st.integers(0, 9),
)
records = st.builds(
    Record,
    cell=cells,
    status=st.sampled_from(STATUSES),
    reason=st.text().map(one_line),
    samples=st.dictionaries(st.text("abc", min_size=1), st.lists(st.floats(0, 1e9)).map(tuple), max_size=2),
    values=st.dictionaries(
        st.text("abc", min_size=1), st.integers(-(2**62), 2**62) | st.floats(-1, 1) | st.none(), max_size=2
    ),
    limits=st.none() | st.builds(Limits, timeout_s=st.floats(1, 9), memory_bytes=st.integers(1, 10**12)),
)


@settings(max_examples=40)
@given(records)
def test_a_record_survives_the_wire(record):
    assert record_from(parse_json(to_json(record))) == record


@settings(max_examples=40)
@given(cells, st.integers(1, 10**12))
def test_a_job_survives_the_wire(cell, memory):
    job = Job(cell=cell, limits=Limits(timeout_s=1.5, memory_bytes=memory), data_dir="d", code="c", data="x")
    assert job_from(json.loads(to_json(job))) == job


@settings(max_examples=40)
@given(cells, cells)
def test_equal_keys_mean_equal_cells(left, right):
    assert (left.key == right.key) == (left == right)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"probe": "tiem"}, "probe is 'tiem', not one of time, memory"),
        ({"seq_len": "512"}, "seq_len is '512', not a whole number"),
        ({"seq_len": True}, "not a whole number"),
        ({"sequence": 1}, "unknown field 'sequence' in Cell"),
    ],
)
def test_a_cell_that_does_not_fit_is_refused(change, complaint):
    data = {**asdict(Cell(mechanism="m", probe="time", seq_len=1)), **change}
    with pytest.raises(ValueError, match=complaint):
        cell_from(data)


def test_missing_fields_are_named():
    with pytest.raises(ValueError, match="missing field 'mechanism' in Cell"):
        cell_from({"probe": "time", "seq_len": 1})
    with pytest.raises(ValueError, match="expected a JSON object for Record, found list"):
        record_from([])


def test_nan_does_not_go_over_the_wire():
    cell = Cell(mechanism="m", probe="time", seq_len=1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(Record(cell=cell, status="ok", values={"x": float("nan")}))

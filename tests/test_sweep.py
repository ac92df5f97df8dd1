"""A sweep: what is written is what is run, each cell once."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effbench.common import registry
from effbench.common.spec import UsageError
from effbench.common.values import parse_bytes, parse_lengths, parse_time_s
from effbench.sweep.sweep import Sweep, presets

ONE = 'name = "one"\n[[grid]]\nmechanism = "vanilla"\nseq_len = 16\nthreads = 1\n'


def sweep(text: str = ONE) -> Sweep:
    return Sweep.from_toml(text, "test.toml", "test")


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("128", [128]),
        ("128,512", [128, 512]),
        ("512:16384:x2", [512, 1024, 2048, 4096, 8192, 16384]),
        ("512:1000:x2", [512]),
        ("100:300:+100,7", [100, 200, 300, 7]),
    ],
)
def test_lengths(text, lengths):
    assert parse_lengths(text) == lengths


@pytest.mark.parametrize("text", ["0", "-1", "many", "1:2", "8:4:x2", "1:8:x1", "1:8:y2", "", "1,,2"])
def test_bad_lengths_are_refused(text):
    with pytest.raises(UsageError, match="seq_len"):
        parse_lengths(text)


def test_amounts_and_times():
    assert parse_bytes("8GiB") == 8 * 2**30
    assert parse_bytes("1.5MB") == 1_500_000
    assert parse_bytes(77) == 77
    assert (parse_time_s("10m"), parse_time_s("1.5h"), parse_time_s("90s"), parse_time_s(3)) == (
        600,
        5400,
        90,
        3,
    )
    for bad in ("8Gigs", "", "-1", "GiB", "0"):
        with pytest.raises(UsageError, match="amount of memory"):
            parse_bytes(bad)
    for bad in ("soon", "", "-1s", "0"):
        with pytest.raises(UsageError, match="is not a time"):
            parse_time_s(bad)


@pytest.mark.parametrize("name", presets())
def test_a_preset_reads_back_as_the_same_cells(name):
    preset = Sweep.preset(name)
    assert preset.description
    again = Sweep.from_toml(preset.to_toml(), "written", name)
    assert [cell.key for cell in again.cells()] == [cell.key for cell in preset.cells()]
    assert (again.timeout_s, again.seed, again.name) == (preset.timeout_s, preset.seed, preset.name)


def test_nothing_is_measured_twice():
    text = ONE + 'probe = ["time", "memory", "accuracy"]\nrepeats = 2\nlayers = [1, 2]\ntask = "listops"\n'
    cells = sweep(text).cells()
    assert len({cell.key for cell in cells}) == len(cells)
    count = {probe: sum(cell.probe == probe for cell in cells) for probe in ("time", "memory", "accuracy")}
    # one attention layer has no use for the layers axis; memory is exact; accuracy always trains
    assert count == {"time": 2 * 2, "memory": 2, "accuracy": 2 * 2}
    assert all(cell.mode == "train" and cell.scope == "encoder" for cell in cells if cell.probe == "accuracy")


def test_flags_override_every_grid_and_probe_selects():
    quick = Sweep.preset("quick")
    changed = quick.override({"seq_len": "32", "mechanism": ["linear"], "probe": "accuracy"})
    assert {(c.probe, c.seq_len, c.mechanism) for c in changed.cells()} == {("accuracy", 32, "linear")}
    only_time = sweep(ONE + 'probe = "time"\n')
    assert {c.probe for c in only_time.override({"probe": "memory,flops"}).cells()} == {"memory", "flops"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name = ", r"test.toml: not valid TOML.*line 1, column 8"),
        ('name = "x"', r"at least one \[\[grid\]\]"),
        (ONE + "seqlen = 3\n", "unknown grid key 'seqlen'; did you mean 'seq_len'"),
        ("colour = 1\n" + ONE, "unknown key 'colour'"),
        (ONE + "batch_size = 'many'\n", "batch_size 'many' is not a whole number of at least 1"),
        (ONE + "heads = 0\n", "heads 0 is not"),
        (ONE + "mode = 'backward'\n", "unknown mode 'backward'.*forward, train"),
        (ONE + "dtype = 'float31'\n", "did you mean 'float32'"),
        (ONE + "device = 'tpu'\n", "device 'tpu' is not cpu"),
        (ONE + "task = 'imbd'\n", "unknown task 'imbd'; did you mean 'imdb'"),
        (ONE + "d_model = []\n", "d_model is empty"),
        (ONE.replace('"one"', '"../x"'), "name '../x' is not a plain name"),
        (ONE.replace('"vanilla"', "3"), "mechanism 3 is not text"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        sweep(text)


def test_heads_must_divide_d_model():
    with pytest.raises(UsageError, match="heads 7 does not divide d_model 256"):
        sweep(ONE + "heads = 7\n").cells()


@given(st.integers(1, 5000), st.integers(2, 5), st.integers(0, 5))
def test_a_range_holds_its_ends_and_grows_by_its_factor(start, factor, steps):
    end = start * factor**steps
    lengths = parse_lengths(f"{start}:{end}:x{factor}")
    assert (lengths[0], lengths[-1], len(lengths)) == (start, end, steps + 1)
    assert all(b == factor * a for a, b in itertools.pairwise(lengths))


def test_batch_tokens_keeps_the_tokens_of_a_batch_constant():
    same = sweep(ONE.replace("seq_len = 16", 'seq_len = "16:128:x2"\nbatch_tokens = 256'))
    shapes = {(cell.seq_len, cell.batch_size) for cell in same.cells()}
    assert shapes == {(16, 16), (32, 8), (64, 4), (128, 2)}
    assert Sweep.from_toml(same.to_toml(), "again", "again").cells() == same.cells()
    assert {cell.batch_size for cell in same.override({"batch_size": 3}).cells()} == {3}
    assert {cell.batch_size for cell in sweep().override({"batch_tokens": 64}).cells()} == {4}


def test_batch_tokens_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="seq_len 16 does not divide batch_tokens 100"):
        sweep(ONE + "batch_tokens = 100\n").cells()
    with pytest.raises(UsageError, match="batch_size or batch_tokens, not both"):
        sweep(ONE + "batch_tokens = 64\nbatch_size = 2\n").cells()


@pytest.mark.parametrize("name", [name for name in presets() if name.endswith("-mini")])
def test_a_small_form_keeps_the_mechanisms_and_the_kinds_of_measurement(name):
    small, full = (Sweep.preset(each).cells() for each in (name, name.removesuffix("-mini")))
    assert {cell.mechanism for cell in small} <= {cell.mechanism for cell in full}
    assert {cell.probe for cell in small} == {cell.probe for cell in full}
    assert {cell.mode for cell in small} == {cell.mode for cell in full}
    assert len(small) <= len(full)
    if name == "paper-summarization-mini":  # its windows shrink with its sources: docs/paper.md says so
        assert {cell.d_model // cell.heads for cell in (*small, *full)} == {16}
        assert max(cell.seq_len for cell in small) == min(cell.seq_len for cell in full)
    elif name.startswith("paper"):  # Table 8's settings: options of mechanisms, numbers a head, seeds
        labels = {c.label for c in small if registry.model_kind(c.mechanism) == "mechanism"}
        assert labels <= {cell.label for cell in full}
        assert {cell.d_model // cell.heads for cell in (*small, *full)} == {16}
        assert {cell.repeat for cell in small} == {cell.repeat for cell in full if cell.repeat < 5}

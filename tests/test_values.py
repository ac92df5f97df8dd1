"""Values that a user writes, on the command line or in TOML: read as meant, or refused in one line."""

from __future__ import annotations

import datetime
import json
import math
import tomllib
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from damage import changed, complaint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effbench.cli import app as cli
from effbench.common import registry
from effbench.common.files import read_toml
from effbench.common.growth import Growth
from effbench.common.spec import MESSAGE, UsageError
from effbench.common.strict_json import parse_json
from effbench.common.values import (
    MOST,
    MOST_LENGTHS,
    number,
    parse_bytes,
    parse_lengths,
    parse_share,
    parse_time_s,
    parse_whole,
    whole,
)
from effbench.common.wording import one_line, shown
from effbench.gate import settings as gate
from effbench.records.analyse import published_data
from effbench.records.store import Store
from effbench.sweep.axes import AXES, read_axis
from effbench.sweep.sweep import MOST_CELLS, Sweep

HERE = settings(suppress_health_check=list(HealthCheck))
SOME = settings(HERE, max_examples=25)

# Digits of other scripts, signs and forms that Python's own readers take for numbers, and what is huge.
ODD_TEXTS = [
    "", " ", "\t", "\n", "\0", "\u00a0", "\u2003", "١٢", "\uff11\uff12", "1_000", "+5", "-5", "-0",
    "0", "00", "007", "0x10", "1e3", "1E3", "1e400", "-1e400", "1e-400", "nan", "NaN", "inf",
    "-Infinity", "1.", ".5", "1.5", "1..5", "1e", "e1", "9" * 30, "9" * 5000, "1" * 10**6,
    "128,,512", ",128", "128,", "1:2", "1:2:3",
    "1:8:x0", "1:8:+0", "8:1:x2", "1:1e12:+1", "1:1000000000:+1", "1:999999999999:+1",
    "1:4:x١", "5%", "%", "500%",
    "1 %", "8GiB", "8 GiB", "1e30TiB", "1e999GiB", "10us", "10 us", "1e300h", "10٣s", "true", "none", "[1]",
    "{}", "ſ", "K", "\ud800", "\x1b[2J", "a" * 10**5,
]  # fmt: skip
HUGE = [0, -1, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**400), 1 << 20_000]
toml_scalars = st.one_of(
    st.booleans(), st.sampled_from(HUGE[:-1]), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([text for text in ODD_TEXTS if "\ud800" not in text]),
    st.just(datetime.date(2024, 2, 29)), st.just(datetime.time(1, 2)),
    st.just(datetime.datetime(2024, 1, 1, 0, 0)),
)  # fmt: skip
toml_values = st.recursive(
    toml_scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
anything = st.one_of(
    toml_values, st.sampled_from(ODD_TEXTS), st.sampled_from(HUGE), st.none(), st.binary(max_size=4)
)
PARSERS: dict[str, Callable[[Any], Any]] = {
    "whole": lambda value: parse_whole("heads", value),
    "lengths": parse_lengths,
    "share": lambda value: parse_share("precision", value),
    "time": parse_time_s,
    "bytes": parse_bytes,
}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


# Numbers.

NO_NUMBERS: list[Any] = [
    "", " ", "١٢", "\uff11\uff12", "1_000", "+5", "0x10", "nan", "inf", "-Infinity", "1e400",
    "12\n", "\u00a012", "1 2", "--1", "1e", "9" * 5000, True, None, [1], {}, b"1", math.nan, math.inf,
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "is_whole", "is_number"),
    [
        ("128", 128, 128.0), (" 128\t", 128, 128.0), ("007", 7, 7.0), ("-5", -5, -5.0), ("-0", 0, 0.0),
        (128, 128, 128.0), (0.5, None, 0.5), (-0.0, None, 0.0), ("1.5", None, 1.5), (".5", None, 0.5),
        ("1e-3", None, 1e-3), ("2E3", None, 2000.0), ("1e-400", None, 0.0), (10**30, 10**30, 1e30),
        *[(value, None, None) for value in NO_NUMBERS],
        (10**400, 10**400, None),
    ],
)  # fmt: skip
def test_a_number_is_plain_ascii_digits(value, is_whole, is_number):
    assert whole(value) == is_whole
    assert number(value) == is_number
    if is_number == 0:
        zero = number(value)
        assert zero is not None
        assert math.copysign(1, zero) == 1, "there is no -0"


@pytest.mark.parametrize("name", PARSERS)
@SOME
@given(value=anything)
def test_any_value_is_read_in_its_range_or_refused_in_one_line(name, value):
    parse = PARSERS[name]
    if complaint(lambda: parse(value), "") == "":
        for found in [parse(value)] if name != "lengths" else parse(value):
            assert 0 < found < 2**63


@pytest.mark.parametrize("name", PARSERS)
def test_every_odd_value_is_read_in_its_range_or_refused_in_one_line(name):
    parse = PARSERS[name]
    for value in (*ODD_TEXTS, *HUGE, True, None, math.nan, math.inf, [], {}, nested(3000)):
        if complaint(partial(parse, value), "") == "":
            assert isinstance(value, int | str)
            assert not isinstance(value, bool)
            for found in [parse(value)] if name != "lengths" else parse(value):
                assert 0 < found < 2**63


def test_lengths_are_bounded_before_they_are_listed():
    assert parse_lengths(f"1:{MOST_LENGTHS}:+1") == list(range(1, MOST_LENGTHS + 1))
    assert parse_lengths(f"1:{MOST}:x2")[-1] == 2**29
    for text in (f"1:{MOST}:+1", f"1:{MOST_LENGTHS + 1}:+1", "1:600:+1,1:600:+1", "1," * 2000 + "1"):
        with pytest.raises(UsageError, match="has more than 1000 lengths"):
            parse_lengths(text)
    with pytest.raises(UsageError, match=f"seq_len '{MOST + 1}' is more than {MOST}"):
        parse_lengths(str(MOST + 1))


def test_cells_are_bounded_before_they_are_made():
    grid = {
        "mechanism": ["linear", "vanilla"],
        "d_model": [16 * i for i in range(1, 999)],
        "seq_len": "1:999:+1",
    }
    with pytest.raises(UsageError, match=f"quick.*: up to [0-9]+ cells, more than {MOST_CELLS}"):
        Sweep.preset("quick").override(grid).cells()
    with pytest.raises(
        UsageError, match=r"batch_size 1000000000 x seq_len 1000000000 x d_model .* is 2560+ numbers"
    ):
        Sweep.preset("quick").override({"batch_size": 10**9, "seq_len": 10**9}).cells()


# Messages.


@given(st.text() | st.sampled_from(ODD_TEXTS), st.integers(1, 30))
def test_a_message_is_one_printable_line_of_bounded_length(text, times):
    said = one_line(text * times, 100)
    assert said.isprintable()
    assert len(said) <= 100
    assert one_line(said, 100) == said
    assert str(UsageError(text * times)).isprintable()
    assert len(str(UsageError(text * times))) <= MESSAGE


@given(anything)
def test_a_value_is_shown_in_bounded_length(value):
    assert shown(value).isprintable()
    assert len(shown(value)) <= 80


def test_a_long_value_keeps_its_ends_and_a_short_one_is_as_python_writes_it():
    assert shown("a" * 99 + "middle" + "b" * 99).startswith("'aaaa")
    assert " ... " in shown("a" * 99 + "b" * 99)
    assert shown("a" * 99 + "b" * 99).endswith("bbb'")
    for value in ("plain", "it's", 5, 0.5, [1, "a"], None, True, Path("a")):
        assert shown(value) == repr(value)
    assert shown(1 << 20_000) == "an integer of 20001 bits"
    assert one_line("a\n  b\tc\x1b") == "a b c\\x1b"


# Mechanisms, tasks and their options.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "unknown mechanism ''"),
        ("fastformer:", "'fastformer:': '' is not option=value"),
        ("fastformer:interaction=add,", "'' is not option=value"),
        ("fastformer:,interaction=add", "'' is not option=value"),
        ("fastformer:interaction=", "'interaction=' is not option=value"),
        ("fastformer:=add", "'=add' is not option=value"),
        ("fastformer:interaction=add,interaction=add", "the option interaction is given twice"),
        ("fastformer:interaction=add=add", "interaction=add=add is not one of"),
        ("linformer:k=١٢", "k=١٢ is not int"),
        ("linformer:k=1_000", "k=1_000 is not int"),
        ("linformer:k=+5", "k=+5 is not int"),
        ("linformer:k=" + "9" * 400, "is not int"),
        ("linformer:k=" + "9" * 9000, "is not int"),
        ("linformer:k=nan", "k=nan is not int"),
        ("linear\0", "has characters that cannot be printed"),
        ("linear\x1b[2J", "has characters that cannot be printed"),
        ("\ud800", "has characters that cannot be printed"),
        ("a" * 20_000, "is too long"),
        ("a" * 5000 + ".py:A", "there is no file"),
        ("a" * 9000, "unknown mechanism 'aaa"),
        ("x.py:", "name the class too"),
        ("x.py:a b", "'a b' is not the name of a class"),
        ("x.py:9", "'9' is not the name of a class"),
        ("x.py:A:", "there is no file 'x.py'"),
        ("x.py::a=1", "name the class too"),
        (":A", "there is no Python module ''"),
        ("..:A", "there is no Python module '..'"),
        (".a:A", "there is no Python module '.a'"),
        ("a..b:A", "there is no Python module 'a..b'"),
        ("sys:A", "there is no Python module 'sys'"),
        ("/:A", "there is no Python module '/'"),
        ("/tmp:A", "there is no Python module '/tmp'"),
        (".py:A", "there is no file '.py'"),
        ("folder.py:A", "there is no file 'folder.py'"),
    ],
)  # fmt: skip
def test_what_is_no_mechanism_is_refused(text, words):
    Path("folder.py").mkdir()
    assert words in complaint(lambda: registry.parse(text, "mechanism"), "")


@SOME
@given(
    st.sampled_from(["mechanism", "task"]), st.text() | changed(b"fastformer:interaction=add,sharing=none")
)
def test_any_name_is_read_or_refused(kind, text):
    text = text if isinstance(text, str) else text.decode("utf-8", "surrogateescape")
    complaint(lambda: registry.parse(text, kind), "")


@pytest.mark.parametrize("value", ["nan", "1e400", "-", "inf", "0,1", "1_0.5"])
def test_a_real_option_is_a_finite_number(value):
    assert complaint(lambda: registry.parse(f"listops:lr={value}", "task"), "") != ""
    assert registry.parse("listops:lr=1e-3,dropout=-0", "task")[1] == {"dropout": 0.0, "lr": 1e-3}


PLUGIN = b'''"""A module."""
from typing import Literal
from torch import nn
from effbench import Mechanism
SIZES = (1, 2)
class Base(Mechanism):
    order = "N log N"
    source = "nowhere"
    requires = "torch numpy"
    def __init__(self, d_model, heads, *, max_len, causal=False, k: int = 5, mode: Literal["a", "b"] = "a"):
        super().__init__(d_model, heads, max_len=max_len, causal=causal)
class Mine(Base):
    """Mine."""
'''


@settings(HERE, max_examples=75)
@given(changed(PLUGIN))
def test_any_source_of_a_plug_in_is_read_or_refused_by_name(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "mine.py"
    path.write_bytes(content)
    registry.find.cache_clear()
    complaint(lambda: registry.parse(f"{path}:Mine", "mechanism"), path, "mine.py")


HEAD = "def __init__(self, d_model, heads, *, max_len, causal=False"
SOURCES = {
    "a syntax error": (b"x = 1\nclass (:\n", "line 2: invalid syntax"),
    "a null byte": (b"class Mine:\n    pass\0\n", "null bytes"),
    "no UTF-8": (b"class Mine:\n    x = '\xff'\n", "(unicode error)"),
    "an unknown encoding": (b"# -*- coding: klingon -*-\n", "unknown encoding: klingon"),
    "deep brackets": (b"x = " + b"(" * 5000 + b")" * 5000, ""),
    "deep lists": (b"x = " + b"[" * 150 + b"]" * 150 + b"\nclass Mine: pass", ""),
    "deep minuses": (b"class Mine:\n    x = " + b"-" * 5000 + b"1\n", "nested too deeply"),
    "a deep sum": (b"class Mine:\n    x = " + b"1+" * 20_000 + b"1\n", "nested too deeply"),
    "deep attributes": (b"class Mine:\n    x = a" + b".a" * 20_000 + b"\n", ""),
    "a set of lists": (b"class Mine:\n    x = {[1]}\n    y = {[1]: 2}\n", ""),
    "an order that is none": (b"class Mine:\n    order = 1e999\n", "order of Mine: inf is not a growth in N"),
    "an order of hundreds of digits": (b"class Mine:\n    order = 1" + b"0" * 400 + b"\n", "is not a growth"),
    "an order that nothing has": (b"class Mine:\n    order = 'N^99999'\n", "'N^99999' is not a growth in N"),
    "requires that is no text": (b"class Mine:\n    requires = ('a',)\n", "of Mine is ('a',), not text"),
    "requires that is no name": (b"class Mine:\n    requires = '../a'\n", "'../a' is not the name of"),
    "a class that derives from itself": (b"class Mine(Mine):\n    pass\n", ""),
    "classes in a circle": (b"class Mine(B):\n    pass\nclass B(Mine):\n    pass\n", ""),
    "choices that are names": (f"A = 1\nclass Mine:\n    {HEAD}, k: Literal[A] = A): pass\n".encode(), ""),
    "nothing": (b"", "unknown class in"),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_every_odd_source_of_a_plug_in_is_read_or_refused(name):
    content, words = SOURCES[name]
    path = Path(f"{name.replace(' ', '_')}.py")
    path.write_bytes(content)
    said = complaint(lambda: registry.parse(f"{path}:Mine", "mechanism"), path)
    assert words in said


def test_sources_in_other_encodings_are_read():
    text = "# -*- coding: latin-1 -*-\nclass Mine:\n    'Größe'\n    " + HEAD + "): pass\n"
    Path("latin.py").write_bytes(text.encode("latin-1"))
    Path("marked.py").write_bytes(b"\xef\xbb\xbf" + text.partition("\n")[2].encode())
    assert registry.find("latin.py:Mine", "mechanism").summary == "Größe"
    assert registry.find("marked.py:Mine", "mechanism").summary == "Größe"


def test_a_source_that_may_not_be_read_is_refused(monkeypatch):
    Path("mine.py").write_bytes(PLUGIN)

    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    registry.find.cache_clear()  # other tests have a file of this name too
    assert "Permission denied" in complaint(lambda: registry.parse("mine.py:Mine", "mechanism"), "mine.py")


@given(anything)
def test_any_declared_growth_is_finite_or_refused(value):
    try:
        growth = Growth.parse(value)
    except ValueError:
        return
    assert math.isfinite(growth.at(1e6))


# Grids and TOML.


@pytest.mark.parametrize("axis", AXES)
@SOME
@given(value=anything)
def test_any_value_of_an_axis_is_read_or_refused(axis, value):
    complaint(lambda: read_axis(axis, value), axis, "is not", "more than", "cannot be printed")


SWEEP = b"""
name = "mine"
description = "text"
seed = 1
timeout = "5m"
memory_limit = "8GiB"
budget = 600
[[grid]]
mechanism = ["linear", "fastformer:interaction=add"]
seq_len = "128:512:x2"
probe = ["time", "memory"]
batch_tokens = 1024
dtype = "float32"
device = "cpu"
precision = "2%"
seconds = 0.5
[[grid]]
mechanism = "vanilla"
seq_len = [64]
probe = "accuracy"
task = "listops"
"""
GATE = b"""
mechanism = ["linear"]
seq_len = [512, 1024]
threshold = "5%"
floor = "10us"
time = true
[exact]
flops = "1%"
ops = false
[[cell]]
mechanism = "linear"
seq_len = 512
threshold = 0.1
"""


def load_sweep(path: Path) -> None:
    Sweep.load(path).cells(most=True)


def load_gate(path: Path) -> None:
    found = gate.read(path.parent, path, {})
    gate.unused(found, found.cells("linear", {}))


def load_project(path: Path) -> None:
    gate.read(path.parent, None, {})


LOADERS = {
    "mine.toml": (load_sweep, SWEEP),
    "gate.toml": (load_gate, GATE),
    "pyproject.toml": (
        load_project,
        GATE.replace(b"[exact]", b"[tool.effbench.gate.exact]")
        .replace(b"[[cell]]", b"[[tool.effbench.gate.cell]]")
        .replace(b"\nmechanism", b"\n[tool.effbench.gate]\nmechanism", 1),
    ),
}


@pytest.mark.parametrize("name", LOADERS)
def test_any_bytes_of_a_configuration_are_read_or_refused_by_name(name, tmp_path):
    load, good = LOADERS[name]
    path = tmp_path / name
    path.write_bytes(good)
    load(path)

    @settings(HERE, max_examples=80)
    @given(changed(good))
    def law(content):
        path.write_bytes(content)
        complaint(
            lambda: load(path), name, "mine:", "a grid of", "batch_", "divide", "no mechanism", "compare"
        )

    law()


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value inside a table, as keys and indices."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))] if at else [
        place for key, one in inner for place in places(one, (key,))
    ]  # fmt: skip


def put(data: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copy = data.copy()
    copy[place[0]] = put(data[place[0]], place[1:], value)
    return copy


@pytest.mark.parametrize("name", LOADERS)
def test_any_toml_value_in_any_place_is_read_or_refused_by_name(name, tmp_path):
    load, good = LOADERS[name]
    path, data = tmp_path / name, tomllib.loads(good.decode())

    @settings(HERE, max_examples=100)
    @given(st.sampled_from(places(data)), toml_values)
    def law(place, value):
        path.write_text(tomli_w.dumps(put(data, place, value)), encoding="utf-8")
        complaint(
            lambda: load(path), name, "mine:", "a grid of", "batch_", "divide", "no mechanism", "compare"
        )

    law()


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = " + "[" * 5000, "nested too deeply"),
        ("x = " + "{a=" * 5000, "nested too deeply"),
        ("x = " + "9" * 5000, "digits"),
        ("x = 2024-02-30", "Invalid date"),
        ("x = 0x" + "f" * 5000, "unknown key"),
        (".".join("a" * 5000) + " = 1", "unknown key"),
        ("\x00", "not valid TOML"),
        ("a = 1\na = 2", "not valid TOML"),
    ],
)
def test_every_odd_text_in_toml_is_refused_by_name(name, text, words, tmp_path):
    load = LOADERS[name][0]
    table = "[tool.effbench.gate]\n" if name == "pyproject.toml" else ""
    (tmp_path / name).write_text(f"{table}{text}\n")
    said = complaint(lambda: load(tmp_path / name), name)
    assert words in said or (name == "mine.toml" and "at least one [[grid]]" in said)


@pytest.mark.parametrize(
    ("content", "words"), [(b"\xff\xfe", "byte 0 is not UTF-8"), (b"#" * (2**24 + 1), "more than 16 MiB")]
)
def test_what_is_no_text_is_refused_by_name(content, words, tmp_path):
    (tmp_path / "mine.toml").write_bytes(content)
    assert words in complaint(lambda: read_toml(tmp_path / "mine.toml"), "mine.toml")
    (tmp_path / "folder.toml").mkdir()
    assert "Is a directory" in complaint(lambda: read_toml(tmp_path / "folder.toml"), "folder.toml")
    for name in ("a\0b", "\ud800", "x" * 5000):
        complaint(partial(read_toml, tmp_path / name), "cannot read")


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbf" + SWEEP)
    assert Sweep.load(tmp_path / "mine.toml").name == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"timeout": "soon"}, "timeout 'soon' is not a time"),
        ({"timeout": ""}, "timeout '' is not a time"),
        ({"budget": True}, "budget True is not a time"),
        ({"memory_limit": -1}, "memory_limit -1 is not an amount"),
        ({"seed": 0.5}, "seed 0.5 is not a whole number"),
        ({"seed": 2**60}, "is more than 9007199254740992"),
        ({"name": ""}, "name '' is not a plain name"),
        ({"name": ".."}, "name '..' is not a plain name"),
        ({"name": "a" * 300}, "is not a plain name"),
        ({"grid": []}, "at least one [[grid]]"),
        ({"grid": [{"mechanism": "linear", "seq_len": 64}, {"heads": ""}]}, "grid 2: heads '' is not"),
        ({"grid": [{"mechanism": [], "seq_len": 64}]}, "grid 1: mechanism is empty"),
        ({"grid": [{"mechanism": "", "seq_len": 64}]}, "grid 1: unknown mechanism ''"),
        ({"grid": [{"mechanism": "linear", "seq_len": 64, "device": "cuda:9999"}]}, "device 'cuda:9999'"),
        (
            {"grid": [{"mechanism": "linear", "seq_len": 64, "threads": 10**6}]},
            "threads 1000000 is more than 4096",
        ),
        ({"grid": [{"mechanism": "linear", "seq_len": [[64]]}]}, "grid 1: seq_len [64] is not"),
    ],
)
def test_a_complaint_about_a_sweep_names_file_and_key(change, words, tmp_path):
    (tmp_path / "mine.toml").write_text(tomli_w.dumps({**tomllib.loads(SWEEP.decode()), **change}))
    said = complaint(lambda: load_sweep(tmp_path / "mine.toml"), f"{tmp_path / 'mine.toml'}: ")
    assert words in said


# The paper's numbers.

PUBLISHED = (files("effbench.records") / "published" / "fastformer.toml").read_text(encoding="utf-8")


def test_the_papers_numbers_are_read():
    assert published_data.read(PUBLISHED, "fastformer.toml") == tomllib.loads(PUBLISHED)


def test_any_value_in_any_place_of_the_papers_numbers_is_read_or_refused_by_name():
    data = tomllib.loads(PUBLISHED)
    everywhere = places(data)

    @settings(HERE, max_examples=30)
    @given(st.sampled_from(everywhere), toml_values)
    def law(place, value):
        text = tomli_w.dumps(put(data, place, value))
        complaint(lambda: published_data.read(text, "fastformer.toml"), "fastformer.toml")

    law()
    # nothing that is relied on may be a table of nothing; of a list the first stands for the others
    for place in (each for each in everywhere if not any(isinstance(key, int) and key for key in each)):
        text = tomli_w.dumps(put(data, place, {}))
        said = complaint(
            partial(published_data.read, text, "fastformer.toml"), f"fastformer.toml: {place[0]}"
        )
        assert said, place


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('against = "Fastformer"', 'against = "Slowformer"', "table4: against 'Slowformer' is none of"),
        (
            "accuracy = [65.32, 0.35]",
            "accuracy = []",
            "table4.row 1: Amazon: accuracy [] is not a list of 1 to 2",
        ),
        ("accuracy = [65.32, 0.35]", "accuracy = [nan]", "accuracy item 1 nan is not a number above 0"),
        ("accuracy = [65.32, 0.35]", "f1 = [1]", "table4.row 1: Amazon: the key 'accuracy' is missing"),
        ("lengths = [128, 256", "lengths = [256, 128", "figure2.lengths"),
        ("training = [240, 517, 1230]", "training = [0]", "figure2.row 1: training item 1 0 is not a number"),
        ('name = "Longformer"', 'name = "Transformer"', "two rows have one name"),
        ("max_len = 512", "max_len = true", "datasets.'Amazon': max_len True is not a whole number"),
        ('values = ["O(N d)"]', "values = []", "table7.row 7: values [] is not a list of 1"),
    ],
)
def test_what_is_wrong_with_the_papers_numbers_is_named(old, new, words):
    assert old in PUBLISHED
    text = PUBLISHED.replace(old, new, 1)
    assert words in complaint(lambda: published_data.read(text, "f.toml"), "f.toml: ")


# JSON.


@pytest.mark.parametrize(
    "text",
    ["", "nul", "NaN", "[Infinity]", "1e999", "-1e999", '{"a":1,"a":2}', "9" * 19, "9" * 5000, "[" * 10**5,
     '{"a":' * 10**5, "\ufeff{}", '"\n"', "'a'", "{a:1}", "[1,]", "1 2"],
)  # fmt: skip
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError, match="."):
        parse_json(text)


@SOME
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(),
        lambda i: st.lists(i) | st.dictionaries(st.text(), i),
    )
)
def test_what_is_json_is_read(value):
    assert parse_json(json.dumps(value)) == value


# The commands.

OPTIONS = (
    "seq-len batch-size batch-tokens d-model heads layers dtype device mode scope probe task mechanism "
    "repeats max-repeats seconds precision threads allocator timeout memory-limit budget seed executor config"
)


def test_any_value_of_an_option_is_read_or_refused_in_one_line(monkeypatch, capsys):
    @settings(HERE, max_examples=50)
    @given(
        st.sampled_from(OPTIONS.split()), st.sampled_from([text for text in ODD_TEXTS if "\0" not in text])
    )
    def law(option, text):
        small = ["--mechanism=linear", "--seq-len=16", "--probe=time", "--mode=forward"]
        monkeypatch.setattr("sys.argv", ["effbench", "run", "--dry-run", *small, f"--{option}={text}"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert ended.value.code in (0, None, 2)
        if ended.value.code == 2:
            assert said.out == ""
            assert said.err.count("\n") == 1
            assert len(said.err) < 1100
        assert not Path("results").exists()

    law()


@pytest.mark.parametrize("name", ["nowhere", "file", "a\0b", "\ud800", "x" * 5000])
def test_a_folder_of_results_that_is_none_is_refused_by_name(name, tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / name)
    assert "is not a results folder" in complaint(store.read, "")
    if name != "nowhere":
        assert "results folder" in complaint(store.create, "")

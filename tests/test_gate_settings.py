"""The settings of a gate: flags over file over defaults, and every mistake is one line."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ours import our_mechanisms

from effbench.common.spec import Cell, Mode, UsageError
from effbench.common.values import parse_time_s
from effbench.gate.exact import DEFAULTS, FIGURES
from effbench.gate.settings import KEYS, GateSettings, Override, read, unused
from effbench.sweep.axes import read_axis
from effbench.sweep.sweep import Sweep

FULL = """
mechanism = ["attn.py:MyAttention", "fastformer:interaction=add"]
seq_len = "512:4096:x2"
mode = ["forward", "train"]
threshold = "5%"
floor = "10us"
budget = "3m"
error = "2%"
[exact]
peak_bytes = "2%"
ops = false
[[cell]]
mechanism = "fastformer"
seq_len = 4096
mode = "train"
threshold = "10%"
"""
ONE = 'mechanism = "vanilla"\n'


def own(folder: Path, text: str, flags: dict[str, Any] | None = None) -> GateSettings:
    """The settings from a file of its own."""
    (folder / "gate.toml").write_text(text)
    return read(folder, folder / "gate.toml", flags or {})


def cell(mechanism: str = "vanilla", seq_len: int = 512, mode: Mode = "forward", **options) -> Cell:
    return Cell(mechanism=mechanism, options=options, probe="time", seq_len=seq_len, mode=mode)


@pytest.mark.parametrize("short", ["us", "µs", "μs", "ms", "s", "m", "min", "h", ""])
@given(number=st.floats(1e-3, 500))
def test_a_time_is_its_number_of_units(short, number):
    scale = {"": 1, "ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600}.get(short, 1e-6)
    assert parse_time_s(f"{number!r}{short}") == pytest.approx(number * scale, rel=1e-12)
    assert parse_time_s(f" {number!r} {short} ") == parse_time_s(f"{number!r}{short}")


@given(st.floats(1e-9, 1e6))
def test_a_plain_number_is_seconds(number):
    assert parse_time_s(number) == number


@pytest.mark.parametrize(
    "bad", ["soon", "", "-1s", "0", "0us", "10 ns", "1e999", "10usec", "us", True, float("nan"), float("inf")]
)
def test_what_is_not_a_time_is_refused(bad):
    with pytest.raises(UsageError, match=rf"^{re.escape(repr(bad))} is not a time; write 10us"):
        parse_time_s(bad)


@given(st.integers(1, 10**6))
def test_a_short_time_is_what_its_literal_is(number):
    assert parse_time_s(f"{number}us") == float(f"{number}e-6")
    assert parse_time_s(f"{number}ms") == float(f"{number}e-3")


def test_no_time_at_all_is_one_only_where_asked():
    assert parse_time_s("0us", zero=True) == parse_time_s(0, zero=True) == 0
    with pytest.raises(UsageError, match="is not a time"):
        parse_time_s("-1s", zero=True)


def test_an_axis_reads_as_a_grid_reads_it():
    assert read_axis("seq_len", "16:64:x2") == (16, 32, 64)
    with pytest.raises(UsageError, match="heads is empty"):
        read_axis("heads", [])
    with pytest.raises(UsageError, match="unknown grid key 'head'; did you mean 'heads'"):
        read_axis("head", 1)


def test_the_defaults_are_those_of_a_sweep_but_for_lengths_and_threads(tmp_path):
    chosen = read(tmp_path, None, {"mechanism": ["vanilla"]})
    grid = f"[[grid]]\nmechanism = 'vanilla'\nthreads = 1\nseq_len = {list(chosen.axes['seq_len'])}\n"
    cells = [c for c in Sweep.from_toml(grid, "x", "x").cells() if c.probe == "time"]
    for name, values in chosen.axes.items():
        if name != "layers":  # one attention layer has one
            assert set(values) == {getattr(c, name) for c in cells}, name
    encoder = Sweep.from_toml(grid + "scope = 'encoder'\n", "x", "x").cells()
    assert set(chosen.axes["layers"]) == {c.layers for c in encoder}
    assert chosen == GateSettings(axes=chosen.axes)
    assert (chosen.threshold, chosen.floor_s, chosen.error, chosen.budget_s) == (0.05, 10e-6, 0.01, 120.0)
    assert chosen.time
    assert chosen.exact == DEFAULTS
    assert chosen.axes["seq_len"] == (512, 2048)
    assert chosen.axes["threads"] == (1,)


def test_a_file_of_its_own_and_a_table_of_the_project_say_the_same(tmp_path):
    chosen = own(tmp_path, FULL)
    table = re.sub(r"\[(exact|\[?cell)", r"[tool.effbench.gate.\1", FULL).replace("gate.[cell", "gate.cell")
    table = table.replace("[tool.effbench.gate.cell]]", "[[tool.effbench.gate.cell]]")
    (tmp_path / "pyproject.toml").write_text(f"[project]\nname = 'x'\n[tool.effbench.gate]\n{table}")
    assert read(tmp_path, None, {}) == chosen
    elsewhere = read(tmp_path / "elsewhere", tmp_path / "pyproject.toml", {})
    assert elsewhere.axes["mechanism"] == (f"{tmp_path}/attn.py:MyAttention", "fastformer:interaction=add")
    assert replace(elsewhere, axes=chosen.axes) == chosen
    assert chosen.axes["mechanism"] == ("attn.py:MyAttention", "fastformer:interaction=add")
    assert chosen.axes["seq_len"] == (512, 1024, 2048, 4096)
    assert (chosen.threshold, chosen.floor_s, chosen.budget_s, chosen.error) == (0.05, 10e-6, 180, 0.02)
    assert chosen.exact == {"flops": 0, "peak_bytes": 0.02, "saved_bytes": "alignment", "parameters": 0}
    assert chosen.overrides == (
        Override(mechanism="fastformer", seq_len=4096, mode="train", threshold=0.1, floor_s=None),
    )


def test_a_file_given_is_read_instead_of_the_projects_table(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.effbench.gate]\nmechanism = 'linear'\nheads = 8\n")
    assert own(tmp_path, ONE).axes["mechanism"] == ("vanilla",)
    assert own(tmp_path, ONE).axes["heads"] == (16,)


# A value of each key that is not its default, as TOML or a flag may give it, with what becomes of it.
VALUES = {
    "mechanism": (["a.py:A", "gone:x=1"], ("a.py:A", "gone:x=1")),
    "seq_len": ("16:64:x2", (16, 32, 64)),
    "mode": ("train", ("train",)),
    "batch_size": ("2,4", (2, 4)),
    "batch_tokens": (4096, (4096,)),
    "d_model": ([64, 128], (64, 128)),
    "heads": (4, (4,)),
    "layers": ("3", (3,)),
    "scope": (["encoder"], ("encoder",)),
    "dtype": ("bfloat16", ("bfloat16",)),
    "device": ("cuda:1", ("cuda:1",)),
    "threads": ([2, 2], (2,)),
    "allocator": ("system", ("system",)),
    "compile": ("default", ("default",)),
    "threshold": ("7%", 0.07),
    "floor": ("3µs", 3e-6),
    "error": (0.05, 0.05),
    "budget": (90, 90),
    "time": (False, False),
    "exact": (
        {"flops": False, "peak_bytes": 0, "ops": "50%"},
        {"peak_bytes": 0, "saved_bytes": "alignment", "parameters": 0, "ops": 0.5},
    ),
    "cell": ([{"threshold": "9%"}], (Override(threshold=0.09),)),
}
FIELDS = {"floor": "floor_s", "budget": "budget_s", "cell": "overrides"}


def result(chosen: GateSettings, key: str) -> object:
    return chosen.axes[key] if key in chosen.axes else getattr(chosen, FIELDS.get(key, key))


def test_every_key_is_tried_below():
    assert set(VALUES) == set(KEYS)
    assert {FIELDS.get(key, key) for key in KEYS} >= {f.name for f in fields(GateSettings)} - {"axes"}


@pytest.mark.parametrize("key", KEYS)
def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path, key):
    value, expected = VALUES[key]
    plain = own(tmp_path, ONE)
    assert result(own(tmp_path, tomli_w.dumps({"mechanism": "vanilla", key: value})), key) == expected
    if key in plain.axes or key in ("batch_tokens", "cell"):  # a default or, below, another value in the file
        assert result(own(tmp_path, ONE, {key: value}), key) == expected
    else:
        assert result(plain, key) != expected
    other = {"threshold": 0.5, "floor": 1, "error": 0.5, "budget": 1, "time": True, "exact": {"ops": 0.1}}
    if key in other:
        assert result(
            own(tmp_path, tomli_w.dumps({"mechanism": "v", key: other[key]}), {key: value}), key
        ) == (expected)
    # a flag that was not given leaves what the file says
    kept = own(tmp_path, tomli_w.dumps({"mechanism": "vanilla", key: value}), {key: None})
    assert result(kept, key) == expected


def test_a_flag_that_was_not_given_any_value_was_not_given(tmp_path):
    assert own(tmp_path, ONE, {"mechanism": [], "seq_len": None}) == own(tmp_path, ONE)


def test_the_exact_figures_of_flags_and_file_are_put_together(tmp_path):
    file = ONE + "[exact]\nflops = '1%'\nops = false\npeak_bytes = 0\n"
    chosen = own(tmp_path, file, {"exact": {"ops": True, "parameters": False}})
    assert chosen.exact == {"flops": 0.01, "ops": "shown", "peak_bytes": 0, "saved_bytes": "alignment"}


@pytest.mark.parametrize(
    ("first", "second"), [("batch_size", "batch_tokens"), ("batch_tokens", "batch_size")]
)
def test_a_batch_is_given_in_sequences_or_in_tokens_and_the_flag_says_which(tmp_path, first, second):
    chosen = own(tmp_path, ONE + f"{first} = 2048\n", {second: "4096"})
    assert {first, second} & set(chosen.axes) == {second}
    assert chosen.axes[second] == (4096,)


def test_the_mechanism_is_not_looked_for(tmp_path):
    texts = ["nowhere.py:Gone:a=1,b=2", "no-such-name"]
    assert own(tmp_path, "", {"mechanism": [*texts, *texts]}).axes["mechanism"] == tuple(texts)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("mechanism =", "not valid TOML"),
        (ONE + "seqlen = 3\n", "unknown key 'seqlen'; did you mean 'seq_len'? allowed: mechanism, seq_len,"),
        (ONE + "probe = 'time'\n", "unknown key 'probe'; allowed: mechanism,"),
        (ONE + "budget_s = 3\n", "unknown key 'budget_s'; did you mean 'budget'"),
        ("mechanism = 3\n", "mechanism 3 is not text such as"),
        ("mechanism = ['a', ' ']\n", "mechanism ' ' is not text such as"),
        ("mechanism = []\n", "mechanism is empty"),
        (ONE + "seq_len = 'long'\n", "seq_len 'long' is not a whole number of at least 1"),
        (ONE + "seq_len = '8:4:x2'\n", "seq_len '8:4:x2' never reaches its end"),
        (ONE + "seq_len = []\n", "seq_len is empty"),
        (ONE + "mode = 'trian'\n", "unknown mode 'trian'; did you mean 'train'? choose from: forward, train"),
        (ONE + "batch_size = 0\n", "batch_size 0 is not a whole number of at least 1"),
        (ONE + "batch_size = 1\nbatch_tokens = 4\n", "give batch_size or batch_tokens, not both"),
        (ONE + "heads = true\n", "heads True is not a whole number"),
        (ONE + "d_model = 2.5\n", "d_model 2.5 is not a whole number"),
        (ONE + "layers = [1, 'two']\n", "layers 'two' is not a whole number"),
        (ONE + "scope = 'layer'\n", "unknown scope 'layer'; choose from: attention, encoder, user-encoder"),
        (ONE + "dtype = 'float31'\n", "did you mean 'float32'"),
        (ONE + "device = 'tpu'\n", "device 'tpu' is not cpu, cuda or cuda:N"),
        (ONE + "threads = -1\n", "threads -1 is not a whole number"),
        (ONE + "allocator = 'jemalloc'\n", "unknown allocator 'jemalloc'; choose from: kept, system"),
        (ONE + "threshold = '5'\n", "threshold '5' is not a share between 0 and 1; write 2% or 0.02"),
        (ONE + "threshold = nan\n", "threshold nan is not a share"),
        (ONE + "error = 0\n", "error 0 is not a share"),
        (ONE + "floor = '10 parsecs'\n", "floor '10 parsecs' is not a time; write 10us, 1.5ms,"),
        (ONE + "floor = false\n", "floor False is not a time"),
        (ONE + "floor = '10'\n", "floor '10' is not a time; write 10us"),
        (ONE + "budget = 0\n", "budget 0 is not a time; write"),
        (ONE + "budget = [1]\n", "budget [1] is not a time; write"),
        (ONE + "time = 'no'\n", "time 'no' is not true or false"),
        (ONE + "exact = false\n", "exact False is not a table"),
        (ONE + "exact.flop = 0\n", "unknown exact figure 'flop'; did you mean 'flops'? there are: flops,"),
        (
            ONE + "exact.ops = 'few'\n",
            "exact.ops 'few' is not a share between 0 and 1; write 2% or 0.02, 0 for",
        ),
        (ONE + "exact.ops = -0.1\n", "exact.ops -0.1 is not a share"),
        (ONE + "cell = 3\n", "cell 3 is not a list of tables; write [[cell]]"),
        (ONE + "[cell]\nthreshold = 0.1\n", "is not a list of tables; write [[cell]]"),
        (ONE + "cell = [3]\n", "cell 1: this 3 is not a table"),
        (ONE + "[[cell]]\nmode = 'train'\n", "cell 1: sets nothing; give a threshold, a floor or both"),
        (
            ONE + "[[cell]]\nfloor = 0\n[[cell]]\nlen = 3\n",
            "cell 2: unknown key 'len'; did you mean 'seq_len'",
        ),
        (ONE + "[[cell]]\nerror = 0.1\n", "cell 1: unknown key 'error'; allowed: mechanism, seq_len, mode,"),
        (ONE + "[[cell]]\nfloor = 0\nseq_len = '512,1024'\n", "cell 1: seq_len '512,1024' is not a whole"),
        (
            ONE + "[[cell]]\nfloor = 0\nmode = ['train']\n",
            "cell 1: unknown mode ['train']; choose from: forward, train",
        ),
        (
            ONE + "[[cell]]\nfloor = 0\nmode = 'trained'\n",
            "did you mean 'train'? choose from: forward, train",
        ),
        (ONE + "[[cell]]\nfloor = 0\nmechanism = ['a']\n", "cell 1: mechanism ['a'] is not text"),
        (ONE + "[[cell]]\nthreshold = 3\n", "cell 1: threshold 3 is not a share between 0 and 1"),
        (ONE + "[[cell]]\nfloor = 'low'\n", "cell 1: floor 'low' is not a time"),
    ],
)
def test_a_broken_file_is_refused_in_one_line_with_the_place(tmp_path, text, complaint):
    with pytest.raises(UsageError) as refused:
        own(tmp_path, text)
    assert str(refused.value).startswith(f"{tmp_path / 'gate.toml'}: ")
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[tool.effbench.gate]\nseq_len = 0\n", "pyproject.toml: tool.effbench.gate: seq_len 0 is not"),
        ("[tool.effbench]\ngate = 3\n", "pyproject.toml: tool.effbench.gate 3 is not a table"),
        ("[tool]\neffbench = true\n", "pyproject.toml: effbench True is not a table"),
        ("tool = 1\n", "pyproject.toml: tool 1 is not a table"),
        ("[tool.effbench.gat]\nseq_len = 1\n", "unknown table in tool.effbench 'gat'; did you mean 'gate'?"),
        ("[tool\n", "pyproject.toml: not valid TOML"),
    ],
)
def test_a_broken_project_file_is_refused(tmp_path, text, complaint):
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match=re.escape(complaint)):
        read(tmp_path, None, {"mechanism": ["vanilla"]})


def test_a_mistake_in_a_flag_does_not_blame_the_file(tmp_path):
    with pytest.raises(UsageError, match=r"^threshold '5x' is not a share"):
        own(tmp_path, ONE, {"threshold": "5x"})
    with pytest.raises(UsageError, match=r"^unknown key 'thresh'; did you mean 'threshold'\?"):
        own(tmp_path, ONE, {"thresh": 1})


def test_no_mechanism_says_how_to_name_one(tmp_path):
    for text in (None, "[project]\nname = 'x'\n", "[tool.effbench.gate]\nheads = 4\n"):
        if text is not None:
            (tmp_path / "pyproject.toml").write_text(text)
        with pytest.raises(
            UsageError, match=r"-m NAME .*mechanism = .* in \[tool.effbench.gate\] of pyproject"
        ):
            read(tmp_path, None, {})
    with pytest.raises(UsageError, match=r"no mechanism.* -m .*mechanism = .* in .*gate\.toml$"):
        own(tmp_path, "heads = 4\n")


def test_a_file_that_is_asked_for_has_to_be_there(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*gone\.toml"):
        read(tmp_path, tmp_path / "gone.toml", {"mechanism": ["vanilla"]})
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(UsageError, match=r"there is no table \[tool\.effbench\.gate\]"):
        read(tmp_path, tmp_path / "pyproject.toml", {"mechanism": ["vanilla"]})
    (tmp_path / "latin.toml").write_bytes(b"mechanism = '\xe9'")
    with pytest.raises(UsageError, match=r"cannot read .*latin\.toml"):
        read(tmp_path, tmp_path / "latin.toml", {})


def test_a_gate_that_would_look_at_nothing_is_refused(tmp_path):
    off = dict.fromkeys(FIGURES, False)
    with pytest.raises(UsageError, match="nothing to compare"):
        own(tmp_path, ONE, {"time": False, "exact": off})
    assert own(tmp_path, ONE, {"exact": off}).exact == {}


@pytest.mark.parametrize(
    ("text", "matched", "missed"),
    [
        ("fastformer", [cell("fastformer"), cell("fastformer", interaction="add")], [cell("fastformers")]),
        ("fastformer:interaction=add", [cell("fastformer", interaction="add")], [cell("fastformer")]),
        ("x:b=2, a=true", [cell("x", a=True, b=2)], [cell("x", a=True), cell("x", a=True, b=2, c=1)]),
        ("fastformer:", [cell("fastformer")], [cell("fastformer", interaction="add")]),
        ("hf:bigbird", [cell("hf:bigbird"), cell("hf:bigbird", block=8)], [cell("hf"), cell("bigbird")]),
        ("hf", [], [cell("hf:bigbird")]),
        ("a.py:A", [cell("a.py:A", width=4)], [cell("a.py:AB"), cell("b/a.py:A")]),
        ("a.py:A:width=4", [cell("a.py:A", width=4)], [cell("a.py:A"), cell("a.py:A", width=8)]),
    ],
)
def test_a_name_matches_all_options_and_a_label_only_itself(text, matched, missed):
    override = Override(mechanism=text, threshold=0.1)
    assert all(map(override.matches, matched))
    assert not any(map(override.matches, missed))


@given(
    st.builds(
        cell,
        mechanism=st.sampled_from(["vanilla", "hf:bigbird", "a.py:A"]),
        seq_len=st.integers(1, 4),
        mode=st.sampled_from(["forward", "train"]),
        window=st.one_of(st.booleans(), st.integers(-3, 3), st.floats(0, 1), st.none()),
        kind=st.sampled_from(["add", "mul"]),
    )
)
def test_every_cell_is_matched_by_its_name_and_by_its_label(one):
    for name in (None, one.mechanism, one.label):
        for seq_len in (None, one.seq_len):
            for mode in (None, one.mode):
                assert Override(mechanism=name, seq_len=seq_len, mode=mode, floor_s=0.0).matches(one)
        assert not Override(mechanism=name, seq_len=one.seq_len + 1).matches(one)
        other = {"forward": "train", "train": "forward"}[one.mode]
        assert not Override(mechanism=name, mode=other).matches(one)
    assert not Override(mechanism=f"{one.label},more=1").matches(one)


SHARES = st.one_of(st.none(), st.floats(0.01, 0.99))
OVERRIDES = st.builds(
    Override,
    mechanism=st.sampled_from([None, "vanilla", "linear", "vanilla:a=1"]),
    seq_len=st.sampled_from([None, 512, 1024]),
    mode=st.sampled_from([None, "forward", "train"]),
    threshold=SHARES,
    floor_s=SHARES,
)
CELLS = [
    made
    for mode in ("forward", "train")
    for n in (512, 2048)
    for made in (cell("vanilla", n, mode), cell("vanilla", n, mode, a=1), cell("linear", n, mode))
]


@given(st.lists(OVERRIDES, max_size=6))
def test_the_last_override_that_matches_and_sets_a_value_wins(overrides):
    chosen = GateSettings(axes={}, overrides=tuple(overrides))
    for one in CELLS:
        threshold, floor_s = chosen.threshold, chosen.floor_s
        for override in overrides:  # the law told forwards: each one that speaks of the cell takes over
            if override.matches(one):
                threshold = threshold if override.threshold is None else override.threshold
                floor_s = floor_s if override.floor_s is None else override.floor_s
        assert (chosen.threshold_of(one), chosen.floor_of(one)) == (threshold, floor_s)


@given(st.lists(OVERRIDES, max_size=6), st.sets(st.sampled_from(range(len(CELLS)))))
def test_an_override_is_unused_just_if_no_cell_is_matched(overrides, places):
    chosen = GateSettings(axes={}, overrides=tuple(overrides))
    cells = [CELLS[i] for i in places]
    idle = unused(chosen, iter(cells))
    for override in overrides:
        assert (override in idle) == (not [one for one in cells if override.matches(one)])


TIMES = st.integers(1, 10**6).map(lambda n: f"{n}us")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.fixed_dictionaries(
        {"mechanism": st.lists(st.sampled_from(["vanilla", "a.py:A", "b:x=1,y=2"]), min_size=1)},
        optional={
            "seq_len": st.lists(st.integers(1, 9), min_size=1),
            "threshold": st.floats(0.01, 0.99),
            "floor": TIMES,
            "budget": TIMES,
            "time": st.booleans(),
            "exact": st.dictionaries(
                st.sampled_from(FIGURES[1:]), st.one_of(st.booleans(), st.floats(0.01, 0.9))
            ),
        },
    )
)
def test_a_file_and_flags_of_the_same_values_ask_for_the_same_and_a_report_holds_it_all(tmp_path, data):
    chosen = own(tmp_path, tomli_w.dumps(data))
    assert read(tmp_path, None, data) == chosen
    plain = chosen.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert set(plain) == {f.name for f in fields(GateSettings)}
    axes = {name: tuple(values) for name, values in plain.pop("axes").items()}
    overrides = tuple(Override(**each) for each in plain.pop("overrides"))
    assert GateSettings(axes=axes, overrides=overrides, **plain) == chosen


def test_a_gate_has_one_allocator(tmp_path):
    with pytest.raises(UsageError, match="allocator kept, system: a gate uses a single allocator"):
        read(tmp_path, None, {"mechanism": "vanilla", "allocator": "kept,system"})


def test_the_gate_of_this_project_has_every_baseline():
    root = Path(__file__).parent.parent
    axes = read(root, None, {}).axes
    ours = {plugin.name for plugin in our_mechanisms()}
    assert {str(text).partition(":")[0] for text in axes["mechanism"]} == ours - {"pointwise"}

"""Names, files and options: found without importing, refused with the choices."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from effbench.common import registry
from effbench.common.growth import Growth
from effbench.common.spec import UsageError


def test_ours_are_found_as_anybodys_would_be():
    assert {"vanilla", "fastformer", "linformer", "longformer", "bigbird", "linear"} <= set(
        registry.names("mechanism")
    )
    for name in registry.names("mechanism"):
        plugin = registry.find(name, "mechanism")
        assert plugin.parameters is not None
        assert plugin.order
        assert plugin.source
        assert plugin.summary
        loaded: Any = registry.load(plugin)
        assert loaded.__name__ == plugin.class_name
        assert Growth.parse(loaded.order) == plugin.order


def test_options_are_read_in_the_type_of_the_constructor(plugin):
    name, options = registry.parse(plugin("Plain") + ":scale=2,kind=b", "mechanism")
    assert name == plugin("Plain")
    assert options == {"kind": "b", "scale": 2.0}
    assert isinstance(options["scale"], float)
    assert registry.parse("fastformer:interaction=add", "mechanism")[1] == {"interaction": "add"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("fastfromer", "unknown mechanism 'fastfromer'; did you mean 'fastformer'\\?.*vanilla"),
        (
            "fastformer:interactoin=add",
            "unknown option of fastformer 'interactoin'; did you mean 'interaction'",
        ),
        ("fastformer:interaction=times", "interaction=times is not one of product, add, concat"),
        ("linformer:k=many", "k=many is not int"),
        ("linformer:k", "'k' is not option=value"),
        ("nowhere.py:X", "there is no file 'nowhere.py'"),
        ("nowhere.py", "name the class too"),
        ("no_such_package.mod:X", "no Python module 'no_such_package.mod'"),
        ("effbench.measured.mechanism:Nechanism", "unknown class in .*did you mean 'Mechanism'"),
    ],
)
def test_what_a_user_got_wrong_is_said_with_the_choices(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        registry.parse(text, "mechanism")


def test_a_file_without_the_class_lists_what_it_has(plugin):
    with pytest.raises(
        UsageError, match="unknown class in .*plugins.py 'Plian'; did you mean 'Plain'.*Segfault"
    ):
        registry.parse(plugin("Plian"), "mechanism")
    with pytest.raises(UsageError, match=r"must accept \(d_model, heads, \*, max_len"):
        registry.parse(plugin("OddContract"), "mechanism")


def test_a_file_with_a_syntax_error_is_refused_with_its_line(tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\nclass (:\n")
    with pytest.raises(UsageError, match=r"broken.py: line 2"):
        registry.parse(f"{tmp_path}/broken.py:X", "mechanism")


def test_options_that_the_source_does_not_tell_are_left_to_the_class(plugin):
    assert registry.find(plugin("Alias"), "mechanism").parameters is None
    assert registry.parse(plugin("Alias") + ":scale=0.5", "mechanism")[1] == {"scale": 0.5}
    assert registry.load(registry.find(plugin("Alias"), "mechanism")).__name__ == "Plain"


def test_finding_imports_neither_torch_nor_the_mechanisms():
    code = (
        "import sys; from effbench.common import registry\n"
        "[registry.find(n, 'mechanism') for n in registry.names('mechanism')]\n"
        "[registry.find(n, 'task') for n in registry.names('task')]\n"
        "assert not {'torch', 'baselines.attention.vanilla', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_class_that_a_module_makes_under_a_condition_is_one_of_its_names(tmp_path):
    text = "try:\n    from no_such import A\nexcept ImportError:\n    class A: pass\n"
    text += "if True:\n    class B: pass\nelse:\n    with open('x'):\n        class C: pass\n"
    (tmp_path / "mine.py").write_text(text)
    for name in "ABC":
        assert registry.find(f"{tmp_path}/mine.py:{name}", "mechanism").parameters is None
    with pytest.raises(registry.Absent):
        registry.find(f"{tmp_path}/mine.py:D", "mechanism")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("no-such-name", registry.Absent),
        ("nowhere.py:A", registry.Absent),
        ("no.such.module:A", registry.Absent),
        ("mine.py:B", registry.Absent),
        ("mine.py:A:k=1", registry.Absent),
        ("mine.py:A:kind=c", registry.Absent),
        ("mine.py:A:often=x", registry.Absent),
        ("unread.py:A", registry.Broken),
        ("latin.py:A", registry.Broken),
        ("mine.py:Short", registry.Broken),
        ("mine.py:A:k", UsageError),
        ("mine.py", UsageError),
    ],
)
def test_a_refusal_says_whether_it_is_there(tmp_path, monkeypatch, text, kind):
    """What is not there is another thing than what is there and no mechanism, and than text that is none."""
    head = "def __init__(self, d_model, heads, *, max_len, causal=False"
    (tmp_path / "mine.py").write_text(
        "from typing import Literal\n\n\n"
        f"class A:\n    {head}, kind: Literal['a', 'b'] = 'a', often: int = 1): pass\n\n\n"
        "class Short:\n    def __init__(self, d_model): pass\n"
    )
    (tmp_path / "unread.py").write_text("class A(")
    (tmp_path / "latin.py").write_bytes(b"class A:\n    '\xe9'\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as refused:
        registry.parse(text, "mechanism")
    assert type(refused.value) is kind


# Options of tasks: annotated fields, through base classes that are read and not imported.


def options(folder, name, text, **others):
    """Return the options of class A in a file with this text; importing the files would raise."""
    for module, source in {name: text, **others}.items():
        (folder / f"{module}.py").write_text(f"import no_such_library\n{source}")
    parameters = registry.find(f"{folder / name}.py:A", "task").parameters
    return None if parameters is None else {p.name: (p.kind, p.default) for p in parameters}


def test_fields_of_a_class_and_its_bases_are_options_in_the_order_of_the_classes(tmp_path):
    mine = """
from typing import ClassVar, Literal
from neighbour import Base as Other
class Mixin:
    last: str = "x"
class A(Other, Mixin):
    own: Literal["a", "b"] = "b"
    epochs: int = 7
    lr = 0.5
    _hidden: int = 1
    name: ClassVar[str] = "A"
    hidden: ClassVar[int] = 3
    data_: str | None = None
"""
    neighbour = """
import effbench
class Base(effbench.Task):
    epochs: int = 2
    hidden: int = 2
    lr: float = 0.1
    needed: bool
"""
    found = options(tmp_path, "mine", mine, neighbour=neighbour)
    assert list(found.items()) == [
        ("own", ("Literal['a', 'b']", "b")), ("data", ("str | None", None)), ("epochs", ("int", 7)),
        ("lr", ("float", 0.5)), ("needed", ("bool", None)), ("last", ("str", "x")),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="needs the option needed=bool"):
        registry.parse(f"{tmp_path}/mine.py:A:own=a", "task")


def test_the_constructor_sets_what_the_registry_reads():
    for name in registry.names("task"):
        plugin = registry.find(name, "task")
        task = registry.load(plugin)()
        assert plugin.parameters is not None
        for option in plugin.parameters:
            attribute = f"{option.name}_" if hasattr(task, f"{option.name}_") else option.name
            assert getattr(task, attribute) == option.default
        with pytest.raises(TypeError, match="no option 'no_such'; its options: .*epochs"):
            registry.load(plugin)(no_such=1)


@pytest.mark.parametrize(
    "text",
    [
        "from no_such_module import B\nclass A(B): k: int = 1",
        "from neighbour import No\nclass A(No): k: int = 1",
        "from neighbour import Circle\nclass A(Circle): k: int = 1",
        "from wrong import B\nclass A(B): k: int = 1",
        "class A(B): k: int = 1",
        "class A(A): k: int = 1",
        "class A(make()): k: int = 1",
        "class B: pass\nclass C(B): pass\nclass A(B, C): k: int = 1",
        "class B:\n    def __init__(self, **anything): pass\nclass A(B): k: int = 1",
    ],
)
def test_a_base_class_that_cannot_be_read_leaves_options_to_the_class(tmp_path, text):
    others = {"neighbour": "from mine import Circle\nclass B: pass", "wrong": "class ("}
    assert options(tmp_path, "mine", text + "\nfrom neighbour import Circle", **others) is None


def test_a_constructor_between_the_class_and_task_has_the_options(tmp_path):
    text = """
from effbench import Task
class B(Task):
    no: int = 1
    def __init__(self, *, k: float = 2.0): pass
class A(B):
    neither: int = 1
"""
    assert options(tmp_path, "mine", text) == {"k": ("float", 2.0)}

"""What the gate makes of code that one side lacks or cannot run, and that no such thing passes unseen."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from effbench.common.spec import UsageError
from effbench.gate.checkout import Tree
from effbench.gate.pair import Pair, cells_of, exact_figures
from effbench.gate.settings import read
from effbench.gate.workers import NoAnswer, WorkerDied

CLASS = '''
{before}
import os

from torch import nn
{imports}

class {name}(nn.Module):
    """A linear map."""
    {inside}

    def __init__(self, d_model, heads, *, max_len, causal=False{options}):
        super().__init__()
        self.map = nn.Linear(d_model, d_model)

    def forward(self, x, mask=None):
        {body}
        return self.map(x)
'''


def code(name="A", *, before="", imports="", inside="", options="", body="pass"):
    return CLASS.format(name=name, before=before, imports=imports, inside=inside, options=options, body=body)


PLAIN, UNREADABLE = code(), code(body="pass)")
LACKS = code(imports="import no_such_module")
OLD_KIND = code(options=", kind: Literal['a'] = 'a'", imports="from typing import Literal")
NEW_KIND = OLD_KIND.replace("['a']", "['a', 'b']")
MADE = "from inner import A as Inner\n\n\nclass A(Inner):\n    pass\n"
# The mechanism, its file in base and head (None: there is none), and the verdict with a part of its reason.
CASES = {
    "same.py:A": (PLAIN, PLAIN, None, ""),
    "guarded.py:A": ("try:\n    from no_such import A\nexcept ImportError:\n" +
                     "\n".join(f"    {line}" for line in PLAIN.splitlines()), PLAIN, None, ""),
    "raises.py:A": (PLAIN, code(body="raise KeyError('lost')"), "failed", "KeyError"),
    "dies.py:A": (PLAIN, code(body="os.kill(os.getpid(), 11)"), "failed", "SIGSEGV"),
    "unread.py:A": (PLAIN, UNREADABLE, "failed", "unread.py: line"),
    "fresh_unread.py:A": (None, UNREADABLE, "failed", "fresh_unread.py: line"),
    "lacks.py:A": (PLAIN, LACKS, "failed", "no_such_module"),
    "both_lack.py:A": (LACKS, LACKS, "failed", "; so does the base"),
    "asks.py:A": (PLAIN, code(options=", k: int"), "failed", "needs the option k"),
    "base_lacks.py:A": (LACKS, PLAIN, "base-failed", "no_such_module"),
    "base_library.py:A": (code(inside="requires = 'no-such-library'"), PLAIN, "base-failed", "no-such-lib"),
    "base_raises.py:A": (code(body="raise KeyError('lost')"), PLAIN, "base-failed", "KeyError"),
    "base_dies.py:A": (code(body="os._exit(3)"), PLAIN, "base-failed", "exit code 3"),
    "base_unread.py:A": (UNREADABLE, PLAIN, "base-failed", "base_unread.py: line"),
    "base_contract.py:A": (PLAIN.replace(", causal=False", ""), PLAIN, "base-failed", "constructor"),
    "base_asks.py:A": (code(options=", k: int"), PLAIN, "base-failed", "needs the option k"),
    "elsewhere:A": (PLAIN, PLAIN, "base-failed", "its import finds"),
    "new.py:A": (None, PLAIN, "new", "there is no file 'new.py'"),
    "class.py:A": (code("B"), PLAIN, "new", "unknown class in class.py 'A'"),
    "option.py:A:often=2": (PLAIN, code(options=", often: int = 1"), "new", "unknown option"),
    "choice.py:A:kind=b": (OLD_KIND, NEW_KIND, "new", "kind=b is not one of a"),
    "made.py:A:often=2": (MADE, MADE, "new", "unknown option"),
    "only_head:A": (None, PLAIN, "new", "does not have its file"),
    "gone.py:A": (PLAIN, None, "gone", "there is no file 'gone.py'"),
    "gone_class.py:A": (PLAIN, code("B"), "gone", "unknown class"),
    "gone_option.py:A:often=2": (code(options=", often: int = 1"), PLAIN, "gone", "unknown option"),
    "stray.py:A": (code(imports="import helper"), PLAIN, None, ""),
}  # fmt: skip


def place(folder, mechanism):
    """The file of a mechanism: a dotted one's lies where a path leads that only the head's import has."""
    name = mechanism.partition(":")[0]
    return folder / (name if name.endswith(".py") else f"python/{name}.py")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Base and head with the files of all cases, the head installed as ``pip install -e`` would."""
    base, head = (tmp_path_factory.mktemp(side) for side in ("base", "head"))
    for mechanism, (before, after, *_) in CASES.items():
        for folder, text in ((base, before), (head, after)):
            place(folder, mechanism).parent.mkdir(exist_ok=True, parents=True)
            if text is not None:
                place(folder, mechanism).write_text(text)
    (base / "inner.py").write_text(PLAIN)
    (head / "inner.py").write_text(code(options=", often: int = 1"))
    (head / "helper.py").write_text("")
    ours, theirs = (Tree(root=folder, label=folder.name) for folder in (head, base))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{head}{os.pathsep}{head / 'python'}")
        with Pair(ours, theirs, "", time.monotonic) as pair:
            yield pair


@pytest.mark.slow
def test_what_cannot_be_compared_has_a_verdict_that_names_the_side_at_fault(pair):
    shape = {"seq_len": 16, "d_model": 8, "heads": 2, "mode": "forward"}
    settings = read(pair.trees["head"].root, None, {"mechanism": list(CASES), "time": False, **shape})
    notes: list[str] = []
    cells, untimed = cells_of(settings, pair)
    figures, failed = exact_figures(settings, pair, cells, time.monotonic() + 300.0, time.monotonic, notes)

    comparisons = {each.cell.label: each for each in (*untimed, *failed)}
    compared = dict.fromkeys(figure.cell.label for figure in figures)
    verdicts = {name: comparisons[name].verdict for name in comparisons} | compared
    assert verdicts == {name: verdict for name, (_, _, verdict, _) in CASES.items()}
    reasons = {name: each.reason for name, each in comparisons.items()}
    wrong = {name: text for name, text in reasons.items() if CASES[name][3] not in text or "\n" in text}
    assert not wrong
    assert {figure.fails for figure in figures} == {False}
    (note,) = (note for note in notes if "from the working tree" in note)
    assert note.endswith(": helper"), "the gate does not see a change in what the base imports from there"


@pytest.mark.slow
def test_a_mechanism_that_neither_side_has_is_refused(pair):
    root = pair.trees["head"].root
    for text, says in (
        ("same.py:B", "unknown class"),
        ("same.py:A:k=1", "unknown option"),
        ("same.py:A:k", "not option=value"),
        ("no.py:A", "there is no file"),
        ("same.py", "name the class too"),
        ("vanilla", "outside of"),
        (f"{pair.trees['base'].root / 'same.py'}:A", "outside of"),
        ("no-such-name", "unknown mechanism"),
    ):
        with pytest.raises(UsageError, match=says):
            cells_of(read(root, None, {"mechanism": text}), pair)


# Time, with a clock that only the answers move.


class Sides(Pair):
    """A pair whose sides answer after so many seconds, or not in time; None ends their process."""

    def __init__(self, **takes):
        self.takes = takes
        self.now = 0.0
        self.trees = {side: Tree(root=Path(f"/{side}"), label=side) for side in ("base", "head")}

    def clock(self):
        return self.now

    def ask(self, side, what, *arguments, timeout_s=300.0):
        assert what == "figures"
        took = self.takes[side]
        if took is None:
            raise WorkerDied(side, "SIGKILL")
        self.now += min(took, timeout_s)
        if took > timeout_s:
            raise NoAnswer(side, f"no answer within {timeout_s:.0f} s")
        return {"flops": 1, "ops": {}}


def outcome(budget_s, **takes):
    sides = Sides(**takes)
    notes: list[str] = []
    settings = read(Path("/head"), None, {"mechanism": "a.py:A"})
    cells = settings.cells("a.py:A", {})[:2]
    figures, failed = exact_figures(settings, sides, cells, budget_s, sides.clock, notes)
    return [each.verdict for each in failed], len(figures), notes


def test_a_head_that_does_not_end_is_broken_and_a_budget_that_does_is_not():
    assert outcome(120.0, base=5.0, head=6.0) == ([], 4, [])
    assert outcome(120.0, base=5.0, head=1e9)[0] == ["failed", "inconclusive"], "the rest had no time left"
    assert outcome(11.0, base=8.0, head=20.0)[0] == ["inconclusive"], "thrice the base's time is given"
    verdicts, figures, (note,) = outcome(20.0, base=1e9, head=1.0)
    assert (verdicts, figures) == (["inconclusive", "inconclusive"], 0)
    assert "the exact figures of the last 2 configurations" in note
    assert outcome(120.0, base=None, head=1.0)[0] == ["base-failed"] * 2
    assert outcome(120.0, base=None, head=None)[0] == ["failed"] * 2

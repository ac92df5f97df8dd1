"""Results of several folders: shown together, or apart where they hold the same configurations."""

from __future__ import annotations

import pytest
from frames import cost_records

from effbench.cli import app as cli
from effbench.common.spec import UsageError
from effbench.records.store import load


@pytest.fixture
def effbench(monkeypatch, capsys):
    def command(*words):
        monkeypatch.setattr("sys.argv", ["effbench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return command


@pytest.mark.parametrize("kind", [(), ("--complexity",)])
def test_the_same_configurations_have_tables_of_their_own(folder, effbench, kind):
    a = folder("a", cost_records(("linear", "vanilla"), (128, 256, 512)))
    b = folder("b", cost_records(("linear",), (512, 1024, 2048)))
    code, both, _ = effbench("show", a, b, *kind)
    assert code == 0
    parts = [effbench("show", one, *kind)[1].strip() for one in (a, b)]
    assert both.split() == f"{a} {parts[0]} {b} {parts[1]}".split()


def test_different_configurations_have_one_table(folder, effbench):
    a = folder("a", cost_records(("linear",), (128, 256, 512)))
    b = folder("b", cost_records(("vanilla",), (128, 256, 512)))
    code, text, _ = effbench("show", a, b)
    assert code == 0
    assert str(a) not in text
    assert text.count("forward: time per call") == 1


def test_a_plot_and_rows_of_growth_take_each_configuration_once(folder, effbench, tmp_path):
    a, b = (folder(name, cost_records(("linear",), (128, 256, 512))) for name in "ab")
    for words in (("plot", a, b, "--out", tmp_path / "p"), ("show", a, b, "--complexity", "--format", "csv")):
        code, text, says = effbench(*words)
        assert (code, text) == (2, "")
        assert "several of these folders hold linear, forward, N = 128: give one of them at a time" in says
    assert not (tmp_path / "p").exists()


def test_a_folder_that_is_given_twice_is_refused(folder):
    a = folder("a", cost_records(("linear",), (128,)))
    with pytest.raises(UsageError, match="is given twice"):
        load([a, a / ".." / "a"])

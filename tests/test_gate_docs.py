"""docs/gate.md says what the gate reads: its settings, and a workflow that GitHub would take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from effbench.gate.exact import FIGURES
from effbench.gate.report import VERDICTS
from effbench.gate.settings import KEYS, GateSettings, read

TEXT = (Path(__file__).parent.parent / "docs" / "gate.md").read_text(encoding="utf-8")
SETTINGS = TEXT[TEXT.index("## Settings") :]


def block(language: str) -> str:
    """The first code block of that language."""
    match = re.search(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert match, f"docs/gate.md has no {language} block"
    return match[1]


def workflow() -> dict[str, Any]:
    """The workflow as parsed; YAML 1.1 reads its key ``on`` as true."""
    yaml = pytest.importorskip("yaml", reason="needs a YAML parser (pip install pyyaml)")
    data = yaml.safe_load(block("yaml"))
    return {"on" if key is True else key: value for key, value in data.items()}


def steps() -> list[dict[str, Any]]:
    return list(workflow()["jobs"]["gate"]["steps"])


def step(text: str) -> dict[str, Any]:
    """The one step that uses or runs this."""
    matching = [each for each in steps() if text in each.get("uses", "") or text in each.get("run", "")]
    assert len(matching) == 1, f"{len(matching)} steps have {text!r}"
    return matching[0]


def rows() -> dict[str, str]:
    """The table of settings: each key and the default that it is said to have."""
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", SETTINGS, re.MULTILINE))


def options_named() -> set[str]:
    """Every option of ``effbench gate`` that the page's code names, in blocks and in running text."""
    code = re.findall(r"^```\w*\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    code += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", TEXT)
    commands = [line for part in code for line in re.findall(r"\beffbench gate\b(.*)", part)]
    words = [word for command in commands for word in shlex.split(command, comments=True)]
    alone = [part for part in code if re.fullmatch(r"--[a-z][a-z-]*", part)]
    return {word.partition("=")[0] for word in [*words, *alone] if word.startswith("-")}


def options_of(command: str) -> set[str] | None:
    """The options that a command of the CLI has, or None if there is no such command."""
    import typer
    from typer.core import TyperGroup

    from effbench.cli.app import app

    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    parsed = group.get_command(typer.Context(group), command)
    if parsed is None:
        return None
    return {name for parameter in parsed.params for name in (*parameter.opts, *parameter.secondary_opts)}


def test_the_settings_shown_are_read(tmp_path):
    (tmp_path / "pyproject.toml").write_text(block("toml"))
    settings = read(tmp_path, None, {})
    defaults = GateSettings(axes={})
    assert settings.axes["mechanism"] == ("attn.py:MyAttention", "attn.py:MyAttention:window=64")
    assert (settings.threshold, settings.floor_s, settings.error) == (0.05, 1e-5, 0.01)
    assert (settings.budget_s, set(settings.exact)) == (180, set(FIGURES) - {"ops"})
    assert settings.exact["peak_bytes"] == 0.02
    assert [each.threshold for each in settings.overrides] == [0.1]
    assert settings != defaults


def test_the_table_has_every_key_once_and_its_default(tmp_path):
    stated = rows()
    assert list(stated) == list(KEYS)
    assert len(re.findall(r"^\| `\w+` \|", SETTINGS, re.MULTILINE)) == len(KEYS)
    usual = read(tmp_path, None, {"mechanism": "vanilla"})
    for key in set(usual.axes) - {"mechanism"}:
        assert stated[key] == ", ".join(map(str, usual.axes[key])), key
    # what the table says, read as a file would be, changes nothing
    written = {key: stated[key] for key in ("threshold", "floor", "error", "budget")}
    assert (
        read(tmp_path, None, {"mechanism": "vanilla", "time": stated["time"] == "true", **written}) == usual
    )


def test_every_exact_figure_is_named():
    row = next(line for line in TEXT.splitlines() if line.startswith("| `exact` |"))
    assert all(f"`{name}`" in row for name in FIGURES)


def test_every_verdict_and_every_exit_code_is_explained():
    assert all(f"`{verdict}`" in TEXT[: TEXT.index("## Exit codes")] for verdict in VERDICTS)
    codes = TEXT[TEXT.index("## Exit codes") : TEXT.index("## Measured error rates")]
    assert re.findall(r"^\| (\d+) \|", codes, re.MULTILINE) == ["130", "2", "1", "6", "3", "4", "5", "0"]


def test_the_workflow_has_what_a_workflow_needs():
    flow = workflow()
    assert set(flow) == {"name", "on", "permissions", "concurrency", "jobs"}
    assert set(flow["on"]) == {"pull_request"}, (
        "pull_request_target would run a stranger's code with our rights"
    )
    assert flow["permissions"] == {"contents": "read"}
    assert flow["concurrency"]["cancel-in-progress"] is True
    assert "github.ref" in flow["concurrency"]["group"], "another pull request must not cancel this one"
    (job,) = flow["jobs"].values()
    assert job["runs-on"]
    assert 2 < job["timeout-minutes"] <= 60
    assert all(("uses" in each) != ("run" in each) for each in job["steps"])
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", each["uses"]) for each in job["steps"] if "uses" in each)


def test_the_workflow_fetches_the_base_installs_and_keeps_what_the_gate_wrote():
    assert step("actions/checkout")["with"]["fetch-depth"] == 0
    python = step("actions/setup-python")["with"]
    assert python["python-version"] == "3.11"  # a string: 3.10 as a number would be 3.1
    assert python["cache"] == "pip"
    assert "pip install effbench" in step("pip install")["run"].splitlines()
    gate = step("effbench gate")
    assert gate["env"]["BASE"] == "origin/${{ github.base_ref }}"
    assert "${{" not in gate["run"], "text of a pull request must not become shell"
    words = shlex.split(gate["run"])
    assert words[:4] == ["effbench", "gate", "--base", "$BASE"]
    written = {words[words.index(option) + 1] for option in ("--junit", "--plot", "--json")}
    upload = step("actions/upload-artifact")
    assert set(upload["with"]["path"].split()) == written
    assert "cancelled()" in upload["if"] or "always()" in upload["if"], (
        "a failed gate's report is the one wanted"
    )
    names = [each.get("uses", "") + each.get("run", "") for each in steps()]
    expected = ("checkout", "setup-python", "pip install", "effbench gate", "upload-artifact")
    order = [next(i for i, name in enumerate(names) if part in name) for part in expected]
    assert order == sorted(order)


def test_the_options_of_a_command_are_found():
    assert {"--seq-len", "-m", "--no-resume"} <= (options_of("run") or set())
    assert options_of("no-such-command") is None


def test_every_option_named_on_the_page_is_one_of_the_command():
    named = options_named()
    assert {"--base", "--junit", "--plot", "--json", "--config"} <= named
    there = options_of("gate")
    if there is None:
        pytest.skip("effbench has no command gate yet")
    assert named <= there, f"docs/gate.md names {', '.join(sorted(named - there))}"

"""Paths in a mechanism's name mean what they mean where they were written, in every tree."""

from __future__ import annotations

import os

import pytest

from effbench.common.spec import Cell
from effbench.gate.paths import from_root, inside
from effbench.gate.settings import read


@pytest.fixture
def root(tmp_path):
    """A repository's folder, with files and a link in it, that is also reached through a link."""
    folder = tmp_path / "root"
    (folder / "sub dir" / "v1").mkdir(parents=True)
    for name in ("top.py", "sub dir/my attn.py", "sub dir/ünder.py", "sub dir/v1/attn.py"):
        (folder / name).touch()
    (folder / "current").symlink_to("sub dir/v1")
    (folder / "alias.py").symlink_to("top.py")
    (tmp_path / "way").symlink_to("root")
    return folder


@pytest.mark.parametrize(
    ("text", "folder", "meant"),
    [
        ("top.py:A", "", "top.py:A"),
        ("./top.py:A:k=2", "", "top.py:A:k=2"),
        ("my attn.py:A", "sub dir", "sub dir/my attn.py:A"),
        ("ünder.py:A:b=./x.py", "sub dir", "sub dir/ünder.py:A:b=./x.py"),
        ("../top.py:A", "sub dir", "top.py:A"),
        ("v1/../../top.py:A", "sub dir", "top.py:A"),
        ("not there.py:A", "sub dir", "sub dir/not there.py:A"),
        ("top.py", "", "top.py"),
        # another revision may link elsewhere, so that a link keeps its name
        ("current/attn.py:A", "", "current/attn.py:A"),
        ("alias.py:A", "", "alias.py:A"),
        ("../my attn.py:A", "current", "sub dir/my attn.py:A"),
        # what names no file
        ("fastformer:interaction=add", "sub dir", "fastformer:interaction=add"),
        ("package.module:Class", "sub dir", "package.module:Class"),
        ("hf:longformer", "", "hf:longformer"),
    ],
)
def test_a_path_counts_from_the_root_wherever_it_was_written(root, tmp_path, text, folder, meant):
    for top in (root, tmp_path / "way"):
        assert from_root(text, top / folder, root) == meant
        assert from_root(text, root / folder, top) == meant
    path, colon, rest = text.partition(":")
    if path.endswith(".py"):
        for way in (root, tmp_path / "way"):
            assert from_root(f"{way / folder / path}{colon}{rest}", tmp_path, root) == meant


def test_a_path_out_of_the_repository_is_absolute(root, tmp_path):
    (tmp_path / "out.py").touch()
    (tmp_path / "root2").mkdir()
    assert from_root("../out.py:A", root, root) == f"{tmp_path}/out.py:A"
    assert from_root("../root2/a.py:A", root, root) == f"{tmp_path}/root2/a.py:A"
    assert from_root("a.py:A", tmp_path, root) == f"{tmp_path}/a.py:A"


def test_a_folders_place_in_the_repository(root, tmp_path):
    assert inside(root, root) == inside(tmp_path / "way", root) == ""
    assert inside(root / "sub dir" / "v1", root) == "sub dir/v1"
    assert inside(tmp_path / "way" / "sub dir", root) == "sub dir"
    assert inside(tmp_path, root) == "", "what is not in it adds nothing"


def test_a_files_paths_count_from_its_folder_and_a_flags_from_where_the_user_is(root, monkeypatch):
    text = "mechanism = ['my attn.py:A', '../top.py:A']\n"
    text += "[[cell]]\nmechanism = 'my attn.py:A'\nthreshold = '9%'\n"
    (root / "sub dir" / "gate.toml").write_text(text)
    monkeypatch.chdir(root / "sub dir" / "v1")
    config = (root / "sub dir" / "gate.toml").relative_to(root)
    for written in (root / config, type(config)("../gate.toml")):
        settings = read(root, written, {}, root / "sub dir" / "v1")
        assert settings.axes["mechanism"] == ("sub dir/my attn.py:A", "top.py:A")
    settings = read(
        root, root / config, {"mechanism": ["../my attn.py:A", "attn.py:A"]}, root / "sub dir" / "v1"
    )
    assert settings.axes["mechanism"] == ("sub dir/my attn.py:A", "sub dir/v1/attn.py:A")
    cells = [Cell(mechanism=name, probe="time", seq_len=16) for name in settings.axes["mechanism"]]
    assert [settings.threshold_of(cell) for cell in cells] == [0.09, 0.05]
    table = "[tool.effbench.gate]\nmechanism = 'top.py:A'\n"
    (root / "pyproject.toml").write_text(table)
    assert read(root, None, {}, root / "sub dir").axes["mechanism"] == ("top.py:A",)
    assert os.listdir(root / "sub dir" / "v1") == ["attn.py"]

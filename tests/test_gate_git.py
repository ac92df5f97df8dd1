"""The base of a gate from git: its files are the commit's, and the user's repository is never written to."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import repositories
from repositories import everything, git

import effbench
from effbench.common.processes import environment
from effbench.common.spec import UsageError
from effbench.gate import git as ours
from effbench.gate.checkout import checked_out, working_tree

HOME = Path(effbench.__file__).parents[1]
# What a hook runs: the gate's own way to a base, without the measurements.
LOOK = """
import sys
from pathlib import Path
from effbench.gate.checkout import checked_out, working_tree
head = working_tree(Path.cwd())
with checked_out(head, "HEAD") as base:
    Path(sys.argv[1]).write_text((base.root / "a.txt").read_text() + str(head.root))
"""


def commit(folder, **files):
    """A commit of files, ``a="one"`` being a.txt."""
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return repositories.commit(folder, ",".join(files))


def made(folder):
    """A repository of two commits: a.txt holds one, then two."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    (folder / "inner").mkdir()
    (folder / "inner" / "run.sh").write_text("#!/bin/sh\n")
    (folder / "inner" / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("a.txt")
    commit(folder, a="one\n")
    commit(folder, a="two\n")
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return made(tmp_path_factory.mktemp("original") / "repository")


@pytest.fixture
def repository(original, tmp_path):
    return copied(original, tmp_path / "my repositöry")


def copied(folder, place):
    """A copy of a repository: quicker than to make it again."""
    shutil.copytree(folder, place, symlinks=True)
    git(place, "update-index", "--refresh")
    return place


def files(folder):
    """Names and contents of the files below a folder, git's own left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }


def base_of(folder, base="HEAD~1"):
    """The files of a base and its notes; nothing in the repository may change."""
    before = everything(folder)
    with checked_out(working_tree(folder), base) as tree:
        contents, place = files(tree.root), tree.root
        assert not (tree.root / ".git").exists()
    assert not place.exists()
    assert everything(folder) == before
    return contents, tree.notes


def test_what_git_hands_to_hooks_is_dropped_and_its_settings_are_kept(monkeypatch):
    listed = git(Path.cwd(), "rev-parse", "--local-env-vars").split()
    settings = {"GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT"}
    assert settings < set(listed)
    for name in (*listed, "GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0", "GIT_SSH_COMMAND"):
        monkeypatch.setenv(name, "x")
    left = {name for name in environment() if name in listed}
    assert left == settings
    assert {"GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0", "GIT_SSH_COMMAND", "PATH"} <= set(environment())


def test_a_base_holds_what_git_would_check_out(repository, tmp_path):
    contents, notes = base_of(repository)
    git(repository, "worktree", "add", "--quiet", "--detach", str(tmp_path / "theirs"), "HEAD~1")
    assert contents == files(tmp_path / "theirs")
    assert notes == ()
    with checked_out(working_tree(repository), "HEAD~1") as tree:
        assert (tree.root / "link").is_symlink()
        assert os.access(tree.root / "inner" / "run.sh", os.X_OK)


# Ways in which a user's own git may be set up; each is a list of `git config` pairs.
SETTINGS = {
    "split index": ["core.splitIndex=true"],
    "file system monitor": ["core.fsmonitor=true", "core.untrackedCache=true"],
    "another index version": ["index.version=4", "feature.manyFiles=true"],
    "submodules followed": ["submodule.recurse=true", "status.submoduleSummary=true"],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_whatever_is_configured_nothing_is_written(repository, name):
    for setting in SETTINGS[name]:
        git(repository, "config", *setting.split("=", 1))
    git(repository, "status")
    assert base_of(repository)[0]["a.txt"] == b"one\n"


def test_no_hook_is_run(repository, tmp_path):
    for name in ("post-checkout", "post-index-change", "reference-transaction", "fsmonitor-watchman"):
        hook = repository / ".git" / "hooks" / name
        hook.write_text(f"#!/bin/sh\necho {name} >> {shlex.quote(str(tmp_path / 'ran'))}\n")
        hook.chmod(0o755)
    git(repository, "config", "core.fsmonitor", ".git/hooks/fsmonitor-watchman")
    git(repository, "status")
    assert "fsmonitor-watchman" in (tmp_path / "ran").read_text(), "the hook is one that git would run"
    (tmp_path / "ran").unlink()
    base_of(repository)
    assert not (tmp_path / "ran").exists()


def test_filters_and_line_ends_are_as_the_user_has_them(repository):
    git(repository, "config", "core.autocrlf", "true")
    (repository / ".git" / "info" / "attributes").write_text("inner/* filter=loud\n")
    git(repository, "config", "filter.loud.clean", "cat")
    git(repository, "config", "filter.loud.smudge", "tr a-z A-Z")
    contents, notes = base_of(repository)
    assert contents == {"a.txt": b"one\r\n", "link": b"one\r\n", "inner/run.sh": b"#!/BIN/SH\r\n"}
    assert notes == ()
    git(repository, "config", "filter.loud.smudge", "false")
    contents, notes = base_of(repository)
    assert any("external filter 'false' failed" in note for note in notes), (
        "its text is not what it should be"
    )
    git(repository, "config", "filter.loud.required", "true")
    with pytest.raises(UsageError, match="cannot check out 'HEAD~1': .*smudge filter loud failed"):
        base_of(repository)


def test_a_sparse_working_tree_has_a_whole_base(repository):
    for cone in ("--no-cone", "--cone"):
        git(repository, "sparse-checkout", "set", cone, "nothing")
        assert base_of(repository)[0]["inner/run.sh"]


# The user's own git at work: a dirty index, untracked files, linked working trees, a bare repository.


def test_a_dirty_index_and_untracked_files_stay_as_they_are(repository):
    (repository / "a.txt").write_text("three\n")
    git(repository, "add", "a.txt")
    (repository / "a.txt").write_text("four\n")
    (repository / "new.txt").write_text("new\n")
    (repository / "inner" / "run.sh").unlink()
    before = git(repository, "status", "--porcelain")
    assert working_tree(repository).dirty
    assert base_of(repository)[0]["a.txt"] == b"one\n"
    assert git(repository, "status", "--porcelain") == before


@pytest.mark.parametrize("bare", [False, True])
def test_a_linked_working_tree_has_its_own_head(repository, tmp_path, bare):
    owner = repository
    if bare:
        owner = tmp_path / "bare.git"
        git(tmp_path, "clone", "--quiet", "--bare", str(repository), str(owner))
    git(owner, "worktree", "add", "--quiet", "--detach", str(tmp_path / "linked"), "HEAD~1")
    commit(tmp_path / "linked", a="other\n")
    before = everything(owner)
    assert base_of(tmp_path / "linked")[0]["a.txt"] == b"one\n"
    assert base_of(tmp_path / "linked", "HEAD")[0]["a.txt"] == b"other\n"
    assert everything(owner) == before


def look(hook, output):
    """Write a hook that checks out HEAD as the gate does, and writes its contents to a file."""
    hook.parent.mkdir(exist_ok=True)
    words = [sys.executable, "-c", LOOK, str(output)]
    hook.write_text(f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(HOME))} exec {shlex.join(words)}\n")
    hook.chmod(0o755)


@pytest.mark.parametrize(
    ("how", "linked"),
    [
        (["-a"], False), (["-a"], True), (["--only", "a.txt"], False), (["--only", "a.txt"], True),
        (["--include", "a.txt"], False), (["--amend", "-a"], False),
    ],
)  # fmt: skip
def test_a_commit_whose_hook_runs_the_gate_holds_the_users_change(repository, tmp_path, how, linked):
    place, output = repository, tmp_path / "output"
    if linked:
        place = tmp_path / "linked"
        git(repository, "worktree", "add", "--quiet", "--detach", str(place))
    look(repository / ".git" / "hooks" / "pre-commit", output)
    (place / "a.txt").write_text("mine\n")
    (place / "staged.txt").write_text("staged\n")
    git(place, "add", "staged.txt")
    git(place, "commit", "--quiet", "-m", "mine", *how)
    assert output.read_text() == f"two\n{place}"
    staged = how != ["--only", "a.txt"]
    assert git(place, "show", "HEAD:a.txt") == "mine\n"
    names = {"a.txt", "link", "inner/run.sh", *(["staged.txt"] if staged else [])}
    assert set(git(place, "ls-tree", "-r", "--name-only", "HEAD").split()) == names
    assert git(place, "status", "--porcelain") == ("" if staged else "A  staged.txt\n")
    assert git(place, "fsck", "--strict") == ""


def test_a_push_whose_hook_runs_the_gate_pushes_what_it_should(repository, tmp_path):
    git(tmp_path, "init", "--quiet", "--bare", "there.git")
    look(repository / ".git" / "hooks" / "pre-push", tmp_path / "output")
    git(repository, "push", "--quiet", str(tmp_path / "there.git"), "HEAD:main")
    assert (tmp_path / "output").read_text() == f"two\n{repository}"
    head = git(repository, "rev-parse", "HEAD")
    assert git(tmp_path / "there.git", "rev-parse", "main") == head


# Where the repository is.


def test_the_folders_repository_wins_over_git_dir_and_that_is_said(repository, tmp_path, monkeypatch):
    other = copied(repository, tmp_path / "other")
    before = everything(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    head = working_tree(repository / "inner")
    assert head.root == repository
    assert len(head.notes) == 2
    assert f"GIT_DIR={other / '.git'} was not used" in head.notes[0]
    base_of(repository)
    assert everything(other) == before
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(repository))
    assert working_tree(repository).notes == ()


@pytest.mark.parametrize("named", [True, False])
def test_without_a_repository_of_its_own_a_folder_has_that_of_git_dir(original, tmp_path, monkeypatch, named):
    kept = copied(original, tmp_path / "kept")
    (kept / ".git").rename(tmp_path / "dots.git")
    monkeypatch.chdir(kept)
    monkeypatch.setenv("GIT_DIR", "../dots.git")
    if named:
        monkeypatch.setenv("GIT_WORK_TREE", ".")
    before = everything(tmp_path / "dots.git")
    head = working_tree(kept)
    assert (head.root, head.dirty, head.notes) == (kept, False, ())
    assert base_of(kept)[0]["a.txt"] == b"one\n"
    assert everything(tmp_path / "dots.git") == before
    monkeypatch.setenv("GIT_DIR", "nowhere")
    with pytest.raises(UsageError, match="in no git repository, and git does not accept GIT_DIR=.*nowhere"):
        working_tree(kept)


def test_what_git_says_is_said(repository, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="is in no git repository"):
        working_tree(tmp_path)
    with pytest.raises(UsageError, match="must be run in a work tree"):
        working_tree(repository / ".git")
    (repository / ".git" / "index").write_text("junk")
    with pytest.raises(UsageError, match="cannot read .*index file"):
        working_tree(repository)
    (repository / ".git" / "HEAD").write_text("junk")
    with pytest.raises(UsageError, match="not a git repository|in no git repository"):
        working_tree(repository)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="needs git, which is not on the PATH"):
        working_tree(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_somebody_elses_repository_is_told_with_the_cure(repository, monkeypatch):
    for path in (repository, repository / ".git"):
        os.chown(path, 1234, 1234)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("SUDO_UID", raising=False)
    with pytest.raises(UsageError, match=r"dubious ownership .* git config --global --add safe\.directory"):
        working_tree(repository)
    for name, value in (("COUNT", "1"), ("KEY_0", "safe.directory"), ("VALUE_0", "*")):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    assert working_tree(repository).root == repository, "settings in the environment are the user's"


# What a base may be.


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("", "base '' is empty"),
        (" ", "base ' ' is empty"),
        ("-x", "is not a revision"),
        ("^main", "is not a revision"),
        ("main..main", "neither a revision"),
        ("no-such-branch", "neither a revision"),
        ("HEAD:inner", "which is no commit in"),
        ("1234567890" * 4, "which is no commit in"),
        ("@{u}", "message of git: no upstream configured for branch 'main'"),
        (".", "is the working tree itself"),
        ("./", "is the working tree itself"),
        ("../elsewhere", "nor a folder"),
    ],
)
def test_what_is_no_base_is_refused(repository, monkeypatch, base, says):
    monkeypatch.chdir(repository)
    before = everything(repository)
    with pytest.raises(UsageError) as refused, checked_out(working_tree(repository), base):
        pass
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert everything(repository) == before


def test_the_same_code_on_both_sides_is_said(repository):
    with checked_out(working_tree(repository), "main") as tree:
        assert ["the same code" in note for note in tree.notes] == [True]
    (repository / "a.txt").write_text("three\n")
    with checked_out(working_tree(repository), "main") as tree:
        assert tree.notes == ()


def test_a_folder_has_a_commit_only_if_it_is_a_working_tree_itself(repository, tmp_path, monkeypatch):
    other = copied(repository, tmp_path / "other")
    (other / "a.txt").write_text("three\n")
    head = working_tree(repository)
    with checked_out(head, str(other)) as tree:
        assert (tree.root, tree.dirty) == (other, True)
        assert tree.commit == git(other, "rev-parse", "HEAD").strip()
    (other / "inner:HEAD").mkdir()
    for inner in (str(other / "inner"), os.path.relpath(other / "inner:HEAD")):
        with checked_out(head, inner) as tree:
            assert (tree.commit, tree.dirty) == ("", False)
    monkeypatch.chdir(other)
    with checked_out(head, "inner:HEAD") as tree:
        assert tree.root == other / "inner:HEAD"
    (other / ".git" / "index").write_text("junk")
    with checked_out(head, str(other)) as tree:
        assert tree.commit == ""
        assert "the commit of the base" in tree.notes[0]


def test_a_shallow_clone_says_so_and_how_to_get_the_rest(repository, tmp_path):
    git(tmp_path, "clone", "--quiet", "--depth", "1", repository.as_uri(), "shallow")
    for base in ("HEAD~1", "origin/main~1", git(repository, "rev-parse", "HEAD~1").strip()):
        with pytest.raises(
            UsageError, match=r"this clone is shallow .*: git fetch --unshallow .*fetch-depth: 0"
        ):
            base_of(tmp_path / "shallow", base)
    with pytest.raises(UsageError, match=r"git fetch origin \+refs/heads/a/b:refs/remotes/origin/a/b"):
        base_of(tmp_path / "shallow", "origin/a/b")
    git(tmp_path / "shallow", "fetch", "--quiet", "--unshallow")
    assert base_of(tmp_path / "shallow")[0]["a.txt"] == b"one\n"
    with pytest.raises(UsageError) as refused:
        base_of(tmp_path / "shallow", "HEAD~9")
    assert "shallow;" not in str(refused.value)


def test_a_partial_clone_is_not_filled_but_told_how_to(repository, tmp_path):
    git(repository, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "--quiet", "--filter=blob:none", repository.as_uri(), "partial")
    partial = tmp_path / "partial"
    before = everything(partial)
    with pytest.raises(
        UsageError, match="this clone is partial: git archive [0-9a-f]{40} > /dev/null"
    ) as refused:
        base_of(partial)
    assert everything(partial) == before
    cure = str(refused.value).partition("partial: ")[2].partition(" > ")[0]
    git(partial, *shlex.split(cure)[1:])
    assert base_of(partial)[0]["a.txt"] == b"one\n"


# Submodules.


@pytest.fixture
def nested(original_nested, tmp_path):
    """A repository with a submodule that has a submodule, all changed in the second of two commits."""
    return copied(original_nested, tmp_path / "whole")


@pytest.fixture(scope="module")
def original_nested(tmp_path_factory):
    folders = tmp_path_factory.mktemp("nested")
    deep, lib, whole = folders / "deep", folders / "lib", folders / "whole"
    for folder in (deep, lib, whole):
        folder.mkdir()
        git(folder, "init", "--quiet")
        commit(folder, text=f"{folder.name} one\n")
    add = ("submodule", "--quiet", "add")
    git(lib, *add, str(deep), "in/deep")
    git(lib, "commit", "--quiet", "-m", "with deep")
    git(whole, *add, "--name", "my/own", str(lib), "vendor/a lib")
    git(whole, "submodule", "--quiet", "update", "--init", "--recursive")
    commit(whole, text="whole one\n")
    inner = whole / "vendor" / "a lib"
    commit(inner / "in" / "deep", text="deep two\n")
    commit(inner, text="lib two\n")
    commit(whole, text="whole two\n")
    return whole


def texts(contents):
    return {name: text.decode() for name, text in contents.items() if name.endswith("text.txt")}


NESTED = {
    "text.txt": "whole one\n",
    "vendor/a lib/text.txt": "lib one\n",
    "vendor/a lib/in/deep/text.txt": "deep one\n",
}


def test_submodules_are_checked_out_with_theirs(nested):
    contents, notes = base_of(nested)
    assert texts(contents) == NESTED
    assert notes == ()


def test_a_submodule_that_the_head_has_removed_comes_from_what_git_keeps(nested):
    git(nested, "rm", "--quiet", "vendor/a lib")
    git(nested, "commit", "--quiet", "-m", "without")
    assert texts(base_of(nested, "HEAD~2")[0]) == NESTED


def test_what_the_working_tree_has_not_checked_out_the_base_has_not_either(nested, tmp_path):
    git(tmp_path, "clone", "--quiet", str(nested), "bare")
    contents, (note,) = base_of(tmp_path / "bare")
    assert texts(contents) == {"text.txt": "whole one\n"}
    assert "the submodule 'vendor/a lib' is not checked out in the working tree" in note
    assert "git submodule update --init 'vendor/a lib'" in note
    git(nested, "worktree", "add", "--quiet", "--detach", str(tmp_path / "linked"))
    assert texts(base_of(tmp_path / "linked")[0]) == {"text.txt": "whole one\n"}


def test_a_submodules_commit_that_is_not_there_is_named_with_the_command_that_fetches_it(nested, tmp_path):
    lib, wanted = nested / "vendor" / "a lib", git(nested, "rev-parse", "HEAD~1:vendor/a lib").strip()
    git(lib, "config", "uploadpack.allowAnySHA1InWant", "true")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(nested), str(clone))
    git(clone, "config", "--file", ".gitmodules", "submodule.my/own.url", lib.as_uri())
    git(clone, "submodule", "--quiet", "update", "--init", "--depth", "1")
    with pytest.raises(UsageError, match=f"needs commit {wanted} of the submodule 'vendor/a lib'") as refused:
        base_of(clone)
    command = shlex.split(str(refused.value).partition("not in this clone: ")[2])
    git(tmp_path, *command[1:])
    assert texts(base_of(clone)[0]) == {name: NESTED[name] for name in ("text.txt", "vendor/a lib/text.txt")}


def test_a_submodule_that_is_not_there_at_all_asks_for_a_folder(nested, tmp_path):
    git(nested, "rm", "--quiet", "vendor/a lib")
    git(nested, "commit", "--quiet", "-m", "without")
    git(tmp_path, "clone", "--quiet", str(nested), "clone")
    with pytest.raises(
        UsageError, match="git worktree add DIR .*submodule update --init --recursive, then give"
    ):
        base_of(tmp_path / "clone")


def test_a_submodules_name_does_not_lead_out_of_the_repository(nested, tmp_path):
    text = (nested / ".gitmodules").read_text()
    (nested / ".gitmodules").write_text(text.replace("my/own", "../../../elsewhere"))
    git(nested, "commit", "--quiet", "-am", "a name that leads away")
    (nested / ".git" / "modules" / "my" / "own").rename(tmp_path / "elsewhere")
    (nested / "vendor" / "a lib" / ".git").unlink()
    with pytest.raises(UsageError, match="needs commit"), checked_out(working_tree_of(nested), "HEAD"):
        pass


def working_tree_of(folder):
    """As working_tree, where git itself would stumble over a submodule."""
    from effbench.gate.checkout import Tree

    own = ours.find(folder)
    head = own.commit("HEAD")
    assert head is not None
    return Tree(root=folder, label="working tree", commit=head, dirty=True, repository=own)


# Killed.


def test_a_gate_that_is_killed_as_git_writes_leaves_nothing(repository, tmp_path):
    temporary, started = tmp_path / "temporary", tmp_path / "started"
    temporary.mkdir()
    slow = f"sh -c 'touch {started}; cat; sleep 1'"
    git(repository, "config", "filter.slow.smudge", slow)
    (repository / ".git" / "info" / "attributes").write_text("* filter=slow\n")
    before = everything(repository)
    running = subprocess.Popen(
        [sys.executable, "-c", LOOK.replace('"HEAD"', '"HEAD~1"'), str(tmp_path / "output")],
        cwd=repository, env={**os.environ, "PYTHONPATH": str(HOME), "TMPDIR": str(temporary)},
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not started.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert list(temporary.iterdir())
    running.send_signal(signal.SIGKILL)
    running.wait()
    while list(temporary.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.2)  # what git might still write
    assert not list(temporary.iterdir())
    assert everything(repository) == before

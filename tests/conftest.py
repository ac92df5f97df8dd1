"""What every test may rely on: an empty cache and working folder of its own, and the plug-ins of tests/."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from effbench.common import registry
from effbench.common.spec import Record

PLUGINS = Path(__file__).parent / "plugins.py"
_tests = itertools.count()
_FROZEN_EVERY = 25  # tests: what they import, and what pytest keeps of them, grows


def pytest_runtest_setup() -> None:
    """Leave what is alive by now to no later collection: each probe collects, and torch is large."""
    if next(_tests) % _FROZEN_EVERY == 0:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _stays_frozen() -> Iterator[None]:
    """An audit unfreezes everything at its end, after which each collection takes a quarter of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


@pytest.fixture(autouse=True)
def _nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches and results/ go to the test's temporary folder, where mine.py is another file in each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    registry.find.cache_clear()
    registry.model_kind.cache_clear()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads, and lose much where others use the same cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def plugin():
    """``plugin("Segfault")`` is a reference to a class of tests/plugins.py, as a user would give it."""
    return lambda name: f"{PLUGINS}:{name}"


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str, Iterable[Record]], Path]:
    """``folder("a", records)`` is a results folder that holds them."""
    from effbench.records.store import Store

    def make(name: str, records: Iterable[Record]) -> Path:
        store = Store(tmp_path / name)
        store.create()
        for record in records:
            store.write(record)
        return store.folder

    return make


settings.register_profile("effbench", deadline=None, derandomize=True)
settings.load_profile("effbench")

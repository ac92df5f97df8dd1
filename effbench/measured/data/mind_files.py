"""MIND's files of news and behaviours, found in a data folder: plain, packed or in a zip, at any depth."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from effbench.common.files import entries, is_dir, is_file
from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.reading import (
    digest_of,
    lines,
    packed_file,
    place_of,
    zip_members,
)

NEWS, BEHAVIOURS = "news.tsv", "behaviors.tsv"
PARTS = ("train", "dev", "test")

_WORDS = {"train": ("train",), "dev": ("dev", "valid"), "test": ("test",)}  # in the name of a folder or zip


@dataclass(frozen=True, kw_only=True)
class MindFile:
    """A file that may be packed, or inside a zip; ``part`` is "" where no name around it tells the part."""

    path: Path
    member: str = ""
    part: str

    def __str__(self) -> str:
        return place_of(self.path, self.member)

    def lines(self, most: int) -> Iterator[tuple[int, bytes]]:
        """Yield (1-based number, line without its end)."""
        return lines(self.path, most, member=self.member)


@dataclass(frozen=True, kw_only=True)
class MindFiles:
    """The behaviours of each part, and all files of news: those of train, dev and test, then others."""

    behaviours: dict[str, MindFile]
    news: list[MindFile]

    def digest(self) -> str:
        """Return a digest of all bytes, and of what the files are."""
        files = [*self.behaviours.values(), *self.news]
        content = digest_of(dict.fromkeys(file.path for file in files))  # a zip holds several
        return hashlib.sha256(" ".join([content, *(file.part for file in files)]).encode()).hexdigest()[:16]


def find(folder: Path) -> MindFiles:
    """Return MIND's files in a folder, at any depth, plain, packed or in a zip.

    The part is told by the nearest folder or zip around a file that has train, dev or valid, or test in its
    name. Raises UsageError where train, or both dev and test, are missing, and where a part occurs twice.
    """
    behaviours: dict[str, MindFile] = {}
    news: list[MindFile] = []
    for name, file in _files(folder):
        if name == NEWS:
            news.append(file)
        elif not file.part:
            raise UsageError(f"{file}: no folder or zip around it has train, dev, valid or test in its name")
        elif file.part in behaviours:
            raise UsageError(
                f"{file}: these are {file.part} behaviours, and so are {behaviours[file.part]}; keep one"
            )
        else:
            behaviours[file.part] = file
    for wanted in (("train",), ("dev", "test")):
        if behaviours.keys().isdisjoint(wanted):
            raise UsageError(
                f"{folder}: there is no {BEHAVIOURS} (or .xz, .gz, or in a .zip) for {' or '.join(wanted)}"
            )
    if not news:
        raise UsageError(f"{folder}: there is no {NEWS} (or .xz, .gz, or in a .zip)")
    order = (*PARTS, "")
    return MindFiles(
        behaviours={part: behaviours[part] for part in PARTS if part in behaviours},
        news=sorted(news, key=lambda file: order.index(file.part)),
    )


def _files(folder: Path) -> Iterator[tuple[str, MindFile]]:
    """Yield (name, file) of all files of news and behaviours in the folder."""
    seen: set[Path] = set()
    waiting = [folder]
    while waiting:
        inner = waiting.pop(0)
        if inner.resolve() in seen:  # a link to a folder around it
            continue
        seen.add(inner.resolve())
        around = inner.relative_to(folder).parts
        for name in (BEHAVIOURS, NEWS):
            path = packed_file(inner, name)
            if path is not None:
                yield name, MindFile(path=path, part=_part(around, path))
        for path in entries(inner):
            if is_dir(path):
                waiting.append(path)
            elif path.suffix == ".zip" and is_file(path):
                for member in zip_members(path):
                    *folders, name = member.split("/")
                    if name in (BEHAVIOURS, NEWS):
                        part = _part((*around, path.stem, *folders), path)
                        yield name, MindFile(path=path, member=member, part=part)


def _part(around: tuple[str, ...], path: Path) -> str:
    """Return the part that the nearest of the names around a file tells, "" if none does."""
    for name in reversed(around):
        told = [part for part, words in _WORDS.items() if any(word in name.lower() for word in words)]
        if len(told) > 1:
            raise UsageError(f"{path}: the name {shown(name)} tells two parts: {' and '.join(told)}")
        if told:
            return told[0]
    return ""

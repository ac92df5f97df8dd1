"""CNN and Daily Mail stories as Hermann et al. distribute them: a text file per article."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from effbench.common.files import is_file
from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.reading import LINE_BYTES, content, decoded, lines

LISTS = {"train": "all_train.txt", "validation": "all_val.txt", "test": "all_test.txt"}

_HIGHLIGHT = "@highlight"
_ENDED = re.compile(r"[.!?'`\"\u2019\u201d)]$")  # what a line may end with; another gets a full stop


def story(path: Path) -> tuple[str, str]:
    """Return (article in one line, highlights with a line end between two) of a story.

    A line without an end mark gets `` .``, as in the parquet files of version 3.0.0, so that both forms have
    the same texts. Raises UsageError for a file that cannot be read.
    """
    body: list[str] = []
    highlights: list[str] = []
    at_highlight = False
    for line in decoded(content(path, LINE_BYTES), str(path)).removeprefix("\ufeff").split("\n"):
        text = line.strip()
        if not text:
            continue
        if text.startswith(_HIGHLIGHT):
            at_highlight = True
            continue
        (highlights if at_highlight else body).append(text if _ENDED.search(text) else f"{text} .")
    return " ".join(body), "\n".join(highlights)


def story_parts(folder: Path, part_of: Callable[[str], str | None]) -> dict[str, list[Path]]:
    """Return the stories below a folder by part, sorted by path; empty without any.

    With the lists of addresses of See et al. (``all_train.txt``, ``all_val.txt``, ``all_test.txt``, in the
    folder or its ``url_lists``), a story belongs to the part that lists its address: its name is the SHA-1 of
    it. Otherwise the nearest folder that names a part tells (``part_of``), and a story without one is for
    training. Raises UsageError for a listed story that is not there, and where some lists are missing.
    """
    stories = sorted(path for path in folder.rglob("*.story") if is_file(path))
    if not stories:
        return {}
    place = folder / "url_lists" if (folder / "url_lists").is_dir() else folder
    lists = {part: place / name for part, name in LISTS.items() if is_file(place / name)}
    parts: dict[str, list[Path]] = {}
    if not lists:
        for path in stories:
            around = path.relative_to(folder).parts[:-1]
            named = (part for name in reversed(around) if (part := part_of(name.lower())))
            parts.setdefault(next(named, "train"), []).append(path)
        return parts
    if len(lists) < len(LISTS):
        raise UsageError(f"{place}: there are {len(lists)} of the lists {', '.join(LISTS.values())}")
    by_name = {path.stem: path for path in stories}
    for part, listed in lists.items():
        found: list[Path] = []
        for number, address in lines(listed):
            if not (address := address.strip()):
                continue
            name = hashlib.sha1(address, usedforsecurity=False).hexdigest()
            if name not in by_name:
                url = shown(address.decode(errors="replace"))
                raise UsageError(f"{listed}:{number}: there is no {name}.story, of {url}, below {folder}")
            found.append(by_name[name])
        parts[part] = sorted(found)
        if not found:
            raise UsageError(f"{listed}:1: no address is listed")
    return parts

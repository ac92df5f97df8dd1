"""20 Newsgroups: messages by the group they were sent to, from JSON Lines, raw folders, or Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effbench.common.files import entries, is_dir, is_file
from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.reading import folder_of
from effbench.measured.data.text_sets import (
    OFFICIAL,
    Text,
    TextFile,
    TextSet,
    hub_texts,
    json_lines,
    text_column,
    text_files,
)
from effbench.measured.tasks.text import TextClassification

HUB = "SetFit/20_newsgroups"


class Newsgroups(TextClassification):
    """Topics of Usenet messages (20 Newsgroups, split by date), 20 groups.

    Reads from the data folder, or its folder ``newsgroups`` or ``newsgroups20``,
    ``{train,test}.jsonl[.xz|.gz]`` (one object per line: label, the group's name, and text) or the raw
    ``20news-bydate-train/<group>/<message>`` and ``20news-bydate-test``, in Latin-1, each message's headers
    dropped up to its first blank line; without a data folder, ``SetFit/20_newsgroups`` through the
    ``datasets`` library, whose column label_text names the group. Messages without text are kept.

    The classes are the groups of the training part, in alphabetical order. That part is divided, stratified
    by group, into ``validation`` messages and ``train`` ones (0: all others); ``test`` messages of the
    official test part are scored (0: all). Words, ``vocabulary`` and ``vectors`` are as in ``imdb``.
    """

    source = "Lang 1995, NewsWeeder: Learning to Filter Netnews (ICML); by-date split of J. Rennie"
    name = "newsgroups"
    unit = "messages"

    validation: int = 1_000
    test: int = 0
    epochs: int = 10
    patience: int = 4

    def texts_in(self, data_dir: Path | None) -> TextSet:
        """Return the messages of the by-date split."""
        folder = folder_of(data_dir, "newsgroups", "newsgroups20", "20news-bydate")
        if folder is None:
            instead = (
                "or pass --data-dir DIR with train.jsonl and test.jsonl, or 20news-bydate-train/ and -test/"
            )
            columns = ("text", "label_text")
            return hub_texts("newsgroups", HUB, columns, _hub_message, instead=instead, what="messages")
        texts = json_lines(folder, ("label", "text"), _message) or _folders(folder)
        if texts is None:
            raise UsageError(
                f"{folder}: there is neither train.jsonl (or .jsonl.xz, .jsonl.gz) nor 20news-bydate-train/ "
                "with a folder for each group"
            )
        return texts


def _message(row: dict[str, Any], where: str) -> Text:
    return _labelled(row, "label", where)


def _hub_message(row: dict[str, Any], where: str) -> Text:
    return _labelled(row, "label_text", where)


def _labelled(row: dict[str, Any], column: str, where: str) -> Text:
    label = row[column]
    if not _is_name(label):
        raise UsageError(f"{where}: column {column!r} is {shown(label)}, not the name of a group")
    return Text(text_column(row, "text", where), label)


def _is_name(label: object) -> bool:
    return isinstance(label, str) and bool(label.strip()) and label.isprintable()


def _folders(folder: Path) -> TextSet | None:
    if not is_dir(folder / "20news-bydate-train"):
        return None
    files: dict[str, list[TextFile]] = {}
    for part in OFFICIAL:
        root = folder / f"20news-bydate-{part}"
        if not is_dir(root):
            raise UsageError(f"{root}: there is no such folder")
        files[part] = []
        for group in filter(is_dir, entries(root)):
            if not _is_name(group.name):
                raise UsageError(f"{root}: {shown(group.name)} is not the name of a group")
            messages = [path for path in entries(group) if is_file(path) and not path.name.startswith(".")]
            files[part] += [TextFile(path=path, label=group.name) for path in messages]
        if not files[part]:
            raise UsageError(f"{root}: the {part} part is empty: it has no <group>/<message>")
    return text_files(folder, files, _body)


def _body(content: bytes, where: str) -> str:
    """Return the text after the first blank line of a message; in Latin-1 every byte is a character."""
    return content.decode("latin-1").replace("\r\n", "\n").partition("\n\n")[2]

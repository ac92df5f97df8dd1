"""MIND's news by category, from title and abstract: the public part of the paper's topic task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from effbench.common.files import entries, is_dir
from effbench.common.spec import UsageError
from effbench.common.wording import shown
from effbench.measured.data.mind_rows import NEWS_COLUMNS
from effbench.measured.data.reading import PACKED, decoded, digest_of, folder_of, lines, packed_file
from effbench.measured.data.text_sets import WHOLE, Text, TextSet
from effbench.measured.tasks.base import require
from effbench.measured.tasks.text import TextClassification

LOCATION = "https://huggingface.co/datasets/yjw1029/MIND (MINDsmall_train.zip and the like)"


class MINDTopics(TextClassification):
    """Category of news articles from title and abstract (MIND), about 18 categories.

    Reads ``news.tsv[.xz|.gz]`` (8 tab-separated columns, no header, no quoting) from the data folder, or its
    folder ``mind-topics``, ``mind`` or ``MIND``, and from the folders in it, such as ``train/`` and ``dev/``,
    or ``MINDsmall_train/`` with or without another folder of its name inside. The files are joined by news
    id; an id in several files is read once and must have one category. Only category, title and abstract
    are read. A data folder is needed: unpack MIND's zips into one.

    The paper classifies the bodies of the news, with 505 words on average. They were not distributed and
    their addresses have expired. Titles and abstracts are much shorter, so do not compare scores with the
    paper's.

    There is no official split. ``test`` and ``validation`` news (none: a tenth each) and ``train`` ones
    (0: all others) are drawn by the seed, stratified by category. The classes are the categories, in
    alphabetical order, with at least two news in the training part; news of others are dropped from all
    parts and counted in ``texts_of_rare_classes``. Words, ``vocabulary`` and ``vectors`` are as in ``imdb``.
    """

    source = "Wu et al. 2020, MIND: A Large-scale Dataset for News Recommendation (ACL)"
    name = "mind-topics"
    unit = "news"
    least = 2

    validation: int | None = None
    test: int | None = None

    def check_options(self) -> None:
        """Refuse a test part of all news: there is no official one."""
        super().check_options()
        test = self.test
        require(test is None or test >= 1, f"test must be at least 1, or none for a tenth, got {test}")

    def texts_in(self, data_dir: Path | None) -> TextSet:
        """All news with their category; a row's place is its number among the news read."""
        folder = folder_of(data_dir, "mind-topics", "mind", "MIND")
        if folder is None:
            raise UsageError(
                f"mind-topics needs MIND's news: pass --data-dir DIR with news.tsv, unpacked from {LOCATION}"
            )
        inner = [path for path in entries(folder) if is_dir(path)]
        zipped = [path for path in inner if path.name.startswith("MIND")]
        folders = [folder, *inner, *(path for outer in zipped for path in entries(outer) if is_dir(path))]
        paths = [path for inside in folders if (path := packed_file(inside, "news.tsv")) is not None]
        if not paths:
            names = ", ".join(f"news.tsv{suffix}" for suffix in PACKED)
            raise UsageError(f"{folder}: there is none of {names}, nor in a folder inside")
        places: list[str] = []

        def read(part: str) -> Iterator[Text]:
            places.clear()
            for text, where in _news(paths):
                places.append(where)
                yield text

        def where(part: str, row: int) -> str:
            # Places are known only of news just read; prepared data was read earlier.
            return places[row] if row < len(places) else str(paths[0])

        return TextSet(digest=digest_of(paths), parts=WHOLE, read=read, where=where)


def _news(paths: list[Path]) -> Iterator[tuple[Text, str]]:
    """Yield (news, place) of every news id, once."""
    seen: dict[str, tuple[str, str]] = {}
    for path in paths:
        for number, line in lines(path):
            where = f"{path}:{number}"
            columns = decoded(line, where).split("\t")
            if len(columns) != len(NEWS_COLUMNS):
                raise UsageError(
                    f"{where}: {len(columns)} columns, not {len(NEWS_COLUMNS)}: {', '.join(NEWS_COLUMNS)}"
                )
            news, category, _, title, abstract, *_ = columns
            for column, value in (("news id", news), ("category", category)):
                if not value.strip() or not value.isprintable():
                    raise UsageError(f"{where}: column {column!r} is {shown(value)}")
            if news in seen:
                before, place = seen[news]
                if before != category:
                    raise UsageError(
                        f"{where}: column 'category' of news {news} is {shown(category)}, but "
                        f"{shown(before)} at {place}"
                    )
                continue
            seen[news] = category, where
            yield Text(f"{title} {abstract}", category), where

"""Data files with anything in them: read, or refused by name when the run is planned; never a traceback."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from damage import changed, complaint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from test_lra_tasks import write_aan, write_cifar, write_idx, write_posts, write_reviews
from test_news import topical
from test_pathfinder import write_release
from test_text_tasks import (
    amazon_folder,
    mind_folder,
    newsgroups_folders,
    newsgroups_lines,
    polarity_folders,
    polarity_zip,
    small,
)

from effbench.common.machine import cache_dir
from effbench.common.spec import UsageError
from effbench.measured.data import reading, vectors
from effbench.measured.data.cache import cached
from effbench.measured.tasks import listops, pathfinder
from effbench.measured.tasks.amazon import AmazonElectronics
from effbench.measured.tasks.base import Task, confirm
from effbench.measured.tasks.ctr import ClickThrough
from effbench.measured.tasks.imdb import IMDB
from effbench.measured.tasks.listops import FILES, ListOps
from effbench.measured.tasks.lra_image import GreyImage
from effbench.measured.tasks.lra_text import ByteText
from effbench.measured.tasks.mind_topics import MINDTopics
from effbench.measured.tasks.news import NewsRecommendation
from effbench.measured.tasks.newsgroups import Newsgroups
from effbench.measured.tasks.pathfinder import Pathfinder
from effbench.measured.tasks.polarity import Polarity
from effbench.measured.tasks.retrieval import Retrieval
from effbench.records.store import Store
from effbench.sweep.planning import plan
from effbench.sweep.sweep import Sweep

EXAMPLES = 20


RELEASE = "pathfinder32/curv_contour_length_14"


def packs(make: Callable[[Path], Path], name: str) -> Callable[[Path], None]:
    """What makes a folder, with one of its files packed, by the end of the name."""

    def packed(folder: Path) -> None:
        make(folder)
        plain = (folder / name).with_suffix("")
        pack = gzip.compress if name.endswith(".gz") else lzma.compress
        (folder / name).write_bytes(pack(plain.read_bytes()))
        plain.unlink()

    return packed


def listops_files(folder: Path) -> Path:
    folder.mkdir()
    rows = "".join(f"( ( ( [MAX {i} ) {i + 1} ) ] )\t{i + 1}\n" for i in range(9))
    for name in FILES:
        (folder / name).write_text(f"Source\tTarget\n{rows}")
    return folder


def imdb_folders(folder: Path) -> Path:
    for part in ("train", "test"):
        for label, rating in (("neg", 2), ("pos", 9)):
            (folder / "aclImdb" / part / label).mkdir(parents=True)
            for i in range(8):
                (folder / "aclImdb" / part / label / f"{i}_{rating}.txt").write_text(f"a {label} film {i}")
    return folder


def behaviours(folder: Path) -> Path:
    folder.mkdir()
    return topical(folder, users=9)


def click_table(folder: Path) -> Path:
    folder.mkdir()
    for name, (users, seed) in {"train": ("abcd", 0), "test": ("ef", 1)}.items():
        items = np.random.default_rng(seed).integers(1, 5, size=(8, 2))
        rows = [f"{users[i % len(users)]},i{a} i{b},i{b},{i // 4}" for i, (a, b) in enumerate(items.tolist())]
        (folder / f"{name}.csv").write_text("\n".join(["user,history,item,label", *rows]) + "\n")
    return folder


# A reader, what makes a folder for it, and the file in it that is damaged.
READERS: dict[str, tuple[Task, Callable[[Path], object], str]] = {
    "png": (Pathfinder(), write_release, f"{RELEASE}/imgs/1/sample_3.png"),
    "metadata": (Pathfinder(), write_release, f"{RELEASE}/metadata/1.npy"),
    "cifar binary": (
        GreyImage(), lambda folder: write_cifar(folder, "bin"), "cifar-10-batches-bin/data_batch_2.bin"
    ),
    "cifar pickle": (
        GreyImage(), lambda folder: write_cifar(folder, "py2"), "cifar-10-batches-py/test_batch"
    ),
    "cifar tar": (GreyImage(), lambda folder: write_cifar(folder, "bin tar"), "cifar-10-binary.tar.gz"),
    "idx images": (GreyImage(dataset="fashion-mnist"), write_idx, "t10k-images-idx3-ubyte"),
    "idx labels": (
        GreyImage(dataset="fashion-mnist"), packs(write_idx, "train-labels-idx1-ubyte.gz"),
        "train-labels-idx1-ubyte.gz",
    ),
    "listops": (ListOps(), listops_files, FILES[1]),
    "imdb": (IMDB(validation=5), write_reviews, "train.jsonl"),
    "imdb gz": (IMDB(validation=5), packs(write_reviews, "test.jsonl.gz"), "test.jsonl.gz"),
    "imdb xz": (IMDB(validation=5), packs(write_reviews, "test.jsonl.xz"), "test.jsonl.xz"),
    "imdb folders": (IMDB(validation=2), imdb_folders, "aclImdb/train/pos/3_9.txt"),
    "lra-text": (ByteText(validation=5), write_reviews, "test.jsonl"),
    "newsgroups": (small(Newsgroups), newsgroups_lines, "train.jsonl"),
    "newsgroups folders": (small(Newsgroups), newsgroups_folders, "20news-bydate-test/sci.space/1002"),
    "amazon": (small(AmazonElectronics), amazon_folder, "reviews_Electronics_5.json"),
    "mind": (small(MINDTopics), mind_folder, "train/news.tsv"),
    "behaviours": (NewsRecommendation(validation=6), behaviours, "train/behaviors.tsv"),
    "behaviours xz": (
        NewsRecommendation(validation=6), packs(behaviours, "dev/behaviors.tsv.xz"), "dev/behaviors.tsv.xz"
    ),
    "news": (NewsRecommendation(validation=6), behaviours, "train/news.tsv"),
    "ctr csv": (ClickThrough(dataset="table", validation=2), click_table, "train.csv"),
    "polarity": (small(Polarity), polarity_folders, "txt_sentoken/neg/cv025_32.txt"),
    "polarity zip": (small(Polarity), polarity_zip, "movie_reviews.zip"),
    "retrieval": (Retrieval(), write_aan, "new_aan_pairs.eval.tsv"),
    "retrieval quoting": (Retrieval(quoting=True), write_aan, "new_aan_pairs.train.tsv"),
    "retrieval posts": (Retrieval(dataset="newsgroups"), write_posts, "train.jsonl"),
}  # fmt: skip
EACH = pytest.mark.parametrize("name", READERS)
# These are listed from the folder: without one of them there is one fewer.
ONE_OF_MANY = ("metadata", "imdb folders", "newsgroups folders", "mind", "news", "polarity")
# What is wrong with a whole part, such as its size, is said of the task and the part.
PARTS = (
    "imdb:",
    "newsgroups:",
    "amazon:",
    "mind-topics:",
    "polarity:",
    "lra-text:",
    "retrieval:",
    "news:",
    "ctr:",
    "validation=",
)


def case(name: str, folder: Path) -> SimpleNamespace:
    """The reader, its folder, and the file in it with its good content."""
    task, make, file = READERS[name]
    make(folder / "data")
    path = folder / "data" / file
    return SimpleNamespace(task=task, folder=folder / "data", path=path, good=path.read_bytes())


def read(it: SimpleNamespace) -> str:
    """All that is read when a run is planned."""
    fingerprint: str = it.task.fingerprint(it.folder)
    it.task.check_length(1024, it.folder)
    return fingerprint


@EACH
def test_any_damage_is_read_or_refused_by_name(name, tmp_path):
    it = case(name, tmp_path)

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(changed(it.good))
    def law(content):
        it.path.write_bytes(content)
        complaint(lambda: read(it), it.path, it.folder, *PARTS)

    law()


@EACH
def test_what_is_no_file_is_refused_by_name(name, tmp_path):
    it = case(name, tmp_path)
    for make in (
        lambda: None,  # it is not there
        it.path.mkdir,
        lambda: it.path.symlink_to(tmp_path / "nowhere"),
        lambda: it.path.symlink_to(it.path),
        lambda: os.mkfifo(it.path),
        lambda: it.path.symlink_to("/dev/zero"),
    ):
        it.path.unlink()
        make()
        said = complaint(lambda: read(it), it.path, it.folder, *PARTS)
        assert said or name in ONE_OF_MANY
        if it.path.is_dir():
            it.path.rmdir()
        else:
            it.path.unlink(missing_ok=True)
        it.path.write_bytes(it.good)


@EACH
def test_what_may_not_be_read_is_refused_by_name(name, tmp_path, monkeypatch):
    it = case(name, tmp_path)
    opened = io.open

    def refuse(path, *arguments, **options):
        if not isinstance(path, int) and Path(path) == it.path:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(io, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    assert "Permission denied" in complaint(lambda: read(it), it.path)


@EACH
def test_a_good_file_is_read_and_its_change_after_the_plan_is_refused_in_the_measured_process(name, tmp_path):
    it = case(name, tmp_path)
    fingerprint = read(it)
    confirm(it.task, it.folder, fingerprint)
    it.path.unlink()
    assert complaint(lambda: confirm(it.task, it.folder, fingerprint), it.path, it.folder) != ""


def test_what_changes_after_the_plan_but_can_be_read_is_refused_too(tmp_path):
    it = case("imdb", tmp_path)
    fingerprint = read(it)
    it.path.write_bytes(it.good.partition(b"\n")[2])
    with pytest.raises(UsageError, match="data: the data changed after the run was planned"):
        confirm(it.task, it.folder, fingerprint)


def test_what_changes_while_it_is_read_is_refused_and_not_kept(tmp_path, monkeypatch):
    it = case("listops", tmp_path)
    rows = listops._rows

    def change(path):
        yield from rows(path)
        it.path.write_bytes(it.good[: it.good.rindex(b"( ( (")])

    monkeypatch.setattr(listops, "_rows", change)
    with pytest.raises(UsageError, match="data: the files changed while they were read"):
        read(it)
    assert not list(cache_dir().glob("*"))


# Images.


def png(mode: str = "L", side: int = 32, **options) -> bytes:
    levels = np.random.default_rng(0).integers(256, size=(side, side), dtype=np.uint8)
    image = Image.fromarray(levels.astype(np.uint16) if mode == "I;16" else levels)
    file = io.BytesIO()
    (image if mode.startswith("I") else image.convert(mode)).save(file, "PNG", **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)


SIGNATURE, END = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")
ROWS = (b"\0" + bytes(range(32))) * 32


def built(width: int = 32, height: int = 32, depth: int = 8, colour: int = 0, interlaced: int = 0,
          before: bytes = b"", data: bytes = ROWS) -> bytes:  # fmt: skip
    header = width.to_bytes(4) + height.to_bytes(4) + bytes([depth, colour, 0, 0, interlaced])
    pixels = chunk(b"IDAT", zlib.compress(data))
    return SIGNATURE + chunk(b"IHDR", header) + before + pixels + END


def of_format(name: str) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(png())).save(file, name)
    return file.getvalue()


BOMB = zlib.compress(bytes(2**22))
IMAGES = {
    "cut in a chunk": (png()[:200], "byte 200: it ends inside the chunk that begins at byte 33"),
    "cut between chunks": (built()[:-12], "it ends without its last chunk"),
    "a flipped bit": (png()[:99] + bytes([png()[99] ^ 1]) + png()[100:], "the checksum of its chunk 'IDAT'"),
    "a flipped bit of the header": (built()[:17] + b"\1" + built()[18:], "byte 8: the checksum of its chunk"),
    "a chunk of four gigabytes": (SIGNATURE + b"\xff" * 4 + b"IHDR" + bytes(99), "byte 115: it ends inside"),
    "no header": (SIGNATURE + END, "byte 8: its first chunk is not the header"),
    "colours": (png("RGB"), "32 x 32 pixels of 8-bit RGB, not 32 x 32 of 8-bit grey"),
    "a palette": (png("P"), "pixels of 8-bit palette"),
    "grey and alpha": (png("LA"), "pixels of 8-bit grey and alpha"),
    "colours and alpha": (png("RGBA"), "pixels of 8-bit RGB and alpha"),
    "16 bits": (png("I;16"), "pixels of 16-bit grey"),
    "one bit": (png("1"), "pixels of 1-bit grey"),
    "a kind that is none": (built(colour=5), "pixels of 8-bit colour type 5"),
    "interlaced": (built(interlaced=1), "it is interlaced"),
    "animated": (built(before=chunk(b"acTL", bytes(8))), "it is animated"),
    "another side": (png(side=64), "64 x 64 pixels of 8-bit grey, not 32 x 32"),
    "no pixels": (built(width=0, height=0), "0 x 0 pixels"),
    "as many pixels as nobody has": (built(width=2**31 - 1, height=2**31 - 1), "2147483647 x 2147483647"),
    "a bomb of pixels": (built(width=60_000, height=60_000, data=bytes(2**20)), "60000 x 60000 pixels"),
    "a bomb of text": (built(before=chunk(b"zTXt", b"a\0\0" + BOMB)), "Decompressed data too large"),
    "a bomb of a profile": (built(before=chunk(b"iCCP", b"a\0\0" + BOMB)), "Decompressed data too large"),
    "too few pixels": (built(data=ROWS[:500]), "is not a whole PNG image: "),
    "a filter that is none": (built(data=b"\x09" + ROWS[1:]), "is not a whole PNG image: "),
    "no compressed data": (built()[:-30] + chunk(b"IDAT", b"") + END, "is not a whole PNG image: "),
    "more after its end": (png() + png(), "there is more after its end"),
    "a photograph": (of_format("JPEG"), "byte 0: it does not begin as a PNG file does"),
    "a bitmap": (of_format("BMP"), "byte 0: it does not begin as a PNG file does"),
    "a text": (b"not an image", "byte 0: it does not begin as a PNG file does"),
    "a megabyte and more": (built(before=chunk(b"teXt", bytes(2**20))), "it has more than 1 MiB"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_every_kind_of_wrong_image_is_named_with_its_list_and_what_is_wrong(name, tmp_path):
    it = case("png", tmp_path)
    content, words = IMAGES[name]
    it.path.write_bytes(content)
    said = complaint(lambda: read(it), it.path)
    assert f"{it.folder / RELEASE}/metadata/1.npy:4: " in said
    assert words in said


def test_whole_images_of_any_form_are_read(tmp_path):
    it = case("png", tmp_path)
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * 1000, zip=True)
    for content in (built(), png(optimize=True), png(compress_level=0), png(pnginfo=text)):
        it.path.write_bytes(content)
        assert complaint(lambda: read(it)) == ""


def test_nothing_is_decoded_twice(tmp_path, monkeypatch):
    it = case("png", tmp_path)
    read(it)
    monkeypatch.setattr(pathfinder, "grey_levels", None)
    assert len(it.task.data(1024, 0, it.folder).train) == 16


# Packed files.


def all_lines(path: Path, *most: int) -> list[tuple[int, bytes]]:
    return list(reading.lines(path, *most))


def test_what_unpacks_to_more_than_fits_is_refused_with_the_limit(tmp_path):
    line = b'{"label": 1, "text": "' + b"a" * (reading.LINE_BYTES + 1) + b'"}\n'
    for suffix, pack in ((".gz", gzip.compress), (".xz", lzma.compress)):
        path = tmp_path / f"bomb.jsonl{suffix}"
        path.write_bytes(pack(line))
        assert path.stat().st_size < 40_000
        assert "bomb.jsonl" in (said := complaint(partial(all_lines, path), f"{path}:1:"))
        assert "the line has more than 16 MiB" in said
        path.write_bytes(pack(b"short\n" * 1000))
        assert "has more than 1 KiB" in complaint(partial(all_lines, path, 1024), f"{path}:171:")
        assert "has more than 1 KiB" in complaint(partial(reading.content, path, 1024), path)


def test_an_xz_file_that_asks_for_gigabytes_is_refused(tmp_path):
    path = tmp_path / "train.jsonl.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
    content = bytearray(lzma.compress(b"a\n", filters=filters))
    content[16] = 40  # the size of its dictionary: 4 GiB
    content[20:24] = zlib.crc32(content[12:20]).to_bytes(4, "little")  # of its block's header
    path.write_bytes(content)
    assert "Memory usage limit" in complaint(lambda: list(reading.lines(path)), path)


def test_every_stream_of_an_xz_file_is_read_or_refused(tmp_path):
    path = tmp_path / "train.jsonl.xz"
    one, other = lzma.compress(b"one\n"), lzma.compress(b"other\n")
    for whole in (one + other, one + bytes(8) + other + bytes(4)):
        path.write_bytes(whole)
        assert [line for _, line in reading.lines(path)] == [b"one", b"other"]
    # the standard library's reader ends silently where a second stream begins with damage
    for broken in (one + b"\xfe" + other[1:], one + other[:-5], one[:-1], b"", one + b"rubbish"):
        path.write_bytes(broken)
        assert "cannot be unpacked" in complaint(lambda: list(reading.lines(path)), f"{path}:")


def archive(folder: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return folder


def test_an_archive_with_links_devices_and_odd_names_is_refused_by_name(tmp_path):
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)):
        member = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        member.type, member.linkname = kind, "/etc/passwd"
        folder = archive(tmp_path / str(number), (member, b""))
        said = complaint(partial(GreyImage().fingerprint, folder), folder / "cifar-10-binary.tar.gz")
        assert "there is no data_batch_1.bin in it" in said


def test_a_pickle_that_asks_for_gigabytes_is_refused(tmp_path):
    it = case("cifar pickle", tmp_path)
    it.path.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")  # keep it at place 2^31 - 1
    assert "byte 3: place 2147483647 of its memory" in complaint(lambda: read(it), it.path)
    it.path.write_bytes(b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".")
    complaint(lambda: read(it), it.path)


def test_a_zip_that_lies_about_sizes_or_hides_its_content_is_refused(tmp_path, monkeypatch):
    it = case("polarity zip", tmp_path)
    with zipfile.ZipFile(it.path, "a", zipfile.ZIP_LZMA) as there:
        there.writestr("movie_reviews/pos/cv003_9.txt", "good")
    assert "packed by method 14, not deflate" in complaint(lambda: read(it), f"{it.path}:movie_reviews/pos")
    it.path.write_bytes(it.good)
    with zipfile.ZipFile(it.path, "a", zipfile.ZIP_DEFLATED) as there:
        there.writestr("movie_reviews/pos/cv003_9.txt", "a" * (reading.LINE_BYTES + 1))
    assert "have more than 16 MiB" in complaint(lambda: read(it), f"{it.path}:movie_reviews/pos")
    content = bytearray(it.good)
    content[content.index(b"PK\1\2", content.index(b"PK\1\2") + 1) + 8] |= 1  # encrypted
    it.path.write_bytes(content)
    assert "encrypted" in complaint(lambda: read(it), f"{it.path}:movie_reviews/")


# Texts.

OF_A_LINE = {
    "no UTF-8": (b'{"label": 1, "text": "\xff"}', "not UTF-8 text: invalid start byte (byte 22)"),
    "UTF-16": ('{"label": 1, "text": "a"}'.encode("utf-16"), "not UTF-8 text"),
    "an encoded half of a pair": (b'{"label": 1, "text": "\xed\xa0\x80"}', "not UTF-8 text"),
    "half of a pair": (b'{"label": 1, "text": "\\ud800"}', "half of a surrogate pair"),
    "a null byte": (b'{"label": 1, "text": "a\0"}', "not JSON: Invalid control character"),
    "a blank line": (b"", "not JSON: Expecting value at column 1"),
    "deep lists": (b"[" * 100_000, "not JSON: arrays or objects are nested too deeply"),
    "deep objects": (b'{"a":' * 100_000, "not JSON: arrays or objects are nested too deeply"),
    "a key twice": (b'{"label": 1, "text": "a", "label": 0}', "the key 'label' stands twice"),
    "NaN": (b'{"label": NaN, "text": "a"}', "not JSON: NaN is no number"),
    "infinity": (b'{"label": 1, "text": "a", "x": -Infinity}', "not JSON: -Infinity is no number"),
    "too large a number": (b'{"label": 1e999, "text": "a"}', "not JSON: the number '1e999' is too large"),
    "too long a number": (b'{"label": ' + b"9" * 9999 + b', "text": "a"}', "is too large"),
    "a list": (b'[1, "a"]', "not a JSON object but list"),
    "a text": (b'"a"', "not a JSON object but str"),
    "true for a number": (b'{"label": true, "text": "a"}', "column 'label' is True, not 0"),
    "a number with a point": (b'{"label": 1.0, "text": "a"}', "column 'label' is 1.0, not 0"),
    "a list for a text": (b'{"label": 1, "text": ["a"]}', "column 'text' is list, not text"),
    "control characters": (b'{"label": "\\u001b[31m\\n", "text": "a"}', "is '\\x1b[31m\\n', not 0"),
    "a long label": (b'{"label": "' + b"a" * 10**6 + b'", "text": "a"}', "aaa ... aaa"),
    "no columns": (b"{}", "the column 'label' is missing; it has none"),
}


@pytest.mark.parametrize("name", OF_A_LINE)
def test_every_kind_of_wrong_line_is_named(name, tmp_path):
    it = case("imdb", tmp_path)
    line, words = OF_A_LINE[name]
    rows = it.good.split(b"\n")
    it.path.write_bytes(b"\n".join([*rows[:4], line, *rows[4:]]))
    assert words in complaint(lambda: read(it), f"{it.path}:5: ")


def test_line_ends_and_a_byte_order_mark_are_no_content(tmp_path):
    plain, other = case("imdb", tmp_path / "a"), case("imdb", tmp_path / "b")
    other.path.write_bytes(b"\xef\xbb\xbf" + other.good.replace(b"\n", b"\r\n"))
    one, two = (it.task.data(64, 0, it.folder) for it in (plain, other))
    assert (one.train.tokens == two.train.tokens).all()
    other.path.write_bytes(other.good.replace(b"\n", b"\r"))  # one line of many objects
    assert "not JSON: Extra data" in complaint(lambda: read(other), f"{other.path}:1: ")


def test_a_folder_name_that_is_no_name_of_a_group_is_refused(tmp_path):
    it = case("newsgroups folders", tmp_path)
    for name in (b"\xff", b"a\nb"):
        group = os.fsdecode(os.path.join(os.fsencode(it.path.parents[1]), name))
        os.mkdir(group)
        assert "is not the name of a group" in complaint(lambda: read(it), it.path.parents[1])
        os.rmdir(group)


def test_texts_that_share_no_word_are_refused_when_the_run_is_planned(tmp_path):
    it = case("imdb", tmp_path)
    it.path.write_text("".join(json.dumps({"label": i % 2, "text": f"w{i}"}) + "\n" for i in range(40)))
    assert "no word stands in two of the 35 training texts" in complaint(lambda: read(it), "imdb")


# Vectors.


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(
    content=changed(b"the 0.5 -1.0\ncat 2.0 0.25\nat name@domain.com 1.0 1.0\nsat -3e-2 4\n"),
    packed=st.booleans(),
)
def test_any_vectors_are_read_or_refused_by_name(content, packed, tmp_path):
    path = tmp_path / ("v.txt.gz" if packed else "v.txt")
    path.write_bytes(gzip.compress(content) if packed else content)
    complaint(lambda: vectors.initial(["the", "dog"], str(path), 0), path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the 1_0 2", "column 2 is '1_0', not a number"),
        ("the +1 2", "column 2 is '+1', not a number"),
        ("the \u0661 2", "column 2 is"),
        ("the 1e39 2", "column 2 is '1e39', not a number from -1000000 to 1000000"),
        ("the " + "1 " * 5000, "5001 numbers, more than 4096"),
        ("the 1  2", "column 3 is '', not a number"),
    ],
)
def test_what_is_no_number_of_a_vector_is_named(text, words, tmp_path):
    path = tmp_path / "v.txt"
    path.write_text(f"{text}\n")
    assert words in complaint(lambda: vectors.initial(["the"], str(path), 0), f"{path}:1: ")


@pytest.mark.parametrize("damaged", ["glove_6B_index.parquet", "glove_6B_50d_emb.npy"])
def test_a_damaged_package_of_vectors_is_named_with_the_cure(damaged, tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "kumo_vectors" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(vectors, "PACKAGE", "kumo_vectors")
    pq.write_table(pa.table({"index": ["the", "cat", "sat"]}), folder / "glove_6B_index.parquet")
    np.save(folder / "glove_6B_50d_emb.npy", np.eye(3, 2, dtype=np.float32))
    assert vectors.initial(["cat"], "package", 0).tolist() == [[0.0, 1.0]]
    path = folder / damaged
    good = path.read_bytes()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(changed(good))
    def law(content):
        path.write_bytes(content)
        complaint(lambda: vectors.initial(["cat"], "package", 0), folder)

    law()
    path.write_bytes(good[: len(good) // 2])
    assert "install" in complaint(lambda: vectors.initial(["cat"], "package", 0), path)


# Lengths and folders, when a run is planned.


def planned(task: str, seq_len: str, data_dir: Path | None, folder: Path) -> None:
    axes = {"mechanism": ["linear"], "probe": "accuracy", "task": [task], "seq_len": seq_len}
    plan(Sweep.preset("quick").override(axes), Store(folder / "out"), data_dir=data_dir)


@pytest.mark.parametrize(
    ("task", "seq_len", "words"),
    [
        ("pathfinder", "1000", "seq_len is 1000, not 1024, 4096, 16384"),
        ("pathfinder", "1024,256", "seq_len is 256, not 1024"),
        ("lra-image:dataset=fashion-mnist", "1000", "seq_len 1000 is not the pixels of an image"),
        ("mqar", "255", "seq_len 255 must be even"),
        ("mqar:pairs=100", "256", "seq_len 256 must be even and at least 4 x pairs, which is 400"),
        ("mqar:mix=based", "512", "rows of 64 to 256 tokens, seq_len is 512"),
        ("listops", "4", "no tree has more than"),
        ("listops:max_depth=2,max_args=2,min_length=100", "1024", "no tree has more than 100"),
        ("listops:max_depth=2,max_args=2,min_length=1", "64", "found only 400 of 1000 different trees"),
        ("mqar:vocab=8,pairs=1", "4", "there are too few different rows of 4 tokens with 1 pairs"),
    ],
)
def test_a_length_that_does_not_fit_its_task_is_refused_when_the_run_is_planned(
    task, seq_len, words, tmp_path
):
    folder = write_idx(tmp_path / "idx") if "image" in task else None
    assert words in complaint(lambda: planned(task, seq_len, folder, tmp_path), task.partition(":")[0])
    assert not (tmp_path / "out").exists()


def test_a_length_that_does_not_fit_the_files_is_refused_when_the_run_is_planned(tmp_path):
    write_release(tmp_path / "images")
    said = complaint(
        lambda: planned("pathfinder", "4096", tmp_path / "images", tmp_path), tmp_path / "images"
    )
    assert "no <n>.npy file there" in said
    inside = tmp_path / "images" / "pathfinder32"
    said = complaint(lambda: planned("pathfinder", "4096", inside, tmp_path), inside)
    assert "its images have 32 x 32 pixels; seq_len 4096 means 64 x 64" in said
    files = listops_files(tmp_path / "trees")
    said = complaint(lambda: planned("listops:data=files", "4", files, tmp_path), files)
    assert f"{FILES[0]}:2: 4 tokens" not in said
    assert (
        complaint(lambda: planned("listops:data=files", "3", files, tmp_path), f"{files / FILES[0]}:2:") != ""
    )


@pytest.mark.parametrize("name", ["nowhere", "file", "null\0", "\ud800", "x" * 5000])
def test_a_data_folder_that_is_none_is_refused_whatever_the_task(name, tmp_path):
    (tmp_path / "file").write_text("")
    for task in ("mqar", "listops", "imdb"):
        said = complaint(partial(planned, task, "64", tmp_path / name, tmp_path), "cannot list the folder")
        assert said


def test_a_task_that_cannot_be_imported_is_refused(tmp_path):
    for text, words in (
        ("raise KeyError(1)", "KeyError: 1"),
        ("import no_such_thing", "ModuleNotFoundError"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ):
        path = tmp_path / f"task{len(text)}.py"
        path.write_text(f"{text}\nclass T:\n    pass\n")
        said = complaint(partial(planned, f"{path}:T", "64", None, tmp_path), f"{path} cannot be imported")
        assert words in said


# What was prepared.


def test_any_damage_of_prepared_data_makes_it_anew():
    expected = {"a": np.arange(40), "b": np.array([1.5])}
    cached("thing", {"x": 1}, lambda: expected)
    (path,) = cache_dir().iterdir()
    good = path.read_bytes()

    @settings(max_examples=50, suppress_health_check=list(HealthCheck))
    @given(changed(good))
    def law(content):
        path.write_bytes(content)
        found = cached("thing", {"x": 1}, lambda: {**expected, "b": np.array([2.5])})
        assert found["a"].tolist() == list(range(40))
        assert found["b"] == (1.5 if content == good else 2.5)

    law()


def test_a_user_without_a_home_keeps_nothing_and_gets_the_same(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    for number in (1, 2):
        assert cached("thing", {}, partial(dict, a=np.array([number])))["a"] == number


def test_prepared_data_under_anothers_name_is_made_anew():
    cached("thing", {"x": 1}, lambda: {"a": np.array([1])})
    (path,) = cache_dir().iterdir()
    cached("thing", {"x": 2}, lambda: {"a": np.array([2])})
    (other,) = set(cache_dir().iterdir()) - {path}
    shutil.copy(path, other)
    assert cached("thing", {"x": 2}, lambda: {"a": np.array([3])})["a"] == 3


def test_two_processes_may_prepare_the_same_data_at_once(tmp_path):
    code = (
        "import numpy as np, sys\nfrom effbench.measured.data.cache import cached\n"
        "for i in range(12): assert cached('t', {'i': i}, lambda: {'a': np.full(5000, i)})['a'][0] == i\n"
        "print('done')"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    assert [each.communicate(timeout=60)[0] for each in both] == [b"done\n"] * 2
    assert len(list(cache_dir().iterdir())) == 12
    for i in range(12):
        assert cached("t", {"i": i}, lambda: {})["a"].tolist() == [i] * 5000

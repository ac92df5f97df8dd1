"""Damaged inputs: strategies for arbitrary bytes and changed good ones, and the law of every reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from effbench.common.spec import MESSAGE, UsageError

# Bytes that break careless readers: encodings, strange numbers, brackets, deep nesting.
PIECES = [
    b"", b"\0", b"\n", b"\r", b"\r\n", b"\t", b" ", b",", b":", b"=", b'"', b"'", b"\\", b"#", b"-", b"+",
    b"_", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\\ud800", b"\xd9\xa1",
    b"\x1b[31m", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"1_0", b"0x10", b"9" * 400, b"9" * 5000,
    b"null", b"true", b"{}", b"[]", b'""', b"[" * 5000, b"{" * 5000, b'{"a":' * 3000, b"A" * 5000, b"\0" * 70,
]  # fmt: skip


def changed(content: bytes) -> st.SearchStrategy[bytes]:
    """Return the content with bits flipped, or parts cut, inserted, repeated or swapped; or any bytes."""
    return st.one_of(
        st.lists(_changes(len(content)), min_size=1, max_size=3).map(lambda all_: _apply(content, all_)),
        st.binary(max_size=200),
    )


Change = Callable[[bytes], bytes]


def _changes(size: int) -> st.SearchStrategy[Change]:
    place = st.integers(0, max(0, size - 1))
    piece = st.one_of(st.sampled_from(PIECES), st.binary(max_size=8))
    length = st.integers(0, 40)
    return st.one_of(
        st.tuples(place, st.integers(0, 7)).map(lambda at: lambda old: _flipped(old, *at)),
        place.map(lambda at: lambda old: old[:at]),
        place.map(lambda at: lambda old: old[at:]),
        st.tuples(place, length, piece).map(
            lambda at: lambda old: old[: at[0]] + at[2] + old[at[0] + at[1] :]
        ),
        st.tuples(place, length, st.integers(2, 50)).map(
            lambda at: lambda old: old[: at[0]] + old[at[0] : at[0] + at[1]] * at[2] + old[at[0] + at[1] :]
        ),
        st.tuples(place, place, length).map(lambda at: lambda old: _swapped(old, *at)),
    )


def _apply(content: bytes, changes: list[Change]) -> bytes:
    for change in changes:
        content = change(content)
    return content


def _flipped(content: bytes, place: int, bit: int) -> bytes:
    if place >= len(content):
        return content
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def _swapped(content: bytes, one: int, other: int, length: int) -> bytes:
    first, second = sorted((one, other))
    second = max(second, first + length)
    return (
        content[:first] + content[second : second + length] + content[first + length : second]
        + content[first : first + length] + content[second + length :]
    )  # fmt: skip


def complaint(call: Callable[[], object], *names: str | Path) -> str:
    """Return the message of a reader about its input, "" if it reads it, and check the law of messages.

    A message is a UsageError in one printable line of bounded length that contains one of the names.
    """
    try:
        call()
    except UsageError as error:
        text = str(error)
        assert text.isprintable(), repr(text)
        assert 0 < len(text) <= MESSAGE
        assert any(str(name) in text for name in names), (names, text)
        return text
    return ""

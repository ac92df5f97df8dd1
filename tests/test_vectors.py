"""Word vectors: GloVe's where there are any, the rest drawn alike; what is wrong with a file is named."""

from __future__ import annotations

import gzip
import importlib.util
import lzma
import os
from pathlib import Path

import numpy as np
import pytest

from effbench.common.spec import UsageError
from effbench.measured.data import vectors
from effbench.measured.data.vectors import fingerprint, initial

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(vectors.PACKAGE) is None,
    reason=f"GloVe's vectors are an extra: {vectors.INSTALL}",
)


def glove(path: Path, rows: dict[str, list[float]]) -> str:
    path.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in rows.items()))
    return str(path)


ROWS = {"the": [0.5, -1.0], "cat": [2.0, 0.25], "at name@domain.com": [1.0, 1.0], "sat": [-3.0, 4.0]}


def test_a_word_gets_its_own_vector_wherever_it_stands(tmp_path):
    table = initial(["sat", "dog", "the", "the", "at name@domain.com"], glove(tmp_path / "g.txt", ROWS), 0)
    assert table.shape == (5, 2)
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table[[0, 2, 3, 4]], [[-3, 4], [0.5, -1], [0.5, -1], [1, 1]])


def test_the_rest_has_glove_s_mean_and_covariance(tmp_path):
    rng = np.random.default_rng(5)
    real = rng.normal(size=(500, 3)) @ np.array([[2.0, 0, 0], [1.5, 0.3, 0], [-1, 0.5, 0.7]]) + [4, -2, 0]
    path = glove(tmp_path / "g.txt", {f"w{i}": row.tolist() for i, row in enumerate(real)})
    drawn = initial([f"x{i}" for i in range(40_000)], path, 1).astype(np.float64)
    deviation = real.std(axis=0)
    np.testing.assert_allclose(drawn.mean(axis=0), real.mean(axis=0), atol=4 * deviation.max() / 200)
    np.testing.assert_allclose(
        np.cov(drawn.T), np.cov(real.T, bias=True), atol=4 * 1.5 * deviation.max() ** 2 / 200
    )


def test_the_seed_decides_what_is_drawn_and_nothing_else(tmp_path):
    path = glove(tmp_path / "g.txt", ROWS)
    words = ["dog", "cat", "ran"]
    np.testing.assert_array_equal(initial(words, path, 3), initial(words, path, 3))
    other = initial(words, path, 4)
    np.testing.assert_array_equal(other[1], initial(words, path, 3)[1])
    assert not np.isclose(other, initial(words, path, 3))[[0, 2]].any()


def test_no_words_are_an_empty_table(tmp_path):
    assert initial([], glove(tmp_path / "g.txt", ROWS), 0).shape == (0, 2)


def test_a_single_vector_is_a_table(tmp_path):
    table = initial(["a", "b"], glove(tmp_path / "g.txt", {"a": [1.0, 2.0, 3.0]}), 0)
    np.testing.assert_allclose(table, [[1, 2, 3], [1, 2, 3]], atol=1e-6)


@pytest.mark.parametrize(("suffix", "opener"), [(".gz", gzip.open), (".xz", lzma.open)])
def test_a_packed_file_reads_the_same(tmp_path, suffix, opener):
    plain = glove(tmp_path / "g.txt", ROWS)
    packed = tmp_path / f"g.txt{suffix}"
    with opener(packed, "wb") as file:
        file.write(Path(plain).read_bytes())
    words = ["the", "dog"]
    np.testing.assert_array_equal(initial(words, str(packed), 0), initial(words, plain, 0))


def test_a_damaged_packed_file_is_named(tmp_path):
    packed = tmp_path / "g.txt.gz"
    packed.write_bytes(gzip.compress(b"the 1 2\n" * 1000)[:-12])
    with pytest.raises(UsageError, match=r"g\.txt\.gz:\d+: cannot be unpacked"):
        initial(["the"], str(packed), 0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("the 1 2\ncat 1\n", r"g\.txt:2: 2 columns, but line 1 has 3"),
        ("the 1 2\ncat 1 2 3\n", r"g\.txt:2: 4 columns, but line 1 has 3"),
        ("the 1 2\n\ncat 1 2\n", r"g\.txt:2: 1 columns"),
        ("the 1 2\ncat 1 x\n", r"g\.txt:2: column 3 is 'x', not a number"),
        ("the 1 2\nsat 2 3\ncat nan 1\n", r"g\.txt:3: column 2 is 'nan', not a number"),
        ("the inf 2\n", r"g\.txt:1: column 2 is 'inf', not a number"),
        ("the\n", r"g\.txt:1: there is no number"),
        ("", r"g\.txt:1: the file is empty"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, complaint):
    path = tmp_path / "g.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        initial(["the"], str(path), 0)


def test_a_missing_file_and_a_missing_package_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="there is no such file; vectors is package"):
        fingerprint(str(tmp_path / "nowhere.txt"))
    monkeypatch.setattr(vectors, "PACKAGE", "no_such_package_of_vectors")
    with pytest.raises(UsageError, match=r"pip install 'effbench\[glove\]'"):
        initial(["the"], "package", 0)


def test_the_fingerprint_follows_the_content(tmp_path):
    first = glove(tmp_path / "a.txt", ROWS)
    before = fingerprint(first)
    assert fingerprint(glove(tmp_path / "b.txt", ROWS)) == before
    glove(Path(first), ROWS | {"dog": [1.0, 2.0]})
    assert fingerprint(first) != before
    size = os.path.getsize(first)
    Path(first).write_text(Path(first).read_text().replace("dog", "hog"))
    os.utime(first, ns=(1, 1))  # a clock too coarse for two writes must not decide a test
    assert os.path.getsize(first) == size
    assert fingerprint(first) not in {before, fingerprint(str(tmp_path / "b.txt"))}


@needs_package
def test_the_package_s_vectors_are_glove_s(tmp_path):
    table = initial(["the", "xqzzy-no-word", "king", "queen", "banana"], "package", 0).astype(np.float64)
    assert table.shape == (5, 50)
    # The first numbers of glove.6B.50d.txt.
    np.testing.assert_allclose(table[0, :4], [0.418, 0.24968, -0.41242, 0.1217], atol=1e-6)
    king, queen, banana = table[2:] / np.linalg.norm(table[2:], axis=1, keepdims=True)
    assert king @ queen > king @ banana + 0.2
    assert np.isfinite(table).all()

"""A PNG file of 8-bit grey levels, read in full or refused: its structure, checksums and bounds."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from effbench.common.files import size, why
from effbench.common.wording import shown

FILE_BYTES = 2**20  # of one image: 128 x 128 levels take 16 KiB unpacked

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KINDS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey and alpha", 6: "RGB and alpha"}


class DamagedImage(ValueError):
    """The bytes are no whole PNG file; the text says why."""


class OtherImage(ValueError):
    """The PNG file has another size or kind; the text says which."""


def grey_levels(content: bytes, sides: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the levels [side, side] of a square image of one of these sides.

    Raises DamagedImage that names the byte, and OtherImage. All checksums are checked here, since Pillow,
    which decodes the image, does not check them.
    """
    from PIL import Image

    width = height = 0
    ended = False
    for place, kind, body in _chunks(content):
        if place == len(_SIGNATURE):
            width, height = _header(kind, body, sides)
        if kind == b"acTL":
            raise OtherImage("it is animated")
        ended = kind == b"IEND"
    if not ended:
        raise DamagedImage(f"byte {len(content)}: it ends without its last chunk")
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            levels = np.asarray(image)
    except Exception as error:  # Pillow raises nearly anything for a broken or bomb-like chunk
        raise DamagedImage(why(error)) from None
    if levels.shape != (height, width) or levels.dtype != np.uint8:
        raise DamagedImage(f"it decodes to {levels.dtype} {list(levels.shape)}")
    return levels


def _chunks(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (first byte, kind, body) of each chunk."""
    if len(content) > FILE_BYTES:
        raise DamagedImage(f"it has more than {size(FILE_BYTES)}")
    if not content.startswith(_SIGNATURE):
        raise DamagedImage("byte 0: it does not begin as a PNG file does")
    place = len(_SIGNATURE)
    while place < len(content):
        head = content[place : place + 8]
        length = int.from_bytes(head[:4])
        end = place + 12 + length
        if len(head) < 8 or end > len(content):
            raise DamagedImage(f"byte {len(content)}: it ends inside the chunk that begins at byte {place}")
        kind, body = head[4:], content[place + 8 : end - 4]
        if zlib.crc32(kind + body) != int.from_bytes(content[end - 4 : end]):
            name = shown(kind.decode("latin-1"))
            raise DamagedImage(f"byte {place}: the checksum of its chunk {name} does not fit")
        yield place, kind, body
        place = end
        if kind == b"IEND" and place < len(content):
            raise DamagedImage(f"byte {place}: there is more after its end")


def _header(kind: bytes, body: bytes, sides: tuple[int, ...]) -> tuple[int, int]:
    """Return (width, height). Raises OtherImage for another size or kind than asked."""
    if kind != b"IHDR" or len(body) != 13:
        raise DamagedImage(f"byte {len(_SIGNATURE)}: its first chunk is not the header")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
    name = _KINDS.get(colour, f"colour type {colour}")
    if width != height or width not in sides or (depth, colour) != (8, 0):
        wanted = " or ".join(f"{side} x {side}" for side in sides)
        raise OtherImage(
            f"it has {width} x {height} pixels of {depth}-bit {name}, not {wanted} of 8-bit grey"
        )
    if interlaced:
        raise OtherImage("it is interlaced")
    return width, height

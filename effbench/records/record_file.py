"""The file of one record: its name, its text with a checksum, and the checks that it must pass."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from effbench.common import files
from effbench.common.spec import Cell, Record, cell_key, record_from, to_json
from effbench.common.strict_json import parse_json
from effbench.records.frame import COLUMNS
from effbench.records.soundness import check_content

RECORD_BYTES = 256 * 2**20  # most bytes of one record; nearly all of them are samples
_NOT_A_RECORD = "not a record of effbench"


def name_of(record: Record) -> str:
    """Return the name of the record's file."""
    return f"{stem_of(record.cell)}.json"


def stem_of(cell: Cell) -> str:
    """Return the name of what belongs to one cell; it ends with the cell's key."""
    label = re.sub(r"[^A-Za-z0-9]+", "-", cell.label).strip("-")[-40:]
    return f"{label}-{cell.probe}-{cell.mode}-n{cell.seq_len}-r{cell.repeat}.{cell.key}"


def content_of(record: Record) -> bytes:
    """Return the bytes of the record's file: one line of JSON with the checksum and the record."""
    body = to_json(record)
    return f'{{"checksum":"{_checksum(body)}","record":{body}}}\n'.encode()


def key_in(name: str) -> str:
    """Return the cell's key in the name of a record file, "" if the name has none."""
    parts = name.split(".")
    return parts[-2] if len(parts) > 2 else ""


def plain_name(name: str, record: Record) -> str:
    """Return the name that the file of a sound record has in records/, from its name here or in superseded/.

    The key in it is that of the cell as it was written: another version may have written other fields.
    """
    stem, _, key = stem_of(record.cell).rpartition(".")
    parts = name.split(".")
    written = key if key in parts else next(part for part in parts if re.fullmatch("[0-9a-f]{16}", part))
    return f"{stem}.{written}.json"


def superseded_name(name: str, content: bytes) -> str:
    """Return the name that a record file gets in superseded/: with a digest, so that names do not collide."""
    return f"{name.removesuffix('.json')}.{hashlib.sha256(content).hexdigest()[:8]}.json"


def read(path: Path) -> tuple[bytes, Record]:
    """Return the content of a record file and its record. Raises ValueError with the reason if damaged."""
    if path.name.startswith(".") and path.name.endswith(".part"):
        raise ValueError("half-written by a run that was killed; its cell is measured again")
    if not files.is_file(path) or path.suffix != ".json":
        raise ValueError(_NOT_A_RECORD)
    content = files.read_bytes(path, RECORD_BYTES)
    return content, parse(path.name, content)


def parse(name: str, content: bytes) -> Record:
    """Return the record in the content of a file of this name. Raises ValueError if it is damaged."""
    try:
        data = parse_json(content.decode())
    except UnicodeDecodeError:
        raise ValueError("damaged: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"damaged: not JSON ({error.msg} at line {error.lineno})") from None
    except ValueError as error:
        raise ValueError(f"damaged: {error}") from None
    if not isinstance(data, dict) or set(data) != {"checksum", "record"}:
        raise ValueError(_NOT_A_RECORD)
    try:
        record = record_from(data["record"])
        check_content(record, COLUMNS)
    except ValueError as error:
        raise ValueError(f"damaged or of another version: {error}") from None
    # the checksum covers the record as it was written: another version may have written other fields
    if _checksum(_canonical(data["record"])) != data["checksum"]:
        raise ValueError("changed since it was written: the checksum does not fit")
    if cell_key(_canonical(data["record"]["cell"])) not in name.split("."):
        raise ValueError("the file's name is not its cell's")
    return record


def _canonical(data: object) -> str:
    """Return parsed JSON as effbench.common.spec.to_json writes it."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]

"""Reads the file of an offline run of W&B: its records are framed like a log of LevelDB."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

_MAGIC, _FILE_HEADER = b":W&B", 7
_BLOCK, _HEADER = 32768, struct.Struct("<IHB")  # checksum, length, kind
_FULL, _FIRST, _LAST = 1, 2, 4


def frames(content: bytes) -> Iterator[bytes]:
    """Return the records of the file, each a message of protobuf."""
    assert content.startswith(_MAGIC)
    place, parts = _FILE_HEADER, b""
    while place + _HEADER.size <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER.size:  # too few bytes for a header: the rest of the block is empty
            place += left
            continue
        _, length, kind = _HEADER.unpack_from(content, place)
        place += _HEADER.size
        part = content[place : place + length]
        place += length
        parts = part if kind in (_FULL, _FIRST) else parts + part
        if kind in (_FULL, _LAST):
            yield parts


def read(folder: Path) -> dict[str, Any]:
    """Return the run of one folder: id, name, tags, config, summary, history (one row a step), exit code."""
    messages: Any = import_module("wandb.proto.wandb_internal_pb2")
    (path,) = folder.glob("run-*.wandb")
    run: dict[str, Any] = {"summary": {}, "history": [], "axes": {}}
    for frame in frames(path.read_bytes()):
        record = messages.Record()
        record.ParseFromString(frame)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run |= {
                "id": record.run.run_id,
                "project": record.run.project,
                "name": record.run.display_name,
                "host": record.run.host,
                "tags": list(record.run.tags),
                "config": _values(record.run.config.update),
            }
        elif kind == "summary":
            run["summary"] |= _values(record.summary.update)
        elif kind == "history":
            run["history"].append(_values(record.history.item))
        elif kind == "metric":
            run["axes"][record.metric.name] = record.metric.step_metric
        elif kind == "exit":
            run["exit_code"] = record.exit.exit_code
    return run


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

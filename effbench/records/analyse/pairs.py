"""Two times are a pair if folder, host and repeat are the same: they were measured close together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import pandas as pd

from effbench.common.wording import listed

_NAMED = 4
_BETWEEN = "; "

Pair = tuple[str, str, int]  # folder ("" where one was loaded), host ("" in older records), repeat
Samples = Sequence[float]


def by_pair(rows: pd.DataFrame) -> dict[Pair, list[float]]:
    """Return the samples of one configuration's times by folder, host and repeat.

    ``rows`` are of the raw frame. The same repeat of two folders is no pair: they are runs of other hours.
    Samples are sorted, so that the order of the records does not matter.
    """
    samples: dict[Pair, list[float]] = {}
    folders = rows["folder"] if "folder" in rows else [""] * len(rows)
    columns = folders, rows["host"], rows["repeat"], rows["samples_time_s"]
    for folder, host, repeat, own in zip(*columns, strict=True):
        key = str(folder), str(host), int(repeat)
        samples[key] = sorted([*samples.get(key, []), *own])
    return samples


def shared_pairs(ours: Iterable[Pair], theirs: Iterable[Pair]) -> list[Pair]:
    """Return the keys that both have, sorted."""
    return sorted({*ours} & {*theirs})


def shared_repeats(ours: Collection[Pair], theirs: Collection[Pair]) -> int:
    """Return the number of pairs, or the smaller number of repeats if there are none on one host."""
    alone = min(len(ours), len(theirs)) if one_host(ours, theirs) else 0
    return len(shared_pairs(ours, theirs)) or alone


def one_host(*times: Iterable[Pair]) -> bool:
    """True if all these times are of one host: only then can two of them be compared without being pairs."""
    return len({host for pairs in times for _, host, _ in pairs}) < 2


def one_folder(*times: Iterable[Pair]) -> bool:
    """True if all these times are of one folder, and so of one run."""
    return len({folder for pairs in times for folder, _, _ in pairs}) < 2


def joined_hosts(hosts: Iterable[str]) -> str:
    """Return the different hosts as the column ``hosts`` of a summary has them; "" if none is recorded."""
    return _BETWEEN.join(sorted({host for host in hosts if host}))


def on_one_host(hosts: Iterable[object]) -> bool:
    """True if these rows of the column ``hosts`` of a summary name the same host alone, or none."""
    names = {host if isinstance(host, str) else "" for host in hosts}
    return len(names) < 2 and not any(_BETWEEN in name for name in names)


def several_hosts(rows: pd.DataFrame) -> str:
    """Return ``2 hosts (n1, n2)`` if these rows, of the raw frame or a summary, name several; else ""."""
    texts = rows["host" if "host" in rows else "hosts"].dropna()
    names = sorted({name for text in texts for name in str(text).split(_BETWEEN) if name})
    if len(names) < 2:
        return ""
    return f"{len(names)} hosts ({listed(names, _NAMED)})"

"""Show the state of a sweep on a cluster: its open jobs, its records by status, and the failures."""

from __future__ import annotations

from collections.abc import Iterator

from effbench.common.wording import plural
from effbench.show.blocks import Block
from effbench.show.progress import describe
from effbench.sweep.cluster.status import Status

_MOST_ROWS = 40


def blocks(state: Status) -> list[Block]:
    """Return the tables of the state: jobs, failures, and a summary in words."""
    return list(_blocks(state))


def _blocks(state: Status) -> Iterator[Block]:
    if state.bundles:
        shown = state.bundles[:_MOST_ROWS]
        rows = [[b.job, b.state, b.nodes, b.label, f"{b.done} of {b.cells}", b.reason] for b in shown]
        left = len(state.bundles) - len(shown)
        yield Block(
            title="jobs that are not done",
            head=["job", "state", "nodes", "cells", "measured", "reason"],
            rows=rows,
            left=(0, 1, 2, 3, 5),
            notes=[f"{left} more"] if left else (),
        )
    if state.failed:
        yield Block(
            title="failed",
            head=["cell", "status", "host", "reason"],
            rows=[
                [" ".join(describe(r.cell).split()), r.status, str(r.machine.get("host") or ""), r.reason]
                for r in state.failed[:_MOST_ROWS]
            ],
            left=(0, 1, 2, 3),
        )
    counts = ", ".join(f"{count} {name}" for name, count in state.statuses.items()) or "none"
    lost = sum(bundle.state == "LOST" for bundle in state.bundles)
    warnings = [f"ignored {problem}" for problem in state.problems]
    if not state.squeue_answers:
        warnings.append("squeue does not answer: what waits and what runs is not known")
    if lost:
        warnings.append(
            f"{plural(lost, 'job')} ended before all cells were measured: run the same effbench run again "
            "to submit the rest"
        )
    waiting = sum(bundle.state == "PENDING" for bundle in state.bundles)
    running = sum(bundle.state == "RUNNING" for bundle in state.bundles)
    yield Block(
        notes=[
            f"{plural(state.cells, 'cell')} submitted; records: {counts}",
            f"{plural(running, 'job')} running, {plural(waiting, 'job')} waiting",
        ],
        warnings=warnings,
    )

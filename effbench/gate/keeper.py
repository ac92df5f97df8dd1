"""Removes a git worktree when the gate is gone, however it went. Standard library only; run as a script.

``python keeper.py REPOSITORY WORKTREE`` waits for the end of its standard input, which comes when the gate
closes it or is killed. Signals that a terminal sends to its programs do not end it.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys


def main() -> None:
    """Wait, then remove the worktree and what git remembers of it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    repository, worktree = sys.argv[1:3]
    sys.stdin.buffer.read()
    git = ["git", "-C", repository, "worktree"]
    subprocess.run([*git, "remove", "--force", worktree], capture_output=True, check=False)
    shutil.rmtree(worktree, ignore_errors=True)
    subprocess.run([*git, "prune"], capture_output=True, check=False)


if __name__ == "__main__":
    main()

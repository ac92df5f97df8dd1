"""Remove a folder once the gate has ended, in whatever way. Standard library only; run as a script.

``python keeper.py FOLDER`` waits until its standard input ends, which happens when the gate closes it or is
killed. Signals that a terminal sends to its programs do not end it.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from pathlib import Path

_PATIENCE_S = 30.0  # a git that outlived the gate may still write into the folder


def main() -> None:
    """Wait, then remove the folder."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    sys.stdin.buffer.read()
    deadline = time.monotonic() + _PATIENCE_S
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            time.sleep(0.1)


if __name__ == "__main__":
    main()

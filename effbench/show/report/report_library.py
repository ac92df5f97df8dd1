"""The charting library that the page carries: plotly.js, compressed, from the package plotly."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib import metadata

from effbench.common.spec import UsageError

INSTALL = "pip install 'effbench[report]'"
_LEVEL = 9


def require_plotly() -> str:
    """Return the version of the package plotly. Raises UsageError that says how to install it."""
    try:
        return metadata.version("plotly")
    except metadata.PackageNotFoundError:
        raise UsageError(f"a report needs the package plotly: {INSTALL}") from None


def library() -> str:
    """Return plotly.js, compressed with gzip, as base64: 2 MB instead of 4.8 MB; equal for equal versions.

    Raises UsageError without the package plotly.
    """
    require_plotly()
    return _packed()


@cache
def _packed() -> str:
    from plotly.offline import get_plotlyjs

    packed = gzip.compress(get_plotlyjs().encode(), compresslevel=_LEVEL, mtime=0)
    return base64.b64encode(packed).decode("ascii")

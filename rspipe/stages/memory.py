"""Memory that runs out where something is computed: one line with the node and what to lower."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

from rspipe.errors import ClusterError, first_line
from rspipe.networks.modes import out_of_memory


@contextmanager
def memory_for(what: str, *, lower: str) -> Iterator[None]:
    """Name what memory was short for.

    Args:
        what: Is computed.
        lower: The setting that would take less of it.

    Raises:
        ClusterError: Memory was short, of whatever device.
    """
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise ClusterError(
            f"out of memory on node {platform.node()} for {what} ({first_line(error)[:200]}); lower {lower}, or run "
            "fewer workers side by side: --resources.workers"
        ) from error

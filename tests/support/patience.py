"""How long tests wait. The machine may be so busy that a process stands still for half a minute.

So a test waits for what must come, and never for a time. Where all is well no limit is ever reached, and one
that is too long costs nothing.
"""

import time
from collections.abc import Callable

DEAD = 300.0
"""Seconds after which a test gives up waiting."""


def wait(true: Callable[[], object]) -> None:
    """Wait until something is true."""
    ends = time.monotonic() + DEAD
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)

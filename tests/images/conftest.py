import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest


@pytest.fixture
def unprivileged() -> Callable[[], AbstractContextManager[None]]:
    """Makes what it surrounds run as an ordinary user, since root may read and write everything."""
    if not hasattr(os, "setresuid"):
        pytest.skip("needs POSIX permissions")

    @contextmanager
    def as_nobody() -> Iterator[None]:
        if os.getuid() != 0:
            yield
            return
        os.setresuid(65534, 65534, 0)
        try:
            yield
        finally:
            os.setresuid(0, 0, 0)

    return as_nobody

"""Processes that have imported all they need when they start: to import torch anew takes seconds."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext


@contextmanager
def forking_from(*modules: str) -> Iterator[ForkServerContext]:
    """Processes are forked from one that has imported these modules, and done nothing yet.

    Python has one such server for all; it was perhaps started by another test, with other modules. It finds
    what is installed, and not what lies in a folder of tests.
    """
    server, context = forkserver._forkserver, multiprocessing.get_context("forkserver")
    others = server._preload_modules
    server._stop()
    context.set_forkserver_preload([*modules, "pytest"])
    try:
        yield context
    finally:
        server._stop()
        context.set_forkserver_preload(others)

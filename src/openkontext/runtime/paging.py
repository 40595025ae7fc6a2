"""Giving memory back to the system while a graph runs: mapped weights, and activations once they are used.

A weight that is mapped from its file counts as the process's memory from its first use on, although the
system can take it away at any time and read it again. A transformer of 12 billion numbers uses each of them
once a step: without help, its whole file is in memory at the end of the first.
"""

import ctypes
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

_SECONDS = 0.2  # between two rounds: the time of few layers of a large model
_PAGEOUT = 21  # MADV_PAGEOUT of Linux 5.4 and later, which Python's mmap does not name
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's mallopt
_OWN_MAPPING = 4 << 20  # bytes


def map_large_blocks() -> None:
    """Have each block of 4 MiB or more leave memory as soon as it is freed, from now on (Linux with glibc).

    glibc maps a large block by itself, but raises what it calls large, up to 32 MiB, to the largest that was
    freed. The activations of a large model are just below. They would lie in the heap between smaller blocks
    that live longer, and the 12B's edit of 512x512 would take 5 GiB more than it uses.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _OWN_MAPPING)


@contextmanager
def released(files: Collection[Path]) -> Iterator[None]:
    """Give the pages of mapped files back, again and again, until the block ends.

    What is used again is read again. On anything but Linux, or where the files may not be written to, nothing
    happens. Pages are asked to be paged out, not dropped: should a mapping just have made room for other
    memory, nothing of that is lost.

    Args:
        files: the mapped files; none starts nothing.
    """
    if not files or sys.platform != "linux":
        yield
        return
    names = {str(file.resolve()) for file in files}
    done = threading.Event()
    thread = threading.Thread(target=_release_until, args=(names, done), name="paging", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _release_until(names: Collection[str], done: threading.Event) -> None:
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    while True:
        last = done.wait(_SECONDS)
        for start, stop in _mappings(names):
            libc.madvise(start, stop - start, _PAGEOUT)
        if last:
            return


def _mappings(names: Collection[str]) -> Iterator[tuple[int, int]]:
    """First address and the one after the last of each mapping of some files (`man 5 proc`, maps)."""
    with Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        lines = maps.readlines()
    for line in lines:
        fields = line.rstrip("\n").split(maxsplit=5)
        if len(fields) == 6 and fields[5] in names:
            start, _, stop = fields[0].partition("-")
            yield int(start, 16), int(stop, 16)

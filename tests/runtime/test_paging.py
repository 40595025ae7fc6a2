"""What a large model's activations leave in the heap: glibc's own account of it, in a process of its own."""

import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from openkontext.runtime import paging

_BLOCKS = """
import ctypes, sys
from openkontext.runtime.paging import map_large_blocks

class Account(ctypes.Structure):  # `struct mallinfo2` of man 3 mallinfo
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    )]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Account
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
if sys.argv[1] == "large":
    map_large_blocks()
before = libc.mallinfo2().hblkhd
libc.free(libc.malloc(30 << 20))
libc.malloc(int(sys.argv[2]))
print(libc.mallinfo2().hblkhd - before >= int(sys.argv[2]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the heap of glibc")
@pytest.mark.parametrize(
    ("setting", "size", "mapped"),
    [
        ("none", 29 << 20, False),
        ("large", 29 << 20, True),
        ("large", 5 << 20, True),
        ("large", 1 << 20, False),
    ],
)
def test_a_block_of_a_large_model_is_a_mapping_of_its_own_after_one_was_freed(
    setting: str, size: int, mapped: bool
) -> None:
    command = [sys.executable, "-c", _BLOCKS, setting, str(size)]
    assert subprocess.check_output(command, text=True).strip() == str(mapped)


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_keep_what_is_mapped(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "sys", SimpleNamespace(platform=system))
    monkeypatch.setattr(paging, "ctypes", None)  # what it is asked for is not there
    before = threading.active_count()
    paging.map_large_blocks()
    with paging.released([Path(__file__)]):
        assert threading.active_count() == before

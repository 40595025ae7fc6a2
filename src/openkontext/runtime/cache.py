"""Rewritten graphs kept on disk: opening a graph again need not rewrite it again.

An entry is one file: the SHA-256 of what follows, then the graph. Weights are not in it, they stay in the
data files of the repository, or lie in a folder beside (`int8_weights`). Its name says what was rewritten, by
which rewriter and for what. Entries are written beside and renamed, so that processes can share the folder;
one that is damaged counts as not there.
"""

import hashlib
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from openkontext.activity import stage
from openkontext.files import PARTS, write_whole
from openkontext.onnx_runtime import onnxruntime
from openkontext.places import cache_folder
from openkontext.version import __version__

CACHE_BYTES = 1 << 30
"""Bytes that all entries together may take; those not used for longest go first."""

WEIGHTS_BYTES = 32 << 30
"""The same of weights of 8 bits; those of the 12B model take 12 GB."""

_SUFFIX = ".onnx"
WEIGHTS_SUFFIX = ".int8"
"""Ending of files with weights of 8 bits (`int8_weights`)."""

COMPILING = ("openvino", "tensorrt", "nvtensorrtrtx")
"""Providers that keep files in a folder of their name beside ours; ONNX Runtime removes none of them."""

_HASH_BYTES = hashlib.sha256().digest_size
_ABANDONED_SECONDS = 3600
"""Age from which a half-written file is one that a process left when it died."""


def folder() -> Path:
    """Where the entries lie."""
    return cache_folder() / "graphs"


def weights_folder() -> Path:
    """Where weights of 8 bits lie."""
    return cache_folder() / "weights"


def entry(content: bytes, provider: str, arithmetic: str) -> Path:
    """File of a graph's rewritten form.

    Args:
        content: of the `model.onnx` that is rewritten; its weights do not matter.
        provider: that it is rewritten for.
        arithmetic: that it is rewritten to.
    """
    parts = (hashlib.sha256(content).hexdigest(), _rewriter(), provider, arithmetic, platform.machine())
    return folder() / (hashlib.sha256("\n".join(parts).encode()).hexdigest() + _SUFFIX)


def read(path: Path) -> ModelProto | None:
    """An entry, or None where there is none, or none that is whole."""
    try:
        content = memoryview(path.read_bytes())
    except OSError:
        return None
    graph = content[_HASH_BYTES:]
    if hashlib.sha256(graph).digest() != content[:_HASH_BYTES]:
        _remove(path)
        return None
    with suppress(OSError):
        os.utime(path)  # it was used now
    with suppress(DecodeError):
        return ModelProto.FromString(graph)
    return None


def write(path: Path, model: ModelProto) -> None:
    """Keep an entry; a disk that is full or cannot be written to costs only the time to rewrite again."""
    graph = model.SerializeToString()
    content = hashlib.sha256(graph).digest() + graph
    if len(content) > CACHE_BYTES:
        return
    with suppress(OSError):
        write_whole(path, content)
    _evict(path.parent)


def clear() -> tuple[int, int]:
    """Remove all entries.

    Returns:
        How many there were, and their bytes.
    """
    found = [(path, size) for path, _, size in _entries(folder())]
    for path in folder().glob(".*"):
        _remove(path)
    return len(found), sum(size for path, size in found if _remove(path))


def usage() -> tuple[int, int]:
    """How many entries there are, and their bytes."""
    sizes = [size for _, _, size in _entries(folder())]
    return len(sizes), sum(sizes)


def weights(clear: bool = False) -> tuple[int, int]:
    """What is kept of weights of 8 bits.

    Args:
        clear: remove it.

    Returns:
        How many files there are, or were removed, and their bytes.
    """
    found = [(path, size) for path, _, size in _entries(weights_folder(), WEIGHTS_SUFFIX)]
    if clear:
        if weights_folder().is_dir():
            with suppress(OSError), writing_weights(wait=False):
                pass  # what died half-written is gone
        found = [(path, size) for path, size in found if _remove(path)]
    return len(found), sum(size for _, size in found)


@contextmanager
def writing_weights(wait: bool = True) -> Iterator[None]:
    """The folder of weights of 8 bits for this process alone to write to.

    What one left half-written that died goes at once: it may be what fills the disk.

    Args:
        wait: for another that writes there.

    Raises:
        OSError: the folder cannot be written to, or another writes there.
    """
    from filelock import FileLock, Timeout  # late: hardly any edit makes weights

    weights_folder().mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache_folder() / ".weights.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            raise
        stage("waiting for another process, which makes weights in 8 bits")
        lock.acquire()
    try:
        for part in weights_folder().glob(PARTS):
            _remove(part)
        yield
    finally:
        lock.release()


def evict_weights(keep: Path) -> None:
    """Remove the weights of 8 bits not used for longest, down to `WEIGHTS_BYTES`.

    Args:
        keep: a file that stays.
    """
    _evict(keep.parent, WEIGHTS_SUFFIX, WEIGHTS_BYTES, keep)


def compiled(clear: bool = False) -> tuple[int, int]:
    """What providers that compile keep beside our entries, each in a folder of its name.

    Args:
        clear: remove it.

    Returns:
        How many files there are, or were removed, and their bytes.
    """
    found = [
        (path, path.stat().st_size)
        for name in COMPILING
        for path in (cache_folder() / name).glob("*")
        if path.is_file()
    ]
    found = [(path, size) for path, size in found if not clear or _remove(path)]
    return len(found), sum(size for _, size in found)


def _evict(where: Path, suffix: str = _SUFFIX, limit: int | None = None, keep: Path | None = None) -> None:
    """Remove what died half-written, and what was not used for longest, down to `limit` or `CACHE_BYTES`."""
    limit = CACHE_BYTES if limit is None else limit
    for path in where.glob(".*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                _remove(path)
    entries = sorted(_entries(where, suffix), key=lambda found: found[1])
    excess = sum(size for _, _, size in entries) - limit
    for path, _, size in entries:
        if excess <= 0:
            break
        if path == keep:
            continue
        _remove(path)
        excess -= size


def _entries(where: Path, suffix: str = _SUFFIX) -> Iterator[tuple[Path, float, int]]:
    """Path, time of last use and bytes of each entry; another process may remove one at any time."""
    for path in where.glob(f"[!.]*{suffix}"):
        with suppress(OSError):
            status = path.stat()
            yield path, status.st_mtime, status.st_size


def _remove(path: Path) -> bool:
    with suppress(OSError):
        path.unlink()
        return True
    return False


@lru_cache(maxsize=1)
def _rewriter() -> str:
    """Version of all that decides how a graph is rewritten: our passes by their source, and the libraries."""
    here = Path(__file__).parent
    sources = sorted([*here.glob("passes/*.py"), *here.glob("*.py")])
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return " ".join((__version__, digest, onnx.__version__, version("onnx-ir"), onnxruntime.__version__))

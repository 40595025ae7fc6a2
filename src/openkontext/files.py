"""Files that appear under their names whole or not at all, and lines that are there once they are written.

Content is first written beside its place, under a name of chance that begins with a dot, flushed to the disk,
and then renamed: a kill or a full disk leaves what was there before, and two processes do not meet.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from openkontext.errors import InputError

CHECKPOINT_SUFFIXES = (".safetensors", ".sft", ".gguf")
"""Endings of the files that hold a checkpoint."""

_HEADS = (  # how a file begins -> what it is, where a file of weights was meant
    (
        b"version https://git-lfs",
        "is a pointer of Git LFS, not the file: run `git lfs pull` where it is from",
    ),
    (b"<", "is a web page, not the file: log in where it is from, and fetch it again"),
    (b"GGUF", "is a GGUF file: give it the ending .gguf"),
    (
        b"PK\x03\x04",
        "is a pickle of torch, which can run any program: convert it to .safetensors where it is from",
    ),
    (b"\x80", "is a pickle, which can run any program: convert it to .safetensors where it is from"),
)

PARTS = ".openkontext-*.part"
"""Names of files that are being written. Those of a killed process stay."""

_PRIVATE, _SHARED = 0o600, 0o666
_NO_ROOM = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quotas
_NO_PLACE = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
}


def mistaken(path: Path) -> str | None:
    """What a file is that cannot be read as the weights its name promises; None where that is unclear."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return None
    if not head:
        return "cannot be read: it is empty; fetch it again"
    if head[8:9] == b"{":  # safetensors: the length of its header, which may look like anything, then that
        return "is a safetensors file: give it the ending .safetensors" if path.suffix == ".gguf" else None
    if path.suffix == ".gguf" and head.startswith(b"GGUF"):
        return None
    head = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((what for begins, what in _HEADS if head.startswith(begins)), None)


def not_written(error: BaseException | None) -> str | None:
    """What to say where a file could not be written for its place or for the disk; None of other errors.

    torch reports such a file in words of its own: the error of the disk is what led to them.
    """
    notes: list[str] = []
    while error is not None:
        notes += getattr(error, "__notes__", [])  # of `beside`
        number = error.errno if isinstance(error, OSError) else None
        if number in _NO_ROOM or (notes and number in _NO_PLACE):
            assert isinstance(error, OSError)
            where = next(iter(notes), error.filename or "a file")
            advice = "make room and run it again" if number in _NO_ROOM else "name another place"
            return f"{where}: cannot be written: {error.strerror}; {advice}"
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path in the folder of a file; what is written there takes the file's place when the block ends.

    Its folder is made if it is missing. After an error nothing of it is left.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f".openkontext-{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except Exception as error:
        error.add_note(str(path))
        raise
    finally:
        with suppress(OSError):  # after a success there is none, and the error that led here says more
            part.unlink()


@contextmanager
def whole(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A binary file that takes its place when the block ends, and not at all after an error.

    Args:
        path: of the file.
        private: whether only its owner may read it.

    Raises:
        OSError: it cannot be written.
    """
    with beside(path) as part, _created(part, private) as file:
        yield file


@contextmanager
def alone(folder: Path, work: str, place: Path | None = None) -> Iterator[None]:
    """Keep other processes out of a folder, on this machine and on those that share its files.

    Args:
        folder: made if it is missing; its file `lock` stays.
        work: that is done there, for messages, such as "curation".
        place: what a message calls the folder, where that is another.

    Raises:
        InputError: another process is at work in it.
        OSError: it cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "lock", blocking=False, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{place or folder}: another {work} is at work in it; wait for it, or name another folder"
        ) from None
    except OSError as error:
        error.add_note(str(folder))
        raise
    try:
        yield
    finally:
        lock.release()


def write_whole(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file; see `whole`."""
    with whole(path, private=private) as file:
        file.write(content)


def write_once(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file unless it is there or another process is first, whose content then stays.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".openkontext-{secrets.token_hex(8)}.part")
    try:
        with _created(part, private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(part, path)
    finally:
        part.unlink(missing_ok=True)


def append_line(path: Path, line: str, *, private: bool = False) -> None:
    """Add a line to a file; when this returns, it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with os.fdopen(os.open(path, flags, _PRIVATE if private else _SHARED), "ab") as file:
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def _created(path: Path, private: bool) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, _PRIVATE if private else _SHARED), "wb")

"""Pictures that strangers hand in are first decoded in a process of their own, with limits.

A bomb, a crash or a hang of a decoder ends that process and nothing else. What passes is stored as it came:
the filters compare the exact bytes with lists of known material, and provenance reads the manifest in them.
"""

import multiprocessing
import multiprocessing.forkserver
import resource
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

import pi_heif.as_plugin  # noqa: F401 (loaded with the module, once, and not in each child)
from PIL import Image

from openkontext import images
from openkontext.errors import InputError
from openkontext.service.settings import Settings

_context = multiprocessing.get_context("forkserver")  # its children share nothing with this process
_context.set_forkserver_preload(["openkontext.service.http.decoding"])
Image.init()  # with the module, once, and not in each child: that takes longer than a small picture

_PATIENCE = 60.0
"""Seconds that a decoding process is waited for at least: CPU time is bounded in it, and it may get none."""

MaskKind = Literal["any", "hole"] | None
"""A mask of any kind, or one that is read by its transparent part; None for a picture."""


@dataclass(frozen=True)
class Decoded:
    """What is known of a picture after it was decoded."""

    width: int
    height: int
    content: bytes
    """The bytes to store."""
    has_hole: bool = False
    """Of a picture: whether it is transparent in a part, and not everywhere."""


def make_ready() -> None:
    """Start the process that decoding ones are forked from; else the first picture waits for its imports.

    It ends with this process.
    """
    multiprocessing.forkserver.ensure_running()


def check_picture(content: bytes, settings: Settings, name: str, *, mask: MaskKind = None) -> Decoded:
    """Decode a picture in a process of its own and say what it is.

    Args:
        content: the file as it was handed in.
        settings: the limits.
        name: what to call it in a message.
        mask: whether it is to be a mask, which must mark something, or one with a transparent part.

    Raises:
        InputError: it is too large, no picture, or decoding it takes too much time or memory.
    """
    if len(content) > settings.max_upload_bytes:
        limit = settings.max_upload_bytes / 2**20
        raise InputError(f"{name}: has {len(content) / 2**20:.1f} MiB; at most {limit:g} MiB can be read")
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_decode, args=(theirs, settings, name, mask), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.send_bytes(content)
        answer = ours.recv() if ours.poll(max(_PATIENCE, settings.decode_seconds * 6)) else None
    except (EOFError, OSError):
        answer = None
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()
    if answer is None:
        raise InputError(f"{name}: decoding it took too much time or memory; hand in another file")
    if isinstance(answer, str):
        raise InputError(answer)
    width, height, has_hole = answer
    return Decoded(width, height, content, has_hole)


def _decode(connection: Connection, settings: Settings, name: str, mask: MaskKind) -> None:
    answer: Any
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (settings.decode_seconds, settings.decode_seconds))
        resource.setrlimit(resource.RLIMIT_AS, (settings.decode_bytes, settings.decode_bytes))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        content = connection.recv_bytes()
        answer = _look(content, settings, name, mask)
    except InputError as error:
        said = str(error)
        answer = f"{name}: {said}" if said.startswith("the mask") else said.replace("the image", name, 1)
    except MemoryError:
        return  # the parent says what that means
    connection.send(answer)


def _look(content: bytes, settings: Settings, name: str, mask: MaskKind) -> tuple[int, int, bool]:
    try:
        picture = images.open_picture(content, name)  # reads the head alone
    except InputError as error:
        if not isinstance(error.__cause__, Image.DecompressionBombError):
            raise
        raise InputError(f"{name}: is too large; at most {settings.max_pixels} pixels can be read") from error
    width, height = picture.size
    if width * height > settings.max_pixels:
        raise InputError(f"{name}: has {width}x{height} pixels; at most {settings.max_pixels} can be read")
    width, height = images.load(content).size
    if mask == "hole" and not images.has_hole(content):
        raise InputError(f"{name}: has no transparent part; make transparent what may change")
    if mask:
        images.load_mask(content, (width, height))
    has_hole = not mask and picture.has_transparency_data and images.marks_by_alpha(content)
    return width, height, has_hole

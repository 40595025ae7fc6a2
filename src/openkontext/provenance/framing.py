"""The bytes of a record that C2PA's signature leaves out, checked for what they must be.

A signature covers the claim, the claim the assertions, and the assertions the picture. What is left are the
boxes around these: their lengths and names, the zeros that keep room for a time-stamp, and how the file holds
them. They say nothing, and readers pass over a change there; but they have only one right form, so that a
change can be seen. Formats: JUMBF (ISO/IEC 19566-5), COSE (RFC 9052), and what appendix A of C2PA 2.4 says of
each kind of file.

This holds for the records that this package signs. Those of other programs, which may lie beside them as
records of earlier pictures, have other right forms (thumbnails, older claims); the library judges these.
"""

import struct
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_UUID_TAIL = bytes.fromhex("00110010800000aa00389b71")
"""How the type of every box of C2PA ends; four letters stand before it."""
_PLAIN, _SALTED = 0x03, 0x13
"""Toggles of a description: it may be asked for and has a label; it has a salt besides."""
_SUPERBOXES = {b"c2as": b"c2pa.assertions", b"c2cl": b"c2pa.claim.v2", b"c2cs": b"c2pa.signature"}
"""Label of the boxes in a manifest, by type."""
_SALT = 24
"""Bytes of the box with a salt of 16."""


class FramingError(Exception):
    """The form is not the one that signing gives."""


def check_framing(
    data: bytes, kind: str, exclusions: Sequence[tuple[int, int]], own: Collection[str]
) -> None:
    """Check that what is not signed is as signing leaves it.

    Args:
        data: a file that this package signed.
        kind: its format: "PNG", "JPEG", "WEBP" or "TIFF".
        exclusions: start and length of what its data hash leaves out, as the signed assertion tells.
        own: labels of the manifests in it that this package signed.

    Raises:
        FramingError: something was changed there.
    """
    try:
        start, length = exclusions[-1]
        frame = data[start : start + length]
        _check_store(_UNFRAMED[kind](frame), own)
        if kind == "TIFF":
            _check_tiff_entry(data, exclusions, length)
    except (struct.error, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FramingError("a box of the record is cut short") from error


def _require(right: bool, what: str) -> None:
    if not right:
        raise FramingError(what)


def _of_png(frame: bytes) -> bytes:
    length, name = struct.unpack_from(">I4s", frame)
    body, (checksum,) = frame[8:-4], struct.unpack(">I", frame[-4:])
    _require(name == b"caBX" and length == len(body), "the PNG chunk has another length")
    _require(zlib.crc32(frame[4:-4]) == checksum, "the PNG chunk's checksum is another")
    return body


def _of_jpeg(frame: bytes) -> bytes:
    """The store out of its APP11 segments (ISO/IEC 18477-3): all but the first repeat the box's head."""
    body, at, number, head = b"", 0, 0, frame[12:20]
    while at < len(frame):
        number += 1
        marker, length, identifier, instance, order = struct.unpack_from(">HH2sHI", frame, at)
        right = (0xFFEB, b"JP", 0x0211, number)
        _require((marker, identifier, instance, order) == right, "a JPEG segment has another head")
        payload = frame[at + 12 : at + 2 + length]
        _require(payload[:8] == head and len(payload) == length - 10, "a JPEG segment has another length")
        body += payload if number == 1 else payload[8:]
        at += 2 + length
    return body


def _of_webp(frame: bytes) -> bytes:
    name, length = struct.unpack_from("<4sI", frame)
    _require(name == b"C2PA" and length == len(frame) - 8, "the WebP chunk has another length")
    return frame[8:]


_UNFRAMED: dict[str, Callable[[bytes], bytes]] = {
    "PNG": _of_png,
    "JPEG": _of_jpeg,
    "WEBP": _of_webp,
    "TIFF": bytes,
}


def _check_tiff_entry(data: bytes, exclusions: Sequence[tuple[int, int]], length: int) -> None:
    """The directory's entry gives the length of the store; only that field of it is not signed."""
    at, size = exclusions[0]
    order = "<" if data[:2] == b"II" else ">"
    _require(
        len(exclusions) == 2 and size == 4 and struct.unpack_from(order + "I", data, at)[0] == length,
        "the TIFF entry has another length",
    )


@dataclass(frozen=True)
class _Box:
    kind: bytes
    content: bytes


def _boxes(data: bytes) -> Iterator[_Box]:
    at = 0
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        _require(8 <= length <= len(data) - at, "a box has another length")
        yield _Box(kind, data[at + 8 : at + length])
        at += length


def _superbox(box: _Box) -> tuple[bytes, bytes, list[_Box]]:
    """Type and label of a superbox, and the boxes in it."""
    _require(box.kind == b"jumb", "a box has another name")
    inner = list(_boxes(box.content))
    description = inner[0].content
    kind, tail, toggles = description[:4], description[4:16], description[16]
    label, end, rest = description[17:].partition(b"\0")
    _require((inner[0].kind, tail, end) == (b"jumd", _UUID_TAIL, b"\0"), "a box is described otherwise")
    salted = len(rest) == _SALT and rest[:8] == struct.pack(">I4s", _SALT, b"c2sh")
    _require(salted or not rest, "a box is described otherwise")
    _require(toggles == (_SALTED if rest else _PLAIN), "a box is described otherwise")
    return kind, label, inner[1:]


def _check_store(store: bytes, own: Collection[str]) -> None:
    """Check the box of a manifest store, and the boxes of those manifests in it that are our own."""
    outer = list(_boxes(store))
    kind, label, manifests = _superbox(outer[0])
    _require((len(outer), kind, label) == (1, b"c2pa", b"c2pa"), "the record's outer box is another")
    ours = [manifest for manifest in manifests if _label(manifest) in own]
    _require({_label(manifest) for manifest in ours} == set(own), "a manifest's box is another")
    for manifest in ours:
        _check_manifest(manifest)


def _label(manifest: _Box) -> str:
    """Label of anybody's manifest, whatever else its description holds."""
    description = next(_boxes(manifest.content)).content
    return description[17:].partition(b"\0")[0].decode(errors="replace")


def _check_manifest(manifest: _Box) -> None:
    """Check the boxes of one of our manifests, and the room left in its signature."""
    kind, _, parts = _superbox(manifest)
    _require(kind == b"c2ma", "a manifest's box is another")
    for part in parts:
        kind, label, content = _superbox(part)
        if kind in _SUPERBOXES:
            _require(label == _SUPERBOXES[kind], "a box has another label")
        if kind == b"c2as":
            for assertion in content:
                _superbox(assertion)
        if kind == b"c2cs":
            _check_padding(content[0].content)


_HEADERS = {"pad", "pad2", "sigTst", "sigTst2", "rVals"}
"""What may stand in a signature's open header; all but the padding is signed by itself."""


def _check_padding(signature: bytes) -> None:
    """The header of a COSE signature that is not signed: the room left for a time-stamp must be zeros."""
    (tag, parts), end = _cbor(signature, 0)
    _require(tag == 18 and end == len(signature), "the signature's box is another")
    header = parts[1]
    _require(set(header) <= _HEADERS, "the signature's open header holds something else")
    padding = bytes(header.get("pad", b"")) + bytes(header.get("pad2", b""))
    _require(not any(padding), "the room beside the signature is not empty")


def _cbor(data: bytes, at: int) -> tuple[Any, int]:
    """Read one item of CBOR (RFC 8949) as C2PA writes it: no floats and nothing of unknown length."""
    kind, short = divmod(data[at], 32)
    at += 1
    if short < 24:
        size = short
    else:
        width = {24: 1, 25: 2, 26: 4, 27: 8}.get(short, 0)
        _require(0 < width <= len(data) - at, "the signature's box is another")
        size, at = int.from_bytes(data[at : at + width], "big"), at + width
    if kind in (0, 1):
        return (size if kind == 0 else -1 - size), at
    if kind in (2, 3):
        _require(size <= len(data) - at, "the signature's box is another")
        text = data[at : at + size]
        return (text if kind == 2 else text.decode(errors="replace")), at + size
    if kind in (4, 5):
        _require(size <= len(data) - at, "the signature's box is another")
        items = []
        for _ in range(size * (kind - 3)):
            item, at = _cbor(data, at)
            items.append(item)
        return (items if kind == 4 else _mapping(items)), at
    if kind == 6:
        item, at = _cbor(data, at)
        return (size, item), at
    return None, at


def _mapping(items: list[Any]) -> dict[Any, Any]:
    _require(all(isinstance(key, (int, str)) for key in items[::2]), "the signature's box is another")
    return dict(zip(items[::2], items[1::2], strict=True))

"""Sign a picture's file: its bytes in, the same picture with its record inside out."""

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

import c2pa

from openkontext.errors import InputError
from openkontext.provenance.record import MEDIA_TYPES, Ingredient, Record, label
from openkontext.provenance.record_trial import can_be_read
from openkontext.provenance.signer import Signer, default_signer, trust_anchors

SETTINGS = {
    "version": 1,
    # Nothing that a picture says makes this machine ask another one.
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": True},
    # A small copy of the input would tell what was cut out of it.
    "builder": {"thumbnail": {"enabled": False}},
}
"""Of c2pa's library, but for the anchors."""

_ALGORITHMS = {
    "es256": c2pa.C2paSigningAlg.ES256,
    "es384": c2pa.C2paSigningAlg.ES384,
    "es512": c2pa.C2paSigningAlg.ES512,
    "ps256": c2pa.C2paSigningAlg.PS256,
    "ps384": c2pa.C2paSigningAlg.PS384,
    "ps512": c2pa.C2paSigningAlg.PS512,
    "ed25519": c2pa.C2paSigningAlg.ED25519,
}

UNREADABLE = "its own record was damaged beyond reading and is left out"
"""What is said of such an ingredient."""

Result = TypeVar("Result")


def uninterrupted(work: Callable[[], Result]) -> Result:
    """Do work of the native library in a thread of its own.

    It reads and writes through callbacks, and a Ctrl-C that falls into one of these is lost; it can fall only
    into the main thread, which waits here. Whoever interrupts, the work is at its end before it shows.

    Args:
        work: what to do.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def context() -> c2pa.Context:
    """c2pa's settings, with the anchors that are trusted now."""
    return _context(trust_anchors())


@lru_cache(maxsize=4)
def _context(anchors: str) -> c2pa.Context:
    settings: dict[str, Any] = dict(SETTINGS)
    if anchors:
        settings["trust"] = {"user_anchors": anchors}
    return c2pa.Context.from_dict(settings)


def sign(data: bytes, kind: str, record: Record, signer: Signer | None = None) -> bytes:
    """Put a signed record into a picture's file.

    The result is read back and checked before it is returned.

    Args:
        data: the file.
        kind: its format as Pillow names it: "PNG", "JPEG", "WEBP" or "TIFF".
        record: what to say.
        signer: what signs; None for `default_signer()`.

    Returns:
        The file with its record.

    Raises:
        InputError: the signer cannot be used or fails; nothing may be written then.
    """
    return uninterrupted(lambda: _sign(data, kind, record, signer or default_signer()))


def _sign(data: bytes, kind: str, record: Record, signer: Signer) -> bytes:
    builder = c2pa.Builder.from_json(json.dumps(record.manifest()), context=context())
    for index, ingredient in enumerate(record.ingredients):
        _add(builder, ingredient, label(index))
    failures: list[Exception] = []

    def callback(data: bytes) -> bytes:
        try:
            return signer.sign(data)
        except Exception as error:  # a callback's; the library would log it and lose it
            failures.append(error)
            return b""

    out = io.BytesIO()
    try:
        native = c2pa.Signer.from_callback(
            callback, _ALGORITHMS[signer.algorithm], signer.certificates, signer.timestamp_url
        )
        builder.sign(native, MEDIA_TYPES[kind], io.BytesIO(data), out)
    except c2pa.C2paError as error:
        cause = failures[0] if failures else error
        detail = " ".join(str(cause).split()) or type(cause).__name__
        raise InputError(f"the picture cannot be signed, so it is not written: {detail}") from cause
    return out.getvalue()


def _add(builder: c2pa.Builder, ingredient: Ingredient, name: str) -> None:
    """Add an ingredient; one whose own record is too damaged to be read is added by its pixels alone."""
    title = "input" if ingredient.relation == "parentOf" else "reference"
    said = {"label": name, "title": title, "relationship": ingredient.relation}
    media_type, data = ingredient.file
    try:
        if not can_be_read(data, media_type, SETTINGS):
            raise c2pa.C2paError("the record ends the library")
        builder.add_ingredient(said, media_type, io.BytesIO(data))
    except c2pa.C2paError:
        said["description"] = UNREADABLE
        media_type, data = ingredient.plain_file
        builder.add_ingredient(said, media_type, io.BytesIO(data))

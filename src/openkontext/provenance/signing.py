"""Sign a picture's file: its bytes in, the same picture with its record inside out."""

import io
import json
import threading
from typing import Any

import c2pa

from openkontext.errors import InputError
from openkontext.provenance.record import MEDIA_TYPES, Ingredient, Record, label
from openkontext.provenance.signer import Signer, default_signer, trust_anchors

_SETTINGS = {
    "version": 1,
    # Nothing that a picture says makes this machine ask another one.
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": True},
    # A small copy of the input would tell what was cut out of it.
    "builder": {"thumbnail": {"enabled": False}},
}

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

_contexts = threading.local()


def context() -> c2pa.Context:
    """c2pa's settings, with the anchors that are trusted now; kept as long as these stay the same."""
    anchors = trust_anchors()
    if getattr(_contexts, "anchors", None) != anchors:
        settings: dict[str, Any] = dict(_SETTINGS)
        if anchors:
            settings["trust"] = {"user_anchors": anchors}
        _contexts.context, _contexts.anchors = c2pa.Context.from_dict(settings), anchors
    return _contexts.context


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
    signer = signer or default_signer()
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
        builder.add_ingredient(said, media_type, io.BytesIO(data))
    except c2pa.C2paError:
        said["description"] = UNREADABLE
        media_type, data = ingredient.plain_file
        builder.add_ingredient(said, media_type, io.BytesIO(data))

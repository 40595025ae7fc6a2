"""Records of another program, which c2pa-python makes with its own options and none of ours."""

import io
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import c2pa
from certificates import KEYS, certify, pem

from openkontext.provenance import Signer, key_signer

MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "GIF": "image/gif",
    "AVIF": "image/avif",
    "HEIF": "image/heic",
}
CAPTURE = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"


@cache
def signer(algorithm: str = "ES256") -> Signer:
    """Somebody else's key, which nobody here trusts."""
    key = KEYS[algorithm]()
    return key_signer(pem(key), b"".join(certify(key)).decode())


def record(
    data: bytes,
    kind: str,
    *,
    algorithm: str = "ES256",
    version: int = 2,
    thumbnail: bool = True,
    assertions: Sequence[dict[str, Any]] = (),
    parent: tuple[str, bytes] | None = None,
    components: Sequence[tuple[str, bytes]] = (),
    intent: Sequence[int] = (),
    settings: dict[str, Any] | None = None,
    redacted: str | None = None,
    remote: str | None = None,
    embed: bool = True,
    timestamp: str | None = None,
    identity: bool = False,
) -> bytes:
    """A picture's file signed by OtherTool, with a thumbnail as c2pa makes one unless told otherwise."""
    done: list[dict[str, Any]] = [{"action": "c2pa.created", "digitalSourceType": CAPTURE}]
    if parent and not intent:
        done = [{"action": "c2pa.opened", "parameters": {"ingredientIds": ["parent"]}}]
    if redacted:
        why = {"reason": "c2pa.PII.present", "parameters": {"redacted": redacted}}
        done.append({"action": "c2pa.redacted", **why})
    label = "c2pa.actions" if version == 1 else "c2pa.actions.v2"
    definition = {
        "claim_generator_info": [{"name": "OtherTool", "version": "3.1"}],
        "claim_version": version,
        "title": "holiday",
        "assertions": [*assertions, *([] if intent else [{"label": label, "data": {"actions": done}}])],
        **({"claim_generator": "OtherTool/3.1"} if version == 1 else {}),
        **({"redactions": [redacted]} if redacted else {}),
    }
    options = {"version": 1, "builder": {"thumbnail": {"enabled": thumbnail}}, **(settings or {})}
    if identity:
        options |= {"signer": _by_settings(), "cawg_x509_signer": _by_settings()}
    context = c2pa.Context.from_dict(options)
    builder = c2pa.Builder.from_json(json.dumps(definition), context=context)
    if intent:
        builder.set_intent(*intent)
    ingredients = [("parentOf", "parent", parent)] if parent else []
    ingredients += [("componentOf", f"part {i}", part) for i, part in enumerate(components)]
    for relationship, name, (its_kind, its_data) in ingredients:
        said = {"label": name, "title": name, "relationship": relationship}
        builder.add_ingredient(said, MEDIA_TYPES[its_kind], io.BytesIO(its_data))
    if remote:
        builder.set_remote_url(remote)
    if not embed:
        builder.set_no_embed()
    out = io.BytesIO()
    if identity:
        builder._has_context_signer = True  # it is among the settings, where c2pa-python does not look
        builder.sign(MEDIA_TYPES[kind], io.BytesIO(data), out)
        return out.getvalue()
    theirs = signer(algorithm)
    native = c2pa.Signer.from_callback(
        theirs.sign, getattr(c2pa.C2paSigningAlg, algorithm), theirs.certificates, timestamp
    )
    builder.sign(native, MEDIA_TYPES[kind], io.BytesIO(data), out)
    return out.getvalue()


def _by_settings() -> dict[str, Any]:
    key = KEYS["ES256"]()
    chain = b"".join(certify(key)).decode()
    return {"local": {"alg": "es256", "sign_cert": chain, "private_key": pem(key).decode()}}


def judged(data: bytes, kind: str) -> str:
    """What c2pa's own reader says of a file: "Valid", "Trusted" or "Invalid"."""
    return str(c2pa.Reader(MEDIA_TYPES[kind], io.BytesIO(data)).get_validation_state())

"""Read a picture's record back: who signed it, what made it, from what, and what was changed since."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import c2pa

from openkontext import images
from openkontext.errors import InputError
from openkontext.provenance.framing import FramingError, check_framing
from openkontext.provenance.record import DIGEST, DISCLOSURE, LORAS, SOFTWARE
from openkontext.provenance.record_trial import can_be_read
from openkontext.provenance.signer import own_serial_numbers
from openkontext.provenance.signing import SETTINGS, context, uninterrupted
from openkontext.provenance.watermark import detect

_UNTRUSTED = "signingCredential.untrusted"
_UNTRUSTED_ANY = ".untrusted"
"""How the code ends of whoever is not known: who signed the record, or, within it, who vouches for a name."""

_REMOTE = "Remote: must fetch remote manifests from url "
"""How c2pa begins to say that a picture only names a place."""

_TAMPERING = {
    "assertion.dataHash.mismatch": "the picture was changed after it was signed",
    "assertion.boxesHash.mismatch": "the picture was changed after it was signed",
    "assertion.bmffHash.mismatch": "the picture was changed after it was signed",
    "assertion.hashedURI.mismatch": "what the record says was changed after it was signed",
    "assertion.missing": "something that the record says was taken out",
    "claimSignature.mismatch": "the record or its signature was changed after it was signed",
    "claimSignature.missing": "the record's signature was taken out",
    "ingredient.manifest.mismatch": "the record of an earlier picture was changed",
    "ingredient.manifest.missing": "the record of an earlier picture was taken out",
    "manifest.inaccessible": "its record lies elsewhere and was not fetched",
    "signingCredential.expired": "the signer's certificate ran out, and no time-stamp says when it signed",
    "signingCredential.revoked": "the signer's certificate was revoked",
    "signingCredential.invalid": "the signer's certificate is not one that may sign records",
}
"""Failures of C2PA in words; others are given as the library says them."""


@dataclass(frozen=True)
class Signature:
    """Who signed a record."""

    name: str
    """Common name of the certificate."""
    organisation: str
    """Who the certificate belongs to."""
    algorithm: str
    serial_number: str
    time: str | None = None
    """When, as a time-stamp authority says; None where none was asked."""


@dataclass(frozen=True)
class Step:
    """One record of the chain that leads to a picture."""

    action: str
    """What was done last: "c2pa.edited", "c2pa.created", and what other programs write."""
    software: str
    """What made the record."""
    signature: Signature
    """Who signed it."""
    time: str | None = None
    """When it was done, by the clock of who did it."""
    model: str | None = None
    """Model, as the record names it."""
    digest: str | None = None
    """Digest of the model's files."""
    source_type: str | None = None
    """IPTC digital source type."""
    prompt: str | None = None
    """The instruction, where it was asked to be told."""
    loras: tuple[str, ...] = ()
    """LoRAs of the model: name of the file, strength and digest."""
    inputs: int = 0
    """Further pictures that went in."""
    unsigned_parent: bool = False
    """Whether it was made from a picture without a record."""
    warnings: tuple[str, ...] = ()
    """What was already wrong with the picture that this one was made from."""


@dataclass(frozen=True)
class Report:
    """What a picture's record says, and whether it can be believed."""

    signed: bool
    """Whether there is a record at all."""
    tampering: tuple[str, ...] = ()
    """What was changed since; empty where the record and the picture are whole."""
    trust: str | None = None
    """Whose word it is: "anchor" (of an authority that this machine's settings trust), "own" (of this
    installation), or "unknown"."""
    chain: tuple[Step, ...] = ()
    """From the first record to this picture's."""
    remote: str | None = None
    """Where the record lies, if the picture only names a place; it is not fetched."""
    watermark: str | None = None
    """What the invisible mark in the pixels says: how the digest of the model begins that made the picture.
    Whoever reads this source can make such a mark; it is a hint, and no proof."""

    @property
    def valid(self) -> bool:
        """Whether there is a record and nothing was changed; says nothing about trust."""
        return self.signed and not self.tampering

    @property
    def signature(self) -> Signature | None:
        """Who signed the picture."""
        return self.chain[-1].signature if self.chain else None

    @property
    def model(self) -> str | None:
        """The model that made it."""
        return self.chain[-1].model if self.chain else None

    @property
    def digest(self) -> str | None:
        """Digest of that model's files."""
        return self.chain[-1].digest if self.chain else None


def verify(source: str | Path | bytes) -> Report:
    """Read and check the record of a picture.

    Args:
        source: the file, or its bytes. What the editor writes, and whatever else c2pa reads.

    Raises:
        InputError: the file cannot be read or is not a picture.
    """
    name = "the picture" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else images.read_bytes(source)
    return replace(_verify(data, name), watermark=_watermark(data))


def _watermark(data: bytes) -> str | None:
    try:
        return detect(images.load(data).pixels)
    except InputError:  # a kind of picture whose record c2pa can read, and whose pixels we cannot
        return None


def _verify(data: bytes, name: str) -> Report:
    if not can_be_read(data, "", SETTINGS):
        return Report(
            signed=True, tampering=("the record cannot be read (it ends the library that reads it)",)
        )
    try:
        store, detail = uninterrupted(lambda: _read(data))
    except c2pa.C2paError.ManifestNotFound:
        return Report(signed=False)
    except c2pa.C2paError as error:
        if str(error).startswith(_REMOTE):
            return Report(signed=False, remote=_plain(str(error).removeprefix(_REMOTE)))
        if images.identify(data) is None:
            raise InputError(f"{name}: is not a picture that can be read") from error
        if isinstance(error, c2pa.C2paError.NotSupported):
            return Report(signed=False)
        return Report(signed=True, tampering=(f"the record cannot be read ({_plain(str(error))})",))
    failures = _failures(store.get("validation_results", {}))
    valid = store.get("validation_state") in ("Valid", "Trusted")
    tampering = [] if valid else [_in_words(each) for each in failures if not _is_trust(each)]
    try:
        chain = tuple(_steps(store))
    except (AttributeError, LookupError, TypeError, ValueError):  # a map became a list, a text a number
        chain = ()
        tampering = tampering or ["what the record says has a form that no record has"]
    if not tampering:
        tampering += _unsigned_changes(data, detail) if valid else ["the record is not valid"]
    return Report(
        signed=True,
        tampering=tuple(dict.fromkeys(tampering)),
        trust=_trust(store, failures, chain),
        chain=chain,
    )


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    with c2pa.Reader("", io.BytesIO(data), context=context()) as reader:
        return json.loads(reader.json()), json.loads(reader.detailed_json())


def _trust(store: dict[str, Any], failures: list[dict[str, Any]], chain: tuple[Step, ...]) -> str | None:
    if not chain or (store.get("validation_state") == "Invalid" and not failures):
        return None
    if any(failure["code"] == _UNTRUSTED for failure in failures):
        return "unknown"
    own = {str(number) for number in own_serial_numbers()}
    return "own" if chain[-1].signature.serial_number in own else "anchor"


def _failures(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Failures of the picture's own record, and those of its ingredients' that came since."""
    found = list(results.get("activeManifest", {}).get("failure", ()))
    for delta in results.get("ingredientDeltas", ()):
        found += [f for f in delta["validationDeltas"].get("failure", ()) if not _is_trust(f)]
    return found


def _is_trust(failure: dict[str, Any]) -> bool:
    """Whether it says that somebody is not known, which is no change."""
    return str(failure["code"]).endswith(_UNTRUSTED_ANY)


def _in_words(failure: dict[str, Any]) -> str:
    code = failure["code"]
    return _TAMPERING.get(code) or f"{_plain(failure.get('explanation') or code)} ({_plain(code)})"


def _unsigned_changes(data: bytes, detail: dict[str, Any]) -> list[str]:
    """Changes that the library passes over, of a picture that this package signed last."""
    own = [label for label, manifest in detail["manifests"].items() if _is_ours(manifest.get("claim") or {})]
    active = detail["active_manifest"]
    if active not in own:
        return []
    try:
        hashed = detail["manifests"][active]["assertion_store"]["c2pa.hash.data"]
        found = [(int(e["start"]), int(e["length"])) for e in hashed["exclusions"]]
        check_framing(data, str(images.identify(data)), found, own)
    except (KeyError, TypeError, ValueError):
        return ["the record is not valid"]
    except FramingError as error:
        return [f"bytes around the record were changed: {error}"]
    return []


def _is_ours(claim: dict[str, Any]) -> bool:
    """Whether this package made the claim, as the claim itself says: the name is signed with it."""
    generator = claim.get("claim_generator_info")  # a list in claims of version 1, which we never made
    return isinstance(generator, dict) and generator.get("name") == SOFTWARE


def _steps(store: dict[str, Any]) -> list[Step]:
    """The records from the first to the picture's own, each the parent of the next."""
    manifests, label = store.get("manifests", {}), store.get("active_manifest")
    steps: list[Step] = []
    seen = set()
    while label in manifests and label not in seen:
        seen.add(label)
        manifest = manifests[label]
        parent = next((i for i in manifest.get("ingredients", ()) if i["relationship"] == "parentOf"), None)
        steps.append(_step(manifest, parent))
        label = parent.get("active_manifest") if parent else None
    return steps[::-1]


def _step(manifest: dict[str, Any], parent: dict[str, Any] | None) -> Step:
    assertions = {a["label"].partition("__")[0]: a.get("data") or {} for a in manifest.get("assertions", ())}
    actions = assertions.get("c2pa.actions.v2") or assertions.get("c2pa.actions") or {}
    last = (actions.get("actions") or [{}])[-1]
    model = _disclosure(manifest, assertions.get(DISCLOSURE, {}))
    identifier = model.get("modelIdentifier") or ""
    warnings = []
    if parent:
        failures = _failures(parent.get("validation_results") or {})
        warnings += [_in_words(f) for f in failures if not _is_trust(f)]
        if parent.get("description"):
            warnings.append(_plain(parent["description"]))
    return Step(
        action=_plain(last.get("action") or "unknown"),
        software=_software(manifest),
        signature=_signature(manifest.get("signature_info") or {}),
        time=_optional(last.get("when")),
        model=_optional(model.get("modelName")),
        digest=_optional(identifier.removeprefix(DIGEST)),
        source_type=_optional(str(last.get("digitalSourceType") or "").rpartition("/")[2]),
        prompt=_optional(last.get("description")),
        loras=tuple(_loras(last.get("parameters"))),
        inputs=sum(i["relationship"] != "parentOf" for i in manifest.get("ingredients", ())),
        unsigned_parent=parent is not None and not parent.get("active_manifest"),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _disclosure(manifest: dict[str, Any], said: Any) -> dict[str, Any]:
    """What a record says of the model; nothing where another program uses the label in a way of its own."""
    usual = isinstance(said, dict) and all(
        isinstance(said.get(key) or "", str) for key in ("modelName", "modelIdentifier")
    )
    ours = _software(manifest).split()[:1] == [SOFTWARE]
    return said if usual or ours else {}


def _loras(parameters: Any) -> Iterator[str]:
    """The LoRAs that an action names, in words; nothing where another program means something else by it."""
    said = parameters.get(LORAS) if isinstance(parameters, dict) else None
    for each in said if isinstance(said, list) else ():
        if isinstance(each, dict):
            digest = str(each.get("identifier") or "").removeprefix(DIGEST)
            yield _plain(f"{each.get('name')} at {each.get('strength')}, {digest}")


def _software(manifest: dict[str, Any]) -> str:
    infos = manifest.get("claim_generator_info") or [{"name": manifest.get("claim_generator") or "unknown"}]
    return _plain(" ".join(str(infos[0].get(key) or "") for key in ("name", "version")).strip())


def _signature(info: dict[str, Any]) -> Signature:
    return Signature(
        name=_plain(info.get("common_name") or "unknown"),
        organisation=_plain(info.get("issuer") or "unknown"),
        algorithm=_plain(info.get("alg") or "unknown").upper(),
        serial_number=_plain(info.get("cert_serial_number") or ""),
        time=_optional(info.get("time")),
    )


def _optional(value: Any) -> str | None:
    return _plain(str(value)) if value else None


def _plain(text: Any) -> str:
    """Text of a stranger's file as one line that no terminal takes for commands."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:500]

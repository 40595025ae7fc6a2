"""What signs: a key in a file, or a callback to where the key is kept (a KMS or an HSM).

The signer is found in this order: the one that was given (`use_signer`, or an argument); the one that
$OPENKONTEXT_SIGNER names as MODULE:FUNCTION, a function that returns a `Signer`; the PEM files that
$OPENKONTEXT_SIGNING_CERTIFICATES and $OPENKONTEXT_SIGNING_KEY name; this installation's own.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from openkontext.errors import InputError
from openkontext.provenance.identity import identity_file, own_identity

SIGNER, CERTIFICATES, KEY, TIMESTAMP, ANCHORS = (
    "OPENKONTEXT_SIGNER",
    "OPENKONTEXT_SIGNING_CERTIFICATES",
    "OPENKONTEXT_SIGNING_KEY",
    "OPENKONTEXT_TIMESTAMP_URL",
    "OPENKONTEXT_TRUST_ANCHORS",
)
"""Names of the settings in the environment."""

ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")
"""Signature algorithms of C2PA."""

_CURVES: dict[str, tuple[str, hashes.HashAlgorithm]] = {
    "secp256r1": ("es256", hashes.SHA256()),
    "secp384r1": ("es384", hashes.SHA384()),
    "secp521r1": ("es512", hashes.SHA512()),
}


@dataclass(frozen=True, eq=False)
class Signer:
    """Something that signs records. Making one checks what can be checked without signing."""

    sign: Callable[[bytes], bytes]
    """Signs bytes that are not hashed yet; ECDSA signatures may be DER or the two numbers side by side."""
    certificates: str
    """Chain as PEM: the signing certificate first, then who issued it, and so on."""
    algorithm: str = "es256"
    """One of `ALGORITHMS`."""
    timestamp_url: str | None = None
    """Address of a time-stamp authority (RFC 3161), whose word outlives the certificate; None for none."""

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise InputError(f"signing algorithm {self.algorithm!r} is unknown; use {', '.join(ALGORITHMS)}")
        if self.timestamp_url and not self.timestamp_url.startswith(("http://", "https://")):
            raise InputError(f"{TIMESTAMP}: {self.timestamp_url!r} is no http or https address")
        _read_certificates(self.certificates, "the signer's certificates")

    @property
    def chain(self) -> list[x509.Certificate]:
        """The certificates, the signing one first."""
        return _read_certificates(self.certificates, "the signer's certificates")


_given: Signer | None = None


def use_signer(signer: Signer | None) -> None:
    """Sign with this from now on in this process; None goes back to what the settings say."""
    global _given
    _given = signer


def default_signer() -> Signer:
    """What signs where nothing else is said; this installation's key is made on first use.

    Raises:
        InputError: a setting names something that cannot be used.
    """
    if _given is not None:
        return _given
    timestamp = os.environ.get(TIMESTAMP) or None
    if named := os.environ.get(SIGNER):
        return _imported(named)
    certificates, key = os.environ.get(CERTIFICATES), os.environ.get(KEY)
    if bool(certificates) != bool(key):
        raise InputError(f"signing needs both {CERTIFICATES} and {KEY}; set both or neither")
    if certificates and key:
        signer = _from_files(certificates, key)
    else:
        signer = _from_pem(own_identity(), str(identity_file()))
    return replace(signer, timestamp_url=timestamp)


def key_signer(private_key: bytes, certificates: str, name: str = "the signing key") -> Signer:
    """A signer from a PEM key without a password, and the PEM chain that certifies it.

    Raises:
        InputError: they cannot be read, do not belong together, or the key is of a kind that C2PA has not.
    """
    try:
        key = load_pem_private_key(private_key, None)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: is no PEM private key without a password") from error
    chain = _read_certificates(certificates, name)
    if chain[0].public_key() != key.public_key():
        raise InputError(f"{name}: the first certificate is not that of the private key")
    certificates = _as_pem(chain)  # alone: the key may stand in the same text
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        algorithm, digest = _CURVES[key.curve.name]
        return Signer(lambda data: key.sign(data, ec.ECDSA(digest)), certificates, algorithm)
    if isinstance(key, rsa.RSAPrivateKey):
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
        return Signer(lambda data: key.sign(data, pss, hashes.SHA256()), certificates, "ps256")
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return Signer(key.sign, certificates, "ed25519")
    raise InputError(f"{name}: C2PA signs with P-256, P-384, P-521, Ed25519 or RSA keys")


def trust_anchors() -> str:
    """PEM certificates whose word this machine takes: those of the setting, and this installation's own.

    Raises:
        InputError: the file that the setting names cannot be read or holds no certificate.
    """
    anchors = []
    if named := os.environ.get(ANCHORS):
        text = _read(named, ANCHORS).decode(errors="replace")
        anchors += _read_certificates(text, named)
    if (path := identity_file()).exists():
        anchors += _read_certificates(own_identity().decode(errors="replace"), str(path))[-1:]
    return _as_pem(anchors)


def own_serial_numbers() -> frozenset[int]:
    """Serial numbers of the certificates that this installation signs with, as far as they are set or made.

    Raises:
        InputError: they cannot be read.
    """
    texts = []
    if named := os.environ.get(CERTIFICATES):
        texts.append((_read(named, CERTIFICATES).decode(errors="replace"), named))
    if (path := identity_file()).exists():
        texts.append((own_identity().decode(errors="replace"), str(path)))
    if _given is not None:
        texts.append((_given.certificates, "the signer's certificates"))
    return frozenset(_read_certificates(*text)[0].serial_number for text in texts)


def _from_files(certificates: str, key: str) -> Signer:
    return key_signer(_read(key, KEY), _read(certificates, CERTIFICATES).decode(errors="replace"), key)


@lru_cache(maxsize=4)
def _from_pem(content: bytes, name: str) -> Signer:
    """A signer from one file that holds both the key and its chain."""
    return key_signer(content, content.decode(errors="replace"), name)


def _imported(named: str) -> Signer:
    module, _, function = named.partition(":")
    try:
        signer = getattr(importlib.import_module(module), function)()
    except Exception as error:  # whatever goes wrong in the code that is named
        raise InputError(f"{SIGNER}: {named!r} gives no signer ({type(error).__name__}: {error})") from error
    if not isinstance(signer, Signer):
        raise InputError(f"{SIGNER}: {named!r} returns no openkontext.provenance.Signer")
    return signer


def _as_pem(chain: list[x509.Certificate]) -> str:
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in chain)


def _read(path: str, setting: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        fault = getattr(error, "strerror", None) or error
        raise InputError(f"{setting}: {path} cannot be read ({fault})") from error


@lru_cache(maxsize=16)
def _parsed(text: str) -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_pem_x509_certificates(text.encode(errors="replace")))


def _read_certificates(text: str, name: str) -> list[x509.Certificate]:
    try:
        return list(_parsed(text))
    except ValueError as error:
        raise InputError(f"{name}: holds no PEM certificate that can be read") from error

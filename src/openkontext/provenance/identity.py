"""Key and certificates that sign where none are set: made on first use, kept for the user alone.

The chain keeps to the C2PA certificate profile (specification 2.4, section 14.5.1): P-256 keys, key usages
marked critical, and the extended key usage for claim signing. Its authority's key is thrown away once the
signing certificate is made, so that nothing else can ever be certified with it. Nobody else knows this
authority: a reader elsewhere sees that the record is whole, and that its signer is unknown.
"""

import datetime
import os
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from openkontext.errors import InputError
from openkontext.files import write_once
from openkontext.places import data_folder

CLAIM_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
"""Extended key usage of a certificate that signs C2PA claims (c2pa-kp-claimSigning)."""

_YEARS = 20
"""How long the chain is good: without a time-stamp a record is good no longer than its certificate."""


def identity_file() -> Path:
    """File of this installation's key and certificates, as PEM: the key, its certificate, the authority's."""
    return data_folder() / "signing" / "identity.pem"


def own_identity() -> bytes:
    """The PEM file of this installation's key and certificates, made if there is none yet.

    Of several processes that make it at once, one wins and all use its.

    Raises:
        InputError: it cannot be made or read, or others may read it.
    """
    path = identity_file()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_once(path, _make_identity(), private=True)
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise InputError(f"{path}: others may read this signing key; keep it: chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: the signing key cannot be kept there ({error.strerror}); "
            "set OPENKONTEXT_DATA to a folder of yours"
        ) from error


def _make_identity() -> bytes:
    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    number = secrets.token_hex(4)  # tells the installations of one user apart
    issuer, subject = _name(f"openkontext authority {number}"), _name(f"openkontext installation {number}")
    root = (
        _certificate(issuer, issuer, authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(authority, hashes.SHA256())
    )
    leaf = (
        _certificate(subject, issuer, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        # The second is what readers from before C2PA 2.4 look for.
        .add_extension(
            x509.ExtendedKeyUsage([CLAIM_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
        )
        .sign(authority, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + leaf.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "openkontext"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # other clocks may go slow
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(**uses: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: uses.get(name, False) for name in names})

"""Keys and certificates: made on first use, set by files, or asked of another place."""

import datetime
import json
import multiprocessing
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from numpy.typing import NDArray

from openkontext import images
from openkontext.cli import main
from openkontext.errors import InputError
from openkontext.provenance import (
    Record,
    Report,
    Signer,
    default_signer,
    key_signer,
    sign,
    use_signer,
    verify,
)
from openkontext.provenance.identity import identity_file, own_identity

RECORD = Record(model="nano", digest="ab" * 32)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("OPENKONTEXT_DATA", str(tmp_path / "data"))
    yield tmp_path / "data"
    use_signer(None)


def signed_by(signer: Signer | None, pixels: NDArray[np.uint8]) -> Report:
    return verify(sign(images.encode(pixels, "PNG"), "PNG", RECORD, signer))


def test_the_key_is_made_once_and_kept_for_its_owner(data: Path, pixels: NDArray[np.uint8]) -> None:
    assert not verify(images.encode(pixels, "PNG")).signed
    assert not data.exists()  # looking makes no key
    first, second = signed_by(None, pixels), signed_by(None, pixels)
    assert first.trust == second.trust == "own"
    assert first.signature == second.signature
    file = data / "signing" / "identity.pem"
    assert [path.name for path in file.parent.iterdir()] == ["identity.pem"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_the_chain_keeps_to_the_profile(data: Path) -> None:
    leaf, root = default_signer().chain
    leaf.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1") in purposes  # c2pa-kp-claimSigning
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.version == x509.Version.v3
    assert own_identity().count(b"PRIVATE KEY-----") == 2  # one key: the authority's is gone
    if shutil.which("openssl"):
        for name, certificate in (("leaf", leaf), ("root", root)):
            (data / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        command = ["openssl", "verify", "-x509_strict", "-CAfile", data / "root.pem", data / "leaf.pem"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def _serial(_: int) -> int:
    return default_signer().chain[0].serial_number


def test_processes_that_start_at_once_sign_with_one_key() -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert len(set(pool.map(_serial, range(16), chunksize=1))) == 1


def test_a_key_that_others_can_read_is_refused() -> None:
    own_identity()
    identity_file().chmod(0o644)
    with pytest.raises(InputError, match="others may read this signing key; keep it: chmod 600"):
        default_signer()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPENKONTEXT_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(InputError, match=r"the signing key cannot be kept there .*set OPENKONTEXT_DATA"):
        default_signer()


def test_a_damaged_key_is_refused(data: Path) -> None:
    own_identity()
    identity_file().write_bytes(b"-----BEGIN PRIVATE KEY-----\nx\n")
    with pytest.raises(InputError, match=r"identity.pem: is no PEM private key"):
        default_signer()


# Certificates of one's own


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A House"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def certify(key: Any, purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.EMAIL_PROTECTION) -> list[bytes]:
    """A certificate for a key by an authority of its own, and the authority's, as PEM."""
    authority = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject: str, public: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name("Authority"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    flags = dict.fromkeys((*unused, "encipher_only", "decipher_only"), False)
    root = (
        certificate("Authority", authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **flags), critical=True
        )
        .sign(authority, hashes.SHA256())
    )
    leaf = (
        certificate("Signer", key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **flags), critical=True
        )
        .add_extension(
            x509.ExtendedKeyUsage([purpose]), critical=purpose == ExtendedKeyUsageOID.TIME_STAMPING
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
        )
        .sign(authority, hashes.SHA256())
    )
    return [leaf.public_bytes(Encoding.PEM), root.public_bytes(Encoding.PEM)]


def pem(key: Any) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


KEYS: dict[str, Callable[[], Any]] = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "PS256": lambda: rsa.generate_private_key(65537, 2048),
    "ED25519": ed25519.Ed25519PrivateKey.generate,
}


@pytest.mark.parametrize("algorithm", KEYS)
def test_every_kind_of_key_signs(algorithm: str, pixels: NDArray[np.uint8]) -> None:
    key = KEYS[algorithm]()
    report = signed_by(key_signer(pem(key), b"".join(certify(key)).decode()), pixels)
    assert report.valid
    assert report.trust == "unknown"
    assert report.signature is not None
    assert (report.signature.name, report.signature.organisation) == ("Signer", "A House")
    assert report.signature.algorithm == algorithm


def test_settings_name_the_key_and_who_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: NDArray[np.uint8]
) -> None:
    key = KEYS["ES256"]()
    leaf, root = certify(key)
    chain, private, anchors = (tmp_path / name for name in ("chain.pem", "key.pem", "anchors.pem"))
    chain.write_bytes(leaf + root)
    private.write_bytes(pem(key))
    anchors.write_bytes(root)
    monkeypatch.setenv("OPENKONTEXT_SIGNING_CERTIFICATES", str(chain))
    with pytest.raises(InputError, match="set both or neither"):
        default_signer()
    monkeypatch.setenv("OPENKONTEXT_SIGNING_KEY", str(private))
    data = sign(images.encode(pixels, "PNG"), "PNG", RECORD)
    assert verify(data).trust == "unknown"
    monkeypatch.setenv("OPENKONTEXT_TRUST_ANCHORS", str(anchors))
    assert verify(data).trust == "own"
    monkeypatch.delenv("OPENKONTEXT_SIGNING_CERTIFICATES")
    assert verify(data).trust == "anchor"
    monkeypatch.setenv("OPENKONTEXT_TRUST_ANCHORS", str(private))
    with pytest.raises(InputError, match="holds no PEM certificate"):
        verify(data)
    monkeypatch.setenv("OPENKONTEXT_SIGNING_CERTIFICATES", str(tmp_path / "none.pem"))
    with pytest.raises(InputError, match=r"OPENKONTEXT_SIGNING_CERTIFICATES: .*none.pem cannot be read"):
        default_signer()


def test_a_certificate_of_another_key_is_refused() -> None:
    key, other = KEYS["ES256"](), KEYS["ES256"]()
    with pytest.raises(InputError, match="the first certificate is not that of the private key"):
        key_signer(pem(key), b"".join(certify(other)).decode())


def test_a_key_kept_elsewhere_signs_through_a_callback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: NDArray[np.uint8]
) -> None:
    key = KEYS["ES256"]()
    asked = []

    def ask(data: bytes) -> bytes:
        asked.append(data)
        return key.sign(data, ec.ECDSA(hashes.SHA256()))

    use_signer(Signer(ask, b"".join(certify(key)).decode()))
    assert signed_by(None, pixels).valid
    assert len(asked) == 1
    use_signer(None)

    (tmp_path / "our_keys.py").write_text(
        "from openkontext.provenance import key_signer\n"
        f"def signer():\n    return key_signer({pem(key)!r}, {b''.join(certify(key)).decode()!r})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OPENKONTEXT_SIGNER", "our_keys:signer")
    report = signed_by(None, pixels)
    assert report.signature is not None
    assert report.signature.organisation == "A House"
    monkeypatch.setenv("OPENKONTEXT_SIGNER", "our_keys:missing")
    with pytest.raises(InputError, match="OPENKONTEXT_SIGNER: 'our_keys:missing' gives no signer"):
        default_signer()
    sys.modules.pop("our_keys", None)


def test_values_that_no_signer_has() -> None:
    chain = default_signer().certificates
    with pytest.raises(InputError, match="signing algorithm 'rs256' is unknown"):
        Signer(lambda data: data, chain, "rs256")
    with pytest.raises(InputError, match="is no http or https address"):
        Signer(lambda data: data, chain, timestamp_url="ftp://x")
    with pytest.raises(InputError, match="holds no PEM certificate"):
        Signer(lambda data: data, "no certificate")


# Time-stamps


@pytest.fixture
def time_stamp_authority(tmp_path: Path) -> Iterator[tuple[str, bytes]]:
    """A time-stamp authority (RFC 3161) of openssl's behind HTTP: its address, and its root certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, which answers as a time-stamp authority")
    key = KEYS["ES256"]()
    leaf, root = certify(key, ExtendedKeyUsageOID.TIME_STAMPING)
    for name, content in (("tsa.pem", leaf), ("root.pem", root), ("tsa.key", pem(key)), ("serial", b"01")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "tsa.cnf").write_text(
        "[tsa]\ndefault_tsa = here\n[here]\nserial = serial\nsigner_cert = tsa.pem\ncerts = root.pem\n"
        "signer_key = tsa.key\nsigner_digest = sha256\ndefault_policy = 1.2.3.4\n"
        "digests = sha256, sha384, sha512\naccuracy = secs:1\ness_cert_id_alg = sha256\n"
    )

    class Authority(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["Content-Length"]))
            (tmp_path / "query").write_bytes(query)
            command = ["openssl", "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query"]
            reply = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Authority)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    server.server_close()


def test_a_time_stamp_says_when(
    time_stamp_authority: tuple[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pixels: NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, root = time_stamp_authority
    monkeypatch.setenv("OPENKONTEXT_TIMESTAMP_URL", address)
    (tmp_path / "anchors.pem").write_bytes(root)
    monkeypatch.setenv("OPENKONTEXT_TRUST_ANCHORS", str(tmp_path / "anchors.pem"))
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    report = signed_by(None, pixels)
    assert report.valid
    assert report.signature is not None
    assert report.signature.time is not None
    stamped = datetime.datetime.fromisoformat(report.signature.time)
    assert before <= stamped <= before + datetime.timedelta(seconds=60)
    picture = tmp_path / "stamped.png"
    picture.write_bytes(sign(images.encode(pixels, "PNG"), "PNG", RECORD))
    assert main(["verify", str(picture), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signature"]["time"] is not None


def test_without_the_asked_time_stamp_nothing_is_signed(
    monkeypatch: pytest.MonkeyPatch, pixels: NDArray[np.uint8]
) -> None:
    monkeypatch.setenv("OPENKONTEXT_TIMESTAMP_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="the picture cannot be signed, so it is not written"):
        signed_by(None, pixels)

"""Keys and certificates: made on first use, set by files, or asked of another place."""

import datetime
import json
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from certificates import KEYS, certify, pem
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
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
    assert before <= stamped <= datetime.datetime.now(datetime.UTC)
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

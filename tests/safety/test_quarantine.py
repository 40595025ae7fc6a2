"""Quarantine: sealed, bound to its name, and of no use without the key. The pictures are our drawings."""

import io
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from PIL import Image

from openkontext.errors import InputError
from openkontext.safety import quarantine as module
from openkontext.safety.known.index import ListHit
from openkontext.safety.known.material import Match
from openkontext.safety.known.pdq import pdq
from openkontext.safety.quarantine import Quarantine
from openkontext.safety.reports.incident import Requester

MATCH = Match("hotline", 3, "csam", ListHit("a.csv", 7, "pdq", "A1", 4, "flipx"))
PIXELS = np.random.default_rng(2).integers(0, 256, (60, 80, 3), dtype=np.uint8)
REPORTER = """
first_name = "Ada"
last_name = "Example"
email = "ada@example.org"
company = "Example Ltd"
service = "Example Edits"
"""


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    return Quarantine(tmp_path / "quarantine")


def test_what_is_kept_can_be_opened_with_the_key_alone(quarantine: Quarantine, tmp_path: Path) -> None:
    requester = Requester(account="17", ip_address="192.0.2.7", port=4711)
    name = quarantine.keep(
        MATCH, PIXELS, png(), stage="input", prompt="a hat", file_name="../x/y.png", requester=requester
    )
    evidence = quarantine.open(name[:5])
    assert evidence.picture == png()
    assert evidence.incident.id == name
    assert evidence.incident.hashes.pdq == pdq(PIXELS).hex
    assert evidence.incident.match.entry == 7
    assert (evidence.incident.prompt, evidence.incident.file_name) == ("a hat", "y.png")
    assert str(evidence.incident.requester.ip_address) == "192.0.2.7"

    stranger = tmp_path / "stranger.pem"
    key = X25519PrivateKey.generate()
    stranger.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(InputError, match="cannot be opened with this key"):
        quarantine.open(name, stranger)


def test_nothing_of_it_can_be_read_without_the_key(
    quarantine: Quarantine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    name = quarantine.keep(
        MATCH, PIXELS, png(), stage="input", prompt="unmistakable words", file_name="y.png"
    )
    assert name in caplog.text
    seen = caplog.text.encode() + b"".join(
        path.read_bytes() for path in quarantine.folder.iterdir() if not path.name.endswith(".key.pem")
    )
    for secret in (png()[:40], b"unmistakable", b"y.png", pdq(PIXELS).hex.encode(), b"hotline", b'A1"'):
        assert secret not in seen
    for path in quarantine.folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0


def test_pixels_without_a_file_are_kept_as_they_are(quarantine: Quarantine) -> None:
    name = quarantine.keep(MATCH, PIXELS, None, stage="output")
    evidence = quarantine.open(name)
    with Image.open(io.BytesIO(evidence.picture)) as image:
        assert (np.asarray(image) == PIXELS).all()
    assert evidence.incident.file_name == "output.png"


def test_any_change_shows(quarantine: Quarantine) -> None:
    name = quarantine.keep(MATCH, PIXELS, None, stage="output")
    path = quarantine.folder / f"{name}.sealed"
    sealed = path.read_bytes()
    for at in (0, 24, 30, 60, len(sealed) // 2, len(sealed) - 1):
        path.write_bytes(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
        with pytest.raises(InputError, match=r"was changed|no sealed incident"):
            quarantine.open(name)
    path.write_bytes(sealed[:50])
    with pytest.raises(InputError):
        quarantine.open(name)
    other = path.with_name("0" * 32 + ".sealed")
    other.write_bytes(sealed)  # an incident under another's name
    with pytest.raises(InputError, match="was changed"):
        quarantine.open("0" * 32)


def test_the_private_key_need_not_be_here(quarantine: Quarantine, tmp_path: Path) -> None:
    key = X25519PrivateKey.generate()
    elsewhere = tmp_path / "officer.pem"
    elsewhere.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    quarantine.folder.mkdir()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (quarantine.folder / "recipient.pub.pem").write_bytes(public)
    name = quarantine.keep(MATCH, PIXELS, None, stage="input")
    assert not list(quarantine.folder.glob("*.key.pem"))
    with pytest.raises(InputError, match="name the recipient's key"):
        quarantine.open(name)
    assert quarantine.open(name, elsewhere).incident.id == name


def drafts(quarantine: Quarantine, name: str) -> dict[str, bytes]:
    key = module._private_key(quarantine.folder / "recipient.key.pem")
    package = module._unseal(quarantine.folder / f"{name}.sealed", key)
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_drafts_of_the_reports_lie_with_the_evidence(quarantine: Quarantine) -> None:
    quarantine.folder.mkdir()
    (quarantine.folder / "reporter.toml").write_text(REPORTER)
    found = drafts(quarantine, quarantine.keep(MATCH, PIXELS, None, stage="input"))
    assert found.keys() == {
        "incident.json", "picture", "ncmec-report.xml", "ncmec-file.xml", "iwf-report.json"
    }  # fmt: skip


@pytest.mark.parametrize("reporter", [None, "first_name = 'Ada'", "= no TOML"])
def test_without_someone_who_reports_the_evidence_is_kept_all_the_same(
    quarantine: Quarantine, reporter: str | None
) -> None:
    quarantine.folder.mkdir()
    if reporter is not None:
        (quarantine.folder / "reporter.toml").write_text(reporter)
    found = drafts(quarantine, quarantine.keep(MATCH, PIXELS, None, stage="input"))
    assert b"reporter.toml" in found["no-drafts.txt"]
    assert found["picture"]


def test_intimate_imagery_is_sealed_and_not_for_the_hotlines(quarantine: Quarantine) -> None:
    quarantine.folder.mkdir()
    (quarantine.folder / "reporter.toml").write_text(REPORTER)
    match = Match("stopncii", 1, "ncii", MATCH.hit)
    found = drafts(quarantine, quarantine.keep(match, PIXELS, None, stage="input"))
    assert found.keys() == {"incident.json", "picture"}


def test_incidents_are_listed_without_a_key(quarantine: Quarantine) -> None:
    assert quarantine.incidents() == []
    names = [quarantine.keep(MATCH, PIXELS, None, stage="input") for _ in range(3)]
    (quarantine.folder / "recipient.key.pem").unlink()
    assert [progress.id for progress in quarantine.incidents()] == names
    for wrong in ("", "zz"):
        with pytest.raises(InputError, match="no incident begins"):
            quarantine.progress(wrong)

"""Known material in a source, by our own drawings on a test list: sealed, and nowhere else."""

import base64
import io
import json
import logging
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from curated_pairs import files_of, outcomes, scene, write_pairs
from light_filters import light_guard
from PIL import Image

from openkontext.curation import curate
from openkontext.safety import quarantine as sealing
from openkontext.safety.known.pdq import MATCH_DISTANCE, distance, pdq
from openkontext.safety.known.updates import install_update, sign_update, trust
from openkontext.safety.quarantine import Quarantine

LISTED = [scene(900, (512, 448)), scene(901, (512, 448))]
WORDS = "paint the kite violet"
REPORTER = """
first_name = "Ada"
last_name = "Example"
email = "ada@example.org"
company = "Example Ltd"
service = "Example Edits"
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a list of our own pictures in force, and somebody who reports."""
    folder = tmp_path_factory.mktemp("listed")
    key = Ed25519PrivateKey.generate()
    private, public = folder / "list.pem", folder / "list.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (folder / "ours.txt").write_text("\n".join(pdq(each).hex for each in LISTED))
    sign_update(folder / "list.zip", {folder / "ours.txt": "pdq"}, "test-list", 1, private, "csam")
    trust(folder / "data" / "lists", "test-list", public)
    install_update(folder / "data" / "lists", folder / "list.zip")
    (folder / "data" / "quarantine").mkdir()
    (folder / "data" / "quarantine" / "reporter.toml").write_text(REPORTER)
    return folder / "data"


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def resized(pixels: np.ndarray, factor: float) -> np.ndarray:
    height, width = (round(side * factor) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


CHANGED = {
    ("before", 0): lambda pixels: encoded(pixels),
    ("after", 2): lambda pixels: encoded(np.rot90(pixels)),
    ("before", 3): lambda pixels: encoded(pixels[:, ::-1]),
    ("after", 4): lambda pixels: encoded(pixels, "JPEG", quality=40),
    ("before", 6): lambda pixels: encoded(resized(pixels, 2.5), "WEBP", quality=70),
    ("after", 7): lambda pixels: encoded(resized(pixels, 0.7)),
}
"""Role and record of each picture that is on a list, and what was done to it."""


def write_source(folder: Path) -> Path:
    """Nine pairs, six of which hold a picture of the list; one such record is too faulty for any stage."""
    said = {f"at{at}": {"instruction": f"{WORDS} {at}"} for _, at in CHANGED}
    said["at4"] = {"instruction": "x" * 40_000}
    said["at6"] = {"instruction": "put a rifle there"}
    source = write_pairs(folder, 9, **said)
    for (role, at), change in CHANGED.items():
        (folder / f"{at}-{role}.png").write_bytes(change(LISTED[at % 2]))
    (folder / "7-before.png").write_bytes(b"no picture")
    return source


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "webdataset"])
def test_a_match_is_sealed_with_drafts_and_is_nowhere_else(
    kind: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENKONTEXT_DATA", str(data))
    caplog.set_level(logging.DEBUG)
    source, out = write_source(tmp_path / "in"), tmp_path / "out"
    before = {each.id for each in Quarantine().incidents()}
    card = curate(source, out, "pre-training", guard=light_guard, kind=kind)
    listed = sorted(at for _, at in CHANGED)
    found = outcomes(out)
    assert [at for at, each in enumerate(found) if each == ("known material", "on a list")] == listed
    assert [at for at, each in enumerate(found) if each == ("kept", "")] == [1, 5, 8]
    assert (card["kept"], card["sealed"]) == (3, 6)

    sealed = [each.id for each in Quarantine().incidents() if each.id not in before]
    pictures = {(tmp_path / "in" / f"{at}-{role}.png").read_bytes() for role, at in CHANGED}
    opened = [Quarantine().open(each) for each in sealed]
    assert sorted(each.picture for each in opened) == sorted(pictures)
    assert {each.incident.match.publisher for each in opened} == {"test-list"}
    for each in sealed:  # the drafts lie in the same sealed package
        key = sealing._private_key(data / "quarantine" / "recipient.key.pem")
        package = sealing._unseal(data / "quarantine" / f"{each}.sealed", key)
        with zipfile.ZipFile(io.BytesIO(package)) as archive:
            drafts = set(archive.namelist()) - {"incident.json", "picture"}
            assert drafts == {"ncmec-report.xml", "ncmec-file.xml", "iwf-report.json"}
            assert b"Ada" in archive.read("ncmec-report.xml")

    said = caplog.text + "".join(capfd.readouterr())
    assert not (out / ".curation").exists()
    for content in (*files_of(out).values(), said.encode()):
        assert not any(picture in content for picture in pictures)
        assert WORDS.encode() not in content
        assert b"rifle" not in content
        assert b"xxxx" not in content
    page = (out / "report.html").read_text()
    shown = [base64.b64decode(each) for each in re.findall(r"base64,([A-Za-z0-9+/=]+)", page)]
    assert len(shown) == 6  # both pictures of each kept pair
    hashes = [pdq(np.asarray(Image.open(io.BytesIO(each)).convert("RGB"))).hash for each in shown]
    for each in LISTED:
        turned = [pdq(np.rot90(side, turn)).hash for side in (each, each[:, ::-1]) for turn in range(4)]
        assert all(distance(one, other) > MATCH_DISTANCE for one in turned for other in hashes)


def test_a_run_that_goes_on_seals_none_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openkontext.curation import runner

    monkeypatch.setenv("OPENKONTEXT_DATA", str(data))
    source, out = write_source(tmp_path / "in"), tmp_path / "out"
    before = len(Quarantine().incidents())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(runner, "write_rows", full)  # sealed, and not yet written down
        with pytest.raises(runner.InputError):
            curate(source, out, "pre-training", guard=light_guard)
    curate(source, out, "pre-training", guard=light_guard)
    assert len(Quarantine().incidents()) == before + 6
    lines = [json.loads(line) for line in (out / "outcomes.jsonl").read_text().splitlines()]
    assert sum(line.get("stage") == "known material" for line in lines) == 6
    assert all("detail" not in line for line in lines if line.get("stage") == "known material")

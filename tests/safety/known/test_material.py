"""Signed updates, what they refuse, and pictures that are on an installed list; all of them our drawings."""

import hashlib
import io
import json
import logging
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from PIL import Image

from openkontext.errors import InputError
from openkontext.safety.known.material import KnownMaterial
from openkontext.safety.known.pdq import pdq
from openkontext.safety.known.updates import install_update, sign_update, trust

Publish = Callable[..., Path]


def scene(seed: int = 3, size: tuple[int, int] = (240, 200)) -> np.ndarray:
    """Shapes on a ground, uint8 [H, W, 3], with enough in it for a good PDQ quality."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_keys(folder: Path, name: str = "key") -> tuple[Path, Path]:
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "lists"


@pytest.fixture
def publish(tmp_path: Path, root: Path) -> Publish:
    """Signs hashes as an update of a publisher that is trusted; returns the ZIP file."""
    private, public = make_keys(tmp_path)
    trust(root, "hotline", public)

    def make(serial: int, hashes: dict[str, list[str]], category: str = "A1") -> Path:
        lists = {}
        for kind, values in hashes.items():
            path = tmp_path / f"{kind}.csv"
            path.write_text("hash,category\n" + "".join(f"{value},{category}\n" for value in values))
            lists[path] = kind
        update = tmp_path / f"{serial}.zip"
        sign_update(update, lists, "hotline", serial, private)
        return update

    return make


def test_without_lists_nothing_is_known(root: Path) -> None:
    assert KnownMaterial([root, root / "other"]).match(scene(), b"file") is None


def test_a_picture_on_a_list_is_found(root: Path, publish: Publish) -> None:
    install_update(root, publish(1, {"pdq": [pdq(scene(1)).hex, pdq(scene()).hex]}))
    known = KnownMaterial([root])
    match = known.match(scene())
    assert match is not None
    assert (match.publisher, match.serial, match.hit.entry, match.hit.category) == ("hotline", 1, 1, "A1")
    assert known.match(scene(7)) is None


def turned(pixels: np.ndarray) -> np.ndarray:
    return np.rot90(pixels)


def mirrored(pixels: np.ndarray) -> np.ndarray:
    return pixels[:, ::-1]


def rescaled(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((700, 583), Image.Resampling.LANCZOS))


def recompressed(pixels: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=25)
    return np.asarray(Image.open(file))


def bordered(pixels: np.ndarray) -> np.ndarray:
    return recompressed(np.pad(pixels, ((30, 60), (50, 0), (0, 0)), constant_values=255))


@pytest.mark.parametrize("change", [turned, mirrored, rescaled, recompressed, bordered])
def test_a_changed_picture_is_found(
    root: Path, publish: Publish, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    install_update(root, publish(1, {"pdq": [pdq(scene()).hex]}))
    assert KnownMaterial([root]).match(np.ascontiguousarray(change(scene()))) is not None


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256"])
def test_a_file_on_a_list_is_found_by_its_bytes(root: Path, publish: Publish, kind: str) -> None:
    file = png(scene())
    install_update(root, publish(1, {kind: [hashlib.new(kind, file).hexdigest()]}))
    known = KnownMaterial([root])
    match = known.match(scene(), file)
    assert match is not None
    assert match.hit.kind == kind
    assert known.match(scene(), file + b"x") is None
    assert known.match(scene()) is None


def test_logs_show_no_hash(root: Path, publish: Publish, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    install_update(root, publish(1, {"pdq": [pdq(scene()).hex]}))
    match = KnownMaterial([root]).match(scene())
    assert "update 1, 1 pdq" in caplog.text
    assert pdq(scene()).hex[:12] not in caplog.text + repr(match)


def test_an_update_takes_the_place_of_the_last_while_checks_run(root: Path, publish: Publish) -> None:
    install_update(root, publish(1, {"pdq": [pdq(scene(1)).hex]}))
    known = KnownMaterial([root])
    seen, failures, stop = set(), [], threading.Event()

    def check() -> None:
        while not stop.is_set():
            try:
                matches = [known.match(scene(seed)) for seed in (1, 2)]
                seen.add(tuple(match and match.serial for match in matches))
            except Exception as error:
                failures.append(error)

    workers = [threading.Thread(target=check) for _ in range(3)]
    for worker in workers:
        worker.start()
    for serial in (2, 3, 4):
        install_update(root, publish(serial, {"pdq": [pdq(scene(1)).hex, pdq(scene(2)).hex]}))
        known.match(scene(1))
        known.wait()
    stop.set()
    for worker in workers:
        worker.join()
    assert not failures
    assert all(first is not None for first, _ in seen)  # what is on both lists was found at every moment
    found = known.match(scene(2))
    assert found is not None
    assert found.serial == 4


def test_lists_of_several_folders_add_up(tmp_path: Path, root: Path, publish: Publish) -> None:
    install_update(root, publish(1, {"pdq": [pdq(scene()).hex]}))
    assert KnownMaterial([tmp_path / "empty", root]).match(scene()) is not None


def test_an_older_update_is_refused(root: Path, publish: Publish) -> None:
    install_update(root, publish(5, {"pdq": [pdq(scene()).hex]}))
    for serial in (4, 5):
        with pytest.raises(InputError, match="is in force"):
            install_update(root, publish(serial, {"md5": []}))
    assert KnownMaterial([root]).match(scene()) is not None


def test_an_update_by_a_stranger_is_refused(tmp_path: Path, root: Path, publish: Publish) -> None:
    hashes = tmp_path / "x.txt"
    hashes.write_text(pdq(scene()).hex)
    private, public = make_keys(tmp_path, "stranger")
    for publisher, reason in (("stranger", "is not trusted"), ("hotline", "signature is not by")):
        sign_update(tmp_path / "x.zip", {hashes: "pdq"}, publisher, 9, private)
        with pytest.raises(InputError, match=reason):
            install_update(root, tmp_path / "x.zip")
    with pytest.raises(InputError, match="trusted with another key"):
        trust(root, "hotline", public)
    assert KnownMaterial([root]).match(scene()) is None


@pytest.mark.parametrize("part", ["manifest.json", "manifest.sig", "pdq.csv"])
def test_a_changed_update_is_refused(root: Path, publish: Publish, part: str) -> None:
    update = publish(1, {"pdq": [pdq(scene()).hex]})
    with zipfile.ZipFile(update) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files[part] = files[part][:-4] + bytes([files[part][-4] ^ 1]) + files[part][-3:]
    with zipfile.ZipFile(update, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with pytest.raises(InputError):
        install_update(root, update)
    assert not list(root.glob(".incoming*"))
    assert KnownMaterial([root]).lists() == ()


def test_a_name_in_an_update_cannot_leave_its_folder(tmp_path: Path, root: Path, publish: Publish) -> None:
    update = publish(1, {"md5": []})
    with zipfile.ZipFile(update) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    for place, value in (("publisher", "../hotline"), ("name", "../x")):
        changed = dict(manifest)
        if place == "publisher":
            changed["publisher"] = value
        else:
            changed["lists"] = [{**manifest["lists"][0], "name": value}]
        with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
            archive.writestr("manifest.json", json.dumps(changed))
            archive.writestr("manifest.sig", bytes(64))
        with pytest.raises(InputError):
            install_update(root, tmp_path / "y.zip")


@pytest.mark.parametrize("damage", ["current", "list", "signature", "no current"])
def test_a_damaged_list_refuses_everything_until_it_is_repaired(
    root: Path, publish: Publish, damage: str
) -> None:
    install_update(root, publish(1, {"pdq": [pdq(scene()).hex]}))
    folder = root / "hotline"
    if damage == "current":
        (folder / "current").write_text("one")
    elif damage == "list":
        (folder / "1" / "pdq.csv").write_text("hash\n")
    elif damage == "signature":
        (folder / "1" / "manifest.sig").unlink()
    else:
        (folder / "current").unlink()
    known = KnownMaterial([root])
    for _ in range(2):
        with pytest.raises(InputError, match="install"):
            known.match(scene(7))
    install_update(root, publish(2, {"pdq": [pdq(scene()).hex]}))
    assert known.match(scene()) is not None


def test_a_list_that_breaks_while_in_use_refuses(root: Path, publish: Publish) -> None:
    install_update(root, publish(1, {"pdq": [pdq(scene()).hex]}))
    known = KnownMaterial([root])
    known.match(scene())
    (root / "hotline" / "current").write_text("seven")
    known.match(scene())  # notices, and another thread reads
    known.wait()
    with pytest.raises(InputError, match="damaged"):
        known.match(scene())


def test_lists_are_readable_by_their_owner_alone(root: Path, publish: Publish) -> None:
    install_update(root, publish(1, {"pdq": [pdq(scene()).hex]}))
    for path in root.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path

"""Signed updates of lists: who publishes them, what they hold, and how one takes the place of another.

An update is a ZIP file with the lists, `manifest.json` and `manifest.sig`, the publisher's Ed25519 signature
of the manifest. The manifest names the publisher, a serial number that only grows, and each list with its
kind of hash and SHA-256. Installed, it is a folder of its own under `<root>/<publisher>/`, and the file
`current` there names the one in force; replacing that file is the update, whole or not at all.
"""

import hashlib
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openkontext.errors import InputError
from openkontext.files import whole, write_whole
from openkontext.safety.known.lists import HashList, read_list

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
KEY, CURRENT = "publisher.pem", "current"

_PUBLISHER = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_FILE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


class ListedFile(BaseModel):
    """One list of an update."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=_FILE)]
    kind: Literal["pdq", "md5", "sha1", "sha256"]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """What an update holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    publisher: str
    material: Literal["csam", "ncii"]
    """Child sexual abuse material, or intimate imagery without consent, which is not for the hotlines."""
    serial: Annotated[int, Field(ge=1)]
    lists: tuple[ListedFile, ...]


def sign_update(
    output: Path,
    lists: Mapping[Path, str],
    publisher: str,
    serial: int,
    private_key: Path,
    material: str = "csam",
) -> Manifest:
    """Make an update of lists.

    Args:
        output: the ZIP file to write.
        lists: files and the kind of hash in each.
        publisher: who signs: lower-case letters, digits and hyphens.
        serial: number of the update; one is installed only in place of a smaller.
        private_key: PEM file of an Ed25519 key without a password.
        material: what the lists are of: "csam", or "ncii" for intimate imagery without consent.

    Raises:
        InputError: a list is no such list, or the material, the key or the name cannot be used.
    """
    key = _private_key(private_key)
    _check_publisher(publisher)
    for path, kind in lists.items():
        read_list(path, kind)
    try:
        files = [{"name": path.name, "kind": kind, "sha256": _sha256(path)} for path, kind in lists.items()]
        manifest = Manifest.model_validate(
            {"publisher": publisher, "material": material, "serial": serial, "lists": files}
        )
    except ValidationError as error:
        raise InputError(f"the update cannot be made: {_reason(error)}") from error
    text = manifest.model_dump_json(indent=2).encode()
    with whole(output) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, text)
        archive.writestr(SIGNATURE, key.sign(text))
        for path in lists:
            archive.write(path, path.name)
    return manifest


def trust(root: Path, publisher: str, public_key: Path) -> None:
    """Accept updates of a publisher from now on.

    Args:
        root: folder of all lists.
        publisher: its name, as its updates give it.
        public_key: PEM file of its Ed25519 key.

    Raises:
        InputError: the key or the name cannot be used, or another key is trusted under that name already.
    """
    _public_key(public_key)
    folder = root / _check_publisher(publisher)
    kept = folder / KEY
    if kept.exists() and kept.read_bytes() != public_key.read_bytes():
        raise InputError(f"{publisher} is trusted with another key ({kept}); remove that file by hand first")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(kept, public_key.read_bytes(), private=True)


def install_update(root: Path, update: Path) -> Manifest:
    """Check an update and put it in force.

    Checks that run meanwhile see the old lists or the new, never a mix.

    Args:
        root: folder of all lists.
        update: the ZIP file.

    Raises:
        InputError: its publisher is not trusted, its signature is wrong, its files are not those that were
            signed, or a newer one is in force.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-") as unpacked:
        beside = Path(unpacked)
        manifest = _unpack(update, beside, root)
        read_update(beside, root / manifest.publisher / KEY)  # nothing is in force that cannot be read
        folder = root / manifest.publisher
        if manifest.serial < (least := _least_serial(folder)):
            raise InputError(
                f"{update}: has serial {manifest.serial}, and {least - 1} of {manifest.publisher} is in force"
            )
        place = folder / str(manifest.serial)
        shutil.rmtree(place, ignore_errors=True)  # left by an update that was cut short
        beside.rename(place)
    write_whole(folder / CURRENT, f"{manifest.serial}\n".encode(), private=True)
    for old in folder.iterdir():
        if old.is_dir() and old.name.isdigit() and int(old.name) < manifest.serial - 1:
            shutil.rmtree(old, ignore_errors=True)  # the one before stays for whoever is reading it
    return manifest


def publishers(root: Path) -> list[Path]:
    """Folders of the publishers that are trusted.

    Args:
        root: folder of all lists; it need not exist.
    """
    return sorted(key.parent for key in root.glob(f"*/{KEY}"))


def current_serial(folder: Path) -> int | None:
    """Serial number of the update in force; None where there is none yet.

    Args:
        folder: of the publisher.

    Raises:
        InputError: the file that names it is damaged.
    """
    try:
        return int((folder / CURRENT).read_text("ascii"))
    except FileNotFoundError as error:
        if not any(each.name.isdigit() for each in folder.iterdir()):
            return None
        raise InputError(f"{folder / CURRENT}: is missing; install the newest update again") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / CURRENT}: is damaged; install the newest update again") from error


def read_update(folder: Path, public_key: Path) -> tuple[Manifest, list[HashList]]:
    """Read an unpacked update, its signature and digests checked.

    Args:
        folder: with the manifest and the lists.
        public_key: PEM file of the publisher's key.

    Raises:
        InputError: something is missing, damaged or not what the publisher signed.
    """
    try:
        text, signature = (folder / MANIFEST).read_bytes(), (folder / SIGNATURE).read_bytes()
        manifest = _verified(text, signature, public_key)
        for listed in manifest.lists:
            if _sha256(folder / listed.name) != listed.sha256:
                raise InputError(f"{folder / listed.name}: is not the list that was signed; install it again")
    except OSError as error:
        raise InputError(f"{folder}: the lists cannot be read ({error.strerror}); install again") from error
    return manifest, [read_list(folder / listed.name, listed.kind) for listed in manifest.lists]


def _unpack(update: Path, folder: Path, root: Path) -> Manifest:
    """Unpack what the manifest names, once its signature is known to be good."""
    try:
        with zipfile.ZipFile(update) as archive:
            text, signature = archive.read(MANIFEST), archive.read(SIGNATURE)
            publisher = _check_publisher(str(json.loads(text).get("publisher")))
            key = root / publisher / KEY
            if not key.exists():
                raise InputError(
                    f"{update}: {publisher} is not trusted; get its public key by a way you trust, and: "
                    f"openkontext lists trust {publisher} KEY.pem"
                )
            manifest = _verified(text, signature, key)
            for name in (MANIFEST, SIGNATURE, *(listed.name for listed in manifest.lists)):
                write_whole(folder / name, archive.read(name), private=True)
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{update}: is no update of lists, or is damaged ({_reason(error)})") from error
    return manifest


def _verified(text: bytes, signature: bytes, public_key: Path) -> Manifest:
    key = _public_key(public_key)
    try:
        key.verify(signature, text)
    except InvalidSignature as error:
        raise InputError(f"the signature is not by {public_key}; do not use this update") from error
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"the manifest cannot be read: {_reason(error)}") from error
    _check_publisher(manifest.publisher)
    return manifest


def _least_serial(folder: Path) -> int:
    """What an update must have at least; where it is unknown which is in force, the last is good again."""
    try:
        return (current_serial(folder) or 0) + 1
    except InputError:
        return max(int(each.name) for each in folder.iterdir() if each.name.isdigit())


def _check_publisher(name: str) -> str:
    if not _PUBLISHER.fullmatch(name):
        raise InputError(f"{name!r} is no name of a publisher; use lower-case letters, digits and hyphens")
    return name


def _private_key(path: Path) -> Ed25519PrivateKey:
    key = _read_key(path, partial(load_pem_private_key, password=None))
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path}: is no Ed25519 private key")
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    key = _read_key(path, load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path}: is no Ed25519 public key")
    return key


def _read_key(path: Path, load: Callable[[bytes], object]) -> object:
    try:
        return load(path.read_bytes())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: no PEM key can be read from it ({_reason(error)})") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(str(error).split()) or type(error).__name__

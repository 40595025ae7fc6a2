"""Quarantine of known material: sealed as it is found, shown to no one, kept with the drafts of its reports.

An incident is one file, encrypted for a recipient whose private key need not be on this machine: an ephemeral
X25519 key agrees with the recipient's on a secret, HKDF-SHA256 makes a key of it, and ChaCha20-Poly1305 seals
a ZIP file with the picture, what is known about it and the drafts. Beside it lies what may be known without
the key: when it was found, and how far its report has come.
"""

import io
import logging
import secrets
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from numpy.typing import NDArray
from PIL import Image
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from openkontext.errors import InputError
from openkontext.files import write_whole
from openkontext.places import data_folder
from openkontext.safety.known.material import Match
from openkontext.safety.reports.cybertipline import file_xml, report_xml
from openkontext.safety.reports.incident import (
    FileHashes,
    Incident,
    ListMatch,
    Reporter,
    Requester,
    load_reporter,
)
from openkontext.safety.reports.iwf import iwf_report

_log = logging.getLogger(__name__)

REPORTER = "reporter.toml"
"""File in the folder that names who reports: the fields of `reports.incident.Reporter`."""

_MAGIC = b"openkontext quarantine 1\n"
_PUBLIC, _PRIVATE = "recipient.pub.pem", "recipient.key.pem"
_INCIDENT, _PICTURE = "incident.json", "picture"


class Progress(BaseModel):
    """What may be known of an incident without the key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    time: AwareDatetime
    report: int | None = None
    """Number of its report, once the CyberTipline has opened one."""
    file: str | None = None
    """Id of the picture there, once it is uploaded."""
    described: bool = False
    """Whether the picture's details are there."""
    finished: AwareDatetime | None = None
    """When the report was finished."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """An opened incident."""

    incident: Incident
    picture: bytes
    """The file, as it was handed in or made."""


class Quarantine:
    """The incidents in one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        """Touch nothing yet.

        Args:
            folder: of the incidents; None for the one in `data_folder()`.
        """
        self.folder = folder or data_folder() / "quarantine"

    def keep(
        self,
        match: Match,
        pixels: NDArray[np.uint8],
        data: bytes | None,
        *,
        stage: str,
        prompt: str = "",
        file_name: str = "",
        requester: Requester | None = None,
    ) -> str:
        """Seal a picture that is on a list.

        Args:
            match: which list, and where on it.
            pixels: uint8 [H, W, 3].
            data: the file; None where there was none, and the pixels are kept as PNG.
            stage: "input" or "output".
            prompt: the instruction that came with it.
            file_name: what the file is called.
            requester: who handed it in.

        Returns:
            The id of the incident.

        Raises:
            OSError: it cannot be written.
        """
        if data is None:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            data, file_name = file.getvalue(), file_name or f"{stage}.png"
        incident = Incident.model_validate(
            {
                "id": secrets.token_hex(16),
                "time": datetime.now(UTC),
                "stage": stage,
                "file_name": Path(file_name).name or stage,
                "size": (pixels.shape[1], pixels.shape[0]),
                "hashes": FileHashes.of(data, pixels),
                "match": ListMatch.of(match),
                "prompt": prompt,
                "requester": requester or Requester(),
            }
        )
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        package = io.BytesIO()
        with zipfile.ZipFile(package, "w") as archive:
            archive.writestr(_INCIDENT, incident.model_dump_json(indent=2))
            archive.writestr(_PICTURE, data)
            for name, draft in self._drafts(incident).items():
                archive.writestr(name, draft)
        write_whole(
            self.folder / f"{incident.id}.sealed",
            _seal(package.getvalue(), incident.id, self._recipient()),
            private=True,
        )
        self.note(Progress(id=incident.id, time=incident.time))
        _log.warning("a picture on a list of known material was refused and sealed: incident %s", incident.id)
        return incident.id

    def incidents(self) -> list[Progress]:
        """What is in the quarantine, the oldest first; nothing is opened for it."""
        found = [self.progress(path.stem) for path in self.folder.glob("*.sealed")]
        return sorted(found, key=lambda progress: progress.time)

    def progress(self, incident: str) -> Progress:
        """How far the report of an incident has come.

        Args:
            incident: its id, or as much of its beginning as tells it from the others.

        Raises:
            InputError: there is none, or what lies beside it is damaged.
        """
        path = self._find(incident).with_suffix(".json")
        try:
            return Progress.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise InputError(
                f"{path}: is missing or damaged; its incident is still sealed beside it"
            ) from error

    def note(self, progress: Progress) -> None:
        """Write down how far a report has come.

        Args:
            progress: of the incident.
        """
        write_whole(
            self.folder / f"{progress.id}.json", progress.model_dump_json(indent=2).encode(), private=True
        )

    def open(self, incident: str, private_key: Path | None = None) -> Evidence:
        """Open an incident, to report it.

        Args:
            incident: its id, or its beginning.
            private_key: PEM file of the recipient's key; None for the one made here on first use.

        Raises:
            InputError: there is no such incident, the key is another, or the file was changed.
        """
        path = self._find(incident)
        key = _private_key(private_key or self.folder / _PRIVATE)
        package = _unseal(path, key)
        with zipfile.ZipFile(io.BytesIO(package)) as archive:
            record = Incident.model_validate_json(archive.read(_INCIDENT))
            return Evidence(record, archive.read(_PICTURE))

    def reporter(self) -> Reporter | None:
        """Who reports, as the file `REPORTER` in the folder says; None where nobody is named yet.

        Raises:
            InputError: the file is damaged.
        """
        return load_reporter(self.folder / REPORTER)

    def _drafts(self, incident: Incident) -> dict[str, str]:
        """Drafts of the reports, by file name; only child sexual abuse material is for the hotlines."""
        if incident.match.material != "csam":
            return {}
        try:
            reporter = self.reporter()
            if reporter is None:
                return {"no-drafts.txt": f"{self.folder / REPORTER} names nobody who reports"}
            return {
                "ncmec-report.xml": report_xml(incident, reporter),
                "ncmec-file.xml": file_xml(incident, 0, "pending"),
                "iwf-report.json": iwf_report(incident, reporter).model_dump_json(indent=2),
            }
        except InputError as error:  # the evidence is kept all the same; its report is written anew when sent
            _log.warning("the report of incident %s cannot be drafted: %s", incident.id, error)
            return {"no-drafts.txt": str(error)}

    def _find(self, incident: str) -> Path:
        found = [path for path in self.folder.glob("*.sealed") if incident and path.name.startswith(incident)]
        if len(found) != 1:
            state = "more than one incident begins" if found else "no incident begins"
            raise InputError(f"{state} with {incident!r}; see: openkontext quarantine list")
        return found[0]

    def _recipient(self) -> X25519PublicKey:
        """The key to seal for; a pair is made where there is none."""
        path = self.folder / _PUBLIC
        if not path.exists():
            made = X25519PrivateKey.generate()
            private = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            public = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            write_whole(self.folder / _PRIVATE, private, private=True)
            write_whole(path, public, private=True)
        try:
            key = load_pem_public_key(path.read_bytes())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise OSError(f"{path}: no key can be read from it") from error
        if not isinstance(key, X25519PublicKey):
            raise OSError(f"{path}: is no X25519 key")
        return key


def _seal(data: bytes, name: str, recipient: X25519PublicKey) -> bytes:
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    key = _file_key(ephemeral.exchange(recipient), public, recipient)
    # The key is used once, so that the nonce may be constant; the name is bound to the file.
    return _MAGIC + public + ChaCha20Poly1305(key).encrypt(bytes(12), data, _MAGIC + name.encode())


def _unseal(path: Path, key: X25519PrivateKey) -> bytes:
    sealed = path.read_bytes()
    public, body = sealed[len(_MAGIC) : len(_MAGIC) + 32], sealed[len(_MAGIC) + 32 :]
    if not sealed.startswith(_MAGIC) or len(public) != 32:
        raise InputError(f"{path}: is no sealed incident")
    secret = key.exchange(X25519PublicKey.from_public_bytes(public))
    cipher = ChaCha20Poly1305(_file_key(secret, public, key.public_key()))
    try:
        return cipher.decrypt(bytes(12), body, _MAGIC + path.stem.encode())
    except InvalidTag as error:
        raise InputError(f"{path}: cannot be opened with this key, or was changed") from error


def _file_key(secret: bytes, ephemeral: bytes, recipient: X25519PublicKey) -> bytes:
    salt = ephemeral + recipient.public_bytes_raw()
    return HKDF(SHA256(), 32, salt, _MAGIC).derive(secret)


def _private_key(path: Path) -> X25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: no PEM key can be read from it; name the recipient's key") from error
    if not isinstance(key, X25519PrivateKey):
        raise InputError(f"{path}: is no X25519 private key")
    return key

"""Pictures by their digest: in a folder, or in S3 and the like through fsspec; encrypted where asked."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from contextlib import suppress

import fsspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from openkontext.errors import InputError
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database, now
from openkontext.service.storage.models import StoredImage

NONCE = 12  # bytes, as NIST SP 800-38D recommends for GCM
VERSION = b"\x01"  # of the encrypted form: version, nonce, ciphertext with tag
GRACE = 3600.0
"""Seconds that a picture is kept before a job says for how long it needs it."""


class ImageStore:
    """Keeps bytes under their digest.

    Without encryption the digest is the content's SHA-256. With it the digest is keyed (HMAC-SHA-256), so
    that names do not tell whether a known picture is there, and the content is sealed with AES-256-GCM to
    its name.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            self._files, root = fsspec.core.url_to_fs(settings.store)
        except (ImportError, ValueError) as error:
            raise InputError(f"store_url cannot be used ({error})") from error
        self._root = root.rstrip("/")
        self._is_local = "file" in self._protocols
        self._naming = settings.key("names of pictures") if settings.encrypt else None
        self._cipher = AESGCM(settings.key("pictures at rest")) if settings.encrypt else None

    @property
    def _protocols(self) -> tuple[str, ...]:
        protocol = self._files.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    def put(self, content: bytes) -> str:
        """Keep content, which appears whole or not at all; returns its digest."""
        digest = self.digest(content)
        path = self._path(digest)
        if self._files.exists(path):
            return digest
        if self._cipher is not None:
            nonce = secrets.token_bytes(NONCE)
            content = VERSION + nonce + self._cipher.encrypt(nonce, content, digest.encode())
        if not self._is_local:
            self._files.pipe_file(path, content)  # object stores show an object when it is whole
            return digest
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        part = f"{path}.{secrets.token_hex(8)}.part"
        try:
            self._files.pipe_file(part, content)
            self._files.mv(part, path)
        finally:
            with suppress(FileNotFoundError):
                self._files.rm_file(part)
        return digest

    def get(self, digest: str) -> bytes:
        """Content by its digest, checked against it.

        Raises:
            KeyError: it is not there, or what is there is not what was put.
        """
        try:
            content: bytes = self._files.cat_file(self._path(digest))
        except FileNotFoundError as error:
            raise KeyError(f"picture {digest} is not in the store") from error
        if self._cipher is not None:
            nonce, sealed = content[1 : 1 + NONCE], content[1 + NONCE :]
            try:
                content = self._cipher.decrypt(nonce, sealed, digest.encode())
            except (InvalidTag, ValueError) as error:
                raise KeyError(f"picture {digest} is damaged, or encrypted with another secret") from error
        if not hmac.compare_digest(self.digest(content), digest):
            raise KeyError(f"picture {digest} is damaged")
        return content

    def check(self) -> None:
        """Write and delete something, to see that the store works."""
        self.delete(self.put(b"check " + secrets.token_bytes(16)))

    def delete(self, digest: str) -> None:
        """Forget content; it may be gone already."""
        with suppress(FileNotFoundError):
            self._files.rm_file(self._path(digest))

    def digest(self, content: bytes) -> str:
        """The name of content."""
        if self._naming is not None:
            return hmac.new(self._naming, content, hashlib.sha256).hexdigest()
        return hashlib.sha256(content).hexdigest()

    def _path(self, digest: str) -> str:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise KeyError(f"{digest!r} is no digest")
        return f"{self._root}/{digest[:2]}/{digest}"


def keep(database: Database, store: ImageStore, content: bytes) -> str:
    """Store a picture for `GRACE` seconds; returns its digest.

    The time is noted first: `sweep` locks what it deletes, so the picture cannot go between the two.
    """
    digest = store.digest(content)
    with database.transaction() as session:
        hold(session, [digest], GRACE)
    store.put(content)
    return digest


def hold(session: Session, digests: Iterable[str], seconds: float) -> None:
    """Have pictures kept for so long from now, or longer where they already are."""
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    for digest in sorted(set(digests)):  # one order for all, so that two writers cannot block each other
        row = insert(StoredImage).values(digest=digest, expires=now() + seconds)
        longer = row.on_conflict_do_update(
            index_elements=[StoredImage.digest],
            set_={"expires": row.excluded.expires},
            where=StoredImage.expires < row.excluded.expires,
        )
        session.execute(longer)


def sweep(session: Session, store: ImageStore, limit: int = 100) -> int:
    """Delete pictures whose time is over; returns how many.

    The rows are locked while their files go, so that a picture handed in again meanwhile is stored anew.
    """
    old = select(StoredImage.digest).where(StoredImage.expires < now()).limit(limit)
    digests = list(session.scalars(old.with_for_update(skip_locked=True)))
    for digest in digests:
        store.delete(digest)
    session.execute(delete(StoredImage).where(StoredImage.digest.in_(digests)))
    return len(digests)

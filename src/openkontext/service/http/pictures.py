"""Pictures as clients hand them in: bytes, base64 in any of its forms, data URIs, addresses, own results."""

import base64
import binascii
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

from sqlalchemy import select

from openkontext.errors import InputError
from openkontext.service.fetching import fetch
from openkontext.service.http.asking import HandedPicture
from openkontext.service.http.decoding import MaskKind, check_picture
from openkontext.service.http.state import State
from openkontext.service.rejections import WrongInputError
from openkontext.service.storage.models import Job, JobState
from openkontext.service.storage.store import keep

DATA_URI = re.compile(r"data:([^,]*),", re.IGNORECASE)
"""RFC 2397: a media type with its parameters, any or none, and `;base64` where the data are that."""
SAMPLE = re.compile(r"/v1/results/([^/]{1,100})/[^/]+")
"""Path of a result's address."""


@dataclass(frozen=True)
class KeptPicture:
    """A picture in the store."""

    digest: str
    size: tuple[int, int]
    """Width and height in pixels."""
    has_hole: bool = False
    """Whether it is transparent in a part, and not everywhere."""


def store_picture(
    state: State, account_id: str, hosts: set[str], picture: HandedPicture, *, mask: MaskKind = None
) -> KeptPicture:
    """Read a picture, check it in a process of its own, and keep it.

    Args:
        state: of the server.
        account_id: of the client, whose own results it may name by their address.
        hosts: names with ports by which clients reach this service.
        picture: as it was handed in.
        mask: whether it is one, and of which kind.

    Raises:
        WrongInputError: it cannot be read, or is none.
    """
    name = picture.name
    try:
        content = _content(state, account_id, hosts, picture.content)
        decoded = check_picture(content, state.settings, name, mask=mask)
    except InputError as error:
        raise WrongInputError(name, str(error).removeprefix(f"{name}: ")) from error
    digest = keep(state.database, state.store, decoded.content)
    return KeptPicture(digest, (decoded.width, decoded.height), decoded.has_hole)


def own_result(account_id: str, hosts: set[str], content: bytes | str) -> str | None:
    """Id of the task that a text is the result's address of, as this service gives it; None for another."""
    if isinstance(content, bytes) or not _is_address(content):
        return None
    try:
        parts = urlsplit(content.strip())
    except ValueError:
        return None
    match = SAMPLE.fullmatch(parts.path)
    return match[1] if match and parts.netloc.lower() in hosts else None


def decode_text(text: str) -> bytes:
    """The bytes of base64 or of a data URI.

    Base64 may stand in lines, be in the alphabet for addresses (RFC 4648, 5) and lack its padding.

    Raises:
        InputError: it is neither.
    """
    if match := DATA_URI.match(text.lstrip()):
        data = unquote_to_bytes(text.lstrip()[match.end() :])
        if not re.search(r";\s*base64\s*$", match[1], re.IGNORECASE):
            return data
        text = data.decode("latin-1")
    plain = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain.encode("ascii") + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("is neither base64 nor an address; give one of them") from error


def _content(state: State, account_id: str, hosts: set[str], content: bytes | str) -> bytes:
    if isinstance(content, bytes):
        return content
    if not _is_address(content):
        return decode_text(content)
    id = own_result(account_id, hosts, content)
    if id is None:
        return fetch(content.strip(), state.settings, state.settings.max_upload_bytes)
    with state.database.reading() as session:
        mine = select(Job.output).where(Job.id == id, Job.account_id == account_id)
        output = session.scalar(mine.where(Job.state == JobState.READY))
    try:
        return state.store.get(output or "")
    except KeyError as error:
        raise InputError("names no result of yours that is still kept; hand in the picture") from error


def _is_address(text: str) -> bool:
    return text[:16].lstrip().lower().startswith(("http://", "https://"))

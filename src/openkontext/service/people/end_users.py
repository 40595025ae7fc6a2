"""Those whom an account edits for: it names each by a word of its own, of which a keyed hash is kept."""

import hmac
import time
from collections.abc import Iterable

from sqlalchemy.orm import Session

from openkontext.errors import InputError
from openkontext.service.rejections import Refused
from openkontext.service.settings import Settings
from openkontext.service.storage.models import EndUser, Standing

MAX_NAME = 512
"""Characters of a name that routes take; OpenAI's documents allow 64."""


def chosen(names: Iterable[str | None]) -> str | None:
    """The first name that was given; an empty one is none."""
    return next((name for name in names if name), None)


def hashed(settings: Settings, account_id: str, name: str) -> str:
    """What stands for a name in the database: it tells nothing of it, and differs between accounts."""
    message = f"{account_id} {name}".encode("utf-8", "surrogatepass")
    return hmac.new(settings.key("end users"), message, "sha256").hexdigest()


def find_end_user(session: Session, settings: Settings, account_id: str, name_or_id: str) -> str:
    """The id of an end user that a filter refused something, by it or by the account's name for them.

    Raises:
        InputError: there is none.
    """
    for identifier in (name_or_id, hashed(settings, account_id, name_or_id)):
        if session.get(EndUser, (account_id, identifier)) is not None:
            return identifier
    raise InputError(f"no end user {name_or_id!r} of this account was ever refused; see the audit log")


def check_standing(session: Session, account_id: str, identifier: str, name: str) -> None:
    """Refuse what is asked for someone who is suspended or banned; the account's others go on.

    Raises:
        Refused: 403, with the name as the account gave it.
    """
    found = session.get(EndUser, (account_id, identifier))
    if found is None or found.standing not in (Standing.SUSPENDED, Standing.BANNED):
        return
    if found.standing_until is not None and found.standing_until < time.time():
        return
    raise Refused(
        403,
        f"the end user {name[:64]!r} is {found.standing} ({found.standing_reason}); "
        "requests for others go on. Appeal: POST /v1/appeals",
    )

"""Accounts and their keys: making, checking, consent, credit, standing."""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from openkontext.errors import InputError
from openkontext.service.fetching import is_public
from openkontext.service.people.service_audit import Audit
from openkontext.service.settings import Settings
from openkontext.service.storage.database import now
from openkontext.service.storage.models import (
    Account,
    ApiKey,
    Appeal,
    ConsentRow,
    EndUser,
    PageSession,
    Role,
    Standing,
)
from openkontext.terms import Terms

PREFIX = "ok"
LOCAL = "local"
"""The account of whoever uses a service that has no keys, from the machine it runs on."""
SCOPES = ("edit", "read")
"""What a key may do: submit and cancel edits; see its account's jobs and results."""


@dataclass(frozen=True)
class NewKey:
    """A key as it was made; the only time that it is seen."""

    id: str
    key: str


def add_account(
    session: Session,
    audit: Audit,
    name: str,
    *,
    role: Role = Role.USER,
    credit: int | None = None,
    source: str | None = None,
    actor: str = "cli",
) -> Account:
    """Make an account.

    Raises:
        InputError: the name is taken or empty.
    """
    if not name.strip() or len(name) > 200:
        raise InputError("an account needs a name of 1 to 200 characters")
    created = session.scalar(select(now())) or 0.0
    account = Account(name=name.strip(), role=role, credit=credit, source=source, created=created)
    session.add(account)
    try:
        session.flush()
    except IntegrityError as error:
        raise InputError(f"there is an account {name!r} already; choose another name") from error
    audit.write(session, actor, "account.add", account.id, name=account.name, role=str(role), credit=credit)
    return account


def find_account(session: Session, name_or_id: str) -> Account:
    """An account by its name or identifier.

    Raises:
        InputError: there is none.
    """
    found = select(Account).where((Account.name == name_or_id) | (Account.id == name_or_id))
    account = session.scalar(found)
    if account is None:
        raise InputError(f"there is no account {name_or_id!r}; see openkontext accounts list")
    return account


def local_account(session: Session) -> Account:
    """The account of a service without keys, made when first asked for."""
    account = session.scalar(select(Account).where(Account.name == LOCAL))
    if account is None:
        created = session.scalar(select(now())) or 0.0
        account = Account(name=LOCAL, role=Role.ADMIN, created=created)
        session.add(account)
        session.flush()
    return account


def make_key(
    session: Session,
    audit: Audit,
    account: Account,
    *,
    label: str = "",
    scopes: Sequence[str] = SCOPES,
    requests_per_minute: int | None = None,
    actor: str = "cli",
) -> NewKey:
    """Make a key for an account. The key has 256 random bits, so a plain hash of it tells nothing.

    Raises:
        InputError: a scope is unknown.
    """
    if unknown := set(scopes) - set(SCOPES):
        raise InputError(f"scope {sorted(unknown)[0]!r} is unknown; choose of {', '.join(SCOPES)}")
    identifier, key = secrets.token_hex(6), secrets.token_urlsafe(32)
    key = f"{PREFIX}_{identifier}_{key}"
    session.add(
        ApiKey(
            id=identifier,
            account_id=account.id,
            hash=_hash(key),
            scopes=list(scopes),
            label=label,
            requests_per_minute=requests_per_minute,
            created=session.scalar(select(now())) or 0.0,
        )
    )
    session.flush()
    audit.write(session, actor, "key.create", account.id, key=identifier, scopes=list(scopes))
    return NewKey(identifier, key)


def check_key(session: Session, key: str) -> ApiKey | None:
    """The key's row if it is one and was not revoked."""
    parts = key.split("_", 2)
    if len(parts) != 3 or parts[0] != PREFIX:
        return None
    row = session.get(ApiKey, parts[1])
    if row is None or not hmac.compare_digest(row.hash, _hash(key)) or row.revoked is not None:
        return None
    return row


def revoke_key(session: Session, audit: Audit, identifier: str, *, actor: str = "cli") -> None:
    """Make a key useless from now on, and end the page sessions opened with it.

    Raises:
        InputError: there is no such key.
    """
    row = session.get(ApiKey, identifier)
    if row is None:
        raise InputError(f"there is no key {identifier!r}; see openkontext keys list")
    session.execute(update(ApiKey).where(ApiKey.id == identifier).values(revoked=now()))
    for page_session in session.scalars(select(PageSession).where(PageSession.key_id == identifier)):
        session.delete(page_session)
    audit.write(session, actor, "key.revoke", row.account_id, key=identifier)


def had_keys(session: Session) -> bool:
    """Whether there ever was a key, also one that was revoked since."""
    return session.scalar(select(ApiKey.id).limit(1)) is not None


def keys_exist(session: Session) -> bool:
    """Whether any key can be used."""
    return session.scalar(select(ApiKey.id).where(ApiKey.revoked.is_(None)).limit(1)) is not None


def has_accepted(session: Session, account_id: str, terms: Terms) -> bool:
    """Whether an account accepted this version of the terms, word for word."""
    return session.get(ConsentRow, (account_id, _version(terms))) is not None


def accept_terms(session: Session, audit: Audit, account_id: str, terms: Terms) -> None:
    """Note that an account accepts a version of the terms; a second time changes nothing."""
    if has_accepted(session, account_id, terms):
        return
    time = session.scalar(select(now())) or 0.0
    session.add(ConsentRow(account_id=account_id, version=_version(terms), accepted=time))
    session.flush()
    audit.write(session, account_id, "terms.accept", account_id, version=_version(terms))


def _version(terms: Terms) -> str:
    """Version and digest of terms, as the database keeps them."""
    return f"{terms.version} sha256:{terms.digest}"


def add_credit(session: Session, audit: Audit, account: Account, amount: int, *, actor: str = "cli") -> None:
    """Give an account credits, or take them with a negative amount; then it is no longer unlimited."""
    left = max(0, (account.credit or 0) + amount)
    session.execute(update(Account).where(Account.id == account.id).values(credit=left))
    audit.write(session, actor, "account.credit", account.id, amount=amount, left=left)


def note_source(session: Session, settings: Settings, account_id: str, address: str) -> None:
    """Note the network that an account is used from, as a keyed hash; private networks say nothing.

    Args:
        session: to write in.
        settings: of the service.
        account_id: whose.
        address: IP address of the client.
    """
    try:
        if not is_public(address):
            return
    except ValueError:
        return  # no IP address, as over a socket in a file
    bits = 24 if ipaddress.ip_address(address).version == 4 else 48
    network = str(ipaddress.ip_network(f"{address}/{bits}", strict=False))
    source = hmac.new(settings.key("sources"), network.encode(), "sha256").hexdigest()
    other = or_(Account.source.is_(None), Account.source != source)
    session.execute(update(Account).where(Account.id == account_id, other).values(source=source))


def decide_appeal(
    session: Session, audit: Audit, appeal_id: str, *, grant: bool, reason: str, actor: str = "cli"
) -> Appeal:
    """Decide about an appeal; one that is granted restores the account.

    Raises:
        InputError: there is no such appeal, or it is decided.
    """
    appeal = session.get(Appeal, appeal_id, with_for_update=True)
    if appeal is None or appeal.decided is not None:
        raise InputError(f"there is no open appeal {appeal_id!r}; see openkontext accounts appeals")
    appeal.decided, appeal.decided_by = session.scalar(select(now())), actor
    appeal.granted, appeal.reason = grant, reason
    session.flush()
    if grant:
        set_standing(session, audit, appeal.account_id, Standing.GOOD, f"appeal: {reason}", actor=actor)
    decision = "grant" if grant else "reject"
    audit.write(session, actor, f"appeal.{decision}", appeal.account_id, appeal=appeal.id, reason=reason)
    return appeal


def set_standing(
    session: Session,
    audit: Audit,
    account_id: str,
    standing: Standing,
    reason: str,
    *,
    end_user: str | None = None,
    until: float | None = None,
    actor: str = "cli",
) -> None:
    """Warn, suspend, ban or restore an account, or one of its end users (`EndUser.id`).

    After a person did, rules look only at what comes later.
    """
    values: dict[str, Any] = {"standing": standing, "standing_reason": reason, "standing_until": until}
    if actor != "rules":
        values["judged_from"] = session.scalar(select(now()))
    change = update(Account).where(Account.id == account_id)
    if end_user is not None:
        change = update(EndUser).where(EndUser.account_id == account_id, EndUser.id == end_user)
    session.execute(change.values(**values))
    kind, subject = in_audit(account_id, end_user)
    audit.write(session, actor, f"{kind}.{standing}", subject, reason=reason, until=until)


def in_audit(account_id: str, end_user: str | None = None) -> tuple[str, str]:
    """What the audit log calls an account or its end user: the first word of actions, and the subject."""
    return ("end_user", f"{account_id}/{end_user}") if end_user else ("account", account_id)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()

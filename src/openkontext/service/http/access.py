"""Who makes a request: a key, someone signed in on the page, or the machine's own user."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from openkontext.service.http.answers import OPENAI
from openkontext.service.http.state import State, get_state
from openkontext.service.people import accounts
from openkontext.service.people.service_terms import service_terms
from openkontext.service.rejections import Refused
from openkontext.service.settings import LOOPBACK, Settings
from openkontext.service.storage.database import now
from openkontext.service.storage.models import Account, ApiKey, PageSession, Role, Standing

COOKIE = "openkontext_session"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Caller:
    """Who makes a request."""

    account_id: str
    name: str
    role: Role
    key_id: str | None
    scopes: tuple[str, ...]
    csrf: str | None = None
    """Token that the page must send with what changes something."""

    @property
    def is_local(self) -> bool:
        """Whether this is the machine's own user, of whom no key and no terms are asked."""
        return self.key_id is None and self.csrf is None


# They document for clients how a key is sent; `_identify` reads it.
HEADER = Security(APIKeyHeader(name="x-key", auto_error=False))
_BEARER = Security(HTTPBearer(auto_error=False))


@dataclass(frozen=True)
class Needs:
    """A dependency: who makes a request, if they may make it. `KeyFirst` asks before the body is read.

    Args:
        terms: whether the terms must be accepted.
        barred: standings that keep out.
        scope: that the key must have, one of `accounts.SCOPES`.
        role: that the account must have at least.
    """

    terms: bool = True
    barred: tuple[Standing, ...] = (Standing.SUSPENDED, Standing.BANNED)
    scope: str | None = None
    role: Role | None = None

    def __call__(self, request: Request, _header: Any = HEADER, _bearer: Any = _BEARER) -> Caller:
        """Who makes a request.

        Raises:
            Refused: 403 (401 for OpenAI's clients), with what to do.
        """
        known: dict[Needs, Caller] = request.scope.setdefault("openkontext.callers", {})
        if self not in known:
            known[self] = self._check(request)
        return known[self]

    def _check(self, request: Request) -> Caller:
        state = get_state(request)
        check_origin(request)
        with state.database.reading() as session:
            caller = _identify(request, session, state)
            if caller is None:
                status = 401 if request.url.path.startswith(OPENAI) else 403
                raise Refused(status, "Not authenticated: send a valid key in the header x-key")
        with state.database.reading() as session:  # a new one: the local account may have been made now
            _check_standing(session, caller, self.barred)
            if self.terms and not caller.is_local:  # the terms are those of the local user
                _check_terms(session, caller, state.settings)
        if self.scope is not None and self.scope not in caller.scopes:
            raise Refused(403, f"this key may not {self.scope}; ask for one with that scope")
        if self.role is not None and not caller.role.includes(self.role):
            raise Refused(403, f"this needs the role {self.role}")
        return caller


identify = Needs(terms=False, barred=())
"""A dependency: anyone with a key, whatever they did or did not accept."""


def may(scope: str, *, suspended: bool = False) -> Needs:
    """A dependency: the caller may use the service, with a key of this scope.

    Args:
        scope: one of `accounts.SCOPES`.
        suspended: whether a suspended account may, too; it always may read.
    """
    if suspended or scope == "read":
        return Needs(scope=scope, barred=(Standing.BANNED,))
    return Needs(scope=scope)


def has_role(role: Role) -> Needs:
    """A dependency: the caller has at least this role."""
    return Needs(role=role)


class KeyFirst(APIRoute):
    """A route that asks who is there before it reads the body of a request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, behind what its dependencies need."""
        handle = super().get_route_handler()
        needs = [each.call for each in self.dependant.dependencies if isinstance(each.call, Needs)]

        async def ask_first(request: Request) -> Response:
            for need in needs:
                await run_in_threadpool(need, request)
            return await handle(request)

        return ask_first


def _identify(request: Request, session: Session, state: State) -> Caller | None:
    key = request.headers.get("x-key")
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if key is None and scheme.lower() == "bearer":
        key = token.strip()
    if key is not None and (row := accounts.check_key(session, key)):
        return _caller(row.account, row.id, tuple(row.scopes))
    if cookie := request.cookies.get(COOKIE):
        found = session.get(PageSession, _hash(cookie))
        if found is not None and found.expires > time.time():
            csrf = csrf_token(state.settings, cookie)
            sent = request.headers.get("x-csrf-token", "")
            if request.method not in SAFE_METHODS and not hmac.compare_digest(csrf, sent):
                raise Refused(403, "the page is out of date; load it again")
            return _caller(found.account, found.key_id, _scopes(session, found.key_id), csrf)
    forwarded = "x-forwarded-for" in request.headers or "forwarded" in request.headers
    if is_open(session, state.settings) and not forwarded:
        known = session.scalar(select(Account).where(Account.name == accounts.LOCAL))
        if known is not None:
            return _caller(known, None, accounts.SCOPES)
        with state.database.transaction() as writing:
            return _caller(accounts.local_account(writing), None, accounts.SCOPES)
    return None


def _scopes(session: Session, key_id: str | None) -> tuple[str, ...]:
    """What a session of the page may do: no more than the key that it was opened with."""
    key = session.get(ApiKey, key_id) if key_id else None
    return tuple(key.scopes) if key else ()


def _caller(account: Account, key_id: str | None, scopes: tuple[str, ...], csrf: str | None = None) -> Caller:
    return Caller(account.id, account.name, Role(account.role), key_id, scopes, csrf)


def is_open(session: Session, settings: Settings) -> bool:
    """Whether the service never had a key and only this machine reaches it: then no key is asked for.

    To revoke the last key does not open it again, and neither is it open behind a proxy.
    """
    return settings.is_loopback and not settings.public_url and not accounts.had_keys(session)


def check_origin(request: Request) -> None:
    """Refuse what another site's page sends through a visitor's browser, which names its origin.

    Raises:
        Refused: 403.
    """
    if request.method in SAFE_METHODS:
        return
    # Browsers tell where a request comes from in one of two headers, which no page can change.
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refused(403, "requests from other sites' pages are not taken")
    origin = request.headers.get("origin")
    if origin is None:
        return
    public = urlsplit(get_state(request).settings.public_url).netloc
    if urlsplit(origin).netloc not in (request.headers.get("host"), public):
        raise Refused(403, "requests from other sites' pages are not taken")


def _check_terms(session: Session, caller: Caller, settings: Settings) -> None:
    if not accounts.has_accepted(session, caller.account_id, service_terms(settings)):
        version = settings.terms_version
        raise Refused(403, f"accept the terms first, version {version}: GET /v1/terms, POST /v1/consent")


def _check_standing(session: Session, caller: Caller, barred: tuple[Standing, ...]) -> None:
    account = session.get_one(Account, caller.account_id)
    over = account.standing_until is not None and account.standing_until < time.time()
    if account.standing not in barred or over:
        return
    what = "it can read, download and delete its edits" if account.standing == Standing.SUSPENDED else ""
    parts = [f"this account is {account.standing} ({account.standing_reason})", what, remedy(caller)]
    raise Refused(403, "; ".join(part for part in parts if part))


def remedy(caller: Caller) -> str:
    """What lifts a suspension: the owner of the machine decides it, others ask them."""
    if caller.is_local:
        return f'lift it: openkontext accounts standing {caller.name} good --reason "..."'
    return "appeal: POST /v1/appeals"


def sign_in(state: State, key: str) -> tuple[str, Caller] | None:
    """Open a session of the page with a key; returns its cookie and who it is, None for a wrong key."""
    with state.database.transaction() as session:
        row = accounts.check_key(session, key)
        if row is None:
            return None
        cookie = secrets.token_urlsafe(32)
        expires = time.time() + state.settings.session_hours * 3600
        session.add(
            PageSession(hash=_hash(cookie), account_id=row.account_id, key_id=row.id, expires=expires)
        )
        row.last_used = session.scalar(select(now()))
        csrf = csrf_token(state.settings, cookie)
        return cookie, _caller(row.account, row.id, tuple(row.scopes), csrf)


def sign_out(state: State, cookie: str) -> None:
    """End a session of the page."""
    with state.database.transaction() as session:
        session.execute(update(PageSession).where(PageSession.hash == _hash(cookie)).values(expires=0.0))


def csrf_token(settings: Settings, cookie: str) -> str:
    """The token that belongs to a session's cookie."""
    return hmac.new(settings.key("csrf"), cookie.encode(), "sha256").hexdigest()


def allowed_hosts(settings: Settings) -> list[str]:
    """Names by which the service may be called; a page elsewhere whose name leads here is none of them."""
    public = urlsplit(settings.public_url).hostname
    named = [*settings.allowed_hosts, *([public] if public else [])]
    if not settings.is_loopback and not named:
        return ["*"]  # keys are asked for then, and a rebound name carries none
    return [*LOOPBACK, "[::1]", *named]


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()

"""From a request in any of the API's forms to an accepted job."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from openkontext.errors import InputError
from openkontext.request import EditRequest
from openkontext.service import end_users, jobs
from openkontext.service.access import Caller
from openkontext.service.accounts import note_source
from openkontext.service.decoding import check_picture
from openkontext.service.fetching import check_url, fetch
from openkontext.service.models import Job
from openkontext.service.sealing import seal
from openkontext.service.settings import Settings
from openkontext.service.state import State, get_state
from openkontext.service.store import keep

DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.ASCII)
MAX_RATIO = 21 / 9


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An edit as a client asks for it."""

    model: str
    options: dict[str, Any]
    """For `EditRequest`, and `output_format` and `safety_tolerance`."""
    pictures: Sequence[bytes | str] = ()
    """Bytes, or base64, or addresses; the one to edit first."""
    mask: bytes | str | None = None
    alpha_is_mask: bool = False
    end_user: str | None = None
    """Whom it is for, by the account's own name for them."""
    parent_id: str | None = None
    edits_parent: bool = False
    """The picture to edit is the parent's result; `pictures` are the further ones."""
    webhook_url: str | None = None
    webhook_secret: str | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = field(default=None)


def submit(request: Request, caller: Caller, asked: Asked) -> Job:
    """Accept an edit.

    Raises:
        InputError: a value or a picture cannot be used.
        NotAccepted: no credit, too many requests or jobs, a full queue, or an idempotency key used otherwise.
        Refused: 403: the end user that it is for is suspended.
    """
    state = get_state(request)
    settings, database = state.settings, state.database
    _check_options(asked)
    if asked.webhook_url is not None:
        _named("webhook_url", check_url, asked.webhook_url, settings)
    end_user = end_users.hashed(settings, caller.account_id, asked.end_user) if asked.end_user else None
    with database.transaction() as session:
        fingerprint = asked.fingerprint or _fingerprint(asked)
        if job := jobs.repeated(session, caller.account_id, asked.idempotency_key, fingerprint):
            return job
        if asked.end_user and end_user:
            end_users.check_standing(session, caller.account_id, end_user, asked.end_user)
        if caller.key_id is not None:
            jobs.take_turn(session, settings, caller.key_id)
        jobs.check_room(session, settings, caller.account_id)
    # Reading pictures can take long: no transaction is open meanwhile.
    inputs = [
        _store(state, picture, "input_image" if index == 1 else f"input_image_{index}")
        for index, picture in enumerate(asked.pictures, 2 if asked.edits_parent else 1)
    ]
    if asked.parent_id is not None:
        parent = _parent(state, caller, asked.parent_id)
        inputs = [parent, *inputs] if asked.edits_parent else inputs
    mask = None
    if asked.mask is not None:
        mask = _store(state, asked.mask, "mask", alpha_is_mask=asked.alpha_is_mask)
    submission = jobs.Submission(
        account_id=caller.account_id,
        key_id=caller.key_id,
        model=asked.model,
        asked=asked.options,
        inputs=inputs,
        mask=mask,
        end_user=end_user,
        parent_id=asked.parent_id,
        base_url=base_url(request, settings),
        webhook_url=asked.webhook_url,
        webhook_secret=seal(settings, asked.webhook_secret) if asked.webhook_secret else None,
        idempotency_key=asked.idempotency_key,
        fingerprint=fingerprint if asked.idempotency_key else None,
    )
    with database.transaction() as session:
        if request.client is not None:
            note_source(session, settings, caller.account_id, request.client.host)
        return jobs.submit(session, settings, submission)


def _parent(state: State, caller: Caller, parent_id: str) -> str:
    """Digest of the result of the caller's own task."""
    with state.database.reading() as session:
        job = session.get(Job, parent_id) if "\0" not in parent_id else None
        if job is None or job.account_id != caller.account_id or job.output is None:
            raise InputError("parent_id: you have no task of that id with a result; name one that is ready")
        return job.output


def parse_ratio(text: str) -> list[int]:
    """Width and height of an aspect ratio such as "16:9".

    Raises:
        InputError: it is none, or not between 21:9 and 9:21.
    """
    match = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text, re.ASCII)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (width and height and 1 / MAX_RATIO <= width / height <= MAX_RATIO):
        raise InputError(f"aspect_ratio: {text[:20]!r} is none between 21:9 and 9:21; give one such as 16:9")
    return [width, height]


def base_url(request: Request, settings: Settings) -> str:
    """How the client reaches the service."""
    return settings.public_url.rstrip("/") or str(request.base_url).rstrip("/")


def _check_options(asked: Asked) -> None:
    """Check what `EditRequest` checks, so that the client hears of it at once."""
    options = asked.options
    ratio = options.get("aspect_ratio")
    EditRequest(
        prompt=options["prompt"],
        image=b"" if asked.pictures or asked.edits_parent else None,
        mask_image=b"" if asked.mask is not None else None,
        num_inference_steps=options.get("steps"),
        guidance_scale=options.get("guidance"),
        seed=options.get("seed"),
        width=options.get("width"),
        height=options.get("height"),
        aspect_ratio=(ratio[0], ratio[1]) if ratio else None,
        fit=options.get("fit", "stretch"),
    )


def _store(state: State, picture: bytes | str, name: str, *, alpha_is_mask: bool = False) -> str:
    content = _bytes(picture, name, state.settings)
    decoded = check_picture(content, state.settings, name, alpha_is_mask=alpha_is_mask)
    return keep(state.database, state.store, decoded.content)


def _bytes(picture: bytes | str, name: str, settings: Settings) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if picture[:8].lower().startswith(("http://", "https://")):
        content: bytes = _named(name, fetch, picture, settings, settings.max_upload_bytes)
        return content
    if match := DATA_URL.match(picture):
        picture = picture[match.end() :]
    try:
        return base64.b64decode(picture.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{name}: is neither base64 nor an address; give one of them") from error


def _named(name: str, act: Any, *arguments: Any) -> Any:
    try:
        return act(*arguments)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _fingerprint(asked: Asked) -> str:
    digest = hashlib.sha256()
    parts = [
        asked.model,
        json.dumps(asked.options, sort_keys=True),
        asked.webhook_url or "",
        asked.mask or "",
        asked.parent_id or "",
        asked.end_user or "",
    ]
    for part in (*parts, *asked.pictures):
        content = part if isinstance(part, bytes) else part.encode()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()

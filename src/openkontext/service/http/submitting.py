"""From what a client asks for to accepted jobs: all that a request asks for, or none."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request

from openkontext.errors import FieldError, InputError
from openkontext.service.fetching import check_url
from openkontext.service.http.access import Caller
from openkontext.service.http.asking import Asked, HandedPicture, check_count
from openkontext.service.http.decoding import MaskKind
from openkontext.service.http.pictures import KeptPicture, own_result, store_picture
from openkontext.service.http.state import State, get_state
from openkontext.service.people import end_users
from openkontext.service.people.accounts import note_source
from openkontext.service.queue import jobs, owned
from openkontext.service.queue.job_options import edit_request
from openkontext.service.rejections import WrongInputError
from openkontext.service.settings import Settings
from openkontext.service.storage.models import Job
from openkontext.service.storage.sealing import seal

SEEDS = 2**64


def submit(request: Request, caller: Caller, asked: Asked, count: int = 1) -> list[Job]:
    """Accept an edit, or several of it that differ in their seed: all of them, or none.

    Raises:
        InputError: a value or a picture cannot be used.
        NotAccepted: no credit, too many requests or jobs, a full queue, or an idempotency key used otherwise.
        Refused: 403: the end user that it is for is suspended.
    """
    state = get_state(request)
    settings, database = state.settings, state.database
    _check(asked, settings, masked=asked.mask is not None or asked.alpha_may_mask)
    keys = _keys(asked.idempotency_key, count)
    fingerprint = _fingerprint(asked, count) if asked.idempotency_key else None
    end_user = end_users.hashed(settings, caller.account_id, asked.end_user) if asked.end_user else None
    with database.transaction() as session:
        before = [jobs.repeated(session, caller.account_id, key, fingerprint) for key in keys]
        if found := [job for job in before if job is not None]:
            return found
        if asked.end_user and end_user:
            end_users.check_standing(session, caller.account_id, end_user, asked.end_user)
        if caller.key_id is not None:
            jobs.take_turn(session, settings, caller.key_id, count)
        jobs.check_room(session, settings, caller.account_id, count)
    # Reading pictures can take long: no transaction is open meanwhile.
    submission = replace(
        _submission(request, state, caller, asked), end_user=end_user, fingerprint=fingerprint
    )
    with database.transaction() as session:
        if request.client is not None:
            note_source(session, settings, caller.account_id, request.client.host)
        return [
            jobs.submit(session, settings, submission.variant(key, _varied(asked, index)))
            for index, key in enumerate(keys)
        ]


def base_url(request: Request, settings: Settings) -> str:
    """How the client reaches the service."""
    return settings.public_url.rstrip("/") or str(request.base_url).rstrip("/")


def _check(asked: Asked, settings: Settings, masked: bool) -> None:
    """Check all that can be checked before pictures are read, so that the client hears of it at once."""
    pictures = asked.pictures or asked.edits_parent
    try:
        edit_request(
            asked.options,
            image=b"" if pictures else None,
            mask_image=b"" if masked else None,
        )
    except FieldError as error:
        name = asked.called.get(error.field, error.field)
        raise WrongInputError(name, error.reason) from error
    for name in asked.options.get("loras") or ():
        if name not in settings.loras:
            known = f"choose one of {', '.join(sorted(settings.loras))}" if settings.loras else "it has none"
            raise WrongInputError("loras", f"{name[:60]!r} is no LoRA of this service; {known}")
    check_count([*([HandedPicture("parent_id", "")] if asked.edits_parent else []), *asked.pictures])
    if asked.webhook_url is not None:
        try:
            check_url(asked.webhook_url, settings)
        except InputError as error:
            raise WrongInputError("webhook_url", str(error)) from error


def _submission(request: Request, state: State, caller: Caller, asked: Asked) -> jobs.Submission:
    """The pictures read and kept, and all that is known of the request."""
    url = base_url(request, state.settings)
    hosts = {urlsplit(each).netloc.lower() for each in (url, str(request.base_url))}
    account_id, parent_id = caller.account_id, asked.parent_id
    stored = [store_picture(state, account_id, hosts, picture) for picture in asked.pictures]
    if parent_id is not None:
        parent = _parent(state, caller, parent_id)
        stored = [parent, *stored] if asked.edits_parent else stored
    elif asked.pictures:
        parent_id = own_result(account_id, hosts, asked.pictures[0].content)
    _check_room_around(asked, stored, state.settings)
    mask = None
    if asked.mask is not None:
        kind: MaskKind = "hole" if asked.mask_is_alpha else "any"
        mask = store_picture(state, account_id, hosts, asked.mask, mask=kind).digest
    elif asked.alpha_may_mask and stored and stored[0].has_hole:
        mask = stored[0].digest
    elif asked.alpha_may_mask:
        _check(asked, state.settings, masked=False)
    return jobs.Submission(
        account_id=account_id,
        key_id=caller.key_id,
        model=asked.model,
        asked={},
        inputs=[picture.digest for picture in stored],
        mask=mask,
        parent_id=parent_id,
        base_url=url,
        webhook_url=asked.webhook_url,
        webhook_secret=seal(state.settings, asked.webhook_secret) if asked.webhook_secret else None,
    )


def _varied(asked: Asked, index: int) -> dict[str, Any]:
    """What a job keeps of the options; each further one of a request has the next seed."""
    kept = dict(asked.options)
    if index and kept.get("seed") is not None:
        kept["seed"] = (kept["seed"] + index) % SEEDS
    if asked.warnings:
        kept["warnings"] = list(asked.warnings)
    return kept


def _keys(key: str | None, count: int) -> list[str | None]:
    """The idempotency key of each job: the client's own for the first one."""
    return [key if key is None or index == 0 else f"{key}/{index}" for index in range(count)]


def _check_room_around(asked: Asked, pictures: Sequence[KeptPicture], settings: Settings) -> None:
    """Refuse a picture that would be larger than the service reads, with what is added at its sides."""
    if added := asked.options.get("extend"):
        width, height = pictures[0].size
        width += added.get("left", 0) + added.get("right", 0)
        height += added.get("top", 0) + added.get("bottom", 0)
        if width * height > settings.max_pixels:
            reason = f"makes {width}x{height} pixels; at most {settings.max_pixels} can be made"
            raise WrongInputError("extend", reason)


def _parent(state: State, caller: Caller, parent_id: str) -> KeptPicture:
    """The result of the caller's own task."""
    with state.database.reading() as session:
        job = owned.own(session, caller.account_id, parent_id)
        if job is None or job.output is None:
            reason = "you have no task of that id with a result; name one that is ready"
            raise WrongInputError("parent_id", reason)
        made = job.result or {}
        return KeptPicture(job.output, (int(made.get("width", 0)), int(made.get("height", 0))))


def _fingerprint(asked: Asked, count: int) -> str:
    digest = hashlib.sha256()
    said = [
        asked.model, dict(asked.options), asked.webhook_url, asked.parent_id, asked.mask_is_alpha,
        asked.end_user, count,
    ]  # fmt: skip
    digest.update(json.dumps(said, sort_keys=True).encode())
    for picture in (*asked.pictures, *([asked.mask] if asked.mask else [])):
        content = picture.content if isinstance(picture.content, bytes) else picture.content.encode()
        digest.update(hashlib.sha256(f"{picture.name} ".encode() + content).digest())
    return digest.hexdigest()

"""`openkontext review`: requests that wait for a person."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openkontext.cli import console, options
from openkontext.errors import InputError

if TYPE_CHECKING:
    from openkontext.safety.review.queue import HeldRequest, ReviewQueue

app = typer.Typer(help="Requests that wait for a person.", no_args_is_help=True)

Request = Annotated[str, typer.Argument(metavar="REQUEST", help="Its id, or the beginning of it.")]
Reviewer = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Who decides; your account's name when left out.")
]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; it goes into the audit log.")]


@app.command("list")
def list_requests(
    state: Annotated[
        str, typer.Option(metavar="STATE", help="held, approved, rejected, expired or all.")
    ] = "held",
    profile: options.Profile = None,
    json: options.Json = False,
) -> None:
    """List requests, the oldest first."""
    from openkontext.safety.review.queue import STATES

    if state not in (*STATES, "all"):
        raise InputError(f"--state {state!r} is unknown; choose {', '.join(STATES)} or all")
    found = _queue(profile).requests(None if state == "all" else state)
    if json:
        console.print_json({"requests": [_record(request) for request in found]})
        return
    for request in found:
        time, category = f"{request.created:%Y-%m-%d %H:%M}", request.verdict.get("category") or "-"
        print(f"{request.id[:8]}  {request.state:8}  {time}  {category:16}  {request.prompt}")
    if not found:
        print(f"no request is {state}" if state != "all" else "there are no requests")


@app.command("show")
def show(
    request: Request,
    pictures: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write the pictures there, small and blurred.")
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Not blurred; the audit log records that you asked.")
    ] = False,
    reviewer: Reviewer = None,
    profile: options.Profile = None,
    json: options.Json = False,
) -> None:
    """Show one request, what the filters said, and what was done with it."""
    queue = _queue(profile)
    found = queue.get(request)
    written: list[str] = []
    if clear and pictures is None:
        raise InputError("--clear needs --pictures, a folder to write them to")
    if pictures is not None:
        written = _write_pictures(queue, found, Path(pictures), reviewer or getpass.getuser(), clear)
    log = [
        {"time": f"{each.time:%Y-%m-%d %H:%M:%S}", "actor": each.actor, "action": each.action, **each.detail}
        for each in queue.audit(found.id)
    ]
    if faults := queue.audit_faults():
        console.show_notes((), [f"the audit log was tampered with: {fault}" for fault in faults])
    if json:
        console.print_json({**_record(found), "pictures_written": written, "log": log, "faults": faults})
        return
    print(f"request   {found.id} ({found.state}; {len(found.decisions)} of {found.approvals_needed} decided)")
    print(f"asked     {found.prompt!r} by {found.requester or 'nobody named'}")
    print(f"because   {found.verdict.get('category') or 'every result is reviewed'}")
    print(f"until     {found.expires:%Y-%m-%d %H:%M} UTC")
    for name in written:
        print(f"picture   {name}")
    for entry in log:
        print("log      ", " ".join(str(value) for value in entry.values()))


@app.command("approve")
def approve(
    request: Request, reason: Reason, reviewer: Reviewer = None, profile: options.Profile = None
) -> None:
    """Approve a request: asked again, it goes on."""
    _decide(request, reviewer, profile, approve=True, reason=reason)


@app.command("reject")
def reject(
    request: Request, reason: Reason, reviewer: Reviewer = None, profile: options.Profile = None
) -> None:
    """Reject a request."""
    _decide(request, reviewer, profile, approve=False, reason=reason)


def _decide(request: str, reviewer: str | None, profile: str | None, *, approve: bool, reason: str) -> None:
    found = _queue(profile).decide(request, reviewer or getpass.getuser(), approve=approve, reason=reason)
    missing = found.approvals_needed - sum(each.approve for each in found.decisions)
    wait = f"; {missing} more must approve" if found.state == "held" else ""
    print(f"request {found.id[:8]} is {found.state}{wait}")


def _queue(profile: str | None) -> "ReviewQueue":
    """The queue of the deployment's profile, as its editor has it."""
    from openkontext.safety.policy import load_policy
    from openkontext.safety.standard import review_queue

    return review_queue(load_policy(profile))


def _write_pictures(
    queue: "ReviewQueue", request: "HeldRequest", folder: Path, reviewer: str, clear: bool
) -> list[str]:
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for role in request.pictures:
            path = folder / f"{request.id[:8]}-{role.replace(' ', '-')}.png"
            queue.picture(request.id, role, reviewer, clear=clear).save(path)
            written.append(str(path))
    except OSError as error:
        raise InputError(f"{folder}: cannot hold the pictures ({error.strerror}); name a folder") from error
    return written


def _record(request: "HeldRequest") -> dict[str, Any]:
    fields = dict(vars(request))
    fields["created"], fields["expires"] = request.created.isoformat(), request.expires.isoformat()
    fields["decisions"] = [
        {**vars(decision), "time": decision.time.isoformat()} for decision in request.decisions
    ]
    return fields

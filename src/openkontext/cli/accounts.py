"""`openkontext accounts` and `openkontext keys`: who may use the service."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openkontext.cli import console, options
from openkontext.cli.serve import load_settings
from openkontext.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from openkontext.service.people.service_audit import Audit

accounts = typer.Typer(help="Accounts of the editing service.", no_args_is_help=True)
keys = typer.Typer(help="API keys of the editing service.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the account.")]
Reason = Annotated[str, typer.Option(help="Goes into the audit log, and to the account.")]


@contextmanager
def _service() -> "Iterator[tuple[Session, Audit]]":
    """A transaction on the service's database, which the environment names as for `serve`."""
    settings = load_settings()
    from openkontext.service.people.service_audit import Audit
    from openkontext.service.storage.database import Database

    database = Database(settings.database)
    database.migrate()
    with database.transaction() as session:
        yield session, Audit(settings)
    database.close()


@accounts.command("add")
def add(
    name: Name,
    role: Annotated[str, typer.Option(help="user, reviewer or admin.")] = "user",
    credit: Annotated[int | None, typer.Option(help="Credits; unlimited when left out.")] = None,
    json: options.Json = False,
) -> None:
    """Make an account."""
    with _service() as (session, audit):
        from openkontext.service.people.accounts import add_account
        from openkontext.service.storage.models import Role

        if role not in list(Role):
            raise InputError(f"--role {role!r} is unknown; choose {', '.join(Role)}")
        account = add_account(session, audit, name, role=Role(role), credit=credit)
        _show({"account": account.name, "id": account.id, "role": account.role}, json)


@accounts.command("list")
def list_accounts(json: options.Json = False) -> None:
    """List accounts with their standing and credit."""
    with _service() as (session, _):
        from sqlalchemy import select

        from openkontext.service.storage.models import Account

        rows = [
            {
                "account": account.name,
                "role": account.role,
                "standing": account.standing,
                "credit": account.credit,
            }
            for account in session.scalars(select(Account).order_by(Account.name))
        ]
    if json:
        console.print_json({"accounts": rows})
    for row in [] if json else rows:
        credit = "unlimited" if row["credit"] is None else row["credit"]
        print(f"{row['account']:<24} {row['role']:<9} {row['standing']:<10} credit {credit}")


@accounts.command("credit")
def credit(name: Name, amount: Annotated[int, typer.Argument(help="Credits to add.")]) -> None:
    """Give an account credits; take them with a negative number after `--`."""
    with _service() as (session, audit):
        from openkontext.service.people.accounts import add_credit, find_account

        account = find_account(session, name)
        add_credit(session, audit, account, amount)
        session.refresh(account)
        print(f"{name}: credit {account.credit}")


@accounts.command("standing")
def standing(
    name: Name,
    to: Annotated[str, typer.Argument(metavar="STANDING", help="good, warned, suspended or banned.")],
    reason: Reason,
    end_user: Annotated[
        str | None,
        typer.Option(
            help="Decide about this end user of the account: their name, or the id that stands for it."
        ),
    ] = None,
) -> None:
    """Warn, suspend, ban or restore an account, or one of those whom it edits for."""
    with _service() as (session, audit):
        from openkontext.service.people.accounts import find_account, set_standing
        from openkontext.service.people.end_users import find_end_user
        from openkontext.service.storage.models import Standing

        if to not in list(Standing):
            raise InputError(f"standing {to!r} is unknown; choose {', '.join(Standing)}")
        account_id = find_account(session, name).id
        known = find_end_user(session, load_settings(), account_id, end_user) if end_user else None
        set_standing(session, audit, account_id, Standing(to), reason, end_user=known)
        print(f"{name}{'/' + known if known else ''}: {to}")


@accounts.command("appeals")
def appeals(json: options.Json = False) -> None:
    """List appeals that wait for a decision."""
    with _service() as (session, _):
        from sqlalchemy import select

        from openkontext.service.storage.models import Account, Appeal

        waiting = select(Appeal, Account).join(Account, Account.id == Appeal.account_id)
        rows = [
            {
                "id": appeal.id,
                "account": account.name,
                "standing": account.standing,
                "reason": account.standing_reason,
                "text": appeal.text,
            }
            for appeal, account in session.execute(
                waiting.where(Appeal.decided.is_(None)).order_by(Appeal.created)
            )
        ]
    if json:
        console.print_json({"appeals": rows})
    for row in [] if json else rows:
        print(f"{row['id']}  {row['account']}: {row['standing']} ({row['reason']})\n  {row['text']}")


@accounts.command("appeal")
def appeal(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="As `accounts appeals` shows it.")],
    reason: Reason,
    grant: Annotated[bool, typer.Option("--grant/--reject", help="Restore the account, or not.")],
) -> None:
    """Decide about an appeal."""
    with _service() as (session, audit):
        from openkontext.service.people.accounts import decide_appeal

        decide_appeal(session, audit, identifier, grant=grant, reason=reason)
    print(f"{identifier}: {'granted' if grant else 'rejected'}")


@accounts.command("feedback")
def feedback(
    count: Annotated[int, typer.Option(help="Last ones to show.")] = 20, json: options.Json = False
) -> None:
    """Show what people wrote to the operator."""
    with _service() as (session, _):
        from sqlalchemy import select

        from openkontext.service.storage.models import Feedback

        last = session.scalars(select(Feedback).order_by(Feedback.created.desc()).limit(count)).all()
        rows = [
            {"id": one.id, "kind": one.kind, "job": one.job_id, "contact": one.contact, "text": one.text}
            for one in reversed(last)
        ]
    if json:
        console.print_json({"feedback": rows})
    for row in [] if json else rows:
        print(f"{row['kind']}  job {row['job'] or '-'}  {row['contact'] or 'no contact'}\n  {row['text']}")


@accounts.command("audit")
def show_audit(
    count: Annotated[int, typer.Option(help="Last rows to show.")] = 20, json: options.Json = False
) -> None:
    """Show the end of the audit log, and whether anyone changed it."""
    with _service() as (session, audit):
        rows: list[dict[str, Any]] = [vars(entry) for entry in audit.entries(session, count)]
        broken = audit.broken_at(session)
    if json:
        console.print_json({"entries": rows, "broken_at": broken})
    else:
        for row in rows:
            print(*(row[name] for name in ("number", "actor", "action", "subject", "detail")))
    if broken is not None:
        raise InputError(f"the audit log was changed at row {broken}")


@keys.command("create")
def create(
    name: Name,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    scope: Annotated[list[str] | None, typer.Option(help="edit or read; both by default.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Its own rate.")] = None,
    json: options.Json = False,
) -> None:
    """Make a key and show it, this once."""
    with _service() as (session, audit):
        from openkontext.service.people.accounts import SCOPES, find_account, make_key

        account = find_account(session, name)
        made = make_key(
            session,
            audit,
            account,
            label=label,
            scopes=scope or SCOPES,
            requests_per_minute=requests_per_minute,
        )
    _show({"id": made.id, "key": made.key}, json)


@keys.command("list")
def list_keys(json: options.Json = False) -> None:
    """List keys, never the keys themselves."""
    with _service() as (session, _):
        from sqlalchemy import select

        from openkontext.service.storage.models import ApiKey

        rows: list[dict[str, Any]] = [
            {
                "id": key.id,
                "account": key.account.name,
                "label": key.label,
                "scopes": key.scopes,
                "revoked": key.revoked is not None,
            }
            for key in session.scalars(select(ApiKey).order_by(ApiKey.created))
        ]
    if json:
        console.print_json({"keys": rows})
    for row in [] if json else rows:
        state = "revoked" if row["revoked"] else ",".join(row["scopes"])
        print(f"{row['id']}  {row['account']:<24} {state:<10} {row['label']}")


@keys.command("revoke")
def revoke(identifier: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")]) -> None:
    """Make a key useless."""
    with _service() as (session, audit):
        from openkontext.service.people.accounts import revoke_key

        revoke_key(session, audit, identifier)
    print(f"{identifier}: revoked")


def _show(values: dict[str, Any], json: bool) -> None:
    if json:
        console.print_json(values)
    else:
        print(*(f"{name}: {value}" for name, value in values.items()), sep="\n")

import hashlib
import hmac
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from patience import DEAD
from sqlalchemy import select, text, update

from openkontext import InputError
from openkontext.service.people.accounts import add_account
from openkontext.service.people.service_audit import Audit
from openkontext.service.settings import Settings, load_settings
from openkontext.service.storage.database import Database, now
from openkontext.service.storage.models import Account, AuditRecord, Base


def test_the_migrations_make_the_tables_that_the_code_describes(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_processes_that_start_together_migrate_once(database_url: str) -> None:
    program = (
        f"from openkontext.service.storage.database import Database; Database({database_url!r}).migrate()"
    )
    started = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(DEAD) for process in started] == [0, 0, 0]
    database = Database(database_url)
    with database.engine.connect() as connection:
        assert connection.execute(text("select count(*) from alembic_version")).scalar() == 1
    database.close()


def test_the_clock_is_that_of_the_world(database: Database) -> None:
    before = time.time()
    with database.reading() as session:
        told = session.scalar(select(now()))
    assert before - 1 < told < time.time() + 1


def test_a_transaction_is_kept_whole_or_not_at_all(database: Database, audit: Audit) -> None:
    with pytest.raises(InputError), database.transaction() as session:  # noqa: PT012
        add_account(session, audit, "ann")
        add_account(session, audit, "ann")
    with database.reading() as session:
        assert session.scalars(select(Account)).all() == []
        assert audit.count(session) == 0


def test_writers_take_turns(database: Database, audit: Audit) -> None:
    def add(index: int) -> None:
        with database.transaction() as session:
            add_account(session, audit, f"account {index}")

    threads = [threading.Thread(target=add, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as session:
        assert len(session.scalars(select(Account)).all()) == 8
        assert audit.broken_at(session) is None
        assert audit.count(session) == 8


def test_a_changed_or_removed_row_of_the_audit_log_shows(database: Database, audit: Audit) -> None:
    with database.transaction() as session:
        for name in "abcde":
            add_account(session, audit, name)
    with database.transaction() as session:
        session.execute(update(AuditRecord).where(AuditRecord.number == 3).values(actor="someone else"))
        assert audit.broken_at(session) == 3
        session.rollback()
    with database.transaction() as session:
        session.execute(text("delete from audit where number = 2"))
        assert audit.broken_at(session) == 2
        session.rollback()
    with database.reading() as session:
        assert audit.broken_at(session) is None


@pytest.mark.parametrize("url", ["no address", "postgresql://nobody@/none?host=/nowhere"])
def test_a_database_that_cannot_be_used_is_said_in_one_line(url: str) -> None:
    with pytest.raises(InputError, match="database_url"):
        Database(url).migrate()


def test_settings_come_from_the_environment_and_name_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENKONTEXT_PORT", "9000")
    monkeypatch.setenv("OPENKONTEXT_DATA", str(tmp_path))
    assert load_settings().port == 9000
    assert load_settings(port=1234, host=None).port == 1234
    monkeypatch.setenv("OPENKONTEXT_PORT", "many")
    with pytest.raises(InputError, match="setting port"):
        load_settings()


def test_the_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    first, second = load_settings(data=tmp_path), load_settings(data=tmp_path)
    assert first.key("a") == second.key("a") != first.key("b")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_an_audit_log_of_before_is_read_and_goes_on(database: Database, settings: Settings) -> None:
    """Rows as they always were: a seal is an HMAC over the row as JSON and the seal before."""
    rows = [
        (1, 1795968373.4420166, "cli", "account.add", "a1", {"role": "user", "name": "Zoë"}),
        (2, 1795968374.0, "rules", "account.suspended", "a1", {}),
    ]
    bodies = [
        '[1, "1795968373.4420166", "cli", "account.add", "a1", {"name": "Zoë", "role": "user"}, ""]',
        '[2, "1795968374.0", "rules", "account.suspended", "a1", {}, "SEAL"]',
    ]
    seal, key = "", settings.key("audit log")
    with database.transaction() as session:
        for row, body in zip(rows, bodies, strict=True):
            seal = hmac.new(key, body.replace("SEAL", seal).encode(), hashlib.sha256).hexdigest()
            names = ("number", "at", "actor", "action", "subject", "detail")
            values = dict(zip(names, row, strict=True)) | {"detail": json.dumps(row[-1])}
            columns = ", ".join(values)
            given = ", ".join(f":{name}" for name in values)
            session.execute(
                text(f"insert into audit ({columns}, seal) values ({given}, :seal)"), values | {"seal": seal}
            )
    audit = Audit(settings)
    with database.transaction() as session:
        audit.write(session, "cli", "account.good", "a1", reason="seen")
        assert audit.faults(session) == []
        entries = audit.entries(session)
        assert [vars(entry) for entry in entries[:2]] == [
            dict(zip(("number", "at", "actor", "action", "subject", "detail"), row, strict=True))
            for row in rows
        ]
        assert [entry.action for entry in audit.entries(session, 2)] == ["account.suspended", "account.good"]

"""The database: SQLite or PostgreSQL by its address, one clock, migrations."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import Double

from openkontext.errors import InputError

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x6F6B  # of PostgreSQL's advisory locks: "ok"


class now(FunctionElement[float]):
    """The database's own clock in seconds since 1970: one for all machines that share it."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


class Database:
    """Connections to the database of a service.

    Raises:
        InputError: the address is none, or the database cannot be reached.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise InputError("database_url is no address such as sqlite:////path/service.db") from error
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self.engine = create_engine(
            parsed,
            pool_size=10,
            max_overflow=20,
            pool_timeout=120,  # seconds
            pool_pre_ping=not self.is_sqlite,
            hide_parameters=True,  # errors go into logs, which tell no instructions
        )
        # SQLite gives writers their turn as they begin, so that none fails when it first writes.
        self._writer = self.engine.execution_options(writes=True)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session whose work is kept as a whole when the block ends, or not at all."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads, beside writers."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    def migrate(self) -> None:
        """Bring the tables to this version, also when several processes begin at once.

        Raises:
            InputError: the database cannot be reached, or was made by a later version.
        """
        try:
            with self._writer.connect() as connection:
                if not self.is_sqlite:
                    connection.execute(text(f"select pg_advisory_lock({MIGRATION_LOCK})"))
                config = Config()
                config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
                config.attributes["connection"] = connection
                logging.getLogger("alembic").setLevel(logging.WARNING)
                command.upgrade(config, "head")
                connection.commit()
                if not self.is_sqlite:
                    connection.execute(text(f"select pg_advisory_unlock({MIGRATION_LOCK})"))
                    connection.commit()
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", error)).splitlines()[0]
            raise InputError(f"the database cannot be used ({reason}); check database_url") from error

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _set_up_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says
    cursor = connection.cursor()
    cursor.execute("pragma busy_timeout = 120000")  # milliseconds: who writes may stand still
    cursor.execute("pragma journal_mode = wal")
    cursor.execute("pragma synchronous = full")  # what was accepted survives a power cut
    cursor.execute("pragma foreign_keys = on")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("begin immediate" if writes else "begin")

"""A service's parts on both databases; PostgreSQL is a real one, started here in a temporary folder."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import DEAD
from sqlalchemy import create_engine, text

pytest.importorskip("fastapi", reason="the service needs: pip install '.[service]'")

from openkontext.service.people.service_audit import Audit
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database


def _postgres_binaries() -> Path | None:
    found = shutil.which("pg_ctl")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return Path(found).resolve().parent if found else next(iter(folders), None)


class Cluster:
    """A PostgreSQL server of our own, reached over a socket in its folder."""

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="openkontext-pg-"))
        self.user: str | None = None
        if os.geteuid() == 0:  # the server refuses to run as root
            self.user = "postgres" if _has_user("postgres") else "nobody"
            shutil.chown(self.folder, self.user)
        self.run("initdb", "-D", self.folder / "data", "-U", "postgres", "-A", "trust", "--no-sync")
        options = f"-c listen_addresses='' -c fsync=off -k {self.folder}"
        self.run(
            "pg_ctl", "-D", self.folder / "data", "-o", options, "-l", self.folder / "log", "-w", "start"
        )
        self.admin = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        self.count = 0

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def new_database(self) -> str:
        self.count += 1
        name = f"test_{self.count}"
        with self.admin.connect() as connection:
            connection.execute(text(f"create database {name}"))
        return self.url(name)

    def run(self, program: str, *arguments: object) -> None:
        command = [str(self.binaries / program), *map(str, arguments)]
        if self.user:
            command = ["runuser", "-u", self.user, "--", *command]
        patient = os.environ | {"PGCTLTIMEOUT": f"{DEAD:.0f}"}
        subprocess.run(command, check=True, cwd=self.folder, env=patient, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        self.admin.dispose()
        self.run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)


def _has_user(name: str) -> bool:
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server here; apt-get install postgresql")
    server = Cluster(binaries)
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'service.db'}"
    return request.getfixturevalue("cluster").new_database()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    # A test that stands still loses no lease.
    return Settings(data=tmp_path, secret="s" * 32, lease_seconds=600)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def audit(settings: Settings) -> Audit:
    return Audit(settings)

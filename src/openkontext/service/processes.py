"""The processes of a service: a server, workers, a keeper, and who starts them and starts them again.

Each imports only what its role needs, so that one that died is soon back.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from openkontext.errors import InputError
from openkontext.repository import Repository
from openkontext.service.logs import set_up_logs
from openkontext.service.people import accounts
from openkontext.service.queue import recovery
from openkontext.service.queue.readiness import is_ready
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import new_id

ROLES = ("server", "worker", "keeper")
NAME = "OPENKONTEXT_WORKER"
"""Variable of the name by which a worker marks what it holds."""
SUPERVISED = "OPENKONTEXT_SUPERVISED"
"""Set for processes that end when whoever started them is gone."""
GRACE_SECONDS = 20.0
"""How long a process may take to end when it is told to."""
LONGEST_PAUSE = 10.0
"""Seconds before a process that keeps dying is started once more."""

log = structlog.get_logger()


class Runs(Protocol):
    """What a process does until it is told to stop."""

    stopping: threading.Event

    def run(self) -> None:
        """Work until `stopping` is set."""
        ...


def run_role(role: str, settings: Settings, descriptor: int | None = None) -> None:
    """Be one process of a service until told to stop.

    Args:
        role: one of `ROLES`.
        settings: of the service.
        descriptor: of the socket that a server takes over; None to bind one.

    Raises:
        InputError: the address is taken, the database cannot be used, or there is no such model.
    """
    set_up_logs()
    if role == "server":
        _serve(settings, descriptor)
        return
    database = Database(settings.database)
    database.migrate()
    work: Runs
    if role == "worker":
        from openkontext.service.workers.worker import Worker

        work = Worker(settings, database, name=os.environ.get(NAME))
    else:
        from openkontext.service.workers.keeper import Keeper

        work = Keeper(settings, database)
    _until_told(work.stopping.set)
    log.info("started", role=role, pid=os.getpid())
    work.run()


def _serve(settings: Settings, descriptor: int | None) -> None:
    import uvicorn

    from openkontext.service.http.app import create_app
    from openkontext.service.http.decoding import make_ready
    from openkontext.service.http.protocol import timed

    database = Database(settings.database)
    database.migrate()
    check_exposure(settings, database)
    database.close()
    config = uvicorn.Config(
        create_app(settings),
        http=timed(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(GRACE_SECONDS / 2),
        timeout_keep_alive=30,
        proxy_headers=bool(settings.public_url),
    )
    server = uvicorn.Server(config)
    if os.environ.get(SUPERVISED):
        _watch_parent(lambda: setattr(server, "should_exit", True))
    make_ready()
    listening = bind(settings) if descriptor is None else socket.socket(fileno=descriptor)
    log.info("started", role="server", pid=os.getpid(), port=listening.getsockname()[1])
    server.run(sockets=[listening])


def check_exposure(settings: Settings, database: Database) -> None:
    """Refuse to be reached by others while anyone could use the service without a key.

    Raises:
        InputError: there is no key and the address is not loopback.
    """
    with database.reading() as session:
        if not settings.is_loopback and not accounts.keys_exist(session):
            raise InputError(
                f"{settings.host} is reached by others and there is no key yet; make one first: "
                "openkontext accounts add NAME && openkontext keys create NAME"
            )


def bind(settings: Settings) -> socket.socket:
    """A listening socket.

    Raises:
        InputError: the address is taken or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        address = f"{settings.host}:{settings.port}"
        raise InputError(f"cannot listen at {address} ({error.strerror}); choose another --port") from error
    listening.listen(512)
    return listening


@dataclass
class _Child:
    role: str
    process: subprocess.Popen[bytes]
    name: str
    """By which a worker marks what it holds."""
    started: float = field(default_factory=time.monotonic)
    pause: float = 0.0
    is_dead: bool = False


class Supervisor:
    """Starts the processes of a service on this machine, and starts again those that die.

    The socket is bound here and handed on: while a server that died is started again, requests wait.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = threading.Event()
        self.children: list[_Child] = []

    def run(self, serving: Callable[[str], None] = print, ready: Callable[[], None] = lambda: None) -> None:
        """Run until told to stop.

        Args:
            serving: is told the address that the service listens at; edits are taken from now on.
            ready: is called once a worker has its graphs and filters loaded.

        Raises:
            InputError: something is wrong that starting again would not mend.
            ConsentError: the model's terms are not accepted yet.
        """
        database = Database(self.settings.database)
        database.migrate()
        check_exposure(self.settings, database)
        if self.settings.workers:
            Repository.open(
                self.settings.model
            )  # a worker would end at once where its terms are not accepted
        self.settings.key("start")  # makes the secret before several processes need it
        listening = bind(self.settings)
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, lambda *_: self.stopping.set())
        roles = ["server", "keeper", *["worker"] * self.settings.workers]
        try:
            self.children = [self._child(role, listening) for role in roles]
            serving(f"http://{host}:{listening.getsockname()[1]}")
            waiting = True
            while not self.stopping.wait(0.1):
                for child in self.children:
                    self._look_after(child, listening, database)
                if waiting and self._is_ready(database):
                    ready()
                    waiting = False
        finally:
            self._stop()
            database.close()
            listening.close()

    def _is_ready(self, database: Database) -> bool:
        with database.reading() as session:
            return is_ready(session, self.settings)

    def _child(self, role: str, listening: socket.socket) -> _Child:
        name = new_id()
        return _Child(role, self._start(role, listening, name), name)

    def _start(self, role: str, listening: socket.socket, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "openkontext", "serve", "--role", role]
        passed: tuple[int, ...] = ()
        if role == "server":
            passed = (listening.fileno(),)
            command += ["--descriptor", str(listening.fileno())]
        environment = os.environ | self.settings.environment() | {SUPERVISED: "1", NAME: name}
        return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, pass_fds=passed)

    def _look_after(self, child: _Child, listening: socket.socket, database: Database) -> None:
        code = child.process.poll()
        if code is None:
            return
        if not child.is_dead:
            child.is_dead = True
            _give_up(database, child)
        lived = time.monotonic() - child.started
        if code == InputError.exit_code and lived < 60:
            raise InputError(f"the {child.role} could not start; its own line above says why")
        child.pause = 0.0 if lived > 5 else min(LONGEST_PAUSE, 2 * child.pause + 0.1)
        if lived < child.pause:
            return
        log.warning("started again", role=child.role, code=code)
        child.name, child.is_dead = new_id(), False
        child.process, child.started = self._start(child.role, listening, child.name), time.monotonic()

    def _stop(self) -> None:
        for child in self.children:
            if child.process.poll() is None:
                child.process.terminate()
        ends = time.monotonic() + GRACE_SECONDS
        for child in self.children:
            try:
                child.process.wait(max(0.1, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()


def _give_up(database: Database, child: _Child) -> None:
    """Put back what a dead worker held: nobody need wait for its leases to end."""
    if child.role != "worker":
        return
    try:
        with database.transaction() as session:
            jobs = recovery.give_up(session, child.name)
    except SQLAlchemyError as error:  # such as a database that is away; the leases end by themselves
        log.warning("leases not given up", error=type(error).__name__)
        return
    log.warning("worker died", code=child.process.returncode, jobs=jobs)


def _until_told(stop: Callable[[], None]) -> None:
    """Call `stop` at SIGINT and SIGTERM, and when a supervisor is gone."""
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stop())
    if os.environ.get(SUPERVISED):
        _watch_parent(stop)


def _watch_parent(stop: Callable[[], None]) -> None:
    """Call `stop` when whoever started this process is gone: its end of our stdin closes then."""

    def wait() -> None:
        while os.read(0, 4096):  # not `sys.stdin`, whose lock a thread must not hold when Python ends
            pass
        stop()

    threading.Thread(target=wait, daemon=True).start()

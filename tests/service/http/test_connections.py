"""What goes over the wire: clients that leave, that are slow, or that have no key; parts of results."""

import contextlib
import re
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from patience import DEAD, wait
from running import Server, get, png
from sqlalchemy import select as select_rows
from sqlalchemy import update

from openkontext.service.people import accounts
from openkontext.service.people.service_audit import Audit
from openkontext.service.people.service_terms import service_terms
from openkontext.service.queue import jobs
from openkontext.service.queue.job_results import signed_url
from openkontext.service.queue.jobs import JobOutcome, Submission
from openkontext.service.settings import Settings
from openkontext.service.storage import store
from openkontext.service.storage.database import Database
from openkontext.service.storage.models import Job, JobState

HEAD_SECONDS = 0.5
"""What the tests of slow clients wait for."""


@pytest.fixture
def settings(tmp_path: Path, copier: Path) -> Settings:
    """With patience for every client, however busy the machine is."""
    return Settings(data=tmp_path, secret="s" * 32, model=str(copier), header_seconds=DEAD)


@pytest.fixture
def database_url(settings: Settings) -> str:
    return settings.database


@pytest.fixture
def server(settings: Settings, database: Database) -> Iterator[Server]:
    with Server(settings) as made:
        yield made


@pytest.fixture
def hasty_server(settings: Settings, database: Database) -> Server:
    """A server that waits for a head for half a second, and for a body at 200 bytes a second.

    It takes connections before it is started: what a test sends by then comes in time, however long the test
    stands still.
    """
    return Server(settings.model_copy(update={"header_seconds": HEAD_SECONDS, "min_upload_rate": 200}))


@pytest.fixture
def key(database: Database, audit: Audit, settings: Settings) -> str:
    with database.transaction() as session:
        account = accounts.add_account(session, audit, "ann")
        accounts.accept_terms(session, audit, account.id, service_terms(settings))
        return accounts.make_key(session, audit, account).key


def states(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(select_rows(Job.state)))


def connect(server: Server) -> socket.socket:
    return socket.create_connection(server.address, timeout=DEAD)


def reply(client: socket.socket) -> bytes:
    """One whole answer."""
    found = b""
    while not (whole := re.match(rb"(?s).*?content-length: (\d+)\r\n.*?\r\n\r\n(.*)", found)) or len(
        whole[2]
    ) < int(whole[1]):
        part = client.recv(65536)
        assert part, found
        found += part
    return found


def http(path: str, body: bytes, kind: str, **headers: str) -> bytes:
    """A request as it goes over the wire."""
    lines = [
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        f"content-type: {kind}",
        f"content-length: {len(body)}",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def form(**values: object) -> tuple[bytes, str]:
    request = httpx2.Request("POST", "http://x", data=values, files={"image": ("a.png", png(), "image/png")})
    return request.read(), request.headers["content-type"]


def request_for(what: str) -> bytes:
    """A request whose answer takes as long as its edits."""
    if what == "two pictures":
        return http("/v1/images/generations", b'{"prompt": "a house", "n": 2}', "application/json")
    more = {"stream": "true", "partial_images": "1"} if what == "events of an edit" else {}
    return http("/v1/images/edits", *form(prompt="make it brighter", **more))


@pytest.mark.parametrize("what", ["edit", "events of an edit", "two pictures"])
def test_a_client_that_waits_for_an_answer_is_not_slow(
    hasty_server: Server, database: Database, what: str
) -> None:
    client = connect(hasty_server)
    client.sendall(request_for(what))
    with hasty_server:
        wait(lambda: len(states(database)) > 0)
        time.sleep(2 * HEAD_SECONDS)
        assert set(states(database)) == {JobState.QUEUED}
        client.close()


@pytest.mark.parametrize("ending", ["close", "reset", "half"])
@pytest.mark.parametrize("what", ["edit", "events of an edit", "two pictures"])
def test_a_client_that_goes_away_cancels_its_edit(
    server: Server, database: Database, ending: str, what: str
) -> None:
    client = connect(server)
    client.sendall(request_for(what))
    wait(lambda: len(states(database)) > 0)
    assert set(states(database)) == {JobState.QUEUED}
    if ending == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    if ending == "half":  # says that it sends no more, and goes on listening
        client.shutdown(socket.SHUT_WR)
        wait(lambda: set(states(database)) == {JobState.CANCELLED})
    client.close()
    wait(lambda: set(states(database)) == {JobState.CANCELLED})


def test_a_client_that_stays_gets_its_answer(server: Server, database: Database, settings: Settings) -> None:
    client = connect(server)
    client.sendall(http("/v1/images/edits", *form(prompt="make it brighter"), connection="close"))
    wait(lambda: states(database) == [JobState.QUEUED])
    with database.transaction() as session:
        lease = jobs.claim(session, settings)
        assert lease
        jobs.finish(session, settings, lease.job.id, lease.token, JobOutcome(JobState.ERROR, error="no luck"))
    answer = b""
    while part := client.recv(65536):
        answer += part
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"no luck" in answer


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/flux-kontext-dev", 403), ("/v1/images/edits", 401), ("/v1/images/generations", 401),
        ("/v1/feedback", 403), ("/v1/admin/appeals/1/decision", 403),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("sent", ["", "ok_0123_wrong"])
def test_a_key_is_checked_before_a_body_is_read(
    server: Server, key: str, path: str, status: int, kind: str, sent: str
) -> None:
    client = connect(server)
    headers = {"x_key": sent} if sent else {}
    head = http(path, b"", kind, **headers).replace(b"content-length: 0", b"content-length: 62914560")
    client.sendall(head)  # and not a byte of the body
    answer = reply(client)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"valid key" in answer
    client.close()


def test_what_else_a_key_may_not_is_said_before_the_body_too(
    server: Server, key: str, database: Database, audit: Audit
) -> None:
    client = connect(server)
    with database.transaction() as session:
        ann = accounts.find_account(session, "ann").id
        accounts.set_standing(session, audit, ann, accounts.Standing.SUSPENDED, "a drill")
    head = http("/v1/flux-kontext-dev", b"", "application/json", x_key=key)
    client.sendall(head.replace(b"content-length: 0", b"content-length: 62914560"))
    answer = reply(client)
    assert answer.startswith(b"HTTP/1.1 403")
    assert b"suspended" in answer


def test_a_client_that_sends_all_of_it_anyway_reads_the_answer_and_may_go_on(
    server: Server, key: str
) -> None:
    with httpx2.Client(base_url=server.url, timeout=DEAD) as client:
        for _ in range(2):
            refused = client.post("/v1/flux-kontext-dev", content=b"x" * (8 * 2**20))
            assert refused.status_code == 403
        assert client.get("/healthz").status_code == 200
        assert (
            client.post("/v1/session", content=b"x" * 10_000).status_code == 413
        )  # nobody knows who that is


def test_a_body_without_an_end_is_not_waited_for_after_the_answer(
    settings: Settings, database: Database, key: str
) -> None:
    with Server(settings.model_copy(update={"max_request_bytes": 2**20})) as server:
        client = connect(server)
        client.sendall(
            b"POST /v1/flux-kontext-dev HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        assert reply(client).startswith(b"HTTP/1.1 403")
        with pytest.raises(OSError):  # noqa: PT011, PT012
            for _ in range(1000):
                client.sendall(b"10000\r\n" + b"x" * 2**16 + b"\r\n")


def drip(client: socket.socket, content: bytes, pause: float) -> bytes:
    """Send byte after byte until there is an answer, and read it to the end of the connection."""
    answer = b""
    for index in range(len(content)):
        with contextlib.suppress(ConnectionError):  # it may end at the byte that crosses the answer
            client.sendall(content[index : index + 1])
        if select.select([client], [], [], pause)[0]:
            break
    else:
        raise AssertionError("it took all of it")
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            answer += part
    return answer


def test_a_head_that_does_not_come_ends_the_connection(hasty_server: Server) -> None:
    slow, silent, good = (connect(hasty_server) for _ in range(3))
    head = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    slow.sendall(head)
    good.sendall(head + b"\r\n")
    with hasty_server:
        assert drip(slow, b"x: y\r\n" * 1000, 0.05).startswith(b"HTTP/1.1 408")
        assert silent.recv(10) == b""  # closed, and nothing said: nothing was asked
        assert reply(good).startswith(b"HTTP/1.1 200")


def test_a_body_that_is_too_slow_ends_the_connection(
    hasty_server: Server, key: str, database: Database
) -> None:
    request = http(
        "/v1/flux-kontext-dev", b'{"prompt": "' + b"x" * 1000 + b'"}', "application/json", x_key=key
    )
    client = connect(hasty_server)
    head, _, body = request.partition(b"\r\n\r\n")
    client.sendall(head + b"\r\n\r\n")
    with hasty_server:
        assert drip(client, body, 0.05).startswith(b"HTTP/1.1 408")  # 20 bytes a second, not 200
    assert states(database) == []


def test_a_slow_client_that_is_fast_enough_is_served(
    settings: Settings, database: Database, key: str
) -> None:
    """What came before the server began gives it minutes for the rest: this test may stand still, too."""
    server = Server(settings.model_copy(update={"header_seconds": HEAD_SECONDS, "min_upload_rate": 1}))
    body = b'{"prompt": "a house", "seed": ' + b" " * 600 + b"1}"
    client = connect(server)
    request = http("/v1/flux-kontext-dev", body, "application/json", x_key=key)
    client.sendall(request[:-300])
    with server:
        for index in range(-300, 0, 30):  # longer than a head may take
            time.sleep(0.1)
            client.sendall(request[index : index + 30 or None])
        assert reply(client).startswith(b"HTTP/1.1 200")
        time.sleep(2 * HEAD_SECONDS)  # between two requests a connection may rest
        client.sendall(http("/v1/flux-kontext-dev", b'{"prompt": "a"}', "application/json", x_key=key))
        assert reply(client).startswith(b"HTTP/1.1 200")


@pytest.fixture
def sample(server: Server, settings: Settings, database: Database) -> tuple[str, bytes]:
    """Address and content of a result."""
    content = png()
    digest = store.keep(database, store.ImageStore(settings), content)
    with database.transaction() as session:
        account = accounts.local_account(session).id
        asked = Submission(
            account_id=account, key_id=None, model="m", asked={"prompt": "p"}, base_url=server.url
        )
        job = jobs.submit(session, settings, asked)
        session.execute(update(Job).values(state=JobState.READY, output=digest))
        return signed_url(job, settings), content


def test_a_result_is_read_in_parts(sample: tuple[str, bytes]) -> None:
    url, content = sample
    size = len(content)
    whole = get(url)
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["accept-ranges"] == "bytes"
    head = httpx2.head(url, timeout=DEAD)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
    assert head.headers["etag"] == whole.headers["etag"]
    for asked, part in {
        "bytes=0-9": content[:10],
        "bytes=10-": content[10:],
        "bytes=-7": content[-7:],
        f"bytes=5-{10 * size}": content[5:],
        f"bytes=-{10 * size}": content,
        "bytes=0-0": content[:1],
    }.items():
        got = get(url, headers={"Range": asked})
        assert (got.status_code, got.content) == (206, part), asked
        first = size - len(part) if asked.startswith("bytes=-") else int(asked[6:].split("-")[0])
        assert got.headers["content-range"] == f"bytes {first}-{first + len(part) - 1}/{size}"
    for asked in (f"bytes={size}-", f"bytes={size + 5}-{size + 9}", "bytes=-0"):
        got = get(url, headers={"Range": asked})
        assert (got.status_code, got.headers["content-range"]) == (416, f"bytes */{size}"), asked
    for asked in ("bytes=9-3", "bytes=-", "lines=1-2", "bytes=a-b", "bytes=0-1,5-6"):  # read as none
        assert get(url, headers={"Range": asked}).content == content, asked


def test_a_result_that_one_has_is_not_sent_again(sample: tuple[str, bytes]) -> None:
    url, content = sample
    tag = get(url).headers["etag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        got = get(url, headers={"If-None-Match": known})
        assert (got.status_code, got.content, got.headers["etag"]) == (304, b"", tag), known
    assert get(url, headers={"If-None-Match": '"other"'}).content == content
    part = {"Range": "bytes=0-9"}
    assert get(url, headers=part | {"If-Range": tag}).status_code == 206
    assert get(url, headers=part | {"If-Range": '"other"'}).content == content

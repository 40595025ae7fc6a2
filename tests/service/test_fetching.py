"""Addresses that clients name never reach what only this network can reach."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from patience import DEAD

from openkontext import InputError
from openkontext.service import fetching
from openkontext.service.fetching import check_url, fetch, is_public, post
from openkontext.service.settings import Settings

CLOSED = Settings(secret="s" * 32, fetch_seconds=DEAD)
OPEN = Settings(secret="s" * 32, fetch_seconds=DEAD, allow_private_addresses=True)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1", "::1", "::", "fe80::1%eth0",
        "fd00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
        "2001:0:7f00:1::",
    ],
)  # fmt: skip
def test_private_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.org/a", "gopher://x", "http://", "https://[::1]/", "no address",
        "http://user:pass@example.org/", "http://localhost/", "http://a.localhost/", "http://127.0.0.1:8000/",
        "http://169.254.169.254/latest/meta-data", "http://[::ffff:127.0.0.1]/", "http://x.internal/",
        "http://example.org:99999/", "http://[bad/",
    ],
)  # fmt: skip
def test_addresses_that_are_refused_at_once(url: str) -> None:
    with pytest.raises(InputError):
        check_url(url, CLOSED)


class Site:
    """A server on loopback: leads on, answers slowly, or with much."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                if self.path.startswith("/to/"):
                    self.send_response(302)
                    self.send_header("Location", self.path.removeprefix("/to/"))
                    self.end_headers()
                    return
                self.send_response(200 if self.path != "/missing" else 404)
                self.end_headers()
                self.wfile.write(b"x" * (5000 if self.path == "/large" else 5))

            do_POST = do_GET

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.server.shutdown()
    made.server.server_close()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Have names resolve to these addresses, one answer after the other, the last for good."""
    asked: list[str] = []
    left = list(answers)

    def getaddrinfo(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        asked.append(host)
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(fetching.socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], []])
def test_a_name_with_any_private_address_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, site: Site, addresses: list[str]
) -> None:
    resolve_to(monkeypatch, addresses)
    for act in (lambda url: fetch(url, CLOSED, 100), lambda url: post(url, b"{}", {}, CLOSED)):
        with pytest.raises(InputError, match="private"):
            act(f"http://pictures.example:{site.port}/")
    assert site.asked == []


def test_a_name_that_answers_otherwise_the_second_time_gains_nothing(
    monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    # Rebinding: public when it is checked, private when it is connected to. There is one look-up for both.
    asked = resolve_to(monkeypatch, ["8.8.8.8"], ["127.0.0.1"])
    connected: list[str] = []

    def connect(self: object, host: str, *args: object, **options: object) -> None:
        connected.append(host)
        raise fetching.httpcore2.ConnectError("the test connects nowhere")

    monkeypatch.setattr(fetching.httpcore2.SyncBackend, "connect_tcp", connect)
    with pytest.raises(InputError, match="does not answer"):
        fetch(f"http://rebinding.example:{site.port}/", CLOSED, 100)
    assert asked == ["rebinding.example"]
    assert connected == ["8.8.8.8"]


def test_a_redirect_is_checked_like_an_address(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    real = fetching.is_public
    # The first server counts as public, whatever it leads to does not.
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1" or real(address))
    for target in ("http://10.0.0.1/", "http://localhost/", "file:///etc/passwd", "http://[::1]/"):
        with pytest.raises(InputError, match=r"private|begin with"):
            fetch(f"http://127.0.0.1:{site.port}/to/{target}", CLOSED, 100)


def test_redirects_sizes_and_answers_are_bounded(site: Site) -> None:
    base = f"http://127.0.0.1:{site.port}"
    assert fetch(f"{base}/to/{base}/picture", OPEN, 100) == b"xxxxx"
    with pytest.raises(InputError, match="more than 3 times"):
        fetch(f"{base}/to/{base}/to/{base}/to/{base}/to/{base}/picture", OPEN, 100)
    with pytest.raises(InputError, match="larger than"):
        fetch(f"{base}/large", OPEN, 100)
    with pytest.raises(InputError, match="answers 404"):
        fetch(f"{base}/missing", OPEN, 100)
    assert post(f"{base}/to/{base}/picture", b"{}", {}, OPEN).status == 302  # not followed


def test_a_server_that_never_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(InputError, match="does not answer"):
            fetch(url, OPEN.model_copy(update={"fetch_seconds": 0.2}), 100)

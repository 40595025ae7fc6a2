"""Requests to addresses that clients name, which must not reach what only this network can reach.

Names are resolved here, every address that a name has must be public, and the connection goes to the address
that was checked, so that a second answer of the name server changes nothing. Redirects are checked likewise.
"""

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore2

from openkontext.errors import InputError
from openkontext.service.settings import Settings
from openkontext.version import __version__

MAX_REDIRECTS = 3
_FAILURES = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError)
AGENT = f"openkontext/{__version__}"
_TUNNELS = [ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")]
"""IPv6 networks whose addresses carry an IPv4 address that may be private: NAT64, 6to4, Teredo."""


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    content: bytes


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet at large."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif any(ip in network for network in _TUNNELS):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def check_url(url: str, settings: Settings) -> None:
    """Say early what is wrong with an address, without asking a name server.

    Raises:
        InputError: it is no http or https address, or names a private one.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(
            "the address cannot be read; give one such as https://example.org/picture.png"
        ) from error
    if parts.scheme not in ("http", "https") or not host:
        raise InputError("the address must begin with https:// or http://")
    if parts.username is not None or parts.password is not None:
        raise InputError("the address must not carry a name or password")
    if not settings.allow_private_addresses:
        if host.rstrip(".").endswith(("localhost", ".local", ".internal")):
            raise InputError("the address is private; give one that the internet reaches")
        try:
            public = is_public(host)
        except ValueError:
            return  # a name; its addresses are checked when it is connected to
        if not public:
            raise InputError("the address is private; give one that the internet reaches")


class _Ending(httpcore2.NetworkStream):
    """A connection that is over at its time, also where its other end sends a byte now and then."""

    def __init__(self, stream: httpcore2.NetworkStream, ends: float) -> None:
        self._stream, self._ends = stream, ends

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Ending(self._stream.start_tls(ssl_context, server_hostname, self._left(timeout)), self._ends)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _left(self, timeout: float | None) -> float:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("it takes too long")
        return left if timeout is None else min(timeout, left)


class _Backend(httpcore2.SyncBackend):
    """Connects to public addresses only, unless others are allowed, and not for long.

    Args:
        settings: of the service.
        ends: when connections are over, on the monotonic clock.
    """

    def __init__(self, settings: Settings, ends: float) -> None:
        self._anywhere, self._ends = settings.allow_private_addresses, ends

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        if self._anywhere:
            made = super().connect_tcp(host, port, timeout, local_address, socket_options)
            return _Ending(made, self._ends)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} is not known") from error
        addresses = [str(address[0]) for *_, address in found]
        if not addresses or not all(is_public(address) for address in addresses):
            raise httpcore2.ConnectError("the address is private")
        made = super().connect_tcp(addresses[0], port, timeout, local_address, socket_options)
        return _Ending(made, self._ends)


def _pool(settings: Settings, ends: float) -> httpcore2.ConnectionPool:
    backend = _Backend(settings, ends)
    return httpcore2.ConnectionPool(network_backend=backend, max_keepalive_connections=0)


def fetch(url: str, settings: Settings, max_bytes: int) -> bytes:
    """Get a file by its address.

    Raises:
        InputError: the address is none or private, it does not answer in time, or the file is too large.
    """
    ends = time.monotonic() + settings.fetch_seconds
    with _pool(settings, ends) as pool:
        for _ in range(MAX_REDIRECTS + 1):
            check_url(url, settings)
            try:
                status, location, content = _get(pool, url, ends, max_bytes)
            except (
                httpcore2.NetworkError,
                httpcore2.ProtocolError,
                httpcore2.TimeoutException,
                OSError,
            ) as error:
                raise InputError(f"the address does not answer ({_reason(error)})") from error
            if status in (301, 302, 303, 307, 308) and location:
                url = urljoin(url, location)
                continue
            if status != 200:
                raise InputError(f"the address answers {status}; give one that answers with the picture")
            return content
    raise InputError(f"the address leads on more than {MAX_REDIRECTS} times")


def post(url: str, content: bytes, headers: dict[str, str], settings: Settings) -> Answer:
    """Send JSON to an address; redirects are not followed.

    Raises:
        InputError: the address is none or private, or does not answer in time.
    """
    check_url(url, settings)
    sent = [("Content-Type", "application/json"), ("User-Agent", AGENT), *headers.items()]
    try:
        with (
            _pool(settings, time.monotonic() + settings.fetch_seconds) as pool,
            pool.stream(
                "POST", url, headers=sent, content=content, extensions=_timeouts(settings.fetch_seconds)
            ) as answer,
        ):
            return Answer(answer.status, b"")
    except _FAILURES as error:
        raise InputError(f"the address does not answer ({_reason(error)})") from error


def _get(pool: httpcore2.ConnectionPool, url: str, ends: float, limit: int) -> tuple[int, str, bytes]:
    headers = [("User-Agent", AGENT), ("Accept", "image/*")]
    with pool.stream("GET", url, headers=headers, extensions=_timeouts(ends - time.monotonic())) as answer:
        answered = {name.lower(): value for name, value in answer.headers}
        location = answered.get(b"location", b"").decode("latin-1")
        content = bytearray()
        if answer.status == 200:
            for part in answer.iter_stream():
                content += part
                if len(content) > limit:
                    raise InputError(f"the file at the address is larger than {limit / 2**20:g} MiB")
                if time.monotonic() > ends:
                    raise InputError("the file at the address takes too long")
        return answer.status, location, bytes(content)


def _timeouts(seconds: float) -> dict[str, Any]:
    seconds = max(seconds, 0.1)
    return {"timeout": {"connect": seconds, "read": seconds, "write": seconds, "pool": seconds}}


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__

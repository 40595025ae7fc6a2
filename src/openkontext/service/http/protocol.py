"""HTTP/1.1 as uvicorn speaks it, for which a client has only so long to send a request.

uvicorn waits for heads and bodies without end, so that a few hundred slow connections hold a server up.
"""

import asyncio
from enum import Enum, auto

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from openkontext.service.settings import Settings


class _Owed(Enum):
    """What the client has to send next."""

    HEAD = auto()
    BODY = auto()
    NOTHING = auto()


class TimedProtocol(H11Protocol):
    """Closes a connection whose client is too slow, with 408 where it began a request."""

    head_seconds = 10.0
    """How long the head of a request may take, and how long a body has before its rate counts."""
    bytes_per_second = 4096
    """Rate of a body, on average."""
    max_bytes = 64 * 2**20
    """Of a body that was answered already: more of it is not waited for."""

    _owed = _Owed.NOTHING
    _since = 0.0
    _received = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came: it owes the head of a request."""
        super().connection_made(transport)
        self._begin(_Owed.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._begin(_Owed.NOTHING)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes came; see what is still owed."""
        super().data_received(data)
        owed = {h11.IDLE: _Owed.HEAD, h11.SEND_BODY: _Owed.BODY}.get(self.conn.their_state, _Owed.NOTHING)
        if owed != self._owed:
            self._begin(owed)
        self._received += len(data)
        answered = self.cycle is not None and self.cycle.response_complete
        if owed == _Owed.BODY and answered and self._received > self.max_bytes:
            self.transport.close()

    def _begin(self, owed: _Owed) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._owed, self._since, self._received, self._timer = owed, self.loop.time(), 0, None
        if owed != _Owed.NOTHING:
            self._timer = self.loop.call_later(self.head_seconds, self._look)

    def _look(self) -> None:
        wait = self._since + self.head_seconds - self.loop.time()
        if self._owed == _Owed.BODY:
            wait += self._received / self.bytes_per_second
            if self.flow.read_paused:  # we do not read, so it is not the client that is slow
                wait = self.head_seconds
                self._since = self.loop.time()
        if wait > 0:
            self._timer = self.loop.call_later(wait, self._look)
        else:
            self._give_up()

    def _give_up(self) -> None:
        began = self._received > 0 and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE)
        if self.cycle is not None:
            self.cycle.disconnected = True  # whoever answers meanwhile writes nothing
        if began:
            text = b"the request did not come in time"
            headers = [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(text)).encode()),
                (b"connection", b"close"),
            ]
            answer = h11.Response(status_code=408, headers=headers, reason=b"Request Timeout")
            for event in (answer, h11.Data(data=text), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def timed(settings: Settings) -> type[TimedProtocol]:
    """The protocol with the times that the settings give."""
    values = {
        "head_seconds": settings.header_seconds,
        "bytes_per_second": settings.min_upload_rate,
        # A body that is a little too large is read to its end: the client keeps its connection.
        "max_bytes": 2 * settings.max_request_bytes,
    }
    return type("SettingsProtocol", (TimedProtocol,), values)

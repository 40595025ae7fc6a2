"""What surrounds every request: a line in the log, and the headers of its answer."""

import secrets
import time

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; "
    "script-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
log = structlog.get_logger()


class Around:
    """Logs a request and completes its answer's headers.

    Plain ASGI: the framework's `BaseHTTPMiddleware` hides from routes that a client went away.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, number = time.perf_counter(), secrets.token_hex(6)
        unsent: Exception | None = None

        async def complete(message: Message) -> None:
            nonlocal unsent
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers["X-Request-Id"] = number
                _tell(scope, number, message["status"], started)
            try:
                await send(message)
            except Exception as error:  # the bound on bodies, which lies outside, answered instead
                unsent = error
                raise

        try:
            await self.app(scope, receive, complete)
        except Exception as error:
            if error is not unsent:
                kind = type(error).__name__
                log.exception("request failed", request=number, path=scope["path"], error=kind)
            raise


def _tell(scope: Scope, number: str, status: int, started: float) -> None:
    """A line in the log, without what identifies: the route's pattern, not its address."""
    path = getattr(scope.get("route"), "path", None)
    seconds = round(time.perf_counter() - started, 4)
    log.info("request", request=number, method=scope["method"], path=path, status=status, s=seconds)

"""The HTTP application: routes, error answers, and what every answer carries."""

import secrets
import time
from collections.abc import Awaitable, Callable

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from openkontext.errors import InputError
from openkontext.service import errors
from openkontext.service.access import allowed_hosts
from openkontext.service.jobs import NotAccepted
from openkontext.service.routes import (
    account,
    admin,
    flux,
    health,
    history,
    openai,
    page,
    results,
    review,
)
from openkontext.service.settings import Settings
from openkontext.service.state import State
from openkontext.version import __version__

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


def create_app(settings: Settings) -> FastAPI:
    """The application of a service with these settings; its database must have been migrated."""
    app = FastAPI(
        title="openkontext",
        version=__version__,
        description="Image editing by instruction. Authorize with a key in the header x-key.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a task whose id was left out is not the list of tasks
        max_body_size=settings.max_request_bytes,
    )
    app.state.service = State.open(settings)
    for kind, handler in (
        (errors.Refused, errors.refused),
        (NotAccepted, errors.not_accepted),
        (InputError, errors.bad_input),
        (RequestValidationError, errors.invalid),
        (HTTPException, errors.http_error),
    ):
        app.add_exception_handler(kind, handler)
    for module in (flux, results, openai, history, account, review, admin, health, page):
        app.include_router(module.router, responses=errors.responses(400))
    app.mount("/static", page.Assets(directory=page.FOLDER), name="static")
    app.middleware("http")(_around)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(settings))
    return app


async def _around(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Log a request and complete its answer's headers."""
    started, number = time.perf_counter(), secrets.token_hex(6)
    try:
        response = await call_next(request)
    except Exception as error:
        log.exception("request failed", request=number, path=request.url.path, error=type(error).__name__)
        raise
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["X-Request-Id"] = number
    seconds = round(time.perf_counter() - started, 4)
    route = getattr(request.scope.get("route"), "path", None)  # without identifiers
    log.info(
        "request", request=number, method=request.method, path=route, status=response.status_code, s=seconds
    )
    return response

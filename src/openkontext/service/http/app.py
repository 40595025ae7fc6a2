"""The HTTP application: routes and error answers."""

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from openkontext.errors import InputError
from openkontext.service.http import answers
from openkontext.service.http.access import allowed_hosts
from openkontext.service.http.around import Around
from openkontext.service.http.routes import (
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
from openkontext.service.http.state import State
from openkontext.service.rejections import NotAccepted, Refused
from openkontext.service.settings import Settings
from openkontext.version import __version__


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
        (Refused, answers.refused),
        (NotAccepted, answers.not_accepted),
        (InputError, answers.bad_input),
        (RequestValidationError, answers.invalid),
        (HTTPException, answers.http_error),
    ):
        app.add_exception_handler(kind, handler)
    for module in (flux, results, openai, history, account, review, admin, health, page):
        app.include_router(module.router, responses=answers.responses(400))
    app.mount("/static", page.Assets(directory=page.FOLDER), name="static")
    app.add_middleware(Around)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(settings))
    return app

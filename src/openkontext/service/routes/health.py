"""Whether the service lives and can work, and its figures for Prometheus."""

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from sqlalchemy import select

from openkontext.service import metrics
from openkontext.service.database import now
from openkontext.service.errors import Refused, responses
from openkontext.service.settings import LOOPBACK
from openkontext.service.state import get_state
from openkontext.version import __version__

router = APIRouter(tags=["Operation"])


class Health(BaseModel):
    """That the service answers."""

    status: str
    version: str


@router.get("/healthz")
def health() -> Health:
    """The process lives."""
    return Health(status="ok", version=__version__)


@router.get("/readyz", responses={503: {"description": "The database or the store cannot be used"}})
def ready(request: Request, response: Response) -> Health:
    """The database and the store can be used."""
    state = get_state(request)
    try:
        with state.database.reading() as session:
            session.execute(select(now()))
        state.store.check()
    except Exception:
        response.status_code = 503
        return Health(status="not ready", version=__version__)
    return Health(status="ready", version=__version__)


@router.get("/metrics", response_class=Response, responses=responses(403))
def get_metrics(request: Request) -> Response:
    """Figures for Prometheus, given to this machine and to whoever holds `metrics_token`."""
    state = get_state(request)
    token = state.settings.metrics_token.get_secret_value()
    sent = request.headers.get("authorization", "")
    local = request.client is not None and request.client.host in (*LOOPBACK, "testclient")
    forwarded = "x-forwarded-for" in request.headers
    if not (token and sent == f"Bearer {token}") and not (local and not forwarded):
        raise Refused(403, "figures are given to this machine alone; set metrics_token to ask from elsewhere")
    return Response(metrics.render(state.database), media_type=metrics.CONTENT_TYPE)

"""Whether the service lives and can work, and its figures for Prometheus."""

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from openkontext.service.http import metrics
from openkontext.service.http.answers import responses
from openkontext.service.http.state import get_state
from openkontext.service.queue.readiness import is_ready
from openkontext.service.rejections import Refused
from openkontext.service.settings import LOOPBACK
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


@router.get("/readyz", responses={503: {"description": "Not now; `status` says what is missing"}})
def ready(request: Request, response: Response) -> Health:
    """Database and store can be used, and a worker has its graphs and filters loaded."""
    state = get_state(request)
    status = "ready"
    try:
        with state.database.reading() as session:
            if not is_ready(session, state.settings):
                status = "starting: no worker has loaded its graphs and filters yet"
        state.store.check()
    except Exception:
        status = "not ready: the database or the store cannot be used"
    if status != "ready":
        response.status_code = 503
    return Health(status=status, version=__version__)


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

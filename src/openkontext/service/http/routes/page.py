"""The page: three documents, their style and modules, and what they need to know before anyone signs in."""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.types import Scope

from openkontext.service.http.access import is_open
from openkontext.service.http.state import get_state
from openkontext.service.queue.readiness import is_ready
from openkontext.version import __version__

FOLDER = Path(__file__).parent.parent / "page"
TITLES = {"edit": "Edit", "review": "Review", "admin": "Administration"}
STYLES = {"edit": ("base", "edit"), "review": ("base", "board"), "admin": ("base", "board", "admin")}
KEEP = {"Cache-Control": "no-cache"}  # asked for anew each time, sent only when it changed

router = APIRouter(tags=["Page"])


class About(BaseModel):
    """The service as anyone may know it."""

    version: str
    model: str | None = Field(description="Null where the model lies on other machines.")
    steps: int | None = Field(description="Denoising steps of the model's own choice.")
    guidance: float | None = Field(description="Guidance of the model's own choice.")
    open: bool = Field(description="No key is needed: this machine alone reaches the service.")
    ready: bool = Field(description="A worker has its graphs and filters loaded: edits begin at once.")
    reviews: bool = Field(description="People review edits: filters may hold one for them.")
    max_upload_bytes: int
    max_pixels: int
    retention_hours: float
    feedback_address: str


class Assets(StaticFiles):
    """Files that browsers may keep, but ask about each time."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, or 404."""
        response = await super().get_response(path, scope)
        response.headers.update(KEEP)
        return response


@router.get("/v1/about")
def get_about(request: Request) -> About:
    """Limits and names; nothing that needs a key."""
    state = get_state(request)
    settings = state.settings
    config = state.repository.config if state.repository else None
    with state.database.reading() as session:
        is_local = is_open(session, settings)
        ready = is_ready(session, settings)
    return About(
        version=__version__,
        model=config.name if config else None,
        steps=config.num_inference_steps if config else None,
        guidance=config.guidance_scale if config else None,
        open=is_local,
        ready=ready,
        reviews=state.has_reviewers,
        max_upload_bytes=settings.max_upload_bytes,
        max_pixels=settings.max_pixels,
        retention_hours=settings.retention_hours,
        feedback_address=settings.feedback_address,
    )


@router.get("/", include_in_schema=False)
def edit() -> HTMLResponse:
    """Where one edits."""
    return _document("edit")


@router.get("/review", include_in_schema=False)
def review() -> HTMLResponse:
    """Where reviewers decide."""
    return _document("review")


@router.get("/admin", include_in_schema=False)
def admin() -> HTMLResponse:
    """Where admins see accounts and trends."""
    return _document("admin")


def _document(view: str) -> HTMLResponse:
    shell, main = ((FOLDER / f"{name}.html").read_text() for name in ("shell", view))
    styles = "\n  ".join(f'<link rel="stylesheet" href="/static/{name}.css">' for name in STYLES[view])
    values = {"view": view, "title": TITLES[view], "styles": styles, "main": main}
    for name, value in values.items():
        shell = shell.replace(f"[[{name}]]", value)
    return HTMLResponse(shell, headers=KEEP)

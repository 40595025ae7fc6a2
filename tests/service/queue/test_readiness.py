"""When the service says that it is ready, and what is loaded by then."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from patience import DEAD, wait
from running import Service, poll
from sqlalchemy import select, update

from openkontext.service.queue.readiness import is_ready, saying_ready
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database, now
from openkontext.service.storage.models import WorkerProcess

OPENED = """
import json, sys
from pathlib import Path
import numpy as np
from openkontext import load
from openkontext.runtime import components
from openkontext.safety.packaged_models import PackagedModel

opened = []
for owner, name in ((components, "load_graph"), (PackagedModel, "_open")):
    def noting(*arguments, wrapped=getattr(owner, name), **named):
        opened.append(named.get("role") or arguments[0].file)
        return wrapped(*arguments, **named)
    setattr(owner, name, noting)
editor = load(sys.argv[1])
if sys.argv[2] == "preload":
    editor.preload()
before, modules = sorted(opened), set(sys.modules)
picture = np.full((128, 128, 3), 90, np.uint8)
picture[40:60, ::3] = 255
editor.edit(picture, "make it brighter", num_inference_steps=1).encode()
later = sorted(name for name in set(sys.modules) - modules if name.startswith("openkontext"))
print(json.dumps([before, sorted(opened)[len(before):], later]))
"""
"""Prints what an editor opened before its first edit, what in it, and the modules imported in it."""


@pytest.mark.parametrize("how", ["preload", "at once"])
def test_a_preloaded_editor_opens_nothing_more_in_its_first_edit(how: str, copier: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(copier), how], capture_output=True, text=True, check=True
    )
    before, later, modules = json.loads(done.stdout.splitlines()[-1])
    if how == "at once":  # the same edit opens much where nothing was preloaded
        assert not before
        assert len(later) >= 7
        assert modules
        return
    assert {"clip", "t5", "transformer", "vae", "vae_encoder"} < set(before)
    assert len(before) == 5 + 3  # NudeNet, and both parts of the reader of words
    assert (later, modules) == ([], [])


def test_ready_lasts_as_long_as_a_worker_says_so(database: Database, settings: Settings) -> None:
    def ready() -> bool:
        with database.reading() as session:
            return is_ready(session, settings)

    assert not ready()
    with saying_ready(database, settings):
        assert ready()
        with saying_ready(database, settings):
            pass
        assert ready()  # one of two went
        with database.transaction() as session:  # as though it had been killed long ago
            session.execute(update(WorkerProcess).values(seen=now() - settings.lease_seconds - 1))
        assert not ready()
        with saying_ready(database, settings), database.reading() as session:
            assert len(session.scalars(select(WorkerProcess)).all()) == 1  # who fell silent is forgotten
    assert not ready()


def test_a_worker_that_lives_goes_on_saying_so(database: Database, settings: Settings) -> None:
    seen = set()

    def often() -> bool:
        with database.reading() as session:
            seen.add(session.scalar(select(WorkerProcess.seen)))
        return len(seen) > 2

    with saying_ready(database, settings.model_copy(update={"lease_seconds": 0.6})):
        wait(often)


def test_the_service_is_ready_when_a_worker_is(tmp_path: Path, copier: Path) -> None:
    service = Service(tmp_path, copier, workers=0, lease_seconds=600).start()
    command = [sys.executable, "-m", "openkontext", "serve", "--role", "worker"]
    try:
        with service.client() as client, (tmp_path / "worker").open("wb") as log:
            answer = client.get("/readyz")
            assert (answer.status_code, answer.json()["status"][:8]) == (503, "starting")
            assert client.get("/v1/about").json()["ready"] is False
            assert client.get("/healthz").status_code == 200
            accepted = client.post("/v1/flux-kontext-dev", json={"prompt": "make it"})
            assert accepted.status_code == 200  # and waits
            worker = subprocess.Popen(command, env=service.environment, stderr=log)
            assert service.process.stdout is not None
            assert service.process.stdout.readline().startswith("ready")  # what the operator is told
            assert client.get("/readyz").json()["status"] == "ready"
            assert client.get("/v1/about").json()["ready"] is True
            assert poll(client, accepted.json()["id"])["status"] == "Ready"
            worker.terminate()
            assert worker.wait(DEAD) == 0
            assert client.get("/readyz").status_code == 503
    finally:
        service.stop()

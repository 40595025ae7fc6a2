"""`serve --engine ray`: two replicas share the work, and one that is killed under load loses nothing."""

import signal
import time
from pathlib import Path

import psutil
import pytest
from patience import DEAD, wait
from running import Service, b64, brightness, get, png, poll

pytest.importorskip("ray", reason="pip install '.[ray]'")
pytestmark = pytest.mark.slow


def replicas(service: Service) -> list[psutil.Process]:
    """The processes of the replicas; Ray names them after their class."""
    workers = psutil.Process(service.process.pid).children(recursive=True)
    return [
        process for process in workers if "ServeReplica:openkontext:editor" in " ".join(process.cmdline())
    ]


def test_two_replicas_share_the_work_and_one_may_die(tmp_path: Path, copier: Path) -> None:
    service = Service(
        tmp_path,
        copier,
        engine="ray",
        workers=1,
        replicas_min=2,
        replicas_max=2,
        batch=2,
        lease_seconds=20,
        deadline_seconds=600,
        queue_size=1000,
        concurrency=1000,
    )
    service.run("accounts", "add", "ann")
    key = service.run("keys", "create", "ann")["key"]
    service.start()
    inputs = {"prompt": "make it brighter", "input_image": b64(png()), "steps": 100}
    try:
        with service.client(key) as client:
            client.post("/v1/consent", json={"version": "1"})
            ids = [client.post("/v1/flux-kontext-dev", json=inputs).json()["id"] for _ in range(40)]
            ends = time.monotonic() + DEAD
            while not any(
                client.get("/v1/get_result", params={"id": id}).json()["progress"] for id in ids[:4]
            ):
                assert time.monotonic() < ends, (tmp_path / "log").read_text()[-3000:]
                time.sleep(0.2)
            running = replicas(service)
            assert len(running) == 2
            running[0].send_signal(signal.SIGKILL)
            for id in ids:
                done = poll(client, id)
                assert done["status"] == "Ready", done
                picture = get(done["result"]["sample"]).content
                assert abs(brightness(picture) - 112.75) < 1.5
            after = replicas(service)
            assert running[1].pid in [process.pid for process in after]
            cancelled = client.post("/v1/flux-kontext-dev", json=inputs | {"steps": 1000}).json()["id"]
            wait(lambda: client.get("/v1/get_result", params={"id": cancelled}).json()["progress"])
            assert client.post("/v1/cancel", params={"id": cancelled}).json()["cancelled"]
            assert poll(client, cancelled)["details"]["state"] == "cancelled"
            moderated = client.post("/v1/flux-kontext-dev", json=inputs | {"input_image": None}).json()["id"]
            assert poll(client, moderated)["status"] == "Ready"
        lost = [line for line in service.logs() if line.get("event") == "replica lost"]
        assert 1 <= len(lost) <= 2  # those that the replica worked on, and no others
    finally:
        service.stop()

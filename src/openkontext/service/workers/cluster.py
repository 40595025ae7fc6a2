"""The editor as replicas of a Ray Serve deployment, on this machine or on a Ray cluster.

A worker hands jobs to the replicas and keeps their leases; so a replica that dies loses its edit to another
one, and Ray starts it again. Whoever reaches a Ray cluster's ports and has its token can run code there: it
belongs into a network of its own.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported: it reports to nobody

import ray
import structlog
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from openkontext.errors import InputError
from openkontext.request import EditRequest
from openkontext.service.settings import Settings
from openkontext.service.workers.edit_engine import Delivery, Done, EngineLostError, LocalEngine, Report, Stop

APPLICATION = "openkontext"
SCALE_UP_SECONDS, SCALE_DOWN_SECONDS = 2.0, 60.0
"""How long more or less work must last before replicas are added or taken away."""
PAUSE_SECONDS = 0.5
"""How long an edit waits after its replica was lost, before its job is given back."""

log = structlog.get_logger()


class Replica:
    """One copy of the editor; edits side by side share the calls of its graphs."""

    def __init__(self, settings: Settings) -> None:
        self.engine = LocalEngine(settings)
        self.engine.preload()  # Serve sends edits to a replica once it is made
        self.threads = ThreadPoolExecutor(settings.batch, "edit")

    async def edit(
        self, request: EditRequest, delivery: Delivery
    ) -> AsyncIterator[tuple[float, bytes | None] | Done]:
        """Do one edit: how far it is, as it goes, and at last how it ended."""
        events: asyncio.Queue[tuple[float, bytes | None] | Done | None] = asyncio.Queue()
        loop, unwanted = asyncio.get_running_loop(), threading.Event()

        def report(progress: float, preview: bytes | None) -> None:
            if unwanted.is_set():
                raise Stop("cancelled")
            loop.call_soon_threadsafe(events.put_nowait, (progress, preview))

        def work() -> None:
            done: Done | None = None
            with suppress(Stop):
                done = self.engine.edit(request, delivery, report)
            loop.call_soon_threadsafe(events.put_nowait, done)

        self.threads.submit(work)
        try:
            while (event := await events.get()) is not None:
                yield event
                if isinstance(event, Done):
                    return
        finally:
            unwanted.set()


class RayEngine:
    """Hands edits to the replicas of a deployment, which is started here.

    Args:
        settings: of the service.
        stopping: is set when the service ends.

    Raises:
        InputError: Ray or the deployment does not start.
    """

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        self.concurrency = settings.replicas_max * settings.batch
        self._stopping = stopping
        try:
            self._handle = _deploy(settings).options(stream=True).edit
        except (RayError, RayServeException, ConnectionError, RuntimeError, TimeoutError) as error:
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise InputError(f"the Ray deployment does not start ({reason[0]})") from error

    def preload(self) -> None:
        """See `Engine`: each replica does so before it takes work."""

    def edit(self, request: EditRequest, delivery: Delivery, report: Report) -> Done:
        """See `Engine`."""
        answers = self._handle.remote(request, delivery)
        assert isinstance(answers, DeploymentResponseGenerator)  # as `stream=True` asks for
        try:
            for event in answers:
                if isinstance(event, Done):
                    return event
                report(*event)
        except Stop:
            answers.cancel()
            raise
        except (RayError, RayServeException) as error:
            log.warning("replica lost", error=type(error).__name__)
            self._stopping.wait(PAUSE_SECONDS)
            raise EngineLostError from error
        raise EngineLostError


def _deploy(settings: Settings) -> DeploymentHandle[Any]:
    local: dict[str, Any] = {}
    if not settings.ray_address:  # reached from this machine alone; Ray would run its workers at niceness 15
        local = {"_node_ip_address": "127.0.0.1", "_system_config": {"worker_niceness": 0}}
    ray.init(
        address=settings.ray_address or "local",
        namespace=APPLICATION,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        **local,
    )
    for name in ("ray", "ray.serve"):  # their lines are no JSON
        logging.getLogger(name).setLevel(logging.WARNING)
    serve.start(http_options={"location": "NoServer"})  # requests come through the API and its queue alone
    # A job goes to the replica that has room; each takes as many as it batches.
    deploy = serve.deployment(
        name="editor",
        max_ongoing_requests=settings.batch,
        autoscaling_config={
            "min_replicas": settings.replicas_min,
            "max_replicas": settings.replicas_max,
            "target_ongoing_requests": settings.batch,
            "upscale_delay_s": SCALE_UP_SECONDS,
            "downscale_delay_s": SCALE_DOWN_SECONDS,
        },
        ray_actor_options={
            "num_cpus": 1,
            "num_gpus": 0 if settings.provider == "cpu" else 1,
            "runtime_env": {"env_vars": _environment()},
        },
        health_check_period_s=2,
        health_check_timeout_s=30,
    )
    begun = time.monotonic()
    handle = serve.run(deploy(Replica).bind(settings), name=APPLICATION, route_prefix=None)
    log.info("deployed", replicas=settings.replicas_min, seconds=round(time.monotonic() - begun, 1))
    return handle


def _environment() -> dict[str, str]:
    """What filters and provenance read from the environment; secrets go with the settings instead."""
    secret = ("SECRET", "DATABASE", "TOKEN", "PASSWORD")
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("OPENKONTEXT_") and not any(part in name for part in secret)
    }

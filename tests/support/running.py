"""A service as an operator runs it: `openkontext serve` with all its processes; a receiver of webhooks."""

import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from unittest import mock

import httpx2
import numpy as np
import uvicorn
from patience import DEAD, wait
from PIL import Image

from openkontext.cli import main
from openkontext.service.http.app import create_app
from openkontext.service.http.protocol import timed
from openkontext.service.processes import bind
from openkontext.service.settings import Settings

KONTEXT, FILL, DEV = "/v1/flux-kontext-pro", "/v1/flux-pro-1.0-fill", "/v1/flux-dev"
EDITS, GENERATIONS = "/v1/images/edits", "/v1/images/generations"


def png(width: int = 128, height: int = 96, value: int = 100) -> bytes:
    """A picture that the copier keeps."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def half_mask(width: int = 128, height: int = 96) -> bytes:
    """A mask whose left half is white and may change."""
    picture = Image.new("L", (width, height))
    picture.paste(255, (0, 0, width // 2, height))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def hole(width: int = 128, height: int = 96) -> bytes:
    """A picture that the copier keeps, whose left half is transparent."""
    picture = Image.new("RGBA", (width, height), (100, 100, 100, 255))
    picture.paste((100, 100, 100, 0), (0, 0, width // 2, height))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def brightness(content: bytes) -> float:
    return float(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).mean())


class Service:
    """`openkontext serve` in a process of its own, with a key for one account that accepted the terms."""

    def __init__(self, data: Path, model: Path, **settings: object) -> None:
        self.data = data
        self.environment = os.environ | {
            "OPENKONTEXT_DATA": str(data),
            "OPENKONTEXT_MODEL": str(model),
            "OPENKONTEXT_PORT": "0",
            "OPENKONTEXT_ALLOW_PRIVATE_ADDRESSES": "true",
            "OPENKONTEXT_REQUESTS_PER_MINUTE": "100000",
            "OPENKONTEXT_HEADER_SECONDS": str(DEAD),  # a test that stands still is no slow client
            "OPENKONTEXT_FETCH_SECONDS": str(DEAD),
            **{f"OPENKONTEXT_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.url = ""

    def start(self) -> Self:
        command = [sys.executable, "-m", "openkontext", "serve"]
        with (self.data / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "http" in line, (self.data / "log").read_text()
        self.url = line.split()[3]
        return self

    def start_for(self, account: str) -> Self:
        """Start with an account that has credit and a key, and accepted the terms."""
        self.run("accounts", "add", account, "--credit", "1000")
        self.key = self.run("keys", "create", account)["key"]
        self.start()
        with self.client(self.key) as client:
            assert client.post("/v1/consent", json={"version": "1"}).status_code == 200
        return self

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(DEAD) == 0

    def run(self, *arguments: str) -> Any:
        """A command of the command line on this service; its JSON."""
        printed = io.StringIO()
        # In this process: to start one for each command takes longer than what it does.
        with mock.patch.dict(os.environ, self.environment), contextlib.redirect_stdout(printed):
            assert main([*arguments, "--json"]) == 0, arguments
        return json.loads(printed.getvalue())

    def client(self, key: str | None = None, **headers: str) -> httpx2.Client:
        if key is not None:
            headers["x-key"] = key
        return httpx2.Client(base_url=self.url, headers=headers, timeout=DEAD)

    def logs(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.data / "log").read_text().splitlines() if line[0] == "{"]


class Server:
    """The HTTP server of a service in a thread of this process: no worker, no keeper."""

    def __init__(self, settings: Settings) -> None:
        config = uvicorn.Config(
            create_app(settings), http=timed(settings), log_config=None, timeout_keep_alive=int(DEAD)
        )
        self.server = uvicorn.Server(config)
        self.socket = bind(settings.model_copy(update={"port": 0}))
        self.address = self.socket.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self._thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        wait(lambda: self.server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join()


def get(url: httpx2.URL | str, **options: Any) -> httpx2.Response:
    """What an address answers, to somebody without a key."""
    return httpx2.get(url, timeout=DEAD, **options)


def poll(client: httpx2.Client, id: str) -> dict[str, Any]:
    """Ask for a task until it is at its end."""
    ends = time.monotonic() + DEAD
    while time.monotonic() < ends:
        answer = client.get("/v1/get_result", params={"id": id}).json()
        if answer["status"] != "Pending":
            return answer
        time.sleep(0.02)
    raise TimeoutError(answer)


class Receiver:
    """A server that takes webhooks: answers what it is told, and keeps what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.end_headers()

            def do_GET(self) -> None:
                content = png(value=50)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait(self, count: int) -> None:
        wait(lambda: len(self.got) >= count)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

"""A server that speaks as much of the Hugging Face Hub's HTTP interface as fetching a repository needs."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from patience import DEAD


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does: all may see what a gated repository is, and those it let in may have it."""

    repositories: dict[str, Path]
    gated: frozenset[str]
    tokens: frozenset[str] = frozenset()  # of users that gated repositories let in
    stall: threading.Event | None  # while it is not set, transfers stop after 11 MB
    log: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        owner_name = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        self.log.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if (folder := self.repositories.get(owner_name)) is None:
            return self._refuse(404, "RepoNotFound")
        if path.startswith("/api/models/"):
            return self._describe(folder, owner_name, path)
        if owner_name in self.gated and not path.endswith("/README.md"):
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token not in self.tokens:
                return self._refuse(403 if token else 401, "GatedRepo")
        file = folder / path.split("/", 5)[5]
        return self._send_file(file, folder, body) if file.is_file() else self._refuse(404, "EntryNotFound")

    def _describe(self, folder: Path, name: str, path: str) -> None:
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        names = [file.relative_to(folder).as_posix() for file in files]
        gated = "auto" if name in self.gated else False
        answer: Any = {
            "gated": gated,
            "id": name,
            "sha": _commit(folder),
            "siblings": [
                {"rfilename": n, "size": f.stat().st_size} for n, f in zip(names, files, strict=True)
            ],
        }
        if "/tree/" in path:
            answer = [
                {"type": "file", "path": n, "size": f.stat().st_size, "oid": _etag(f)}
                for n, f in zip(names, files, strict=True)
            ]
        content = json.dumps(answer).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(content))})
        self.wfile.write(content)

    def _send_file(self, file: Path, folder: Path, body: bool) -> None:
        content = file.read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {
            "ETag": f'"{_etag(file)}"',
            "X-Repo-Commit": _commit(folder),
            "Accept-Ranges": "bytes",
            "Content-Length": str(len(content) - start),
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(206 if start else 200, headers)
        if not body:
            return
        content = content[start:]
        self.wfile.write(content[: 11 << 20])
        if self.stall is not None and len(content) > 11 << 20:
            self.stall.wait(DEAD)
        else:
            self.wfile.write(content[11 << 20 :])

    def _refuse(self, status: int, code: str) -> None:
        self._head(status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


def _commit(folder: Path) -> str:
    """A change of any file is another commit."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return hashlib.sha1("".join(f"{file} {_etag(file)}" for file in files).encode()).hexdigest()


@contextmanager
def serving(repositories: dict[str, Path], **about: Any) -> Iterator[tuple[str, type[Hub]]]:
    """A hub in a thread of this process: its address, and the class that answers."""
    handler = type("ThisHub", (Hub,), {"repositories": repositories, "stall": None, "log": [], **about})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def fetch(endpoint: str, home: Path, *requests: str, token: str = "") -> list[str]:
    """What `pull` gives for each "NAME PRECISION"."""
    process = start_fetch(endpoint, home, *requests, token=token)
    output, errors = process.communicate(timeout=DEAD)
    assert process.returncode == 0, errors
    return output.splitlines()


def start_fetch(endpoint: str, home: Path, *requests: str, token: str = "") -> subprocess.Popen[str]:
    """`pull` in a process of its own: the client reads its settings when it is imported."""
    code = (
        "import sys\n"
        "from openkontext.errors import OpenKontextError\n"
        "from openkontext.hub import pull\n"
        "for request in sys.argv[1:]:\n"
        "    try: print(pull(*request.split()).path)\n"
        "    except OpenKontextError as error: print(type(error).__name__, error)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *requests],
        env=client_environment(endpoint, home, token),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def client_environment(endpoint: str, home: Path, token: str = "") -> dict[str, str]:
    """The environment of a process that fetches from this hub alone."""
    return os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DOWNLOAD_TIMEOUT": "300",
        "HF_HUB_ETAG_TIMEOUT": "300",
        "HF_HOME": str(home / "hf"),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "OPENKONTEXT_HOME": str(home),
    }

"""A moderation service on this machine that answers as Hive documents, or fails as it may."""

import email
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from openkontext.safety.remote.hive import CLASSES


def hive_answer(code: int = 0, **scores: float) -> dict[str, Any]:
    """An answer in the form of Hive's documentation, with nothing found but what is given."""
    classes = (
        {name: 0.01 for names in CLASSES.values() for name in names} | {"yes_child_present": 0.02} | scores
    )
    return {
        "id": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
        "code": 200,
        "project_id": 12345,
        "user_id": 1234,
        "created_on": "2020-05-25T19:55:02.312Z",
        "status": [
            {
                "status": {"code": code, "message": "SUCCESS" if code == 0 else "FAILED"},
                "response": {
                    "input": {"id": "x", "charge": 0.003, "model": "mod55_dense", "model_version": 1},
                    "output": [
                        {"time": 0, "classes": [{"class": k, "score": v} for k, v in classes.items()]}
                    ],
                },
            }
        ],
        "from_cache": False,
    }


class Server:
    """A service whose answers are given one after the other, the last again and again, while `answering`."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any, dict[str, str]]] = []
        self.answering = threading.Event()
        self.answering.set()
        self.requests: list[tuple[dict[str, str], dict[str, bytes]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
                parts = email.message_from_bytes(head + body).get_payload()
                fields = {
                    str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)
                    for part in parts
                }
                outer.requests.append((dict(self.headers), fields))
                outer.answering.wait()
                status, answer, headers = outer.answers[0]
                if len(outer.answers) > 1:
                    outer.answers.pop(0)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except BrokenPipeError:
                    pass  # the client waited no longer

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/api/v2/task/sync"

    def answer(self, *answers: Any) -> None:
        """Answers as (status, body) or (status, body, headers)."""
        self.answers = [(each[0], each[1], each[2] if len(each) > 2 else {}) for each in answers]


@contextmanager
def serving() -> Iterator[Server]:
    """A running server."""
    running = Server()
    thread = threading.Thread(target=running.http.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.answering.set()
    running.http.shutdown()
    thread.join()
    running.http.server_close()

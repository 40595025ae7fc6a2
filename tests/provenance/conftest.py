import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certificates import KEYS, certify, pem
from cryptography.x509.oid import ExtendedKeyUsageOID
from forked import forking_from
from numpy.typing import NDArray

from openkontext import images
from openkontext.provenance import Ingredient, Record, record_trial, report, sign, signing


@pytest.fixture(scope="module", autouse=True)
def _quick_trials() -> Iterator[None]:
    """Records are tried in processes that have the library already; to load it takes ten times as long.

    The test of a record that ends the library starts the program itself.
    """
    modules = (record_trial.__name__, report.__name__)
    with forking_from(*modules) as processes, pytest.MonkeyPatch.context() as patch:

        def can_be_read(data: bytes, media_type: str, settings: dict[str, Any]) -> bool:
            if b"jumb" not in data and media_type not in ("", "image/gif"):
                return True
            process = processes.Process(target=record_trial._read, args=(settings, media_type, data))
            process.start()
            process.join(record_trial.SECONDS)
            return process.exitcode == 0

        for module in (report, signing):
            patch.setattr(module, "can_be_read", can_be_read)
        yield


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    """A picture of 40x24 without two equal regions."""
    return np.random.default_rng(5).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def record(*parents: bytes, **said: str) -> Record:
    ingredients = tuple(Ingredient.of(images.load(parent)) for parent in parents)
    return Record(model="nano", digest="ab" * 32, ingredients=ingredients, **said)


@pytest.fixture
def signed(pixels: NDArray[np.uint8]) -> dict[str, bytes]:
    """The picture in each format, signed twice: made, and edited."""
    made = {
        kind: sign(images.encode(pixels, kind), kind, record()) for kind in ("PNG", "JPEG", "WEBP", "TIFF")
    }
    return {kind: sign(images.encode(pixels, kind), kind, record(data)) for kind, data in made.items()}


@pytest.fixture
def time_stamp_authority(tmp_path: Path) -> Iterator[tuple[str, bytes]]:
    """A time-stamp authority (RFC 3161) of openssl's behind HTTP: its address, and its root certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, which answers as a time-stamp authority")
    key = KEYS["ES256"]()
    leaf, root = certify(key, ExtendedKeyUsageOID.TIME_STAMPING)
    for name, content in (("tsa.pem", leaf), ("root.pem", root), ("tsa.key", pem(key)), ("serial", b"01")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "tsa.cnf").write_text(
        "[tsa]\ndefault_tsa = here\n[here]\nserial = serial\nsigner_cert = tsa.pem\ncerts = root.pem\n"
        "signer_key = tsa.key\nsigner_digest = sha256\ndefault_policy = 1.2.3.4\n"
        "digests = sha256, sha384, sha512\naccuracy = secs:1\ness_cert_id_alg = sha256\n"
    )

    class Authority(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers["Content-Length"]))
            (tmp_path / "query").write_bytes(query)
            command = ["openssl", "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query"]
            reply = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Authority)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    server.server_close()

"""The whole OpenAPI document against the running service, by schemathesis: no 5xx, no undocumented answer."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import DEAD
from running import Service

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,missing_required_header,unsupported_method,allow_header_conformance,ignored_auth"
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, copier: Path) -> Iterator[Service]:
    made = Service(
        tmp_path_factory.mktemp("service"),
        copier,
        queue_size=100_000,
        concurrency=100_000,
        fetch_seconds=0.2,
        deadline_seconds=20,
    )
    made.run("accounts", "add", "ann", "--role", "admin")
    made.key = made.run("keys", "create", "ann")["key"]
    made.start()
    with made.client(made.key) as client:
        assert client.post("/v1/consent", json={"version": "1"}).status_code == 200
    yield made
    made.stop()


def fuzz(service: Service, *options: str) -> str:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"]
    command += ["-H", f"x-key: {service.key}", "--checks", CHECKS, "--suppress-health-check", "all"]
    command += ["--seed", "1", "--generation-database", "none", "--no-color", *options]
    command += ["--request-timeout", str(DEAD)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=service.data)  # it keeps a cache there
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_answer_is_a_documented_one(service: Service) -> None:
    fuzz(service, "--phases", "examples,fuzzing", "--max-examples", "3")


@pytest.mark.slow
def test_every_answer_is_a_documented_one_in_all_phases(service: Service) -> None:
    print(fuzz(service, "--max-examples", "200"))

"""What tests of a running service share; each module says which service that is."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient
from running import Service

from openkontext.service.http.app import create_app
from openkontext.service.settings import Settings
from openkontext.service.storage.database import Database


@pytest.fixture
def client(service: Service) -> Iterator[httpx2.Client]:
    with service.client(service.key) as made:
        yield made


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, copier: Path) -> Iterator[TestClient]:
    """A client of a service without workers, for what is refused before there is a job."""
    settings = Settings(data=tmp_path_factory.mktemp("strict"), secret="s" * 32, model=str(copier))
    Database(settings.database).migrate()
    with TestClient(create_app(settings), base_url="http://localhost") as made:
        yield made

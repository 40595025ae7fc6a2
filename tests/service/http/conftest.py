"""What tests of a running service share; each module says which service that is."""

from collections.abc import Iterator

import httpx2
import pytest
from running import Service


@pytest.fixture
def client(service: Service) -> Iterator[httpx2.Client]:
    with service.client(service.key) as made:
        yield made

"""A model that is ready to be released, for every test of a release."""

from pathlib import Path

import pytest
from releasable import make_ready


@pytest.fixture
def ready(tmp_path: Path, copier: Path) -> tuple[Path, Path]:
    """Its repository and its dossier."""
    return make_ready(tmp_path, copier)

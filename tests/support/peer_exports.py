"""Exports of other tools, where a folder of them is there; tests that want them are skipped without."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

PEER_EXPORTS = Path(
    os.environ.get("OPENKONTEXT_PEER_EXPORTS")
    or Path(__file__).resolve().parents[3] / "shared" / "peer-exports"
)
needs_peers = pytest.mark.skipif(
    not all((PEER_EXPORTS / name).is_dir() for name in ("bf16", "fp4")),
    reason="peer exports not found: set OPENKONTEXT_PEER_EXPORTS to their folder",
)


def relative_error(result: NDArray[Any], expected: NDArray[Any]) -> float:
    result, expected = result.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))

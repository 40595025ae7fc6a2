"""Settings that every test shares; they must be made before torch is imported."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist already fills the cores
# A busy machine starts Ray slowly.
os.environ |= {"RAY_gcs_server_port_wait_time_s": "300", "RAY_worker_register_timeout_seconds": "600"}
os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches for the network
_home = tempfile.TemporaryDirectory(prefix="openkontext-tests-")
os.environ["OPENKONTEXT_HOME"] = _home.name  # nor leaves anything in the user's cache

# The same examples in every run, and no time limit: the machine may be busy.
hypothesis.settings.register_profile("house", derandomize=True, deadline=None)
hypothesis.settings.load_profile("house")


# pytest-xdist has these two hooks; whoever runs without it needs neither.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: many a test waits for a process, a clock or a browser."""
    return len(os.sched_getaffinity(0)) + 1 if sys.platform == "linux" else os.cpu_count() or 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each worker goes through its own part of the tests in order, and takes from others once it is through.

    So what a file sets up is set up by one worker alone; the default deals every file out to all.
    """
    if config.getvalue("dist") != "load":
        return None  # another was asked for
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=300, help="of the slow crash test, on each database")


@pytest.fixture(scope="session", autouse=True)
def _data_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keys that tests make, and whatever else lasts, lie in a folder of the run."""
    from openkontext.repository import RepositoryConfig
    from openkontext.terms import Terms

    os.environ["OPENKONTEXT_DATA"] = str(data := tmp_path_factory.mktemp("data"))
    # Many models of tests name no license, so that FLUX.1's holds.
    Terms.of_folder(data, "models of tests", RepositoryConfig().license).accept()


@pytest.fixture(scope="session")
def copier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the repository that `tests/support/copier.py` describes; not to be changed."""
    from copier import make_repository

    return make_repository(tmp_path_factory.mktemp("models") / "copier")


@pytest.fixture(scope="session")
def slow_copier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with steps that take milliseconds: 1000 of them take longer than a page takes to load."""
    from copier import make_repository

    return make_repository(tmp_path_factory.mktemp("models") / "slow-copier", work=65536)

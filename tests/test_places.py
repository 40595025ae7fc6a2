"""Other systems than the one that tests run on: Windows as far as it can be imitated, and odd accounts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from openkontext.errors import InputError
from openkontext.places import cache_folder, data_folder, list_folders

EXAMPLE = Path(__file__).parents[1] / "examples" / "scene.png"

# What Python has on POSIX alone, by its documentation's "Availability: Unix".
AS_ON_WINDOWS = """
import os, signal, sys

MODULES = {"pwd", "grp", "spwd", "fcntl", "resource", "termios", "tty", "pty", "syslog", "nis"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in MODULES:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
for name in (
    "getuid", "geteuid", "getgid", "getegid", "getgroups", "getpgid", "getloadavg", "setuid", "setsid",
    "fork", "forkpty", "killpg", "chown", "lchown", "fchown", "fchmod", "mkfifo", "openpty", "sysconf",
    "pread", "pwrite", "posix_fadvise", "posix_fallocate", "sched_getaffinity", "register_at_fork",
    "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC",
):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGCHLD", "alarm", "setitimer", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
"""


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OPENKONTEXT_HOME"}
    variables = {name: value for name, value in os.environ.items() if name in kept} | environment
    variables["PYTHONPATH"] = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True, timeout=300
    )


def test_an_edit_is_made_signed_and_verified_without_what_posix_alone_has(tmp_path: Path) -> None:
    code = (
        AS_ON_WINDOWS
        + f"""
from openkontext.cli import main
arguments = [{str(EXAMPLE)!r}, "make it night", "--steps", "2", "--low-memory", "--json"]
assert main(["edit", *arguments, "-o", "a.png"]) == 0
assert main(["verify", "a.png"]) == 0
assert main(["doctor"]) == 0
import openkontext.evaluation.fidelity
import openkontext.cli.known, openkontext.cli.review, openkontext.cli.chat
assert not MODULES & sys.modules.keys()
"""
    )
    done = run(code, tmp_path, HOME=str(tmp_path), OPENKONTEXT_DATA=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (128, 128)


def test_the_service_says_that_it_needs_another_system(tmp_path: Path) -> None:
    code = (
        AS_ON_WINDOWS
        + """
from openkontext.cli import main
sys.exit(main(["serve", "--port", "0"]))
"""
    )
    done = run(code, tmp_path, HOME=str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert "Linux or macOS" in done.stderr


@pytest.fixture
def unknown_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers run as numbers of which the system knows no account."""
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 77)
    for name in ("OPENKONTEXT_DATA", "OPENKONTEXT_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


def test_an_account_that_the_system_does_not_know_has_its_folders_by_home(
    unknown_account: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / ".local" / "share" / "openkontext"
    assert data_folder() == own
    assert list_folders() == (own / "lists", Path("/etc/openkontext/lists"))
    assert cache_folder() == tmp_path / ".cache" / "openkontext"


def test_an_account_without_any_home_is_told_what_to_set(
    unknown_account: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    for folder, name in ((data_folder, "XDG_DATA_HOME"), (cache_folder, "XDG_CACHE_HOME")):
        with pytest.raises(InputError, match=f"no home folder; set HOME or {name}"):
            folder()
        monkeypatch.setenv(name, str(tmp_path))
        assert folder() == tmp_path / "openkontext"

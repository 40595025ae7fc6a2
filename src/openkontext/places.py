"""Where things lie, on every system: POSIX has a database of accounts, Windows has known folders.

platformdirs is not used: a list of known material must stay in force whatever the environment says, and so
`list_folders` asks the system itself.
"""

import os
import sys
from pathlib import Path

from openkontext.errors import InputError

try:
    import pwd
except ImportError:  # not on Windows
    pwd = None  # type: ignore[assignment]


def cache_folder() -> Path:
    """Folder for what we fetch and remember: $OPENKONTEXT_HOME, or openkontext in the user's cache folder.

    Raises:
        InputError: this account has no home, and nothing names another folder.
    """
    return _chosen("OPENKONTEXT_HOME") or user_folder("XDG_CACHE_HOME", ".cache")


def data_folder() -> Path:
    """Folder for what must last: $OPENKONTEXT_DATA, or openkontext in the user's folder for data.

    Raises:
        InputError: this account has no home, and nothing names another folder.
    """
    return _chosen("OPENKONTEXT_DATA") or user_folder("XDG_DATA_HOME", ".local", "share")


def list_folders() -> tuple[Path, ...]:
    """Folders whose lists of known material are in force, all of them.

    Besides `data_folder()` they are the account's own and the machine's, which no variable of the environment
    moves: a setting may add lists, and none may take an installed one out of force.
    """
    home = account_home()
    own = () if home is None else (home / ".local" / "share" / "openkontext",)
    return tuple(dict.fromkeys(folder / "lists" for folder in (data_folder(), *own, machine_folder())))


def _chosen(variable: str) -> Path | None:
    return Path(chosen) if (chosen := os.environ.get(variable)) else None


def user_folder(variable: str, *fallback: str) -> Path:
    """Folder `openkontext` in one of the user's base folders.

    Args:
        variable: of the environment that names the base folder, such as XDG_CACHE_HOME.
        fallback: parts of the base folder in the user's home, where the variable is not set.

    Raises:
        InputError: neither the variable nor a home is there.
    """
    if base := os.environ.get(variable):
        return Path(base) / "openkontext"
    try:
        return Path.home().joinpath(*fallback, "openkontext")
    except RuntimeError:  # an account that this machine does not know, as containers have them, and no $HOME
        raise InputError(
            f"this account has no home folder; set HOME or {variable} to a folder of yours"
        ) from None


def account_home() -> Path | None:
    """The home that the system itself knows of this account, whatever the environment says; None for none."""
    if sys.platform == "win32":
        return _known_folder(_PROFILE)
    if pwd is None:
        return None
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # containers run as numbers that no account has
        return None


def machine_folder() -> Path:
    """Where whoever looks after this machine puts what holds for all of its accounts."""
    if sys.platform == "win32":
        return (_known_folder(_COMMON_APPDATA) or Path("C:/ProgramData")) / "openkontext"
    return Path("/etc/openkontext")


_COMMON_APPDATA, _PROFILE = 0x23, 0x28  # CSIDL_COMMON_APPDATA and CSIDL_PROFILE of shlobj_core.h


def _known_folder(number: int) -> Path | None:
    """A folder that Windows itself knows (SHGetFolderPathW)."""
    if sys.platform != "win32":
        return None
    import ctypes

    buffer = ctypes.create_unicode_buffer(260)
    failed = ctypes.windll.shell32.SHGetFolderPathW(None, number, None, 0, buffer)
    return None if failed else Path(buffer.value)

"""Where the filters keep what must last: lists of known material, the review queue, the quarantine."""

import os
from pathlib import Path

from openkontext.places import account_home, machine_folder, user_folder


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read: beside first, then in its place, whole or not at all.

    Args:
        path: of the file.
        data: what it shall hold.
    """
    beside = path.with_name(path.name + ".part")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def data_folder() -> Path:
    """Folder of the queue, the quarantine and our own lists.

    It is $OPENKONTEXT_DATA where that is set, else openkontext in the user's folder for data.
    """
    if chosen := os.environ.get("OPENKONTEXT_DATA"):
        return Path(chosen)
    return user_folder("XDG_DATA_HOME", ".local", "share")


def list_folders() -> tuple[Path, ...]:
    """Folders whose lists of known material are in force, all of them.

    Besides `data_folder()` they are the account's own and the machine's, which no variable of the environment
    moves: a setting may add lists, and none may take an installed one out of force.
    """
    home = account_home()
    own = () if home is None else (home / ".local" / "share" / "openkontext",)
    return tuple(dict.fromkeys(folder / "lists" for folder in (data_folder(), *own, machine_folder())))

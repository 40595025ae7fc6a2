"""Digests of files; those of large files are remembered, since reading them takes long."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from openkontext.activity import stage
from openkontext.files import write_whole
from openkontext.places import cache_folder

_REMEMBERED_BYTES = 64 << 20
"""Hashes of files from this size on are remembered; smaller ones take no time."""


def sha256(path: Path) -> str:
    """SHA-256 of a file; a large file's is remembered until its size or time of change differs."""
    status = path.stat()
    if status.st_size < _REMEMBERED_BYTES:
        return _hash(path)
    memory = cache_folder() / "digests.json"
    try:
        known = dict(json.loads(memory.read_bytes()))
    except (OSError, ValueError, TypeError):  # none yet, or damaged
        known = {}
    state, sha = known.get(str(path.absolute())) or ("", "")
    if state != (now := f"{status.st_size} {status.st_mtime_ns}"):
        stage("reading %s, %.1f GB, for its digest", path.name, status.st_size / 1e9)
        sha = _hash(path)
        known = {file: entry for file, entry in known.items() if Path(file).exists()}
        known[str(path.absolute())] = (now, sha)
        with suppress(OSError):  # a home that cannot be written to costs only time
            write_whole(memory, json.dumps(known).encode())
    return sha


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

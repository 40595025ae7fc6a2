"""The hashes of evaluation sets: tables and shards of pairs, and folders of pictures."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from openkontext.curation.opened import contents, open_pictures
from openkontext.errors import InputError
from openkontext.files import write_whole
from openkontext.many import SUFFIXES
from openkontext.safety.known.pdq import BYTES
from openkontext.train.records import FORMATS, PairRecord, read_records, sources


def hash_sets(sets: Sequence[str], file: Path) -> None:
    """Hash all pictures of some sets, and write the hashes down.

    Args:
        sets: as the rules name them.
        file: to write, for `stages.Leakage`.

    Raises:
        InputError: a set cannot be read, or holds no picture.
    """
    exact, alike = set[bytes](), set[bytes]()
    for name in sets:
        count = len(exact)
        for files in _pictures(Path(name)):
            for opened in open_pictures(files)[0]:
                exact.add(opened.sha256)
                if opened.comparable:
                    alike.add(opened.comparable)
        if len(exact) == count:
            raise InputError(f"leakage.sets: {name} holds no picture that can be read")
    content = io.BytesIO()
    np.savez(content, sha256=_array(exact), pdq=_array(alike))
    write_whole(file, content.getvalue())


def state(name: str) -> list[object]:
    """What changes where a set does: names, sizes and times of its files.

    Args:
        name: of a set, as the rules name it.

    Raises:
        InputError: there is no such set.
    """
    path = Path(name)
    if not path.exists():
        raise InputError(f"leakage.sets: {name}: no such file or folder")
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = ((str(each), each.stat()) for each in files if each.is_file())
    return [[file, stat.st_size, stat.st_mtime_ns] for file, stat in found]


def _pictures(path: Path) -> Iterator[dict[str, bytes | None]]:
    tables = path.is_dir() and any(each.suffix in FORMATS for each in path.iterdir())
    if path.is_dir() and not tables:
        for each in sorted(path.rglob("*")):
            if each.suffix.lower() in SUFFIXES and each.is_file():
                yield {"picture": each.read_bytes()}
        return
    for record in read_records(sources(path)):
        if isinstance(record, PairRecord):
            yield contents(record)


def _array(hashes: set[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(sorted(hashes)), np.uint8).reshape(-1, BYTES)

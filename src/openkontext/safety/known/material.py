"""Known material: all installed lists, and whether a picture is on one."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openkontext.errors import InputError
from openkontext.safety.known.index import HashIndex, ListHit
from openkontext.safety.known.pdq import PdqHash, pdq
from openkontext.safety.known.updates import CURRENT, KEY, current_serial, publishers, read_update

_log = logging.getLogger(__name__)

_BORDER_SIDE = 512
"""Pixels of the longer side at which a border is looked for; at most twice as many."""
_BORDER_SPREAD = 0.2
"""Of the standard deviation along the picture's lines, what recompression may leave along a border's."""


@dataclass(frozen=True)
class Match:
    """A picture that is on a list."""

    publisher: str
    """Whose list it is."""
    serial: int
    """Of the update that was in force."""
    material: str
    """What the list is of: "csam" or "ncii"."""
    hit: ListHit
    """Which entry."""


@dataclass(frozen=True, eq=False)
class Lists:
    """The lists of one publisher that are in force."""

    publisher: str
    serial: int
    material: str
    index: HashIndex
    discarded: int
    """PDQ hashes that were left out for their low quality."""


class KnownMaterial:
    """All lists in some folders. An update is read while checks go on with the lists before it."""

    def __init__(self, roots: Sequence[Path]) -> None:
        """Read nothing yet.

        Args:
            roots: folders that hold lists; each adds to the others, none takes away, and each may be missing.
        """
        self._roots = tuple(roots)
        self._lock = threading.Lock()
        self._loaded: tuple[Lists, ...] = ()
        self._state: object = None
        self._loading: threading.Thread | None = None
        self._failure: InputError | None = None

    def lists(self) -> tuple[Lists, ...]:
        """The lists in force.

        The first call reads them. Later, when an update was installed, another thread reads it and this goes
        on with the old lists until the new are whole.

        Raises:
            InputError: an installed list is missing or damaged: nothing can be said to be unknown then.
        """
        state = self._state_on_disk()
        with self._lock:
            if self._failure is not None and state == self._state:
                raise self._failure
            if self._state is None or self._failure is not None:
                self._load(state)
                if self._failure is not None:
                    raise self._failure
            elif state != self._state and self._loading is None:
                self._loading = threading.Thread(target=self._reload, args=(state,), daemon=True)
                self._loading.start()
            return self._loaded

    def match(self, pixels: NDArray[np.uint8], data: bytes | None = None) -> Match | None:
        """Whether a picture is on a list: its file byte for byte, or the picture as PDQ sees it.

        Also looked up are its rotations by 90 degrees and mirror images, and the picture without a border of
        one color where it has one.

        Args:
            pixels: uint8 [H, W, 3], sRGB, upright.
            data: the file that was handed in; None where there was none.

        Raises:
            InputError: see `lists`.
        """
        hashes: list[PdqHash] = []
        for lists in self.lists():
            hit = lists.index.match_bytes(data) if data else None
            if hit is None and lists.index.counts["pdq"]:
                hashes = hashes or [pdq(view) for view in _views(pixels)]
                hit = next(filter(None, map(lists.index.match_pdq, hashes)), None)
            if hit is not None:
                return Match(lists.publisher, lists.serial, lists.material, hit)
        return None

    def wait(self) -> None:
        """Wait until an update that is being read is in force."""
        with self._lock:  # another thread may be about to start it
            thread = self._loading
        if thread is not None:
            thread.join()

    def _state_on_disk(self) -> object:
        """What changes when an update is installed, a publisher trusted, or either removed."""
        state: list[object] = []
        for root in self._roots:
            for folder in publishers(root):
                for name in (CURRENT, KEY):
                    try:
                        found = (folder / name).stat()
                        state.append((str(folder), name, found.st_mtime_ns, found.st_ino, found.st_size))
                    except FileNotFoundError:
                        state.append((str(folder), name))
        return tuple(state)

    def _load(self, state: object) -> None:
        """Read all lists; what was loaded stays as it is when one cannot be read."""
        try:
            loaded = tuple(
                found
                for root in self._roots
                for folder in publishers(root)
                if (found := _read_lists(folder)) is not None
            )
        except InputError as error:
            self._failure = error
        else:
            self._loaded, self._failure = loaded, None
            for lists in loaded:
                counts = ", ".join(f"{count} {kind}" for kind, count in lists.index.counts.items() if count)
                _log.info("lists of %s in force: update %d, %s", lists.publisher, lists.serial, counts)
        self._state = state

    def _reload(self, state: object) -> None:
        fresh = KnownMaterial(self._roots)
        fresh._load(state)  # without our lock: checks go on
        with self._lock:
            self._failure, self._state = fresh._failure, state
            if fresh._failure is None:
                self._loaded = fresh._loaded
            self._loading = None


def _read_lists(folder: Path) -> Lists | None:
    serial = current_serial(folder)
    if serial is None:
        return None
    manifest, lists = read_update(folder / str(serial), folder / KEY)
    if (manifest.publisher, manifest.serial) != (folder.name, serial):
        raise InputError(f"{folder / str(serial)}: holds another update; install the newest again")
    discarded = sum(each.discarded for each in lists)
    return Lists(folder.name, serial, manifest.material, HashIndex(lists), discarded)


def _views(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The picture, and what is inside a border of one color where it has one."""
    factor = max(pixels.shape[:2]) // _BORDER_SIDE
    shrunk = np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels
    inside = _inside_border(shrunk)
    return [pixels] if inside is None else [pixels, inside]


def _inside_border(pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The part [h, w, 3] inside of the border; None without one, or where there is little else."""
    luma = pixels.mean(axis=2)
    edges = []
    for axis in (1, 0):
        spread = luma.std(axis=axis)
        busy = np.flatnonzero(spread > max(1.0, _BORDER_SPREAD * float(np.quantile(spread, 0.9))))
        if not len(busy):
            return None
        edges.append(slice(int(busy[0]), int(busy[-1]) + 1))
    inside = pixels[edges[0], edges[1]]
    height, width = inside.shape[:2]
    if inside.shape == pixels.shape or 16 * height * width < pixels.shape[0] * pixels.shape[1]:
        return None
    return inside
